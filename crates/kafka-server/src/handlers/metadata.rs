//! Metadata: brokers, topics and who leads them; creates topics if it may.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ferrymq_broker::{NewTopic, Topic, TopicError};
use ferrymq_kafka_codec::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes, Uuid};

use crate::cluster::Node;
use crate::context::Context;
use crate::errors;
use crate::listener::Listener;
use crate::turns::Turns;

/// All operations on a topic, as bits: nobody is restricted yet.
pub(crate) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// All operations on the cluster, as bits.
pub(crate) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

pub(crate) async fn handle(
    context: &Context,
    listener: &Listener,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let nodes = context.nodes(listener);
    // Version 0 has no null: there, an empty list asks for all.
    let wanted = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let mut turns = Turns::default();
    let mut topics = match wanted {
        None => {
            let mut topics = Vec::new();
            for topic in context.broker.topics().all() {
                turns.spend(1 + topic.partitions.len()).await;
                topics.push(describe(context, &nodes, &topic));
            }
            topics
        }
        Some(wanted) => {
            let create = version < 4 || request.allow_auto_topic_creation;
            let mut topics = Vec::with_capacity(wanted.len().min(1024));
            // Each once, however often it is asked for: an answer is much longer than the question.
            let mut answered = HashSet::new();
            for topic in wanted {
                if !answered.insert((topic.name.clone(), topic.topic_id)) {
                    continue;
                }
                topics.push(look_up(context, &nodes, version, topic, create).await);
                turns.spend(1 + topics.last().map_or(0, |topic| topic.partitions.len())).await;
            }
            topics
        }
    };
    if request.include_topic_authorized_operations {
        for topic in &mut topics {
            topic.topic_authorized_operations = TOPIC_OPERATIONS;
        }
    }
    let mut response = MetadataResponse {
        brokers: nodes.into_iter().map(broker).collect(),
        cluster_id: Some(StrBytes::from(context.broker.cluster_id().to_owned())),
        controller_id: context.controller(),
        topics,
        ..Default::default()
    };
    if request.include_cluster_authorized_operations && (8..=10).contains(&version) {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}

fn broker(node: Node) -> MetadataResponseBroker {
    let Node { id, host, port } = node;
    MetadataResponseBroker { node_id: id, host, port, ..Default::default() }
}

async fn look_up(
    context: &Context,
    nodes: &[Node],
    version: i16,
    wanted: MetadataRequestTopic,
    create: bool,
) -> MetadataResponseTopic {
    let failed = |name: Option<StrBytes>, topic_id, code: ErrorCode| MetadataResponseTopic {
        error_code: code.code(),
        // Before version 12 the name cannot be null.
        name: name.or_else(|| (version < 12).then(StrBytes::new)),
        topic_id,
        ..Default::default()
    };
    // The Java client asks by id with an empty name, others with none.
    let by_name = wanted.name.filter(|_| wanted.topic_id.is_zero());
    let Some(name) = by_name else {
        let id = uuid::Uuid::from_bytes(wanted.topic_id.0);
        return match context.broker.topics().by_id(id) {
            Some(topic) => describe(context, nodes, &topic),
            None => failed(None, wanted.topic_id, ErrorCode::UnknownTopicId),
        };
    };
    if let Some(topic) = context.broker.topics().get(&name) {
        return describe(context, nodes, &topic);
    }
    if let Err(error) = ferrymq_broker::topics::check_name(&name) {
        return failed(Some(name), Uuid::ZERO, errors::topic(&error));
    }
    // Another broker may have created it just now.
    if let Err(error) = context.broker.look_up_topic(&name).await {
        return failed(Some(name), Uuid::ZERO, errors::storage(&error));
    }
    if let Some(topic) = context.broker.topics().get(&name) {
        return describe(context, nodes, &topic);
    }
    if !(create && context.config.auto_create_topics) {
        return failed(Some(name), Uuid::ZERO, ErrorCode::UnknownTopicOrPartition);
    }
    match auto_create(context, &name).await {
        Ok(topic) => describe(context, nodes, &topic),
        Err(error) => failed(Some(name), Uuid::ZERO, errors::topic(&error)),
    }
}

async fn auto_create(context: &Context, name: &StrBytes) -> Result<Arc<Topic>, TopicError> {
    let partitions = context.config.default_partitions;
    let new = NewTopic { name: name.to_string(), partitions, config: BTreeMap::new() };
    match context.broker.create_topic(new).await {
        // Another client was faster.
        Err(TopicError::Exists(name)) => context.broker.topics().get(&name).ok_or(TopicError::NotFound),
        result => result,
    }
}

fn describe(context: &Context, nodes: &[Node], topic: &Topic) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        let leader = context.leader_of(partition).filter(|id| nodes.iter().any(|node| node.id == *id));
        let code = if leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
        MetadataResponsePartition {
            error_code: code.code(),
            partition_index: partition.index.cast_signed(),
            leader_id: leader.unwrap_or(-1),
            leader_epoch: partition.leader_epoch(),
            replica_nodes: leader.into_iter().collect(),
            isr_nodes: leader.into_iter().collect(),
            ..Default::default()
        }
    });
    MetadataResponseTopic {
        name: Some(StrBytes::from(topic.name.to_string())),
        topic_id: Uuid(*topic.id.as_bytes()),
        partitions: partitions.collect(),
        ..Default::default()
    }
}
