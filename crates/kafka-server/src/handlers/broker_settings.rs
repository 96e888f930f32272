//! The broker's own settings as DescribeConfigs tells them: Kafka 4.2's names with our true values.
//!
//! What is not in the table has no meaning here. Settings that supply topic defaults are not repeated: they
//! are taken from the table of topic settings.
//!
//! **Invariant.** A value is what the broker goes by. All of it is read-only: it is set in the server's
//! configuration and takes a restart.

use std::time::Duration;

use ferrymq_broker::settings::{Kind, Setting, TOPIC_SETTINGS};
use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::describe_configs::{
    DescribeConfigsResourceResult, DescribeConfigsSynonym,
};
use ferrymq_types::limits::{
    CONNECTIONS_MAX, FETCH_BYTES_MAX, OFFSET_METADATA_BYTES_MAX, REQUEST_BYTES_MAX, SERVER_BYTES_IN_FLIGHT,
};

use super::describe_topic_partitions::PARTITIONS_PER_ANSWER;
use super::settings::{COARSER, SOURCE_DEFAULT, SOURCE_STATIC_BROKER, server_synonyms, type_number};
use crate::context::Context;
use crate::listener::Listener;

/// `ConfigType` numbers.
const BOOLEAN: i8 = 1;
const STRING: i8 = 2;
const INT: i8 = 3;
const LONG: i8 = 5;
const LIST: i8 = 7;

/// One setting of the broker.
struct Row {
    name: &'static str,
    kind: i8,
    /// The default, if there is one; Kafka's but where our limits differ.
    default: Option<&'static str>,
    value: fn(&Context) -> Option<String>,
    doc: &'static str,
}

const fn row(
    name: &'static str,
    kind: i8,
    default: Option<&'static str>,
    value: fn(&Context) -> Option<String>,
    doc: &'static str,
) -> Row {
    Row { name, kind, default, value, doc }
}

