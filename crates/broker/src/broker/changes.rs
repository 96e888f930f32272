//! Changes as callers ask for them: what was begun is brought to its end, also if the caller goes away.
//!
//! A client that closes takes the future of its request with it. A change of topics that stopped halfway would
//! leave a topic that is stored but not seen, or a counter that the next one finds changed under its hands.
//!
//! **Invariants.** The turn is taken before anything is begun, by the caller, so that no more than one change
//! goes on without a client; it is given back when the change has ended, not when the caller has.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use ferrymq_storage::{ErrorKind, StorageError};

use super::{Broker, PRODUCER_ID_BLOCK};
use crate::to_its_end::to_its_end;
use crate::topics::{NewTopic, Topic, TopicError};

/// How often a change is tried that other brokers' changes get before.
const ATTEMPTS: usize = 10;

impl Broker {
    /// Creates a topic. Durable and writable when it returns; finished even if nobody waits for it.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn create_topic(self: &Arc<Self>, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        self.anew(&new.name.clone(), move |broker, _| {
            let new = new.clone();
            async move { broker.create_topic_now(new).await }
        })
        .await
    }

    /// Adds partitions until the topic has `total`. Finished even if nobody waits for it.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn create_partitions(
        self: &Arc<Self>,
        name: &str,
        total: u32,
    ) -> Result<Arc<Topic>, TopicError> {
        self.anew(name, move |broker, name| async move { broker.create_partitions_now(&name, total).await })
            .await
    }

    /// Replaces what is set on a topic. Finished even if nobody waits for it.
    ///
    /// # Errors
    /// [`TopicError`]; then nothing changed.
    pub async fn set_config(
        self: &Arc<Self>,
        name: &str,
        config: BTreeMap<String, String>,
    ) -> Result<(), TopicError> {
        self.anew(name, move |broker, name| {
            let config = config.clone();
            async move { broker.set_config_now(&name, config).await }
        })
        .await
    }

    /// Sets these settings of a topic and leaves the others, whoever changes those meanwhile. Finished even if nobody waits.
    ///
    /// # Errors
    /// [`TopicError`]; then nothing changed.
    pub async fn change_config(
        self: &Arc<Self>,
        name: &str,
        changed: BTreeMap<String, String>,
    ) -> Result<(), TopicError> {
        self.anew(name, move |broker, name| {
            let changed = changed.clone();
            async move {
                let topic = broker.topics.get(&name).ok_or(TopicError::NotFound)?;
                let mut config = topic.config.get().overrides.clone();
                config.extend(changed);
                broker.set_config_now(&name, config).await
            }
        })
        .await
    }

    /// Deletes a topic and its logs. Gone for good when it returns, finished even if nobody waits for it; a
    /// crash before is finished at the next start.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn delete_topic(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>, TopicError> {
        self.anew(name, |broker, name| async move { broker.delete_topic_now(&name).await }).await
    }

    /// A producer id nobody has had before (KIP-98).
    ///
    /// # Errors
    /// Whatever the store answers.
    pub async fn new_producer_id(self: &Arc<Self>) -> Result<i64, StorageError> {
        let mut block = self.producer_ids.clone().lock_owned().await;
        if block.is_empty() {
            let broker = self.clone();
            let refill = async move {
                let first = broker.take_from_counter("counters/producer-id", PRODUCER_ID_BLOCK, 0).await?;
                *block = first..first + PRODUCER_ID_BLOCK;
                Ok::<_, StorageError>(block)
            };
            block = to_its_end(&self.tasks, refill).await?;
        }
        let id = block.start;
        block.start += 1;
        i64::try_from(id).map_err(|_| StorageError::new(ErrorKind::LimitExceeded, "producer ids are used up"))
    }

    /// Runs a change of a topic; again on what is there by then, if another broker changed it at the same time.
    async fn anew<T, F>(
        self: &Arc<Self>,
        name: &str,
        change: impl Fn(Arc<Broker>, String) -> F + Clone + Send + 'static,
    ) -> Result<T, TopicError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TopicError>> + Send,
    {
        let mut attempts = 0;
        loop {
            self.look_up_topic(name).await?;
            let (change, name) = (change.clone(), name.to_owned());
            attempts += 1;
            match self.in_turn(move |broker| change(broker, name)).await {
                Err(TopicError::Storage(error))
                    if error.kind() == ErrorKind::Conflict
                        && self.options.cluster.is_some()
                        && attempts < ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    /// Runs a change of topics when it is its turn.
    async fn in_turn<T, F>(
        self: &Arc<Self>,
        change: impl FnOnce(Arc<Broker>) -> F + Send + 'static,
    ) -> Result<T, TopicError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TopicError>> + Send,
    {
        let turn = self.admin.clone().lock_owned().await;
        let broker = self.clone();
        let change = async move {
            let _one_at_a_time = turn;
            change(broker).await
        };
        to_its_end(&self.tasks, change).await
    }
}
