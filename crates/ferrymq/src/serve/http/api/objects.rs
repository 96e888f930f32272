//! `/api/vhosts`, `/api/exchanges` and `/api/queues`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{delete, get};
use ferrymq_broker::queues::{
    AppliedPolicies, DeleteIf, Entity, ExchangeInfo, ExchangeKind, ExchangeSpec, QueueError, QueueInfo,
    QueueSpec, QueueType, VhostSpec,
};
use serde_json::{Value as Json, json};

use super::json::{Fields, shown};
use super::{Answer, Api, Problem, deleted, is_true, put, reply};

/// How the default exchange, which has no name, is named in paths.
const DEFAULT_EXCHANGE: &str = "amq.default";

pub(super) fn routes() -> Router<Api> {
    let vhost = get(vhost).put(put_vhost).delete(delete_vhost);
    let exchange = get(exchange).put(put_exchange).delete(delete_exchange);
    let queue = get(queue).put(put_queue).delete(delete_queue);
    Router::new()
        .route("/api/vhosts", get(vhosts))
        .route("/api/vhosts/{vhost}", vhost)
        .route("/api/exchanges", get(all_exchanges))
        .route("/api/exchanges/{vhost}", get(exchanges))
        .route("/api/exchanges/{vhost}/{name}", exchange)
        .route("/api/queues", get(all_queues))
        .route("/api/queues/{vhost}", get(queues))
        .route("/api/queues/{vhost}/{name}", queue)
        .route("/api/queues/{vhost}/{name}/contents", delete(purge))
}

async fn vhosts(State(api): State<Api>) -> Answer {
    Ok(reply(&api.queues.vhosts().iter().map(shown_vhost).collect()))
}

async fn vhost(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    let all = api.queues.vhosts();
    let found = all.iter().find(|vhost| *vhost.name == *name).ok_or_else(Problem::no_object)?;
    Ok(reply(&shown_vhost(found)))
}

fn shown_vhost(vhost: &VhostSpec) -> Json {
    let kind = vhost.default_queue_type.name();
    json!({
        "name": &*vhost.name, "description": vhost.description, "tags": vhost.tags, "tracing": false,
        "default_queue_type": kind,
        "metadata": { "description": vhost.description, "tags": vhost.tags, "default_queue_type": kind },
    })
}

async fn put_vhost(State(api): State<Api>, Path(name): Path<String>, body: Bytes) -> Answer {
    let fields = Fields::of(&body, &["name", "description", "tags", "tracing", "default_queue_type"])?;
    if fields.flag("tracing")? {
        return Err(Problem::bad("tracing is not served"));
    }
    let tags = match fields.get("tags") {
        Some(Json::Array(list)) => {
            let each = |tag: &Json| tag.as_str().map(str::to_owned);
            list.iter()
                .map(each)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| Problem::bad("tags must be texts"))?
        }
        _ => fields.text("tags")?.split(',').map(|tag| tag.trim().to_owned()).collect(),
    };
    let tags = tags.into_iter().filter(|tag| !tag.is_empty()).collect();
    let default_queue_type = default_queue_type(&api, &fields)?;
    let description = fields.text("description")?.to_owned();
    let spec = VhostSpec { name: name.into(), description, tags, default_queue_type };
    Ok(put(api.queues.put_vhost(spec).await?))
}

/// What a body says of queues without a type, in RabbitMQ's words where it is wrong; unsaid, it is the broker's default,
/// also of a virtual host that is there.
fn default_queue_type(api: &Api, fields: &Fields) -> Result<QueueType, Problem> {
    match fields.get("default_queue_type") {
        None => Ok(api.queues.default_queue_type()),
        Some(Json::String(text)) => match &**text {
            "undefined" => Ok(api.queues.default_queue_type()),
            "" => Err(Problem::bad("default_queue_type must not be an empty string")),
            name => QueueType::parse(name)
                .ok_or_else(|| Problem::bad(format!("{name} is not a valid queue type"))),
        },
        Some(other) => Err(Problem::bad(format!("{other} is not a valid default_queue_type value"))),
    }
}

async fn delete_vhost(State(api): State<Api>, Path(name): Path<String>) -> Answer {
    deleted(api.queues.delete_vhost(&name).await?)
}

async fn all_exchanges(State(api): State<Api>) -> Answer {
    Ok(reply(&api.queues.list_exchanges(None)?.iter().map(shown_exchange).collect()))
}

async fn exchanges(State(api): State<Api>, Path(vhost): Path<String>) -> Answer {
    Ok(reply(&api.queues.list_exchanges(Some(&vhost))?.iter().map(shown_exchange).collect()))
}

/// A name from a path.
pub(super) fn exchange_name(name: &str) -> &str {
    if name == DEFAULT_EXCHANGE { "" } else { name }
}

/// What is not there is told as what has no such path.
fn or_no_object(error: QueueError) -> Problem {
    match error {
        QueueError::NotFound { .. } => Problem::no_object(),
        error => error.into(),
    }
}

