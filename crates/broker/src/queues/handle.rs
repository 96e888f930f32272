//! [`Queues`]: what a door calls.
//!
//! **Invariants.** A call that changes durable state returns when the change is durable. Dropping a call's
//! future withdraws nothing that was already handed on. Changes of the topology are made one at a time.
//!
//! Deliberately absent: retries; an error that is worth one says so.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::StorageError;
use ferrymq_types::Offset;

use super::error::QueueError;
use super::exchange::Headers;
use super::session::Session;
use super::sink::DeliverySink;
use super::types::{
    BindingSpec, Consumer, Declared, DeleteIf, ExchangeSpec, Got, NewConsumer, Publish, QueueHandle,
    QueueSpec, QueueStat, Routed, Settle,
};
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
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions { shards: 4, mailbox_bytes: 64 * 1024 * 1024, ready_bytes: 32 * 1024 * 1024 }
    }
}

/// All queues and exchanges of a broker.
pub struct Queues {}

impl Queues {
    /// Reads the topology, claims the queues' logs, replays what was acknowledged and starts the shards. At the
    /// first start it makes the virtual host `/` and its predeclared exchanges.
    ///
    /// # Errors
    /// Whatever the store answers, or `Internal` for records of a newer version.
    pub async fn open(
        stores: Stores,
        options: QueueOptions,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
    ) -> Result<Arc<Queues>, StorageError> {
        todo!()
    }

    /// A new session.
    #[must_use]
    pub fn session(self: &Arc<Queues>) -> Session {
        todo!()
    }

    /// Rises with every change after which a message may go elsewhere.
    #[must_use]
    pub fn generation(&self) -> u64 {
        todo!()
    }

    /// Whether there is such a virtual host.
    #[must_use]
    pub fn has_vhost(&self, vhost: &str) -> bool {
        todo!()
    }

    /// Makes a virtual host with its predeclared exchanges; whether it was not there before.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn create_vhost(&self, vhost: &str) -> Result<bool, QueueError> {
        todo!()
    }

    /// Makes an exchange, or checks that the one there is equivalent; whether it was made.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn declare_exchange(
        &self,
        session: &Session,
        vhost: &str,
        spec: ExchangeSpec,
    ) -> Result<bool, QueueError> {
        todo!()
    }

    /// What an exchange is (a passive declaration).
    ///
    /// # Errors
    /// [`QueueError::NotFound`] or [`QueueError::NoVhost`].
    pub fn exchange(&self, vhost: &str, name: &str) -> Result<ExchangeSpec, QueueError> {
        todo!()
    }

    /// Deletes an exchange with its bindings; whether it was there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn delete_exchange(
        &self,
        session: &Session,
        vhost: &str,
        name: &str,
        only_if: DeleteIf,
    ) -> Result<bool, QueueError> {
        todo!()
    }

    /// Makes a queue, or checks that the one there is equivalent and may be used by this session.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn declare_queue(
        &self,
        session: &Session,
        vhost: &str,
        spec: QueueSpec,
    ) -> Result<Declared, QueueError> {
        todo!()
    }

    /// A queue that this session may use, with what is in it (a passive declaration).
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn queue(&self, session: &Session, vhost: &str, name: &str) -> Result<Declared, QueueError> {
        todo!()
    }

    /// Deletes a queue with its bindings and messages; how many messages were ready.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn delete_queue(
        &self,
        session: &Session,
        vhost: &str,
        name: &str,
        only_if: DeleteIf,
    ) -> Result<u64, QueueError> {
        todo!()
    }

    /// Is done with all messages that are ready; how many.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn purge(&self, session: &Session, vhost: &str, name: &str) -> Result<u64, QueueError> {
        todo!()
    }

    /// Binds a queue to an exchange; nothing happens if the same binding is there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn bind(&self, session: &Session, vhost: &str, spec: BindingSpec) -> Result<(), QueueError> {
        todo!()
    }

    /// Takes a binding of a queue away; nothing happens if it is not there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn unbind(&self, session: &Session, vhost: &str, spec: BindingSpec) -> Result<(), QueueError> {
        todo!()
    }

    /// Binds an exchange (`destination`) to an exchange (`source`).
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn bind_exchange(
        &self,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
    ) -> Result<(), QueueError> {
        todo!()
    }

    /// Takes a binding of an exchange to an exchange away.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn unbind_exchange(
        &self,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
    ) -> Result<(), QueueError> {
        todo!()
    }

    /// Where a message published to `exchange` goes; empty if nowhere. Cheap and without I/O. Only for headers
    /// exchanges does the answer depend on `headers`; see [`Queues::routes_by_headers`].
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
        todo!()
    }

    /// Whether an exchange, or one that it leads to, looks at headers: then a route must not be kept for other
    /// messages.
    #[must_use]
    pub fn routes_by_headers(&self, vhost: &str, exchange: &str) -> bool {
        todo!()
    }

    /// Hands messages to their queues. Returns once they are enqueued, in order: this is where back-pressure is
    /// felt. The future it returns resolves when each is in every queue it goes to, durably where promised.
    pub async fn publish(&self, messages: Vec<Publish>) -> PendingPublish {
        todo!()
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
        todo!()
    }

    /// Ends a consumer. Whatever was sent to it is in its sink when this returns, and stays unsettled until the
    /// session settles it or ends. A queue declared auto-delete goes with its last consumer.
    ///
    /// # Errors
    /// [`QueueError`], if deleting the queue failed.
    pub async fn cancel(&self, session: &Session, consumer: &Consumer) -> Result<(), QueueError> {
        todo!()
    }

    /// Grants a consumer more; for [`Credit::Window`](super::Credit::Window) widens the window.
    pub async fn credit(&self, consumer: &Consumer, more: u32) {
        todo!()
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
        todo!()
    }

    /// Settles deliveries of one queue to this session. Returns once enqueued: a later call to the queue sees it.
    /// What this session does not hold is left alone.
    pub async fn settle(&self, session: &Session, queue: &QueueHandle, what: Vec<(Offset, Settle)>) {
        todo!()
    }

    /// What is in a queue.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] if it has been deleted.
    pub async fn stat(&self, queue: &QueueHandle) -> Result<QueueStat, QueueError> {
        todo!()
    }
}

/// Messages that were handed to their queues. Resolves once; may be dropped, the messages go on.
#[must_use]
pub struct PendingPublish {
    count: usize,
}

impl Future for PendingPublish {
    type Output = Published;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Published> {
        todo!()
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
