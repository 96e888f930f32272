//! The broker: topics on a store, owned by shards.
//!
//! **Invariants.** A topic is seen by readers only once its record and its logs are durable. Changes of topics
//! are made one at a time, each to its end. The shards end with the last handle.
//!
//! Deliberately absent: listeners, protocols, the choice of an engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::{Compare, ErrorKind, LogStore, MetaStore, Op, Outcome, Put, StorageError};
use ferrymq_types::{LogId, Offset, OwnerId};
use tokio::sync::{Mutex, oneshot};

mod admin;
mod changes;
mod load;
mod owning;

pub use admin::FIRST_TOPIC_LOG;
pub(crate) use admin::{decode, encode};

use crate::appended::AllMarks;
use crate::believed::Keeper;
use crate::cluster::View;
use crate::partition::Partition;
use crate::producers::Producers;
use crate::settings::TopicDefaults;
use crate::shard::together::Together;
use crate::shard::{AppendError, AppendItem, AppendResults, Lost, Message, Shard, ShardContext};
use crate::topics::Registry;

/// Producer ids taken from the store at a time.
const PRODUCER_ID_BLOCK: u64 = 1000;
/// Bytes a message without a payload is counted as in a mailbox.
const SMALL_MESSAGE_BYTES: usize = 256;

/// How a broker is set up.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Owner tasks.
    pub shards: usize,
    /// What topics get that say nothing else.
    pub topic_defaults: TopicDefaults,
    /// How often retention looks; Kafka's `log.retention.check.interval.ms`.
    pub retention_interval: Duration,
    /// After how long a silent producer is forgotten; Kafka's `producer.id.expiration.ms`.
    pub producer_expiration: Duration,
    /// Whether a step of the system's clock is believed at once; otherwise [`crate::retention`] waits.
    pub trust_clock: bool,
    /// Whether a topic that asks for more than one copy is refused.
    pub strict_copies: bool,
    /// What is known of the others, if this is one of several brokers on the store.
    pub cluster: Option<Arc<View>>,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        BrokerOptions {
            shards: 2,
            topic_defaults: TopicDefaults::default(),
            retention_interval: Duration::from_secs(300),
            producer_expiration: Duration::from_secs(24 * 60 * 60),
            trust_clock: false,
            strict_copies: false,
            cluster: None,
        }
    }
}

/// The store a broker stands on.
#[derive(Clone)]
pub struct Stores {
    /// Logs.
    pub logs: Arc<dyn LogStore>,
    /// Topics and counters.
    pub meta: Arc<dyn MetaStore>,
    /// What can be rebuilt, kept to start faster.
    pub state: Arc<dyn MetaStore>,
}

/// A running broker.
pub struct Broker {
    stores: Stores,
    options: BrokerOptions,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    owner: OwnerId,
    cluster_id: String,
    topics: Registry,
    shards: Vec<Shard>,
    context: ShardContext,
    admin: Arc<Mutex<()>>,
    producer_ids: Arc<Mutex<std::ops::Range<u64>>>,
    /// Held while retention looks: one look at a time.
    pub(crate) retention: Mutex<(Keeper, AllMarks)>,
}

impl Broker {
    /// Reads the topics, claims their logs and starts the owners.
    ///
    /// # Errors
    /// Whatever the store answers, or `Internal` for records of a newer version.
    pub async fn open(
        stores: Stores,
        options: BrokerOptions,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
    ) -> Result<Arc<Broker>, StorageError> {
        let owner = OwnerId(rng.next_u128());
        let context = ShardContext {
            store: stores.logs.clone(),
            state: stores.state.clone(),
            clock: clock.clone(),
            owner,
            writer: rng.next_u64(),
            tasks: tasks.clone(),
            lost: options.cluster.clone().map(Lost::new),
        };
        let shards = (0..options.shards.max(1)).map(|_| Shard::start(context.clone())).collect();
        let cluster_id = cluster_id(&*stores.meta, &rng).await?;
        crate::shard::load::check_snapshots(&*stores.state).await?;
        // Before anything is stamped or expires.
        let keeper = Keeper::open(stores.meta.clone(), clock.clone(), options.trust_clock).await?;
        let marks = AllMarks::load(stores.state.clone()).await?;
        let broker = Arc::new(Broker {
            stores,
            retention: Mutex::new((keeper, marks)),
            clock,
            rng,
            tasks,
            owner,
            cluster_id,
            topics: Registry::default(),
            shards,
            context,
            admin: Arc::default(),
            producer_ids: Arc::default(),
            options,
        });
        if broker.options.cluster.is_none() {
            broker.load_topics().await?;
            broker.finish_deletions().await?;
        }
        crate::retention::start(&broker, broker.options.retention_interval);
        Ok(broker)
    }

