//! DescribeConfigs: every setting of topics and of the broker, with where it comes from (KIP-133, KIP-226).

use std::collections::HashSet;

use ferrymq_broker::settings::TOPIC_SETTINGS;
use ferrymq_broker::topics::check_name;
use ferrymq_kafka_codec::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use super::altering::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use super::{broker_settings, settings};
use crate::context::Context;
use crate::errors;
use crate::turns::Turns;

/// What describing all settings of a resource costs, in [`Turns`].
const RESOURCE_UNITS: usize = 40;

/// Settings of one resource, or why there are none.
type Described = Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, Option<String>)>;

pub(crate) async fn handle(context: &Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let mut answered = HashSet::new();
    let mut results = Vec::new();
    let mut turns = Turns::default();
    for resource in request.resources {
        turns.spend(RESOURCE_UNITS).await;
        // One answer for each: a list is much longer than the question.
        if !answered.insert((resource.resource_type, resource.resource_name.clone())) {
            continue;
        }
        let (code, text, mut configs) = match describe(context, &resource) {
            Ok(configs) => (ErrorCode::None, None, configs),
            Err((code, text)) => (code, text, Vec::new()),
        };
        if let Some(keys) = resource.configuration_keys.filter(|keys| !keys.is_empty()) {
            let keys: HashSet<StrBytes> = keys.into_iter().collect();
            configs.retain(|config| keys.contains(&config.name));
        }
        for config in &mut configs {
            if !request.include_synonyms {
                config.synonyms.clear();
            }
            if !request.include_documentation {
                config.documentation = None;
            }
        }
        results.push(DescribeConfigsResult {
            error_code: code.code(),
            error_message: text.map(StrBytes::from),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs,
        });
    }
    DescribeConfigsResponse { results, ..Default::default() }
}

fn describe(context: &Context, resource: &DescribeConfigsResource) -> Described {
    let name = &resource.resource_name;
    let invalid = |text: String| Err((ErrorCode::InvalidRequest, Some(text)));
    let node_id = context.config.node_id;
    match resource.resource_type {
        TOPIC => {
            check_name(name).map_err(|error| (errors::topic(&error), Some(error.to_string())))?;
            let topic = context.broker.topics().get(name);
            let Some(topic) = topic else { return Err((ErrorCode::UnknownTopicOrPartition, None)) };
            let config = topic.config.get();
            Ok(TOPIC_SETTINGS.iter().map(|setting| settings::described(context, &config, setting)).collect())
        }
        // What all brokers share can be set in their files only; nothing is set at run time.
        BROKER if name.is_empty() => Ok(Vec::new()),
        BROKER if broker_id(name)? == node_id => Ok(broker_settings::described(context)),
        BROKER => {
            invalid(format!("Unexpected broker id, expected {node_id} or empty string, but received {name}"))
        }
        BROKER_LOGGER if name.is_empty() => invalid("Broker id must not be empty".to_owned()),
        // Levels of loggers are set in the server's configuration.
        BROKER_LOGGER if broker_id(name)? == node_id => Ok(Vec::new()),
        BROKER_LOGGER => invalid(format!("Unexpected broker id, expected {node_id} but received {name}")),
        CLIENT_METRICS if name.is_empty() => {
            invalid("Client metrics subscription name must not be empty".to_owned())
        }
        GROUP if name.is_empty() => invalid("Group name must not be empty".to_owned()),
        // Nothing can be set on these.
        CLIENT_METRICS | GROUP => Ok(Vec::new()),
        other => invalid(format!("Unexpected resource type {other} for resource {name}")),
    }
}

fn broker_id(name: &StrBytes) -> Result<i32, (ErrorCode, Option<String>)> {
    let text = || format!("Broker id must be an integer, but it is: {name}");
    name.parse().map_err(|_| (ErrorCode::InvalidRequest, Some(text())))
}
