//! The Kafka door on the memory engine, for trying clients: `cargo run --example memory -- 127.0.0.1:9092`.

use std::sync::Arc;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_kafka_server::{Context, KafkaConfig, KafkaServer};
use ferrymq_runtime::{ByteBudget, Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let stores = Stores {
        logs: Arc::new(MemoryStore::new()),
        meta: Arc::new(MemoryMeta::new()),
        state: Arc::new(MemoryMeta::new()),
    };
    let tasks = Tasks::new();
    let options = BrokerOptions::default();
    let broker = Broker::open(stores, options, Clock::system(), Rng::from_os(), tasks.clone()).await?;
    let listener = tokio::net::TcpListener::bind(&address).await?;
    let config = KafkaConfig {
        node_id: 1,
        advertised_host: "127.0.0.1".to_owned(),
        advertised_port: listener.local_addr()?.port(),
        auto_create_topics: true,
        default_partitions: 1,
        strict_replication_factor: false,
        request_bytes_max: 100 << 20,
        fetch_bytes_max: 55 << 20,
        data_dir: "memory".to_owned(),
    };
    let context = Context::new(broker, config, ByteBudget::new(128 << 20));
    let _server = KafkaServer::start(listener, context, &tasks)?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
