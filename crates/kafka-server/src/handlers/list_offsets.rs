//! ListOffsets: the ends of a partition, and exact look-ups by time.

use std::collections::HashSet;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};
use ferrymq_storage::{BatchHead, Find, StorageError};
use ferrymq_types::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use ferrymq_types::{BatchView, Offset, Records, TimestampType};

use crate::context::Context;
use crate::errors;

mod by_time;

use by_time::by_time;

/// The next offset.
const LATEST: i64 = -1;
/// The first offset.
const EARLIEST: i64 = -2;
/// The record with the largest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// The first offset kept locally (KIP-405).
const EARLIEST_LOCAL: i64 = -4;
/// The last offset in tiered storage (KIP-1005); there is none.
const LATEST_TIERED: i64 = -5;

/// First version whose answer carries the leader epoch (KIP-320).
const LEADER_EPOCH_SINCE: i16 = 4;

/// What a look-up found: offset and timestamp.
type Found = Option<(Offset, i64)>;

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let twice = named_twice(&request);
    let mut topics = Vec::with_capacity(request.topics.len().min(1024));
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len().min(1024));
        for wanted in topic.partitions {
            let partition = context.broker.topics().partition(&topic.name, wanted.partition_index);
            partitions.push(match partition {
                _ if twice.contains(&(topic.name.clone(), wanted.partition_index)) => {
                    failed(&wanted, ErrorCode::InvalidRequest)
                }
                Some(partition) => look_up(version, &partition, &wanted).await,
                None => failed(&wanted, ErrorCode::UnknownTopicOrPartition),
            });
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

/// The partitions that a request names more than once; Kafka looks none of them up.
fn named_twice(request: &ListOffsetsRequest) -> HashSet<(StrBytes, i32)> {
    let mut seen = HashSet::new();
    let named = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| (topic.name.clone(), partition.partition_index))
    });
    named.filter(|partition| !seen.insert(partition.clone())).collect()
}

async fn look_up(
    version: i16,
    partition: &Partition,
    wanted: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let epoch = partition.leader_epoch();
    if let Some(code) = super::check_epoch(partition, wanted.current_leader_epoch) {
        return failed(wanted, code);
    }
    let found = match wanted.timestamp {
        LATEST => Ok(Some((partition.last_stable_offset(), -1))),
        EARLIEST | EARLIEST_LOCAL => Ok(Some((partition.log_start(), -1))),
        LATEST_TIERED => Ok(None),
        MAX_TIMESTAMP if version >= 7 => by_time(partition, Find::MaxTimestamp).await,
        timestamp if timestamp >= 0 => by_time(partition, Find::Timestamp(timestamp)).await,
        _ => return failed(wanted, ErrorCode::InvalidRequest),
    };
    match found {
        Err(error) => failed(wanted, errors::storage(&error)),
        Ok(found) => {
            let known = found.is_some();
            let (offset, timestamp) = found.map_or((-1, -1), |(offset, time)| (offset.signed(), time));
            ListOffsetsPartitionResponse {
                partition_index: wanted.partition_index,
                timestamp,
                offset,
                leader_epoch: if known && version >= LEADER_EPOCH_SINCE { epoch } else { -1 },
                ..Default::default()
            }
        }
    }
}

/// Looks in one batch.
async fn in_batch(partition: &Partition, head: &BatchHead, what: Find) -> Result<Found, StorageError> {
    let high_watermark = partition.high_watermark();
    if head.base >= high_watermark {
        return Ok(None);
    }
    let read = partition.read(head.base, head.base.plus(1), 1).await?;
    let Some(run) = read.runs.into_iter().next() else { return Ok(None) };
    let mut bytes = run.bytes;
    let Ok(batch) = BatchView::split_from(&mut bytes) else { return Ok(None) };
    let start = partition.log_start();
    let whole_batch = Some((head.base.max(start), batch.header.max_timestamp));
    if batch.header.timestamp_type() == TimestampType::LogAppendTime {
        return Ok(whole_batch);
    }
    let Some(records) = open(&batch) else {
        // The records cannot be read; the batch as a whole is still the right place.
        return Ok(whole_batch);
    };
    let base_time = batch.header.base_timestamp;
    let times = records.map_while(Result::ok).map(|record| {
        let delta = u64::from(record.offset_delta.cast_unsigned());
        (head.base.plus(delta), base_time.saturating_add(record.timestamp_delta))
    });
    let mut readable = times.filter(|(offset, _)| *offset >= start);
    Ok(match what {
        Find::Timestamp(target) => readable.find(|(_, time)| *time >= target),
        // The first of several with the same timestamp.
        _ => readable.max_by_key(|(offset, time)| (*time, std::cmp::Reverse(*offset))),
    })
}

/// The records of a batch, decompressed within bounds.
fn open(batch: &BatchView) -> Option<Records> {
    let payload = batch.payload();
    let compression = batch.header.compression()?;
    let bytes = ferrymq_compress::decompress(compression, &payload, DECOMPRESSED_BATCH_BYTES_MAX).ok()?;
    Some(Records::new(bytes, batch.header.record_count))
}

fn failed(wanted: &ListOffsetsPartition, code: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse {
        partition_index: wanted.partition_index,
        error_code: code.code(),
        timestamp: -1,
        offset: -1,
        leader_epoch: -1,
    }
}
