//! CreatePartitions: more partitions for topics that are there (KIP-195).

use std::collections::{HashMap, HashSet};

use ferrymq_kafka_codec::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};
use ferrymq_types::limits::TOPIC_PARTITIONS_MAX;

use crate::context::Context;
use crate::errors;

/// Why one topic got no more partitions.
type Refused = (ErrorCode, Option<String>);

pub(crate) async fn handle(context: &Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut asked: HashMap<StrBytes, u32> = HashMap::new();
    for topic in &request.topics {
        *asked.entry(topic.name.clone()).or_default() += 1;
    }
    let mut answered: HashSet<StrBytes> = HashSet::new();
    let mut results = Vec::new();
    for topic in request.topics {
        let result = if asked[&topic.name] > 1 {
            if !answered.insert(topic.name.clone()) {
                continue;
            }
            Err((ErrorCode::InvalidRequest, Some("Duplicate topic name.".to_owned())))
        } else {
            create(context, &topic, request.validate_only).await
        };
        let (code, text) = result.err().unwrap_or((ErrorCode::None, None));
        results.push(CreatePartitionsTopicResult {
            name: topic.name,
            error_code: code.code(),
            error_message: text.map(StrBytes::from),
        });
    }
    CreatePartitionsResponse { results, ..Default::default() }
}

async fn create(
    context: &Context,
    topic: &CreatePartitionsTopic,
    validate_only: bool,
) -> Result<(), Refused> {
    let found = context.broker.topics().get(&topic.name);
    let Some(found) = found else { return Err((ErrorCode::UnknownTopicOrPartition, None)) };
    let have = i32::try_from(found.partitions.len()).unwrap_or(i32::MAX);
    let invalid = |text: String| Err((ErrorCode::InvalidPartitions, Some(text)));
    if topic.count == have {
        return invalid(format!("Topic already has {have} partition(s)."));
    }
    if topic.count < have {
        return invalid(format!(
            "The topic {} currently has {have} partition(s); {} would not be an increase.",
            topic.name, topic.count
        ));
    }
    check_assignments(context, topic, topic.count - have)?;
    let total = topic.count.cast_unsigned();
    if validate_only {
        return if total > TOPIC_PARTITIONS_MAX {
            invalid(format!("Too many partitions: a topic may have {TOPIC_PARTITIONS_MAX}."))
        } else {
            Ok(())
        };
    }
    let created = context.broker.create_partitions(&topic.name, total).await;
    created.map(drop).map_err(|error| (errors::topic(&error), Some(error.to_string())))
}

/// A manual assignment may only name this broker: there is no other.
fn check_assignments(context: &Context, topic: &CreatePartitionsTopic, added: i32) -> Result<(), Refused> {
    let Some(assignments) = &topic.assignments else { return Ok(()) };
    let node_id = context.config.node_id;
    let wrong = |text: String| Err((ErrorCode::InvalidReplicaAssignment, Some(text)));
    if usize::try_from(added).ok() != Some(assignments.len()) {
        return wrong(format!(
            "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
            assignments.len()
        ));
    }
    for assignment in assignments {
        let brokers = &assignment.broker_ids;
        if brokers.is_empty() {
            return wrong("The manual partition assignment includes an empty replica list.".to_owned());
        }
        if let Some(other) = brokers.iter().find(|id| **id != node_id) {
            return wrong(format!(
                "The manual partition assignment includes broker {other}, but no such broker is registered."
            ));
        }
        if brokers.len() > 1 {
            return wrong(format!(
                "The manual partition assignment includes the broker {node_id} more than once."
            ));
        }
    }
    Ok(())
}
