//! Bytes written by others: RabbitMQ's own frames and those of pamqp, a codec in another language.
//!
//! What decodes has to encode to the same bytes, whatever is in it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::{put_any_method, put_body, put_content_header};
use ferrymq_amqp_codec::method::{basic, channel, connection, queue};
use ferrymq_amqp_codec::{ContentHeader, FrameKind, FrameReader, Method, ReplyCode, ValueRef, WireMethod};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Decodes one frame, encodes what was decoded and compares; returns what it was.
fn there_and_back(bytes: &[u8]) -> String {
    let frame = FrameReader::new(131_072).peek(bytes).unwrap().unwrap();
    assert_eq!(frame.wire_bytes(), bytes.len());
    let mut out = BytesMut::new();
    let name = match frame.kind {
        FrameKind::Method => {
            let method = Method::parse(frame.payload).unwrap();
            put_any_method(&mut out, frame.channel, &method).unwrap();
            method.name()
        }
        FrameKind::Header => {
            let ContentHeader { body_size_bytes, properties } = ContentHeader::parse(frame.payload).unwrap();
            put_content_header(&mut out, frame.channel, body_size_bytes, properties, 131_072).unwrap();
            let mut again = BytesMut::new();
            properties.decode().encode(&mut again).unwrap();
            assert_eq!(again, properties.as_bytes(), "no property is lost by taking them apart");
            "header"
        }
        FrameKind::Body => {
            put_body(&mut out, frame.channel, frame.payload, 131_072);
            "body"
        }
        FrameKind::Heartbeat => "heartbeat",
    };
    assert_eq!(out, bytes);
    name.to_owned()
}

fn rabbitmqs_frames() -> Vec<(&'static str, Vec<u8>)> {
    let lines = include_str!("../vectors/rabbitmq.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, hex)| (name, unhex(hex))).collect()
}

/// The payload of RabbitMQ's `number`th frame of that name.
fn rabbitmqs(name: &str, number: usize) -> Vec<u8> {
    let (_, bytes) = rabbitmqs_frames().into_iter().filter(|(found, _)| *found == name).nth(number).unwrap();
    bytes[7..bytes.len() - 1].to_vec()
}

fn parse<'a, M: WireMethod<'a>>(payload: &'a [u8]) -> M {
    let mut d = ferrymq_amqp_codec::Decoder::new(&payload[4..]);
    let method = M::read(&mut d).unwrap();
    d.finish().unwrap();
    method
}

#[test]
fn rabbitmqs_frames_go_there_and_back() {
    let frames = rabbitmqs_frames();
    assert!(frames.len() > 30);
    for (name, bytes) in frames {
        assert_eq!(there_and_back(&bytes), name);
    }
}

#[test]
fn rabbitmqs_greeting_is_understood() {
    let payload = rabbitmqs("connection.start", 0);
    let start: connection::Start<'_> = parse(&payload);
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!((start.mechanisms, start.locales), (&b"AMQPLAIN PLAIN"[..], &b"en_US"[..]));
    let product = start.server_properties.get(b"product");
    assert_eq!(product, Some(ValueRef::LongString(b"RabbitMQ")));
    let Some(ValueRef::Table(capabilities)) = start.server_properties.get(b"capabilities") else {
        panic!("{start:?}");
    };
    assert_eq!(capabilities.get(b"basic.nack"), Some(ValueRef::Bool(true)));
    assert_eq!(capabilities.iter().count(), 9);
    let payload = rabbitmqs("connection.tune", 0);
    let tune = connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    assert_eq!(parse::<connection::Tune>(&payload), tune);
}

#[test]
fn rabbitmqs_deliveries_are_understood() {
    let payload = rabbitmqs("basic.deliver", 0);
    let deliver = basic::Deliver {
        consumer_tag: b"ctag",
        delivery_tag: 2,
        redelivered: true,
        exchange: b"cap.x",
        routing_key: b"a.b",
    };
    assert_eq!(parse::<basic::Deliver<'_>>(&payload), deliver);
    let payload = rabbitmqs("header", 1);
    let header = ContentHeader::parse(&payload).unwrap();
    assert_eq!(header.body_size_bytes, 5);
    assert_eq!(header.properties.content_type(), Some(&b"text/plain"[..]));
    assert_eq!(header.properties.correlation_id(), Some(&b"\xff\xfe"[..]));
    assert_eq!(header.properties.delivery_mode(), Some(2));
    let headers = header.properties.headers().unwrap();
    let entries: Vec<_> = headers.iter().map(|entry| (entry.name(), entry.tag(), entry.value())).collect();
    let expected = [
        (&b"b"[..], b'I', ValueRef::I32(5)),
        (b"a", b'S', ValueRef::LongString(b"\xc3\x28")),
        (b"b", b'L', ValueRef::I64(7)),
        (b"\xff\xfe", b'V', ValueRef::Void),
    ];
    assert_eq!(entries, expected);
}

#[test]
fn rabbitmqs_answers_are_understood() {
    let payload = rabbitmqs("queue.declare-ok", 1);
    let ok = queue::DeclareOk { queue: b"cap.q", message_count: 2, consumer_count: 0 };
    assert_eq!(parse::<queue::DeclareOk<'_>>(&payload), ok);
    let payload = rabbitmqs("basic.return", 0);
    let returned =
        basic::Return { reply_code: 312, reply_text: b"NO_ROUTE", exchange: b"cap.x", routing_key: b"nope" };
    assert_eq!(parse::<basic::Return<'_>>(&payload), returned);
    let payload = rabbitmqs("channel.close", 0);
    let close: channel::Close<'_> = parse(&payload);
    let text = ReplyCode::PreconditionFailed.text(
        "inequivalent arg 'x-max-length' for queue 'cap.q' in vhost '/': received '11' but current is '10'",
    );
    assert_eq!((close.reply_code, close.reply_text), (406, text.as_bytes()));
    assert_eq!((close.class_id, close.method_id), (50, 10));
}

#[test]
fn pamqps_methods_go_there_and_back() {
    let mut count = 0;
    for line in include_str!("../vectors/pamqp.txt").lines() {
        let (hex, seen) = line.split_once('\t').unwrap();
        let bytes = unhex(hex);
        there_and_back(&bytes);
        let method = Method::parse(&bytes[7..bytes.len() - 1]).unwrap();
        assert_eq!(format!("{method:?}"), seen);
        count += 1;
    }
    assert_eq!(count, 64);
}
