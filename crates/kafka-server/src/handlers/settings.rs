//! Topic settings in Kafka's terms: numbers for types and sources, synonyms, documentation.

use ferrymq_broker::TopicConfig;
use ferrymq_broker::settings::{Kind, Setting, TOPIC_SETTINGS};
use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::create_topics::CreatableTopicConfigs;

use crate::context::Context;

/// `ConfigSource` numbers of DescribeConfigs.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// Set in the server's configuration.
pub(crate) const SOURCE_STATIC_BROKER: i8 = 4;
/// Nobody set it.
pub(crate) const SOURCE_DEFAULT: i8 = 5;

/// Where a topic's value comes from.
pub(crate) fn source(context: &Context, config: &TopicConfig, setting: &Setting) -> i8 {
    if config.overrides.contains_key(setting.name) {
        SOURCE_TOPIC
    } else if context.broker.topic_defaults().values.contains_key(setting.name) {
        SOURCE_STATIC_BROKER
    } else {
        SOURCE_DEFAULT
    }
}

/// `ConfigType` numbers of DescribeConfigs.
pub(crate) fn type_number(kind: Kind) -> i8 {
    match kind {
        Kind::Bool => 1,
        Kind::OneOf(_) => 2,
        Kind::Int { .. } => 3,
        Kind::Long { .. } => 5,
        Kind::Ratio => 6,
        Kind::List | Kind::ListOf(_) => 7,
    }
}

/// All settings of a topic just created (KIP-525).
pub(crate) fn created(context: &Context, config: &TopicConfig) -> Vec<CreatableTopicConfigs> {
    let defaults = context.broker.topic_defaults();
    TOPIC_SETTINGS
        .iter()
        .map(|setting| CreatableTopicConfigs {
            name: StrBytes::from_static(setting.name),
            value: Some(StrBytes::from(config.value(setting.name, defaults))),
            read_only: false,
            config_source: source(context, config, setting),
            is_sensitive: false,
        })
        .collect()
}
