//! Properties of the whole, over arbitrary values: tables, properties, streams.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{
    BasicProperties, ContentHeader, DecodeError, FieldTable, Frame, FrameKind, FrameReader, Method,
    Properties, Table, TableBuilder, Value,
};
use proptest::prelude::*;

fn bytes(most: usize) -> impl Strategy<Value = Box<[u8]>> {
    prop::collection::vec(any::<u8>(), 0..=most).prop_map(Vec::into_boxed_slice)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<(u8, u32)>().prop_map(|(scale, value)| Value::Decimal { scale, value }),
        bytes(40).prop_map(Value::LongString),
        bytes(40).prop_map(Value::Binary),
        any::<u64>().prop_map(Value::Timestamp),
        Just(Value::Void),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|values| Value::Array(values.into())),
            prop::collection::vec((name(), inner), 0..6).prop_map(|entries| Value::Table(table_of(entries))),
        ]
    })
}

/// Few different names, so that some come twice.
fn name() -> impl Strategy<Value = Box<[u8]>> {
    prop_oneof![bytes(1), bytes(255)]
}

fn table_of(entries: Vec<(Box<[u8]>, Value)>) -> FieldTable {
    let mut table = FieldTable::new();
    for (name, value) in entries {
        table.push(&name, value);
    }
    table
}

fn table() -> impl Strategy<Value = FieldTable> {
    prop::collection::vec((name(), value()), 0..8).prop_map(table_of)
}

type Strings = [Option<Box<[u8]>>; 10];

fn strings() -> impl Strategy<Value = Strings> {
    prop::array::uniform10(prop::option::of(bytes(255)))
}

fn properties_of<'a>(
    strings: &'a Strings,
    octets: [Option<u8>; 2],
    timestamp: Option<u64>,
    headers: Option<Table<'a>>,
) -> BasicProperties<'a> {
    let [a, b, c, d, e, f, g, h, i, j] = strings.each_ref().map(Option::as_deref);
    BasicProperties {
        content_type: a,
        content_encoding: b,
        headers,
        delivery_mode: octets[0],
        priority: octets[1],
        correlation_id: c,
        reply_to: d,
        expiration: e,
        message_id: f,
        timestamp,
        kind: g,
        user_id: h,
        app_id: i,
        cluster_id: j,
    }
}

/// Everything in `stream`, cut by [`FrameReader::peek`].
fn whole(stream: &[u8]) -> (Vec<Frame>, Option<DecodeError>) {
    let (mut frames, mut rest) = (Vec::new(), stream);
    loop {
        match FrameReader::new(4096).peek(rest) {
            Ok(Some(frame)) => {
                let payload = Bytes::copy_from_slice(frame.payload);
                frames.push(Frame { kind: frame.kind, channel: frame.channel, payload });
                rest = &rest[frame.wire_bytes()..];
            }
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

/// The same, as it comes in pieces that end at `cuts`, by [`FrameReader::next`].
fn in_pieces(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<DecodeError>) {
    let (mut frames, mut buffer, mut from) = (Vec::new(), BytesMut::new(), 0);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.push(stream.len());
    cuts.sort_unstable();
    for to in cuts {
        buffer.extend_from_slice(&stream[from..to]);
        from = to;
        loop {
            match FrameReader::new(4096).next(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_come_back_with_order_and_duplicates(table in table()) {
        let built = table.to_builder().unwrap();
        let parsed = Table::parse(built.as_table().as_bytes()).unwrap();
        support::look_into_table(parsed);
        // Compared as text: a NaN does not equal itself.
        prop_assert_eq!(format!("{:?}", FieldTable::from(parsed)), format!("{table:?}"));
        let mut copy = TableBuilder::new();
        for entry in parsed {
            copy.push_entry(entry).unwrap();
            prop_assert_eq!(
                format!("{:?}", parsed.get(entry.name())),
                format!("{:?}", parsed.iter().find(|e| e.name() == entry.name()).map(|e| e.value()))
            );
        }
        prop_assert_eq!(copy.as_table(), parsed);
    }

    #[test]
    fn properties_come_back(
        strings in strings(),
        octets: [Option<u8>; 2],
        timestamp: Option<u64>,
        headers in prop::option::of(table()),
    ) {
        let headers = headers.map(|headers| headers.to_builder().unwrap());
        let headers = headers.as_ref().map(TableBuilder::as_table);
        let properties = properties_of(&strings, octets, timestamp, headers);
        let mut out = BytesMut::new();
        properties.encode(&mut out).unwrap();
        let parsed = Properties::parse(&out).unwrap();
        prop_assert_eq!(parsed.decode(), properties);
        prop_assert_eq!(parsed.as_bytes(), &out[..]);
        for len in 0..out.len() {
            prop_assert!(Properties::parse(&out[..len]).is_err());
        }
    }

    #[test]
    fn messages_come_back_however_they_are_cut(
        strings in strings(),
        body in prop::collection::vec(any::<u8>(), 0..10_000),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        channel: u16,
        mandatory: bool,
    ) {
        let mut properties = BytesMut::new();
        properties_of(&strings, [None, Some(1)], None, None).encode(&mut properties).unwrap();
        let properties = Properties::parse(&properties).unwrap();
        let [exchange, routing_key, ..] = strings.each_ref().map(|s| s.as_deref().unwrap_or_default());
        let publish = basic::Publish { exchange, routing_key, mandatory, ..Default::default() };
        let mut stream = BytesMut::new();
        put_message(&mut stream, channel, &publish, properties, &body, 4096).unwrap();
        let (frames, error) = in_pieces(&stream, &cuts);
        prop_assert_eq!((&frames, error), (&whole(&stream).0, None));
        prop_assert!(frames.iter().all(|frame| frame.channel == channel));
        prop_assert_eq!(Method::parse(&frames[0].payload), Ok(Method::BasicPublish(publish)));
        let header = ContentHeader::parse(&frames[1].payload).unwrap();
        prop_assert_eq!((header.body_size_bytes, header.properties), (body.len() as u64, properties));
        let parts: Vec<u8> = frames[2..].iter().flat_map(|frame| frame.payload.to_vec()).collect();
        prop_assert_eq!(parts, body);
        prop_assert!(frames[2..].iter().all(|frame| frame.kind == FrameKind::Body));
    }

    #[test]
    fn any_bytes_are_cut_alike_whole_and_in_pieces(
        seed: u64,
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let mut random = support::Random(seed);
        let mut stream = Vec::new();
        for _ in 0..random.below(6) {
            let len = random.below(30);
            let kind = [1, 2, 3, 8, 8, 9][random.below(6)];
            let len = if kind == 8 && random.bool() { 0 } else { len };
            let channel = u8::from(kind != 8 || random.below(8) == 0);
            stream.extend([kind, 0, channel, 0, 0, 0, u8::try_from(len).unwrap()]);
            stream.extend(random.bytes(len));
            stream.push(if random.below(10) == 0 { 0 } else { 0xce });
        }
        let tail = random.below(10);
        stream.extend(random.bytes(tail));
        prop_assert_eq!(in_pieces(&stream, &cuts), whole(&stream));
    }
}
