//! DescribeTopicPartitions: topics page by page (KIP-966).
//!
//! **Invariants.** Topics come sorted by name and each once, so that a cursor says all about what was told.
//! One answer holds a bounded number of partitions.

use std::collections::BTreeSet;

use ferrymq_broker::Topic;
use ferrymq_broker::topics::check_name;
use ferrymq_kafka_codec::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic, ResponseCursor,
    TopicRequest,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes, Uuid};

use super::metadata::TOPIC_OPERATIONS;
use crate::context::Context;

/// Most partitions in one answer. Kafka's `max.request.partition.size.limit`.
pub(crate) const PARTITIONS_PER_ANSWER: i32 = 2000;

pub(crate) fn handle(
    context: &Context,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let all = request.topics.is_empty();
    let (from_topic, from_partition) = match &request.cursor {
        Some(cursor) => match usize::try_from(cursor.partition_index) {
            Ok(index) => (cursor.topic_name.clone(), index),
            Err(_) => return refused(request),
        },
        None => (StrBytes::new(), 0),
    };
    let names = wanted(context, request, &from_topic);
    if request.cursor.is_some() && !all && !names.contains(&from_topic) {
        return refused(request);
    }
    let mut room =
        usize::try_from(request.response_partition_limit.clamp(1, PARTITIONS_PER_ANSWER)).unwrap_or(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if room == 0 {
            response.next_cursor = Some(ResponseCursor { topic_name: name, partition_index: 0 });
            break;
        }
        let Some(topic) = context.broker.topics().get(&name) else {
            if !all {
                response.topics.push(unknown(name));
            }
            continue;
        };
        let from = if name == from_topic { from_partition } else { 0 };
        let partitions = describe(context, &topic, from, room);
        room -= partitions.len();
        let next = from.saturating_add(partitions.len());
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.clone()),
            topic_id: Uuid(*topic.id.as_bytes()),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        });
        if next < topic.partitions.len() {
            let partition_index = i32::try_from(next).unwrap_or(i32::MAX);
            response.next_cursor = Some(ResponseCursor { topic_name: name, partition_index });
            break;
        }
    }
    response
}

/// The answer to a cursor that makes no sense: it has no place for an error but the topics.
fn refused(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let refuse = |topic: &TopicRequest| DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::InvalidRequest.code(),
        name: Some(topic.name.clone()),
        ..Default::default()
    };
    let topics = request.topics.iter().map(refuse).collect();
    DescribeTopicPartitionsResponse { topics, ..Default::default() }
}

/// The topics asked for, from the cursor on, sorted.
fn wanted(
    context: &Context,
    request: &DescribeTopicPartitionsRequest,
    from: &StrBytes,
) -> BTreeSet<StrBytes> {
    if !request.topics.is_empty() {
        return request.topics.iter().map(|topic| topic.name.clone()).filter(|name| name >= from).collect();
    }
    // Each topic has a partition at least, so that no more topics than partitions are told, and the next.
    let most = usize::try_from(PARTITIONS_PER_ANSWER).unwrap_or(0) + 1;
    context.broker.topics().with(|topics| {
        let names = topics.from_name(from).take(most);
        names.map(|topic| StrBytes::from(topic.name.to_string())).collect()
    })
}

fn describe(
    context: &Context,
    topic: &Topic,
    from: usize,
    room: usize,
) -> Vec<DescribeTopicPartitionsResponsePartition> {
    let partitions = topic.partitions.iter().skip(from).take(room);
    let describe = partitions.map(|partition| {
        let leader = context.leader_of(partition);
        let code = if leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
        DescribeTopicPartitionsResponsePartition {
            error_code: code.code(),
            partition_index: partition.index.cast_signed(),
            leader_id: leader.unwrap_or(-1),
            leader_epoch: partition.leader_epoch(),
            replica_nodes: leader.into_iter().collect(),
            isr_nodes: leader.into_iter().collect(),
            eligible_leader_replicas: Some(Vec::new()),
            last_known_elr: Some(Vec::new()),
            ..Default::default()
        }
    });
    describe.collect()
}

fn unknown(name: StrBytes) -> DescribeTopicPartitionsResponseTopic {
    let code = match check_name(&name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: code.code(),
        name: Some(name),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}
