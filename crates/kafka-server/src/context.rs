//! What every handler can reach.
//!
//! **Invariant.** Shared by all connections, changed by none, but for counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64};

use ferrymq_broker::Broker;
use ferrymq_runtime::ByteBudget;

/// How the door presents itself.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// This broker's node id.
    pub node_id: i32,
    /// The host clients are told to connect to.
    pub advertised_host: String,
    /// The port clients are told to connect to.
    pub advertised_port: u16,
    /// Whether a metadata request may create a topic. Kafka's `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// Partitions of a topic that does not say. Kafka's `num.partitions`.
    pub default_partitions: u32,
    /// Whether a replication factor above the number of brokers is refused.
    pub strict_replication_factor: bool,
    /// Largest request, in bytes. Kafka's `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// Largest answer to a fetch, in bytes. Kafka's `fetch.max.bytes`.
    pub fetch_bytes_max: usize,
    /// Where the data lies, for DescribeLogDirs.
    pub data_dir: String,
}

/// Everything a handler works with.
pub struct Context {
    /// The broker.
    pub broker: Arc<Broker>,
    /// How the door presents itself.
    pub config: KafkaConfig,
    /// Bytes of requests being worked on, in all connections.
    pub budget: ByteBudget,
    /// What happened so far.
    pub counters: Counters,
    /// The last fetch session id given out.
    pub(crate) fetch_sessions: AtomicI32,
}

/// Counters of the door. All only rise, but for the gauges.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections_total: AtomicU64,
    /// Connections open now (gauge).
    pub connections_open: AtomicU64,
    /// Requests read.
    pub requests_total: AtomicU64,
    /// Requests that could not be decoded.
    pub bad_requests_total: AtomicU64,
    /// Bytes read.
    pub bytes_in_total: AtomicU64,
    /// Bytes written.
    pub bytes_out_total: AtomicU64,
    /// Batches accepted for appending.
    pub batches_in_total: AtomicU64,
    /// Records accepted for appending.
    pub records_in_total: AtomicU64,
}

impl Context {
    /// A door onto `broker`; `budget` bounds the requests in work.
    #[must_use]
    pub fn new(broker: Arc<Broker>, config: KafkaConfig, budget: ByteBudget) -> Arc<Context> {
        let counters = Counters::default();
        Arc::new(Context { broker, config, budget, counters, fetch_sessions: AtomicI32::new(0) })
    }
}
