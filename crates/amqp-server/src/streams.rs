//! Streams at the door: what a consumer asks for, and messages as records of topics.
//!
//! **Invariants.** The mapping is that of `ferrymq_mapping`. A delivery whose headers are larger than a frame that the
//! client takes goes without them, and says so, rather than ending the connection each time it is read: a Kafka client
//! that wrote it knows no such bound.
//!
//! Deliberately absent: what lies in a topic and who reads it (the queues know).

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::{EncodeError, Properties, Table, TableBuilder, ValueRef};
use ferrymq_broker::queues::{
    Delivery, Message, StreamFilter, StreamFrom, StreamPlace, StreamRecord, StreamStart, Translate, Value,
    Wrong,
};
use ferrymq_mapping::{AmqpMessage, FILTER_HEADER, KafkaRecord, Place, place, to_message, to_record};
use ferrymq_types::RecordKey;

use crate::counts;
use crate::deliver::properties_of;

pub(crate) const OFFSET: &str = "x-stream-offset";
pub(crate) const FILTER: &str = "x-stream-filter";
pub(crate) const UNFILTERED: &str = "x-stream-match-unfiltered";
/// Says that headers were left out.
const OMITTED: &[u8] = b"x-headers-omitted";
/// What a frame with a content header holds beside the properties: eight bytes of frame, twelve of header.
const HEADER_BYTES: usize = 20;

/// AMQP's messages as records of topics.
#[derive(Debug, Clone, Copy, Default)]
pub struct AmqpStreams;

impl Translate for AmqpStreams {
    fn record(&self, message: &Message, rule: &RecordKey) -> StreamRecord {
        let Message { exchange, routing_key, properties, body, .. } = message.clone();
        let KafkaRecord { key, value, headers } =
            to_record(&AmqpMessage { exchange, routing_key, properties, body }, rule);
        StreamRecord { key, value, headers }
    }

    fn message(&self, record: StreamRecord, at: StreamPlace) -> Message {
        let StreamRecord { key, value, headers } = record;
        let place = Place { offset: at.offset, partition: at.partition, topic: at.topic.as_deref() };
        let message = to_message(&KafkaRecord { key, value, headers }, at.timestamp_ms, Some(place));
        let AmqpMessage { exchange, routing_key, properties, body } = message;
        Message { exchange, routing_key, properties, body, persistent: true, ..Message::default() }
    }

    fn filter_value<'a>(&self, record: &'a StreamRecord) -> Option<&'a [u8]> {
        let mut named = record.headers.iter().filter(|header| header.key == FILTER_HEADER.as_bytes());
        named.find_map(|header| header.value.as_deref())
    }
}

/// What a consumer's arguments ask of a stream; `given` finds one of them, `now_ms` is the time.
pub(crate) fn asked(
    given: impl Fn(&str) -> Option<Value>,
    now_ms: i64,
) -> Result<StreamFrom, (&'static str, Value, Wrong)> {
    let start = match given(OFFSET) {
        None => StreamStart::default(),
        Some(value) => StreamStart::parse(&value, now_ms).ok_or((OFFSET, value, Wrong::StreamOffset))?,
    };
    let unfiltered = match given(UNFILTERED) {
        None => false,
        Some(Value::Bool(unfiltered)) => unfiltered,
        Some(other) => return Err((UNFILTERED, other, Wrong::Type)),
    };
    let values = match given(FILTER) {
        None => None,
        Some(Value::Text(text)) => Some(vec![Bytes::from(text)]),
        // RabbitMQ looks over what is no text.
        Some(Value::List(list)) => Some(
            list.into_iter()
                .filter_map(|value| if let Value::Text(text) = value { Some(text.into()) } else { None })
                .collect(),
        ),
        Some(other) => return Err((FILTER, other, Wrong::Type)),
    };
    Ok(StreamFrom { start, filter: values.map(|values| StreamFilter { values, unfiltered }) })
}

/// The properties of a delivery that is too large for the client's frames, less its headers; `None`: they fit.
pub(crate) fn shortened(delivery: &Delivery, frame_max: u32) -> Option<BytesMut> {
    let bytes = &delivery.message.properties;
    if frame_max == 0 || bytes.len() + HEADER_BYTES <= frame_max as usize {
        return None;
    }
    without_headers(properties_of(&delivery.message)).ok()
}

/// The properties of a delivery of a queue with its counts; or less its headers, if it is a record of a topic that is too
/// large for the client's frames; `None`: as they are.
pub(crate) fn told(delivery: &Delivery, frame_max: u32) -> Option<BytesMut> {
    counts::told(delivery, frame_max).or_else(|| {
        let is_record = || {
            let headers = properties_of(&delivery.message).headers();
            headers.is_some_and(|headers| headers.get(place::OFFSET.as_bytes()).is_some())
        };
        shortened(delivery, frame_max).filter(|_| is_record())
    })
}

fn without_headers(stored: Properties<'_>) -> Result<BytesMut, EncodeError> {
    let mut headers = TableBuilder::new();
    for entry in stored.headers().unwrap_or(Table::EMPTY) {
        if [place::OFFSET, place::PARTITION].iter().any(|name| name.as_bytes() == entry.name()) {
            headers.push_entry(entry)?;
        }
    }
    headers.push(OMITTED, ValueRef::Bool(true))?;
    let mut properties = stored.decode();
    properties.headers = Some(headers.as_table());
    let mut bytes = BytesMut::new();
    properties.encode(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_broker::queues::Width;

    #[test]
    fn all_forms_of_offsets_are_understood() {
        let now = 10_000_000;
        let int = |value| Value::Int(value, Width::I32);
        let cases = [
            (Value::text("first"), Some(StreamStart::First)),
            (Value::text("last"), Some(StreamStart::Last)),
            (Value::text("next"), Some(StreamStart::Next)),
            (Value::text("1h"), Some(StreamStart::Time(now - 3_600_000))),
            (Value::Timestamp(7), Some(StreamStart::Time(7_000))),
            (int(5), Some(StreamStart::Offset(5))),
            (int(-5), Some(StreamStart::Offset(0))),
            (Value::text("never"), None),
            (Value::text("5"), None),
            (Value::Bool(true), None),
        ];
        for (value, expected) in cases {
            assert_eq!(StreamStart::parse(&value, now), expected, "{value:?}");
        }
    }

    #[test]
    fn headers_larger_than_a_frame_are_left_out() {
        let header = ferrymq_types::Header { key: "big".into(), value: Some(vec![b'v'; 5000].into()) };
        let record = StreamRecord { key: None, value: Some("b".into()), headers: vec![header] };
        let at = StreamPlace { offset: 7, partition: None, topic: None, timestamp_ms: 5 };
        let message = AmqpStreams.message(record, at);
        let delivery = Delivery {
            token: 1,
            offset: ferrymq_types::Offset(0),
            redelivered: false,
            returned: 0,
            failed: None,
            permit: ferrymq_broker::queues::Permit::default(),
            message,
        };
        assert!(shortened(&delivery, 0).is_none() && shortened(&delivery, 131_072).is_none());
        assert!(told(&delivery, 0).is_none() && told(&delivery, 131_072).is_none());
        let short = shortened(&delivery, 4096).unwrap();
        assert_eq!(told(&delivery, 4096), Some(short.clone()));
        let properties = Properties::parse(&short).unwrap();
        let headers = properties.headers().unwrap();
        assert_eq!(headers.get(b"x-stream-offset"), Some(ValueRef::I64(7)));
        assert_eq!(headers.get(OMITTED), Some(ValueRef::Bool(true)));
        assert_eq!(headers.get(b"big"), None);
    }
}
