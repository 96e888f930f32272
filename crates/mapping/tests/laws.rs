//! The two laws of the mapping, for any message and any record, and what readers see by name.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::{BasicProperties, Properties, Table, TableBuilder, ValueRef};
use ferrymq_mapping::{AmqpMessage, KafkaRecord, Place, place, to_message, to_record};
use ferrymq_types::RecordKey;
use ferrymq_types::record::Header;
use proptest::prelude::*;

const NAMES: [&str; 25] = [
    "a",
    "b",
    "",
    "ä",
    "amqp.t",
    "amqp.type",
    "amqp.rk",
    "amqp.exchange",
    "amqp.key",
    "amqp.delivery_mode",
    "amqp.timestamp",
    "amqp.other",
    "x-kafka-key",
    "x-kafka-headers",
    "x-kafka-tombstone",
    "x-kafka-partition",
    "x-stream-offset",
    "x-stream-filter-value",
    "timestamp_in_ms",
    "CC",
    "x-death",
    "amqp.content_type",
    "amqp.cluster_id",
    "amqp.app_id",
    "c",
];

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => proptest::sample::select(&NAMES[..]).prop_map(|name| name.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => Just(vec![b'n'; 255]),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..8), "[a-z0-9.!-]{0,6}".prop_map(String::into_bytes)]
}

/// A tag and its bytes as on the wire.
fn value() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let fixed = |tags: &'static [u8], len: usize| {
        (proptest::sample::select(tags), proptest::collection::vec(any::<u8>(), len))
    };
    let special: Vec<(u8, &'static [u8])> = vec![
        (b'f', &[0x7f, 0xc0, 0, 1]),
        (b'f', &[0x7f, 0xc0, 0, 0]),
        (b'f', &[0x80, 0, 0, 0]),
        (b'f', &[0x7f, 0x80, 0, 0]),
        (b'd', &[0x3f, 0xb9, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a]),
        (b'l', &[0xff; 8]),
        (b'T', &[0xff; 8]),
        (b't', &[7]),
        (b'F', &[]),
        (b'A', b"VI\0\0\0\x01A\0\0\0\x01V"),
    ];
    let special = proptest::sample::select(special);
    prop_oneof![
        bytes().prop_map(|body| (b'S', body)),
        bytes().prop_map(|body| (b'x', body)),
        Just((b'V', Vec::new())),
        (0u8..2).prop_map(|bit| (b't', vec![bit])),
        fixed(b"tbB", 1),
        fixed(b"su", 2),
        fixed(b"Iif", 4),
        fixed(b"D", 5),
        fixed(b"lLdT", 8),
        special.prop_map(|(tag, body)| (tag, body.to_vec())),
    ]
}

fn put(table: &mut Vec<u8>, name: &[u8], tag: u8, body: &[u8]) {
    table.push(u8::try_from(name.len()).unwrap());
    table.extend_from_slice(name);
    table.push(tag);
    if b"SxFA".contains(&tag) {
        table.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    }
    table.extend_from_slice(body);
}

fn properties() -> impl Strategy<Value = Bytes> {
    let short = || proptest::option::of(bytes());
    let octet = || proptest::option::of(any::<u8>());
    let table = proptest::option::of(proptest::collection::vec((name(), value()), 0..5));
    let first = (short(), short(), octet(), octet(), short(), short(), short());
    let last = (short(), proptest::option::of(any::<u64>()), short(), short(), short(), short());
    (table, first, last, any::<bool>()).prop_map(|(table, first, last, unused)| {
        let table = table.map(|entries| {
            let mut bytes = Vec::new();
            entries.iter().for_each(|(name, (tag, body))| put(&mut bytes, name, *tag, body));
            bytes
        });
        let all = BasicProperties {
            content_type: first.0.as_deref(),
            content_encoding: first.1.as_deref(),
            headers: table.as_deref().map(|table| Table::parse(table).unwrap()),
            delivery_mode: first.2,
            priority: first.3,
            correlation_id: first.4.as_deref(),
            reply_to: first.5.as_deref(),
            expiration: first.6.as_deref(),
            message_id: last.0.as_deref(),
            timestamp: last.1,
            kind: last.2.as_deref(),
            user_id: last.3.as_deref(),
            app_id: last.4.as_deref(),
            cluster_id: last.5.as_deref(),
        };
        let mut out = BytesMut::new();
        all.encode(&mut out).unwrap();
        out[1] |= u8::from(unused) << 1;
        out.freeze()
    })
}

