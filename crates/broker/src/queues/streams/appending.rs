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
pub(super) struct Appending {
    now_ms: i64,
    turn: usize,
    open: HashMap<LogId, Open>,
    /// Sealed batches, and whose messages are in each.
    items: Vec<AppendItem>,
    indexes: Vec<Vec<u32>>,
    failed: Failed,
}

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
    indexes: Vec<Vec<u32>>,
    failed: Failed,
    reply: oneshot::Sender<Failed>,
    /// What is in flight counts as waiting.
    _permit: BytePermit,
}

impl Appending {
    pub(super) fn new(now_ms: i64, turn: usize) -> Appending {
        let (open, items, indexes, failed) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
        Appending { now_ms, turn, open, items, indexes, failed }
    }

    /// Adds a message's record.
    pub(super) fn add(&mut self, index: u32, topic: &Topic, record: &StreamRecord) {
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
                self.items.push(AppendItem { partition: open.partition, bytes, header });
                self.indexes.push(open.indexes);
            }
            Err(error) => {
                tracing::error!(%error, "a batch of a stream could not be put together");
                self.failed.extend(open.indexes.into_iter().map(|index| (index, QueueError::Retry)));
            }
        }
    }

    /// The batches in order, and what their answers will be about.
    pub(super) fn finish(mut self) -> (Vec<AppendItem>, Vec<Vec<u32>>, Failed) {
        // By their first message, as they were published.
        let mut last: Vec<Open> = self.open.drain().map(|(_, open)| open).collect();
        last.sort_by_key(|open| open.indexes.first().copied());
        last.into_iter().for_each(|open| self.seal(open));
        (self.items, self.indexes, self.failed)
    }
}

impl Pending {
    pub(super) fn new(
        appends: PendingAppends,
        indexes: Vec<Vec<u32>>,
        failed: Failed,
        reply: oneshot::Sender<Failed>,
        permit: BytePermit,
    ) -> Pending {
        Pending { appends, indexes, failed, reply, _permit: permit }
    }

    /// Waits until all is durable, and says so.
    pub(super) async fn answer(self) {
        let Pending { appends, indexes, mut failed, reply, _permit } = self;
        for (result, indexes) in appends.wait().await.into_iter().zip(indexes) {
            let error = match result {
                // To a topic that has gone messages go as to any queue that has: nowhere.
                Ok(_) | Err(AppendError::Gone) => continue,
                Err(AppendError::Storage(error)) => QueueError::Storage(error),
                Err(AppendError::Retry | AppendError::Producer(_)) => QueueError::Retry,
            };
            failed.extend(indexes.into_iter().map(|index| (index, error.clone())));
        }
        failed.sort_by_key(|(index, _)| *index);
        failed.dedup_by_key(|(index, _)| *index);
        // A client that went away needs no answer.
        let _nobody_waits = reply.send(failed).is_err();
    }
}
