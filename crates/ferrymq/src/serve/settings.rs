//! Settings of `ferrymq serve`: defaults, then the file, then the environment, then flags.
//!
//! One struct is both the flags and the file, so that neither can know an option the other does not. All
//! that is wrong is said at once, at start.
//!
//! **Invariant.** A setting that is not understood is an error, never ignored.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use ferrymq_broker::settings::{TopicConfig, TopicDefaults, topic_setting};
use ferrymq_engine_local::{Options, SeededBug};
use ferrymq_kafka_server::KafkaConfig;
use ferrymq_types::Durability;
use ferrymq_types::limits::{
    CONNECTION_IDLE_MAX, CONNECTION_PATIENCE, FETCH_BYTES_MAX, REQUEST_BYTES_MAX, SERVER_BYTES_IN_FLIGHT,
};
use serde::Deserialize;

use super::amqp::{self, AmqpSettings};
use super::broker_settings::{BrokerSettings, of_file};
use super::listeners::{self, ListenerSettings};
use super::store::{Place, PostgresSettings};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the user can say, by flag, environment or file. Unset: the default.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct ServeArgs {
    /// A TOML file with these same options (kebab-case, without the dashes in front).
    #[arg(long, env = "FERRYMQ_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Where the data lies. Created if missing. [default: ./ferrymq-data]
    #[arg(long, env = "FERRYMQ_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What keeps the messages: local (the data directory) or a PostgreSQL database, 15 or later, as
    /// postgres://USER:PASSWORD@HOST/DATABASE. A password is better in the environment or the file. [default: local]
    #[arg(long, env = "FERRYMQ_STORE", value_name = "STORE", hide_env_values = true)]
    store: Option<String>,
    /// This broker is one of several on the PostgreSQL database of --store: each with a --node-id of its own, and for
    /// Kafka clients only. [default: false]
    #[arg(long, env = "FERRYMQ_SEVERAL_BROKERS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    several_brokers: Option<bool>,
    /// Where Kafka clients connect; may be repeated or separated by commas, each with a name of its own. Port 0
    /// takes a free one. In the file: a text, a list or a table by name. [default: PLAINTEXT=127.0.0.1:9092]
    #[arg(long, env = "FERRYMQ_KAFKA_LISTEN", value_name = "[NAME=]HOST:PORT", value_delimiter = ',')]
    #[serde(default, deserialize_with = "listeners::from_file")]
    kafka_listen: Vec<String>,
    /// The address that clients of a listener are told to connect to, if it is not the one listened on. Written
    /// as kafka-listen is; needed if that is every address, as 0.0.0.0 is.
    #[arg(long, env = "FERRYMQ_KAFKA_ADVERTISE", value_name = "[NAME=]HOST:PORT", value_delimiter = ',')]
    #[serde(default, deserialize_with = "listeners::from_file")]
    kafka_advertise: Vec<String>,
    /// Where AMQP 0-9-1 clients (RabbitMQ's) connect; "off" for nowhere. Port 0 takes a free one.
    /// [default: 127.0.0.1:5672]
    #[arg(long, env = "FERRYMQ_AMQP_LISTEN", value_name = "HOST:PORT")]
    amqp_listen: Option<String>,
    /// The product that AMQP clients are told; some of them branch on it. [default: RabbitMQ]
    #[arg(long, env = "FERRYMQ_AMQP_PRODUCT", value_name = "NAME")]
    amqp_product: Option<String>,
    /// The version that AMQP clients are told. [default: 4.3.0]
    #[arg(long, env = "FERRYMQ_AMQP_VERSION", value_name = "VERSION")]
    amqp_version: Option<String>,
    /// How long a consumer of a quorum queue may have a message unacknowledged before it is cancelled and the message
    /// goes back, in milliseconds, unless queue or consumer say otherwise. [default: for ever]
    #[arg(long, env = "FERRYMQ_AMQP_CONSUMER_TIMEOUT_MS", value_name = "MS")]
    amqp_consumer_timeout_ms: Option<u64>,
    /// What queues are that name no x-queue-type: classic, quorum or stream; of virtual hosts that are made from now on and
    /// do not say, / at the first start included. Those that are there keep theirs. [default: classic]
    #[arg(long, env = "FERRYMQ_DEFAULT_QUEUE_TYPE", value_name = "TYPE")]
    default_queue_type: Option<String>,
    /// Where health and metrics are served; "off" for nowhere. [default: 127.0.0.1:15672]
    #[arg(long, env = "FERRYMQ_HTTP_LISTEN", value_name = "HOST:PORT")]
    http_listen: Option<String>,
    /// Allow listening on addresses other machines can reach. There are no users and no passwords yet:
    /// whoever can connect can do everything. [default: false]
    #[arg(long, env = "FERRYMQ_ALLOW_REMOTE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    allow_remote: Option<bool>,
    /// This broker's node id. [default: 1]
    #[arg(long, env = "FERRYMQ_NODE_ID", value_name = "N")]
    node_id: Option<i32>,
    /// When a record is acknowledged, for topics that do not say: sync (on disk), os (in the page cache) or
    /// memory. [default: sync]
    #[arg(long, env = "FERRYMQ_DURABILITY", value_name = "CLASS")]
    durability: Option<String>,
    /// Whether asking for a topic may create it. [default: true]
    #[arg(long, env = "FERRYMQ_AUTO_CREATE_TOPICS", value_name = "BOOL")]
    auto_create_topics: Option<bool>,
    /// Partitions of topics that do not say. [default: 1]
    #[arg(long, env = "FERRYMQ_NUM_PARTITIONS", value_name = "N")]
    num_partitions: Option<u32>,
    /// Refuse replication factors and min.insync.replicas above 1 instead of reporting one copy. [default: false]
    #[arg(long, env = "FERRYMQ_STRICT_REPLICATION_FACTOR", value_name = "BOOL")]
    strict_replication_factor: Option<bool>,
    /// How often old records are looked for, in milliseconds. [default: 300000]
    #[arg(long, env = "FERRYMQ_RETENTION_CHECK_INTERVAL_MS", value_name = "MS")]
    retention_check_interval_ms: Option<u64>,
    /// Believe the system's clock at once when it has gone forward, or after a long stop. Otherwise records and
    /// offsets expire by it only once the broker has run for as long, a day at most. [default: false]
    #[arg(long, env = "FERRYMQ_TRUST_CLOCK", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    trust_clock: Option<bool>,
    /// Largest request, in bytes. [default: 104857600]
    #[arg(long, env = "FERRYMQ_REQUEST_BYTES_MAX", value_name = "BYTES")]
    request_bytes_max: Option<usize>,
    /// Largest answer to a fetch, in bytes. [default: 57671680]
    #[arg(long, env = "FERRYMQ_FETCH_BYTES_MAX", value_name = "BYTES")]
    fetch_bytes_max: Option<usize>,
    /// Bytes of requests being worked on at a time, in all connections. [default: 134217728]
    #[arg(long, env = "FERRYMQ_BYTES_IN_FLIGHT_MAX", value_name = "BYTES")]
    bytes_in_flight_max: Option<usize>,
    /// Size of a write-ahead log file, in bytes. A restart after a kill replays about two of them.
    /// [default: 134217728]
    #[arg(long, env = "FERRYMQ_WAL_FILE_BYTES", value_name = "BYTES")]
    wal_file_bytes: Option<u64>,
    /// On PostgreSQL: bytes of messages after which the next table takes over; the oldest is dropped once nothing in it is
    /// needed. [default: 1073741824]
    #[arg(long, env = "FERRYMQ_POSTGRES_TABLE_BYTES", value_name = "BYTES")]
    postgres_table_bytes: Option<u64>,
    /// On PostgreSQL: how often tables to drop are looked for, in milliseconds. [default: 60000]
    #[arg(long, env = "FERRYMQ_POSTGRES_HOUSEKEEPING_MS", value_name = "MS")]
    postgres_housekeeping_ms: Option<u64>,
    /// Disk space kept for what frees space or records consumption; appends are refused when only this much
    /// is left, in bytes. [default: 67108864]
    #[arg(long, env = "FERRYMQ_DISK_RESERVE_BYTES", value_name = "BYTES")]
    disk_reserve_bytes: Option<u64>,
    /// Threads that serve clients. [default: one per processor]
    #[arg(long, env = "FERRYMQ_WORKER_THREADS", value_name = "N")]
    worker_threads: Option<usize>,
    /// What is logged: error, warn, info, debug, trace, or a filter. Reloaded on SIGHUP. [default: info]
    #[arg(long, env = "FERRYMQ_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// How it is logged. [default: text]
    #[arg(long, env = "FERRYMQ_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Settings for topics that do not say, such as retention.ms=86400000; may be repeated. In the file: a
    /// table [topic-defaults].
    #[arg(long = "topic-default", value_name = "NAME=VALUE", value_parser = parse_pair)]
    #[serde(skip)]
    topic_default: Vec<(String, String)>,
    /// A broker setting by Kafka's name, such as group.max.size=100; may be repeated. In the file: a table
    /// [broker-settings]. DescribeConfigs of the broker lists them with what they mean.
    #[arg(long = "broker-setting", value_name = "NAME=VALUE", value_parser = parse_pair)]
    #[serde(skip)]
    broker_setting: Vec<(String, String)>,
    /// The file's form of `broker-setting`.
    #[arg(skip)]
    #[serde(default)]
    broker_settings: BTreeMap<String, toml::Value>,
    /// The file's form of `topic-default`.
    #[arg(skip)]
    #[serde(default)]
    topic_defaults: BTreeMap<String, toml::Value>,
}

