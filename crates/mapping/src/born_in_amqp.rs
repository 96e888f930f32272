//! A message that was published over AMQP: its record, and the message again.
//!
//! Headers of the record, in this order: those of the publisher; `amqp.exchange`, `amqp.rk`, `amqp.key`; the properties that
//! are there;
//! `amqp.t` ([`mod@crate::tags`]). At least one of ours is there, so that the record is known again.
//!
//! **Invariant.** [`decode`] takes exactly the records that [`encode`] makes. A record that was tampered with is as
//! Kafka-born as any.

use bytes::Bytes;
use ferrymq_amqp_codec::{BasicProperties, Properties, Table};
use ferrymq_types::RecordKey;
use ferrymq_types::record::Header;

use crate::place::{Place, is_clients, is_place};
use crate::properties::{self, NAMES, UNUSED_FLAG, header, put_entry};
use crate::tags::{self, Tags};
use crate::value::{from_text, implied, to_text};
use crate::{AmqpMessage, KEY_HEADER, KafkaRecord, born_in_kafka};

const EXCHANGE: &str = "amqp.exchange";
const ROUTING_KEY: &str = "amqp.rk";
/// By which rule the key was chosen, unless that is the routing key.
const RULE: &str = "amqp.key";
/// Names that begin so are ours, unless `amqp.t` says that they are the publisher's.
const OURS: &[u8] = b"amqp.";
/// Longest short string.
const SHORT_MAX: usize = 255;

/// The record of a message.
pub(crate) fn encode(message: &AmqpMessage, rule: &RecordKey) -> KafkaRecord {
    let bytes = &message.properties;
    let properties = Properties::parse(bytes).unwrap_or_default();
    let mut headers = Vec::new();
    let mut tags = Tags { unused_flag: properties.flags() & UNUSED_FLAG != 0, ..Tags::default() };
    let table = properties.headers();
    for entry in table.unwrap_or_default().iter().filter(is_clients) {
        let (value, raw) = to_text(entry.tag(), entry.body(), bytes);
        if entry.tag() != implied(value.as_deref()) || entry.name().starts_with(OURS) {
            tags.list.push((headers.len(), entry.tag(), raw));
        }
        headers.push(Header { key: bytes.slice_ref(entry.name()), value });
    }
    // A table that holds nothing but what the broker added was none.
    tags.empty_table = table.is_some_and(|table| table.is_empty());
    let publishers = headers.len();
    if !message.exchange.is_empty() {
        headers.push(header(EXCHANGE, message.exchange.clone()));
    }
    let correlation_id = properties.correlation_id().map(|id| bytes.slice_ref(id));
    let key = Choice { message, correlation_id, table: table.unwrap_or_default(), bytes }.key(rule);
    if key.as_ref().map_or(&[][..], |key| key) != &message.routing_key[..] {
        headers.push(header(ROUTING_KEY, message.routing_key.clone()));
    }
    if *rule != RecordKey::default() {
        headers.push(header(RULE, rule.to_string().into()));
    }
    properties::put(properties, bytes, &mut headers);
    if !tags.is_empty() || headers.len() == publishers {
        headers.push(header(tags::NAME, tags.write().into()));
    }
    KafkaRecord { key, value: Some(message.body.clone()), headers }
}

/// What a key is chosen from.
struct Choice<'a> {
    message: &'a AmqpMessage,
    correlation_id: Option<Bytes>,
    table: Table<'a>,
    /// What the table is a part of.
    bytes: &'a Bytes,
}

impl Choice<'_> {
    fn key(&self, rule: &RecordKey) -> Option<Bytes> {
        let header = |name: &str| {
            let mut clients = self.table.iter().filter(is_clients);
            clients.find(|entry| entry.name() == name.as_bytes()).map(|entry| (entry.tag(), entry.body()))
        };
        // What a message says itself counts more than what its topic says.
        match header(KEY_HEADER) {
            Some((b'S' | b'x', key)) => return Some(self.bytes.slice_ref(key)),
            Some((b'V', _)) => return None,
            _ => {}
        }
        let AmqpMessage { exchange, routing_key, .. } = self.message;
        match rule {
            // To the default exchange a routing key is an address: all records of a topic would have the same key.
            RecordKey::RoutingKey if exchange.is_empty() || routing_key.is_empty() => None,
            RecordKey::RoutingKey => Some(routing_key.clone()),
            RecordKey::Header(name) => header(name).and_then(|(tag, body)| to_text(tag, body, self.bytes).0),
            RecordKey::CorrelationId => self.correlation_id.clone(),
            RecordKey::Nothing => None,
        }
    }
}

