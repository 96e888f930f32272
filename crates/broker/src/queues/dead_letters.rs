//! Dead letters: messages that leave their queue without having been consumed, and go on to an exchange.
//!
//! ```text
//!  shard ── ranges of offsets ──▶ mover: read back ─▶ DeadLetters rewrites and routes ─▶ one joint commit:
//!    └──────────────── done, and the next ones ◀── outcome ◀── appended at the targets, done at the source
//! ```
//! **Invariants.** A message is in its queue or in its targets, never in both nor in neither, whenever the broker
//! ends, as far as it survives that at all. What a target or the store refuses is tried again and kept meanwhile; no
//! shard waits for it. Letters of one queue go in the order in which the messages had to leave. Memory: one chunk for
//! each of a few movers; what waits is ranges of offsets.
//!
//! Deliberately absent: what a dead letter looks like in a protocol ([`DeadLetters`], which a door brings), and why
//! a message has to go.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::limits::QUEUE_MESSAGE_BYTES_MAX;
use ferrymq_types::{LogId, Offset};
use tokio::sync::{oneshot, watch};

use super::envelope::Messages;
use super::error::QueueError;
use super::exchange::{Headers, NoHeaders, Routable};
use super::handle::Queues;
use super::joint::Parts;
use super::priorities::{base, place};
use super::settings::QueueType;
use super::shard::joint::Settles;
use super::shard::message::ShardMessage;
use super::streams::{Source, TooLarge, without_streams};
use super::tally::DeadLettering;
use super::types::{Message, Publish, QueueHandle, QueueSpec, Routed, Settle};
use crate::to_its_end::to_its_end;

/// Queues whose dead letters are read and written at a time.
pub(super) const MOVERS: usize = 4;
/// Messages moved in one commit.
pub(super) const CHUNK_MESSAGES: usize = 512;
/// Bytes of messages after which a commit is made.
pub(super) const CHUNK_BYTES: usize = 512 * 1024;
/// Bytes read back at a time.
const READ_BYTES: usize = 1024 * 1024;
/// How long to wait before what was refused is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// The argument of a queue that names the exchange for its dead letters.
pub(super) const EXCHANGE: &str = "x-dead-letter-exchange";
/// The argument of a queue that names their routing key.
pub(super) const ROUTING_KEY: &str = "x-dead-letter-routing-key";

/// The argument of a queue that says how safe their way is.
const STRATEGY: &str = "x-dead-letter-strategy";

/// Why a message left its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeathReason {
    /// A consumer did not want it.
    Rejected,
    /// Its time to live was over.
    Expired,
    /// The queue had more than it may.
    MaxLength,
    /// It was given back too often.
    DeliveryLimit,
}

/// Where the dead letters of a queue go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterTo {
    /// The exchange; one that is not there takes nothing.
    pub exchange: Arc<str>,
    /// The routing key that replaces theirs.
    pub routing_key: Option<Bytes>,
    /// Of which type its queue is, and what it asks for.
    pub of: (QueueType, DeadLettering),
}

impl DeadLetterTo {
    /// What a queue's arguments ask for.
    pub(super) fn of(spec: &QueueSpec) -> Option<Arc<DeadLetterTo>> {
        let text = |name| spec.arguments.get(name).and_then(super::args::Value::as_text);
        let routing_key = text(ROUTING_KEY).map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let kind = QueueType::of(&spec.arguments).unwrap_or_default();
        // RabbitMQ does so only where new messages are refused instead of old ones dropped.
        let how = match (kind, text(STRATEGY), text("x-overflow")) {
            (QueueType::Quorum, Some("at-least-once"), Some("reject-publish")) => DeadLettering::AtLeastOnce,
            _ => DeadLettering::AtMostOnce,
        };
        Some(Arc::new(DeadLetterTo { exchange: text(EXCHANGE)?.into(), routing_key, of: (kind, how) }))
    }
}

/// A message that has to leave.
#[derive(Debug)]
pub struct Death<'a> {
    /// The message, as it lies in its queue.
    pub message: &'a Message,
    /// The queue.
    pub queue: &'a QueueHandle,
    /// Why it leaves.
    pub reason: DeathReason,
    /// Now, in milliseconds since 1970.
    pub now_ms: i64,
    /// Where it is to go.
    pub to: &'a DeadLetterTo,
}

