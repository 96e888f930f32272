//! `/api/policies` and `/api/operator-policies`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::get;
use ferrymq_broker::queues::{ApplyTo, PolicyError, PolicySort, PolicySpec};
use serde_json::{Value as Json, json};

use super::json::{Fields, arguments, from_json, shown};
use super::words::{erlang, of_bad, validation};
use super::{Answer, Api, Problem, deleted, put, reply};

pub(super) fn routes() -> Router<Api> {
    of_sort("/api/policies", PolicySort::Policy)
        .merge(of_sort("/api/operator-policies", PolicySort::Operator))
}

fn of_sort(path: &str, sort: PolicySort) -> Router<Api> {
    let all = async move |State(api): State<Api>| list_all(&api, sort);
    let some = async move |State(api): State<Api>, Path(vhost): Path<String>| -> Answer {
        Ok(reply(&list(&api, sort, &vhost)?.into()))
    };
    let one = async move |State(api): State<Api>, Path((vhost, name)): Path<(String, String)>| {
        let found = list(&api, sort, &vhost)?.into_iter().find(|policy| policy["name"] == *name);
        found.map(|policy| reply(&policy)).ok_or_else(Problem::no_object)
    };
    let set = async move |State(api): State<Api>,
                          Path((vhost, name)): Path<(String, String)>,
                          body: Bytes| { set(&api, sort, &vhost, &name, &body).await };
    let clear = async move |State(api): State<Api>, Path((vhost, name)): Path<(String, String)>| {
        deleted(api.queues.clear_policy(sort, &vhost, &name).await?)
    };
    Router::new()
        .route(path, get(all))
        .route(&format!("{path}/{{vhost}}"), get(some))
        .route(&format!("{path}/{{vhost}}/{{name}}"), get(one).put(set).delete(clear))
}

fn list(api: &Api, sort: PolicySort, vhost: &str) -> Result<Vec<Json>, Problem> {
    let shown_policy = |policy: &PolicySpec| {
        json!({
            "vhost": vhost, "name": &*policy.name, "pattern": policy.pattern,
            "apply-to": policy.apply_to.name(), "priority": policy.priority,
            "definition": shown(&policy.definition),
        })
    };
    Ok(api.queues.policies(sort, vhost)?.iter().map(shown_policy).collect())
}

fn list_all(api: &Api, sort: PolicySort) -> Answer {
    let mut all = Vec::new();
    for vhost in api.queues.vhosts() {
        // One that was deleted meanwhile has none.
        all.extend(list(api, sort, &vhost.name).unwrap_or_default());
    }
    Ok(reply(&all.into()))
}

async fn set(api: &Api, sort: PolicySort, vhost: &str, name: &str, body: &[u8]) -> Answer {
    let spec = spec_of(name, body)?;
    match api.queues.set_policy(sort, vhost, spec).await {
        Ok(is_new) => Ok(put(is_new)),
        Err(PolicyError::Bad(bad)) => Err(Problem::bad(of_bad(&bad))),
        Err(PolicyError::Queue(error)) => Err(error.into()),
    }
}

fn spec_of(name: &str, body: &[u8]) -> Result<PolicySpec, Problem> {
    let fields = Fields::of(body, &["vhost", "name", "pattern", "definition", "priority", "apply-to"])?;
    let missing: Vec<String> = ["pattern", "definition"]
        .iter()
        .filter(|name| fields.get(name).is_none())
        .map(|name| format!("{{key_missing,{name}}}"))
        .collect();
    if !missing.is_empty() {
        return Err(Problem::bad(format!("[{}]", missing.join(","))));
    }
    let wrong = |what: String| Err(Problem::bad(validation(&what)));
    let pattern = match fields.get("pattern") {
        Some(Json::String(pattern)) => pattern.clone(),
        other => {
            let was = other.map(from_json).map(|value| erlang(&value)).unwrap_or_default();
            return wrong(format!("pattern should be a binary but was {was}"));
        }
    };
    let priority = match fields.get("priority") {
        None => 0,
        Some(given) => match given.as_i64() {
            Some(priority) => priority,
            None => {
                let was = erlang(&from_json(given));
                return wrong(format!("priority should be a number, actually was {was}"));
            }
        },
    };
    let apply_to = match fields.get("apply-to") {
        None => ApplyTo::All,
        Some(given) => match given.as_str().and_then(ApplyTo::parse) {
            Some(apply_to) => apply_to,
            None => {
                let was = given.as_str().map_or_else(|| erlang(&from_json(given)), str::to_owned);
                // With two spaces, as RabbitMQ has it.
                return wrong(format!(
                    "apply-to '{was}' unrecognised; should be one of: 'queues', 'classic_queues',  \
                     'quorum_queues', 'streams', 'exchanges', or 'all'"
                ));
            }
        },
    };
    let definition = match fields.get("definition") {
        Some(Json::Object(map)) => arguments(map),
        other => {
            let was = other.map(from_json).map(|value| erlang(&value)).unwrap_or_default();
            return wrong(format!("definition must be a dictionary: {was}"));
        }
    };
    Ok(PolicySpec { name: name.into(), pattern, apply_to, priority, definition })
}
