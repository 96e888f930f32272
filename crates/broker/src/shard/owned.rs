//! One partition as its owner has it: offsets given out, producers, and what to take back if a write fails.
//!
//! **Invariants.** What an append takes is noted before it is sent. A failure gives everything back in reverse
//! order, once nothing of the partition is in flight; until then nothing new is taken. If an outcome is unknown,
//! nothing is given back: what happened is learnt from the log once it is claimed again.

use std::collections::VecDeque;
use std::sync::Arc;

use ferrymq_storage::{Action, Append, Batch, Claim, ErrorKind, Op, Outcome, Pending, Space};
use ferrymq_types::{BatchHeader, CommitId, Offset, TimestampType, batch};
use tokio::sync::oneshot;

use super::{AppendError, AppendItem, Appended, Done, Sent, ShardContext, load};
use crate::partition::Partition;
use crate::producers::{Check, Producers, Undo};

/// Batches of idempotent producers between two snapshots of a partition's producers.
const SNAPSHOT_EVERY: u32 = 2_000;

/// One partition as its owner has it.
pub(super) struct Owned {
    pub(super) partition: Arc<Partition>,
    pub(super) next: Offset,
    sequence: u64,
    in_flight: u32,
    standing: Standing,
    pub(super) producers: ProducerState,
    undo: VecDeque<Taken>,
    batches_since_snapshot: u32,
    /// A picture of the producers that becomes true once the append with this sequence is durable.
    snapshot: Option<(u64, Offset, Producers)>,
}

/// Whether appends are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// They are.
    Sound,
    /// One failed: not until the others in flight have an outcome.
    Failing,
    /// It is not known whether one happened: not until the log is claimed again.
    Lost,
}

/// Whether the partition's producers are known yet. They are read from the log when first needed.
pub(super) enum ProducerState {
    Unknown,
    Loading(Parked),
    Known(Producers),
}

/// What waits for the producers to be read, in the order it came.
#[derive(Default)]
pub(super) struct Parked {
    pub(super) appends: Vec<(u64, usize, AppendItem)>,
    pub(super) readers: Vec<oneshot::Sender<Result<Producers, AppendError>>>,
}

impl ProducerState {
    /// What is known of a log that ends at `next` without reading it.
    fn at(next: Offset) -> ProducerState {
        // A log that was trimmed empty has had producers; only one never written has had none.
        match next {
            Offset::ZERO => ProducerState::Known(Producers::default()),
            _ => ProducerState::Unknown,
        }
    }
}

/// What one append in flight took, to be given back if it fails.
struct Taken {
    sequence: u64,
    next_before: Offset,
    producer: Option<Undo>,
}

impl Owned {
    /// A partition that was just attached and stands at `next`.
    pub(super) fn new(partition: Arc<Partition>, next: Offset) -> Owned {
        Owned {
            partition,
            next,
            sequence: 0,
            in_flight: 0,
            standing: Standing::Sound,
            producers: ProducerState::at(next),
            undo: VecDeque::new(),
            batches_since_snapshot: 0,
            snapshot: None,
        }
    }

    /// Begins to read the producers; `parked` waits for them.
    pub(super) fn load_producers(&mut self, context: &ShardContext, parked: Parked) -> Pending<Done> {
        self.producers = ProducerState::Loading(parked);
        load::producers(context.clone(), self.partition.clone(), self.next)
    }

    /// Gives out offsets and prepares the append; `Err` holds an answer that needs no write.
    pub(super) fn prepare(
        &mut self,
        context: &ShardContext,
        item: AppendItem,
        now_ms: i64,
    ) -> Result<(Op, Sent), Result<Appended, AppendError>> {
        let AppendItem { partition, mut bytes, header } = item;
        if self.standing != Standing::Sound {
            return Err(Err(AppendError::Retry));
        }
        self.check_producer(&header)?;
        let config = partition.config.get();
        let base = self.next;
        let append_time_ms = (config.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms);
        match append_time_ms {
            Some(now_ms) => batch::set_append_time(&mut bytes, now_ms),
            // The header says what the check made of it.
            None => batch::set_create_time(&mut bytes, header.max_timestamp),
        }
        batch::set_position(&mut bytes, base, partition.epoch());
        let stamped = BatchHeader { max_timestamp: append_time_ms.unwrap_or(header.max_timestamp), ..header };
        let sequence = self.take(&stamped, now_ms);
        let append = Append {
            expect_next: base,
            commit_id: CommitId { writer: context.writer, sequence },
            class: config.durability,
            space: Space::Normal,
            batches: vec![Batch::new(base, header.span(), stamped.max_timestamp, bytes.freeze())],
        };
        let (log, epoch, owner) = (partition.log, partition.epoch(), context.owner);
        let appended = Appended { base, append_time_ms, log_start: partition.log_start() };
        let sent = Sent { request: 0, item: 0, log, sequence, appended, next: self.next };
        Ok((Op { log, epoch, owner, action: Action::Append(append) }, sent))
    }

