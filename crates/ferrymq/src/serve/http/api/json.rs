//! Arguments and definitions as JSON, in RabbitMQ's way, and bodies of requests.
//!
//! **Invariant.** What is given as JSON comes back the same; what has no JSON (bytes that are no text, types of numbers)
//! is shown as near as it comes.

use ferrymq_broker::queues::{Arguments, Value, Width};
use serde_json::{Map, Value as Json};

use super::Problem;

/// How deep a body may lie in itself is bounded by its parser.
pub(super) fn arguments(map: &Map<String, Json>) -> Arguments {
    Arguments(map.iter().map(|(name, value)| (name.clone(), from_json(value))).collect())
}

/// A value as the broker has it. Whole numbers are 64 bits wide, as RabbitMQ takes them.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Void,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole, Width::I64),
            None => Value::F64(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::text(text),
        Json::Array(values) => Value::List(values.iter().map(from_json).collect()),
        Json::Object(map) => Value::Table(arguments(map).0),
    }
}

fn to_json(value: &Value) -> Json {
    let text = |bytes: &[u8]| Json::from(String::from_utf8_lossy(bytes).into_owned());
    match value {
        Value::Bool(value) => Json::from(*value),
        Value::Int(value, _) => Json::from(*value),
        Value::F32(value) => Json::from(*value),
        Value::F64(value) => Json::from(*value),
        Value::Decimal(scale, value) => Json::from(f64::from(*value) / 10f64.powi(i32::from(*scale))),
        Value::Text(bytes) | Value::Bytes(bytes) => text(bytes),
        Value::Timestamp(seconds) => Json::from(*seconds),
        Value::List(values) => values.iter().map(to_json).collect(),
        Value::Table(entries) => table(entries.iter().map(|(name, value)| (name.as_str(), value))),
        Value::Void => Json::Null,
    }
}

fn table<'a>(entries: impl Iterator<Item = (&'a str, &'a Value)>) -> Json {
    Json::Object(entries.map(|(name, value)| (name.to_owned(), to_json(value))).collect())
}

/// Arguments as JSON.
pub(super) fn shown(arguments: &Arguments) -> Json {
    table(arguments.iter())
}

/// The body of a request: an object; nothing is an empty one.
pub(super) fn body(bytes: &[u8]) -> Result<Map<String, Json>, Problem> {
    if bytes.is_empty() || bytes == b"null" {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(Json::String(_)) => Err(Problem::bad(
            "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?",
        )),
        _ => Err(Problem::bad("not_json")),
    }
}

/// What a body says by these names; anything else in it is refused.
pub(super) struct Fields(Map<String, Json>);

impl Fields {
    pub(super) fn of(bytes: &[u8], known: &[&str]) -> Result<Fields, Problem> {
        let map = body(bytes)?;
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Problem::bad(format!("{name} is not served; served are {}", known.join(", ")))),
            None => Ok(Fields(map)),
        }
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&Json> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Bool(value)) => Ok(*value),
            Some(Json::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
            Some(_) => Err(Problem::bad(format!("{name} must be true or false"))),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<&str, Problem> {
        match self.get(name) {
            None => Ok(""),
            Some(Json::String(text)) => Ok(text),
            Some(_) => Err(Problem::bad(format!("{name} must be a text"))),
        }
    }

    pub(super) fn arguments(&self) -> Result<Arguments, Problem> {
        match self.get("arguments") {
            None => Ok(Arguments::default()),
            Some(Json::Object(map)) => Ok(arguments(map)),
            // RabbitMQ's older tools send an empty list for none.
            Some(Json::Array(list)) if list.is_empty() => Ok(Arguments::default()),
            Some(_) => Err(Problem::bad("arguments must be an object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_comes_back() {
        let text = r#"{"b":true,"f":0.5,"l":[1,"a",null],"n":-7,"t":{"x":{}}}"#;
        let arguments = arguments(&body(text.as_bytes()).unwrap());
        assert_eq!(shown(&arguments).to_string(), text);
        assert_eq!(
            shown(&Arguments(vec![("d".to_owned(), Value::Decimal(2, 314))])).to_string(),
            r#"{"d":3.14}"#
        );
        assert_eq!(from_json(&Json::from(u64::MAX)), Value::F64(18_446_744_073_709_551_615.0));
        assert!(body(b"[]").is_err() && body(b"\"{}\"").is_err() && body(b"{").is_err());
        assert!(body(b"").unwrap().is_empty());
    }
}
