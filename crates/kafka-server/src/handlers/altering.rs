//! What the two ways of changing settings share: which resources there are, and what is refused.

use std::collections::{BTreeMap, HashMap, HashSet};

use ferrymq_broker::{SettingError, TopicError};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use crate::context::Context;
use crate::errors;

/// `ConfigResource` types.
pub(crate) const TOPIC: i8 = 2;
/// A broker, or with an empty name all of them.
pub(crate) const BROKER: i8 = 4;
/// The levels of a broker's loggers.
pub(crate) const BROKER_LOGGER: i8 = 8;
/// A subscription to clients' metrics.
pub(crate) const CLIENT_METRICS: i8 = 16;
/// A group.
pub(crate) const GROUP: i8 = 32;

/// Why a resource's settings were not changed.
pub(crate) type Refused = (ErrorCode, String);

/// The resources that are named more than once.
pub(crate) fn twice<'a>(resources: impl Iterator<Item = (i8, &'a StrBytes)>) -> HashSet<(i8, StrBytes)> {
    let mut seen: HashMap<(i8, StrBytes), u32> = HashMap::new();
    for (kind, name) in resources {
        *seen.entry((kind, name.clone())).or_default() += 1;
    }
    seen.into_iter().filter(|(_, times)| *times > 1).map(|(resource, _)| resource).collect()
}

/// The answer for such a resource.
pub(crate) fn named_twice() -> Refused {
    (ErrorCode::InvalidRequest, "Each resource must appear at most once.".to_owned())
}

/// Refuses a setting that is named twice, and values that are missing.
pub(crate) fn check_entries<'a>(entries: impl Iterator<Item = (&'a StrBytes, bool)>) -> Result<(), Refused> {
    let mut names = HashSet::new();
    let mut missing: Vec<&str> = Vec::new();
    for (name, lacks_value) in entries {
        if !names.insert(name) {
            return Err((ErrorCode::InvalidRequest, "Error due to duplicate config keys".to_owned()));
        }
        if lacks_value {
            missing.push(name);
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        let text = format!("Null value not supported for : {}", missing.join(", "));
        Err((ErrorCode::InvalidRequest, text))
    }
}

/// Refuses what is not a topic: nothing else has settings that can be changed while the server runs.
pub(crate) fn check_resource(context: &Context, kind: i8, name: &StrBytes) -> Result<(), Refused> {
    let invalid = |text: String| Err((ErrorCode::InvalidRequest, text));
    let node_id = context.config.node_id;
    match kind {
        TOPIC if name.is_empty() => invalid("Default topic resources are not allowed.".to_owned()),
        TOPIC => Ok(()),
        BROKER if !name.is_empty() => match name.parse::<i32>() {
            Err(_) => invalid(format!("Node id must be an integer, but it is: {name}")),
            Ok(id) if id != node_id => {
                invalid(format!("Unexpected broker id, expected {node_id}, but received {name}"))
            }
            Ok(_) => invalid(NO_BROKER_SETTINGS.to_owned()),
        },
        BROKER => invalid(NO_BROKER_SETTINGS.to_owned()),
        BROKER_LOGGER => invalid("Log levels are set in the server's configuration.".to_owned()),
        CLIENT_METRICS => invalid("Client metrics are not supported yet.".to_owned()),
        GROUP => invalid("Settings of single groups are not supported yet.".to_owned()),
        other => invalid(format!("Unknown resource type {other}")),
    }
}

const NO_BROKER_SETTINGS: &str =
    "Dynamic broker configs are not supported yet: set them in the server's configuration file and restart.";

/// What is set on a topic.
pub(crate) fn overrides(context: &Context, topic: &str) -> Result<BTreeMap<String, String>, Refused> {
    ferrymq_broker::topics::check_name(topic).map_err(refused)?;
    let Some(found) = context.broker.topics().get(topic) else {
        let text = format!("The topic '{topic}' does not exist.");
        return Err((ErrorCode::UnknownTopicOrPartition, text));
    };
    Ok(found.config.get().overrides.clone())
}

/// Checks what would be set on a topic, and sets it unless it is only to be checked.
pub(crate) async fn set(
    context: &Context,
    topic: &str,
    config: BTreeMap<String, String>,
    validate_only: bool,
) -> Result<(), Refused> {
    if validate_only {
        let parsed = context.broker.check_config(config);
        return parsed.map(drop).map_err(|error: SettingError| refused(error.into()));
    }
    context.broker.set_config(topic, config).await.map_err(refused)
}

fn refused(error: TopicError) -> Refused {
    (errors::topic(&error), error.to_string())
}
