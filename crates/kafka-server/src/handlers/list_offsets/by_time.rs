//! Which batch a look-up by time ends in: mostly the first that the store names, and otherwise a later one.
//!
//! The store goes by the batches' largest timestamps. The record that has it may lie below the log's start, in
//! a batch that reaches over it, or may not exist, if a compressed batch's header says more than its
//! records do. Then the search goes on behind that batch, up to the high watermark.
//!
//! **Invariant.** "None" means that no readable record matches. Describing batches is cheap and goes page by
//! page; no more than [`OPENED_MAX`] are opened for one look-up.

use ferrymq_broker::Partition;
use ferrymq_storage::{BatchHead, Find, StorageError};
use ferrymq_types::Offset;

use super::{Found, Place, in_batch};
use crate::context::Context;

/// Batches described at a time.
const HEADS_PER_READ: usize = 1024;
/// Batches opened for one look-up. With true headers two are enough. If so many lie, the next that claims to
/// match is the answer as a whole: too early a place loses a reader nothing.
const OPENED_MAX: usize = 32;

/// The record that `what` asks for, by time.
pub(super) async fn by_time(
    context: &Context,
    partition: &Partition,
    what: Find,
) -> Result<Found, StorageError> {
    let Some(head) = partition.find(what).await? else { return Ok(None) };
    let found = in_batch(context, partition, &head, what).await?;
    match what {
        _ if found.is_some() && head.base >= partition.log_start() => Ok(found),
        Find::Timestamp(_) if found.is_some() => Ok(found),
        Find::Timestamp(target) => next_match(context, partition, behind(&head), target).await,
        _ => largest_behind(context, partition, &head, found).await,
    }
}

/// The first record at or behind `from` with a timestamp of at least `target`.
async fn next_match(
    context: &Context,
    partition: &Partition,
    mut from: Offset,
    target: i64,
) -> Result<Found, StorageError> {
    let until = partition.high_watermark();
    let mut opened = 1;
    while from < until {
        let heads = partition.headers(from, HEADS_PER_READ, 0).await?;
        let Some(last) = heads.last() else { break };
        from = behind(last);
        for head in heads.iter().filter(|head| head.base < until && head.max_timestamp >= target) {
            if opened == OPENED_MAX {
                let leader_epoch = head.epoch.leader_epoch();
                return Ok(Some(Place { offset: head.base, timestamp: head.max_timestamp, leader_epoch }));
            }
            opened += 1;
            let found = in_batch(context, partition, head, Find::Timestamp(target)).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// The first record with the largest timestamp, if what was found in the batch over the start is not it.
async fn largest_behind(
    context: &Context,
    partition: &Partition,
    first: &BatchHead,
    found: Found,
) -> Result<Found, StorageError> {
    let until = partition.high_watermark();
    let (mut from, mut best) = (partition.log_start(), None::<BatchHead>);
    while from < until {
        let heads = partition.headers(from, HEADS_PER_READ, 0).await?;
        let Some(last) = heads.last() else { break };
        from = behind(last);
        for head in heads.into_iter().filter(|head| head.base < until && head.base != first.base) {
            if best.as_ref().is_none_or(|best| head.max_timestamp > best.max_timestamp) {
                best = Some(head);
            }
        }
    }
    let Some(best) = best else { return Ok(found) };
    // What was found lies before all others, so it also wins a tie.
    match found {
        Some(Place { timestamp, .. }) if timestamp >= best.max_timestamp => Ok(found),
        _ => Ok(in_batch(context, partition, &best, Find::MaxTimestamp).await?.or(found)),
    }
}

fn behind(head: &BatchHead) -> Offset {
    head.base.plus(u64::from(head.span))
}
