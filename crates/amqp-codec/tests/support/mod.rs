//! What several tests need: random numbers that come back, valid inputs, and a look into everything.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{
    Array, BasicProperties, ContentHeader, DecodeError, FrameKind, FrameRef, Method, Properties, Table,
    TableBuilder, ValueRef,
};

/// Random numbers from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn bool(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()[0]).take(len).collect()
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Frames written by others, and a publish with a value of every type among its headers.
pub(crate) fn valid_frames() -> Vec<Vec<u8>> {
    let rabbitmqs = include_str!("../../vectors/rabbitmq.txt").lines().filter(|line| !line.starts_with('#'));
    let rabbitmqs = rabbitmqs.map(|line| line.split_once(' ').unwrap().1);
    let pamqps = include_str!("../../vectors/pamqp.txt").lines().map(|line| line.split_once('\t').unwrap().0);
    let mut frames: Vec<Vec<u8>> = rabbitmqs.chain(pamqps).map(unhex).collect();
    let mut stream = rich_publish();
    while !stream.is_empty() {
        let size = usize::try_from(u32::from_be_bytes(stream[3..7].try_into().unwrap())).unwrap() + 8;
        frames.push(stream.split_to(size).to_vec());
    }
    frames
}

fn rich_publish() -> BytesMut {
    let mut inner = TableBuilder::new();
    inner.push(b"k", ValueRef::Void).unwrap();
    let mut headers = TableBuilder::new();
    for value in [
        ValueRef::Bool(true),
        ValueRef::I8(-1),
        ValueRef::U8(1),
        ValueRef::I16(-1),
        ValueRef::U16(1),
        ValueRef::I32(-1),
        ValueRef::U32(1),
        ValueRef::I64(-1),
        ValueRef::F32(0.5),
        ValueRef::F64(0.5),
        ValueRef::Decimal { scale: 1, value: 2 },
        ValueRef::LongString(b"\xff"),
        ValueRef::Binary(b"\x00"),
        ValueRef::Array(Array::parse(b"VI\0\0\0\x01A\0\0\0\x01V").unwrap()),
        ValueRef::Timestamp(1),
        ValueRef::Table(inner.as_table()),
        ValueRef::Void,
    ] {
        headers.push(b"x", value).unwrap();
    }
    let properties = BasicProperties {
        content_type: Some(b"a/b"),
        content_encoding: Some(b"gzip"),
        headers: Some(headers.as_table()),
        delivery_mode: Some(2),
        priority: Some(1),
        correlation_id: Some(b"c"),
        reply_to: Some(b"r"),
        expiration: Some(b"1"),
        message_id: Some(b"m"),
        timestamp: Some(1),
        kind: Some(b"t"),
        user_id: Some(b"u"),
        app_id: Some(b"a"),
        cluster_id: Some(b"c"),
    };
    let mut bytes = BytesMut::new();
    properties.encode(&mut bytes).unwrap();
    let mut stream = BytesMut::new();
    let publish = basic::Publish { exchange: b"e", routing_key: b"r", mandatory: true, ..Default::default() };
    put_message(&mut stream, 1, &publish, Properties::parse(&bytes).unwrap(), b"body", 4096).unwrap();
    stream
}

/// Decodes a frame's payload and looks at all of it; returns how many bytes of strings and values there are.
pub(crate) fn look_into(frame: &FrameRef<'_>) -> Result<usize, DecodeError> {
    match frame.kind {
        FrameKind::Method => Method::parse(frame.payload).map(|method| look_into_method(&method)),
        FrameKind::Header => ContentHeader::parse(frame.payload).map(|header| {
            let p = header.properties.decode();
            assert_eq!(p.flags(), header.properties.flags() & 0xfffc, "every flag has its value");
            p.headers.map_or(0, look_into_table)
        }),
        FrameKind::Body | FrameKind::Heartbeat => Ok(frame.payload.len()),
    }
}

fn look_into_method(method: &Method<'_>) -> usize {
    match method {
        Method::ConnectionStart(m) => look_into_table(m.server_properties),
        Method::ConnectionStartOk(m) => look_into_table(m.client_properties),
        Method::ExchangeDeclare(m) => look_into_table(m.arguments),
        Method::ExchangeBind(m) => look_into_table(m.arguments),
        Method::ExchangeUnbind(m) => look_into_table(m.arguments),
        Method::QueueDeclare(m) => look_into_table(m.arguments),
        Method::QueueBind(m) => look_into_table(m.arguments),
        Method::QueueUnbind(m) => look_into_table(m.arguments),
        Method::BasicConsume(m) => look_into_table(m.arguments),
        _ => 0,
    }
}

/// Walks over a table and all that lies in it; the walk has to reach the end.
pub(crate) fn look_into_table(table: Table<'_>) -> usize {
    let mut seen = 0;
    for entry in table {
        let length = if matches!(entry.tag(), b'S' | b'x' | b'F' | b'A') { 4 } else { 0 };
        seen += 1 + entry.name().len() + 1 + length + entry.body().len();
        look_into_value(entry.value());
    }
    assert_eq!(seen, table.as_bytes().len(), "a checked table ends where it should");
    seen
}

fn look_into_value(value: ValueRef<'_>) {
    match value {
        ValueRef::Table(table) => assert!(look_into_table(table) <= table.as_bytes().len()),
        ValueRef::Array(array) => array.iter().for_each(look_into_value),
        _ => {}
    }
}
