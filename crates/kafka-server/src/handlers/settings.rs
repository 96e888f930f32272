//! Topic settings in Kafka's terms: numbers for types and sources, synonyms, documentation.

use ferrymq_broker::TopicConfig;
use ferrymq_broker::settings::{Kind, Setting, TOPIC_SETTINGS};
use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::create_topics::CreatableTopicConfigs;
use ferrymq_kafka_codec::messages::describe_configs::{
    DescribeConfigsResourceResult, DescribeConfigsSynonym,
};

use crate::context::Context;

/// `ConfigSource` numbers of DescribeConfigs.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// Set in the server's configuration.
pub(crate) const SOURCE_STATIC_BROKER: i8 = 4;
/// Nobody set it.
pub(crate) const SOURCE_DEFAULT: i8 = 5;

/// Server settings that Kafka leaves unset, and those in coarser units that hold the default instead.
pub(crate) const COARSER: &[(&str, &str, &str)] = &[
    ("log.flush.interval.ms", "log.flush.scheduler.interval.ms", "9223372036854775807"),
    ("log.retention.ms", "log.retention.hours", "168"),
    ("log.roll.jitter.ms", "log.roll.jitter.hours", "0"),
    ("log.roll.ms", "log.roll.hours", "168"),
];

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
        Kind::OneOf(_) | Kind::RecordKey => 2,
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

/// One setting of a topic, in full.
pub(crate) fn described(
    context: &Context,
    config: &TopicConfig,
    setting: &Setting,
) -> DescribeConfigsResourceResult {
    let defaults = context.broker.topic_defaults();
    DescribeConfigsResourceResult {
        name: StrBytes::from_static(setting.name),
        value: Some(StrBytes::from(config.value(setting.name, defaults))),
        read_only: false,
        config_source: source(context, config, setting),
        is_sensitive: false,
        synonyms: synonyms(context, config, setting),
        config_type: type_number(setting.kind),
        documentation: Some(StrBytes::from_static(setting.doc)),
    }
}

/// All places that have a say about a topic's setting, the one in force first.
fn synonyms(context: &Context, config: &TopicConfig, setting: &Setting) -> Vec<DescribeConfigsSynonym> {
    let own = config.overrides.get(setting.name).map(|value| DescribeConfigsSynonym {
        name: StrBytes::from_static(setting.name),
        value: Some(StrBytes::from(value.clone())),
        source: SOURCE_TOPIC,
    });
    own.into_iter().chain(server_synonyms(context, setting)).collect()
}

/// What the server has to say about a topic setting, the one in force first.
pub(crate) fn server_synonyms(context: &Context, setting: &Setting) -> Vec<DescribeConfigsSynonym> {
    let Some(name) = setting.server_synonym else { return Vec::new() };
    let set = context.broker.topic_defaults().values.get(setting.name);
    let set = set.map(|value| DescribeConfigsSynonym {
        name: StrBytes::from_static(name),
        value: Some(StrBytes::from(value.clone())),
        source: SOURCE_STATIC_BROKER,
    });
    let coarser = COARSER.iter().find(|(finer, _, _)| *finer == name);
    let (name, value) = coarser.map_or((name, setting.default), |(_, name, value)| (*name, *value));
    let default = DescribeConfigsSynonym {
        name: StrBytes::from_static(name),
        value: Some(StrBytes::from_static(value)),
        source: SOURCE_DEFAULT,
    };
    set.into_iter().chain([default]).collect()
}
