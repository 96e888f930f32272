//! OffsetCommit: a group's positions, kept with their metadata and leader epochs.
//!
//! **Invariant.** Offsets are committed for partitions that exist, and only for those.

use std::sync::Arc;

use ferrymq_broker::Topic;
use ferrymq_broker::groups::{CommitOffset, CommitRequest, GroupError};
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};

use crate::context::Context;
use crate::errors;

/// First version that names topics by id.
const TOPIC_ID_SINCE: i16 = 10;
/// First version whose clients know that a group may be gone (KIP-848).
const GROUP_NOT_FOUND_SINCE: i16 = 9;

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let mut response = OffsetCommitResponse::default();
    let mut offsets = Vec::new();
    let mut places = Vec::new();
    for topic in request.topics {
        let (found, unknown) = find(context, version, &topic);
        let mut answer =
            OffsetCommitResponseTopic { name: topic.name, topic_id: topic.topic_id, ..Default::default() };
        for wanted in topic.partitions {
            let mut slot = OffsetCommitResponsePartition {
                partition_index: wanted.partition_index,
                error_code: ErrorCode::None.code(),
            };
            match found.as_deref().map(|topic| offset(topic, &wanted)) {
                Some(Some(offset)) => {
                    offsets.push(offset);
                    places.push((response.topics.len(), answer.partitions.len()));
                }
                Some(None) => slot.error_code = ErrorCode::UnknownTopicOrPartition.code(),
                None => slot.error_code = unknown.code(),
            }
            answer.partitions.push(slot);
        }
        response.topics.push(answer);
    }
    if offsets.is_empty() {
        return response;
    }
    let commit = CommitRequest {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.map(String::from),
        generation: request.generation_id_or_member_epoch,
        retention_ms: u64::try_from(request.retention_time_ms).ok(),
        offsets,
    };
    let code = |error: &GroupError| match error {
        GroupError::GroupIdNotFound if version < GROUP_NOT_FOUND_SINCE => ErrorCode::IllegalGeneration,
        error => errors::group(error),
    };
    let results = context.groups.commit(commit).await;
    for (at, (topic, slot)) in places.into_iter().enumerate() {
        let error = match &results {
            Ok(results) => results.get(at).and_then(|result| result.as_ref().err()),
            Err(error) => Some(error),
        };
        response.topics[topic].partitions[slot].error_code = error.map_or(0, |error| code(error).code());
    }
    response
}

/// The topic, or the code for one that is not there.
fn find(
    context: &Context,
    version: i16,
    topic: &OffsetCommitRequestTopic,
) -> (Option<Arc<Topic>>, ErrorCode) {
    let topics = context.broker.topics();
    if version >= TOPIC_ID_SINCE {
        (topics.by_id(uuid::Uuid::from_bytes(topic.topic_id.0)), ErrorCode::UnknownTopicId)
    } else {
        (topics.get(&topic.name), ErrorCode::UnknownTopicOrPartition)
    }
}

fn offset(topic: &Topic, wanted: &OffsetCommitRequestPartition) -> Option<CommitOffset> {
    let partition = u32::try_from(wanted.partition_index).ok()?;
    topic.partitions.get(partition as usize)?;
    Some(CommitOffset {
        topic: Arc::clone(&topic.name),
        topic_id: Some(*topic.id.as_bytes()),
        partition,
        offset: wanted.committed_offset,
        leader_epoch: (wanted.committed_leader_epoch >= 0).then_some(wanted.committed_leader_epoch),
        metadata: wanted.committed_metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
    })
}
