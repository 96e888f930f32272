//! Dead letters as AMQP has them: `x-death` and its companions, the routing keys, and circles that end. And the header of a
//! message that has waited.
//!
//! ```text
//! x-death: [ newest, .., oldest ]   one table for each queue and reason, with a count
//! x-first-death-*, x-last-death-*   queue, reason, exchange
//! ```
//! **Invariants.** What happened to a message is read from its headers only if the broker wrote it there: its `x-death`
//! is the first of the headers, and `disown` makes sure that no client's is. All other headers and properties stay as
//! they are, byte for byte, but for `expiration`, and `CC` where a routing key replaces all others. A circle without
//! a rejection in it ends: the message goes nowhere.
//!
//! Deliberately absent: routing keys of `BCC`, which are not stored with a message.

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::{Array, ArrayBuilder, EncodeError, Properties, Table, TableBuilder, ValueRef};
use ferrymq_broker::queues::{DeadLetters, Death, DeathReason, Message, RouteDue, RouteLetter, Routed};

use crate::args::MessageView;

const X_DEATH: &[u8] = b"x-death";
const X_DELAY: &[u8] = b"x-delay";
const REJECTED: &[u8] = b"rejected";
/// Written at the first death, and kept.
const FIRST: [&[u8]; 3] = [b"x-first-death-exchange", b"x-first-death-queue", b"x-first-death-reason"];
/// Written at each death.
const LAST: [&[u8]; 3] = [b"x-last-death-exchange", b"x-last-death-queue", b"x-last-death-reason"];

/// Makes dead letters as RabbitMQ 4 does.
#[derive(Debug, Clone, Copy, Default)]
pub struct AmqpDeadLetters;

impl DeadLetters for AmqpDeadLetters {
    fn letter(&self, death: &Death<'_>, route: RouteLetter<'_>) -> (Message, Routed) {
        let mut message = death.message.clone();
        let stored = message.properties.clone();
        let properties = Properties::parse(&stored).unwrap_or_else(|error| {
            tracing::error!(%error, "a dead letter has properties that are not AMQP's; it goes without");
            Properties::EMPTY
        });
        match rewritten(death, properties) {
            Ok(properties) => message.properties = properties,
            Err(error) => tracing::error!(%error, "the headers of a dead letter could not be written"),
        }
        message.exchange = Bytes::copy_from_slice(death.to.exchange.as_bytes());
        message.ttl_ms = None;
        if let Some(key) = &death.to.routing_key {
            message.routing_key = key.clone();
        }
        let targets = targets(&message, death.reason, route);
        (message, targets)
    }

    fn due(&self, message: &Message, delay_ms: u64, route: RouteDue<'_>) -> (Message, Routed) {
        let mut message = message.clone();
        match has_waited(&message, delay_ms) {
            Ok(properties) => message.properties = properties,
            Err(error) => tracing::error!(%error, "the headers of a delayed message could not be written"),
        }
        let properties = Properties::parse(&message.properties).unwrap_or(Properties::EMPTY);
        let to = route(&MessageView::new(properties));
        (message, to)
    }
}

/// The properties of a message that has waited: its delay is negative, so that nobody delays it again and whoever gets
/// it sees that it was, as with RabbitMQ's plugin.
fn has_waited(message: &Message, delay_ms: u64) -> Result<Bytes, EncodeError> {
    let properties = Properties::parse(&message.properties).unwrap_or(Properties::EMPTY);
    let waited = ValueRef::I64(-i64::try_from(delay_ms).unwrap_or(i64::MAX));
    let mut table = TableBuilder::new();
    for entry in properties.headers().unwrap_or_default() {
        if entry.name() == X_DELAY {
            table.push(X_DELAY, waited)?;
        } else {
            table.push_entry(entry)?;
        }
    }
    let mut changed = properties.decode();
    changed.headers = Some(table.as_table());
    let mut out = BytesMut::new();
    changed.encode(&mut out)?;
    Ok(out.freeze())
}

/// The queues that a letter goes to, less those that it would go round to in a circle.
fn targets(message: &Message, reason: DeathReason, route: RouteLetter<'_>) -> Routed {
    let properties = Properties::parse(&message.properties).unwrap_or(Properties::EMPTY);
    let headers = properties.headers().unwrap_or_default();
    let keys: Vec<&[u8]> = std::iter::once(&message.routing_key[..]).chain(carbon_copies(headers)).collect();
    let found = route(&keys, &MessageView::new(properties));
    if reason == DeathReason::Rejected {
        return found;
    }
    found.only(|queue| {
        let circle = is_circle(deaths(headers), queue.name().as_bytes());
        if circle {
            tracing::warn!(queue = %queue.name(), "a message goes round in a circle of dead letters and is dropped");
        }
        !circle
    })
}

/// Whether a message has died in this queue before, and was rejected nowhere since.
fn is_circle(deaths: Array<'_>, queue: &[u8]) -> bool {
    for death in deaths.iter().filter_map(as_table) {
        if text(death, b"reason") == REJECTED {
            return false;
        }
        if text(death, b"queue") == queue {
            return true;
        }
    }
    false
}

