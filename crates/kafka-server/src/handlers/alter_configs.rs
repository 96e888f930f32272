//! AlterConfigs: replaces all that is set on a topic.

use ferrymq_kafka_codec::messages::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use super::altering::{self, Refused};
use crate::context::Context;

pub(crate) async fn handle(context: &Context, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let twice = altering::twice(request.resources.iter().map(|one| (one.resource_type, &one.resource_name)));
    let mut responses = Vec::with_capacity(request.resources.len().min(1024));
    for resource in request.resources {
        let key = (resource.resource_type, resource.resource_name);
        let altered = if twice.contains(&key) {
            Err(altering::named_twice())
        } else {
            let resource = AlterConfigsResource { resource_name: key.1.clone(), ..resource };
            alter(context, &resource, request.validate_only).await
        };
        let (code, text) = altered.err().map_or((ErrorCode::None, None), |(code, text)| (code, Some(text)));
        responses.push(AlterConfigsResourceResponse {
            error_code: code.code(),
            error_message: text.map(StrBytes::from),
            resource_type: key.0,
            resource_name: key.1,
        });
    }
    AlterConfigsResponse { responses, ..Default::default() }
}

async fn alter(
    context: &Context,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refused> {
    altering::check_entries(resource.configs.iter().map(|entry| (&entry.name, entry.value.is_none())))?;
    altering::check_resource(context, resource.resource_type, &resource.resource_name)?;
    let _one_at_a_time = context.altering.lock().await;
    altering::overrides(context, &resource.resource_name)?;
    let entries = resource.configs.iter().filter_map(|entry| {
        let value = entry.value.as_ref()?;
        Some((entry.name.to_string(), value.to_string()))
    });
    altering::set(context, &resource.resource_name, entries.collect(), validate_only).await
}
