//! Retention: old records are trimmed away by time and by size.
//!
//! **Invariants.** By time, a record goes once both say that it is old: the largest timestamp of its batch, and
//! the time by which the broker knows it was appended (`appended`). Timestamps alone are the
//! producer's word: none (-1), a wrong one, or one of long ago must not delete what was just acknowledged, also
//! not after a restart. What the time is, a step of the system's clock does not decide alone
//! (`believed`). A trim is an ordinary fenced operation of the owner; readers see the new start only once it is durable.
//! What a queue over a topic has not moved as dead letters yet is waited for, a minute at most (`holds`).
//! By size, at least `segment.bytes` go at a time, as Kafka's segments would.
//!
//! Deliberately absent: compaction.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::{Clock, TaskKind};
use ferrymq_storage::{Find, StorageError};
use ferrymq_types::{LogId, Offset};

use crate::appended::{AllMarks, MARKS_PER_RETENTION, Marks};
use crate::broker::Broker;
use crate::partition::Partition;

/// How long a trim waits for those who hold what it would take away, in all.
const RETENTION_HOLD: Duration = Duration::from_secs(60);

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
    let mut held = broker.retention.lock().await;
    let (keeper, marks) = &mut *held;
    if let Err(error) = keeper.look().await {
        tracing::warn!(error = %error, "retention could not note the time; it will try again");
    }
    let topics = broker.topics().all();
    let mut held_back = Vec::new();
    for topic in &topics {
        for partition in &topic.partitions {
            let start = match trim_point(partition, broker.clock(), marks).await {
                Ok(Some(start)) => start,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(partition = ?partition, error = %error, "retention could not look at a partition");
                    continue;
                }
            };
            if partition.ask_holds(start) {
                held_back.push((partition, start));
            } else {
                trim(broker, partition, start).await;
            }
        }
    }
    trim_held_back(broker, held_back).await;
    let there: HashSet<LogId> =
        topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| partition.log)).collect();
    marks.keep_only(|log| there.contains(&log));
    if let Err(error) = marks.store().await {
        tracing::warn!(error = %error, "retention could not note when records were appended; it will try again");
    }
    broker.expire_producers().await;
}

async fn trim(broker: &Broker, partition: &Partition, start: Offset) {
    if let Err(error) = broker.trim(partition, start).await {
        tracing::warn!(partition = ?partition, error = %error, "retention could not trim a partition");
    }
}

/// Trims what somebody was to let go of first, once that is done or has taken too long for all of them.
async fn trim_held_back(broker: &Broker, held_back: Vec<(&Arc<Partition>, Offset)>) {
    let mut stopping = std::pin::pin!(broker.tasks().stopping());
    let mut patience = std::pin::pin!(broker.clock().sleep(RETENTION_HOLD));
    let mut is_over = false;
    for (partition, start) in held_back {
        if !is_over {
            tokio::select! {
                biased;
                () = partition.holds.reached(start.0) => {}
                // Nothing is lost by trimming it in the next life.
                () = &mut stopping => return,
                () = &mut patience => is_over = true,
            }
        }
        trim(broker, partition, start).await;
    }
}

/// Where a partition should start, if not where it does.
async fn trim_point(
    partition: &Partition,
    clock: &Clock,
    marks: &mut AllMarks,
) -> Result<Option<Offset>, StorageError> {
    let config = partition.config.get();
    let start = partition.log_start();
    let next = partition.high_watermark();
    if start == next || partition.is_gone() || partition.is_elsewhere() {
        return Ok(None);
    }
    let mut trim = start;
    if let Some(retention_ms) = config.retention_ms {
        let cutoff = clock.expiry_ms().saturating_sub(retention_ms);
        let own = marks.of(partition.log);
        let corrected = own.correct(clock.wall_ms());
        let (appended, noted) = old_by_append(partition, next, (cutoff, retention_ms), own);
        if corrected || noted {
            marks.changed(partition.log);
        }
        // The second look-up is spared where nothing is old enough anyway.
        if appended > start {
            let young = partition.find(Find::Timestamp(cutoff)).await?.map_or(next, |head| head.base);
            trim = trim.max(young.min(appended));
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

/// The offset below which every record was appended before `cutoff`, and whether there is something new to
/// store; `next` was read before.
fn old_by_append(
    partition: &Partition,
    next: Offset,
    (cutoff, retention_ms): (i64, i64),
    marks: &mut Marks,
) -> (Offset, bool) {
    let last_ms = partition.last_append_ms();
    let old = if last_ms < cutoff { next } else { marks.older_than(cutoff) };
    let noted = marks.look(partition.log_start(), next, last_ms, retention_ms / MARKS_PER_RETENTION);
    (old, noted)
}
