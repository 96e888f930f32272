//! From messages to batches of topics.
//!
//! A record without a key goes to the partition whose turn it is: the turn changes with each call, so that the messages
//! of one are one batch. One with a key goes where Kafka's own clients would send it.
//!
//! **Invariants.** Messages of a caller reach a partition in their order. Each message is answered once, with the worst
//! that happened to it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use ferrymq_runtime::BytePermit;
use ferrymq_types::batch::{HEADER_BYTES, into_mut};
use ferrymq_types::limits::BATCH_BYTES_MAX_DEFAULT;
use ferrymq_types::partitioner::key_partition;
use ferrymq_types::{BatchBuilder, BatchHeader, LogId};
use tokio::sync::oneshot;

use super::StreamRecord;
use crate::broker::PendingAppends;
use crate::partition::Partition;
use crate::queues::error::QueueError;
use crate::queues::shard::message::Failed;
use crate::shard::{AppendError, AppendItem};
use crate::topics::Topic;

/// What is being put together of one call.
pub(in crate::queues) struct Appending {
    now_ms: i64,
    turn: usize,
    open: HashMap<LogId, Open>,
    /// Sealed batches, and what each is about.
    items: Vec<AppendItem>,
    about: Vec<About>,
    failed: Failed,
}

/// The partition of a batch, and whose messages are in it.
pub(in crate::queues) type About = (Arc<Partition>, Vec<u32>);

/// A batch that takes more.
struct Open {
    partition: Arc<Partition>,
    builder: BatchBuilder,
    indexes: Vec<u32>,
    bytes_max: usize,
}

/// A call whose batches are on their way.
pub(super) struct Pending {
    appends: PendingAppends,
    about: Vec<About>,
    failed: Failed,
    reply: oneshot::Sender<Failed>,
    /// What is in flight counts as waiting.
    _permit: BytePermit,
}

impl Appending {
    pub(in crate::queues) fn new(now_ms: i64, turn: usize) -> Appending {
        let (open, items, about, failed) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
        Appending { now_ms, turn, open, items, about, failed }
    }

    /// Adds a message's record.
    pub(in crate::queues) fn add(&mut self, index: u32, topic: &Topic, record: &StreamRecord) {
        let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let place = match &record.key {
            Some(key) => key_partition(key, count) as usize,
            None => self.turn % topic.partitions.len().max(1),
        };
        let Some(partition) = topic.partitions.get(place) else { return };
        let (bytes, bytes_max) = (record.bytes() + HEADER_BYTES, topic.config.get().max_message_bytes);
        if bytes > bytes_max {
            let limit = bytes_max as u64;
            self.failed.push((index, QueueError::Limit { what: "the size of a record of the topic", limit }));
            return;
        }
        let is_full = |open: &Open| open.builder.bytes() + bytes > open.bytes_max;
        if self.open.get(&partition.log).is_some_and(is_full)
            && let Some(full) = self.open.remove(&partition.log)
        {
            self.seal(full);
        }
        let open = self.open.entry(partition.log).or_insert_with(|| Open {
            partition: partition.clone(),
            builder: BatchBuilder::with_capacity(self.now_ms, bytes),
            indexes: Vec::new(),
            bytes_max: bytes_max.min(BATCH_BYTES_MAX_DEFAULT),
        });
        open.builder.push(self.now_ms, record.key.as_deref(), record.value.as_deref(), &record.headers);
        open.indexes.push(index);
    }

    fn seal(&mut self, open: Open) {
        let bytes: BytesMut = into_mut(open.builder.build());
        match BatchHeader::decode(&bytes) {
            Ok(header) => {
                self.items.push(AppendItem { partition: open.partition.clone(), bytes, header });
                self.about.push((open.partition, open.indexes));
            }
            Err(error) => {
                tracing::error!(%error, "a batch of a stream could not be put together");
                self.failed.extend(open.indexes.into_iter().map(|index| (index, QueueError::Retry)));
            }
        }
    }

    /// The batches in order, and what their answers will be about.
    pub(in crate::queues) fn finish(mut self) -> (Vec<AppendItem>, Vec<About>, Failed) {
        // By their first message, as they were published.
        let mut last: Vec<Open> = self.open.drain().map(|(_, open)| open).collect();
        last.sort_by_key(|open| open.indexes.first().copied());
        last.into_iter().for_each(|open| self.seal(open));
        (self.items, self.about, self.failed)
    }
}