/// All settings of the broker, sorted by name.
pub(crate) fn described(context: &Context) -> Vec<DescribeConfigsResourceResult> {
    let own = TABLE.iter().map(|row| describe(context, row));
    let of_topics = TOPIC_SETTINGS.iter().filter_map(|setting| describe_default(context, setting));
    let coarser = COARSER.iter().map(|(finer, name, value)| describe_coarser(finer, name, value));
    let mut all: Vec<_> = own.chain(of_topics).chain(coarser).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn describe(context: &Context, row: &Row) -> DescribeConfigsResourceResult {
    let value = (row.value)(context);
    let is_set = value.as_deref() != row.default;
    let synonym = |value: StrBytes, source| DescribeConfigsSynonym {
        name: StrBytes::from_static(row.name),
        value: Some(value),
        source,
    };
    let set = value.clone().filter(|_| is_set);
    let set = set.map(|value| synonym(StrBytes::from(value), SOURCE_STATIC_BROKER));
    let default = row.default.map(|value| synonym(StrBytes::from_static(value), SOURCE_DEFAULT));
    let synonyms = set.into_iter().chain(default).collect();
    let source = if is_set { SOURCE_STATIC_BROKER } else { SOURCE_DEFAULT };
    entry(row.name, value.map(StrBytes::from), row.kind, row.doc, (source, synonyms))
}

/// A server setting that supplies a topic's default.
fn describe_default(context: &Context, setting: &Setting) -> Option<DescribeConfigsResourceResult> {
    let name = setting.server_synonym?;
    let synonyms = server_synonyms(context, setting);
    let in_force = synonyms.first()?;
    let source = in_force.source;
    // A default that stands under a coarser name leaves this one unset.
    let value = (in_force.name == name).then(|| in_force.value.clone()).flatten();
    Some(entry(name, value, type_number(setting.kind), setting.doc, (source, synonyms)))
}

fn describe_coarser(finer: &str, name: &'static str, value: &'static str) -> DescribeConfigsResourceResult {
    let value = StrBytes::from_static(value);
    let finer = TOPIC_SETTINGS.iter().find(|setting| setting.server_synonym == Some(finer));
    let doc = finer.map_or("", |setting| setting.doc);
    let kind = match finer.map(|setting| setting.kind) {
        Some(Kind::Long { .. }) if !name.ends_with("hours") => LONG,
        _ => INT,
    };
    let synonyms = vec![DescribeConfigsSynonym {
        name: StrBytes::from_static(name),
        value: Some(value.clone()),
        source: SOURCE_DEFAULT,
    }];
    entry(name, Some(value), kind, doc, (SOURCE_DEFAULT, synonyms))
}

fn entry(
    name: &'static str,
    value: Option<StrBytes>,
    config_type: i8,
    doc: &'static str,
    (config_source, synonyms): (i8, Vec<DescribeConfigsSynonym>),
) -> DescribeConfigsResourceResult {
    DescribeConfigsResourceResult {
        name: StrBytes::from_static(name),
        value,
        read_only: true,
        config_source,
        is_sensitive: false,
        synonyms,
        config_type,
        documentation: Some(StrBytes::from_static(doc)),
    }
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn millis(duration: Duration) -> Option<String> {
    text(duration.as_millis())
}

const TABLE: &[Row] = &[
    row(
        "advertised.listeners",
        LIST,
        None,
        |context| of_listeners(context, |one| format!("{}://{}", one.name, one.advertised)),
        "Where clients are told to connect to, by the listener they come through.",
    ),
    row(
        "auto.create.topics.enable",
        BOOLEAN,
        Some("true"),
        |context| text(context.config.auto_create_topics),
        "Whether asking for a topic's metadata may create it.",
    ),
    row("broker.id", INT, None, |context| text(context.config.node_id), "This broker's id, as node.id."),
    row("broker.rack", STRING, None, |_| None, "Where the broker stands. There is one broker."),
    row(
        "connections.max.idle.ms",
        LONG,
        Some("-1"),
        |_| text(-1),
        "After how long an idle connection is closed; -1: never.",
    ),
    row(
        "default.replication.factor",
        INT,
        Some("1"),
        |_| text(1),
        "Replicas of a topic that does not say. Copies are the store's: one is reported.",
    ),
    row("delete.topic.enable", BOOLEAN, Some("true"), |_| text(true), "Whether topics may be deleted."),
    row(
        "fetch.max.bytes",
        INT,
        Some("57671680"),
        |context| text(context.config.fetch_bytes_max),
        "The largest answer to a fetch, in bytes.",
    ),
    row(
        "group.coordinator.rebalance.protocols",
        LIST,
        Some("classic"),
        |_| text("classic"),
        "Which group protocols are served.",
    ),
    row(
        "group.initial.rebalance.delay.ms",
        INT,
        Some("3000"),
        |context| text(context.groups_config.initial_rebalance_delay_ms),
        "How long the first rebalance of an empty group waits for more members.",
    ),
    row(
        "group.max.session.timeout.ms",
        INT,
        Some("1800000"),
        |context| text(context.groups_config.session_timeout_ms_max),
        "The longest session timeout a member may ask for.",
    ),
    row(
        "group.max.size",
        INT,
        Some("10000"),
        |context| text(context.groups_config.group_size_max),
        "How many members a group may have.",
    ),
    row(
        "group.min.session.timeout.ms",
        INT,
        Some("6000"),
        |context| text(context.groups_config.session_timeout_ms_min),
        "The shortest session timeout a member may ask for.",
    ),
    row(
        "listener.security.protocol.map",
        STRING,
        Some("PLAINTEXT:PLAINTEXT"),
        |context| of_listeners(context, |one| format!("{}:PLAINTEXT", one.name)),
        "How each listener protects what is sent. There is no TLS and no SASL yet.",
    ),
    row(
        "listeners",
        LIST,
        None,
        |context| of_listeners(context, |one| format!("{}://{}", one.name, one.address)),
        "Where the broker listens.",
    ),
    row(
        "log.cleaner.enable",
        BOOLEAN,
        Some("false"),
        |_| text(false),
        "Whether logs are compacted. Compaction is not supported yet.",
    ),
    row("log.dir", STRING, None, |context| text(&context.config.data_dir), "Where the data lies."),
    row("log.dirs", LIST, None, |context| text(&context.config.data_dir), "Where the data lies; one place."),
    row(
        "log.retention.check.interval.ms",
        LONG,
        Some("300000"),
        |context| millis(context.broker_options.retention_interval),
        "How often retention looks for records whose time is over.",
    ),
    row(
        "log.retention.minutes",
        INT,
        None,
        |_| None,
        "How long records are kept, in minutes. Set log.retention.ms.",
    ),
    row(
        "max.connections",
        INT,
        Some("20000"),
        |_| text(CONNECTIONS_MAX),
        "How many connections may be open at a time.",
    ),
    row(
        "max.incremental.fetch.session.cache.slots",
        INT,
        Some("20000"),
        |_| text(CONNECTIONS_MAX),
        "How many incremental fetch sessions there may be: each connection may have one.",
    ),
    row(
        "max.request.partition.size.limit",
        INT,
        Some("2000"),
        |_| text(PARTITIONS_PER_ANSWER),
        "How many partitions one answer to DescribeTopicPartitions holds at most.",
    ),
    row("node.id", INT, None, |context| text(context.config.node_id), "This broker's id."),
    row(
        "num.partitions",
        INT,
        Some("1"),
        |context| text(context.config.default_partitions),
        "Partitions of a topic that does not say.",
    ),
    row(
        "offset.metadata.max.bytes",
        INT,
        Some("4096"),
        |context| text(context.groups_config.offset_metadata_max),
        "The longest note beside a committed offset.",
    ),
    row(
        "offsets.retention.check.interval.ms",
        LONG,
        Some("600000"),
        |context| text(context.groups_config.retention_check_interval_ms),
        "How often committed offsets whose time is over are looked for.",
    ),
    row(
        "offsets.retention.minutes",
        INT,
        Some("10080"),
        |context| text(context.groups_config.offsets_retention_ms / 60_000),
        "How long committed offsets outlive their group's last member.",
    ),
    row("process.roles", LIST, None, |_| text("broker,controller"), "What this process does."),
    row(
        "producer.id.expiration.ms",
        INT,
        Some("86400000"),
        |context| millis(context.broker_options.producer_expiration),
        "After how long a silent idempotent producer is forgotten.",
    ),
    row(
        "queued.max.request.bytes",
        LONG,
        Some("134217728"),
        |context| text(context.budget.size()),
        "Bytes of requests being worked on before connections are no longer read.",
    ),
    row(
        "socket.request.max.bytes",
        INT,
        Some("104857600"),
        |context| text(context.config.request_bytes_max),
        "The largest request, in bytes.",
    ),
];

/// Something of every listener, as a list.
fn of_listeners(context: &Context, tell: impl Fn(&Listener) -> String) -> Option<String> {
    let told: Vec<_> = context.listeners.iter().map(|listener| tell(listener)).collect();
    Some(told.join(","))
}

const _: () = assert!(FETCH_BYTES_MAX == 57_671_680 && REQUEST_BYTES_MAX == 104_857_600);
const _: () = assert!(CONNECTIONS_MAX == 20_000 && SERVER_BYTES_IN_FLIGHT == 134_217_728);
const _: () = assert!(OFFSET_METADATA_BYTES_MAX == 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_twice() {
        let own = TABLE.iter().map(|row| row.name);
        let of_topics = TOPIC_SETTINGS.iter().filter_map(|setting| setting.server_synonym);
        let mut names: Vec<_> = own.chain(of_topics).chain(COARSER.iter().map(|row| row.1)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name), "the table is sorted");
    }
}
