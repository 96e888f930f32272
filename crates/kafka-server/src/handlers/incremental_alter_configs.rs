//! IncrementalAlterConfigs: changes single settings of a topic (KIP-339).

use std::collections::BTreeMap;

use ferrymq_broker::settings::{Kind, list, topic_setting};
use ferrymq_kafka_codec::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use super::altering::{self, Refused};
use crate::context::Context;

/// Sets a value.
const SET: i8 = 0;
/// Goes back to the default.
const DELETE: i8 = 1;
/// Adds to a list.
const APPEND: i8 = 2;
/// Takes out of a list.
const SUBTRACT: i8 = 3;

pub(crate) async fn handle(
    context: &Context,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let twice = altering::twice(request.resources.iter().map(|one| (one.resource_type, &one.resource_name)));
    let mut responses = Vec::with_capacity(request.resources.len().min(1024));
    for resource in request.resources {
        let altered = if twice.contains(&(resource.resource_type, resource.resource_name.clone())) {
            Err(altering::named_twice())
        } else {
            alter(context, &resource, request.validate_only).await
        };
        let (code, text) = altered.err().map_or((ErrorCode::None, None), |(code, text)| (code, Some(text)));
        responses.push(AlterConfigsResourceResponse {
            error_code: code.code(),
            error_message: text.map(StrBytes::from),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

async fn alter(
    context: &Context,
    resource: &AlterConfigsResource,
    validate_only: bool,
) -> Result<(), Refused> {
    let lacks_value = |entry: &AlterableConfig| entry.config_operation != DELETE && entry.value.is_none();
    altering::check_entries(resource.configs.iter().map(|entry| (&entry.name, lacks_value(entry))))?;
    altering::check_resource(context, resource.resource_type, &resource.resource_name)?;
    let _one_at_a_time = context.altering.lock().await;
    let mut config = altering::overrides(context, &resource.resource_name)?;
    for entry in &resource.configs {
        apply(context, &mut config, entry)?;
    }
    altering::set(context, &resource.resource_name, config, validate_only).await
}

/// Applies one change to what is set.
fn apply(
    context: &Context,
    config: &mut BTreeMap<String, String>,
    entry: &AlterableConfig,
) -> Result<(), Refused> {
    let name = entry.name.to_string();
    let value = entry.value.as_ref().map(ToString::to_string).unwrap_or_default();
    match entry.config_operation {
        SET => {
            config.insert(name, value);
        }
        DELETE => {
            config.remove(&name);
        }
        operation @ (APPEND | SUBTRACT) => {
            let setting = topic_setting(&name);
            let is_list = |kind| matches!(kind, Kind::List | Kind::ListOf(_));
            let Some(setting) = setting.filter(|setting| is_list(setting.kind)) else {
                let word = if operation == APPEND { "APPEND" } else { "SUBTRACT" };
                let text = format!("Can't {word} to key {name} because its type is not LIST.");
                return Err((ErrorCode::InvalidConfig, text));
            };
            let defaults = &context.broker.topic_defaults().values;
            let old = config.get(&name).or_else(|| defaults.get(setting.name));
            let old = old.map_or(setting.default, String::as_str);
            let mut words: Vec<String> = list(old).map(str::to_owned).collect();
            for word in list(&value) {
                words.retain(|old| operation == APPEND || old != word);
                if operation == APPEND && !words.iter().any(|old| old == word) {
                    words.push(word.to_owned());
                }
            }
            config.insert(name, words.join(","));
        }
        other => {
            return Err((ErrorCode::InvalidRequest, format!("Unknown operations type {other}")));
        }
    }
    Ok(())
}