    /// The topics.
    #[must_use]
    pub fn topics(&self) -> &Registry {
        &self.topics
    }

    /// The clock everything here goes by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The random numbers everything here uses.
    #[must_use]
    pub fn rng(&self) -> &Rng {
        &self.rng
    }

    /// The tasks of this broker.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Who this broker is to the store.
    #[must_use]
    pub fn owner(&self) -> OwnerId {
        self.owner
    }

    /// What is known of the others, if this is one of several brokers.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<View>> {
        self.options.cluster.as_ref()
    }

    /// Whether this broker may answer for a partition as its owner.
    #[must_use]
    pub fn is_served(&self, partition: &Partition) -> bool {
        !partition.is_elsewhere() && self.options.cluster.as_ref().is_none_or(|view| view.is_serving())
    }

    /// The store of logs.
    #[must_use]
    pub fn logs(&self) -> &Arc<dyn LogStore> {
        &self.stores.logs
    }

    /// The cluster's id: 22 characters, made at the first start.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What topics get that say nothing else.
    #[must_use]
    pub fn topic_defaults(&self) -> &TopicDefaults {
        &self.options.topic_defaults
    }

    /// Hands batches to their owners. The call returns once they are enqueued, in order; the future it
    /// returns resolves with one result per batch, in the order of `items`.
    pub async fn append(&self, items: Vec<AppendItem>) -> PendingAppends {
        let mut by_shard: Vec<(Vec<usize>, Vec<AppendItem>, usize)> =
            self.shards.iter().map(|_| (Vec::new(), Vec::new(), 0)).collect();
        let count = items.len();
        for (index, item) in items.into_iter().enumerate() {
            let part = &mut by_shard[self.shard_index(item.partition.log)];
            part.0.push(index);
            part.2 += item.bytes.len() + SMALL_MESSAGE_BYTES;
            part.1.push(item);
        }
        let mut parts = Vec::new();
        for (shard, (indexes, items, bytes)) in self.shards.iter().zip(by_shard) {
            if items.is_empty() {
                continue;
            }
            let (reply, answer) = oneshot::channel();
            // If the shard has ended, the answer's sender is gone and every item is answered `Gone`.
            shard.send(Message::Append { items, reply }, bytes).await;
            parts.push((indexes, answer));
        }
        PendingAppends { count, parts }
    }

    /// Asks the owners of these partitions for their parts of a joint commit; see [`Together`].
    pub(crate) async fn invite(&self, items: Vec<AppendItem>) -> Vec<Invited> {
        let mut by_shard: Vec<Vec<AppendItem>> = self.shards.iter().map(|_| Vec::new()).collect();
        for item in items {
            by_shard[self.shard_index(item.partition.log)].push(item);
        }
        let mut invited = Vec::new();
        for (shard, items) in self.shards.iter().zip(by_shard).filter(|(_, items)| !items.is_empty()) {
            let bytes = items.iter().map(|item| item.bytes.len() + SMALL_MESSAGE_BYTES).sum();
            let (reply, answer) = oneshot::channel();
            let (submitted, is_submitted) = oneshot::channel();
            let (outcome, is_decided) = oneshot::channel();
            let (over, is_over) = oneshot::channel();
            let part = Together { items, reply, submitted: is_submitted, outcome: is_decided, over };
            // If the shard has ended, the answer's sender is gone.
            let _ended = shard.send(Message::Together(Box::new(part)), bytes).await;
            invited.push(Invited { answer, submitted, outcome, over: is_over });
        }
        invited
    }

    /// Moves a partition's start up to `start` and returns the new start.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn trim(&self, partition: &Partition, start: Offset) -> Result<Offset, AppendError> {
        let until = partition.high_watermark();
        let start = start.min(until);
        crate::shard::load::remember_producers(&self.context, partition, until)
            .await
            .map_err(AppendError::Storage)?;
        let (reply, answer) = oneshot::channel();
        let message = Message::Trim { log: partition.log, start, reply };
        self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        answer.await.unwrap_or(Err(AppendError::Gone))
    }

    /// What is known of a partition's producers.
    ///
    /// # Errors
    /// [`AppendError::Gone`], or whatever the store answers when they are read from the log.
    pub async fn producers(&self, partition: &Partition) -> Result<Producers, AppendError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Producers { log: partition.log, reply };
        self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        answer.await.unwrap_or(Err(AppendError::Gone))
    }

    pub(crate) async fn expire_producers(&self) {
        let keep_ms = i64::try_from(self.options.producer_expiration.as_millis()).unwrap_or(i64::MAX);
        let cutoff_ms = self.clock.expiry_ms().saturating_sub(keep_ms);
        for shard in &self.shards {
            shard.send(Message::ExpireProducers { cutoff_ms }, SMALL_MESSAGE_BYTES).await;
        }
    }

    fn shard_index(&self, log: LogId) -> usize {
        usize::try_from(log.0).unwrap_or(0) % self.shards.len()
    }

    fn shard(&self, log: LogId) -> &Shard {
        &self.shards[self.shard_index(log)]
    }
}

