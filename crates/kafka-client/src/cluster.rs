//! The cluster as the client sees it: brokers, who leads which partition, one connection per broker.
//!
//! **Invariants.** A broker is connected to when first needed and again after its connection ended. Metadata is
//! what the cluster last said; whoever is told NOT_LEADER asks for it again.
//!
//! Deliberately absent: periodic refresh; commands are short and long ones refresh on errors.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_kafka_codec::messages::metadata::{MetadataRequestTopic, MetadataResponseTopic};
use ferrymq_kafka_codec::messages::{MetadataRequest, MetadataResponse};
use ferrymq_kafka_codec::{ErrorCode, Request, StrBytes};
use ferrymq_runtime::{Clock, Rng, Tasks};
use parking_lot::Mutex;

use crate::ClientError;
use crate::connection::Connection;

/// How long a topic that was just made may take to be led.
const LEADERLESS_RETRIES: u32 = 20;
/// How long partitions may take to be led by somebody else: a broker that was killed is missed after two seconds.
pub(crate) const LEADER_RETRIES: u32 = 100;
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `host:port` of brokers, tried in order.
    pub bootstrap: Vec<String>,
    /// What the client calls itself in the broker's logs and quotas.
    pub client_id: String,
    /// How long to wait for a connection or an answer.
    pub patience: Duration,
}

impl ClientConfig {
    /// A client of `bootstrap`, a list of `host:port` with commas between.
    #[must_use]
    pub fn new(bootstrap: &str) -> ClientConfig {
        let addresses = bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty());
        ClientConfig {
            bootstrap: addresses.map(str::to_owned).collect(),
            client_id: "ferrymq".to_owned(),
            patience: Duration::from_secs(30),
        }
    }
}

/// One broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub node_id: i32,
    /// Its `host:port` as advertised.
    pub address: String,
}

/// One topic as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id, if the broker told one.
    pub topic_id: Option<String>,
    /// Whether the broker keeps its own data in it.
    pub internal: bool,
    /// Its partitions by number.
    pub partitions: Vec<PartitionInfo>,
}

/// One partition as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: u32,
    /// The broker to write to and read from; negative if there is none now.
    pub leader: i32,
    /// Brokers that hold it.
    pub replicas: Vec<i32>,
    /// Those of them that are up to date.
    pub in_sync: Vec<i32>,
}

/// A client of one cluster; cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    brokers: HashMap<i32, Broker>,
    connections: HashMap<i32, Connection>,
    bootstrap: Option<Connection>,
}

impl Client {
    /// Connects to the first bootstrap address that answers.
    ///
    /// # Errors
    /// The last address's error if none does.
    pub async fn connect(
        config: ClientConfig,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
    ) -> Result<Client, ClientError> {
        let state = Mutex::new(State::default());
        let client = Client { inner: Arc::new(Inner { config, clock, rng, tasks, state }) };
        client.any().await?;
        Ok(client)
    }