/// The message of a record, if it is one of [`encode`].
pub(crate) fn decode(record: &KafkaRecord, place: Option<Place<'_>>) -> Option<AmqpMessage> {
    let headers = &record.headers[..];
    let last = headers.last().filter(|last| last.key.starts_with(OURS))?;
    let tags = match last.key == tags::NAME.as_bytes() {
        true => Some(Tags::parse(last.value.as_ref()?)?),
        false => None,
    };
    let publishers = publishers(headers, tags.as_ref())?;
    let said = tags.as_ref().is_some_and(|tags| !tags.is_empty());
    let alone = publishers + 1 == headers.len();
    if tags.is_some() && !said && !alone {
        return None;
    }
    let tags = tags.unwrap_or_default();
    let table = table(&headers[..publishers], &tags)?;
    if tags.empty_table && publishers > 0 {
        return None;
    }
    let (mut exchange, mut routing_key, mut rule) = (Bytes::new(), None, RecordKey::default());
    let mut properties = BasicProperties::default();
    for ours in &headers[publishers..] {
        let value = ours.value.as_ref()?;
        match position(&ours.key)? {
            0 if value.is_empty() || value.len() > SHORT_MAX => return None,
            0 => exchange = value.clone(),
            1 if value.len() > SHORT_MAX => return None,
            1 => routing_key = Some(value.clone()),
            2 => rule = another_rule(value)?,
            TAGS_AT => {}
            index => properties::take(&mut properties, index - BEFORE_PROPERTIES, value)?,
        }
    }
    let plain = Bytes::from(table);
    let has_table = publishers > 0 || tags.empty_table;
    let told = routing_key.is_some();
    let routing_key = routing_key.or_else(|| record.key.clone()).unwrap_or_default();
    let parsed = Table::parse(&plain).ok()?;
    let body = record.value.clone()?;
    let without = properties::encode(properties, has_table.then_some(&plain[..]), tags.unused_flag)?;
    let message = AmqpMessage { exchange, routing_key, properties: without, body };
    let correlation_id = properties.correlation_id.map(Bytes::copy_from_slice);
    let key = Choice { message: &message, correlation_id, table: parsed, bytes: &plain }.key(&rule);
    let routing_key = &message.routing_key;
    let implied = key.as_ref().map_or(&[][..], |key| key) == &routing_key[..];
    if key != record.key || told == implied || routing_key.len() > SHORT_MAX {
        return None;
    }
    // That one would be stored otherwise.
    if born_in_kafka::restore(&message).is_some() {
        return None;
    }
    let Some(place) = place else { return Some(message) };
    let mut table = plain.to_vec();
    place.put(&mut table);
    Some(AmqpMessage {
        properties: properties::encode(properties, Some(&table), tags.unused_flag)?,
        ..message
    })
}

/// The rule that a record names; `None`: none is named so, or it need not be named.
fn another_rule(text: &Bytes) -> Option<RecordKey> {
    let rule = RecordKey::parse(std::str::from_utf8(text).ok()?)?;
    (rule != RecordKey::default()).then_some(rule)
}

/// Our headers that are no properties: what it was published to, and by which rule it has its key.
const BEFORE_PROPERTIES: usize = 3;
/// Where `amqp.t` stands among our headers.
const TAGS_AT: usize = NAMES.len() + BEFORE_PROPERTIES;

/// The place of one of our headers among them.
fn position(name: &[u8]) -> Option<usize> {
    if name == EXCHANGE.as_bytes() {
        Some(0)
    } else if name == ROUTING_KEY.as_bytes() {
        Some(1)
    } else if name == RULE.as_bytes() {
        Some(2)
    } else if name == tags::NAME.as_bytes() {
        Some(TAGS_AT)
    } else {
        NAMES.iter().position(|known| name == known.as_bytes()).map(|at| at + BEFORE_PROPERTIES)
    }
}

/// How many headers at the beginning are the publisher's; `None` if ours are none, or not in order.
fn publishers(headers: &[Header], tags: Option<&Tags>) -> Option<usize> {
    let last_tagged = tags.and_then(|tags| tags.list.last()).map(|(index, ..)| *index);
    let (mut at, mut next) = (headers.len(), usize::MAX);
    while at > 0 && last_tagged != Some(at - 1) {
        let Some(position) = position(&headers[at - 1].key).filter(|position| *position < next) else {
            break;
        };
        (at, next) = (at - 1, position);
    }
    let in_range = last_tagged.is_none_or(|last| last < at);
    (at < headers.len() && in_range).then_some(at)
}

/// The table of the publisher's headers.
fn table(headers: &[Header], tags: &Tags) -> Option<Vec<u8>> {
    let mut table = Vec::new();
    let mut list = tags.list.iter().copied().peekable();
    for (index, Header { key, value }) in headers.iter().enumerate() {
        let implied = implied(value.as_deref());
        let is_ours = key.starts_with(OURS);
        let (tag, raw) = match list.next_if(|(at, ..)| *at == index) {
            // A tag that says nothing new was not written by us.
            Some((_, tag, _)) if tag == implied && !is_ours => return None,
            Some((_, tag, raw)) => (tag, raw),
            None if is_ours => return None,
            None => (implied, false),
        };
        if key.len() > SHORT_MAX || is_place(key) {
            return None;
        }
        put_entry(&mut table, key, tag, &from_text(tag, raw, value.as_ref())?);
    }
    list.next().is_none().then_some(table)
}