async fn exchange(State(api): State<Api>, Path((vhost, name)): Path<(String, String)>) -> Answer {
    let info = api.queues.inspect_exchange(&vhost, exchange_name(&name)).map_err(or_no_object)?;
    Ok(reply(&shown_exchange(&info)))
}

fn shown_exchange(info: &ExchangeInfo) -> Json {
    let spec = &info.spec;
    let mut shown = json!({
        "name": &*spec.name, "vhost": &*info.vhost, "type": spec.kind.name(), "durable": spec.durable,
        "auto_delete": spec.auto_delete, "internal": spec.internal, "arguments": shown(&spec.arguments),
    });
    if let Some(policy) = &info.applied.policy {
        shown["policy"] = Json::from(&**policy);
    }
    shown
}

async fn put_exchange(
    State(api): State<Api>,
    Path((vhost, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let known = ["name", "vhost", "type", "durable", "auto_delete", "internal", "arguments"];
    let fields = Fields::of(&body, &known)?;
    let kind = match fields.text("type")? {
        "" => "direct",
        kind => kind,
    };
    let kind =
        ExchangeKind::parse(kind).ok_or_else(|| Problem::bad(format!("unknown exchange type '{kind}'")))?;
    let spec = ExchangeSpec {
        name: exchange_name(&name).into(),
        kind,
        durable: fields.flag("durable")?,
        auto_delete: fields.flag("auto_delete")?,
        internal: fields.flag("internal")?,
        arguments: fields.arguments()?,
    };
    Ok(put(api.queues.declare_exchange(&api.session(), &vhost, spec).await?))
}

async fn delete_exchange(
    State(api): State<Api>,
    Path((vhost, name)): Path<(String, String)>,
    RawQuery(text): RawQuery,
) -> Answer {
    let only_if = DeleteIf { unused: is_true(text.as_deref(), "if-unused"), empty: false };
    let session = api.session();
    deleted(api.queues.delete_exchange(&session, &vhost, exchange_name(&name), only_if).await?)
}

async fn all_queues(State(api): State<Api>) -> Answer {
    Ok(reply(&api.queues.list_queues(None).await?.iter().map(shown_queue).collect()))
}

async fn queues(State(api): State<Api>, Path(vhost): Path<String>) -> Answer {
    Ok(reply(&api.queues.list_queues(Some(&vhost)).await?.iter().map(shown_queue).collect()))
}

async fn queue(State(api): State<Api>, Path((vhost, name)): Path<(String, String)>) -> Answer {
    Ok(reply(&shown_queue(&api.queues.inspect_queue(&vhost, &name).await.map_err(or_no_object)?)))
}

fn shown_queue(info: &QueueInfo) -> Json {
    let spec = &info.spec;
    let AppliedPolicies { policy, operator, definition } = &info.applied;
    let mut all = json!({
        "name": &*spec.name, "vhost": &**info.queue.vhost(), "type": info.kind.name(), "durable": spec.durable,
        "auto_delete": spec.auto_delete, "exclusive": spec.exclusive, "arguments": shown(&spec.arguments),
        "policy": policy.as_deref(), "operator_policy": operator.as_deref(),
        "effective_policy_definition": shown(definition), "state": "running", "node": "ferrymq@localhost",
    });
    if let Some(stat) = info.stat {
        all["messages"] = Json::from(stat.ready + stat.unacked);
        all["messages_ready"] = Json::from(stat.ready);
        all["messages_unacknowledged"] = Json::from(stat.unacked);
        all["consumers"] = Json::from(stat.consumers);
    }
    all
}

async fn put_queue(
    State(api): State<Api>,
    Path((vhost, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let fields = Fields::of(&body, &["name", "vhost", "durable", "auto_delete", "exclusive", "arguments"])?;
    if fields.flag("exclusive")? {
        return Err(Problem::bad("an exclusive queue belongs to a connection, and a request is none"));
    }
    let spec = QueueSpec {
        name: name.into(),
        durable: fields.flag("durable")?,
        exclusive: false,
        auto_delete: fields.flag("auto_delete")?,
        arguments: fields.arguments()?,
    };
    Ok(put(api.queues.declare_queue(&api.session(), &vhost, spec).await?.created))
}

async fn delete_queue(
    State(api): State<Api>,
    Path((vhost, name)): Path<(String, String)>,
    RawQuery(text): RawQuery,
) -> Answer {
    let is_true = |name| is_true(text.as_deref(), name);
    let only_if = DeleteIf { unused: is_true("if-unused"), empty: is_true("if-empty") };
    match api.queues.delete_queue(&api.session(), &vhost, &name, only_if).await {
        Ok(_) => deleted(true),
        Err(QueueError::NotFound { entity: Entity::Queue, .. }) => deleted(false),
        Err(error) => Err(error.into()),
    }
}

async fn purge(State(api): State<Api>, Path((vhost, name)): Path<(String, String)>) -> Answer {
    api.queues.purge(&api.session(), &vhost, &name).await.map_err(or_no_object)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
