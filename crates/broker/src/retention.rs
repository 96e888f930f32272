//! Retention: old records are trimmed away by time and by size.
//!
//! **Invariants.** Time is the broker's clock, which never steps, against the batches' largest timestamps.
//! A trim is an ordinary fenced operation of the owner; readers see the new start only once it is durable.
//! By size, at least `segment.bytes` go at a time, as Kafka's segments would.
//!
//! Deliberately absent: compaction.

use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::{Clock, TaskKind};
use ferrymq_storage::{Find, StorageError};
use ferrymq_types::{Offset, TimestampType};

use crate::broker::Broker;
use crate::partition::Partition;

/// Runs retention every `interval` until the broker stops.
pub(crate) fn start(broker: &Arc<Broker>, interval: Duration) {
    let tasks = broker.tasks().clone();
    let broker = Arc::downgrade(broker);
    let stopping = tasks.stopping();
    tasks.spawn(TaskKind::Background, "retention", async move {
        tokio::pin!(stopping);
        loop {
            let Some(clock) = broker.upgrade().map(|broker| broker.clock().clone()) else { return };
            tokio::select! {
                () = &mut stopping => return,
                () = clock.sleep(interval) => {}
            }
            let Some(broker) = broker.upgrade() else { return };
            run_once(&broker).await;
        }
    });
}

/// Applies retention to every partition once.
pub async fn run_once(broker: &Broker) {
    for topic in broker.topics().all() {
        for partition in &topic.partitions {
            let start = match trim_point(partition, broker.clock()).await {
                Ok(Some(start)) => start,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(partition = ?partition, error = %error, "retention could not look at a partition");
                    continue;
                }
            };
            if let Err(error) = broker.trim(partition, start).await {
                tracing::warn!(partition = ?partition, error = %error, "retention could not trim a partition");
            }
        }
    }
    broker.expire_producers().await;
}

/// Where a partition should start, if not where it does.
async fn trim_point(partition: &Partition, clock: &Clock) -> Result<Option<Offset>, StorageError> {
    let config = partition.config.get();
    let start = partition.log_start();
    let next = partition.high_watermark();
    if start == next || partition.is_gone() {
        return Ok(None);
    }
    let mut trim = start;
    if let Some(retention_ms) = config.retention_ms {
        let cutoff = clock.wall_ms().saturating_sub(retention_ms);
        let kept = partition.find(Find::Timestamp(cutoff)).await?;
        // Nothing young enough: everything goes, unless the producer's clock is to blame and records keep
        // coming; then the broker's own time of the last append decides.
        let all_old =
            config.timestamp_type == TimestampType::LogAppendTime || partition.last_append_ms() < cutoff;
        match kept {
            Some(head) => trim = trim.max(head.base),
            None if all_old => trim = next,
            None => {}
        }
    }
    if let Some(retention_bytes) = config.retention_bytes {
        let bytes = partition.stat().await?.bytes;
        if bytes >= retention_bytes.saturating_add(config.segment_bytes) {
            let kept = partition.find(Find::TailBytes(retention_bytes)).await?;
            trim = trim.max(kept.map_or(next, |head| head.base));
        }
    }
    Ok((trim > start).then_some(trim))
}
