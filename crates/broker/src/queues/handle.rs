//! [`Queues`]: what a door calls. Messages, consumers and settlements are here; changes of the topology in
//! `admin`.
//!
//! **Invariants.** A call that changes durable state returns when the change is durable. Dropping a call's
//! future withdraws nothing that was already handed on.
//!
//! Deliberately absent: retries; an error that is worth one says so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use ferrymq_runtime::{Clock, MailboxSender, Rng, Tasks};
use ferrymq_types::limits::QUEUE_MESSAGE_BYTES_MAX;
use ferrymq_types::{Offset, OwnerId};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore, oneshot};

use super::dead_letters::LetterWriter;
use super::error::{Entity, QueueError};
use super::exchange::{Headers, Routable};
use super::joint::Joint;
use super::logs::Admin;
use super::session::Session;
use super::settings::QueueType;
use super::shard::message::{Failed, Item, Refused, ShardMessage};
use super::sink::DeliverySink;
use super::streams::{StreamFrom, Streams, Topics};
use super::tally::Tally;
use super::topology::Topology;
use super::types::{Consumer, Got, NewConsumer, Publish, QueueHandle, QueueStat, Routed, Settle};
use crate::broker::Stores;

/// How queues are set up.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Owner tasks, each with a state log; at most 16. Decided at the first start and kept in the store.
    pub shards: usize,
    /// Bytes of messages that may wait for one shard, and be in flight from it.
    pub mailbox_bytes: usize,
    /// Bytes of messages ready for delivery that one shard keeps in memory.
    pub ready_bytes: usize,
    /// How dead letters are made.
    pub letters: LetterWriter,
    /// The topics that are there as streams; `None`: there are no streams.
    pub topics: Option<Topics>,
    /// How long a delivery of a quorum queue may be unsettled, in milliseconds, unless its queue or its consumer
    /// says otherwise; `None`: for ever.
    pub consumer_timeout_ms: Option<u64>,
    /// Of how many messages that exchanges keep back, for each of ten ranges of delays of a virtual host, it is known in
    /// memory when they are due; at most twice as many, 24 bytes each.
    pub delays_in_memory: usize,
    /// What queues are that name no type in virtual hosts that are made from now on and do not say, the first one
    /// included; kept with each.
    pub default_queue_type: QueueType,
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions {
            shards: 4,
            mailbox_bytes: 64 * 1024 * 1024,
            ready_bytes: 32 * 1024 * 1024,
            letters: LetterWriter::default(),
            topics: None,
            consumer_timeout_ms: None,
            delays_in_memory: 131_072,
            default_queue_type: QueueType::Classic,
        }
    }
}

/// All queues and exchanges of a broker.
pub struct Queues {
    pub(super) stores: Stores,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) tasks: Tasks,
    pub(super) owner: OwnerId,
    pub(super) topology: RwLock<Topology>,
    pub(super) generation: AtomicU64,
    /// Those of queues, and behind them the desk of streams, if there is one.
    pub(super) shards: Vec<MailboxSender<ShardMessage>>,
    pub(super) streams: Option<Streams>,
    /// Changes of the topology are made one at a time.
    pub(super) admin: Arc<Mutex<Admin>>,
    pub(super) sessions: AtomicU64,
    /// Joint commits are put together one at a time.
    pub(super) joint: Joint,
    pub(super) letters: LetterWriter,
    pub(super) default_queue_type: QueueType,
    pub(super) tally: Arc<Tally>,
    /// Who may move dead letters.
    pub(super) movers: Semaphore,
}

impl Queues {
    /// A new session.
    #[must_use]
    pub fn session(self: &Arc<Queues>) -> Session {
        Session::new(self.sessions.fetch_add(1, Ordering::Relaxed) + 1, self.clone())
    }