    /// Whether the batch is the next of its producer; `Err` holds the answer if it is not.
    fn check_producer(&self, header: &BatchHeader) -> Result<(), Result<Appended, AppendError>> {
        let ProducerState::Known(producers) = &self.producers else { return Ok(()) };
        match producers.check(header) {
            Ok(Check::Fresh) => Ok(()),
            // The first append may still be in flight; its answer must not be overtaken.
            Ok(Check::Duplicate { base, .. }) if base >= self.partition.high_watermark() => {
                Err(Err(AppendError::Retry))
            }
            Ok(Check::Duplicate { base, timestamp }) => {
                let log_start = self.partition.log_start();
                let stamped = self.partition.config.get().timestamp_type == TimestampType::LogAppendTime;
                Err(Ok(Appended { base, append_time_ms: stamped.then_some(timestamp), log_start }))
            }
            Err(error) => Err(Err(AppendError::Producer(error))),
        }
    }

    /// Takes the batch's offsets and notes its producer, so that it can be given back.
    fn take(&mut self, header: &BatchHeader, now_ms: i64) -> u64 {
        let base = self.next;
        let producer = match &mut self.producers {
            ProducerState::Known(producers) => producers.append(header, base, now_ms),
            _ => None,
        };
        self.sequence += 1;
        self.undo.push_back(Taken { sequence: self.sequence, next_before: base, producer });
        self.next = base.plus(u64::from(header.span()));
        self.in_flight += 1;
        self.plan_snapshot(header);
        self.sequence
    }

    /// Takes a picture of the producers every so many batches.
    fn plan_snapshot(&mut self, header: &BatchHeader) {
        self.batches_since_snapshot += u32::from(header.has_producer_id());
        if self.batches_since_snapshot >= SNAPSHOT_EVERY
            && let ProducerState::Known(producers) = &self.producers
        {
            self.batches_since_snapshot = 0;
            self.snapshot = Some((self.sequence, self.next, producers.clone()));
        }
    }

    /// The picture, once all it speaks of is durable.
    pub(super) fn ready_snapshot(&mut self, durable: u64) -> Option<(Offset, Producers)> {
        let (_, next, producers) = self.snapshot.take_if(|(sequence, _, _)| *sequence <= durable)?;
        Some((next, producers))
    }

    /// Publishes a success or takes a failure back.
    pub(super) fn settle(
        &mut self,
        sent: &Sent,
        outcome: Outcome,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.in_flight -= 1;
        let result = match outcome {
            Ok(()) => {
                // Outcomes of one log come in order, so this is nearly always the first.
                if let Some(at) = self.undo.iter().position(|taken| taken.sequence == sent.sequence) {
                    self.undo.remove(at);
                }
                self.partition.publish_next(sent.next, now_ms);
                Ok(Appended { log_start: self.partition.log_start(), ..sent.appended })
            }
            Err(error) => {
                let is_lost = self.standing == Standing::Lost || !error.is_definite();
                self.standing = if is_lost { Standing::Lost } else { Standing::Failing };
                self.snapshot = None;
                // Behind a failure the others fail by conflict; what the client needs to know is: try again.
                match error.kind() {
                    ErrorKind::Conflict => Err(AppendError::Retry),
                    _ => Err(AppendError::Storage(error)),
                }
            }
        };
        if self.standing == Standing::Failing && self.in_flight == 0 {
            self.take_back();
        }
        result
    }

    /// Gives back what the appends without an effect took, the last first, and goes on.
    pub(super) fn take_back(&mut self) {
        while let Some(taken) = self.undo.pop_back() {
            self.next = taken.next_before;
            if let (ProducerState::Known(producers), Some(undo)) = (&mut self.producers, taken.producer) {
                producers.undo(undo);
            }
        }
        self.standing = Standing::Sound;
    }

    /// Whether the log must be claimed again, and can be.
    pub(super) fn is_lost(&self) -> bool {
        self.standing == Standing::Lost && self.in_flight == 0
    }

    /// Goes on from where the log ends now that it was claimed again. What was acknowledged is in it; what had
    /// an unknown outcome is in it or never will be.
    pub(super) fn reclaimed(&mut self, claim: &Claim, now_ms: i64) {
        self.undo.clear();
        self.next = claim.next;
        // What is being read already has no producer in flight behind it.
        if matches!(self.producers, ProducerState::Known(_)) {
            self.producers = ProducerState::at(claim.next);
        }
        self.standing = Standing::Sound;
        self.partition.publish_epoch(claim.epoch);
        self.partition.publish_start(claim.start);
        self.partition.publish_next(claim.next, now_ms);
    }
}
