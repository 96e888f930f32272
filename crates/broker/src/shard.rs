//! The owners: each shard is one task that owns the partitions hashed to it and alone appends to them.
//!
//! ```text
//!  door -- Append{all partitions of one request here} --> mailbox (bounded in bytes)
//!           |  check the producer, give out offsets, patch the batch header
//!           v
//!        LogStore::commit -- durable --> publish the high watermark, wake readers, answer
//! ```
//! **Invariants.** Offsets are given out here and nowhere else. An answer is given only after the store's
//! outcome. If an append fails, what was given out after it fails too; the partition then takes back its
//! offsets and producer state in reverse order and goes on only when nothing is in flight any more. If it is
//! unknown whether an append happened, the log is claimed again before anything else is appended to it.
//!
//! Deliberately absent: locks, timers but for a claim's pause, anything about requests or connections.

use std::sync::Arc;

use ferrymq_runtime::{BytePermit, Clock, Mailbox, MailboxSender, TaskKind, Tasks, mailbox};
use ferrymq_storage::{Action, ErrorKind, Group, LogStore, MetaStore, Op, Outcome, Pending, StorageError};
use ferrymq_types::{BatchHeader, IdMap, LogId, Offset, OwnerId};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use crate::partition::Partition;
use crate::producers::{ProducerError, Producers};

pub(crate) mod load;
mod lost;
mod owned;
mod reclaim;
pub(crate) mod together;

pub(crate) use lost::Lost;
use owned::{Owned, Parked, ProducerState};
use reclaim::{Claimed, Reclaims};
use together::Together;

/// Bytes that may wait in one shard's mailbox.
pub const MAILBOX_BYTES: usize = 64 * 1024 * 1024;

/// One batch for one partition.
#[derive(Debug)]
pub struct AppendItem {
    /// Where to.
    pub partition: Arc<Partition>,
    /// The whole batch; patched in place.
    pub bytes: bytes::BytesMut,
    /// Its decoded header, verified by [`crate::validate`].
    pub header: BatchHeader,
}

/// A durable append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base: Offset,
    /// The broker's time if the topic stamps records itself, in milliseconds.
    pub append_time_ms: Option<i64>,
    /// The partition's first readable offset.
    pub log_start: Offset,
}

/// Why a batch was not appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The topic is gone, or the shard has ended.
    #[error("this server does not host this topic-partition")]
    Gone,
    /// Another broker owns the partition, or will in a moment.
    #[error("another broker owns the partition")]
    Elsewhere,
    /// The producer broke its order.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The store refused or lost it.
    #[error("{0}")]
    Storage(StorageError),
    /// An earlier append to this partition failed, or it is not known yet whether it did; try again.
    #[error("an earlier append to the partition failed")]
    Retry,
}

/// One result per item of an append, in order.
pub type AppendResults = Vec<Result<Appended, AppendError>>;

/// What a shard is asked to do.
pub(crate) enum Message {
    /// Takes over a partition whose log was claimed.
    Attach { partition: Arc<Partition>, next: Offset },
    /// Lets go of a partition.
    Detach { log: LogId },
    /// Lets go of partitions; answered when all that was accepted for them is with the store.
    Release { logs: Vec<LogId>, reply: oneshot::Sender<()> },
    /// Appends batches; one result each, in order.
    Append { items: Vec<AppendItem>, reply: oneshot::Sender<AppendResults> },
    /// Moves a partition's start up; answers with the new start.
    Trim { log: LogId, start: Offset, reply: oneshot::Sender<Result<Offset, AppendError>> },
    /// What is known of a partition's producers; read from the log if nobody has asked yet.
    Producers { log: LogId, reply: oneshot::Sender<Result<Producers, AppendError>> },
    /// Forgets producers silent since before this time.
    ExpireProducers { cutoff_ms: i64 },
    /// Takes part in a commit of several owners.
    Together(Box<Together>),
}

/// What a shard works with.
#[derive(Clone)]
pub(crate) struct ShardContext {
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) state: Arc<dyn MetaStore>,
    pub(crate) clock: Clock,
    pub(crate) owner: OwnerId,
    pub(crate) writer: u64,
    pub(crate) tasks: Tasks,
    /// Where logs are noted that are another's, if there are other brokers.
    pub(crate) lost: Option<Arc<Lost>>,
}

/// A handle to one shard; cheap to clone.
#[derive(Clone)]
pub(crate) struct Shard {
    mailbox: MailboxSender<Message>,
}

