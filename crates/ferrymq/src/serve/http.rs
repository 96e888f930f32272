//! The small HTTP listener: `/livez`, `/readyz`, `/metrics`, and `/api` for programs of this machine.
//!
//! **Invariants.** `/livez` says that the process serves; `/readyz` that it accepts writes. Metric names are
//! a promise (`docs/metrics.md`). Nothing but `/api` can change anything, and another machine finds no `/api`. A peer
//! that is slow to ask holds one of [`CONNECTIONS_MAX`] places for [`REQUEST_PATIENCE`], and a stop for
//! [`STOP_PATIENCE`].

mod api;
mod metrics;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use ferrymq_broker::queues::Queues;
use ferrymq_kafka_server::Context;
use ferrymq_outbox::Counters;
use ferrymq_runtime::{TaskKind, Tasks};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::amqp;
use super::store::Store;

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
    store: Store,
    context: Arc<Context>,
    /// `None`: this broker has none.
    queues: Option<Arc<Queues>>,
    amqp: Arc<Option<amqp::Door>>,
    /// `None`: nothing is relayed.
    outbox: Option<Arc<Counters>>,
    stopping: Arc<AtomicBool>,
}

/// What is looked at, and what is changed.
type Parts = (Store, Arc<Context>, Option<Arc<Queues>>, Arc<Option<amqp::Door>>, Option<Arc<Counters>>);

/// What is served to whom.
#[derive(Clone)]
struct Routers {
    /// Programs of this machine.
    here: Router,
    /// Everybody else who can connect.
    anywhere: Router,
}

impl Routers {
    fn of(&self, peer: SocketAddr) -> Router {
        if peer.ip().to_canonical().is_loopback() { self.here.clone() } else { self.anywhere.clone() }
    }
}

impl HttpServer {
    /// Serves `address` until `tasks` stop.
    pub(crate) async fn start(
        address: SocketAddr,
        (store, context, queues, amqp, outbox): Parts,
        tasks: &Tasks,
    ) -> anyhow::Result<HttpServer> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("could not listen on {address} for health and metrics"))?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let api = queues.clone().map(|queues| api::router(api::Api::new(queues, amqp.clone())));
        let anywhere = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics::metrics))
            .with_state(Shared { store, context, queues, amqp, outbox, stopping: stopping.clone() });
        let routers = Routers { here: anywhere.clone().merge(api.unwrap_or_default()), anywhere };
        let connections = tasks.child();
        tasks.spawn(TaskKind::Background, "http listener", accept(listener, routers, connections));
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
async fn accept(listener: TcpListener, routers: Routers, connections: Tasks) {
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
        let Ok((stream, peer)) = accepted else { continue };
        let (router, stop) = (routers.of(peer), connections.stopping());
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
    if shared.context.broker.cluster().is_some_and(|view| !view.is_serving()) {
        let what = "this broker could not say to the others that it lives\n";
        return (StatusCode::SERVICE_UNAVAILABLE, what.to_owned());
    }
    let health = shared.store.health();
    if let Some(why) = health.stopped {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("the store stopped taking writes: {why}\n"));
    }
    if let Some(why) = health.away {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("the database cannot be used now: {why}\n"));
    }
    if health.full {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the disk is nearly full: appends are refused\n".to_owned(),
        );
    }
    (StatusCode::OK, "ok\n".to_owned())
}