/// Asks where a dead letter with these routing keys, its own first, and these headers goes.
pub type RouteLetter<'a> = &'a mut dyn FnMut(&[&[u8]], &dyn Headers) -> Routed;

/// Asks where a message that was kept back goes, with these headers.
pub type RouteDue<'a> = &'a mut dyn FnMut(&dyn Headers) -> Routed;

/// What a protocol makes of dead letters, and of messages that were kept back.
pub trait DeadLetters: Send + Sync {
    /// The message as it is to be published, and the queues that it goes to; nowhere if `route` finds none, or if it
    /// went round in a circle.
    fn letter(&self, death: &Death<'_>, route: RouteLetter<'_>) -> (Message, Routed);

    /// A message that was kept back for so many milliseconds, as it goes on, and where; `route` wants its headers.
    fn due(&self, message: &Message, _delay_ms: u64, route: RouteDue<'_>) -> (Message, Routed) {
        (message.clone(), route(&NoHeaders))
    }
}

/// How dead letters are made; cheap to clone. The default changes nothing but exchange and routing key.
#[derive(Clone)]
pub struct LetterWriter(pub Arc<dyn DeadLetters>);

impl Default for LetterWriter {
    fn default() -> LetterWriter {
        LetterWriter(Arc::new(AsTheyAre))
    }
}

impl fmt::Debug for LetterWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LetterWriter")
    }
}

struct AsTheyAre;

impl DeadLetters for AsTheyAre {
    fn letter(&self, death: &Death<'_>, route: RouteLetter<'_>) -> (Message, Routed) {
        let mut message = death.message.clone();
        message.exchange = Bytes::copy_from_slice(death.to.exchange.as_bytes());
        message.ttl_ms = None;
        if let Some(key) = &death.to.routing_key {
            message.routing_key = key.clone();
        }
        let to = route(&[&message.routing_key], &NoHeaders);
        (message, to)
    }
}

/// Letters of one queue that are to be moved.
pub(super) struct Moving {
    pub(super) queue: QueueHandle,
    /// The logs of its levels by the ids of their first places; none: ids are offsets in its own log.
    pub(super) logs: Vec<(u64, LogId)>,
    /// Of a queue over a topic, its partitions in the same way.
    pub(super) sources: Vec<(u64, Arc<Source>)>,
    pub(super) to: Arc<DeadLetterTo>,
    /// By their ids, in the order in which they go.
    pub(super) letters: VecDeque<(u64, DeathReason)>,
    /// They are no letters, but were kept back and are due: each knows by itself where it goes.
    pub(super) due: bool,
    /// Those that have been written to their streams: only the rest of what they are is to be done.
    pub(super) written: HashSet<u64>,
    /// Dropped when they are moved, or when that is given up.
    pub(super) over: oneshot::Sender<()>,
}

impl Moving {
    /// What a commit would settle has been written to its streams, whatever becomes of the rest, which is tried again.
    pub(super) fn has_written(&mut self, parts: &Parts) {
        let settled = parts.settles.iter().flat_map(|settles| &settles.what);
        self.written.extend(settled.map(|(offset, _)| offset.0));
    }
}

/// What could be read back of some letters, by their ids; `None`: the log does not have it.
pub(super) type Chunk = Vec<(u64, DeathReason, Option<Message>)>;

