//! Looking at the partitions of a fetch that may have something.

use std::collections::{BTreeMap, VecDeque};

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::messages::fetch::PartitionData;
use ferrymq_kafka_codec::{ErrorCode, Records};
use ferrymq_types::Offset;

use super::Wanted;
use super::session::{Entry, FetchSession};
use crate::context::Context;
use crate::errors;
use crate::handlers::check_epoch;

/// What looking has found so far, by the partition's token.
#[derive(Default)]
pub(super) struct Found {
    by_token: BTreeMap<u64, PartitionData>,
    /// Bytes of records in all of it.
    pub(super) bytes: usize,
    /// Whether it must be told at once: an error, or there is more than fits.
    pub(super) urgent: bool,
}

impl Found {
    pub(super) fn tokens(&self) -> Vec<u64> {
        self.by_token.keys().copied().collect()
    }

    pub(super) fn take(&mut self, token: u64) -> Option<PartitionData> {
        self.by_token.remove(&token)
    }

    fn put(&mut self, token: u64, data: PartitionData) {
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

/// Looks at the partitions that may have something, until the answer is full.
///
/// Only the first batch of all may be larger than asked (KIP-74). A partition whose next batch does not fit behind
/// it comes first in the next answer, where it does.
pub(super) async fn look(context: &Context, session: &mut FetchSession, wanted: &Wanted, found: &mut Found) {
    let mut rest = session.take_hot();
    let mut aside = VecDeque::new();
    while let Some(token) = rest.pop_front() {
        let earlier = found.by_token.get(&token).map_or(0, size);
        let taken = found.bytes - earlier;
        if taken > 0 && taken >= wanted.bytes_max {
            // Full: this one and those behind it come first in the next answer.
            rest.push_front(token);
            found.urgent = true;
            break;
        }
        let room = wanted.bytes_max - taken;
        let Some(entry) = session.entry_mut(token) else { continue };
        entry.resolve(context);
        let own_room = usize::try_from(entry.bytes_max).unwrap_or(0);
        let data = look_at(entry, wanted, own_room.min(room)).await;
        if taken > 0 && size(&data) > own_room.min(room) {
            found.urgent = true;
            aside.push_back(token);
            if own_room < room {
                // Its own bound; others may fit.
                continue;
            }
            break;
        }
        let more = size(&data) > 0;
        found.put(token, data);
        session.put_back(token, more);
    }
    aside.append(&mut rest);
    session.put_front(aside);
}

async fn look_at(entry: &mut Entry, wanted: &Wanted, bytes_max: usize) -> PartitionData {
    let Some(partition) = entry.partition().cloned() else { return entry.failed(entry.unknown_code()) };
    if let Some(code) = check_epoch(&partition, entry.leader_epoch) {
        return entry.failed(code);
    }
    let mut data = bounds(entry, &partition, wanted.read_committed);
    let until = Offset::from_signed(data.last_stable_offset).unwrap_or_default();
    let high_watermark = Offset::from_signed(data.high_watermark).unwrap_or_default();
    let until = if wanted.read_committed { until } else { high_watermark };
    let from = match Offset::from_signed(entry.offset) {
        Some(from) if from >= partition.log_start() && from <= high_watermark => from,
        _ => {
            let mut failed = entry.failed(ErrorCode::OffsetOutOfRange);
            failed.log_start_offset = partition.log_start().signed();
            return failed;
        }
    };
    if from >= until {
        return data;
    }
    match partition.read(from, until, bytes_max).await {
        Ok(read) => data.records = Some(read.runs.into_iter().map(|run| run.bytes).collect()),
        Err(error) => {
            tracing::warn!(partition = ?partition, from = from.0, error = %error, "a fetch could not be served");
            return entry.failed(errors::storage(&error));
        }
    }
    data
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
