//! Looking at the partitions of a fetch that may have something.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::messages::fetch::{LeaderIdAndEpoch, PartitionData};
use ferrymq_kafka_codec::{ErrorCode, Records};
use ferrymq_storage::{Read, StorageError};
use ferrymq_types::Offset;

use super::deferred::{DEFERRED_BYTES_MIN, Deferred, FRONT_BYTES, FRONT_BYTES_ALONE};
use super::session::{Entry, FetchSession};
use super::{LEADER_SINCE, Wanted};
use crate::answers::AnswerRoom;
use crate::context::Context;
use crate::errors;
use crate::handlers::check_epoch;
use crate::turns::Turns;

/// With so many partitions whose next batch does not fit into the room that is left, an answer counts as full. Hundreds of
/// others would be looked at in vain, each answer anew: what is left is hardly ever enough for a whole batch.
const LEFT_OUT_MAX: usize = 32;

/// What looking has found so far, by the partition's token.
#[derive(Default)]
pub(super) struct Found {
    by_token: BTreeMap<u64, Told>,
    /// Bytes of records in all of it.
    pub(super) bytes: usize,
    /// Whether it must be told at once: an error, or there is more than fits.
    pub(super) urgent: bool,
    /// The room that the records take.
    pub(super) room: AnswerRoom,
}

impl Found {
    pub(super) fn tokens(&self) -> Vec<u64> {
        self.by_token.keys().copied().collect()
    }

    pub(super) fn take(&mut self, token: u64) -> Option<Told> {
        self.by_token.remove(&token)
    }

    /// Memory that its records take while they go out.
    fn held(&self) -> usize {
        let deferred = || self.by_token.values().filter_map(|told| told.deferred.as_ref());
        let later: usize = deferred().map(Deferred::bytes).sum();
        self.bytes - later + deferred().map(Deferred::held).max().unwrap_or(0)
    }

    /// Gives up the records and their room.
    pub(super) fn shed(&mut self, context: &Context) {
        if self.bytes > 0 {
            for told in self.by_token.values_mut() {
                (told.data.records, told.deferred) = (Some(Records::new()), None);
            }
            self.bytes = 0;
        }
        self.room.settle(context, 0);
    }

    fn put(&mut self, token: u64, told: Told) {
        self.urgent |= told.data.error_code != 0;
        self.bytes += told.bytes();
        if let Some(old) = self.by_token.insert(token, told) {
            self.bytes -= old.bytes();
        }
    }
}

/// What is to be told of a partition.
pub(super) struct Told {
    pub(super) data: PartitionData,
    /// Those of its records that are read while the answer goes out.
    pub(super) deferred: Option<Deferred>,
}

impl From<PartitionData> for Told {
    fn from(data: PartitionData) -> Told {
        Told { data, deferred: None }
    }
}

impl Told {
    fn bytes(&self) -> usize {
        self.data.records.as_ref().map_or(0, Records::len)
    }
}

/// Looks at the partitions that may have something, until the answer is full. The first that has records may
/// exceed every limit by its first batch (KIP-74), so that it is told at all; no other may.
pub(super) async fn look(context: &Context, session: &mut FetchSession, wanted: &Wanted, found: &mut Found) {
    let mut rest = session.take_hot();
    let mut left_out = VecDeque::new();
    let mut crowded_out = 0;
    let mut turns = Turns::default();
    while let Some(token) = rest.pop_front() {
        turns.spend(1).await;
        let earlier = found.by_token.get(&token).map_or(0, Told::bytes);
        let taken = found.bytes - earlier;
        if taken > 0 && taken >= wanted.bytes_max {
            // Full: what was left out and what was not looked at come first in the next answer.
            rest.push_front(token);
            found.urgent = true;
            break;
        }
        let Some(entry) = session.entry_mut(token) else { continue };
        entry.refresh(context);
        // Whether what others take leaves it less than it may have.
        let crowded = usize::try_from(entry.bytes_max).unwrap_or(0) > wanted.bytes_max.saturating_sub(taken);
        let front_bytes = if taken == 0 && rest.is_empty() { FRONT_BYTES_ALONE } else { FRONT_BYTES };
        match look_at(context, entry, wanted, (taken, front_bytes), &mut found.room).await {
            Some(told) => {
                let more = told.bytes() > 0;
                found.put(token, told);
                session.put_back(token, more);
            }
            None => {
                // It waits for this answer to go out, so that must not wait for more.
                found.urgent |= found.bytes > 0;
                left_out.push_back(token);
                crowded_out += usize::from(crowded && found.bytes > 0);
                if crowded_out >= LEFT_OUT_MAX {
                    break;
                }
            }
        }
    }
    left_out.append(&mut rest);
    session.put_front(left_out);
    let held = found.held();
    found.room.settle(context, held);
}

