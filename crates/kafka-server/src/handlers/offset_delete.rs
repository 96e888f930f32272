//! OffsetDelete: a group's offsets of some partitions go (KIP-496).

use std::sync::Arc;

use ferrymq_broker::groups::{DeleteOffsetsRequest, GroupError};
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};

use crate::context::Context;
use crate::errors;

pub(crate) async fn handle(context: &Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let failed = |error: &GroupError| OffsetDeleteResponse {
        error_code: errors::group(error).code(),
        ..Default::default()
    };
    if request.group_id.is_empty() {
        return failed(&GroupError::InvalidGroupId);
    }
    let mut topics = Vec::with_capacity(request.topics.len().min(1024));
    let mut known = Vec::new();
    let mut places = Vec::new();
    for topic in request.topics {
        let found = context.broker.topics().get(&topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len().min(1024));
        for wanted in topic.partitions {
            let index = wanted.partition_index.cast_unsigned();
            let there = found.as_ref().filter(|topic| (index as usize) < topic.partitions.len());
            let mut answer = OffsetDeleteResponsePartition {
                partition_index: wanted.partition_index,
                error_code: ErrorCode::None.code(),
            };
            match there {
                Some(topic) => {
                    known.push((Arc::clone(&topic.name), index));
                    places.push((topics.len(), partitions.len()));
                }
                None => answer.error_code = ErrorCode::UnknownTopicOrPartition.code(),
            }
            partitions.push(answer);
        }
        topics.push(OffsetDeleteResponseTopic { name: topic.name, partitions });
    }
    let wanted = DeleteOffsetsRequest { group: request.group_id.to_string(), partitions: known };
    let results = match context.groups.delete_offsets(wanted).await {
        Ok(results) => results,
        Err(error) => return failed(&error),
    };
    for ((topic, partition), result) in places.into_iter().zip(results) {
        let error_code = result.err().map_or(0, |error| errors::group(&error).code());
        topics[topic].partitions[partition].error_code = error_code;
    }
    OffsetDeleteResponse { topics, ..Default::default() }
}
