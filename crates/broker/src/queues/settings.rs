//! What a queue's arguments mean: checked once when it is declared, parsed once for its shard.
//!
//! `ARGUMENTS` is RabbitMQ 4.3's table: which argument what type of queue takes, and which values. Everything it
//! holds is checked, also what is not served yet, so that a wrong declaration is told so first.
//!
//! **Invariant.** Parsing never fails: what was stored was checked.
//!
//! Deliberately absent: which arguments are served (`declare`), what happens by them (the shard), and policies.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::args::{Arguments, Value};
use super::consuming;
use super::streams::{REFUSED_OVER_TOPICS, START, StreamStart, TOPIC, is_over_topic};
use super::types::QueueSpec;

/// Ten years in milliseconds, the longest time to live and time unused that RabbitMQ takes.
pub const EXPIRY_MS_MAX: i64 = 315_360_000_000;
/// The largest priority.
const PRIORITY_MAX: i64 = 255;

/// The argument that names a queue's type.
pub(super) const QUEUE_TYPE: &str = "x-queue-type";
const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";

/// What sort of queue one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// What a queue is unless somebody says otherwise.
    #[default]
    Classic,
    /// Each of its messages is durable.
    Quorum,
    /// A topic.
    Stream,
}

impl QueueType {
    /// The type that arguments name; `None` if there is no such type.
    #[must_use]
    pub fn of(arguments: &Arguments) -> Option<QueueType> {
        match arguments.get(QUEUE_TYPE) {
            None => Some(QueueType::Classic),
            Some(value) => value.as_text().and_then(QueueType::parse),
        }
    }

    /// The inverse of [`QueueType::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<QueueType> {
        [QueueType::Classic, QueueType::Quorum, QueueType::Stream]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
            QueueType::Stream => "stream",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            QueueType::Classic => CLASSIC,
            QueueType::Quorum => QUORUM,
            QueueType::Stream => STREAM,
        }
    }
}

/// What happens when a queue has as many messages or bytes ready as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest messages go.
    DropHead,
    /// New ones are refused.
    RejectPublish,
    /// New ones are refused, and dead-lettered where that is asked for.
    RejectPublishDlx,
}

impl Overflow {
    /// As the argument says it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Overflow> {
        match text {
            "drop-head" => Some(Overflow::DropHead),
            "reject-publish" => Some(Overflow::RejectPublish),
            "reject-publish-dlx" => Some(Overflow::RejectPublishDlx),
            _ => None,
        }
    }
}

/// What is asked of a queue; `None`: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSettings {
    /// How long each message may wait, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// How long the queue may be unused, in milliseconds; never 0.
    pub expires_ms: Option<u64>,
    /// Messages that may be ready.
    pub length_max: Option<u64>,
    /// Bytes of bodies that may be ready.
    pub bytes_max: Option<u64>,
    /// What happens beyond these.
    pub overflow: Option<Overflow>,
    /// How long a delivery may be unsettled, in milliseconds.
    pub consumer_timeout_ms: Option<u64>,
}

impl QueueSettings {
    /// What a declared queue's arguments say.
    #[must_use]
    pub fn of(spec: &QueueSpec) -> QueueSettings {
        let number =
            |name| spec.arguments.get(name).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok());
        let overflow = spec.arguments.get("x-overflow").and_then(Value::as_text).and_then(Overflow::parse);
        let quorum = QueueType::of(&spec.arguments) == Some(QueueType::Quorum);
        if is_over_topic(&spec.arguments) {
            // How long and how much is kept is the topic's to say, whatever policies say.
            let consumer_timeout_ms = number("x-consumer-timeout");
            return QueueSettings { consumer_timeout_ms, ..QueueSettings::default() };
        }
        QueueSettings {
            ttl_ms: number("x-message-ttl"),
            expires_ms: number("x-expires"),
            length_max: number("x-max-length"),
            bytes_max: number("x-max-length-bytes"),
            // A quorum queue knows no such overflow: RabbitMQ takes the argument and drops heads.
            overflow: overflow.filter(|overflow| !quorum || *overflow != Overflow::RejectPublishDlx),
            consumer_timeout_ms: number("x-consumer-timeout"),
        }
    }
}

