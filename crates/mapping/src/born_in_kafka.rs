//! A record that a Kafka client produced: the message it is delivered as, and the record again when that is republished.
//!
//! The message has a timestamp (in seconds) and these headers, in this order:
//!
//! | header | type | |
//! |--|--|--|
//! | those of the record | `S` if UTF-8, else `x`; null: `V` | the last of a name counts; names that AMQP cannot have, or that mean something to the broker, are left out |
//! | `x-kafka-headers` | `A` of `A` of name and value | all of them, if any is a duplicate or was left out |
//! | `x-kafka-key` | `S` or `x`; null: `V` | always |
//! | `x-kafka-tombstone` | `t` | true, if the value is null; the body is empty then |
//! | `timestamp_in_ms` | `l` | the record's |
//!
//! The routing key is the record's key if it is UTF-8 and short enough, the exchange the default one.
//!
//! **Invariant.** [`restore`] takes exactly what [`encode`] makes, wherever it is published to: it makes it again to see.

use bytes::Bytes;
use ferrymq_amqp_codec::table::Entry;
use ferrymq_amqp_codec::{BasicProperties, Properties, ValueRef};
use ferrymq_types::record::Header;

use crate::place::{Place, is_clients, is_place};
use crate::properties::{encode as encode_properties, put_entry, put_value};
use crate::value::implied;
use crate::{AmqpMessage, KEY_HEADER, KafkaRecord};

const HEADERS: &str = "x-kafka-headers";
const TOMBSTONE: &str = "x-kafka-tombstone";
const TIMESTAMP: &str = "timestamp_in_ms";
/// Names that mean something to the broker when they are published.
const MEANINGFUL: [&str; 7] = [HEADERS, KEY_HEADER, TOMBSTONE, TIMESTAMP, "CC", "BCC", "x-death"];
/// Longest short string.
const SHORT_MAX: usize = 255;

/// Whether a header of this name can stand in the table by itself.
fn is_plain(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= SHORT_MAX
        && !is_place(name)
        && !MEANINGFUL.iter().any(|known| known.as_bytes() == name)
}

/// The message of a record.
pub(crate) fn encode(record: &KafkaRecord, timestamp_ms: i64, place: Option<Place<'_>>) -> AmqpMessage {
    let mut table = table(record, timestamp_ms);
    if let Some(place) = place {
        place.put(&mut table);
    }
    let timestamp = u64::try_from(timestamp_ms).ok().map(|ms| ms / 1000);
    let properties = BasicProperties { timestamp, ..BasicProperties::default() };
    let short = record.key.clone().filter(|key| key.len() <= SHORT_MAX && std::str::from_utf8(key).is_ok());
    AmqpMessage {
        exchange: Bytes::new(),
        routing_key: short.unwrap_or_default(),
        properties: encode_properties(properties, Some(&table), false).unwrap_or_default(),
        body: record.value.clone().unwrap_or_default(),
    }
}

fn table(record: &KafkaRecord, timestamp_ms: i64) -> Vec<u8> {
    let mut table = Vec::new();
    // Names in order of their last appearance: from behind, each once.
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<&Header> = Vec::with_capacity(record.headers.len());
    let from_behind = record.headers.iter().rev().filter(|header| is_plain(&header.key));
    kept.extend(from_behind.filter(|header| seen.insert(&header.key[..])));
    for Header { key, value } in kept.iter().rev() {
        put_entry(&mut table, key, implied(value.as_deref()), value.as_deref().unwrap_or_default());
    }
    if kept.len() < record.headers.len() {
        let mut list = Vec::new();
        for Header { key, value } in &record.headers {
            let mut pair = Vec::new();
            put_value(&mut pair, implied(Some(key)), key);
            put_value(&mut pair, implied(value.as_deref()), value.as_deref().unwrap_or_default());
            put_value(&mut list, b'A', &pair);
        }
        put_entry(&mut table, HEADERS.as_bytes(), b'A', &list);
    }
    let key = record.key.as_deref();
    put_entry(&mut table, KEY_HEADER.as_bytes(), implied(key), key.unwrap_or_default());
    if record.value.is_none() {
        put_entry(&mut table, TOMBSTONE.as_bytes(), b't', &[1]);
    }
    put_entry(&mut table, TIMESTAMP.as_bytes(), b'l', &timestamp_ms.to_be_bytes());
    table
}

/// The record of a message that has the form of [`encode`].
pub(crate) fn restore(message: &AmqpMessage) -> Option<KafkaRecord> {
    let properties = Properties::parse(&message.properties).ok()?;
    let entries = properties.headers()?;
    // Cheap to see of most messages: they end otherwise.
    let last = entries.iter().filter(is_clients).last()?;
    if last.name() != TIMESTAMP.as_bytes() || last.tag() != b'l' {
        return None;
    }
    let timestamp_ms = i64::from_be_bytes(last.body().try_into().ok()?);
    let found = |name: &str| entries.iter().find(|entry| entry.name() == name.as_bytes());
    let bytes = &message.properties;
    let key = found(KEY_HEADER)?;
    let key = (key.tag() != b'V').then(|| bytes.slice_ref(key.body()));
    let value = match found(TOMBSTONE) {
        Some(_) if !message.body.is_empty() => return None,
        Some(_) => None,
        None => Some(message.body.clone()),
    };
    let headers = match found(HEADERS) {
        Some(all) => listed(all, bytes)?,
        None => {
            let plain = entries.iter().filter(|entry| is_plain(entry.name()));
            let header = |entry: Entry<'_>| Header {
                key: bytes.slice_ref(entry.name()),
                value: (entry.tag() != b'V').then(|| bytes.slice_ref(entry.body())),
            };
            plain.map(header).collect()
        }
    };
    let record = KafkaRecord { key, value, headers };
    let again = encode(&record, timestamp_ms, None);
    let again = Properties::parse(&again.properties).ok()?;
    let same = again.flags() == properties.flags()
        && again.timestamp() == properties.timestamp()
        && again.headers().unwrap_or_default().iter().eq(entries.iter().filter(is_clients));
    same.then_some(record)
}

/// The headers of a list.
fn listed(all: Entry<'_>, bytes: &Bytes) -> Option<Vec<Header>> {
    let ValueRef::Array(all) = all.value() else { return None };
    let mut headers = Vec::new();
    for pair in all {
        let ValueRef::Array(pair) = pair else { return None };
        let mut pair = pair.iter();
        let (key, value) = (pair.next()?, pair.next()?);
        let slice = |value: ValueRef<'_>| match value {
            ValueRef::LongString(text) | ValueRef::Binary(text) => Some(Some(bytes.slice_ref(text))),
            ValueRef::Void => Some(None),
            _ => None,
        };
        headers.push(Header { key: slice(key)??, value: slice(value)? });
    }
    Some(headers)
}
