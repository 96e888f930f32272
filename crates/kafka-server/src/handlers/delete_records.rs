//! DeleteRecords: moves the start of partitions up.

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};
use ferrymq_types::Offset;

use crate::context::Context;
use crate::errors;
use crate::turns::Turns;

/// Everything up to the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// The low watermark of an answer that has none.
const NO_LOW_WATERMARK: i64 = -1;

pub(crate) async fn handle(context: &Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len().min(1024));
    let mut turns = Turns::default();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len().min(1024));
        for wanted in topic.partitions {
            turns.spend(1).await;
            let partition = context.broker.topics().partition(&topic.name, wanted.partition_index);
            let result = match partition {
                Some(partition) => delete(context, &partition, &wanted).await,
                None => Err(ErrorCode::UnknownTopicOrPartition),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: wanted.partition_index,
                low_watermark: result.map_or(NO_LOW_WATERMARK, Offset::signed),
                error_code: result.err().unwrap_or_default().code(),
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

/// Deletes records below the offset asked for; answers with the new start.
async fn delete(
    context: &Context,
    partition: &Partition,
    wanted: &DeleteRecordsPartition,
) -> Result<Offset, ErrorCode> {
    if !context.broker.is_served(partition) {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let high_watermark = partition.high_watermark();
    let before = match wanted.offset {
        HIGH_WATERMARK => high_watermark,
        offset => Offset::from_signed(offset).ok_or(ErrorCode::OffsetOutOfRange)?,
    };
    if before > high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    if before <= partition.log_start() {
        return Ok(partition.log_start());
    }
    context.broker.trim(partition, before).await.map_err(|error| errors::append(&error))
}