impl Shard {
    /// Starts a shard.
    pub(crate) fn start(context: ShardContext) -> Shard {
        let (sender, receiver) = mailbox(MAILBOX_BYTES);
        let tasks = context.tasks.clone();
        tasks.spawn(TaskKind::Owner, "partition shard", Owner::new(context).run(receiver));
        Shard { mailbox: sender }
    }

    /// Enqueues a message; false if the shard has ended.
    pub(crate) async fn send(&self, message: Message, bytes: usize) -> bool {
        self.mailbox.send(message, bytes).await.is_ok()
    }
}

/// A request with results still missing.
struct Waiting {
    results: Vec<Option<Result<Appended, AppendError>>>,
    missing: usize,
    reply: oneshot::Sender<AppendResults>,
}

/// One append that was handed to the store.
struct Sent {
    request: u64,
    item: usize,
    log: LogId,
    sequence: u64,
    appended: Appended,
    next: Offset,
}

/// Something that finished.
enum Done {
    Commit { sent: Vec<Sent>, outcomes: Vec<Outcome> },
    Trim { log: LogId, start: Offset, outcome: Outcome, reply: oneshot::Sender<Result<Offset, AppendError>> },
    Loaded { log: LogId, producers: Result<Producers, StorageError> },
    Together { sent: Vec<Sent>, outcome: Outcome, over: oneshot::Sender<()> },
}

struct Owner {
    context: ShardContext,
    partitions: IdMap<LogId, Owned>,
    waiting: IdMap<u64, Waiting>,
    requests: u64,
    done: FuturesUnordered<Pending<Done>>,
    reclaims: Reclaims,
}

impl Owner {
    fn new(context: ShardContext) -> Owner {
        let done = FuturesUnordered::new();
        let reclaims = Reclaims::default();
        Owner {
            context,
            partitions: IdMap::default(),
            waiting: IdMap::default(),
            requests: 0,
            done,
            reclaims,
        }
    }

    /// Runs until all senders are gone and everything in flight is answered.
    async fn run(mut self, mut mailbox: Mailbox<Message>) {
        let mut open = true;
        while open || !self.done.is_empty() {
            tokio::select! {
                biased;
                Some(done) = self.done.next() => self.on_done(done),
                Some(claimed) = self.reclaims.next(), if open => self.on_claimed(claimed),
                message = mailbox.recv(), if open => match message {
                    Some(first) => {
                        if let Some((together, permit)) = self.on_messages(first, &mut mailbox) {
                            self.together(*together, permit).await;
                        }
                    }
                    None => open = false,
                },
            }
        }
    }

    /// Takes everything that waits now, so that many small requests become one commit, up to a joint commit.
    fn on_messages(
        &mut self,
        first: (Message, BytePermit),
        mailbox: &mut Mailbox<Message>,
    ) -> Option<(Box<Together>, BytePermit)> {
        let mut batch = Commit::default();
        let mut next = Some(first);
        let mut joint = None;
        while let Some((message, permit)) = next {
            if let Some(together) = self.on_message(message, &mut batch) {
                joint = Some((together, permit));
                break;
            }
            batch.permits.push(permit);
            next = mailbox.try_recv();
        }
        self.commit(batch);
        joint
    }

    /// A joint commit is given back: its part begins when what was gathered is with the store.
    fn on_message(&mut self, message: Message, batch: &mut Commit) -> Option<Box<Together>> {
        match message {
            Message::Together(together) => return Some(together),
            Message::Attach { partition, next } => self.on_attach(partition, next),
            Message::Detach { log } => self.on_detach(log),
            Message::Release { logs, reply } => {
                logs.into_iter().for_each(|log| self.on_detach(log));
                batch.released.push(reply);
            }
            Message::Append { items, reply } => self.on_append(items, reply, batch),
            Message::Trim { log, start, reply } => self.on_trim(log, start, reply),
            Message::Producers { log, reply } => self.on_producers(log, reply),
            Message::ExpireProducers { cutoff_ms } => {
                for owned in self.partitions.values_mut() {
                    if let ProducerState::Known(producers) = &mut owned.producers {
                        producers.expire(cutoff_ms);
                    }
                }
            }
        }
        None
    }

    fn on_attach(&mut self, partition: Arc<Partition>, next: Offset) {
        self.partitions.insert(partition.log, Owned::new(partition, next));
    }

