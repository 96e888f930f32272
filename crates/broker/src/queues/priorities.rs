//! Priorities of messages: which level of a queue a message is of, and the logs of the levels.
//!
//! | Queues | Priorities | Without one |
//! |---|---|---|
//! | classic with `x-max-priority` | 0 to that, at least 1; what is higher counts as that | 0 |
//! | quorum | 0 to 31; what is higher counts as 31 | 4 |
//! | all others | none | |
//!
//! The messages that have no priority lie in the queue's own log. Each other priority gets a log when the first message
//! with it is published: 255 priorities cost nothing until they are used.
//!
//! ```text
//!  id of a message in its queue   number of its level (8 bits) | offset in the level's log (56 bits)
//!                                 the number: the level's priority, exclusive-or that of the own log
//! ```
//! So an id in the queue's own log, and in any queue without priorities, is an offset.
//!
//! **Invariants.** A level's log stands in the queue's record before anything is in it, and goes with the queue. A level
//! is made once, in the turn of changes of the topology, and stays as long as its queue. A message whose level cannot be
//! made is refused; none is put into another.
//!
//! Deliberately absent: the order in which levels are served (the shard has it).

use std::sync::Arc;

use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::LogId;
use parking_lot::RwLock;

use super::ack::AckState;
use super::args::Value;
use super::error::QueueError;
use super::handle::Queues;
use super::logs::Admin;
use super::records::{QUEUES, QueueRecord, key, put_queue, read};
use super::settings::QueueType;
use super::shard::message::{AttachedLevel, Released, SMALL, ShardMessage};
use super::streams::is_over_topic;
use super::types::{Message, Publish, QueueHandle, QueueIdentity, QueueSpec};

/// The argument of a classic queue that asks for priorities.
pub(super) const MAX_PRIORITY: &str = "x-max-priority";
/// The highest priority in quorum queues.
const QUORUM_MAX: u8 = 31;
/// What a message without a priority has in quorum queues.
const QUORUM_DEFAULT: u8 = 4;

/// Bits of an id that are the offset.
pub(super) const PLACE_BITS: u32 = 56;

/// The offset in its level of the message with this id.
pub(super) const fn place(id: u64) -> u64 {
    id & ((1 << PLACE_BITS) - 1)
}

/// The id of a level's first place, from that of any of its messages.
pub(super) const fn base(id: u64) -> u64 {
    id & !((1 << PLACE_BITS) - 1)
}

/// The priorities of a queue that orders by them.
#[derive(Debug)]
pub(super) struct Priorities {
    own: u8,
    max: u8,
    /// Levels that have a log of their own and are with the shard.
    levels: RwLock<Vec<u8>>,
}

impl Priorities {
    /// What a declaration says that was checked; `None`: messages have no priorities there.
    pub(super) fn of_queue(spec: &QueueSpec) -> Option<Box<Priorities>> {
        if is_over_topic(&spec.arguments) {
            return None;
        }
        let (own, max) = match QueueType::of(&spec.arguments)? {
            QueueType::Quorum => (QUORUM_DEFAULT, QUORUM_MAX),
            QueueType::Classic => {
                let max = spec.arguments.get(MAX_PRIORITY).and_then(Value::as_int)?;
                // As RabbitMQ has it: 0 means 1.
                (0, u8::try_from(max.max(1)).unwrap_or(u8::MAX))
            }
            QueueType::Stream => return None,
        };
        Some(Box::new(Priorities { own, max, levels: RwLock::default() }))
    }

    /// The priority of messages without one: those in the queue's own log.
    pub(super) fn own(&self) -> u8 {
        self.own
    }

    /// The priority that a message has here.
    pub(super) fn of(&self, message: &Message) -> u8 {
        message.priority.unwrap_or(self.own).min(self.max)
    }

    /// The priority of a message for which there is no level yet.
    fn missing_for(&self, message: &Message) -> Option<u8> {
        let priority = message.priority?.min(self.max);
        (priority != self.own && !self.levels.read().contains(&priority)).then_some(priority)
    }
}

impl QueueHandle {
    /// The priorities that order its messages.
    pub(super) fn priorities(&self) -> Option<&Priorities> {
        self.0.priorities.as_deref()
    }

