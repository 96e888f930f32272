//! OffsetFetch: what groups have committed, with metadata and leader epochs.
//!
//! Versions 1 to 7 ask for one group, later ones for many; both go one way here. Without transactions every
//! commit is stable, so `require_stable` asks for nothing.

use std::collections::HashSet;
use std::sync::Arc;

use ferrymq_broker::groups::{FetchGroup, FetchedOffset, GroupError};
use ferrymq_kafka_codec::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes, Uuid};

use crate::context::Context;
use crate::errors;

/// First version with an error for the whole answer, and with "all topics".
const GROUP_ERROR_SINCE: i16 = 2;
/// First version that asks for many groups (KIP-709).
const BATCHED_SINCE: i16 = 8;
/// First version that names topics by id.
const TOPIC_ID_SINCE: i16 = 10;
/// "No offset" and "no epoch".
const NONE: (i64, i32) = (-1, -1);

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if version >= BATCHED_SINCE {
        let mut answered = HashSet::new();
        let mut groups = Vec::new();
        for group in request.groups {
            if answered.insert(group.group_id.clone()) {
                groups.push(fetch(context, version, group).await);
            }
        }
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        });
        topics.collect()
    });
    let group = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
    let answer = fetch(context, version, group).await;
    let error_code = if version >= GROUP_ERROR_SINCE { answer.error_code } else { 0 };
    let topics = answer.topics.into_iter().map(single).collect();
    OffsetFetchResponse { topics, error_code, ..Default::default() }
}

/// One group, in the form of the versions that ask for many.
async fn fetch(context: &Context, version: i16, group: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let OffsetFetchRequestGroup { group_id, topics, .. } = group;
    let fetched = match &topics {
        None => all(context, version, &group_id).await,
        Some(topics) => some(context, version, &group_id, topics).await,
    };
    match fetched {
        Ok(topics) => OffsetFetchResponseGroup { group_id, topics, ..Default::default() },
        Err(error) => {
            let code = errors::group(&error);
            // Version 1 has no place for the error but the partitions.
            let told = topics.filter(|_| version < GROUP_ERROR_SINCE).unwrap_or_default();
            let topics = told.into_iter().map(|topic| {
                let failed = |index: &i32| partition(*index, NONE, code);
                let partitions = topic.partition_indexes.iter().map(failed).collect();
                OffsetFetchResponseTopics { name: topic.name, topic_id: topic.topic_id, partitions }
            });
            OffsetFetchResponseGroup { group_id, error_code: code.code(), topics: topics.collect() }
        }
    }
}

async fn some(
    context: &Context,
    version: i16,
    group: &StrBytes,
    topics: &[OffsetFetchRequestTopics],
) -> Result<Vec<OffsetFetchResponseTopics>, GroupError> {
    let mut keys = Vec::new();
    let mut places = Vec::new();
    let mut answer = Vec::with_capacity(topics.len().min(1024));
    for topic in topics {
        let name: Option<Arc<str>> = if version >= TOPIC_ID_SINCE {
            let found = context.broker.topics().by_id(uuid::Uuid::from_bytes(topic.topic_id.0));
            found.map(|topic| Arc::clone(&topic.name))
        } else {
            Some(Arc::from(&*topic.name))
        };
        let code = if name.is_some() { ErrorCode::None } else { ErrorCode::UnknownTopicId };
        let empty = |index: &i32| partition(*index, NONE, code);
        let partitions: Vec<_> = topic.partition_indexes.iter().map(empty).collect();
        if let Some(name) = name {
            for (slot, index) in topic.partition_indexes.iter().enumerate() {
                let Ok(index) = u32::try_from(*index) else { continue };
                keys.push((Arc::clone(&name), index));
                places.push((answer.len(), slot));
            }
        }
        answer.push(OffsetFetchResponseTopics {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions,
        });
    }
    let wanted = FetchGroup { group: group.to_string(), partitions: Some(keys) };
    let offsets = context.groups.fetch(wanted).await?;
    for ((topic, slot), offset) in places.into_iter().zip(offsets) {
        let topic: &mut OffsetFetchResponseTopics = &mut answer[topic];
        fill(&mut topic.partitions[slot], topic.topic_id, &offset);
    }
    Ok(answer)
}

async fn all(
    context: &Context,
    version: i16,
    group: &StrBytes,
) -> Result<Vec<OffsetFetchResponseTopics>, GroupError> {
    let wanted = FetchGroup { group: group.to_string(), partitions: None };
    let mut offsets = context.groups.fetch(wanted).await?;
    offsets.sort_unstable_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    let mut answer: Vec<OffsetFetchResponseTopics> = Vec::new();
    for run in offsets.chunk_by(|a, b| a.topic == b.topic) {
        let name = &run[0].topic;
        let mut topic =
            OffsetFetchResponseTopics { name: StrBytes::from(name.to_string()), ..Default::default() };
        if version >= TOPIC_ID_SINCE {
            // Who asks by id cannot be told of a topic that has none any more.
            let Some(found) = context.broker.topics().get(name) else { continue };
            topic.topic_id = Uuid(*found.id.as_bytes());
        }
        for offset in run {
            let mut slot = partition(offset.partition.cast_signed(), NONE, ErrorCode::None);
            fill(&mut slot, topic.topic_id, offset);
            topic.partitions.push(slot);
        }
        answer.push(topic);
    }
    Ok(answer)
}

/// Fills in what was committed, unless that was for an earlier topic of the same name.
fn fill(slot: &mut OffsetFetchResponsePartitions, topic_id: Uuid, fetched: &FetchedOffset) {
    let Some(committed) = &fetched.committed else { return };
    if !topic_id.is_zero() && committed.topic_id.is_some_and(|id| id != topic_id.0) {
        return;
    }
    slot.committed_offset = committed.offset;
    slot.committed_leader_epoch = committed.leader_epoch.unwrap_or(NONE.1);
    slot.metadata = Some(StrBytes::from(committed.metadata.to_string()));
}

fn partition(
    partition_index: i32,
    (committed_offset, committed_leader_epoch): (i64, i32),
    code: ErrorCode,
) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset,
        committed_leader_epoch,
        metadata: Some(StrBytes::new()),
        error_code: code.code(),
    }
}

/// The form of the versions that ask for one group.
fn single(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let partitions = topic.partitions.into_iter().map(|partition| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
    });
    OffsetFetchResponseTopic { name: topic.name, partitions: partitions.collect() }
}
