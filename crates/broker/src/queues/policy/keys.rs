//! What the definition of a policy may say: RabbitMQ 4.3's keys, which values are legal, who may set them, which
//! types of queue take them, and who wins.
//!
//! Keys are of two sorts. *Served*: they do what they say. *Dead*: taken and without effect, in RabbitMQ too or because
//! they speak of copies and where they lie, of brokers that cannot reach each other, or of filters that are exact here.
//!
//! **Invariant.** A key that would change what happens to a message is honoured or refused.
//!
//! Deliberately absent: keys of plugins (federation, sharding), which nobody here knows.

use super::{BadPolicy, DEFINITION_BYTES_MAX, PolicySort};
use crate::queues::args::{Arguments, Value};
use crate::queues::settings::QueueType;
use crate::queues::streams::{SEGMENT_BYTES_MAX, max_age_ms};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queues) enum State {
    /// It does what it says.
    Served,
    /// It has no effect.
    Dead,
}

/// Who wins where two say the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queues) enum Wins {
    /// The smaller.
    Min,
    /// The larger.
    Max,
    /// The smaller, but none below zero, which is no limit: then the larger.
    Limit,
    /// The policy over an argument, the operator over a user.
    Outer,
    /// The argument over a policy.
    Inner,
}

/// A key of a definition.
pub(in crate::queues) struct Key {
    pub(in crate::queues) name: &'static str,
    pub(in crate::queues) state: State,
    /// Whether an operator may set it too, and who wins then.
    pub(in crate::queues) operator: Option<Wins>,
    /// Types of queue to which no policy with this key applies.
    not_of: u8,
    /// Who wins over an argument of a classic queue, and of a quorum queue.
    wins: (Wins, Wins),
    check: fn(&Value) -> bool,
}

const NONE: u8 = 0;
const CLASSIC: u8 = 1;
const QUORUM: u8 = 2;
const STREAM: u8 = 4;

const fn bit(kind: QueueType) -> u8 {
    match kind {
        QueueType::Classic => CLASSIC,
        QueueType::Quorum => QUORUM,
        QueueType::Stream => STREAM,
    }
}

impl Key {
    /// Who wins over an argument of a queue of this type.
    pub(in crate::queues) fn wins(&self, kind: QueueType) -> Wins {
        match kind {
            QueueType::Classic => self.wins.0,
            QueueType::Quorum => self.wins.1,
            // Whatever the key: a policy's.
            QueueType::Stream => Outer,
        }
    }
}

const fn key(
    name: &'static str,
    state: State,
    operator: Option<Wins>,
    not_of: u8,
    wins: (Wins, Wins),
    check: fn(&Value) -> bool,
) -> Key {
    Key { name, state, operator, not_of, wins, check }
}

use State::{Dead, Served};
use Wins::{Inner, Limit, Max, Min, Outer};

/// All keys.
pub(in crate::queues) const KEYS: [Key; 26] = [
    key("alternate-exchange", Served, None, NONE, (Inner, Inner), text),
    key("consumer-disconnected-timeout", Dead, None, NONE, (Min, Min), count),
    key("consumer-timeout", Served, None, NONE, (Min, Min), count),
    key("dead-letter-exchange", Served, None, STREAM, (Inner, Inner), text),
    key("dead-letter-routing-key", Served, None, STREAM, (Inner, Inner), text),
    key("dead-letter-strategy", Served, None, CLASSIC | STREAM, (Inner, Inner), strategy),
    key("message-ttl", Served, Some(Min), STREAM, (Min, Min), count),
    key("expires", Served, Some(Min), STREAM, (Min, Min), positive),
    key("max-length", Served, Some(Min), STREAM, (Min, Min), count),
    key("max-length-bytes", Served, Some(Min), NONE, (Min, Min), count),
    key("max-in-memory-length", Dead, Some(Min), CLASSIC | STREAM, (Min, Min), count),
    key("max-in-memory-bytes", Dead, Some(Min), CLASSIC | STREAM, (Min, Min), count),
    key("queue-mode", Dead, None, QUORUM | STREAM, (Inner, Inner), mode),
    key("queue-version", Dead, Some(Outer), NONE, (Inner, Inner), version),
    key("overflow", Served, Some(Outer), STREAM, (Inner, Outer), overflow),
    key("delivery-limit", Served, Some(Limit), CLASSIC | STREAM, (Limit, Limit), integer),
    key("max-age", Served, None, CLASSIC | QUORUM, (Outer, Outer), age),
    key("stream-max-segment-size-bytes", Served, None, CLASSIC | QUORUM, (Outer, Outer), segment),
    key("stream-filter-size-bytes", Dead, None, NONE, (Outer, Outer), filter_size),
    key("queue-leader-locator", Dead, None, NONE, (Outer, Outer), locator),
    key("queue-master-locator", Dead, Some(Outer), QUORUM | STREAM, (Outer, Outer), master_locator),
    key("initial-cluster-size", Dead, None, CLASSIC | QUORUM, (Outer, Outer), count),
    key("target-group-size", Dead, Some(Max), CLASSIC | STREAM, (Outer, Outer), positive),
    key("delayed-retry-type", Served, Some(Outer), NONE, (Outer, Outer), retry),
    key("delayed-retry-min", Served, Some(Max), NONE, (Min, Min), positive),
    key("delayed-retry-max", Served, Some(Min), NONE, (Min, Min), positive),
];

