//! RabbitMQ's management API, as much of it as is served whole: overview, virtual hosts, exchanges, queues, bindings,
//! policies and operator policies. `ferrymq queue|exchange|binding|policy|vhost` speak it, and so may RabbitMQ's tools.
//!
//! ```text
//! /api/overview /whoami                    /api/vhosts[/V]
//! /api/exchanges[/V[/X[/bindings/source|destination]]]
//! /api/queues[/V[/Q[/contents|/bindings]]] /api/bindings[/V[/e/X/q|e/D[/KEY]]]
//! /api/policies[/V[/P]]                    /api/operator-policies[/V[/P]]
//! ```
//! Reading order: [`guard`] (who is let in), here (routes and what goes wrong), [`objects`] and [`bindings`],
//! [`policies`], [`mod@json`] and [`words`] (values and texts as RabbitMQ writes them).
//!
//! **Invariants.** What is not served is 404, and a parameter that is not is 400: nothing is ignored that would change
//! the answer. A change is durable before it is answered. Errors are `{"error": .., "reason": ..}`.
//!
//! Deliberately absent: users (`guest` from this machine only), paging, rates, definitions, connections and channels.

mod bindings;
mod guard;
mod json;
mod objects;
mod policies;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ferrymq_amqp_server::explain;
use ferrymq_broker::queues::{QueueError, Queues, Session};
use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;

use super::amqp;

/// Requests worked on at a time; more wait. An answer with all of 100,000 queues is some 40 MB.
const REQUESTS_AT_A_TIME: usize = 4;

/// What the API works with.
#[derive(Clone)]
pub(super) struct Api {
    queues: Arc<Queues>,
    amqp: Arc<Option<amqp::Door>>,
    /// The RabbitMQ whose behaviour is promised.
    version: Arc<str>,
    turns: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(queues: Arc<Queues>, amqp: Arc<Option<amqp::Door>>) -> Api {
        let version = match &*amqp {
            Some(door) => door.context.config.version.clone(),
            None => ferrymq_amqp_server::AmqpConfig::default().version,
        };
        Api { queues, amqp, version: version.into(), turns: Arc::new(Semaphore::new(REQUESTS_AT_A_TIME)) }
    }

    /// Somebody who owns nothing, for one request.
    fn session(&self) -> Session {
        self.queues.session()
    }
}

/// All routes.
pub(super) fn router(api: Api) -> Router {
    let guarded = axum::middleware::from_fn_with_state(api.clone(), guard::guard);
    Router::new()
        .route("/api/overview", get(overview))
        .route("/api/whoami", get(async || reply(&json!({ "name": "guest", "tags": ["administrator"] }))))
        .merge(objects::routes())
        .merge(bindings::routes())
        .merge(policies::routes())
        .with_state(api)
        .route_layer(guarded)
}

async fn overview(axum::extract::State(api): axum::extract::State<Api>) -> Response {
    let (queues, exchanges) = api.queues.counts();
    let totals = api.queues.totals().await;
    let (connections, channels) = api.amqp.iter().fold((0, 0), |_, door| door.open_now());
    reply(&json!({
        "management_version": &*api.version,
        "rabbitmq_version": &*api.version,
        "product_name": "FerryMQ",
        "product_version": env!("CARGO_PKG_VERSION"),
        "cluster_name": "ferrymq",
        "node": "ferrymq@localhost",
        "default_queue_type": api.queues.default_queue_type().name(),
        "is_op_policy_updating_enabled": true,
        "object_totals": {
            "connections": connections, "channels": channels, "consumers": totals.consumers,
            "exchanges": exchanges, "queues": queues,
        },
        "queue_totals": {
            "messages": totals.ready + totals.unacked, "messages_ready": totals.ready,
            "messages_unacknowledged": totals.unacked,
        },
    }))
}

/// What went wrong.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    error: &'static str,
    reason: String,
}

type Answer = Result<Response, Problem>;

impl Problem {
    fn bad(reason: impl Into<String>) -> Problem {
        Problem { status: StatusCode::BAD_REQUEST, error: "bad_request", reason: reason.into() }
    }

    /// There is no such object.
    fn no_object() -> Problem {
        Problem { status: StatusCode::NOT_FOUND, error: "Object Not Found", reason: "Not Found".to_owned() }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Problem {
        if matches!(error, QueueError::NoVhost(_)) {
            return Problem::no_object();
        }
        let is_storage = matches!(error, QueueError::Storage(_) | QueueError::Stopped);
        let (code, reason) = explain(error);
        let (status, error) = match code {
            404 => (StatusCode::NOT_FOUND, "not_found"),
            403 => (StatusCode::UNAUTHORIZED, "not_authorized"),
            _ if is_storage => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
            _ => (StatusCode::BAD_REQUEST, "bad_request"),
        };
        Problem { status, error, reason }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        with(self.status, &json!({ "error": self.error, "reason": self.reason }))
    }
}

fn with(status: StatusCode, value: &Json) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, Body::from(value.to_string())).into_response()
}

fn reply(value: &Json) -> Response {
    with(StatusCode::OK, value)
}

/// The answer to a PUT.
fn put(is_new: bool) -> Response {
    if is_new { StatusCode::CREATED.into_response() } else { StatusCode::NO_CONTENT.into_response() }
}

/// The answer to a DELETE.
fn deleted(was_there: bool) -> Answer {
    if was_there { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(Problem::no_object()) }
}

/// A part of a path that is anything.
const ANY: &str = "*";

/// Where a query may have parameters, and which; each is `true` or `false`.
const PARAMETERS: [(Method, [&str; 4], &[&str]); 2] = [
    (Method::DELETE, ["api", "exchanges", ANY, ANY], &["if-unused"]),
    (Method::DELETE, ["api", "queues", ANY, ANY], &["if-unused", "if-empty"]),
];

fn pairs(text: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Whether all parameters of a query are served.
fn check_query(method: &Method, path: &str, text: Option<&str>) -> Result<(), Problem> {
    let fits = |wanted: &[&str; 4]| {
        let mut parts = path.trim_start_matches('/').split('/');
        wanted.iter().all(|wanted| parts.next().is_some_and(|part| *wanted == ANY || *wanted == part))
            && parts.next().is_none()
    };
    let found = PARAMETERS.iter().find(|(of, wanted, _)| of == method && fits(wanted));
    let known = found.map_or(&[][..], |(_, _, known)| *known);
    for (name, value) in pairs(text) {
        if !known.contains(&name) {
            return Err(Problem::bad(format!("the parameter {name} is not served")));
        }
        if value != "true" && value != "false" {
            return Err(Problem::bad(format!("the parameter {name} is true or false")));
        }
    }
    Ok(())
}

/// Whether a query that was checked says so.
fn is_true(text: Option<&str>, name: &str) -> bool {
    pairs(text).any(|pair| pair == (name, "true"))
}