    /// What happened so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Rises with every change after which a message may go elsewhere.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let topics = self.streams.as_ref().map_or(0, Streams::generation);
        self.generation.load(Ordering::Acquire) + topics
    }

    /// Something may go elsewhere from now on.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether there is such a virtual host.
    #[must_use]
    pub fn has_vhost(&self, vhost: &str) -> bool {
        self.topology.read().has_vhost(vhost)
    }

    /// Where a message published to `exchange` goes; empty if nowhere. Cheap and without I/O. For some exchanges the
    /// answer depends on `headers` or on chance; see [`Queues::routes_by_headers`].
    ///
    /// To keep an answer, read [`Queues::generation`] *before* asking.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::NoVhost`] or [`QueueError::Internal`].
    pub fn route(
        &self,
        vhost: &str,
        exchange: &str,
        routing_key: &[u8],
        headers: &dyn Headers,
    ) -> Result<Routed, QueueError> {
        self.route_all(vhost, exchange, &[routing_key], headers)
    }

    /// The same for a message with carbon copies: several routing keys, that of the message first.
    ///
    /// # Errors
    /// [`QueueError::NotFound`], [`QueueError::NoVhost`] or [`QueueError::Internal`].
    pub fn route_all(
        &self,
        vhost: &str,
        exchange: &str,
        keys: &[&[u8]],
        headers: &dyn Headers,
    ) -> Result<Routed, QueueError> {
        let message = Routable { keys, headers, rng: &self.rng };
        let routed = self.topology.read().vhost(vhost)?.route(exchange, &message)?;
        Ok(if exchange.is_empty() { self.with_topics(vhost, keys, routed) } else { routed })
    }

    /// Whether an exchange, or one that it leads to, looks at more than routing keys (at headers, properties, or
    /// rolls dice): then a route must not be kept for other messages.
    #[must_use]
    pub fn routes_by_headers(&self, vhost: &str, exchange: &str) -> bool {
        self.topology.read().vhost(vhost).is_ok_and(|vhost| vhost.varies(exchange))
    }

    /// Hands messages to their queues. Returns once they are enqueued, in order: this is where back-pressure is
    /// felt. The future it returns resolves when each is in every queue it goes to, durably where promised.
    pub async fn publish(self: &Arc<Queues>, messages: Vec<Publish>) -> PendingPublish {
        let mut failed = Vec::new();
        for (index, publish) in (0u32..).zip(&messages) {
            if publish.message.priority.is_some()
                && let Err(error) = self.make_levels(publish).await
            {
                failed.push((index, error));
            }
        }
        let (mut pending, shares) = self.shares(messages, failed);
        for (shard, items) in self.shards.iter().zip(shares).filter(|(_, items)| !items.is_empty()) {
            let message = pending.ask(items);
            let bytes = message.bytes();
            // If the shard has ended, the answer's sender is gone and every item fails.
            let _ended = shard.send(message, bytes).await.is_err();
        }
        pending
    }

    /// The same, at once, for messages that the caller holds room for until the answer is there. One of a priority that
    /// its queue has no log for yet goes to the queue's own.
    pub(super) fn publish_beside(&self, messages: Vec<Publish>) -> PendingPublish {
        let (mut pending, shares) = self.shares(messages, Vec::new());
        for (shard, items) in self.shards.iter().zip(shares).filter(|(_, items)| !items.is_empty()) {
            let _ended = shard.send_beside(pending.ask(items)).is_err();
        }
        pending
    }

    /// Which shard gets what, but for those that have failed.
    fn shares(&self, messages: Vec<Publish>, mut failed: Failed) -> (PendingPublish, Vec<Vec<Item>>) {
        let count = messages.len();
        let refused: Vec<u32> = failed.iter().map(|(index, _)| *index).collect();
        let mut by_shard: Vec<Vec<Item>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (index, publish) in (0u32..).zip(messages) {
            if refused.binary_search(&index).is_ok() {
                continue;
            }
            // Nearly no message has copies that are kept back; the others are moved once.
            if publish.to.keeps() {
                publish.spread().for_each(|part| share(index, part, count, &mut by_shard, &mut failed));
            } else {
                share(index, publish, count, &mut by_shard, &mut failed);
            }
        }
        (PendingPublish { count, failed, waiting: Vec::with_capacity(1) }, by_shard)
    }

    /// Begins to consume. Deliveries may be in `sink` before this returns.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn consume(
        &self,
        session: &Session,
        vhost: &str,
        queue: &str,
        new: NewConsumer,
        sink: &DeliverySink,
    ) -> Result<Consumer, QueueError> {
        let queue = self.find(session, vhost, queue)?;
        let (to, session, sink) = (queue.clone(), session.id(), sink.clone());
        let consume = |reply| ShardMessage::Consume { queue: to, session, new, sink, reply };
        let id = self.ask(&queue, consume).await?.map_err(|why| refused(&queue, why))?;
        Ok(Consumer { queue, id })
    }

    /// Begins to consume a stream.
    ///
    /// # Errors
    /// [`QueueError`]; [`QueueError::NotFound`] also if it is no stream.
    pub async fn consume_stream(
        &self,
        session: &Session,
        vhost: &str,
        queue: &str,
        new: NewConsumer,
        from: StreamFrom,
        sink: &DeliverySink,
    ) -> Result<Consumer, QueueError> {
        let queue = self.find(session, vhost, queue)?;
        let (to, session, sink, from) = (queue.clone(), session.id(), sink.clone(), Box::new(from));
        let consume = |reply| ShardMessage::ConsumeStream { queue: to, session, new, from, sink, reply };
        let id = self.ask(&queue, consume).await?.map_err(|why| refused(&queue, why))?;
        Ok(Consumer { queue, id })
    }

    /// Ends a consumer. Whatever was sent to it is in its sink when this returns, and stays unsettled until the
    /// session settles it or ends. A queue declared auto-delete goes with its last consumer.
    ///
    /// # Errors
    /// [`QueueError`], if deleting the queue failed.
    pub async fn cancel(
        self: &Arc<Queues>,
        session: &Session,
        consumer: &Consumer,
    ) -> Result<(), QueueError> {
        let (queue, id, session) = (consumer.queue.clone(), consumer.id, session.id());
        let cancel = |reply| ShardMessage::Cancel { queue, session, consumer: id, reply };
        let last = self.ask(&consumer.queue, cancel).await?;
        if last { self.delete_if_auto(&consumer.queue).await } else { Ok(()) }
    }

    /// Grants a consumer more; for [`Credit::Window`](super::Credit::Window) widens the window.
    pub async fn credit(&self, consumer: &Consumer, more: u32) {
        let credit = ShardMessage::Credit { queue: consumer.queue.clone(), consumer: consumer.id, more };
        self.tell(&consumer.queue, credit).await;
    }

    /// Takes the first message, if there is one.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn get(
        &self,
        session: &Session,
        vhost: &str,
        queue: &str,
        no_ack: bool,
    ) -> Result<Option<Got>, QueueError> {
        let queue = self.find(session, vhost, queue)?;
        not_of_streams(&queue, "basic.get")?;
        let (from, told, session) = (queue.clone(), session.told(), session.id());
        let get = |reply| ShardMessage::Get { queue: from, session, no_ack, told, reply };
        let got = self.ask(&queue, get).await?.map_err(|why| refused(&queue, why))?;
        Ok(got.map(|(delivery, ready)| Got { queue, delivery, ready }))
    }

    /// Settles deliveries of one queue to this session. Returns once enqueued: a later call to the queue sees it.
    /// What this session does not hold is left alone.
    pub async fn settle(&self, session: &Session, queue: &QueueHandle, what: Vec<(Offset, Settle)>) {
        let settle = ShardMessage::Settle { queue: queue.clone(), session: session.id(), what };
        self.tell(queue, settle).await;
    }

    /// What sort of queue one is that this session may use.
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn kind(&self, session: &Session, vhost: &str, queue: &str) -> Result<QueueType, QueueError> {
        if self.find(session, vhost, queue)?.is_stream() {
            return Ok(QueueType::Stream);
        }
        let topology = self.topology.read();
        let entry = topology.vhost(vhost)?.queue_for(queue, session.id())?;
        Ok(QueueType::of(&entry.spec.arguments).unwrap_or(QueueType::Classic))
    }

    /// What is in a queue.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] if it has been deleted.
    pub async fn stat(&self, queue: &QueueHandle) -> Result<QueueStat, QueueError> {
        let stat = |reply| ShardMessage::Stat { queue: queue.clone(), declared: false, reply };
        self.ask(queue, stat).await?.map_err(|why| refused(queue, why))
    }

    /// A queue that this session may use.
    pub(super) fn find(&self, session: &Session, vhost: &str, name: &str) -> Result<QueueHandle, QueueError> {
        let found =
            self.topology.read().vhost(vhost)?.queue_for(name, session.id()).map(|q| q.handle.clone());
        self.or_topic(vhost, name, found)
    }

    pub(super) async fn tell(&self, queue: &QueueHandle, message: ShardMessage) {
        let bytes = message.bytes();
        // A shard that has ended has nothing to settle.
        let _ended = self.shards[queue.0.shard].send(message, bytes).await.is_err();
    }

    pub(super) async fn ask<T>(
        &self,
        queue: &QueueHandle,
        message: impl FnOnce(oneshot::Sender<T>) -> ShardMessage,
    ) -> Result<T, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.tell(queue, message(reply)).await;
        answer.await.map_err(|_| QueueError::Stopped)
    }
}

