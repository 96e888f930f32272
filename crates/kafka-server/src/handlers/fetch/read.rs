//! Looking at the partitions of a fetch that may have something.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::messages::fetch::PartitionData;
use ferrymq_kafka_codec::{ErrorCode, Records};
use ferrymq_storage::{Read, StorageError};
use ferrymq_types::Offset;

use super::Wanted;
use super::ahead::Ahead;
use super::session::{Entry, FetchSession};
use crate::answers::AnswerRoom;
use crate::context::Context;
use crate::errors;
use crate::handlers::check_epoch;
use crate::turns::Turns;

/// What looking has found so far, by the partition's token.
#[derive(Default)]
pub(super) struct Found {
    by_token: BTreeMap<u64, PartitionData>,
    /// Where the records of each end.
    ends: HashMap<u64, Offset>,
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

    pub(super) fn take(&mut self, token: u64) -> Option<PartitionData> {
        self.by_token.remove(&token)
    }

    /// Gives up the records and their room.
    pub(super) fn shed(&mut self, context: &Context) {
        if self.bytes > 0 {
            self.by_token.values_mut().for_each(|data| data.records = Some(Records::new()));
            self.bytes = 0;
        }
        self.room.settle(context, 0);
    }

    /// Where the records of a partition end, if it has some.
    pub(super) fn end(&self, token: u64) -> Option<Offset> {
        self.ends.get(&token).copied()
    }

    fn put(&mut self, token: u64, data: PartitionData, end: Option<Offset>) {
        match end {
            Some(end) => self.ends.insert(token, end),
            None => self.ends.remove(&token),
        };
        self.urgent |= data.error_code != 0;
        self.bytes += size(&data);
        if let Some(old) = self.by_token.insert(token, data) {
            self.bytes -= size(&old);
        }
    }
}

fn size(data: &PartitionData) -> usize {
    data.records.as_ref().map_or(0, Records::len)
}

/// What looking at one partition came to.
enum Looked {
    /// This is to be told of it, and its records reach to there.
    Told(PartitionData, Option<Offset>),
    /// Its next batch is larger than what may be told of it beside the others, or there is no room.
    TooLarge,
}

/// Looks at the partitions that may have something, until the answer is full. The first that has records may
/// exceed every limit by its first batch (KIP-74), so that it is told at all; no other may.
pub(super) async fn look(
    context: &Context,
    session: &mut FetchSession,
    wanted: &Wanted,
    found: &mut Found,
    ahead: &mut Ahead,
) {
    let mut rest = session.take_hot();
    let mut left_out = VecDeque::new();
    let mut turns = Turns::default();
    while let Some(token) = rest.pop_front() {
        turns.spend(1).await;
        let earlier = found.by_token.get(&token).map_or(0, size);
        let taken = found.bytes - earlier;
        if taken > 0 && taken >= wanted.bytes_max {
            // Full: what was left out and what was not looked at come first in the next answer.
            rest.push_front(token);
            found.urgent = true;
            break;
        }
        let Some(entry) = session.entry_mut(token) else { continue };
        entry.resolve(context);
        match look_at(context, entry, wanted, taken, &mut found.room, ahead).await {
            Looked::Told(data, next) => {
                let more = size(&data) > 0;
                found.put(token, data, next);
                session.put_back(token, more);
            }
            Looked::TooLarge => {
                // It waits for this answer to go out, so that must not wait for more.
                found.urgent |= found.bytes > 0;
                left_out.push_back(token);
            }
        }
    }
    left_out.append(&mut rest);
    session.put_front(left_out);
    found.room.settle(context, found.bytes);
}

/// Looks at a partition whose answer has `taken` bytes of others.
async fn look_at(
    context: &Context,
    entry: &Entry,
    wanted: &Wanted,
    taken: usize,
    room: &mut AnswerRoom,
    ahead: &mut Ahead,
) -> Looked {
    let told = |code| Looked::Told(entry.failed(code), None);
    let Some(partition) = entry.partition() else { return told(entry.unknown_code()) };
    if let Some(code) = check_epoch(partition, entry.leader_epoch) {
        return told(code);
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
            return Looked::Told(failed, None);
        }
    };
    if from >= until {
        return Looked::Told(data, None);
    }
    let bytes_max = usize::try_from(entry.bytes_max).unwrap_or(0).min(wanted.bytes_max - taken);
    let bytes_max = match room.grow(context, taken, bytes_max).await {
        0 => return Looked::TooLarge,
        granted => granted,
    };
    let read = match ahead.take(partition, from, bytes_max) {
        Some(read) => Ok(Some(read)),
        None => read(partition, from..until, bytes_max, taken == 0).await,
    };
    match read {
        Ok(Some(read)) => {
            let next = read.next();
            data.records = Some(read.runs.into_iter().map(|run| run.bytes).collect());
            Looked::Told(data, next)
        }
        Ok(None) => Looked::TooLarge,
        Err(error) => {
            tracing::warn!(partition = ?partition, from = from.0, error = %error, "a fetch could not be served");
            told(errors::storage(&error))
        }
    }
}

/// Whole batches of at most `bytes_max`, or else the first of them if this is the first partition. `None`: there
/// are some, and none fits.
async fn read(
    partition: &Partition,
    range: Range<Offset>,
    bytes_max: usize,
    is_first: bool,
) -> Result<Option<Read>, StorageError> {
    let fits = |bytes: usize| is_first || bytes <= bytes_max;
    if !is_first {
        // The index knows the size: what is not told is not read either.
        let heads = partition.headers(range.start, 1, 0).await?;
        if heads.first().is_some_and(|head| !fits(usize::try_from(head.size).unwrap_or(usize::MAX))) {
            return Ok(None);
        }
    }
    let read = partition.read(range.start, range.end, bytes_max).await?;
    // The batch that was looked at may have been trimmed away since.
    Ok(fits(read.bytes()).then_some(read))
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