/// Appends that were handed to their owners.
pub struct PendingAppends {
    count: usize,
    parts: Vec<(Vec<usize>, oneshot::Receiver<AppendResults>)>,
}

impl PendingAppends {
    /// Waits for all of them: one result per item, in order.
    pub async fn wait(self) -> AppendResults {
        let mut results: Vec<_> = (0..self.count).map(|_| Err(AppendError::Gone)).collect();
        for (indexes, answer) in self.parts {
            for (index, result) in indexes.into_iter().zip(answer.await.unwrap_or_default()) {
                results[index] = result;
            }
        }
        results
    }
}

/// An owner's words in a joint commit.
pub(crate) struct Invited {
    pub(crate) answer: oneshot::Receiver<Result<Vec<Op>, AppendError>>,
    pub(crate) submitted: oneshot::Sender<()>,
    pub(crate) outcome: oneshot::Sender<Outcome>,
    /// Its sender is dropped by the owner when it has done with it.
    pub(crate) over: oneshot::Receiver<()>,
}

async fn cluster_id(meta: &dyn MetaStore, rng: &Rng) -> Result<String, StorageError> {
    if let Some(entry) = meta.get("cluster/id").await? {
        return decode(&entry);
    }
    let id = base64_url(&rng.next_u128().to_be_bytes());
    let put = Put { key: "cluster/id".to_owned(), value: Some(encode(&id)?) };
    let compare = Compare { key: "cluster/id".to_owned(), revision: None };
    match (meta.txn(vec![compare], vec![put]).await, meta.get("cluster/id").await?) {
        // Another broker that starts at the same time was faster.
        (Err(error), Some(entry)) if error.kind() == ErrorKind::Conflict => decode(&entry),
        (outcome, _) => outcome.map(|_| id),
    }
}

/// 22 characters of URL-safe base64, as Kafka writes cluster ids.
pub(crate) fn base64_url(bytes: &[u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut padded = BytesMut::from(&bytes[..]);
    padded.extend_from_slice(&[0, 0]);
    let mut text = String::with_capacity(24);
    for group in padded.chunks_exact(3) {
        let bits = (usize::from(group[0]) << 16) | (usize::from(group[1]) << 8) | usize::from(group[2]);
        for shift in [18, 12, 6, 0] {
            text.push(char::from(ALPHABET[(bits >> shift) & 63]));
        }
    }
    text.truncate(22);
    text
}
