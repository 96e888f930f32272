//! OffsetForLeaderEpoch: where an epoch ended, so that a client sees whether its position still stands
//! (KIP-320).
//!
//! Epochs never fall along a log, so the end of one is found by halving, without a list of epochs kept aside.

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};
use ferrymq_storage::StorageError;
use ferrymq_types::Offset;

use crate::context::Context;
use crate::errors;
use crate::turns::Turns;

/// What a search in a log costs, in [`Turns`].
const LOOK_UP_UNITS: usize = 20;
/// "No epoch" and "no offset".
const UNDEFINED: (i32, i64) = (-1, -1);

pub(crate) async fn handle(
    context: &Context,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len().min(1024));
    let mut turns = Turns::default();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len().min(1024));
        for wanted in topic.partitions {
            turns.spend(LOOK_UP_UNITS).await;
            let partition = context.broker.topics().partition(&topic.topic, wanted.partition);
            let result = match partition {
                Some(partition) => look_up(context, &partition, &wanted).await,
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            let (leader_epoch, end_offset) = result.unwrap_or(UNDEFINED);
            let error_code = result.err().unwrap_or_default().code();
            partitions.push(EpochEndOffset {
                error_code,
                partition: wanted.partition,
                leader_epoch,
                end_offset,
            });
        }
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    OffsetForLeaderEpochResponse { topics, ..Default::default() }
}

async fn look_up(
    context: &Context,
    partition: &Partition,
    wanted: &OffsetForLeaderPartition,
) -> Result<(i32, i64), ErrorCode> {
    if let Some(code) = super::check_epoch(context, partition, wanted.current_leader_epoch) {
        return Err(code);
    }
    let (asked, current) = (wanted.leader_epoch, partition.leader_epoch());
    if asked == current {
        return Ok((wanted.leader_epoch, partition.high_watermark().signed()));
    }
    if asked < 0 || asked > current {
        return Ok(UNDEFINED);
    }
    let (epoch, end) = end_of(partition, asked).await.map_err(|error| errors::storage(&error))?;
    Ok((epoch, end.signed()))
}

/// The largest epoch in the log that is not above `asked` (or else `asked`), and where the next one begins.
async fn end_of(partition: &Partition, asked: i32) -> Result<(i32, Offset), StorageError> {
    let (start, high_watermark) = (partition.log_start(), partition.high_watermark());
    let (mut low, mut high) = (start, high_watermark);
    let (mut epoch, mut end) = (None, high_watermark);
    while low < high {
        let middle = Offset(low.0 + (high.0 - low.0) / 2);
        let head = partition.headers(middle, 1, 0).await?.into_iter().next();
        match head.filter(|head| head.base < high_watermark) {
            Some(head) if head.epoch.leader_epoch() <= asked => {
                epoch = Some(head.epoch.leader_epoch());
                low = head.base.plus(u64::from(head.span));
            }
            Some(head) => {
                end = head.base.max(start);
                high = middle.min(head.base);
            }
            None => high = middle,
        }
    }
    Ok((epoch.unwrap_or(asked), end))
}