    fn on_detach(&mut self, log: LogId) {
        self.reclaims.forget(log);
        let Some(owned) = self.partitions.remove(&log) else { return };
        // Whoever waits for the producers learns of it by the end of the reply's channel.
        if let ProducerState::Loading(parked) = owned.producers {
            for (request, item, _) in parked.appends {
                self.answer(request, item, Err(AppendError::Gone));
            }
        }
    }

    fn on_producers(&mut self, log: LogId, reply: oneshot::Sender<Result<Producers, AppendError>>) {
        let Some(owned) = self.partitions.get_mut(&log) else { return };
        match &mut owned.producers {
            // A reader that went away needs no answer.
            ProducerState::Known(producers) => drop(reply.send(Ok(producers.clone()))),
            ProducerState::Loading(parked) => parked.readers.push(reply),
            ProducerState::Unknown => {
                let parked = Parked { readers: vec![reply], ..Parked::default() };
                self.done.push(owned.load_producers(&self.context, parked));
            }
        }
    }

    fn on_append(
        &mut self,
        items: Vec<AppendItem>,
        reply: oneshot::Sender<AppendResults>,
        batch: &mut Commit,
    ) {
        let request = self.requests;
        self.requests += 1;
        let results = (0..items.len()).map(|_| None).collect();
        self.waiting.insert(request, Waiting { results, missing: items.len(), reply });
        for (index, item) in items.into_iter().enumerate() {
            self.append_or_park(request, index, item, batch);
        }
    }

    fn append_or_park(&mut self, request: u64, index: usize, item: AppendItem, batch: &mut Commit) {
        let log = item.partition.log;
        let Some(owned) = self.partitions.get_mut(&log) else {
            let error =
                if item.partition.is_elsewhere() { AppendError::Elsewhere } else { AppendError::Gone };
            return self.answer(request, index, Err(error));
        };
        match &mut owned.producers {
            ProducerState::Loading(parked) => return parked.appends.push((request, index, item)),
            ProducerState::Unknown if item.header.has_producer_id() => {
                let parked = Parked { appends: vec![(request, index, item)], ..Parked::default() };
                return self.done.push(owned.load_producers(&self.context, parked));
            }
            ProducerState::Unknown | ProducerState::Known(_) => {}
        }
        match owned.prepare(&self.context, item, batch.now_ms(&self.context)) {
            Ok((op, sent)) => {
                batch.groups.push(vec![op]);
                batch.sent.push(Sent { request, item: index, ..sent });
            }
            Err(result) => self.answer(request, index, result),
        }
    }