/// Where health and metrics are served, if anywhere.
fn http_listen(listen: Option<&str>, problems: &mut Vec<String>) -> Option<SocketAddr> {
    match listen.unwrap_or("127.0.0.1:15672") {
        "off" => None,
        text => text
            .parse()
            .map_err(|_| problems.push(format!("http-listen {text:?} is neither HOST:PORT nor off")))
            .ok(),
    }
}

/// Where AMQP clients connect; to one of several brokers nowhere yet.
fn amqp_listen(several: Option<bool>, listen: Option<String>, problems: &mut Vec<String>) -> Option<String> {
    if several != Some(true) {
        return listen;
    }
    if listen.as_ref().is_some_and(|listen| listen != "off") {
        problems.push(
            "amqp-listen: one of several brokers does not serve AMQP yet; leave it out, or let one broker be alone"
                .to_owned(),
        );
    }
    Some("off".to_owned())
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Settings with nothing left open.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) store: Place,
    pub(crate) several_brokers: bool,
    pub(crate) listeners: Vec<ListenerSettings>,
    pub(crate) amqp: AmqpSettings,
    pub(crate) http_listen: Option<SocketAddr>,
    pub(crate) allow_remote: bool,
    pub(crate) node_id: i32,
    pub(crate) auto_create_topics: bool,
    pub(crate) num_partitions: u32,
    pub(crate) strict_replication_factor: bool,
    pub(crate) retention_check_interval_ms: u64,
    pub(crate) trust_clock: bool,
    pub(crate) request_bytes_max: usize,
    pub(crate) fetch_bytes_max: usize,
    pub(crate) bytes_in_flight_max: usize,
    pub(crate) wal_file_bytes: u64,
    pub(crate) postgres: PostgresSettings,
    pub(crate) disk_reserve_bytes: u64,
    pub(crate) worker_threads: usize,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
    pub(crate) topic_defaults: TopicDefaults,
    pub(crate) broker: BrokerSettings,
}