impl Pending {
    pub(super) fn new(
        appends: PendingAppends,
        about: Vec<About>,
        failed: Failed,
        reply: oneshot::Sender<Failed>,
        permit: BytePermit,
    ) -> Pending {
        Pending { appends, about, failed, reply, _permit: permit }
    }

    /// Waits until all is durable, and says so.
    pub(super) async fn answer(self) {
        let Pending { appends, about, mut failed, reply, _permit } = self;
        for (result, (partition, indexes)) in appends.wait().await.into_iter().zip(about) {
            let error = match result {
                // To a topic that has gone messages go as to any queue that has: nowhere.
                Ok(_) => continue,
                Err(AppendError::Gone) if partition.is_gone() => continue,
                // The topic is there, its owner is not: the broker is stopping, and nothing was stored.
                Err(AppendError::Gone) => QueueError::Stopped,
                Err(AppendError::Storage(error)) => QueueError::Storage(error),
                Err(AppendError::Retry | AppendError::Elsewhere | AppendError::Producer(_)) => {
                    QueueError::Retry
                }
            };
            failed.extend(indexes.into_iter().map(|index| (index, error.clone())));
        }
        failed.sort_by_key(|(index, _)| *index);
        failed.dedup_by_key(|(index, _)| *index);
        // A client that went away needs no answer.
        let _nobody_waits = reply.send(failed).is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ferrymq_runtime::{ByteBudget, Clock, Rng, Tasks};
    use ferrymq_storage::MemoryStore;
    use ferrymq_storage::memory_meta::MemoryMeta;
    use ferrymq_types::{Epoch, Offset};
    use uuid::Uuid;

    use super::*;
    use crate::broker::{Broker, BrokerOptions, Stores};
    use crate::partition::Bounds;
    use crate::settings::{ConfigCell, TopicConfig, TopicDefaults};
    use crate::topics::TopicRecord;

    #[tokio::test]
    async fn what_nobody_takes_is_confirmed_only_if_its_topic_has_gone() {
        let (meta, state) = (Arc::new(MemoryMeta::new()), Arc::new(MemoryMeta::new()));
        let stores = Stores { logs: Arc::new(MemoryStore::new()), meta, state };
        let (clock, tasks) = (Clock::system(), Tasks::new());
        let options = BrokerOptions::default();
        let broker = Broker::open(stores.clone(), options, clock, Rng::seeded(1), tasks).await.unwrap();
        // A partition that no owner has: as when the broker stops.
        let config = TopicConfig::new(BTreeMap::new(), &TopicDefaults::default()).unwrap();
        let config = Arc::new(ConfigCell::new(config));
        let bounds = Bounds { epoch: Epoch(1), start: Offset(0), next: Offset(0), taken_ms: 0 };
        let partition = Partition::new("t".into(), 0, LogId(5000), config.clone(), bounds, stores.logs);
        let record =
            TopicRecord { v: 1, id: Uuid::nil(), logs: vec![5000], config: BTreeMap::new(), created_ms: 0 };
        let partitions = vec![partition.clone()];
        let topic = Topic {
            id: Uuid::nil(),
            name: "t".into(),
            partitions,
            config,
            record,
            revision: ferrymq_storage::Revision(1),
        };
        for gone in [false, true] {
            if gone {
                partition.publish_gone();
            }
            let mut appending = Appending::new(5, 0);
            appending.add(7, &topic, &StreamRecord { value: Some("x".into()), ..StreamRecord::default() });
            let (items, about, failed) = appending.finish();
            let (reply, answer) = oneshot::channel();
            let permit = ByteBudget::new(1000).take(1).await;
            Pending::new(broker.append(items).await, about, failed, reply, permit).answer().await;
            let failed = answer.await.unwrap();
            match gone {
                true => assert!(failed.is_empty(), "as any queue that was deleted"),
                false => assert!(matches!(failed[..], [(7, QueueError::Stopped)]), "{failed:?}"),
            }
        }
    }
}
