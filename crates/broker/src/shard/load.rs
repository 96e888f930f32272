//! A partition's producers, read back: the last snapshot and the batch headers since.
//!
//! **Invariants.** A snapshot is stored only once every batch it speaks of is durable. A missing one costs time, not
//! truth, as long as the log still has every batch; after a trim only the snapshot knows of those that went. So one
//! that is there and cannot be read, or that a newer FerryMQ wrote, is an error and never taken for missing.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_runtime::TaskKind;
use ferrymq_storage::{Compare, Entry, ErrorKind, MetaStore, Pending, Put, Revision, StorageError};
use ferrymq_types::batch::HEADER_BYTES;
use ferrymq_types::{BatchHeader, LogId, Offset};
use serde::{Deserialize, Serialize};

use super::{Done, ShardContext};
use crate::broker::decode;
use crate::partition::Partition;
use crate::producers::Producers;

/// The version of the stored snapshot.
const SNAPSHOT_VERSION: u32 = 1;
/// Where snapshots lie in the state store.
const KEY: &str = "producers/";
/// Batch headers read at a time.
const HEADERS_PER_READ: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Snapshot {
    v: u32,
    next: u64,
    producers: Producers,
}

/// Where a partition's snapshot lies in the state store.
pub(crate) fn snapshot_key(log: LogId) -> String {
    format!("{KEY}{log}")
}

/// Reads the producers of a partition that holds batches up to `until`.
pub(super) fn producers(context: ShardContext, partition: Arc<Partition>, until: Offset) -> Pending<Done> {
    Box::pin(async move {
        let producers = read(&context, &partition, until).await;
        Done::Loaded { log: partition.log, producers }
    })
}

/// Makes what is known of a partition's producers durable, so that trimming their batches away loses nothing:
/// a retry of a trimmed batch must still be known for what it is.
pub(crate) async fn remember_producers(
    context: &ShardContext,
    partition: &Partition,
    until: Offset,
) -> Result<(), StorageError> {
    let producers = read(context, partition, until).await?;
    if producers.is_empty() {
        return Ok(());
    }
    store(context, partition.log, Snapshot { v: SNAPSHOT_VERSION, next: until.0, producers }).await
}

async fn read(
    context: &ShardContext,
    partition: &Partition,
    until: Offset,
) -> Result<Producers, StorageError> {
    let (_, stored) = stored(context, partition.log).await?;
    let snapshot = stored.filter(|snapshot| snapshot.next <= until.0);
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

/// The stored snapshot and its revision.
async fn stored(
    context: &ShardContext,
    log: LogId,
) -> Result<(Option<Revision>, Option<Snapshot>), StorageError> {
    let Some(entry) = context.state.get(&snapshot_key(log)).await? else { return Ok((None, None)) };
    check_version(&entry)?;
    Ok((Some(entry.revision), Some(decode(&entry)?)))
}

/// Refuses snapshots that this version cannot read; called at start, so that nothing is served on a guess.
pub(crate) async fn check_snapshots(state: &dyn MetaStore) -> Result<(), StorageError> {
    let listing = state.list(KEY, Revision(0)).await?;
    listing.entries.iter().try_for_each(check_version)
}

/// Looks at the version alone: cheap, and the same in every version.
fn check_version(entry: &Entry) -> Result<(), StorageError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = decode(entry)?;
    if v == SNAPSHOT_VERSION {
        return Ok(());
    }
    let text =
        format!("stored record {} has version {v}: a newer FerryMQ wrote it; start that one", entry.key);
    Err(StorageError::new(ErrorKind::Internal, text))
}

/// Stores a snapshot unless there is a later one: going back would lose what was trimmed in between.
async fn store(context: &ShardContext, log: LogId, snapshot: Snapshot) -> Result<(), StorageError> {
    let encoded = serde_json::to_vec(&snapshot).map_err(|error| {
        StorageError::new(ErrorKind::Internal, "a snapshot could not be encoded").caused_by(error)
    })?;
    let value = Bytes::from(encoded);
    loop {
        let (revision, newest) = stored(context, log).await?;
        if newest.is_some_and(|newest| newest.next >= snapshot.next) {
            return Ok(());
        }
        let compare = Compare { key: snapshot_key(log), revision };
        let put = Put { key: snapshot_key(log), value: Some(value.clone()) };
        match context.state.txn(vec![compare], vec![put]).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            outcome => return outcome.map(drop),
        }
    }
}

/// Stores a snapshot in the background. Losing it costs time at the next start, nothing else.
pub(super) fn save_snapshot(context: &ShardContext, log: LogId, next: Offset, producers: Producers) {
    let snapshot = Snapshot { v: SNAPSHOT_VERSION, next: next.0, producers };
    let shared = context.clone();
    context.tasks.spawn(TaskKind::Background, "producer snapshot", async move {
        if let Err(error) = store(&shared, log, snapshot).await {
            tracing::debug!(log = log.0, error = %error, "could not store a snapshot of producers");
        }
    });
}
