//! The broker: topics on a store, owned by shards.
//!
//! **Invariants.** A topic is seen by readers only once its record and its logs are durable. Changes of topics
//! are made one at a time. Dropping the last handle does not stop the shards; [`Broker::stop`] does.
//!
//! Deliberately absent: listeners, protocols, the choice of an engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::{
    Action, Claim, Compare, Entry, ErrorKind, LogStore, MetaStore, Op, Put, Revision, StorageError,
};
use ferrymq_types::limits::{PARTITIONS_MAX, TOPIC_PARTITIONS_MAX};
use ferrymq_types::{LogId, Offset, OwnerId};
use tokio::sync::{Mutex, oneshot};
use uuid::Uuid;

use crate::partition::{Bounds, Partition};
use crate::producers::Producers;
use crate::settings::{ConfigCell, TopicConfig, TopicDefaults};
use crate::shard::{AppendError, AppendItem, AppendResults, Message, Shard, ShardContext};
use crate::topics::{
    DeletingRecord, NewTopic, RECORD_VERSION, Registry, Topic, TopicError, TopicRecord, check_name, log_ids,
};

/// Logs below this id are the broker's own (metadata, state, groups).
pub const FIRST_TOPIC_LOG: u64 = 1024;
/// Logs claimed in one call at start.
const CLAIMS_PER_CALL: usize = 10_000;
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
}

impl Default for BrokerOptions {
    fn default() -> Self {
        BrokerOptions {
            shards: 2,
            topic_defaults: TopicDefaults::default(),
            retention_interval: Duration::from_secs(300),
            producer_expiration: Duration::from_secs(24 * 60 * 60),
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
    admin: Mutex<()>,
    producer_ids: Mutex<std::ops::Range<u64>>,
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
        };
        let shards = (0..options.shards.max(1)).map(|_| Shard::start(context.clone())).collect();
        let cluster_id = cluster_id(&*stores.meta, &rng).await?;
        let broker = Arc::new(Broker {
            stores,
            clock,
            rng,
            tasks,
            owner,
            cluster_id,
            topics: Registry::default(),
            shards,
            admin: Mutex::new(()),
            producer_ids: Mutex::new(0..0),
            options,
        });
        broker.load_topics().await?;
        broker.finish_deletions().await?;
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

    /// Moves a partition's start up to `start` and returns the new start.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn trim(&self, partition: &Partition, start: Offset) -> Result<Offset, AppendError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Trim { log: partition.log, start, reply };
        self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        answer.await.unwrap_or(Err(AppendError::Gone))
    }

