//! The Kafka door on the memory engine, for trying clients: `cargo run --example memory -- 127.0.0.1:9092`.

use std::sync::Arc;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::groups::{Groups, GroupsConfig, Start};
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_kafka_server::context::Surroundings;
use ferrymq_kafka_server::listener::DEFAULT_LISTENER;
use ferrymq_kafka_server::{Context, Endpoint, KafkaConfig, KafkaServer, Listener};
use ferrymq_runtime::{ByteBudget, Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_types::LogId;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let store = Arc::new(MemoryStore::new());
    let stores =
        Stores { logs: store.clone(), meta: Arc::new(MemoryMeta::new()), state: Arc::new(MemoryMeta::new()) };
    let tasks = Tasks::new();
    let options = BrokerOptions::default();
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let broker = Broker::open(stores, options.clone(), clock.clone(), rng.clone(), tasks.clone()).await?;
    let groups_config = GroupsConfig::default();
    let groups = Groups::start(Start {
        store,
        logs: (16..32).map(LogId).collect(),
        owner: broker.owner(),
        clock,
        rng,
        tasks: tasks.clone(),
        config: groups_config.clone(),
    });
    let socket = tokio::net::TcpListener::bind(&address).await?;
    let address = socket.local_addr()?;
    let listener = Arc::new(Listener {
        name: DEFAULT_LISTENER.to_owned(),
        address,
        advertised: Endpoint { host: "127.0.0.1".to_owned(), port: address.port() },
    });
    let config = KafkaConfig {
        node_id: 1,
        auto_create_topics: true,
        default_partitions: 1,
        strict_replication_factor: false,
        request_bytes_max: 100 << 20,
        fetch_bytes_max: 55 << 20,
        patience: ferrymq_types::limits::CONNECTION_PATIENCE,
        data_dir: "memory".to_owned(),
    };
    let surroundings = Surroundings {
        groups,
        groups_config,
        broker_options: options,
        listeners: vec![listener.clone()],
        volume: Box::new(|| None),
    };
    let context = Context::new(broker, surroundings, config, ByteBudget::new(128 << 20));
    let _server = KafkaServer::start(vec![(socket, listener)], &context, &tasks);
    tokio::signal::ctrl_c().await?;
    Ok(())
}
