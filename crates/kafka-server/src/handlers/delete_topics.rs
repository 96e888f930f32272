//! DeleteTopics, by name and by id.

use std::sync::Arc;

use ferrymq_kafka_codec::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes, Uuid};

use crate::context::Context;
use crate::errors;

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
    let mut responses = Vec::with_capacity(wanted.len().min(1024));
    for topic in wanted {
        responses.push(delete(context, topic).await);
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}

async fn delete(context: &Context, wanted: DeleteTopicState) -> DeletableTopicResult {
    let by_id = uuid::Uuid::from_bytes(wanted.topic_id.0);
    let (topic, unknown) = match &wanted.name {
        Some(_) if !by_id.is_nil() => {
            let text = "You may not specify both topic name and topic id.";
            return refused(wanted, ErrorCode::InvalidRequest, text);
        }
        Some(name) => (context.broker.topics().get(name), ErrorCode::UnknownTopicOrPartition),
        None => (context.broker.topics().by_id(by_id), ErrorCode::UnknownTopicId),
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