    fn commit(&mut self, batch: Commit) {
        let Commit { groups, sent, permits, released, .. } = batch;
        if groups.is_empty() {
            released.into_iter().for_each(|reply| reply.send(()).unwrap_or_default());
            return;
        }
        let commit = self.context.store.commit(groups);
        // Who has gone away needs no answer.
        released.into_iter().for_each(|reply| reply.send(()).unwrap_or_default());
        self.done.push(Box::pin(async move {
            let outcomes = commit.await;
            // The bytes were the mailbox's until here: what is in flight counts as queued.
            drop(permits);
            Done::Commit { sent, outcomes }
        }));
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Commit { sent, outcomes } => {
                debug_assert_eq!(sent.len(), outcomes.len());
                let now_ms = self.context.clock.wall_ms();
                for (sent, outcome) in sent.into_iter().zip(outcomes) {
                    self.on_outcome(sent, outcome, now_ms);
                }
                self.reclaims.start(&self.context);
            }
            Done::Trim { log, start, outcome, reply } => {
                let result = outcome.map_err(AppendError::Storage).map(|()| {
                    let Some(owned) = self.partitions.get(&log) else { return start };
                    owned.partition.publish_start(start);
                    owned.partition.log_start()
                });
                // A caller that went away needs no answer.
                let _ = reply.send(result);
            }
            Done::Loaded { log, producers } => self.on_loaded(log, producers),
            Done::Together { sent, outcome, over } => {
                self.on_together(sent, &outcome);
                drop(over);
            }
        }
    }

    fn on_outcome(&mut self, sent: Sent, outcome: Outcome, now_ms: i64) {
        if outcome.is_ok() {
            self.reclaims.calm();
        }
        if let (Err(error), Some(lost)) = (&outcome, &self.context.lost)
            && (matches!(error.kind(), ErrorKind::Fenced | ErrorKind::NotFound) || !error.is_definite())
        {
            lost.note(sent.log);
        }
        let result = match (self.partitions.get_mut(&sent.log), outcome) {
            (None, Ok(())) => Ok(sent.appended),
            (None, Err(error)) => Err(AppendError::Storage(error)),
            (Some(owned), outcome) => owned.settle(&sent, outcome, now_ms),
        };
        if let Some(owned) = self.partitions.get_mut(&sent.log) {
            if let Some((next, producers)) = owned.ready_snapshot(sent.sequence) {
                load::save_snapshot(&self.context, sent.log, next, producers);
            }
            if owned.is_lost() && self.context.lost.is_none() {
                self.reclaims.want(sent.log);
            }
        }
        self.answer(sent.request, sent.item, result);
    }

    /// Goes on with the logs that were claimed again, or tries again.
    fn on_claimed(&mut self, claimed: Claimed) {
        match claimed {
            Ok(claims) => {
                for claim in claims {
                    self.reclaims.forget(claim.log);
                    let Some(owned) = self.partitions.get_mut(&claim.log) else { continue };
                    owned.reclaimed(&claim, self.context.clock.wall_ms());
                    let (log, epoch, next) = (claim.log.0, claim.epoch.0, claim.next.0);
                    tracing::info!(log, epoch, next, "a log was claimed again after an unknown outcome");
                }
            }
            Err(error) if error.kind() == ErrorKind::Closed => {
                // For good: from now on the store itself refuses what is appended.
                for log in self.reclaims.give_up() {
                    self.partitions.get_mut(&log).into_iter().for_each(Owned::take_back);
                }
            }
            Err(error) => tracing::warn!(error = %error, "logs could not be claimed again; trying again"),
        }
        self.reclaims.start(&self.context);
    }

    fn on_loaded(&mut self, log: LogId, producers: Result<Producers, StorageError>) {
        let Some(owned) = self.partitions.get_mut(&log) else { return };
        let ProducerState::Loading(parked) = std::mem::replace(&mut owned.producers, ProducerState::Unknown)
        else {
            return;
        };
        match producers {
            Ok(producers) => {
                for reader in parked.readers {
                    let _ = reader.send(Ok(producers.clone()));
                }
                owned.producers = ProducerState::Known(producers);
                let mut batch = Commit::default();
                for (request, index, item) in parked.appends {
                    self.append_or_park(request, index, item, &mut batch);
                }
                self.commit(batch);
            }
            Err(error) => {
                tracing::warn!(log = log.0, error = %error, "could not read the producers of a partition");
                for reader in parked.readers {
                    let _ = reader.send(Err(AppendError::Storage(error.clone())));
                }
                for (request, index, _) in parked.appends {
                    self.answer(request, index, Err(AppendError::Storage(error.clone())));
                }
            }
        }
    }

    fn on_trim(&mut self, log: LogId, start: Offset, reply: oneshot::Sender<Result<Offset, AppendError>>) {
        let Some(owned) = self.partitions.get(&log) else {
            let _ = reply.send(Err(AppendError::Gone));
            return;
        };
        let start = start.min(owned.partition.high_watermark());
        let (epoch, owner) = (owned.partition.epoch(), self.context.owner);
        let group: Group = vec![Op { log, epoch, owner, action: Action::Trim(start) }];
        let commit = self.context.store.commit(vec![group]);
        self.done.push(Box::pin(async move {
            let outcome = commit.await.pop().unwrap_or(Ok(()));
            Done::Trim { log, start, outcome, reply }
        }));
    }

    fn answer(&mut self, request: u64, item: usize, result: Result<Appended, AppendError>) {
        let Some(waiting) = self.waiting.get_mut(&request) else { return };
        waiting.results[item] = Some(result);
        waiting.missing -= 1;
        if waiting.missing == 0
            && let Some(waiting) = self.waiting.remove(&request)
        {
            let results = waiting.results.into_iter().flatten().collect();
            // A client that went away needs no answer.
            let _ = waiting.reply.send(results);
        }
    }
}

/// Appends gathered for one call of the store.
#[derive(Default)]
struct Commit {
    groups: Vec<Group>,
    sent: Vec<Sent>,
    permits: Vec<BytePermit>,
    released: Vec<oneshot::Sender<()>>,
    /// The time of all of them, once it was asked for.
    now_ms: Option<i64>,
}

impl Commit {
    fn now_ms(&mut self, context: &ShardContext) -> i64 {
        *self.now_ms.get_or_insert_with(|| context.clock.wall_ms())
    }
}
