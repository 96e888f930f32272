//! Properties of an AMQP message as JSON.
//!
//! **Invariants.** A name that is none, or a value of the wrong kind or range, is an error: nothing is guessed or left out. A
//! message that says nothing of its delivery mode is persistent: it comes from a transaction.
//!
//! Deliberately absent: types that JSON does not have (a header cannot be a byte, a timestamp or binary).

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::{ArrayBuilder, BasicProperties, EncodeError, TableBuilder, ValueRef};
use serde_json::{Map, Value};

/// The delivery mode of what survives a restart.
const PERSISTENT: u8 = 2;

/// Encodes them.
///
/// # Errors
/// What is wrong with them, for people.
pub(crate) fn encode(json: Option<&str>) -> Result<Bytes, String> {
    let given: Map<String, Value> = match json {
        Some(json) => serde_json::from_str(json).map_err(|error| format!("properties: {error}"))?,
        None => Map::new(),
    };
    let mut headers = TableBuilder::new();
    let mut properties = BasicProperties { delivery_mode: Some(PERSISTENT), ..BasicProperties::default() };
    let mut has_headers = false;
    for (name, value) in &given {
        match name.as_str() {
            "content_type" => properties.content_type = Some(text(name, value)?),
            "content_encoding" => properties.content_encoding = Some(text(name, value)?),
            "correlation_id" => properties.correlation_id = Some(text(name, value)?),
            "reply_to" => properties.reply_to = Some(text(name, value)?),
            "expiration" => properties.expiration = Some(text(name, value)?),
            "message_id" => properties.message_id = Some(text(name, value)?),
            "type" => properties.kind = Some(text(name, value)?),
            "app_id" => properties.app_id = Some(text(name, value)?),
            "priority" => properties.priority = Some(number(name, value)?),
            "delivery_mode" => properties.delivery_mode = Some(delivery_mode(name, value)?),
            "timestamp" => properties.timestamp = Some(number(name, value)?),
            "headers" => {
                let Value::Object(map) = value else { return Err("headers are no JSON object".to_owned()) };
                headers = table(map).map_err(|error| format!("headers: {error}"))?;
                has_headers = true;
            }
            other => return Err(format!("there is no such property: {other}")),
        }
    }
    if has_headers {
        properties.headers = Some(headers.as_table());
    }
    let mut out = BytesMut::new();
    properties.encode(&mut out).map_err(|error| format!("properties: {error}"))?;
    Ok(out.freeze())
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a [u8], String> {
    value.as_str().map(str::as_bytes).ok_or_else(|| format!("the property {name} is no string: {value}"))
}

fn number<T: TryFrom<u64>>(name: &str, value: &Value) -> Result<T, String> {
    let number = value.as_u64().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("the property {name} is out of range: {value}"))
}

fn delivery_mode(name: &str, value: &Value) -> Result<u8, String> {
    number(name, value).and_then(|mode| match mode {
        1 | PERSISTENT => Ok(mode),
        _ => Err(format!("the property {name} is neither 1 nor 2: {value}")),
    })
}

/// As deep as JSON was read, which has a bound.
fn table(map: &Map<String, Value>) -> Result<TableBuilder, EncodeError> {
    let mut out = TableBuilder::new();
    for (name, value) in map {
        with_value(value, &mut |value| out.push(name.as_bytes(), value).map(drop))?;
    }
    Ok(out)
}