/// What is wrong with an argument of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It has to be an integer of any width.
    NotAnInteger,
    /// It has to be of another type.
    Type,
    /// It is negative.
    Negative,
    /// It is zero.
    Zero,
    /// It is more than [`EXPIRY_MS_MAX`].
    TooLarge,
    /// It is more than the largest priority.
    Exceeds,
    /// No way of overflowing is called so.
    Overflow,
    /// No kind of delayed retries is called so.
    Retry,
    /// No strategy of dead-lettering is called so.
    Strategy,
    /// A routing key for dead letters and no exchange for them.
    NoDeadLetterExchange,
    /// No age is written so.
    MaxAge,
    /// No place in a stream is written so.
    StreamOffset,
    /// No type of queue is called so.
    QueueType,
    /// Queues of this type do not take it.
    NotOf(QueueType),
    /// Queues over topics do not take it.
    OverTopic,
    /// It is of queues over topics, and no topic is named.
    NoTopic,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::NotAnInteger => "it must be an integer",
            Wrong::Type => "it is of the wrong type",
            Wrong::Negative => "it is negative",
            Wrong::Zero => "it is zero",
            Wrong::TooLarge => "it is more than ten years",
            Wrong::Exceeds => "it is more than 255",
            Wrong::Overflow => "expected drop-head, reject-publish or reject-publish-dlx",
            Wrong::Retry => "expected all, failed, returned or disabled",
            Wrong::Strategy => "expected at-most-once or at-least-once",
            Wrong::NoDeadLetterExchange => "there is no dead letter exchange",
            Wrong::MaxAge => "expected a number and a unit",
            Wrong::StreamOffset => "expected first, last, next, an offset, a timestamp or an interval",
            Wrong::QueueType => "expected classic, quorum or stream",
            Wrong::NotOf(_) => "queues of this type do not take it",
            Wrong::OverTopic => {
                "a queue over a topic does not take it: the topic's settings say what is kept"
            }
            Wrong::NoTopic => "there is no x-kafka-topic",
        })
    }
}

const CLASSIC: u8 = 1;
const QUORUM: u8 = 2;
const STREAM: u8 = 4;

type Check = fn(&Value, &Arguments) -> Result<(), Wrong>;

/// Arguments that mean something, the types of queue that take them, and which values are legal, in the order in
/// which they are checked.
pub(super) const ARGUMENTS: [(&str, u8, Check); 23] = [
    ("x-expires", CLASSIC | QUORUM, expires),
    ("x-message-ttl", CLASSIC | QUORUM, ttl),
    (DEAD_LETTER_EXCHANGE, CLASSIC | QUORUM, text),
    ("x-dead-letter-routing-key", CLASSIC | QUORUM, dead_letter_key),
    ("x-dead-letter-strategy", QUORUM, strategy),
    ("x-max-length", CLASSIC | QUORUM, count),
    ("x-max-length-bytes", CLASSIC | QUORUM | STREAM, count),
    ("x-max-priority", CLASSIC, priority),
    ("x-overflow", CLASSIC | QUORUM, overflow),
    ("x-single-active-consumer", CLASSIC | QUORUM, flag),
    ("x-consumer-timeout", QUORUM, count),
    ("x-consumer-disconnected-timeout", QUORUM, count),
    ("x-max-age", STREAM, max_age),
    ("x-stream-max-segment-size-bytes", STREAM, count),
    ("x-stream-filter-size-bytes", STREAM, count),
    (TOPIC, CLASSIC | QUORUM | STREAM, text),
    (START, CLASSIC | QUORUM, topic_start),
    ("x-initial-cluster-size", STREAM, any),
    ("x-delivery-limit", QUORUM, integer),
    (consuming::RETRY_TYPE, QUORUM, retry),
    (consuming::RETRY_MIN, QUORUM, positive),
    (consuming::RETRY_MAX, QUORUM, positive),
    ("x-message-deduplication", CLASSIC | QUORUM | STREAM, any),
];

/// Arguments of a classic queue in the order in which they are compared when it is declared again.
const COMPARED_CLASSIC: [&str; 14] = [
    "x-expires",
    "x-message-ttl",
    DEAD_LETTER_EXCHANGE,
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    QUEUE_TYPE,
    "x-queue-master-locator",
    "x-queue-leader-locator",
];
/// The same of a quorum queue.
const COMPARED_QUORUM: [&str; 19] = [
    DEAD_LETTER_EXCHANGE,
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    QUEUE_TYPE,
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
    "x-consumer-disconnected-timeout",
    "x-consumer-timeout",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
];

/// The arguments that must be the same when a queue of a type is declared again: those that its type takes, in
/// RabbitMQ's order, as the first that differs is told; then what RabbitMQ does not know.
pub(super) fn compared(kind: QueueType) -> impl Iterator<Item = &'static str> {
    let ours: &[&str] = match kind {
        QueueType::Classic => &COMPARED_CLASSIC,
        QueueType::Quorum => &COMPARED_QUORUM,
        QueueType::Stream => &[QUEUE_TYPE],
    };
    let rest = ARGUMENTS.iter().filter(move |(name, of, _)| of & kind.bit() != 0 && !ours.contains(name));
    ours.iter().copied().chain(rest.map(|(name, ..)| *name))
}

