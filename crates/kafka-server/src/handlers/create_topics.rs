//! CreateTopics (KIP-4, KIP-464, KIP-525).

use std::collections::{BTreeMap, HashMap, HashSet};

use ferrymq_broker::{NewTopic, TopicError};
use ferrymq_kafka_codec::messages::create_topics::{
    CreatableTopic, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes, Uuid};

use crate::context::Context;
use crate::errors;
use crate::handlers::settings;

/// Why one topic was not created.
type Refused = (ErrorCode, String);

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut asked: HashMap<StrBytes, u32> = HashMap::new();
    for topic in &request.topics {
        *asked.entry(topic.name.clone()).or_default() += 1;
    }
    let mut answered: HashSet<StrBytes> = HashSet::new();
    let mut topics = Vec::new();
    for topic in request.topics {
        let name = topic.name.clone();
        if asked[&name] > 1 {
            // One answer for all of them, as Kafka gives.
            if answered.insert(name.clone()) {
                topics.push(refused(name, (ErrorCode::InvalidRequest, "Duplicate topic name.".to_owned())));
            }
            continue;
        }
        let result = create(context, version, topic, request.validate_only).await;
        topics.push(result.unwrap_or_else(|why| refused(name, why)));
    }
    CreateTopicsResponse { topics, ..Default::default() }
}

async fn create(
    context: &Context,
    version: i16,
    topic: CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, Refused> {
    let partitions = partition_count(context, &topic)?;
    let factor = replication_factor(context, &topic)?;
    let mut config = BTreeMap::new();
    for entry in &topic.configs {
        let Some(value) = &entry.value else {
            let text = format!("Null value not supported for topic configs: {}", entry.name);
            return Err((ErrorCode::InvalidConfig, text));
        };
        config.insert(entry.name.to_string(), value.to_string());
    }
    let new = NewTopic { name: topic.name.to_string(), partitions, config };
    let failed = |error: TopicError| (errors::topic(&error), error.to_string());
    let (topic_id, parsed) = if validate_only {
        (Uuid::ZERO, std::sync::Arc::new(context.broker.check_new_topic(&new).map_err(failed)?))
    } else {
        let topic = context.broker.create_topic(new).await.map_err(failed)?;
        (Uuid(*topic.id.as_bytes()), topic.config.get())
    };
    let mut result = CreatableTopicResult { name: topic.name, topic_id, ..Default::default() };
    if version >= 5 {
        result.num_partitions = partitions.cast_signed();
        result.replication_factor = factor;
        result.configs = Some(settings::created(context, &parsed));
    }
    Ok(result)
}

fn partition_count(context: &Context, topic: &CreatableTopic) -> Result<u32, Refused> {
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let text = "A manual partition assignment was specified, but numPartitions or replicationFactor \
                        was not set to -1.";
            return Err((ErrorCode::InvalidRequest, text.to_owned()));
        }
        return assigned_partitions(context, topic);
    }
    match topic.num_partitions {
        -1 => Ok(context.config.default_partitions),
        count => u32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
            let text = "Number of partitions must be larger than 0.".to_owned();
            (ErrorCode::InvalidPartitions, text)
        }),
    }
}

/// A manual assignment may only name this broker: there is no other.
fn assigned_partitions(context: &Context, topic: &CreatableTopic) -> Result<u32, Refused> {
    let mut indexes: Vec<i32> = topic.assignments.iter().map(|entry| entry.partition_index).collect();
    indexes.sort_unstable();
    let consecutive = indexes.iter().zip(0..).all(|(index, expected)| *index == expected);
    let known = topic.assignments.iter().all(|entry| entry.broker_ids == [context.config.node_id]);
    if consecutive && known {
        Ok(u32::try_from(indexes.len()).unwrap_or(u32::MAX))
    } else {
        let text = format!(
            "The manual partition assignment must number its partitions from 0 and name only broker {}.",
            context.config.node_id
        );
        Err((ErrorCode::InvalidReplicaAssignment, text))
    }
}

/// Copies are the store's: any number is accepted and reported as one, unless the server is strict.
fn replication_factor(context: &Context, topic: &CreatableTopic) -> Result<i16, Refused> {
    let factor = topic.replication_factor;
    let strict = context.config.strict_replication_factor;
    if (factor == 0 || factor < -1) || (strict && factor > 1) {
        let text = if factor > 1 {
            format!("Unable to replicate the partition {factor} time(s): only 1 broker(s) are registered.")
        } else {
            "Replication factor must be larger than 0, or -1 to use the default value.".to_owned()
        };
        return Err((ErrorCode::InvalidReplicationFactor, text));
    }
    Ok(1)
}

fn refused(name: StrBytes, (code, text): Refused) -> CreatableTopicResult {
    CreatableTopicResult {
        name,
        error_code: code.code(),
        error_message: Some(StrBytes::from(text)),
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    }
}