/// The key of this name.
pub(in crate::queues) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether queues of this type know all keys of a definition.
pub(super) fn all_of(definition: &Arguments, kind: QueueType) -> bool {
    definition.iter().all(|(name, _)| find(name).is_none_or(|key| key.not_of & bit(kind) == 0))
}

/// Checks a definition.
pub(super) fn check(definition: &Arguments, sort: PolicySort) -> Result<(), BadPolicy> {
    if definition.is_empty() {
        return Err(BadPolicy::Empty);
    }
    let bytes = |(name, value): (&str, &Value)| name.len() + value.as_text().map_or(8, str::len);
    if definition.iter().map(bytes).sum::<usize>() > DEFINITION_BYTES_MAX {
        return Err(BadPolicy::TooLong);
    }
    let mut unknown = Vec::new();
    for (at, (name, value)) in definition.iter().enumerate() {
        if definition.iter().take(at).any(|(before, _)| before == name) {
            return Err(BadPolicy::Twice(name.to_owned()));
        }
        match find(name).filter(|key| sort == PolicySort::Policy || key.operator.is_some()) {
            None => unknown.push((name.to_owned(), value.clone())),
            Some(key) if !(key.check)(value) => return Err(BadPolicy::Value(key.name, value.clone())),
            Some(_) => {}
        }
    }
    if unknown.is_empty() { check_retry(definition) } else { Err(BadPolicy::Unknown(unknown)) }
}

/// Delayed retries need a time, and a last one that is not before the first.
fn check_retry(definition: &Arguments) -> Result<(), BadPolicy> {
    let ms = |name| definition.get(name).and_then(Value::as_int);
    let kind = definition.get("delayed-retry-type").and_then(Value::as_text);
    match (kind.filter(|kind| *kind != "disabled"), ms("delayed-retry-min"), ms("delayed-retry-max")) {
        (Some(kind), None, _) => Err(BadPolicy::RetryWithoutMin(kind.to_owned())),
        (_, Some(min), Some(max)) if max < min => Err(BadPolicy::RetryMaxBelowMin { min, max }),
        _ => Ok(()),
    }
}

fn text(value: &Value) -> bool {
    value.as_text().is_some()
}

fn integer(value: &Value) -> bool {
    value.as_int().is_some()
}

fn count(value: &Value) -> bool {
    value.as_int().is_some_and(|value| value >= 0)
}

fn positive(value: &Value) -> bool {
    value.as_int().is_some_and(|value| value >= 1)
}

fn age(value: &Value) -> bool {
    value.as_text().and_then(max_age_ms).is_some()
}

fn segment(value: &Value) -> bool {
    value.as_int().is_some_and(|value| (0..=SEGMENT_BYTES_MAX).contains(&value))
}

fn filter_size(value: &Value) -> bool {
    value.as_int().is_some_and(|value| (16..=255).contains(&value))
}

fn version(value: &Value) -> bool {
    matches!(value.as_int(), Some(1 | 2))
}

fn one_of(value: &Value, all: &[&str]) -> bool {
    value.as_text().is_some_and(|text| all.contains(&text))
}

fn mode(value: &Value) -> bool {
    one_of(value, &["default", "lazy"])
}

fn overflow(value: &Value) -> bool {
    one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"])
}

fn strategy(value: &Value) -> bool {
    one_of(value, &["at-most-once", "at-least-once"])
}

fn locator(value: &Value) -> bool {
    one_of(value, &["client-local", "balanced", "random", "least-leaders"])
}

fn master_locator(value: &Value) -> bool {
    one_of(value, &["client-local", "balanced", "random", "least-leaders", "min-masters"])
}

fn retry(value: &Value) -> bool {
    one_of(value, &["all", "failed", "returned", "disabled"])
}
