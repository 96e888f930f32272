//! Topics read back at start: claimed in bulk, handed to their owners; deletions that a crash cut short are
//! finished.

use std::sync::Arc;

use ferrymq_storage::{Action, Claim, ErrorKind, Op, Put, Revision, StorageError};
use ferrymq_types::{Durability, Epoch, LogId, Offset};

use super::admin::decode;
use super::{Broker, SMALL_MESSAGE_BYTES};
use crate::partition::{Bounds, Partition};
use crate::settings::{ConfigCell, TopicConfig};
use crate::shard::Message;
use crate::topics::{DeletingRecord, RECORD_VERSION, Topic, TopicError, TopicRecord, log_ids};

/// Logs claimed in one call at start.
pub(super) const CLAIMS_PER_CALL: usize = 10_000;

impl Broker {
    pub(super) async fn load_topics(&self) -> Result<(), StorageError> {
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
            records.push((entry.key.trim_start_matches("topics/").to_owned(), record, entry.revision));
        }
        let mut claims = Vec::with_capacity(logs.len());
        for chunk in logs.chunks(CLAIMS_PER_CALL) {
            claims.extend(self.stores.logs.claim(chunk.to_vec(), self.owner).await?);
        }
        let mut claims = &claims[..];
        for (name, record, revision) in records {
            let (own, rest) = claims.split_at(record.logs.len());
            claims = rest;
            let topic = self.build_topic(&name, record, own, None, revision).map_err(|error| {
                StorageError::new(ErrorKind::Internal, format!("stored topic {name} is invalid: {error}"))
            })?;
            if topic.config.get().durability != Durability::Sync {
                for partition in &topic.partitions {
                    partition.skip_lost_tail().await?;
                }
            }
            self.attach(&topic, 0).await;
            self.topics.insert(topic);
        }
        Ok(())
    }

    pub(crate) async fn finish_deletions(&self) -> Result<(), StorageError> {
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

    /// Claims a log and deletes it.
    pub(super) async fn delete_log(&self, log: LogId) -> Result<(), StorageError> {
        let claim = match self.stores.logs.claim(vec![log], self.owner).await {
            Ok(claims) => claims[0],
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let op = Op { log, epoch: claim.epoch, owner: self.owner, action: Action::Delete };
        self.stores.logs.commit(vec![vec![op]]).await.pop().unwrap_or(Ok(()))
    }

    /// Makes a topic of its record; `claims` are those of the partitions that `old` does not have.
    pub(super) fn build_topic(
        &self,
        name: &str,
        record: TopicRecord,
        claims: &[Claim],
        old: Option<&Topic>,
        revision: Revision,
    ) -> Result<Arc<Topic>, TopicError> {
        let config = match old {
            Some(old) => old.config.clone(),
            None => {
                let config = TopicConfig::stored(record.config.clone(), &self.options.topic_defaults)?;
                Arc::new(ConfigCell::new(config))
            }
        };
        let name: Arc<str> = old.map_or_else(|| Arc::from(name), |old| old.name.clone());
        let mut partitions = old.map_or_else(Vec::new, |old| old.partitions.clone());
        for claim in claims {
            let index = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
            let (start, next, taken_ms) = (claim.start, claim.next, self.clock.wall_ms());
            let bounds = Bounds { epoch: claim.epoch, start, next, taken_ms };
            let store = self.stores.logs.clone();
            partitions.push(Partition::new(name.clone(), index, claim.log, config.clone(), bounds, store));
        }
        Ok(Arc::new(Topic { id: record.id, name, partitions, config, record, revision }))
    }

    /// Makes a topic of its record; the partitions that `old` does not have are elsewhere.
    pub(super) fn build_elsewhere(
        &self,
        name: &str,
        record: TopicRecord,
        old: Option<&Topic>,
        revision: Revision,
    ) -> Result<Arc<Topic>, TopicError> {
        let parsed = TopicConfig::stored(record.config.clone(), &self.options.topic_defaults)?;
        let config = match old {
            Some(old) => old.config.clone(),
            None => Arc::new(ConfigCell::new(parsed.clone())),
        };
        config.set(parsed);
        let name: Arc<str> = old.map_or_else(|| Arc::from(name), |old| old.name.clone());
        let mut partitions = old.map_or_else(Vec::new, |old| old.partitions.clone());
        for log in log_ids(&record.logs).into_iter().skip(partitions.len()) {
            let index = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
            partitions.push(self.elsewhere(&name, index, log, &config, Epoch::default()));
        }
        Ok(Arc::new(Topic { id: record.id, name, partitions, config, record, revision }))
    }

    /// A partition that another broker owns.
    pub(super) fn elsewhere(
        &self,
        topic: &Arc<str>,
        index: u32,
        log: LogId,
        config: &Arc<ConfigCell>,
        epoch: Epoch,
    ) -> Arc<Partition> {
        let bounds =
            Bounds { epoch, start: Offset::ZERO, next: Offset::ZERO, taken_ms: self.clock.wall_ms() };
        let store = self.stores.logs.clone();
        let partition = Partition::new(topic.clone(), index, log, config.clone(), bounds, store);
        partition.set_elsewhere();
        partition
    }

    pub(super) async fn attach(&self, topic: &Topic, from: usize) {
        for partition in &topic.partitions[from..] {
            let message = Message::Attach { partition: partition.clone(), next: partition.next() };
            self.shard(partition.log).send(message, SMALL_MESSAGE_BYTES).await;
        }
    }
}
