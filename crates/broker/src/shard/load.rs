//! A partition's producers, read back: the last snapshot and the batch headers since.
//!
//! **Invariants.** A snapshot is stored only once every batch it speaks of is durable. A missing or unreadable snapshot costs time, not truth: the headers say it all.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_runtime::TaskKind;
use ferrymq_storage::{Pending, Put, StorageError};
use ferrymq_types::batch::HEADER_BYTES;
use ferrymq_types::{BatchHeader, LogId, Offset};
use serde::{Deserialize, Serialize};

use super::{Done, ShardContext};
use crate::partition::Partition;
use crate::producers::Producers;

/// The version of the stored snapshot.
const SNAPSHOT_VERSION: u32 = 1;
/// Batch headers read at a time.
const HEADERS_PER_READ: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Snapshot {
    v: u32,
    next: u64,
    producers: Producers,
}

fn key(log: LogId) -> String {
    format!("producers/{log}")
}

/// Reads the producers of a partition that holds batches up to `until`.
pub(super) fn producers(context: ShardContext, partition: Arc<Partition>, until: Offset) -> Pending<Done> {
    Box::pin(async move {
        let producers = read(&context, &partition, until).await;
        Done::Loaded { log: partition.log, producers }
    })
}

async fn read(
    context: &ShardContext,
    partition: &Partition,
    until: Offset,
) -> Result<Producers, StorageError> {
    let stored = context.state.get(&key(partition.log)).await?;
    let snapshot = stored
        .and_then(|entry| serde_json::from_slice::<Snapshot>(&entry.value).ok())
        .filter(|snapshot| snapshot.v == SNAPSHOT_VERSION && snapshot.next <= until.0);
    let (mut from, mut producers) = snapshot
        .map_or((Offset::ZERO, Producers::default()), |snapshot| (Offset(snapshot.next), snapshot.producers));
    let now_ms = context.clock.wall_ms();
    while from < until {
        let heads = context.store.headers(partition.log, from, HEADERS_PER_READ, HEADER_BYTES).await?;
        let Some(last) = heads.last() else { break };
        let behind = last.base.plus(u64::from(last.span));
        for head in heads.iter().filter(|head| head.base >= from && head.base < until) {
            if let Ok(header) = BatchHeader::decode(&head.prefix) {
                producers.append(&header, head.base, now_ms);
            }
        }
        from = behind;
    }
    Ok(producers)
}

/// Stores a snapshot in the background. Losing it costs time at the next start, nothing else.
pub(super) fn save_snapshot(context: &ShardContext, log: LogId, next: Offset, producers: Producers) {
    let snapshot = Snapshot { v: SNAPSHOT_VERSION, next: next.0, producers };
    let Ok(value) = serde_json::to_vec(&snapshot) else { return };
    let state = context.state.clone();
    context.tasks.spawn(TaskKind::Background, "producer snapshot", async move {
        let put = Put { key: key(log), value: Some(Bytes::from(value)) };
        if let Err(error) = state.txn(Vec::new(), vec![put]).await {
            tracing::debug!(log = log.0, error = %error, "could not store a snapshot of producers");
        }
    });
}
