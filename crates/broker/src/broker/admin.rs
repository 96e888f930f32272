//! Changes of topics: each is durable before anyone sees it, and one is made at a time.
//!
//! Deliberately absent: what a protocol defaults or limits on top (the doors do).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_storage::{Action, Compare, Entry, ErrorKind, Op, Put, Revision, StorageError};
use ferrymq_types::limits::{PARTITIONS_MAX, TOPIC_PARTITIONS_MAX};
use uuid::Uuid;

use super::{Broker, SMALL_MESSAGE_BYTES};
use crate::settings::TopicConfig;
use crate::shard::Message;
use crate::topics::{
    DeletingRecord, NewTopic, RECORD_VERSION, Topic, TopicError, TopicRecord, check_name, log_ids,
};

/// Logs below this id are the broker's own (metadata, state, groups).
pub const FIRST_TOPIC_LOG: u64 = 1024;

impl Broker {
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
        let outcomes = self.stores.logs.commit(ops.collect()).await;
        for (partition, outcome) in topic.partitions.iter().zip(outcomes) {
            match outcome {
                // Its owner was just claiming it again.
                Err(error) if error.kind() == ErrorKind::Fenced => self.delete_log(partition.log).await?,
                outcome => outcome?,
            }
        }
        let snapshots = topic
            .partitions
            .iter()
            .map(|partition| Put { key: crate::shard::load::snapshot_key(partition.log), value: None });
        self.stores.state.txn(Vec::new(), snapshots.collect()).await?;
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

    async fn new_logs(&self, count: u32) -> Result<Vec<u64>, StorageError> {
        let first = self.take_from_counter("counters/log", u64::from(count), FIRST_TOPIC_LOG).await?;
        Ok((first..first + u64::from(count)).collect())
    }

    /// Takes `count` numbers from a durable counter that starts at `from`; returns the first.
    pub(super) async fn take_from_counter(
        &self,
        key: &str,
        count: u64,
        from: u64,
    ) -> Result<u64, StorageError> {
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
}

pub(super) fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, StorageError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        StorageError::new(ErrorKind::Internal, "a record could not be encoded").caused_by(error)
    })
}

pub(super) fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, StorageError> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        let text = format!("stored record {} cannot be read: is it of a newer FerryMQ?", entry.key);
        StorageError::new(ErrorKind::Internal, text).caused_by(error)
    })
}