/// Refuses what streams do not have.
pub(super) fn not_of_streams(queue: &QueueHandle, what: &'static str) -> Result<(), QueueError> {
    if !queue.is_stream() {
        return Ok(());
    }
    Err(QueueError::NotOfStreams { vhost: queue.vhost().clone(), name: queue.name().clone(), what })
}

/// A shard's refusal, with names.
pub(super) fn refused(queue: &QueueHandle, why: Refused) -> QueueError {
    let (vhost, name) = (queue.vhost().clone(), queue.name().clone());
    match why {
        Refused::Gone => QueueError::NotFound { entity: Entity::Queue, vhost, name },
        Refused::Exclusive => QueueError::ExclusiveConsumer { vhost, name },
        Refused::SingleActive => QueueError::SingleActive { vhost, name },
        Refused::InUse => QueueError::InUse { entity: Entity::Queue, vhost, name },
        Refused::NotEmpty => QueueError::NotEmpty { vhost, name },
        Refused::Full(queue) => QueueError::Full { vhost: queue.vhost().clone(), name: queue.name().clone() },
        Refused::Storage(error) => QueueError::Storage(error),
    }
}

/// Messages that were handed to their queues. Resolves once; may be dropped, the messages go on.
#[must_use]
pub struct PendingPublish {
    count: usize,
    failed: Failed,
    /// Per shard: which messages went there, and its answer.
    waiting: Vec<(Vec<u32>, oneshot::Receiver<Failed>)>,
}