/// Moves letters, or messages that are due, until none is left, the queue is gone or the broker stops. What a queue
/// refuses of what is due is set aside, for the shard to try again.
///
/// Before everything is opened, nobody knows where they go.
pub(super) async fn run(mut queues: watch::Receiver<Weak<Queues>>, mut moving: Moving) {
    let Ok(queues) = queues.wait_for(|here| here.strong_count() > 0).await.map(|here| here.clone()) else {
        return;
    };
    let what = if moving.due { "delayed messages" } else { "dead letters" };
    let (mut told, mut at_most) = (false, CHUNK_MESSAGES);
    let mut refused = Vec::new();
    while !moving.letters.is_empty() {
        let Some(here) = queues.upgrade() else { return };
        let tasks = here.tasks.clone();
        let stopping = tasks.stopping();
        tokio::pin!(stopping);
        let moved = tokio::select! {
            moved = here.move_some(&mut moving, at_most) => moved,
            // A shard that ends waits for its movers. A commit that was begun goes on by itself.
            () = &mut stopping => return,
        };
        match moved {
            Ok(()) => (told, at_most) = (false, CHUNK_MESSAGES.min(at_most * 2)),
            Err(QueueError::Full { .. }) if moving.due && at_most == 1 => {
                refused.extend(moving.letters.pop_front().map(|(offset, _)| offset));
            }
            // It may take fewer.
            Err(QueueError::Full { .. }) if moving.due => at_most = 1,
            Err(error) if at_most > 1 && takes_fewer(&error) => at_most /= 2,
            Err(QueueError::NotFound { .. } | QueueError::Stopped) => return,
            Err(error) if !error.is_certain() => {
                tracing::error!(queue = %moving.queue.name(), %error, "{what} wait for a restart");
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(queue = %moving.queue.name(), %error, "{what} wait");
                }
                let clock = here.clock.clone();
                drop(here);
                tokio::select! {
                    () = clock.sleep(PAUSE) => {}
                    () = &mut stopping => return,
                }
            }
        }
    }
    if let Some(here) = queues.upgrade().filter(|_| !refused.is_empty()) {
        let again = ShardMessage::Again { queue: moving.queue.clone(), offsets: refused };
        here.tell(&moving.queue, again).await;
    }
    drop(moving.over);
}

/// Whether a smaller commit may be taken where this one was refused.
pub(super) fn takes_fewer(error: &QueueError) -> bool {
    match error {
        QueueError::Full { .. } => true,
        QueueError::Storage(error) => error.kind() == ErrorKind::LimitExceeded,
        _ => false,
    }
}

impl Queues {
    async fn move_some(self: &Arc<Queues>, moving: &mut Moving, at_most: usize) -> Result<(), QueueError> {
        if moving.due { self.move_due(moving, at_most).await } else { self.move_chunk(moving, at_most).await }
    }

    /// Moves the first of the letters, as many as go into one commit.
    async fn move_chunk(self: &Arc<Queues>, moving: &mut Moving, at_most: usize) -> Result<(), QueueError> {
        let Ok(_permit) = self.movers.acquire().await else { return Err(QueueError::Stopped) };
        let chunk = self.read_letters(moving, at_most).await?;
        let count = chunk.len();
        let gone: Vec<u64> =
            chunk.iter().filter(|(.., message)| message.is_none()).map(|(id, ..)| *id).collect();
        let mut parts = Parts::default();
        let mut what = Vec::with_capacity(count);
        let died: Vec<DeathReason> =
            chunk.iter().filter(|(.., message)| message.is_some()).map(|(_, reason, _)| *reason).collect();
        for (offset, reason, message) in chunk {
            what.push((Offset(offset), Settle::Ack));
            let letter = message.and_then(|message| self.letter(&moving.queue, &moving.to, reason, &message));
            parts.publishes.extend(if moving.written.contains(&offset) {
                letter.as_ref().and_then(without_streams)
            } else {
                letter
            });
        }
        parts.settles.push(Settles { queue: moving.queue.clone(), session: None, what });
        let (rest, _) = self.append_streams(&parts, TooLarge::Dropped).await?;
        moving.has_written(&parts);
        let queues = self.clone();
        to_its_end(&self.tasks, async move { queues.commit_queues(&rest).await }).await?;
        moving.letters.drain(..count);
        let (kind, how) = moving.to.of;
        died.into_iter().for_each(|reason| self.tally.died(kind, how, reason));
        for (level, source) in &moving.sources {
            let trimmed = |id: &&u64| base(**id) == *level && place(**id) < source.start();
            source.count_trimmed(gone.iter().filter(trimmed).count() as u64);
        }
        Ok(())
    }

    /// The letter that a message becomes, unless it goes nowhere.
    pub(super) fn letter(
        &self,
        queue: &QueueHandle,
        to: &DeadLetterTo,
        reason: DeathReason,
        message: &Message,
    ) -> Option<Publish> {
        let death = Death { message, queue, reason, now_ms: self.clock.wall_ms(), to };
        let mut route = |keys: &[&[u8]], headers: &dyn Headers| {
            let message = Routable { keys, headers, rng: &self.rng };
            let topology = self.topology.read();
            let home = topology.home_of(queue);
            home.map(|vhost| vhost.route_letter(&to.exchange, &message)).unwrap_or_default()
        };
        let (message, to) = self.letters.0.letter(&death, &mut route);
        if message.bytes() > QUEUE_MESSAGE_BYTES_MAX {
            tracing::error!(queue = %queue.name(), "a dead letter has become too large and is dropped");
            return None;
        }
        (!to.is_empty()).then_some(Publish { message, to })
    }

