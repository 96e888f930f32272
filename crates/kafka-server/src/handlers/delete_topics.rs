//! DeleteTopics, by name and by id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferrymq_kafka_codec::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes, Uuid};

use crate::context::Context;
use crate::errors;

/// How a request names a topic.
type DeleteKey = (Option<StrBytes>, Uuid);

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let wanted = if version >= 6 {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState { name: Some(name), ..Default::default() };
        request.topic_names.into_iter().map(by_name).collect()
    };
    let (accepted, mut responses) = sort_out(context, wanted);
    for topic in accepted {
        responses.push(delete(context, topic).await);
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}

/// What can be deleted, and the answers to what makes no sense: nothing is deleted that is named twice, whether by
/// name, by id or by both.
fn sort_out(
    context: &Context,
    wanted: Vec<DeleteTopicState>,
) -> (Vec<DeleteTopicState>, Vec<DeletableTopicResult>) {
    let mut times: HashMap<DeleteKey, u32> = HashMap::new();
    for topic in &wanted {
        *times.entry(key(topic)).or_default() += 1;
    }
    let id_of = |name: &StrBytes| context.broker.topics().get(name).map(|topic| Uuid(*topic.id.as_bytes()));
    // Ids of topics that are given by name as well.
    let by_both: HashSet<Uuid> = times
        .iter()
        .filter_map(|((name, id), times)| name.as_ref().filter(|_| id.is_zero() && *times == 1))
        .filter_map(id_of)
        .filter(|id| times.contains_key(&(None, *id)))
        .collect();
    let (mut accepted, mut refusals) = (Vec::new(), Vec::new());
    for mut topic in wanted {
        // Each is answered once.
        let Some(times) = times.remove(&key(&topic)) else { continue };
        let text = match &topic.name {
            None if topic.topic_id.is_zero() => "Neither topic name nor id were specified.",
            Some(_) if !topic.topic_id.is_zero() => "You may not specify both topic name and topic id.",
            Some(_) if times > 1 => "Duplicate topic name.",
            None if times > 1 => "Duplicate topic id.",
            // The answer to the name speaks for both.
            None if by_both.contains(&topic.topic_id) => continue,
            Some(name) if let Some(id) = id_of(name).filter(|id| by_both.contains(id)) => {
                topic.topic_id = id;
                "The provided topic name maps to an ID that was already supplied."
            }
            _ => {
                accepted.push(topic);
                continue;
            }
        };
        refusals.push(refused(topic, ErrorCode::InvalidRequest, text));
    }
    (accepted, refusals)
}

fn key(topic: &DeleteTopicState) -> DeleteKey {
    (topic.name.clone(), topic.topic_id)
}

async fn delete(context: &Context, wanted: DeleteTopicState) -> DeletableTopicResult {
    let topics = context.broker.topics();
    let (topic, unknown) = match &wanted.name {
        Some(name) => (topics.get(name), ErrorCode::UnknownTopicOrPartition),
        None => (topics.by_id(uuid::Uuid::from_bytes(wanted.topic_id.0)), ErrorCode::UnknownTopicId),
    };
    let Some(topic) = topic else { return refused(wanted, unknown, unknown.message()) };
    match context.broker.delete_topic(&topic.name).await {
        Ok(topic) => {
            forget_offsets(context, &topic.name).await;
            DeletableTopicResult {
                name: Some(StrBytes::from(topic.name.to_string())),
                topic_id: Uuid(*topic.id.as_bytes()),
                ..Default::default()
            }
        }
        Err(error) => refused(wanted, errors::topic(&error), &error.to_string()),
    }
}

/// Offsets of a topic that is gone must not be taken for those of a later topic of the same name.
async fn forget_offsets(context: &Context, name: &Arc<str>) {
    if let Err(error) = context.groups.topics_deleted(vec![name.clone()]).await {
        tracing::warn!(topic = %name, error = %error, "offsets of a deleted topic are left to expire");
    }
}

fn refused(wanted: DeleteTopicState, code: ErrorCode, text: &str) -> DeletableTopicResult {
    DeletableTopicResult {
        name: wanted.name,
        topic_id: wanted.topic_id,
        error_code: code.code(),
        error_message: Some(StrBytes::from(text.to_owned())),
    }
}