impl PendingPublish {
    /// Waits for what becomes of these, too.
    fn ask(&mut self, items: Vec<Item>) -> ShardMessage {
        let indexes = items.iter().map(|item| item.index).collect();
        let (reply, answer) = oneshot::channel();
        self.waiting.push((indexes, answer));
        ShardMessage::Publish { items, reply }
    }
}

impl Future for PendingPublish {
    type Output = Published;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Published> {
        let this = &mut *self;
        while let Some((indexes, answer)) = this.waiting.last_mut() {
            match Pin::new(answer).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(failed)) => this.failed.extend(failed),
                Poll::Ready(Err(_)) => {
                    this.failed.extend(indexes.iter().map(|index| (*index, QueueError::Stopped)));
                }
            }
            this.waiting.pop();
        }
        let mut failed = std::mem::take(&mut this.failed);
        failed.sort_by_key(|(index, _)| *index);
        failed.dedup_by_key(|(index, _)| *index);
        let failed = failed.into_iter().map(|(index, error)| (index as usize, error)).collect();
        Poll::Ready(Published { count: this.count, failed })
    }
}

/// What became of the messages of one [`Queues::publish`].
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// How many messages there were.
    pub count: usize,
    /// Those that are not in all their queues, by their place in the call, ascending, and why.
    pub failed: Vec<(usize, QueueError)>,
}

/// Gives each shard that has one of its queues a message out of `count`.
fn share(index: u32, publish: Publish, count: usize, by_shard: &mut [Vec<Item>], failed: &mut Failed) {
    let Publish { message, to } = publish;
    if message.bytes() > QUEUE_MESSAGE_BYTES_MAX {
        let limit = QUEUE_MESSAGE_BYTES_MAX as u64;
        failed.push((index, QueueError::Limit { what: "the size of a message", limit }));
        return;
    }
    let Some(first) = to.queues().first().map(|first| first.0.shard) else { return };
    let item = Item::new(index, message, to);
    let queues = item.to.queues();
    for (at, queue) in queues.iter().enumerate() {
        let shard = queue.0.shard;
        if shard != first && !queues[..at].iter().any(|before| before.0.shard == shard) {
            by_shard[shard].push(item.clone());
        }
    }
    if index == 0 {
        // Most often all go to one queue: a list that grows is copied as often as it doubles.
        by_shard[first].reserve_exact(count);
    }
    by_shard[first].push(item);
}