/// Looks at a partition whose answer has `taken` bytes of others; so many bytes at the front are not deferred. `None`: its
/// next batch is larger than what may be told of it beside the others, or there is no room.
async fn look_at(
    context: &Context,
    entry: &Entry,
    wanted: &Wanted,
    (taken, front_bytes): (usize, usize),
    room: &mut AnswerRoom,
) -> Option<Told> {
    let told = |code| Some(Told::from(entry.failed(code)));
    let Some(partition) = entry.partition() else { return told(entry.unknown_code()) };
    if let Some(code) = check_epoch(context, partition, entry.leader_epoch) {
        let mut failed = entry.failed(code);
        if wanted.version >= LEADER_SINCE && code != ErrorCode::UnknownLeaderEpoch {
            let leader = context.current_leader(partition);
            failed.current_leader = leader
                .map(|(leader_id, leader_epoch)| LeaderIdAndEpoch { leader_id, leader_epoch })
                .unwrap_or_default();
        }
        return Some(failed.into());
    }
    let mut data = bounds(entry, partition, wanted.read_committed);
    let until = Offset::from_signed(data.last_stable_offset).unwrap_or_default();
    let high_watermark = Offset::from_signed(data.high_watermark).unwrap_or_default();
    let until = if wanted.read_committed { until } else { high_watermark };
    let from = match Offset::from_signed(entry.offset) {
        // Up to the next offset, not the high watermark: a consumer whose records a restart has lost goes on behind
        // the gap, where it would otherwise begin anew.
        Some(from) if from >= partition.log_start() && from <= partition.next() => from,
        _ => {
            let mut failed = entry.failed(ErrorCode::OffsetOutOfRange);
            failed.log_start_offset = partition.log_start().signed();
            return Some(failed.into());
        }
    };
    if from >= until {
        return Some(data.into());
    }
    let bytes_max = usize::try_from(entry.bytes_max).unwrap_or(0).min(wanted.bytes_max - taken);
    let bytes_max = match room.grow(context, taken, bytes_max).await {
        0 => return None,
        granted => granted,
    };
    match read(partition, from..until, bytes_max, (taken == 0, front_bytes)).await {
        Ok(Some((read, deferred))) => {
            let mut records: Records = read.runs.into_iter().map(|run| run.bytes).collect();
            records.defer(deferred.as_ref().map_or(0, Deferred::bytes));
            data.records = Some(records);
            Some(Told { data, deferred })
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(partition = ?partition, from = from.0, error = %error, "a fetch could not be served");
            told(errors::storage(&error))
        }
    }
}

/// Whole batches of at most `bytes_max`, or else the first of them if this is the first partition; what is much behind
/// the front is deferred. `None`: there are some, and none fits.
async fn read(
    partition: &Arc<Partition>,
    range: Range<Offset>,
    bytes_max: usize,
    (is_first, front_bytes): (bool, usize),
) -> Result<Option<(Read, Option<Deferred>)>, StorageError> {
    let fits = |bytes: usize| is_first || bytes <= bytes_max;
    if !is_first {
        // The index knows the size: what is not told is not read either.
        let heads = partition.headers(range.start, 1, 0).await?;
        if heads.first().is_some_and(|head| !fits(usize::try_from(head.size).unwrap_or(usize::MAX))) {
            return Ok(None);
        }
    }
    let defers = bytes_max >= front_bytes + DEFERRED_BYTES_MIN;
    let front_max = if defers { front_bytes } else { bytes_max };
    let mut read = partition.read(range.start, range.end, front_max).await?;
    if !fits(read.bytes()) {
        // The batch that was looked at has been trimmed away since.
        return Ok(None);
    }
    let Some(next) = read.next().filter(|next| defers && *next < range.end) else {
        return Ok(Some((read, None)));
    };
    let left = bytes_max.saturating_sub(read.bytes());
    let deferred = Deferred::plan(partition, next, range.end, left).await?;
    if deferred.is_none() && left > 0 {
        // So little that it is read now; and of the next batch's size no more is known than that it is there.
        let rest = partition.read(next, range.end, left).await?;
        if rest.bytes() <= left {
            read.runs.extend(rest.runs);
        }
    }
    Ok(Some((read, deferred)))
}

/// An answer without records.
pub(super) fn bounds(entry: &Entry, partition: &Partition, read_committed: bool) -> PartitionData {
    PartitionData {
        partition_index: entry.index,
        high_watermark: partition.high_watermark().signed(),
        last_stable_offset: partition.last_stable_offset().signed(),
        log_start_offset: partition.log_start().signed(),
        aborted_transactions: read_committed.then(Vec::new),
        records: Some(Records::new()),
        ..Default::default()
    }
}