    /// A client of the same cluster with connections of its own: a fetch that waits for data holds up
    /// everything behind it on its connection.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn sibling(&self) -> Result<Client, ClientError> {
        let inner = &self.inner;
        let (clock, rng, tasks) = (inner.clock.clone(), inner.rng.clone(), inner.tasks.clone());
        Client::connect(inner.config.clone(), clock, rng, tasks).await
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    pub(crate) fn rng(&self) -> &Rng {
        &self.inner.rng
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    pub(crate) fn patience(&self) -> Duration {
        self.inner.config.patience
    }

    pub(crate) async fn pause(&self) {
        self.inner.clock.sleep(RETRY_AFTER).await;
    }

    /// A connection to any broker.
    pub(crate) async fn any(&self) -> Result<Connection, ClientError> {
        if let Some(live) = self.live_connection() {
            return Ok(live);
        }
        let known: Vec<String> =
            self.inner.state.lock().brokers.values().map(|broker| broker.address.clone()).collect();
        let mut last = ClientError::Invalid("no bootstrap address was given".to_owned());
        for address in self.inner.config.bootstrap.iter().chain(&known) {
            match self.open(address).await {
                Ok(connection) => {
                    self.inner.state.lock().bootstrap = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn live_connection(&self) -> Option<Connection> {
        let state = self.inner.state.lock();
        let mut all = state.connections.values().chain(&state.bootstrap);
        all.find(|connection| !connection.is_closed()).cloned()
    }

    /// The connection to one broker.
    pub(crate) async fn node(&self, node_id: i32) -> Result<Connection, ClientError> {
        let address = {
            let state = self.inner.state.lock();
            match state.connections.get(&node_id) {
                Some(connection) if !connection.is_closed() => return Ok(connection.clone()),
                _ => state.brokers.get(&node_id).map(|broker| broker.address.clone()),
            }
        };
        let Some(address) = address else {
            // Nobody leads, or somebody new: that is learnt by asking again.
            let code = ErrorCode::LeaderNotAvailable.code();
            let what = || format!("reach broker {node_id}, which is not in the cluster's metadata");
            ClientError::check(what, code, None)?;
            return Err(ClientError::Invalid(what()));
        };
        let connection = self.open(&address).await?;
        self.inner.state.lock().connections.insert(node_id, connection.clone());
        Ok(connection)
    }

    /// Remembers where a broker is.
    pub(crate) fn learn(&self, broker: Broker) {
        self.inner.state.lock().brokers.insert(broker.node_id, broker);
    }

    async fn open(&self, address: &str) -> Result<Connection, ClientError> {
        let config = &self.inner.config;
        Connection::open(address, &config.client_id, config.patience, &self.inner.tasks).await
    }

    /// Asks any broker.
    pub(crate) async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.any().await?.call(request).await
    }

    /// The brokers, as last heard.
    #[must_use]
    pub fn brokers(&self) -> Vec<Broker> {
        let mut brokers: Vec<Broker> = self.inner.state.lock().brokers.values().cloned().collect();
        brokers.sort_by_key(|broker| broker.node_id);
        brokers
    }

    /// Every topic.
    ///
    /// # Errors
    /// If the broker cannot be asked or refuses.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>, ClientError> {
        let response = self.metadata(None, false).await?;
        response.topics.iter().filter(|topic| topic.error_code == 0).map(topic_info).collect()
    }

    /// One topic, made by the broker if it does so for `create` (`auto.create.topics.enable`).
    ///
    /// Waits a little for a topic that was just made to be led.
    ///
    /// # Errors
    /// If the topic does not exist, or the broker cannot be asked.
    pub async fn topic(&self, name: &str, create: bool) -> Result<TopicInfo, ClientError> {
        let mut left = LEADERLESS_RETRIES;
        loop {
            let response = self.metadata(Some(name), create).await?;
            let topic = response.topics.first();
            let topic = topic.ok_or_else(|| ClientError::Invalid(format!("no answer about topic {name}")))?;
            let code = ErrorCode::from_code(topic.error_code);
            let coming = code == Some(ErrorCode::LeaderNotAvailable)
                || (create && code == Some(ErrorCode::UnknownTopicOrPartition))
                || (code == Some(ErrorCode::None) && topic.partitions.iter().any(|one| one.leader_id < 0));
            if coming && left > 0 {
                left -= 1;
                self.pause().await;
                continue;
            }
            ClientError::check(|| format!("topic {name}"), topic.error_code, None)?;
            return topic_info(topic);
        }
    }

    async fn metadata(&self, topic: Option<&str>, create: bool) -> Result<MetadataResponse, ClientError> {
        let named = |name: &str| {
            let name = Some(StrBytes::from(name.to_owned()));
            vec![MetadataRequestTopic { name, ..MetadataRequestTopic::default() }]
        };
        let request = MetadataRequest {
            topics: topic.map(named),
            allow_auto_topic_creation: create,
            ..MetadataRequest::default()
        };
        let response = self.ask(&request).await?;
        let mut state = self.inner.state.lock();
        for broker in &response.brokers {
            let (node_id, address) = (broker.node_id, join_address(&broker.host, broker.port));
            let old = state.brokers.insert(node_id, Broker { node_id, address: address.clone() });
            if old.is_some_and(|old| old.address != address) {
                state.connections.remove(&node_id);
            }
        }
        drop(state);
        Ok(response)
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn join_address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn topic_info(topic: &MetadataResponseTopic) -> Result<TopicInfo, ClientError> {
    let name = topic.name.as_ref().map(StrBytes::to_owned_str).unwrap_or_default();
    let mut partitions = Vec::with_capacity(topic.partitions.len());
    for one in &topic.partitions {
        let partition = u32::try_from(one.partition_index)
            .map_err(|_| ClientError::Invalid(format!("the broker named a negative partition of {name}")))?;
        partitions.push(PartitionInfo {
            partition,
            leader: one.leader_id,
            replicas: one.replica_nodes.clone(),
            in_sync: one.isr_nodes.clone(),
        });
    }
    partitions.sort_by_key(|one| one.partition);
    let topic_id = (!topic.topic_id.is_zero()).then(|| topic.topic_id.to_string());
    Ok(TopicInfo { name, topic_id, internal: topic.is_internal, partitions })
}
