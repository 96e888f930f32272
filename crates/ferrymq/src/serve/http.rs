//! The small HTTP listener: `/livez`, `/readyz`, `/metrics`.
//!
//! **Invariants.** `/livez` says that the process serves; `/readyz` that it accepts writes. Metric names are
//! a promise (`docs/metrics.md`). Nothing here can change anything. A peer that is slow to ask holds one of
//! [`CONNECTIONS_MAX`] places for [`REQUEST_PATIENCE`], and a stop for [`STOP_PATIENCE`].

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ferrymq_engine_local::LocalStore;
use ferrymq_kafka_server::Context;
use ferrymq_runtime::{TaskKind, Tasks};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::amqp;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// How long a peer may take to send a request's head, and how long it may be idle between two.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's head; the smallest that hyper takes.
const REQUEST_BYTES_MAX: usize = 8192;
/// How long a stop waits for an answer that is being written.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// A running listener.
pub(crate) struct HttpServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Shared {
    store: Arc<LocalStore>,
    context: Arc<Context>,
    amqp: Arc<Option<amqp::Door>>,
    stopping: Arc<AtomicBool>,
}

impl HttpServer {
    /// Serves `address` until `tasks` stop.
    pub(crate) async fn start(
        address: SocketAddr,
        store: Arc<LocalStore>,
        context: Arc<Context>,
        amqp: Arc<Option<amqp::Door>>,
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
            .with_state(Shared { store, context, amqp, stopping: stopping.clone() });
        let connections = tasks.child();
        tasks.spawn(TaskKind::Background, "http listener", accept(listener, router, connections));
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

/// Accepts connections until a stop.
async fn accept(listener: TcpListener, router: Router, connections: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stopping = pin!(connections.stopping());
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stopping => return,
            accepted = accepted => accepted,
        };
        // An error is the connection's (reset before it was taken) or passes (no more files): go on.
        let Ok((stream, _)) = accepted else { continue };
        let (router, stop) = (router.clone(), connections.stopping());
        connections.spawn(TaskKind::Connection, "http connection", async move {
            serve_connection(stream, router, stop).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, router: Router, stop: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router);
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_PATIENCE)
            .max_buf_size(REQUEST_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    // How a connection ended is its peer's business.
    tokio::select! {
        _ = &mut serving => return,
        () = stop => serving.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(STOP_PATIENCE, serving).await;
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.stopping.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let health = shared.store.health();
    if let Some(why) = health.stopped {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("the store stopped taking writes: {why}\n"));
    }
    if health.full {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the disk is nearly full: appends are refused\n".to_owned(),
        );
    }
    (StatusCode::OK, "ok\n".to_owned())
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
    for (name, kind, help, value) in shared.amqp.iter().flat_map(amqp::Door::samples) {
        sample(&mut text, name, kind, help, value.load(Ordering::Relaxed));
    }
    let (topics, partitions) =
        shared.context.broker.topics().with(|topics| (topics.len() as u64, topics.partitions() as u64));
    sample(&mut text, "topics", "gauge", "Topics", topics);
    sample(&mut text, "partitions", "gauge", "Partitions", partitions);
    sample(
        &mut text,
        "request_bytes_in_flight",
        "gauge",
        "Request bytes being worked on",
        shared.context.budget.in_use() as u64,
    );
    store_samples(&mut text, &shared.store);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn store_samples(text: &mut String, store: &LocalStore) {
    let counters = store.counters();
    let samples: [(&str, &str, &str, &AtomicU64); 13] = [
        ("store_groups_total", "counter", "Write groups written", &counters.groups),
        ("store_appended_bytes_total", "counter", "Bytes of batches accepted", &counters.bytes_appended),
        ("store_written_bytes_total", "counter", "Bytes given to the disk", &counters.bytes_written),
        ("store_moved_bytes_total", "counter", "Bytes written by the mover", &counters.bytes_moved),
        ("store_syncs_total", "counter", "Syncs of the write-ahead log", &counters.syncs),
        ("store_sync_microseconds_total", "counter", "Time spent in them", &counters.sync_time_us),
        ("store_reads_from_memory_total", "counter", "Batches served from memory", &counters.reads_from_tail),
        ("store_reads_from_files_total", "counter", "Reads served from files", &counters.reads_from_files),
        (
            "store_reads_blocking_total",
            "counter",
            "Reads that waited for the device",
            &counters.reads_blocking,
        ),
        (
            "store_index_rebuilds_total",
            "counter",
            "Indexes rebuilt from their data",
            &counters.index_rebuilds,
        ),
        ("store_corrupt_reads_total", "counter", "Batches that did not verify", &counters.corrupt_reads),
        ("store_refused_full_total", "counter", "Appends refused for want of space", &counters.refused_full),
        ("store_queue_bytes", "gauge", "Bytes waiting for the writer", &counters.queue_bytes),
    ];
    for (name, kind, help, value) in samples {
        sample(text, name, kind, help, value.load(Ordering::Relaxed));
    }
    let health = store.health();
    sample(
        text,
        "store_stopped",
        "gauge",
        "1 if the store takes no writes any more",
        health.stopped.is_some().into(),
    );
    sample(text, "store_full", "gauge", "1 if appends are refused for want of space", health.full.into());
    sample(
        text,
        "store_damage",
        "gauge",
        "Reports of damage to acknowledged data",
        health.damage.len() as u64,
    );
}

fn sample(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ =
        writeln!(text, "# HELP ferrymq_{name} {help}.\n# TYPE ferrymq_{name} {kind}\nferrymq_{name} {value}");
}
