//! What the arguments of a stream mean for its topic.
//!
//! | argument | setting | not given |
//! |--|--|--|
//! | `x-max-age` | `retention.ms` | for ever |
//! | `x-max-length-bytes` | `retention.bytes` | no bound |
//! | `x-stream-max-segment-size-bytes` | `segment.bytes`, raised to what a topic takes at least | 500 MB, as RabbitMQ |
//! | `x-stream-filter-size-bytes` | none: filters are exact here | |
//!
//! Batches of such a topic may be as large as any, so that what the door takes fits.
//!
//! **Invariant.** What was not asked for does not come from the server's defaults for topics: a stream keeps its messages.

use std::collections::BTreeMap;

use ferrymq_types::limits::BATCH_BYTES_MAX;

use crate::queues::args::{Arguments, Value, Width};
use crate::queues::error::Property;
use crate::settings::{SEGMENT_BYTES_MIN, TopicConfig};

/// How long messages are kept.
pub(in crate::queues) const MAX_AGE: &str = "x-max-age";
/// How many bytes are kept.
const MAX_BYTES: &str = "x-max-length-bytes";
/// How many bytes go at a time.
pub(in crate::queues) const SEGMENT_BYTES: &str = "x-stream-max-segment-size-bytes";
/// The topic that a stream is.
pub(in crate::queues) const TOPIC: &str = "x-kafka-topic";
/// The largest segment that may be asked for. RabbitMQ's.
pub(in crate::queues) const SEGMENT_BYTES_MAX: i64 = 3_000_000_000;
/// The segment of a stream that names none. RabbitMQ's.
const SEGMENT_BYTES_DEFAULT: i64 = 500_000_000;

/// How long an age is, in milliseconds: a number that is not 0 and one of `Y M D h m s`. Beyond what fits, all there is.
#[must_use]
pub fn max_age_ms(text: &str) -> Option<i64> {
    let at = text.find(|char: char| !char.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let seconds: i64 = match unit {
        "Y" => 365 * 86_400,
        "M" => 30 * 86_400,
        "D" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    if number.is_empty() || number.bytes().all(|digit| digit == b'0') {
        return None;
    }
    let number: i64 = number.parse().unwrap_or(i64::MAX);
    Some(number.saturating_mul(seconds * 1000))
}

fn int(arguments: &Arguments, name: &str) -> Option<i64> {
    arguments.get(name).and_then(Value::as_int)
}

fn age(arguments: &Arguments) -> Option<i64> {
    arguments.get(MAX_AGE).and_then(Value::as_text).and_then(max_age_ms)
}

fn segment(arguments: &Arguments) -> Option<i64> {
    int(arguments, SEGMENT_BYTES).map(|bytes| bytes.clamp(SEGMENT_BYTES_MIN, i32::MAX.into()))
}

/// The settings of the topic that a declaration makes.
pub(super) fn settings(arguments: &Arguments) -> BTreeMap<String, String> {
    let all = [
        ("retention.ms", age(arguments).unwrap_or(-1)),
        ("retention.bytes", int(arguments, MAX_BYTES).unwrap_or(-1)),
        ("segment.bytes", segment(arguments).unwrap_or(SEGMENT_BYTES_DEFAULT)),
        ("max.message.bytes", i64::try_from(BATCH_BYTES_MAX).unwrap_or(i64::MAX)),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
}

/// Whether a topic that is there is as asked; otherwise the argument, and what it is. What is not asked is as it is.
pub(super) fn differs(arguments: &Arguments, config: &TopicConfig) -> Option<(&'static str, Property)> {
    let number = |value: i64| Value::Int(value, Width::I64);
    let told = |value: Option<Value>| Property::Argument(value);
    if let Some(asked) = age(arguments)
        && Some(asked) != config.retention_ms
    {
        // Rounded down: it is only shown.
        let text = |ms: i64| Value::text(&format!("{}s", ms / 1000));
        return Some((MAX_AGE, told(config.retention_ms.map(text))));
    }
    let bytes = config.retention_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    if let Some(asked) = int(arguments, MAX_BYTES)
        && Some(asked) != bytes
    {
        return Some((MAX_BYTES, told(bytes.map(number))));
    }
    let segment_bytes = i64::try_from(config.segment_bytes).unwrap_or(i64::MAX);
    match segment(arguments) {
        Some(asked) if asked != segment_bytes => Some((SEGMENT_BYTES, told(Some(number(segment_bytes))))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TopicDefaults;

    #[test]
    fn ages_are_rabbitmqs() {
        let cases = [
            ("1s", Some(1_000)),
            ("2m", Some(120_000)),
            ("3h", Some(10_800_000)),
            ("7D", Some(604_800_000)),
            ("1M", Some(2_592_000_000)),
            ("1Y", Some(31_536_000_000)),
            ("007s", Some(7_000)),
            ("0s", None),
            ("s", None),
            ("1", None),
            ("1d", None),
            ("1 s", None),
            ("-1s", None),
            ("99999999999999999999Y", Some(i64::MAX)),
        ];
        for (text, ms) in cases {
            assert_eq!(max_age_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn arguments_become_settings_and_are_recognised() {
        let arguments = |list: &[(&str, Value)]| {
            Arguments(list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
        };
        let int = |value| Value::Int(value, Width::I32);
        let given = arguments(&[(MAX_AGE, Value::text("1h")), (MAX_BYTES, int(7)), (SEGMENT_BYTES, int(5))]);
        let settings = settings(&given);
        let parsed = TopicConfig::new(settings, &TopicDefaults::default()).unwrap();
        assert_eq!((parsed.retention_ms, parsed.retention_bytes), (Some(3_600_000), Some(7)));
        assert_eq!(parsed.segment_bytes, SEGMENT_BYTES_MIN.unsigned_abs(), "topics take no less");
        assert_eq!(differs(&given, &parsed), None);
        assert_eq!(differs(&arguments(&[]), &parsed), None);
        let other = arguments(&[(MAX_AGE, Value::text("2h"))]);
        assert_eq!(differs(&other, &parsed), Some((MAX_AGE, Property::Argument(Some(Value::text("3600s"))))));
        let kept = TopicConfig::new(super::settings(&arguments(&[])), &TopicDefaults::default()).unwrap();
        assert_eq!((kept.retention_ms, kept.retention_bytes), (None, None), "streams keep their messages");
    }
}
