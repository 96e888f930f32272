//! One message, two shapes: an AMQP 0-9-1 message as a Kafka record, and a Kafka record as an AMQP message.
//!
//! ```text
//!  AMQP-born:   exchange, routing key, properties, body ──[to_record]──▶ key, value, headers ──[to_message]──▶ the same
//!  Kafka-born:  key, value, headers ──[to_message]──▶ a message ── republished ──[to_record]──▶ the same
//! ```
//! What lies in a topic is always the record: Kafka clients read headers by their names, and what AMQP has besides
//! stands in headers whose names begin with `amqp.`:
//!
//! | AMQP | record |
//! |--|--|
//! | body | value, as it is; an empty body is an empty value, never null |
//! | exchange | `amqp.exchange`, unless it is the default exchange |
//! | routing key | the key, if it was published to an exchange with a name; otherwise `amqp.rk` |
//! | - | another rule for the key, as a topic may have: `amqp.key` (`header:NAME`, `correlation_id`, `none`) |
//! | header `x-kafka-key` | the key instead (`V`: none); the header is kept as well |
//! | headers | headers of the same names in the same order; text and bytes as they are, numbers in decimal digits, `true`, `false`, the rest as AMQP encodes it |
//! | content type, delivery mode, ... | `amqp.content_type`, `amqp.delivery_mode`, ...; only those that are there |
//! | types of headers | `amqp.t`, where they are not what a reader would take them for; see `born_in_amqp` |
//!
//! Reading order: [`place`] (what the broker adds to a delivery), `born_in_amqp`, `born_in_kafka`, `value`, `properties`.
//!
//! **Invariants.**
//! - [`to_record`] after [`to_message`] is the same record, whatever record it was, if the rule for keys is the same (but for its timestamp, which is that
//!   of whoever stores it).
//! - [`to_message`] after [`to_record`] is the same message to the last byte, less what [`place`] adds; unless the message
//!   has the very form of a Kafka-born one: then only its routing key, exchange and timestamp differ. Whether there was an
//!   empty table of headers or none is not known any more of what was delivered and is published again.
//! - Pure, total, and bounded: what is made is at most a few times as large as what it is made of.
//!
//! Deliberately absent: batches, compression, where a record is stored, which headers a broker looks at.

#![forbid(unsafe_code)]

mod born_in_amqp;
mod born_in_kafka;
pub mod place;
mod properties;
mod tags;
mod value;

use bytes::Bytes;
use ferrymq_types::RecordKey;
use ferrymq_types::record::Header;

pub use place::Place;

/// The header that names the key of the record, both ways.
pub const KEY_HEADER: &str = "x-kafka-key";
/// The header that consumers of streams filter by.
pub const FILTER_HEADER: &str = "x-stream-filter-value";

/// An AMQP 0-9-1 message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AmqpMessage {
    /// The exchange it was published to; at most 255 bytes.
    pub exchange: Bytes,
    /// The routing key it was published with; at most 255 bytes.
    pub routing_key: Bytes,
    /// Its properties as in a content header, checked by `ferrymq_amqp_codec::Properties::parse`.
    pub properties: Bytes,
    /// Its body.
    pub body: Bytes,
}

/// What of a Kafka record is a client's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KafkaRecord {
    /// The key; may be null.
    pub key: Option<Bytes>,
    /// The value; may be null (a tombstone).
    pub value: Option<Bytes>,
    /// Headers, in order, duplicates kept.
    pub headers: Vec<Header>,
}

impl KafkaRecord {
    /// The value of the first header of this name that has one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        let mut found = self.headers.iter().filter(|header| header.key == name.as_bytes());
        found.find_map(|header| header.value.as_ref())
    }
}

/// The record that a published message is stored as; `rule` says what its key is, unless it was a record before.
/// Properties that cannot be read count as none.
#[must_use]
pub fn to_record(message: &AmqpMessage, rule: &RecordKey) -> KafkaRecord {
    born_in_kafka::restore(message).unwrap_or_else(|| born_in_amqp::encode(message, rule))
}

/// The message that a record is delivered as. `timestamp_ms` is the record's; `place`, where it lies, is told in headers
/// of its own.
#[must_use]
pub fn to_message(record: &KafkaRecord, timestamp_ms: i64, place: Option<Place<'_>>) -> AmqpMessage {
    match born_in_amqp::decode(record, place) {
        Some(message) => message,
        None => born_in_kafka::encode(record, timestamp_ms, place),
    }
}
