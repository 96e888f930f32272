//! Changes of the topology as a door asks for them: in turn, and to their end.
//!
//! A client that closes takes the future of its request with it. A deletion that stopped halfway would leave a queue that
//! is there and serves nobody; a declaration, a log that nothing names.
//!
//! **Invariants.** The turn is taken before anything is begun, by the caller, so that no more than one change goes on
//! without a client. What was begun ends, whoever waits for it.
//!
//! Deliberately absent: the changes themselves (`admin`, `bind`); virtual hosts (`vhosts`) and policies (`policy`).

use std::future::Future;
use std::sync::Arc;

use ferrymq_storage::StorageError;
use tokio::sync::OwnedMutexGuard;

use super::error::QueueError;
use super::handle::Queues;
use super::logs::Admin;
use super::session::Session;
use super::tally;
use super::topology::Destination;
use super::types::{BindingSpec, Declared, DeleteIf, ExchangeSpec, QueueHandle, QueueSpec};
use crate::to_its_end::to_its_end;

impl Queues {
    /// Makes an exchange, or checks that the one there is equivalent; whether it was made.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn declare_exchange(
        self: &Arc<Queues>,
        _session: &Session,
        vhost: &str,
        spec: ExchangeSpec,
    ) -> Result<bool, QueueError> {
        let vhost = vhost.to_owned();
        self.in_turn(
            |queues, mut turn| async move { queues.declare_exchange_now(&mut turn, &vhost, spec).await },
        )
        .await
    }

    /// Deletes an exchange with its bindings; whether it was there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn delete_exchange(
        self: &Arc<Queues>,
        _session: &Session,
        vhost: &str,
        name: &str,
        only_if: DeleteIf,
    ) -> Result<bool, QueueError> {
        let (vhost, name) = (vhost.to_owned(), name.to_owned());
        self.in_turn(|queues, _turn| async move { queues.delete_exchange_now(&vhost, &name, only_if).await })
            .await
    }

    /// Makes a queue, or checks that the one there is equivalent and may be used by this session.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn declare_queue(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: QueueSpec,
    ) -> Result<Declared, QueueError> {
        let (session, vhost) = (session.id(), vhost.to_owned());
        self.in_turn(move |queues, turn| async move {
            tally::count(&queues.tally.declared);
            let declared = queues.declare_queue_now(turn, session, &vhost, spec).await?;
            if declared.created {
                tally::count(&queues.tally.created);
            }
            Ok(declared)
        })
        .await
    }

    /// Deletes a queue with its bindings and messages; how many messages were ready.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn delete_queue(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        name: &str,
        only_if: DeleteIf,
    ) -> Result<u64, QueueError> {
        let (session, vhost, name) = (session.id(), vhost.to_owned(), name.to_owned());
        self.in_turn(move |queues, mut turn| async move {
            queues.delete_queue_now(&mut turn, session, &vhost, &name, only_if).await
        })
        .await
    }

    /// Deletes a queue that was declared auto-delete and has no consumers, if it is still there.
    pub(super) async fn delete_if_auto(self: &Arc<Queues>, queue: &QueueHandle) -> Result<(), QueueError> {
        let queue = queue.clone();
        self.in_turn(|queues, mut turn| async move { queues.delete_if_auto_now(&mut turn, &queue).await })
            .await
    }

    /// Deletes a queue that has been unused for as long as it may be, if it still is; whether it was deleted.
    pub(super) async fn delete_if_unused(
        self: &Arc<Queues>,
        queue: &QueueHandle,
    ) -> Result<bool, QueueError> {
        let queue = queue.clone();
        self.in_turn(|queues, mut turn| async move { queues.delete_if_unused_now(&mut turn, &queue).await })
            .await
    }

    /// Takes declarations away whose topic has gone, and has queues over topics read partitions that were added.
    pub(super) async fn follow_topics(self: &Arc<Queues>) -> Result<(), QueueError> {
        self.in_turn(|queues, mut turn| async move {
            queues.forget_lost_streams_now().await?;
            queues.follow_topics_now(&mut turn).await
        })
        .await
    }

    /// Deletes the exclusive queues of a session that has ended.
    pub(super) async fn delete_exclusive(self: &Arc<Queues>, session: u64) -> Result<(), QueueError> {
        self.in_turn(move |queues, mut turn| async move {
            queues.delete_exclusive_now(&mut turn, session).await;
            Ok(())
        })
        .await
    }

    /// Binds a queue to an exchange; nothing happens if the same binding is there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn bind(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
    ) -> Result<(), QueueError> {
        let destination = Destination::Queue(spec.destination.clone());
        self.add_in_turn(session, vhost, spec, destination).await
    }

    /// Takes a binding of a queue away; nothing happens if it is not there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn unbind(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
    ) -> Result<(), QueueError> {
        let destination = Destination::Queue(spec.destination.clone());
        self.remove_in_turn(session, vhost, spec, destination).await
    }

    /// Binds an exchange (`destination`) to an exchange (`source`).
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn bind_exchange(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
    ) -> Result<(), QueueError> {
        let destination = Destination::Exchange(spec.destination.clone());
        self.add_in_turn(session, vhost, spec, destination).await
    }

    /// Takes a binding of an exchange to an exchange away; nothing happens if it is not there.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn unbind_exchange(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
    ) -> Result<(), QueueError> {
        let destination = Destination::Exchange(spec.destination.clone());
        self.remove_in_turn(session, vhost, spec, destination).await
    }

    async fn add_in_turn(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
        destination: Destination,
    ) -> Result<(), QueueError> {
        let (session, vhost) = (session.id(), vhost.to_owned());
        self.in_turn(move |queues, mut turn| async move {
            queues.add_binding(&mut turn, session, &vhost, spec, destination).await
        })
        .await
    }

    async fn remove_in_turn(
        self: &Arc<Queues>,
        session: &Session,
        vhost: &str,
        spec: BindingSpec,
        destination: Destination,
    ) -> Result<(), QueueError> {
        let (session, vhost) = (session.id(), vhost.to_owned());
        self.in_turn(move |queues, _turn| async move {
            queues.remove_binding(session, &vhost, spec, destination).await
        })
        .await
    }

    /// Runs a change when it is its turn.
    pub(super) async fn in_turn<T, F, E>(
        self: &Arc<Queues>,
        change: impl FnOnce(Arc<Queues>, OwnedMutexGuard<Admin>) -> F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let turn = self.admin.clone().lock_owned().await;
        to_its_end(&self.tasks, change(self.clone(), turn)).await
    }
}