/// The properties with the death in them.
fn rewritten(death: &Death<'_>, properties: Properties<'_>) -> Result<Bytes, EncodeError> {
    let headers = properties.headers().unwrap_or_default();
    let before = deaths(headers);
    let expiration = properties.expiration();
    let all = with_death(death, before, headers, expiration)?;
    let mut table = TableBuilder::new();
    table.push(X_DEATH, ValueRef::Array(all.as_array()))?;
    let queue = death.queue.name().as_bytes();
    let names = [&death.message.exchange[..], queue, reason(death.reason)];
    let is_first = before.iter().next().is_none();
    if is_first {
        FIRST.iter().zip(names).try_for_each(|(name, value)| push_text(&mut table, name, value))?;
    }
    LAST.iter().zip(names).try_for_each(|(name, value)| push_text(&mut table, name, value))?;
    let replaced = |name: &[u8]| {
        name == X_DEATH
            || LAST.contains(&name)
            || is_first && FIRST.contains(&name)
            || name == b"CC" && death.to.routing_key.is_some()
    };
    for entry in headers.iter().filter(|entry| !replaced(entry.name())) {
        table.push_entry(entry)?;
    }
    let mut changed = properties.decode();
    changed.headers = Some(table.as_table());
    // It would expire where it goes, too.
    changed.expiration = None;
    let mut out = BytesMut::new();
    changed.encode(&mut out)?;
    Ok(out.freeze())
}

/// The deaths so far with this one in front.
fn with_death(
    death: &Death<'_>,
    before: Array<'_>,
    headers: Table<'_>,
    expiration: Option<&[u8]>,
) -> Result<ArrayBuilder, EncodeError> {
    let (queue, why) = (death.queue.name().as_bytes(), reason(death.reason));
    let is_this = |table: &Table<'_>| text(*table, b"queue") == queue && text(*table, b"reason") == why;
    let mut table = TableBuilder::new();
    match before.iter().filter_map(as_table).find(is_this) {
        Some(again) => {
            for entry in again {
                match (entry.name(), entry.value()) {
                    (b"count", ValueRef::I64(count)) => {
                        table.push(b"count", ValueRef::I64(count.saturating_add(1)))?;
                    }
                    _ => {
                        table.push_entry(entry)?;
                    }
                }
            }
        }
        None => {
            if let Some(expiration) = expiration {
                push_text(&mut table, b"original-expiration", expiration)?;
            }
            let seconds = u64::try_from(death.now_ms / 1000).unwrap_or(0);
            let mut keys = ArrayBuilder::new();
            keys.push(ValueRef::LongString(&death.message.routing_key))?;
            carbon_copies(headers).try_for_each(|key| keys.push(ValueRef::LongString(key)).map(drop))?;
            table.push(b"count", ValueRef::I64(1))?;
            push_text(&mut table, b"reason", why)?;
            push_text(&mut table, b"queue", queue)?;
            table.push(b"time", ValueRef::Timestamp(seconds))?;
            push_text(&mut table, b"exchange", &death.message.exchange)?;
            table.push(b"routing-keys", ValueRef::Array(keys.as_array()))?;
        }
    }
    let mut all = ArrayBuilder::new();
    all.push(ValueRef::Table(table.as_table()))?;
    for other in before.iter().filter_map(as_table).filter(|other| !is_this(other)) {
        all.push(ValueRef::Table(other))?;
    }
    Ok(all)
}

fn push_text(table: &mut TableBuilder, name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
    table.push(name, ValueRef::LongString(value)).map(drop)
}

/// As `x-death` says it.
fn reason(reason: DeathReason) -> &'static [u8] {
    match reason {
        DeathReason::Rejected => REJECTED,
        DeathReason::Expired => b"expired",
        DeathReason::MaxLength => b"maxlen",
        DeathReason::DeliveryLimit => b"delivery_limit",
    }
}

/// What the broker wrote about deaths.
fn deaths(headers: Table<'_>) -> Array<'_> {
    match headers.iter().next() {
        Some(entry) if entry.name() == X_DEATH => match entry.value() {
            ValueRef::Array(deaths) => deaths,
            _ => Array::default(),
        },
        _ => Array::default(),
    }
}

/// The routing keys of a CC header.
fn carbon_copies(headers: Table<'_>) -> impl Iterator<Item = &[u8]> {
    let keys = match headers.get(b"CC") {
        Some(ValueRef::Array(keys)) => keys,
        _ => Array::default(),
    };
    keys.iter().filter_map(|key| match key {
        ValueRef::LongString(key) => Some(key),
        _ => None,
    })
}

fn as_table(value: ValueRef<'_>) -> Option<Table<'_>> {
    match value {
        ValueRef::Table(table) => Some(table),
        _ => None,
    }
}

fn text<'a>(table: Table<'a>, name: &[u8]) -> &'a [u8] {
    match table.get(name) {
        Some(ValueRef::LongString(text)) => text,
        _ => b"",
    }
}

/// Whether headers of a client begin as only the broker's may.
pub(crate) fn claims_deaths(headers: Table<'_>) -> bool {
    headers.iter().next().is_some_and(|entry| entry.name() == X_DEATH)
}

/// The headers of a client with what it says of deaths behind the others, where nobody believes it; if there are no
/// others, without.
pub(crate) fn disown(headers: Table<'_>) -> Result<TableBuilder, EncodeError> {
    let mut table = TableBuilder::new();
    let is_claim = |name: &[u8]| name == X_DEATH;
    for entry in headers.iter().filter(|entry| !is_claim(entry.name())) {
        table.push_entry(entry)?;
    }
    if !table.as_table().is_empty() {
        for entry in headers.iter().filter(|entry| is_claim(entry.name())) {
            table.push_entry(entry)?;
        }
    }
    Ok(table)
}