    /// What is known of a partition's producers; `None` if nobody idempotent has written since start.
    pub async fn producers(&self, partition: &Partition) -> Option<Producers> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Producers { log: partition.log, reply };
        self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        answer.await.ok().flatten()
    }

    pub(crate) async fn expire_producers(&self) {
        let keep_ms = i64::try_from(self.options.producer_expiration.as_millis()).unwrap_or(i64::MAX);
        let cutoff_ms = self.clock.wall_ms().saturating_sub(keep_ms);
        for shard in &self.shards {
            shard.send(Message::ExpireProducers { cutoff_ms }, SMALL_MESSAGE_BYTES).await;
        }
    }

    /// A producer id nobody has had before (KIP-98).
    ///
    /// # Errors
    /// Whatever the store answers.
    pub async fn new_producer_id(&self) -> Result<i64, StorageError> {
        let mut block = self.producer_ids.lock().await;
        if block.is_empty() {
            let first = self.take_from_counter("counters/producer-id", PRODUCER_ID_BLOCK, 0).await?;
            *block = first..first + PRODUCER_ID_BLOCK;
        }
        let id = block.start;
        block.start += 1;
        i64::try_from(id).map_err(|_| StorageError::new(ErrorKind::LimitExceeded, "producer ids are used up"))
    }

    /// Checks what [`Broker::create_topic`] would, without creating.
    ///
    /// # Errors
    /// [`TopicError`].
    pub fn check_new_topic(&self, new: &NewTopic) -> Result<TopicConfig, TopicError> {
        check_name(&new.name)?;
        if self.topics.get(&new.name).is_some() {
            return Err(TopicError::Exists(new.name.clone()));
        }
        self.check_partitions(0, new.partitions)?;
        Ok(TopicConfig::new(new.config.clone(), &self.options.topic_defaults)?)
    }

    /// Creates a topic. Durable and writable when it returns.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn create_topic(&self, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
        let _one_at_a_time = self.admin.lock().await;
        self.check_new_topic(&new)?;
        let logs = self.new_logs(new.partitions).await?;
        let record = TopicRecord {
            v: RECORD_VERSION,
            id: Uuid::from_u128(self.rng.next_u128() | 1),
            logs,
            config: new.config,
            created_ms: self.clock.wall_ms(),
        };
        // Claimed before the record is stored: a crash in between leaves logs without a name, never a topic
        // without logs.
        let claims = self.stores.logs.claim(log_ids(&record.logs), self.owner).await?;
        let key = format!("topics/{}", new.name);
        self.put(vec![Compare { key: key.clone(), revision: None }], key, encode(&record)?).await?;
        let topic = self.build_topic(&new.name, record, &claims, None)?;
        self.attach(&topic, 0).await;
        self.topics.insert(topic.clone());
        Ok(topic)
    }

    /// Adds partitions until the topic has `total`.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn create_partitions(&self, name: &str, total: u32) -> Result<Arc<Topic>, TopicError> {
        let _one_at_a_time = self.admin.lock().await;
        let topic = self.topics.get(name).ok_or(TopicError::NotFound)?;
        let old = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        self.check_partitions(old, total)?;
        let logs = self.new_logs(total - old).await?;
        let claims = self.stores.logs.claim(log_ids(&logs), self.owner).await?;
        let mut record = topic.record.clone();
        record.logs.extend(logs);
        self.put(Vec::new(), format!("topics/{name}"), encode(&record)?).await?;
        let grown = self.build_topic(name, record, &claims, Some(&topic))?;
        self.attach(&grown, old as usize).await;
        self.topics.insert(grown.clone());
        Ok(grown)
    }

    /// Replaces what is set on a topic.
    ///
    /// # Errors
    /// [`TopicError`]; then nothing changed.
    pub async fn set_config(&self, name: &str, config: BTreeMap<String, String>) -> Result<(), TopicError> {
        let _one_at_a_time = self.admin.lock().await;
        let topic = self.topics.get(name).ok_or(TopicError::NotFound)?;
        let parsed = TopicConfig::new(config.clone(), &self.options.topic_defaults)?;
        let record = TopicRecord { config, ..topic.record.clone() };
        self.put(Vec::new(), format!("topics/{name}"), encode(&record)?).await?;
        topic.config.set(parsed);
        let (id, name, config) = (topic.id, topic.name.clone(), topic.config.clone());
        let partitions = topic.partitions.clone();
        self.topics.insert(Arc::new(Topic { id, name, partitions, config, record }));
        Ok(())
    }

    /// Deletes a topic and its logs. Gone for good when it returns; a crash before is finished at the next
    /// start.
    ///
    /// # Errors
    /// [`TopicError`].
    pub async fn delete_topic(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        let _one_at_a_time = self.admin.lock().await;
        let topic = self.topics.get(name).ok_or(TopicError::NotFound)?;
        let deleting = DeletingRecord { v: RECORD_VERSION, logs: topic.record.logs.clone() };
        let puts = vec![
            Put { key: format!("topics/{name}"), value: None },
            Put { key: format!("deleting/{}", topic.id), value: Some(encode(&deleting)?) },
        ];
        self.stores.meta.txn(Vec::new(), puts).await?;
        self.topics.remove(name);
        for partition in &topic.partitions {
            partition.publish_gone();
            let message = Message::Detach { log: partition.log };
            self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        }
        let ops = topic.partitions.iter().map(|partition| {
            let (log, epoch, owner) = (partition.log, partition.epoch(), self.owner);
            vec![Op { log, epoch, owner, action: Action::Delete }]
        });
        for outcome in self.stores.logs.commit(ops.collect()).await {
            outcome?;
        }
        let put = Put { key: format!("deleting/{}", topic.id), value: None };
        self.stores.meta.txn(Vec::new(), vec![put]).await?;
        Ok(topic)
    }

    fn check_partitions(&self, old: u32, total: u32) -> Result<(), TopicError> {
        let all = self.topics.with(|topics| topics.partitions());
        let added = (total.saturating_sub(old)) as usize;
        if total == 0 {
            Err(TopicError::Partitions("Number of partitions must be larger than 0.".to_owned()))
        } else if total <= old {
            Err(TopicError::Partitions(if total == old {
                format!("Topic already has {old} partition(s).")
            } else {
                format!("The topic currently has {old} partition(s); {total} would not be an increase.")
            }))
        } else if total > TOPIC_PARTITIONS_MAX || all + added > PARTITIONS_MAX {
            Err(TopicError::Partitions(format!(
                "Too many partitions: a topic may have {TOPIC_PARTITIONS_MAX}, the broker {PARTITIONS_MAX}."
            )))
        } else {
            Ok(())
        }
    }

    fn shard_index(&self, log: LogId) -> usize {
        usize::try_from(log.0).unwrap_or(0) % self.shards.len()
    }

    fn shard(&self, log: LogId) -> &Shard {
        &self.shards[self.shard_index(log)]
    }

    async fn new_logs(&self, count: u32) -> Result<Vec<u64>, StorageError> {
        let first = self.take_from_counter("counters/log", u64::from(count), FIRST_TOPIC_LOG).await?;
        Ok((first..first + u64::from(count)).collect())
    }

    /// Takes `count` numbers from a durable counter that starts at `from`; returns the first.
    async fn take_from_counter(&self, key: &str, count: u64, from: u64) -> Result<u64, StorageError> {
        let entry = self.stores.meta.get(key).await?;
        let first = match &entry {
            None => from,
            Some(entry) => decode::<u64>(entry)?,
        };
        let compare = Compare { key: key.to_owned(), revision: entry.map(|entry| entry.revision) };
        self.put(vec![compare], key.to_owned(), encode(&(first + count))?).await?;
        Ok(first)
    }

    async fn put(&self, compares: Vec<Compare>, key: String, value: Bytes) -> Result<Revision, StorageError> {
        self.stores.meta.txn(compares, vec![Put { key, value: Some(value) }]).await
    }

    async fn load_topics(&self) -> Result<(), StorageError> {
        let listing = self.stores.meta.list("topics/", Revision(0)).await?;
        let mut records = Vec::with_capacity(listing.entries.len());
        let mut logs = Vec::new();
        for entry in &listing.entries {
            let record: TopicRecord = decode(entry)?;
            if record.v != RECORD_VERSION {
                let text = format!("topic record has version {}: a newer FerryMQ wrote it", record.v);
                return Err(StorageError::new(ErrorKind::Internal, text));
            }
            logs.extend(log_ids(&record.logs));
            records.push((entry.key.trim_start_matches("topics/").to_owned(), record));
        }
        let mut claims = Vec::with_capacity(logs.len());
        for chunk in logs.chunks(CLAIMS_PER_CALL) {
            claims.extend(self.stores.logs.claim(chunk.to_vec(), self.owner).await?);
        }
        let mut claims = &claims[..];
        for (name, record) in records {
            let (own, rest) = claims.split_at(record.logs.len());
            claims = rest;
            let topic = self.build_topic(&name, record, own, None).map_err(|error| {
                StorageError::new(ErrorKind::Internal, format!("stored topic {name} is invalid: {error}"))
            })?;
            self.attach(&topic, 0).await;
            self.topics.insert(topic);
        }
        Ok(())
    }

    async fn finish_deletions(&self) -> Result<(), StorageError> {
        let listing = self.stores.meta.list("deleting/", Revision(0)).await?;
        for entry in &listing.entries {
            let record: DeletingRecord = decode(entry)?;
            for log in log_ids(&record.logs) {
                self.delete_log(log).await?;
            }
            let put = Put { key: entry.key.clone(), value: None };
            self.stores.meta.txn(Vec::new(), vec![put]).await?;
        }
        Ok(())
    }

    async fn delete_log(&self, log: LogId) -> Result<(), StorageError> {
        let claim = match self.stores.logs.claim(vec![log], self.owner).await {
            Ok(claims) => claims[0],
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let op = Op { log, epoch: claim.epoch, owner: self.owner, action: Action::Delete };
        self.stores.logs.commit(vec![vec![op]]).await.pop().unwrap_or(Ok(()))
    }

    /// Makes a topic of its record; `claims` are those of the partitions that `old` does not have.
    fn build_topic(
        &self,
        name: &str,
        record: TopicRecord,
        claims: &[Claim],
        old: Option<&Topic>,
    ) -> Result<Arc<Topic>, TopicError> {
        let config = match old {
            Some(old) => old.config.clone(),
            None => {
                let config = TopicConfig::new(record.config.clone(), &self.options.topic_defaults)?;
                Arc::new(ConfigCell::new(config))
            }
        };
        let name: Arc<str> = old.map_or_else(|| Arc::from(name), |old| old.name.clone());
        let mut partitions = old.map_or_else(Vec::new, |old| old.partitions.clone());
        for claim in claims {
            let index = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
            let bounds = Bounds { epoch: claim.epoch, start: claim.start, next: claim.next };
            let store = self.stores.logs.clone();
            partitions.push(Partition::new(name.clone(), index, claim.log, config.clone(), bounds, store));
        }
        Ok(Arc::new(Topic { id: record.id, name, partitions, config, record }))
    }

    async fn attach(&self, topic: &Topic, from: usize) {
        for partition in &topic.partitions[from..] {
            let message = Message::Attach { partition: partition.clone(), next: partition.high_watermark() };
            self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        }
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

async fn cluster_id(meta: &dyn MetaStore, rng: &Rng) -> Result<String, StorageError> {
    if let Some(entry) = meta.get("cluster/id").await? {
        return decode(&entry);
    }
    let id = base64_url(&rng.next_u128().to_be_bytes());
    let put = Put { key: "cluster/id".to_owned(), value: Some(encode(&id)?) };
    meta.txn(vec![Compare { key: "cluster/id".to_owned(), revision: None }], vec![put]).await?;
    Ok(id)
}

/// 22 characters of URL-safe base64, as Kafka writes cluster ids.
fn base64_url(bytes: &[u8; 16]) -> String {
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

fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, StorageError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        StorageError::new(ErrorKind::Internal, "a record could not be encoded").caused_by(error)
    })
}

fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, StorageError> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        let text = format!("stored record {} cannot be read: is it of a newer FerryMQ?", entry.key);
        StorageError::new(ErrorKind::Internal, text).caused_by(error)
    })
}