/// Checks the arguments of a queue; the first that is wrong.
pub(super) fn check(arguments: &Arguments) -> Result<QueueType, (&'static str, Wrong)> {
    let kind = match arguments.get(QUEUE_TYPE) {
        Some(Value::Text(_)) | None => QueueType::of(arguments).ok_or((QUEUE_TYPE, Wrong::QueueType))?,
        Some(_) => return Err((QUEUE_TYPE, Wrong::Type)),
    };
    let given =
        || ARGUMENTS.iter().filter_map(|(name, of, check)| Some((*name, *of, check, arguments.get(name)?)));
    for (name, of, check, value) in given() {
        if of & kind.bit() != 0 {
            check(value, arguments).map_err(|wrong| (name, wrong))?;
        }
    }
    // Where nodes lie concerns nobody here: such arguments are taken of any queue.
    let astray = given().find(|(name, of, ..)| of & kind.bit() == 0 && *name != "x-initial-cluster-size");
    if let Some((name, ..)) = astray {
        return Err((name, Wrong::NotOf(kind)));
    }
    let refused = given().find(|(name, ..)| is_over_topic(arguments) && REFUSED_OVER_TOPICS.contains(name));
    match refused {
        Some((name, ..)) => Err((name, Wrong::OverTopic)),
        None => Ok(kind),
    }
}

fn any(_value: &Value, _all: &Arguments) -> Result<(), Wrong> {
    Ok(())
}

/// RabbitMQ takes any delivery limit and goes by its default if it is no integer; here it is refused.
fn integer(value: &Value, _all: &Arguments) -> Result<(), Wrong> {
    value.as_int().map(drop).ok_or(Wrong::NotAnInteger)
}

fn count(value: &Value, _all: &Arguments) -> Result<(), Wrong> {
    match value.as_int() {
        None => Err(Wrong::NotAnInteger),
        Some(..0) => Err(Wrong::Negative),
        Some(_) => Ok(()),
    }
}

fn positive(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    count(value, all)?;
    if value.as_int() == Some(0) { Err(Wrong::Zero) } else { Ok(()) }
}

/// RabbitMQ takes any and goes by none that it does not know; as an argument of a policy it refuses them.
fn retry(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    text(value, all)?;
    match value.as_text() {
        Some("all" | "failed" | "returned" | "disabled") => Ok(()),
        _ => Err(Wrong::Retry),
    }
}

fn ttl(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    count(value, all)?;
    if value.as_int() > Some(EXPIRY_MS_MAX) { Err(Wrong::TooLarge) } else { Ok(()) }
}

fn expires(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    if value.as_int() == Some(0) { Err(Wrong::Zero) } else { ttl(value, all) }
}

fn priority(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    count(value, all)?;
    if value.as_int() > Some(PRIORITY_MAX) { Err(Wrong::Exceeds) } else { Ok(()) }
}

fn flag(value: &Value, _all: &Arguments) -> Result<(), Wrong> {
    if matches!(value, Value::Bool(_)) { Ok(()) } else { Err(Wrong::Type) }
}

fn text(value: &Value, _all: &Arguments) -> Result<(), Wrong> {
    if matches!(value, Value::Text(_)) { Ok(()) } else { Err(Wrong::Type) }
}

fn dead_letter_key(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    text(value, all)?;
    if all.get(DEAD_LETTER_EXCHANGE).is_none() { Err(Wrong::NoDeadLetterExchange) } else { Ok(()) }
}

fn strategy(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    text(value, all)?;
    match value.as_text() {
        Some("at-most-once" | "at-least-once") => Ok(()),
        _ => Err(Wrong::Strategy),
    }
}

fn overflow(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    text(value, all)?;
    value.as_text().and_then(Overflow::parse).map(drop).ok_or(Wrong::Overflow)
}

fn topic_start(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    match StreamStart::parse(value, 0) {
        _ if all.get(TOPIC).is_none() => Err(Wrong::NoTopic),
        Some(_) => Ok(()),
        None => Err(Wrong::StreamOffset),
    }
}