    /// Reads the first of the letters back.
    async fn read_letters(&self, moving: &Moving, at_most: usize) -> Result<Chunk, QueueError> {
        let mut chunk = Chunk::new();
        let mut bytes = 0;
        while chunk.len() < at_most.min(moving.letters.len()) && bytes < CHUNK_BYTES {
            let before = chunk.len();
            // As far as they ascend in one log they are read together.
            let mut ascending: Vec<(u64, DeathReason)> = Vec::new();
            let level = moving.letters.get(before).map_or(0, |(id, _)| base(*id));
            for (id, reason) in moving.letters.iter().skip(before).take(at_most - before) {
                let follows = ascending.last().is_none_or(|(last, _)| *last < place(*id));
                if base(*id) != level || !follows {
                    break;
                }
                ascending.push((place(*id), *reason));
            }
            let mut read = Chunk::new();
            if let Some((_, source)) = moving.sources.iter().find(|(of, _)| *of == level) {
                let read = source.clone().read_letters(&ascending, &mut read).await;
                read.map_err(|error| match error.kind() {
                    // The topic was deleted, and the queue goes with it.
                    ErrorKind::NotFound => QueueError::Stopped,
                    _ => error.into(),
                })?;
            } else {
                let log = moving.logs.iter().find(|(of, _)| *of == level).map(|(_, log)| *log);
                let log = log.unwrap_or_else(|| moving.queue.log());
                self.read_ascending(log, &ascending, READ_BYTES, &mut read).await?;
            }
            chunk.extend(read.into_iter().map(|(offset, reason, message)| (level | offset, reason, message)));
            let read = chunk.iter().skip(before).filter_map(|(_, _, message)| message.as_ref());
            bytes += read.map(Message::bytes).sum::<usize>();
        }
        Ok(chunk)
    }

    /// Reads the first of these offsets, at least one, about so many bytes.
    pub(super) async fn read_ascending(
        &self,
        log: LogId,
        letters: &[(u64, DeathReason)],
        bytes: usize,
        chunk: &mut Chunk,
    ) -> Result<(), QueueError> {
        let (Some((from, _)), Some((last, _))) = (letters.first(), letters.last()) else { return Ok(()) };
        let mut wanted = letters.iter().copied().peekable();
        let read = match self.stores.logs.read(log, Offset(*from), Offset(last + 1), bytes).await {
            Ok(read) => read,
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => {
                    tracing::error!(log = log.0, from, %error, "dead letters are damaged and dropped");
                    let resume = resume.0.max(from + 1);
                    let lost = std::iter::from_fn(|| wanted.next_if(|(offset, _)| *offset < resume));
                    chunk.extend(lost.map(|(offset, reason)| (offset, reason, None)));
                    return Ok(());
                }
                ErrorKind::NotFound => return Err(QueueError::Stopped),
                _ => return Err(error.into()),
            },
        };
        for mut run in read.runs.iter().map(|run| run.bytes.clone()) {
            while !run.is_empty() {
                let mut messages = Messages::split_from(&mut run).map_err(unreadable)?;
                while let Some((offset, reason)) = wanted.next_if(|(offset, _)| *offset < messages.next()) {
                    messages.skip_to(offset).map_err(unreadable)?;
                    let is_there = messages.offset() == offset;
                    let message = if is_there { Some(messages.take().map_err(unreadable)?) } else { None };
                    chunk.push((offset, reason, message));
                }
            }
        }
        if read.runs.is_empty() {
            chunk.extend(wanted.map(|(offset, reason)| (offset, reason, None)));
        }
        Ok(())
    }
}

fn unreadable(error: super::envelope::EnvelopeError) -> QueueError {
    StorageError::new(ErrorKind::Internal, "a dead letter cannot be read").caused_by(error).into()
}
