//! `/api/bindings`, and the bindings of a queue or an exchange.
//!
//! **Invariant.** A binding is named by its `properties_key`: the routing key, quoted, and with arguments a number that
//! is theirs. As with RabbitMQ it means nothing but this binding.

use std::fmt::Write as _;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ferrymq_broker::queues::{Arguments, BindingInfo, BindingSpec};
use serde_json::{Value as Json, json};

use super::json::{Fields, shown};
use super::objects::exchange_name;
use super::{Answer, Api, Problem, deleted, reply};

type Between = (String, String, String, String);

pub(super) fn routes() -> Router<Api> {
    let one = get(binding).delete(delete_binding);
    Router::new()
        .route("/api/bindings", get(all_bindings))
        .route("/api/bindings/{vhost}", get(bindings))
        .route("/api/bindings/{vhost}/e/{source}/{sort}/{destination}", get(between).post(bind))
        .route("/api/bindings/{vhost}/e/{source}/{sort}/{destination}/{key}", one)
        .route("/api/queues/{vhost}/{name}/bindings", get(of_queue))
        .route("/api/exchanges/{vhost}/{name}/bindings/{side}", get(of_exchange))
}

async fn all_bindings(State(api): State<Api>) -> Answer {
    Ok(reply(&api.queues.list_bindings(None)?.iter().map(shown_binding).collect()))
}

async fn bindings(State(api): State<Api>, Path(vhost): Path<String>) -> Answer {
    Ok(reply(&api.queues.list_bindings(Some(&vhost))?.iter().map(shown_binding).collect()))
}

/// Those of a virtual host that are wanted.
fn some(api: &Api, vhost: &str, wanted: impl Fn(&BindingInfo) -> bool) -> Result<Vec<BindingInfo>, Problem> {
    let mut all = api.queues.list_bindings(Some(vhost))?;
    all.retain(wanted);
    Ok(all)
}

async fn of_queue(State(api): State<Api>, Path((vhost, name)): Path<(String, String)>) -> Answer {
    api.queues.inspect_queue(&vhost, &name).await.map_err(|_| Problem::no_object())?;
    let found = some(&api, &vhost, |one| one.to_queue && *one.destination == *name)?;
    Ok(reply(&found.iter().map(shown_binding).collect()))
}

async fn of_exchange(
    State(api): State<Api>,
    Path((vhost, name, side)): Path<(String, String, String)>,
) -> Answer {
    let name = exchange_name(&name);
    api.queues.inspect_exchange(&vhost, name).map_err(|_| Problem::no_object())?;
    let found = match side.as_str() {
        "source" => some(&api, &vhost, |one| *one.source == *name)?,
        "destination" => some(&api, &vhost, |one| !one.to_queue && *one.destination == *name)?,
        _ => return Err(Problem::no_object()),
    };
    Ok(reply(&found.iter().map(shown_binding).collect()))
}

/// Whether a path leads to a queue.
fn to_queue(sort: &str) -> Result<bool, Problem> {
    match sort {
        "q" => Ok(true),
        "e" => Ok(false),
        _ => Err(Problem::no_object()),
    }
}

/// The bindings between two.
async fn found_between(
    api: &Api,
    vhost: &str,
    source: &str,
    sort: &str,
    destination: &str,
) -> Result<Vec<BindingInfo>, Problem> {
    let (source, to_queue) = (exchange_name(source), to_queue(sort)?);
    let destination = if to_queue { destination } else { exchange_name(destination) };
    some(api, vhost, |one| {
        one.to_queue == to_queue && *one.source == *source && *one.destination == *destination
    })
}

async fn between(State(api): State<Api>, Path((vhost, source, sort, to)): Path<Between>) -> Answer {
    let found = found_between(&api, &vhost, &source, &sort, &to).await?;
    Ok(reply(&found.iter().map(shown_binding).collect()))
}

async fn bind(
    State(api): State<Api>,
    Path((vhost, source, sort, to)): Path<Between>,
    uri: Uri,
    body: Bytes,
) -> Answer {
    let known = ["source", "destination", "destination_type", "vhost", "routing_key", "arguments"];
    let fields = Fields::of(&body, &known)?;
    let spec = BindingSpec {
        source: exchange_name(&source).into(),
        destination: to.into(),
        routing_key: Bytes::copy_from_slice(fields.text("routing_key")?.as_bytes()),
        arguments: fields.arguments()?,
    };
    let key = properties_key(&spec.routing_key, &spec.arguments);
    let session = api.session();
    match to_queue(&sort)? {
        true => api.queues.bind(&session, &vhost, spec).await?,
        false => api.queues.bind_exchange(&session, &vhost, spec).await?,
    }
    let location = format!("{}/{}", uri.path(), quoted(key.as_bytes()));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

/// The binding that a path names.
async fn named(
    api: &Api,
    (vhost, source, sort, to, key): &(String, String, String, String, String),
) -> Result<Option<BindingInfo>, Problem> {
    let found = found_between(api, vhost, source, sort, to).await?;
    // A path is decoded once; some clients quote the key again, and some do not.
    let is_it = |one: &BindingInfo| {
        let its = properties_key(&one.routing_key, &one.arguments);
        its == *key || quoted(key.as_bytes()) == its
    };
    Ok(found.into_iter().find(is_it))
}

async fn binding(
    State(api): State<Api>,
    Path(path): Path<(String, String, String, String, String)>,
) -> Answer {
    Ok(reply(&shown_binding(&named(&api, &path).await?.ok_or_else(Problem::no_object)?)))
}

async fn delete_binding(
    State(api): State<Api>,
    Path(path): Path<(String, String, String, String, String)>,
) -> Answer {
    let Some(found) = named(&api, &path).await? else { return deleted(false) };
    let (vhost, to_queue, session) = (found.vhost, found.to_queue, api.session());
    let spec = BindingSpec {
        source: found.source,
        destination: found.destination,
        routing_key: found.routing_key,
        arguments: found.arguments,
    };
    match to_queue {
        true => api.queues.unbind(&session, &vhost, spec).await?,
        false => api.queues.unbind_exchange(&session, &vhost, spec).await?,
    }
    deleted(true)
}

fn shown_binding(one: &BindingInfo) -> Json {
    json!({
        "source": &*one.source, "vhost": &*one.vhost, "destination": &*one.destination,
        "destination_type": if one.to_queue { "queue" } else { "exchange" },
        "routing_key": String::from_utf8_lossy(&one.routing_key), "arguments": shown(&one.arguments),
        "properties_key": properties_key(&one.routing_key, &one.arguments),
    })
}

fn properties_key(routing_key: &[u8], arguments: &Arguments) -> String {
    let key = quoted(routing_key);
    match (arguments.is_empty(), key.is_empty()) {
        (true, true) => "~".to_owned(),
        (true, false) => key,
        (false, _) => format!("{key}~{:016x}", hash(shown(arguments).to_string().as_bytes())),
    }
}

/// The same for the same bytes, in every program: FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// As a part of a path, without the sign that parts keys and arguments.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_broker::queues::Value;

    #[test]
    fn keys_tell_bindings_apart() {
        let arguments = |text: &str| Arguments(vec![("a".to_owned(), Value::text(text))]);
        let none = Arguments::default();
        let all = [
            properties_key(b"", &none),
            properties_key(b"~", &none),
            properties_key(b"a.b/c", &none),
            properties_key(b"", &arguments("x")),
            properties_key(b"", &arguments("y")),
        ];
        assert_eq!(all[..3], ["~", "%7E", "a.b%2Fc"]);
        assert!(all[3].starts_with('~') && all[3] != all[4], "{all:?}");
    }
}