/// Not generic: it calls itself with closures of its own.
fn with_value(
    value: &Value,
    put: &mut dyn FnMut(ValueRef<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    match value {
        Value::Null => put(ValueRef::Void),
        Value::Bool(is) => put(ValueRef::Bool(*is)),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => put(ValueRef::I64(integer)),
            None => put(ValueRef::F64(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => put(ValueRef::LongString(text.as_bytes())),
        Value::Array(values) => {
            let mut out = ArrayBuilder::new();
            for value in values {
                with_value(value, &mut |value| out.push(value).map(drop))?;
            }
            put(ValueRef::Array(out.as_array()))
        }
        Value::Object(map) => put(ValueRef::Table(table(map)?.as_table())),
    }
}

#[cfg(test)]
mod tests {
    use ferrymq_amqp_codec::Properties;

    use super::*;

    #[test]
    fn nothing_said_is_persistent() {
        let bytes = encode(None).unwrap();
        let properties = Properties::parse(&bytes).unwrap();
        assert_eq!((properties.delivery_mode(), properties.headers().is_none()), (Some(2), true));
        let bytes = encode(Some(r#"{"delivery_mode": 1}"#)).unwrap();
        assert_eq!(Properties::parse(&bytes).unwrap().delivery_mode(), Some(1));
    }

    #[test]
    fn all_of_them() {
        let json = r#"{"content_type": "text/plain", "content_encoding": "utf-8", "correlation_id": "c", "reply_to": "r",
            "expiration": "60000", "message_id": "m", "type": "t", "app_id": "a", "priority": 7, "timestamp": 1700000000,
            "headers": {"s": "你好", "n": -3, "f": 1.5, "b": true, "v": null, "l": [1, "x"], "t": {"in": 1}}}"#;
        let bytes = encode(Some(json)).unwrap();
        let read = Properties::parse(&bytes).unwrap();
        let all = read.decode();
        assert_eq!((all.content_type, all.content_encoding), (Some(&b"text/plain"[..]), Some(&b"utf-8"[..])));
        assert_eq!((all.correlation_id, all.reply_to), (Some(&b"c"[..]), Some(&b"r"[..])));
        assert_eq!((all.expiration, all.message_id), (Some(&b"60000"[..]), Some(&b"m"[..])));
        assert_eq!((all.kind, all.app_id), (Some(&b"t"[..]), Some(&b"a"[..])));
        assert_eq!((all.priority, all.timestamp), (Some(7), Some(1_700_000_000)));
        let headers = read.headers().unwrap();
        assert_eq!(headers.get(b"s"), Some(ValueRef::LongString("你好".as_bytes())));
        assert_eq!(headers.get(b"n"), Some(ValueRef::I64(-3)));
        assert_eq!(headers.get(b"f"), Some(ValueRef::F64(1.5)));
        assert_eq!(
            (headers.get(b"b"), headers.get(b"v")),
            (Some(ValueRef::Bool(true)), Some(ValueRef::Void))
        );
        let Some(ValueRef::Array(list)) = headers.get(b"l") else { panic!("no list") };
        assert_eq!(list.iter().collect::<Vec<_>>(), [ValueRef::I64(1), ValueRef::LongString(b"x")]);
        let Some(ValueRef::Table(inner)) = headers.get(b"t") else { panic!("no table") };
        assert_eq!(inner.get(b"in"), Some(ValueRef::I64(1)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, why) in [
            (r#"{"colour": "red"}"#, "no such property: colour"),
            (r#"{"priority": 256}"#, "the property priority is out of range: 256"),
            (r#"{"timestamp": -1}"#, "the property timestamp is out of range: -1"),
            (r#"{"delivery_mode": 3}"#, "the property delivery_mode is neither 1 nor 2: 3"),
            (r#"{"type": 3}"#, "the property type is no string: 3"),
            (r#"{"headers": []}"#, "headers are no JSON object"),
            ("[]", "properties:"),
        ] {
            let found = encode(Some(json)).unwrap_err();
            assert!(found.contains(why), "{json}: {found}");
        }
        let long = format!(r#"{{"message_id": "{}"}}"#, "x".repeat(256));
        assert!(encode(Some(&long)).unwrap_err().starts_with("properties:"));
        let deep = format!(r#"{{"headers": {{"x": {}1{}}}}}"#, "[".repeat(100), "]".repeat(100));
        assert!(encode(Some(&deep)).unwrap_err().starts_with("headers:"));
    }
}