    /// The name that a level's messages are read and appended under.
    pub(super) fn of_level(&self, log: LogId) -> QueueHandle {
        let QueueIdentity { shard, vhost, vhost_number, name, .. } = &*self.0;
        let (vhost, name) = (vhost.clone(), name.clone());
        QueueHandle(Arc::new(QueueIdentity {
            log,
            shard: *shard,
            vhost,
            vhost_number: *vhost_number,
            name,
            priorities: None,
            stream: None,
            over: None,
        }))
    }
}

impl Queues {
    /// Makes the levels that a message needs and that are not there.
    ///
    /// # Errors
    /// [`QueueError`]: then it must not be published.
    pub(super) async fn make_levels(self: &Arc<Queues>, publish: &Publish) -> Result<(), QueueError> {
        for queue in publish.to.queues() {
            let Some(priorities) = queue.priorities() else { continue };
            if let Some(priority) = priorities.missing_for(&publish.message) {
                let queue = queue.clone();
                let make = move |queues: Arc<Queues>, mut turn: tokio::sync::OwnedMutexGuard<Admin>| async move {
                    queues.make_level_now(&mut turn, &queue, priority).await
                };
                self.in_turn(make).await?;
            }
        }
        Ok(())
    }

    async fn make_level_now(
        &self,
        admin: &mut Admin,
        queue: &QueueHandle,
        priority: u8,
    ) -> Result<(), QueueError> {
        // What is published to a queue that is gone goes nowhere.
        let Some(entry) = self.entry_of(queue) else { return Ok(()) };
        let Some(priorities) = queue.priorities() else { return Ok(()) };
        if priorities.levels.read().contains(&priority) {
            return Ok(());
        }
        let Released { log, epoch, next } = match entry.stored() {
            true => self.stored_level(admin, queue, priority).await?,
            false => self.pooled_log(admin).await?,
        };
        let attached = AttachedLevel {
            queue: queue.clone(),
            priority,
            handle: queue.of_level(log),
            epoch,
            start: next,
            next,
            acks: AckState::new(next),
            ready_bytes: 0,
            source: None,
        };
        self.attach_level(attached).await
    }

    /// Hands a level to the shard of its queue. What is published after this finds it there.
    pub(super) async fn attach_level(&self, attached: AttachedLevel) -> Result<(), QueueError> {
        let (queue, priority) = (attached.queue.clone(), attached.priority);
        let message = ShardMessage::AttachLevel(Box::new(attached));
        self.shards[queue.0.shard].send(message, SMALL).await.map_err(|_| QueueError::Stopped)?;
        if let Some(priorities) = queue.priorities() {
            priorities.levels.write().push(priority);
        }
        Ok(())
    }

    /// The log of a new level of a durable queue, once it is in the queue's record. One that is in there already was
    /// recorded, and not claimed, when making the level failed before.
    async fn stored_level(
        &self,
        admin: &mut Admin,
        queue: &QueueHandle,
        priority: u8,
    ) -> Result<Released, QueueError> {
        let key = key(QUEUES, &[queue.vhost(), queue.name()]);
        let mut record = self.queue_record(&key).await?;
        let recorded = record.levels.iter().find(|(level, _)| *level == priority).map(|(_, log)| LogId(*log));
        if let Some(log) = recorded {
            return Ok(self.claim_one(log).await?);
        }
        let log = self.durable_id(admin).await?;
        record.levels.push((priority, log.0));
        let (claimed, written) = tokio::join!(self.claim_one(log), self.write(vec![put_queue(key, record)?]));
        written?;
        Ok(claimed?)
    }

    async fn queue_record(&self, key: &str) -> Result<QueueRecord, StorageError> {
        let missing = || StorageError::new(ErrorKind::Internal, format!("stored record {key} is not there"));
        read(&self.stores.meta.get(key).await?.ok_or_else(missing)?)
    }

    /// The logs of a stored queue's levels, also of those that were recorded and never used.
    pub(super) async fn level_logs(&self, queue: &QueueHandle) -> Result<Vec<LogId>, StorageError> {
        if queue.priorities().is_none() {
            return Ok(Vec::new());
        }
        let record = self.queue_record(&key(QUEUES, &[queue.vhost(), queue.name()])).await?;
        Ok(record.levels.iter().map(|(_, log)| LogId(*log)).collect())
    }
}
