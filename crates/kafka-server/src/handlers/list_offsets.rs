//! ListOffsets: the ends of a partition, and exact look-ups by time.

use std::collections::HashSet;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};
use ferrymq_storage::{BatchHead, Find, StorageError};
use ferrymq_types::{BatchView, Offset, TimestampType};

use crate::context::Context;
use crate::errors;
use crate::turns::Turns;

mod by_time;
mod scan;

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

/// What a search in a log costs, in [`Turns`].
const LOOK_UP_UNITS: usize = 5;

/// First version whose answer carries the leader epoch (KIP-320).
const LEADER_EPOCH_SINCE: i16 = 4;

/// What a look-up found. The epoch is the one in which the record was written, not the one in force: it is what
/// a client compares with the log after a change of leaders (KIP-320).
struct Place {
    offset: Offset,
    timestamp: i64,
    leader_epoch: i32,
}

type Found = Option<Place>;

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut turns = Turns::default();
    let twice = named_twice(&request, &mut turns).await;
    let mut topics = Vec::with_capacity(request.topics.len().min(1024));
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len().min(1024));
        for wanted in topic.partitions {
            turns.spend(LOOK_UP_UNITS).await;
            let partition = context.broker.topics().partition(&topic.name, wanted.partition_index);
            partitions.push(match partition {
                _ if twice.contains(&(topic.name.clone(), wanted.partition_index)) => {
                    failed(&wanted, ErrorCode::InvalidRequest)
                }
                Some(partition) => look_up(context, version, &partition, &wanted).await,
                None => failed(&wanted, ErrorCode::UnknownTopicOrPartition),
            });
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

/// The partitions that a request names more than once; Kafka looks none of them up.
async fn named_twice(request: &ListOffsetsRequest, turns: &mut Turns) -> HashSet<(StrBytes, i32)> {
    let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
    for topic in &request.topics {
        for partition in &topic.partitions {
            turns.spend(1).await;
            let named = (topic.name.clone(), partition.partition_index);
            if !seen.insert(named.clone()) {
                twice.insert(named);
            }
        }
    }
    twice
}

async fn look_up(
    context: &Context,
    version: i16,
    partition: &Partition,
    wanted: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    if let Some(code) = super::check_epoch(context, partition, wanted.current_leader_epoch) {
        return failed(wanted, code);
    }
    let found = match wanted.timestamp {
        LATEST => Ok(Some(end(partition))),
        EARLIEST | EARLIEST_LOCAL => start(partition).await,
        LATEST_TIERED => Ok(None),
        MAX_TIMESTAMP if version >= 7 => by_time(context, partition, Find::MaxTimestamp).await,
        timestamp if timestamp >= 0 => by_time(context, partition, Find::Timestamp(timestamp)).await,
        _ => return failed(wanted, ErrorCode::InvalidRequest),
    };
    match found {
        Err(error) => failed(wanted, errors::storage(&error)),
        Ok(None) => failed(wanted, ErrorCode::None),
        Ok(Some(place)) => ListOffsetsPartitionResponse {
            partition_index: wanted.partition_index,
            timestamp: place.timestamp,
            offset: place.offset.signed(),
            leader_epoch: if version >= LEADER_EPOCH_SINCE { place.leader_epoch } else { -1 },
            ..Default::default()
        },
    }
}

fn end(partition: &Partition) -> Place {
    let leader_epoch = partition.leader_epoch();
    Place { offset: partition.last_stable_offset(), timestamp: -1, leader_epoch }
}

async fn start(partition: &Partition) -> Result<Found, StorageError> {
    let offset = partition.log_start();
    let first = partition.headers(offset, 1, 0).await?.into_iter().next();
    // Nothing there: what is written next will have the epoch in force.
    let leader_epoch = first.map_or_else(|| partition.leader_epoch(), |head| head.epoch.leader_epoch());
    Ok(Some(Place { offset, timestamp: -1, leader_epoch }))
}

/// Looks in one batch.
async fn in_batch(
    context: &Context,
    partition: &Partition,
    head: &BatchHead,
    what: Find,
) -> Result<Found, StorageError> {
    let high_watermark = partition.high_watermark();
    if head.base >= high_watermark {
        return Ok(None);
    }
    let read = partition.read(head.base, head.base.plus(1), 1).await?;
    let Some(run) = read.runs.into_iter().next() else { return Ok(None) };
    let mut bytes = run.bytes;
    let Ok(batch) = BatchView::split_from(&mut bytes) else { return Ok(None) };
    let start = partition.log_start();
    let leader_epoch = head.epoch.leader_epoch();
    let place = |(offset, timestamp)| Place { offset, timestamp, leader_epoch };
    let whole_batch = (head.base.max(start), batch.header.max_timestamp);
    if batch.header.timestamp_type() == TimestampType::LogAppendTime {
        return Ok(Some(place(whole_batch)));
    }
    let from = start.0.saturating_sub(head.base.0);
    Ok(match scan::find(context, batch, what, from).await {
        Ok(found) => found.map(|(delta, time)| place((head.base.plus(delta), time))),
        // The records cannot be read; the batch as a whole is still the right place.
        Err(scan::Unreadable) => Some(place(whole_batch)),
    })
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