fn message() -> impl Strategy<Value = AmqpMessage> {
    (bytes(), bytes(), properties(), bytes()).prop_map(|(exchange, routing_key, properties, body)| {
        AmqpMessage {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            properties,
            body: body.into(),
        }
    })
}

fn record() -> impl Strategy<Value = KafkaRecord> {
    let text = proptest::sample::select(
        ["", "h", "u", "uh", "0S", "0I", "1t", "0x1V", "5", "true", "01", "0S2!", "none", "header:a"]
            .as_slice(),
    );
    let any_value = || prop_oneof![bytes(), text.clone().prop_map(|text| text.as_bytes().to_vec())];
    let header = (name(), proptest::option::weighted(0.9, any_value()));
    let long = Just(vec![b'k'; 300]);
    let key = proptest::option::of(prop_oneof![8 => bytes(), 1 => long]);
    (key, proptest::option::of(bytes()), proptest::collection::vec(header, 0..6)).prop_map(
        |(key, value, headers)| KafkaRecord {
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers: headers
                .into_iter()
                .map(|(key, value)| Header { key: key.into(), value: value.map(Bytes::from) })
                .collect(),
        },
    )
}

fn rule() -> impl Strategy<Value = RecordKey> {
    let header = proptest::sample::select(&["a", "b", "amqp.t", "x-kafka-key", "x-stream-offset", "CC"][..]);
    prop_oneof![
        Just(RecordKey::RoutingKey),
        Just(RecordKey::CorrelationId),
        Just(RecordKey::Nothing),
        header.prop_map(|name| RecordKey::Header(name.into())),
    ]
}

/// The rules by which a record may have its key.
fn rules(record: &KafkaRecord) -> Vec<RecordKey> {
    let named = record.headers.iter().filter(|header| header.key == "amqp.key");
    let named = named.filter_map(|header| std::str::from_utf8(header.value.as_ref()?).ok());
    named.filter_map(RecordKey::parse).chain([RecordKey::default()]).collect()
}

/// A record of ours with one thing changed.
fn tampered() -> impl Strategy<Value = KafkaRecord> {
    let all = (message(), rule(), record(), 0..4_u8, any::<prop::sample::Index>());
    all.prop_map(|(message, rule, other, how, at)| {
        let mut record = to_record(&message, &rule);
        let index = at.index(record.headers.len().max(1));
        match how {
            0 => record.key = other.key,
            1 => record.value = other.value,
            2 if index < record.headers.len() => drop(record.headers.remove(index)),
            _ => record.headers.extend(other.headers),
        }
        record
    })
}

/// The message without what the broker adds.
fn less_place(message: &AmqpMessage) -> AmqpMessage {
    let properties = Properties::parse(&message.properties).unwrap();
    let mut all = properties.decode();
    let mut table = TableBuilder::new();
    for entry in all.headers.unwrap_or_default() {
        if ![place::OFFSET, place::PARTITION, place::TOPIC].iter().any(|its| its.as_bytes() == entry.name()) {
            table.push_entry(entry).unwrap();
        }
    }
    let was_empty = all.headers.is_some_and(|table| table.is_empty());
    all.headers = all.headers.map(|_| table.as_table()).filter(|table| was_empty || !table.is_empty());
    let mut out = BytesMut::new();
    all.encode(&mut out).unwrap();
    out[1] |= message.properties[1] & 2;
    AmqpMessage { properties: out.freeze(), ..message.clone() }
}

fn check_record(record: &KafkaRecord, timestamp_ms: i64, place: Option<Place<'_>>) {
    // What is delivered has a table always.
    let had_an_empty_one = record.header("amqp.t").is_some_and(|tags| tags.ends_with(b"h"));
    let place = place.filter(|_| !had_an_empty_one);
    let message = to_message(record, timestamp_ms, place);
    Properties::parse(&message.properties).unwrap();
    let elsewhere = AmqpMessage { exchange: "x".into(), routing_key: "elsewhere".into(), ..message.clone() };
    assert!(
        rules(record).iter().any(|rule| to_record(&message, rule) == *record),
        "{record:?} as {message:?}"
    );
    let born_in_amqp = record.headers.iter().any(|header| header.key.starts_with(b"amqp."));
    if !born_in_amqp {
        for rule in [RecordKey::RoutingKey, RecordKey::Nothing] {
            assert_eq!(to_record(&elsewhere, &rule), *record, "wherever it is republished to");
        }
    }
}