fn max_age(value: &Value, all: &Arguments) -> Result<(), Wrong> {
    text(value, all)?;
    let text = value.as_text().unwrap_or_default();
    let number = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let unit = &text[number.len()..];
    let legal = number.parse::<u64>().is_ok_and(|number| number > 0)
        && ["Y", "M", "D", "h", "m", "s"].contains(&unit);
    if legal { Ok(()) } else { Err(Wrong::MaxAge) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::queues::args::Width;

    fn arguments(list: &[(&str, Value)]) -> Arguments {
        Arguments(list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn int(value: i64) -> Value {
        Value::Int(value, Width::I64)
    }

    #[test]
    fn wrong_values_are_told() {
        type Given<'a> = &'a [(&'a str, Value)];
        let quorum = || (QUEUE_TYPE, Value::text("quorum"));
        let cases: [(Given<'_>, &str, Wrong); 19] = [
            (&[("x-message-ttl", Value::text("5"))], "x-message-ttl", Wrong::NotAnInteger),
            (&[("x-message-ttl", Value::F64(5.0))], "x-message-ttl", Wrong::NotAnInteger),
            (&[("x-message-ttl", int(-1))], "x-message-ttl", Wrong::Negative),
            (&[("x-message-ttl", int(EXPIRY_MS_MAX + 1))], "x-message-ttl", Wrong::TooLarge),
            (&[("x-expires", int(0))], "x-expires", Wrong::Zero),
            (&[("x-expires", int(-5))], "x-expires", Wrong::Negative),
            (&[("x-max-length", Value::Bool(true))], "x-max-length", Wrong::NotAnInteger),
            (&[("x-max-length-bytes", int(-1))], "x-max-length-bytes", Wrong::Negative),
            (&[("x-overflow", int(1))], "x-overflow", Wrong::Type),
            (&[("x-overflow", Value::text("drop"))], "x-overflow", Wrong::Overflow),
            (&[("x-max-priority", int(256))], "x-max-priority", Wrong::Exceeds),
            (&[("x-max-priority", int(5)), quorum()], "x-max-priority", Wrong::NotOf(QueueType::Quorum)),
            (&[("x-delivery-limit", int(5))], "x-delivery-limit", Wrong::NotOf(QueueType::Classic)),
            (&[("x-delivery-limit", Value::text("5")), quorum()], "x-delivery-limit", Wrong::NotAnInteger),
            (
                &[("x-dead-letter-routing-key", Value::text("k"))],
                "x-dead-letter-routing-key",
                Wrong::NoDeadLetterExchange,
            ),
            (&[("x-single-active-consumer", int(1))], "x-single-active-consumer", Wrong::Type),
            (&[(QUEUE_TYPE, Value::text("other"))], QUEUE_TYPE, Wrong::QueueType),
            (&[(QUEUE_TYPE, int(1))], QUEUE_TYPE, Wrong::Type),
            // The first of the table, whatever comes first.
            (&[("x-overflow", int(1)), ("x-expires", Value::Void)], "x-expires", Wrong::NotAnInteger),
        ];
        for (given, name, wrong) in cases {
            assert_eq!(check(&arguments(given)), Err((name, wrong)), "{given:?}");
        }
        let legal: [&[(&str, Value)]; 4] = [
            &[("x-message-ttl", int(0)), ("x-expires", int(1)), ("x-max-length", int(0))],
            &[
                ("x-message-ttl", int(EXPIRY_MS_MAX)),
                ("x-initial-cluster-size", int(3)),
                ("x-unknown", Value::Void),
            ],
            &[("x-delivery-limit", int(5)), quorum()],
            &[("x-overflow", Value::text("reject-publish-dlx")), quorum()],
        ];
        for given in legal {
            assert!(check(&arguments(given)).is_ok(), "{given:?}");
        }
    }

    #[test]
    fn arguments_are_what_the_shard_goes_by() {
        let spec = |list: &[(&str, Value)]| QueueSpec {
            name: Arc::from("q"),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: arguments(list),
        };
        let overflow = ("x-overflow", Value::text("reject-publish-dlx"));
        let classic = QueueSettings::of(&spec(&[
            ("x-message-ttl", int(5)),
            ("x-max-length", int(7)),
            overflow.clone(),
        ]));
        let expected = QueueSettings {
            ttl_ms: Some(5),
            expires_ms: None,
            length_max: Some(7),
            bytes_max: None,
            overflow: Some(Overflow::RejectPublishDlx),
            consumer_timeout_ms: None,
        };
        assert_eq!(classic, expected);
        let quorum = QueueSettings::of(&spec(&[(QUEUE_TYPE, Value::text("quorum")), overflow]));
        assert_eq!(quorum, QueueSettings::default());
    }
}
