//! What every handler can reach.
//!
//! **Invariant.** Shared by all connections, changed by none, but for counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64};
use std::time::Duration;

use ferrymq_broker::groups::{Groups, GroupsConfig};
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_runtime::ByteBudget;
use tokio::sync::Mutex;

use crate::listener::Listener;

/// How the door presents itself.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// This broker's node id.
    pub node_id: i32,
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
    /// How long a connection may want to send more than there is room for before it is closed.
    pub patience: Duration,
    /// Where the data lies, for DescribeLogDirs.
    pub data_dir: String,
}

/// Room on the volume that holds the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes it has.
    pub total_bytes: u64,
    /// Bytes that may still be written.
    pub usable_bytes: u64,
}

/// Who knows how much room is left.
pub trait Volume: Send + Sync {
    /// The room now; `None` if nobody knows.
    fn space(&self) -> Option<Space>;
}

impl<F: Fn() -> Option<Space> + Send + Sync> Volume for F {
    fn space(&self) -> Option<Space> {
        self()
    }
}

/// What stands beside the broker, and how all of it was set up.
pub struct Surroundings {
    /// The consumer groups.
    pub groups: Groups,
    /// What the groups were started with, for DescribeConfigs.
    pub groups_config: GroupsConfig,
    /// What the broker was opened with, for DescribeConfigs.
    pub broker_options: BrokerOptions,
    /// Where the door listens, for DescribeConfigs.
    pub listeners: Vec<Arc<Listener>>,
    /// The data's volume, for DescribeLogDirs.
    pub volume: Box<dyn Volume>,
}

/// Everything a handler works with.
pub struct Context {
    /// The broker.
    pub broker: Arc<Broker>,
    /// The consumer groups.
    pub groups: Groups,
    /// What the groups were started with.
    pub groups_config: GroupsConfig,
    /// What the broker was opened with.
    pub broker_options: BrokerOptions,
    /// Where the door listens.
    pub listeners: Vec<Arc<Listener>>,
    /// The data's volume.
    pub volume: Box<dyn Volume>,
    /// How the door presents itself.
    pub config: KafkaConfig,
    /// Bytes of requests being worked on, in all connections.
    pub budget: ByteBudget,
    /// What happened so far.
    pub counters: Counters,
    /// The last fetch session id given out.
    pub(crate) fetch_sessions: AtomicI32,
    /// Held while settings are read, changed and written back.
    pub(crate) altering: Mutex<()>,
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
    pub fn new(
        broker: Arc<Broker>,
        surroundings: Surroundings,
        config: KafkaConfig,
        budget: ByteBudget,
    ) -> Arc<Context> {
        let Surroundings { groups, groups_config, broker_options, listeners, volume } = surroundings;
        Arc::new(Context {
            broker,
            groups,
            groups_config,
            broker_options,
            listeners,
            volume,
            config,
            budget,
            counters: Counters::default(),
            fetch_sessions: AtomicI32::new(0),
            altering: Mutex::new(()),
        })
    }
}
