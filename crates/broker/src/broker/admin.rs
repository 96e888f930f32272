//! Changes of topics: each is durable before anyone sees it.
//!
//! **Invariants.** One is made at a time, and none is left halfway: `changes` sees to both.
//!
//! Deliberately absent: what a protocol defaults or limits on top (the doors do).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_storage::{Action, Claim, Compare, Entry, ErrorKind, Op, Put, Revision, StorageError};
use ferrymq_types::LogId;
use ferrymq_types::limits::{PARTITIONS_MAX, TOPIC_PARTITIONS_MAX};
use uuid::Uuid;

use super::{Broker, SMALL_MESSAGE_BYTES};
use crate::settings::{SettingError, TopicConfig};
use crate::shard::Message;
use crate::topics::{
    DeletingRecord, NewTopic, RECORD_VERSION, Topic, TopicError, TopicRecord, check_name, collide, log_ids,
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
        self.check_collision(&new.name)?;
        self.check_partitions(0, new.partitions)?;
        Ok(self.check_config(new.config.clone())?)
    }

    /// Checks what would be set on a topic, together with the server's defaults.
    ///
    /// # Errors
    /// [`SettingError`].
    pub fn check_config(&self, config: BTreeMap<String, String>) -> Result<TopicConfig, SettingError> {
        let defaults = &self.options.topic_defaults;
        let parsed = TopicConfig::new(config, defaults)?;
        parsed.check_relations(defaults, self.options.strict_copies)?;
        Ok(parsed)
    }

    pub(super) async fn create_topic_now(&self, new: NewTopic) -> Result<Arc<Topic>, TopicError> {
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
        // without logs. Of several brokers each claims what it is to own once it sees the record.
        let claims = self.claim_new(log_ids(&record.logs)).await?;
        let key = format!("topics/{}", new.name);
        let compare = Compare { key: key.clone(), revision: None };
        let revision = match self.put(vec![compare], key, encode(&record)?).await {
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(TopicError::Exists(new.name)),
            outcome => outcome?,
        };
        let topic = match claims {
            Some(claims) => self.build_topic(&new.name, record, &claims, None, revision)?,
            None => self.build_elsewhere(&new.name, record, None, revision)?,
        };
        self.attach(&topic, 0).await;
        self.topics.insert(topic.clone());
        self.options.cluster.iter().for_each(|view| view.missed());
        Ok(topic)
    }

    pub(super) async fn create_partitions_now(
        &self,
        name: &str,
        total: u32,
    ) -> Result<Arc<Topic>, TopicError> {
        let topic = self.topics.get(name).ok_or(TopicError::NotFound)?;
        let old = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        self.check_partitions(old, total)?;
        let logs = self.new_logs(total - old).await?;
        let claims = self.claim_new(log_ids(&logs)).await?;
        let mut record = topic.record.clone();
        record.logs.extend(logs);
        let revision = self.put_topic(&topic, &record).await?;
        let grown = match claims {
            Some(claims) => self.build_topic(name, record, &claims, Some(&topic), revision)?,
            None => self.build_elsewhere(name, record, Some(&topic), revision)?,
        };
        self.attach(&grown, old as usize).await;
        self.topics.insert(grown.clone());
        self.options.cluster.iter().for_each(|view| view.missed());
        Ok(grown)
    }

    pub(super) async fn set_config_now(
        &self,
        name: &str,
        config: BTreeMap<String, String>,
    ) -> Result<(), TopicError> {
        let topic = self.topics.get(name).ok_or(TopicError::NotFound)?;
        let parsed = self.check_config(config.clone())?;
        let record = TopicRecord { config, ..topic.record.clone() };
        let revision = self.put_topic(&topic, &record).await?;
        topic.config.set(parsed);
        let (id, name, config) = (topic.id, topic.name.clone(), topic.config.clone());
        let partitions = topic.partitions.clone();
        self.topics.insert(Arc::new(Topic { id, name, partitions, config, record, revision }));
        Ok(())
    }

    pub(super) async fn delete_topic_now(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        let topic = self.topics.get(name).ok_or(TopicError::NotFound)?;
        let deleting = DeletingRecord { v: RECORD_VERSION, logs: topic.record.logs.clone() };
        let puts = vec![
            Put { key: format!("topics/{name}"), value: None },
            Put { key: format!("deleting/{}", topic.id), value: Some(encode(&deleting)?) },
        ];
        self.stores.meta.txn(vec![unchanged(&topic)], puts).await?;
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
                // Its owner was just claiming it again, or is another broker.
                Err(error) if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::NotFound) => {
                    self.delete_log(partition.log).await?;
                }
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

    /// Claims the logs of new partitions, unless who is to own them is still to be seen.
    async fn claim_new(&self, logs: Vec<LogId>) -> Result<Option<Vec<Claim>>, StorageError> {
        match self.options.cluster {
            Some(_) => Ok(None),
            None => self.stores.logs.claim(logs, self.owner).await.map(Some),
        }
    }

    /// Writes a topic's record in place of the one that it was made from.
    async fn put_topic(&self, topic: &Topic, record: &TopicRecord) -> Result<Revision, StorageError> {
        let compare = unchanged(topic);
        self.put(vec![compare.clone()], compare.key, encode(record)?).await
    }

    /// Refuses a name that differs from an existing one by dots and underscores only, in Kafka's words. Topics
    /// that were created before this rule stay.
    fn check_collision(&self, name: &str) -> Result<(), TopicError> {
        if !name.contains(['.', '_']) {
            return Ok(());
        }
        self.topics.with(|topics| match topics.iter().find(|topic| collide(&topic.name, name)) {
            None => Ok(()),
            Some(other) => {
                let text = format!("Topic '{name}' collides with existing topic: {}", other.name);
                Err(TopicError::Name(text))
            }
        })
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
        loop {
            let entry = self.stores.meta.get(key).await?;
            let first = match &entry {
                None => from,
                Some(entry) => decode::<u64>(entry)?,
            };
            let compare = Compare { key: key.to_owned(), revision: entry.map(|entry| entry.revision) };
            match self.put(vec![compare], key.to_owned(), encode(&(first + count))?).await {
                // Another broker took some at the same time; somebody always gets ahead.
                Err(error) if error.kind() == ErrorKind::Conflict && self.options.cluster.is_some() => {}
                outcome => return outcome.map(|_| first),
            }
        }
    }

    async fn put(&self, compares: Vec<Compare>, key: String, value: Bytes) -> Result<Revision, StorageError> {
        self.stores.meta.txn(compares, vec![Put { key, value: Some(value) }]).await
    }
}

/// That nobody has changed a topic's record since this broker saw it.
fn unchanged(topic: &Topic) -> Compare {
    Compare { key: format!("topics/{}", topic.name), revision: Some(topic.revision) }
}

pub(crate) fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, StorageError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        StorageError::new(ErrorKind::Internal, "a record could not be encoded").caused_by(error)
    })
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, StorageError> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        let text = format!("stored record {} cannot be read: is it of a newer FerryMQ?", entry.key);
        StorageError::new(ErrorKind::Internal, text).caused_by(error)
    })
}