/// What the user said, apart from the file, which can be read again.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    args: ServeArgs,
}

impl Said {
    /// Whether there is a file at all.
    pub(crate) fn has_file(&self) -> bool {
        self.args.config.is_some()
    }

    /// Flags and environment over the file as it is now over the defaults, all of it checked.
    ///
    /// # Errors
    /// If the file cannot be read, or anything in all of it is wrong.
    pub(crate) fn resolve(&self) -> anyhow::Result<Settings> {
        let file = match &self.args.config {
            None => ServeArgs::default(),
            Some(path) => read_file(path)?,
        };
        Settings::check(over(self.args.clone(), file)).map_err(|problems| {
            anyhow::anyhow!("the settings cannot be used:\n  - {}", problems.join("\n  - "))
        })
    }
}

impl Settings {
    /// Puts flags and environment over the file over the defaults, and checks everything.
    pub(crate) fn resolve(args: ServeArgs) -> anyhow::Result<(Settings, Said)> {
        let said = Said { args };
        Ok((said.resolve()?, said))
    }

    fn check(args: ServeArgs) -> Result<Settings, Vec<String>> {
        let mut problems = Vec::new();
        let http_listen = http_listen(args.http_listen.as_deref(), &mut problems);
        let allow_remote = args.allow_remote.unwrap_or(false);
        let is_remote = |address: &SocketAddr| !allow_remote && !address.ip().is_loopback();
        if let Some(address) = http_listen.filter(is_remote) {
            problems.push(listeners::can_be_reached("http-listen", &address));
        }
        let store = Place::parse(args.store.as_deref().unwrap_or("local"));
        let store = store.map_err(|problem| problems.push(problem)).unwrap_or(Place::Local);
        let listeners =
            listeners::check(&args.kafka_listen, &args.kafka_advertise, allow_remote, &mut problems);
        let amqp = amqp::Said {
            listen: amqp_listen(args.several_brokers, args.amqp_listen, &mut problems),
            product: args.amqp_product,
            version: args.amqp_version,
            consumer_timeout_ms: args.amqp_consumer_timeout_ms,
            default_queue_type: args.default_queue_type,
        };
        let amqp = amqp::check(amqp, allow_remote, &mut problems);
        let topic_defaults =
            topic_defaults(args.topic_default, args.topic_defaults, args.durability, &mut problems);
        let broker =
            BrokerSettings::check(of_file(args.broker_settings).chain(args.broker_setting), &mut problems);
        let mut positive = |name: &str, value: usize| {
            if value == 0 {
                problems.push(format!("{name} must be at least 1"));
            }
            value
        };
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let settings = Settings {
            store,
            several_brokers: args.several_brokers.unwrap_or(false),
            data_dir: args.data_dir.unwrap_or_else(|| PathBuf::from("ferrymq-data")),
            listeners,
            amqp,
            http_listen,
            allow_remote,
            node_id: args.node_id.unwrap_or(1),
            auto_create_topics: args.auto_create_topics.unwrap_or(true),
            num_partitions: args.num_partitions.unwrap_or(1),
            strict_replication_factor: args.strict_replication_factor.unwrap_or(false),
            retention_check_interval_ms: args.retention_check_interval_ms.unwrap_or(300_000),
            trust_clock: args.trust_clock.unwrap_or(false),
            request_bytes_max: positive(
                "request-bytes-max",
                args.request_bytes_max.unwrap_or(REQUEST_BYTES_MAX),
            ),
            fetch_bytes_max: positive("fetch-bytes-max", args.fetch_bytes_max.unwrap_or(FETCH_BYTES_MAX)),
            bytes_in_flight_max: positive(
                "bytes-in-flight-max",
                args.bytes_in_flight_max.unwrap_or(SERVER_BYTES_IN_FLIGHT),
            ),
            wal_file_bytes: args.wal_file_bytes.unwrap_or_else(|| Options::default().wal_file_bytes),
            postgres: PostgresSettings::new(args.postgres_table_bytes, args.postgres_housekeeping_ms),
            disk_reserve_bytes: args.disk_reserve_bytes.unwrap_or_else(|| Options::default().reserve_bytes),
            worker_threads: positive("worker-threads", args.worker_threads.unwrap_or(cores)),
            log_level: args.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: args.log_format.unwrap_or(LogFormat::Text),
            topic_defaults,
            broker,
        };
        settings.check_relations(&mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn check_relations(&self, problems: &mut Vec<String>) {
        if self.several_brokers && matches!(self.store, Place::Local) {
            problems.push("several-brokers needs a store that brokers share: postgres://..".to_owned());
        }
        if self.node_id < 0 {
            problems.push(format!("node-id {} must not be negative", self.node_id));
        }
        if self.num_partitions == 0 {
            problems.push("num-partitions must be at least 1".to_owned());
        }
        if self.retention_check_interval_ms == 0 {
            problems.push("retention-check-interval-ms must be at least 1".to_owned());
        }
        if !(64 * 1024..=4 << 30).contains(&self.wal_file_bytes) {
            problems
                .push(format!("wal-file-bytes {} must lie between 64 KiB and 4 GiB", self.wal_file_bytes));
        }
        self.postgres.check(problems);
        if self.bytes_in_flight_max < self.request_bytes_max {
            problems.push(format!(
                "bytes-in-flight-max {} must not be below request-bytes-max {}",
                self.bytes_in_flight_max, self.request_bytes_max
            ));
        }
        // A topic that says nothing must be possible.
        let bare = TopicConfig::new(BTreeMap::new(), &self.topic_defaults);
        let checked =
            bare.and_then(|bare| bare.check_relations(&self.topic_defaults, self.strict_replication_factor));
        if let Err(error) = checked {
            problems.push(format!("topic defaults: {error}"));
        }
    }

    /// What the engine is told.
    pub(crate) fn engine_options(&self) -> Options {
        Options {
            wal_file_bytes: self.wal_file_bytes,
            reserve_bytes: self.disk_reserve_bytes,
            seeded_bug: seeded_bug()
                .and_then(|name| SeededBug::ALL.into_iter().find(|bug| format!("{bug:?}") == name)),
            ..Options::default()
        }
    }

    /// How the Kafka door presents itself.
    pub(crate) fn kafka_config(&self) -> KafkaConfig {
        KafkaConfig {
            node_id: self.node_id,
            auto_create_topics: self.auto_create_topics,
            default_partitions: self.num_partitions,
            strict_replication_factor: self.strict_replication_factor,
            request_bytes_max: self.request_bytes_max,
            fetch_bytes_max: self.fetch_bytes_max,
            patience: CONNECTION_PATIENCE,
            idle: CONNECTION_IDLE_MAX,
            data_dir: self.store.describe(self),
        }
    }
}

/// The name of the guarantee to break, for tests of the fault harness: only in builds made for them.
#[cfg(feature = "seeded-bugs")]
pub(super) fn seeded_bug() -> Option<String> {
    let name = std::env::var("FERRYMQ_SEEDED_BUG").ok()?;
    tracing::error!(name, "THIS BUILD BREAKS ITS PROMISES ON PURPOSE");
    Some(name)
}

#[cfg(not(feature = "seeded-bugs"))]
pub(super) fn seeded_bug() -> Option<String> {
    None
}

fn read_file(path: &Path) -> anyhow::Result<ServeArgs> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read the configuration file {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("the configuration file {} is not valid", path.display()))
}

/// `first` where it says something, else `second`.
fn over(first: ServeArgs, second: ServeArgs) -> ServeArgs {
    ServeArgs {
        config: first.config.or(second.config),
        data_dir: first.data_dir.or(second.data_dir),
        store: first.store.or(second.store),
        several_brokers: first.several_brokers.or(second.several_brokers),
        kafka_listen: some_of(first.kafka_listen, second.kafka_listen),
        kafka_advertise: some_of(first.kafka_advertise, second.kafka_advertise),
        amqp_listen: first.amqp_listen.or(second.amqp_listen),
        amqp_product: first.amqp_product.or(second.amqp_product),
        amqp_version: first.amqp_version.or(second.amqp_version),
        amqp_consumer_timeout_ms: first.amqp_consumer_timeout_ms.or(second.amqp_consumer_timeout_ms),
        default_queue_type: first.default_queue_type.or(second.default_queue_type),
        http_listen: first.http_listen.or(second.http_listen),
        allow_remote: first.allow_remote.or(second.allow_remote),
        node_id: first.node_id.or(second.node_id),
        durability: first.durability.or(second.durability),
        auto_create_topics: first.auto_create_topics.or(second.auto_create_topics),
        num_partitions: first.num_partitions.or(second.num_partitions),
        strict_replication_factor: first.strict_replication_factor.or(second.strict_replication_factor),
        retention_check_interval_ms: first.retention_check_interval_ms.or(second.retention_check_interval_ms),
        trust_clock: first.trust_clock.or(second.trust_clock),
        request_bytes_max: first.request_bytes_max.or(second.request_bytes_max),
        fetch_bytes_max: first.fetch_bytes_max.or(second.fetch_bytes_max),
        bytes_in_flight_max: first.bytes_in_flight_max.or(second.bytes_in_flight_max),
        wal_file_bytes: first.wal_file_bytes.or(second.wal_file_bytes),
        postgres_table_bytes: first.postgres_table_bytes.or(second.postgres_table_bytes),
        postgres_housekeeping_ms: first.postgres_housekeeping_ms.or(second.postgres_housekeeping_ms),
        disk_reserve_bytes: first.disk_reserve_bytes.or(second.disk_reserve_bytes),
        worker_threads: first.worker_threads.or(second.worker_threads),
        log_level: first.log_level.or(second.log_level),
        log_format: first.log_format.or(second.log_format),
        topic_default: first.topic_default,
        topic_defaults: second.topic_defaults,
        broker_setting: first.broker_setting,
        broker_settings: second.broker_settings,
    }
}

fn some_of(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    if first.is_empty() { second } else { first }
}

fn topic_defaults(
    flags: Vec<(String, String)>,
    file: BTreeMap<String, toml::Value>,
    durability: Option<String>,
    problems: &mut Vec<String>,
) -> TopicDefaults {
    let file = of_file(file);
    let durability = durability.map(|class| {
        if Durability::parse(&class).is_none() {
            problems.push(format!("durability {class:?} is not one of sync, os, memory"));
        }
        ("ferrymq.durability".to_owned(), class)
    });
    let mut defaults = TopicDefaults::default();
    for (name, value) in durability.into_iter().chain(file).chain(flags) {
        match topic_setting(&name) {
            None => problems.push(format!("topic default {name:?} is not a topic setting")),
            Some(setting) => match setting.check(&value) {
                Ok(()) => drop(defaults.values.insert(setting.name, value)),
                Err(error) => problems.push(error.to_string()),
            },
        }
    }
    defaults
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The settings a file makes.
    pub(in super::super) fn settings(file: &str) -> Settings {
        Settings::check(over(ServeArgs::default(), toml::from_str(file).unwrap())).unwrap()
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_defaults() {
        let file: ServeArgs =
            toml::from_str("num-partitions = 3\nnode-id = 7\n[topic-defaults]\n\"retention.ms\" = 1000\n")
                .unwrap();
        let flags = ServeArgs { num_partitions: Some(5), ..ServeArgs::default() };
        let settings = Settings::check(over(flags, file)).unwrap();
        assert_eq!((settings.num_partitions, settings.node_id), (5, 7));
        assert_eq!(settings.topic_defaults.values["retention.ms"], "1000");
        assert_eq!(settings.request_bytes_max, REQUEST_BYTES_MAX);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let args = ServeArgs {
            num_partitions: Some(0),
            kafka_listen: vec!["0.0.0.0:9092".to_owned()],
            kafka_advertise: vec!["nowhere".to_owned()],
            http_listen: Some("here".to_owned()),
            durability: Some("wish".to_owned()),
            default_queue_type: Some("lazy".to_owned()),
            topic_default: vec![("retention.parsecs".to_owned(), "1".to_owned())],
            ..ServeArgs::default()
        };
        let problems = Settings::check(args).unwrap_err();
        assert!(problems.len() >= 7, "{problems:#?}");
        assert!(problems.iter().any(|text| text.contains("--allow-remote")));
    }

    #[test]
    fn topic_defaults_must_be_possible_together() {
        let with = |pairs: &[(&str, &str)], strict| ServeArgs {
            topic_default: pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            strict_replication_factor: Some(strict),
            ..ServeArgs::default()
        };
        let (os, flush) = (("ferrymq.durability", "os"), ("flush.ms", "5"));
        let two = ("min.insync.replicas", "2");
        for possible in [with(&[os], true), with(&[flush], true), with(&[two], false)] {
            Settings::check(possible).unwrap();
        }
        for impossible in [with(&[os, flush], false), with(&[two], true)] {
            assert_eq!(Settings::check(impossible).unwrap_err().len(), 1);
        }
    }

    #[test]
    fn unknown_options_in_the_file_are_refused() {
        assert!(toml::from_str::<ServeArgs>("num-partition = 3").is_err());
    }

    #[test]
    fn listeners_are_written_in_three_ways_and_replaced_as_a_whole() {
        let advertise = "kafka-advertise = \"A=a:1,B=b:1\"";
        for listen in [
            "kafka-listen = \"A=127.0.0.1:1,B=127.0.0.1:2\"",
            "kafka-listen = [\"A=127.0.0.1:1\", \"B=127.0.0.1:2\"]",
            "[kafka-listen]\nA = \"127.0.0.1:1\"\nB = \"127.0.0.1:2\"",
        ] {
            let file: ServeArgs = toml::from_str(&format!("{advertise}\n{listen}")).unwrap();
            let settings = Settings::check(file.clone()).unwrap();
            let told: Vec<_> =
                settings.listeners.iter().map(|one| (&*one.name, one.listen.to_string())).collect();
            assert_eq!(told, [("A", "127.0.0.1:1".to_owned()), ("B", "127.0.0.1:2".to_owned())]);
            assert!(settings.listeners.iter().all(|one| one.advertise.is_some()));
            let flags = ServeArgs { kafka_listen: vec!["A=127.0.0.1:7".to_owned()], ..ServeArgs::default() };
            let problems = Settings::check(over(flags, file)).unwrap_err();
            assert!(problems[0].contains("no listener is named B"), "{problems:?}");
        }
        assert!(toml::from_str::<ServeArgs>("kafka-listen = 9092").is_err());
    }
}