fn places() -> impl Strategy<Value = Option<Place<'static>>> {
    let topic = proptest::option::of(proptest::sample::select(&["t", "a.topic"][..]));
    let place = (any::<u64>(), proptest::option::of(any::<u32>()), topic);
    let place = place.prop_map(|(offset, partition, topic)| Place { offset: offset >> 1, partition, topic });
    proptest::option::of(place)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_published_message_comes_back_to_the_byte(message in message(), rule in rule(), place in places()) {
        let expected = less_place(&message);
        let record = to_record(&message, &rule);
        prop_assert_eq!(&to_message(&record, 5, None), &expected);
        let had_an_empty_one = Properties::parse(&expected.properties).unwrap().headers() == Some(Table::EMPTY);
        let place = place.filter(|_| !had_an_empty_one);
        prop_assert_eq!(less_place(&to_message(&record, 5, place)), expected);
    }

    #[test]
    fn a_produced_record_comes_back_to_the_byte(record in record(), at in any::<i64>(), place in places()) {
        check_record(&record, at, place);
    }

    #[test]
    fn a_record_that_is_nearly_of_ours_comes_back_too(record in tampered(), at in any::<i64>(), place in places()) {
        check_record(&record, at, place);
    }
}

fn text(name: &str, value: &str) -> Header {
    Header {
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

/// The golden form of a published message: topics hold it.
#[test]
fn readers_of_kafka_see_headers_by_name() {
    let mut inner = TableBuilder::new();
    inner.push(b"k", ValueRef::Void).unwrap();
    let mut table = TableBuilder::new();
    for (name, value) in [
        ("text", ValueRef::LongString(b"plain")),
        ("number", ValueRef::I32(-7)),
        ("yes", ValueRef::Bool(true)),
        ("half", ValueRef::F64(0.5)),
        ("when", ValueRef::Timestamp(1_700_000_000)),
        ("nothing", ValueRef::Void),
        ("bytes", ValueRef::Binary(&[0xff, 0])),
        ("text bytes", ValueRef::Binary(b"ascii")),
        ("nested", ValueRef::Table(inner.as_table())),
        ("amqp.mine", ValueRef::LongString(b"m")),
    ] {
        table.push(name.as_bytes(), value).unwrap();
    }
    let all = BasicProperties {
        content_type: Some(b"application/json"),
        headers: Some(table.as_table()),
        delivery_mode: Some(2),
        timestamp: Some(17),
        ..BasicProperties::default()
    };
    let mut properties = BytesMut::new();
    all.encode(&mut properties).unwrap();
    let message = AmqpMessage {
        exchange: "orders".into(),
        routing_key: "eu.new".into(),
        properties: properties.freeze(),
        body: Bytes::new(),
    };
    let record = to_record(&message, &RecordKey::default());
    assert_eq!(record.key.as_deref(), Some(&b"eu.new"[..]));
    assert_eq!(record.value.as_deref(), Some(&b""[..]), "never null");
    let header = |name: &str, value: Option<&'static [u8]>| Header {
        key: Bytes::copy_from_slice(name.as_bytes()),
        value: value.map(Bytes::from_static),
    };
    let expected = vec![
        text("text", "plain"),
        text("number", "-7"),
        text("yes", "true"),
        text("half", "0.5"),
        text("when", "1700000000"),
        header("nothing", None),
        header("bytes", Some(&[0xff, 0])),
        text("text bytes", "ascii"),
        header("nested", Some(b"\x01kV")),
        text("amqp.mine", "m"),
        text("amqp.exchange", "orders"),
        text("amqp.content_type", "application/json"),
        text("amqp.delivery_mode", "2"),
        text("amqp.timestamp", "17"),
        text("amqp.t", "1I2t3d4T7x8F9S"),
    ];
    assert_eq!(record.headers, expected);
    assert_eq!(to_message(&record, 0, None), message);
}

#[test]
fn a_record_of_a_kafka_client_is_a_message_with_its_headers() {
    let record = KafkaRecord {
        key: Some("user-1".into()),
        value: None,
        headers: vec![text("trace", "abc"), text("dup", "1"), text("dup", "2"), text("CC", "x")],
    };
    let place = Place { offset: 9, partition: Some(3), topic: Some("orders") };
    let message = to_message(&record, 1_700_000_000_123, Some(place));
    assert_eq!((&message.exchange[..], &message.routing_key[..]), (&b""[..], &b"user-1"[..]));
    assert!(message.body.is_empty());
    let properties = Properties::parse(&message.properties).unwrap();
    assert_eq!(properties.timestamp(), Some(1_700_000_000));
    let headers = format!("{:?}", properties.headers().unwrap());
    let get = |name: &str| properties.headers().unwrap().get(name.as_bytes());
    assert_eq!(get("trace"), Some(ValueRef::LongString(b"abc")), "{headers}");
    assert_eq!(get("dup"), Some(ValueRef::LongString(b"2")), "the last counts");
    assert_eq!(get("CC"), None, "it would route the message when it is republished");
    assert_eq!(get("x-kafka-key"), Some(ValueRef::LongString(b"user-1")));
    assert_eq!(get("x-kafka-tombstone"), Some(ValueRef::Bool(true)));
    assert_eq!(get("timestamp_in_ms"), Some(ValueRef::I64(1_700_000_000_123)));
    assert_eq!(get("x-stream-offset"), Some(ValueRef::I64(9)));
    assert_eq!(get("x-kafka-partition"), Some(ValueRef::I64(3)));
    assert_eq!(get("x-kafka-topic"), Some(ValueRef::LongString(b"orders")));
    assert!(matches!(get("x-kafka-headers"), Some(ValueRef::Array(_))));
    assert_eq!(to_record(&message, &RecordKey::default()), record);
}

#[test]
fn a_publisher_may_choose_the_key() {
    let mut table = TableBuilder::new();
    table.push(b"x-kafka-key", ValueRef::LongString(b"chosen")).unwrap();
    let all = BasicProperties { headers: Some(table.as_table()), ..BasicProperties::default() };
    let mut properties = BytesMut::new();
    all.encode(&mut properties).unwrap();
    let properties = properties.freeze();
    let message = |exchange: &'static str, properties: &Bytes| AmqpMessage {
        exchange: exchange.into(),
        routing_key: "rk".into(),
        properties: properties.clone(),
        body: "b".into(),
    };
    let key = |message| to_record(&message, &RecordKey::default()).key;
    assert_eq!(key(message("e", &properties)).as_deref(), Some(&b"chosen"[..]));
    let none = Bytes::from_static(&[0, 0]);
    assert_eq!(key(message("e", &none)).as_deref(), Some(&b"rk"[..]));
    assert_eq!(key(message("", &none)), None, "to the default exchange it is an address");
}

#[test]
fn a_topic_may_choose_the_key() {
    let mut table = TableBuilder::new();
    table.push(b"user", ValueRef::I32(7)).unwrap();
    let all = BasicProperties {
        headers: Some(table.as_table()),
        correlation_id: Some(b"id"),
        ..BasicProperties::default()
    };
    let mut properties = BytesMut::new();
    all.encode(&mut properties).unwrap();
    let message = AmqpMessage {
        exchange: Bytes::new(),
        routing_key: "orders".into(),
        properties: properties.freeze(),
        body: "b".into(),
    };
    for (rule, expected) in
        [("header:user", Some("7")), ("header:other", None), ("correlation_id", Some("id")), ("none", None)]
    {
        let record = to_record(&message, &RecordKey::parse(rule).unwrap());
        assert_eq!(record.key.as_deref(), expected.map(str::as_bytes), "{rule}");
        let ours = vec![
            text("user", "7"),
            text("amqp.rk", "orders"),
            text("amqp.key", rule),
            text("amqp.correlation_id", "id"),
            text("amqp.t", "0I"),
        ];
        assert_eq!(record.headers, ours);
        assert_eq!(to_message(&record, 0, None), message);
    }
}
