//! What comes from outside the broker and has a memory of its own: relayed exactly once.
//!
//! ```text
//!  source ─▶ messages, records, note ─▶ one joint commit: queues, topics, and the note in the relay's log
//!     └────────── goes on behind the last note ◀── the note is read back after a start or a failure
//! ```
//! **Invariants.** Messages and the note of how far the source is relayed are durable together or not at all. A relay that was
//! followed by another writes nothing any more: the log is fenced. After an error nothing is relayed until the log was
//! claimed and its last note read again, so that an outcome nobody knows is learnt from what is there.
//!
//! Deliberately absent: the source and what a note means (`ferrymq-outbox`); several relays.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_runtime::TaskKind;
use ferrymq_storage::{Action, Append, Batch, ErrorKind, Op, Space, StorageError};
use ferrymq_types::limits::QUEUE_MESSAGE_BYTES_MAX;
use ferrymq_types::{CommitId, Durability, LogId, Offset};

use super::error::QueueError;
use super::handle::Queues;
use super::joint::Parts;
use super::shard::message::Released;
use super::streams::{StreamRecord, without_streams};
use super::types::Publish;
use crate::to_its_end::to_its_end;
use crate::topics::Topic;

/// The log of notes. Those before it are of groups and of the state of queues.
const RELAY_LOG: LogId = LogId(48);
/// Notes after which the older ones are trimmed.
const NOTES_KEPT: u64 = 1_000;
/// Bytes of notes that are read back: the last one is among them.
const NOTE_BYTES_MAX: usize = 1 << 20;

/// The relay's log, as whoever claimed it last has it.
#[derive(Debug)]
pub struct RelayLog {
    log: Released,
    writer: u64,
}

/// What is relayed.
#[derive(Debug, Clone)]
pub enum Relayed {
    /// A message that was routed.
    Message(Publish),
    /// A record of a topic.
    Record(Arc<Topic>, StreamRecord),
}

impl Queues {
    /// Takes the relay's log and reads its last note; there is none if nothing was ever relayed.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub async fn claim_relay(&self) -> Result<(RelayLog, Option<Bytes>), StorageError> {
        let log = self.claim_one(RELAY_LOG).await?;
        let next = Offset(log.next);
        let relay = RelayLog { log, writer: self.rng.next_u64() };
        if next == Offset::ZERO {
            return Ok((relay, None));
        }
        // One note is one batch of one offset.
        let read = self.stores.logs.read(RELAY_LOG, Offset(next.0 - 1), next, NOTE_BYTES_MAX).await?;
        let note = read.runs.into_iter().next_back().map(|run| run.bytes);
        let lost = || StorageError::new(ErrorKind::Internal, "the relay's last note cannot be read");
        note.map(|note| (relay, Some(note))).ok_or_else(lost)
    }

    /// Publishes all of it, in order, and notes so, or nothing. What is for a topic or queue that has gone since it was routed goes
    /// nowhere. Goes on when the call is dropped; `log` must then be claimed again.
    ///
    /// # Errors
    /// [`QueueError`]: nothing of it happened, unless the error leaves that open; `log` is to be claimed again.
    /// [`QueueError::Limit`] and [`QueueError::Full`] are some message's fault.
    pub async fn relay(
        self: &Arc<Queues>,
        log: &mut RelayLog,
        relayed: Vec<Relayed>,
        note: Bytes,
    ) -> Result<(), QueueError> {
        let limit = QUEUE_MESSAGE_BYTES_MAX;
        let is_large = |relayed: &Relayed| matches!(relayed, Relayed::Message(publish) if publish.message.bytes() > limit);
        if relayed.iter().any(is_large) {
            return Err(QueueError::Limit { what: "the size of a message", limit: limit as u64 });
        }
        let mut parts = self.with_streams(relayed);
        parts.notes.push(self.note(log, note));
        let queues = self.clone();
        to_its_end(&self.tasks, async move { queues.commit_queues(&parts).await }).await?;
        log.log.next += 1;
        if log.log.next.is_multiple_of(NOTES_KEPT) {
            self.trim_notes(log);
        }
        Ok(())
    }

    /// Messages for streams are records of their topics.
    fn with_streams(&self, relayed: Vec<Relayed>) -> Parts {
        let mut parts = Parts::default();
        for relayed in relayed {
            let publish = match relayed {
                Relayed::Message(publish) => publish,
                Relayed::Record(topic, record) => {
                    parts.records.push((topic, record));
                    continue;
                }
            };
            if let Some(streams) = &self.streams {
                let mut topics: Vec<Arc<Topic>> = Vec::new();
                for topic in publish.to.queues().iter().filter_map(|queue| streams.topic(queue)) {
                    // Several queues over a topic, and its stream, are one place.
                    if !topics.iter().any(|known| known.id == topic.id) {
                        topics.push(topic);
                    }
                }
                parts.records.extend(topics.into_iter().map(|topic| {
                    let config = topic.config.get();
                    let record = streams.topics.translate.record(&publish.message, &config.record_key);
                    (topic, record)
                }));
            }
            parts.publishes.extend(without_streams(&publish));
        }
        parts
    }

    fn note(&self, log: &RelayLog, note: Bytes) -> Op {
        let RelayLog { log: Released { log, epoch, next }, writer } = *log;
        let next = Offset(next);
        let append = Append {
            expect_next: next,
            commit_id: CommitId { writer, sequence: next.0 },
            class: Durability::Sync,
            // It comes with what needs space, and goes when that is refused.
            space: Space::Normal,
            batches: vec![Batch::new(next, 1, self.clock.wall_ms(), note)],
        };
        Op { log, epoch, owner: self.owner, action: Action::Append(append) }
    }

    fn trim_notes(&self, log: &RelayLog) {
        let Released { log, epoch, next } = log.log;
        let op = Op { log, epoch, owner: self.owner, action: Action::Trim(Offset(next - 1)) };
        let trimmed = self.stores.logs.commit(vec![vec![op]]);
        self.tasks.spawn(TaskKind::Background, "trimming of a relay's notes", async move {
            if let Some(Err(error)) = trimmed.await.pop() {
                tracing::debug!(%error, "a relay's old notes stay for now");
            }
        });
    }
}
