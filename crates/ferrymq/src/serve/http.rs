//! The small HTTP listener: `/livez`, `/readyz`, `/metrics`.
//!
//! **Invariants.** `/livez` says that the process serves; `/readyz` that it accepts writes. Metric names are
//! a promise (`docs/metrics.md`). Nothing here can change anything.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ferrymq_engine_local::LocalStore;
use ferrymq_kafka_server::Context;
use ferrymq_runtime::{TaskKind, Tasks};
use tokio::net::TcpListener;

/// A running listener.
pub(crate) struct HttpServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Shared {
    store: Arc<LocalStore>,
    context: Arc<Context>,
    stopping: Arc<AtomicBool>,
}

impl HttpServer {
    /// Serves `address` until `tasks` stop.
    pub(crate) async fn start(
        address: SocketAddr,
        store: Arc<LocalStore>,
        context: Arc<Context>,
        tasks: &Tasks,
    ) -> anyhow::Result<HttpServer> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("could not listen on {address} for health and metrics"))?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(Shared { store, context, stopping: stopping.clone() });
        let stop = tasks.stopping();
        tasks.spawn(TaskKind::Background, "http listener", async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
                tracing::error!(error = %error, "the HTTP listener ended");
            }
        });
        Ok(HttpServer { address, stopping })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `/readyz` says no.
    pub(crate) fn say_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.stopping.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    match shared.store.health().problem() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::with_capacity(4096);
    let counters = &shared.context.counters;
    let door: [(&str, &str, &str, &AtomicU64); 8] = [
        ("kafka_connections_total", "counter", "Kafka connections accepted", &counters.connections_total),
        ("kafka_connections", "gauge", "Kafka connections open", &counters.connections_open),
        ("kafka_requests_total", "counter", "Kafka requests read", &counters.requests_total),
        ("kafka_bad_requests_total", "counter", "Kafka requests refused", &counters.bad_requests_total),
        ("kafka_received_bytes_total", "counter", "Bytes from Kafka clients", &counters.bytes_in_total),
        ("kafka_sent_bytes_total", "counter", "Bytes to Kafka clients", &counters.bytes_out_total),
        ("kafka_batches_total", "counter", "Record batches accepted", &counters.batches_in_total),
        ("kafka_records_total", "counter", "Records accepted", &counters.records_in_total),
    ];
    for (name, kind, help, value) in door {
        sample(&mut text, name, kind, help, value.load(Ordering::Relaxed));
    }
    let (topics, partitions) =
        shared.context.broker.topics().with(|topics| (topics.len() as u64, topics.partitions() as u64));
    sample(&mut text, "topics", "gauge", "Topics", topics);
    sample(&mut text, "partitions", "gauge", "Partitions", partitions);
    sample(&mut text, "request_bytes_in_flight", "gauge", "Request bytes being worked on", shared.context.budget.in_use() as u64);
    for (name, kind, help, value) in shared.store.counters().samples() {
        sample(&mut text, name, kind, help, value);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn sample(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP ferrymq_{name} {help}.\n# TYPE ferrymq_{name} {kind}\nferrymq_{name} {value}");
}
