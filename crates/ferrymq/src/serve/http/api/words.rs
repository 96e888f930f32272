//! RabbitMQ's words for what is wrong with a policy, down to how Erlang writes a value.

use std::fmt::Write as _;

use ferrymq_broker::queues::policy::{DEFINITION_BYTES_MAX, PATTERN_BYTES_MAX};
use ferrymq_broker::queues::{BadPolicy, Value};

/// What a client that set a bad policy is told.
pub(super) fn of_bad(bad: &BadPolicy) -> String {
    validation(&match bad {
        BadPolicy::PatternTooLong => format!("pattern must not exceed {PATTERN_BYTES_MAX} bytes"),
        BadPolicy::Pattern(why) => format!("pattern should be regular expression but is invalid: {why}"),
        BadPolicy::Empty => "no policy provided".to_owned(),
        BadPolicy::TooLong => format!("the definition must not exceed {DEFINITION_BYTES_MAX} bytes"),
        BadPolicy::Twice(key) => format!("[{}] duplicate keys not allowed", erlang_text(key.as_bytes())),
        BadPolicy::Unknown(settings) => {
            let each = |(key, value): &(String, Value)| {
                format!("{{{},{}}}", erlang_text(key.as_bytes()), erlang(value))
            };
            let all: Vec<String> = settings.iter().map(each).collect();
            format!("[{}] are not recognised policy settings", all.join(",\n "))
        }
        BadPolicy::Value(key, value) => format!("{} is not a valid {}", erlang(value), what_of(key)),
        BadPolicy::RetryWithoutMin(kind) => {
            format!("delayed-retry-min is required when delayed-retry-type is {kind}")
        }
        BadPolicy::RetryMaxBelowMin { min, max } => {
            format!("delayed-retry-max ({max}) must not be smaller than delayed-retry-min ({min})")
        }
    })
}

/// Around everything that is wrong.
pub(super) fn validation(what: &str) -> String {
    format!("Validation failed\n\n{what}\n")
}

/// What the value of a key is to be.
fn what_of(key: &str) -> &'static str {
    match key {
        "alternate-exchange" => "alternate exchange name",
        "consumer-disconnected-timeout" => "consumer disconnected timeout",
        "consumer-timeout" => "consumer timeout",
        "dead-letter-exchange" => "dead letter exchange name",
        "dead-letter-routing-key" => "dead letter routing key",
        "dead-letter-strategy" => "dead letter strategy",
        "message-ttl" => "message TTL",
        "expires" => "queue expiry",
        "max-length" => "maximum length",
        "max-length-bytes" => "maximum length in bytes",
        "max-in-memory-length" | "max-in-memory-bytes" => "maximum memory in bytes",
        "queue-mode" => "queue-mode value",
        "queue-version" => "queue-version value",
        "overflow" => "overflow value",
        "delivery-limit" => "delivery limit",
        "max-age" => "max age",
        "queue-leader-locator" => "queue leader locator value",
        "queue-master-locator" => "master locator",
        "initial-cluster-size" => "cluster size",
        "stream-max-segment-size-bytes" => "segment size",
        "stream-filter-size-bytes" => "filter size. Valid range is 16-255",
        "target-group-size" => "qq target count value",
        "delayed-retry-type" => "delayed retry type. Must be one of: all, failed, returned, disabled",
        "delayed-retry-min" => "delayed retry minimum delay. Must be a positive integer",
        "delayed-retry-max" => "delayed retry maximum delay. Must be a positive integer",
        _ => "value",
    }
}

/// A value as Erlang writes it.
pub(super) fn erlang(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Int(value, _) => value.to_string(),
        Value::F32(value) => format!("{value:?}"),
        Value::F64(value) => format!("{value:?}"),
        Value::Decimal(scale, value) => format!("{{{scale},{value}}}"),
        Value::Text(bytes) | Value::Bytes(bytes) => erlang_text(bytes),
        Value::Timestamp(seconds) => seconds.to_string(),
        Value::List(values) => format!("[{}]", values.iter().map(erlang).collect::<Vec<_>>().join(",")),
        Value::Table(entries) => {
            let each = |(name, value): &(String, Value)| {
                format!("{} => {}", erlang_text(name.as_bytes()), erlang(value))
            };
            format!("#{{{}}}", entries.iter().map(each).collect::<Vec<_>>().join(","))
        }
        Value::Void => "null".to_owned(),
    }
}

fn erlang_text(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        let all: Vec<String> = bytes.iter().map(ToString::to_string).collect();
        return format!("<<{}>>", all.join(","));
    };
    let mut out = "<<\"".to_owned();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\{:o}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push_str(if text.is_ascii() { "\">>" } else { "\"/utf8>>" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_broker::queues::Width;

    #[test]
    fn bad_policies_are_told_in_rabbitmqs_words() {
        let int = |value| Value::Int(value, Width::I64);
        for (bad, text) in [
            (BadPolicy::Value("message-ttl", int(-1)), "-1 is not a valid message TTL"),
            (
                BadPolicy::Value("overflow", Value::text("dr\"op")),
                "<<\"dr\\\"op\">> is not a valid overflow value",
            ),
            (
                BadPolicy::Value("expires", Value::text("\u{e4}")),
                "<<\"\u{e4}\"/utf8>> is not a valid queue expiry",
            ),
            (
                BadPolicy::Unknown(vec![("foo".to_owned(), int(1))]),
                "[{<<\"foo\">>,1}] are not recognised policy settings",
            ),
            (BadPolicy::Empty, "no policy provided"),
            (
                BadPolicy::RetryWithoutMin("all".to_owned()),
                "delayed-retry-min is required when delayed-retry-type is all",
            ),
            (
                BadPolicy::RetryMaxBelowMin { min: 2, max: 1 },
                "delayed-retry-max (1) must not be smaller than delayed-retry-min (2)",
            ),
            (BadPolicy::PatternTooLong, "pattern must not exceed 1024 bytes"),
            (
                BadPolicy::Value("max-length", Value::List(vec![Value::Bool(true), Value::Void])),
                "[true,null] is not a valid maximum length",
            ),
            (
                BadPolicy::Value("max-length", Value::Table(vec![("a".to_owned(), Value::F64(1.0))])),
                "#{<<\"a\">> => 1.0} is not a valid maximum length",
            ),
        ] {
            assert_eq!(of_bad(&bad), format!("Validation failed\n\n{text}\n"));
        }
    }
}
