//! What one publish costs to read, and one delivery to write: nanoseconds and allocations.
//!
//! ```text
//! cargo run --release -p ferrymq-amqp-codec --example publish_bench
//! ```
//! Reading is cutting three frames, decoding `basic.publish`, checking the content header with all its
//! headers, and looking at the body. The best of many rounds is shown, because other programs only add.
//!
//! Deliberately absent: sockets, and reading into the buffer.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for humans"
)]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{
    BasicProperties, ContentHeader, FrameKind, FrameReader, Method, Properties, TableBuilder, ValueRef,
};
use ferrymq_runtime::Clock;

const FRAME_MAX: u32 = 131_072;
const MESSAGES: usize = 64;
const ROUNDS: usize = 4000;

fn headers() -> TableBuilder {
    let mut table = TableBuilder::new();
    table.push(b"x-request-id", ValueRef::LongString(b"0192d3a4-5b6c-7d8e")).unwrap();
    table.push(b"attempt", ValueRef::I32(3)).unwrap();
    table.push(b"tenant", ValueRef::LongString(b"acme")).unwrap();
    table
}

fn properties(with_headers: bool) -> BytesMut {
    let headers = headers();
    let mut properties = BasicProperties { delivery_mode: Some(2), ..BasicProperties::default() };
    if with_headers {
        properties.content_type = Some(b"application/json");
        properties.headers = Some(headers.as_table());
        properties.message_id = Some(b"m-0000001");
    }
    let mut out = BytesMut::new();
    properties.encode(&mut out).unwrap();
    out
}

fn publishes(with_headers: bool, body_bytes: usize) -> BytesMut {
    let properties = properties(with_headers);
    let properties = Properties::parse(&properties).unwrap();
    let publish = basic::Publish { exchange: b"orders", routing_key: b"eu.created", ..Default::default() };
    let mut out = BytesMut::new();
    for _ in 0..MESSAGES {
        put_message(&mut out, 1, &publish, properties, &vec![7; body_bytes], FRAME_MAX).unwrap();
    }
    out
}

/// Reads every publish in `input`, borrowed; returns bytes of bodies, so that nothing is left out.
fn read_borrowed(reader: FrameReader, mut input: &[u8]) -> usize {
    let mut body_bytes = 0;
    while let Some(frame) = reader.peek(input).unwrap() {
        match frame.kind {
            FrameKind::Method => {
                let Method::BasicPublish(publish) = Method::parse(frame.payload).unwrap() else { continue };
                body_bytes += black_box(publish).routing_key.len();
            }
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload).unwrap();
                body_bytes += black_box(header).properties.as_bytes().len();
            }
            FrameKind::Body => body_bytes += black_box(frame.payload).len(),
            FrameKind::Heartbeat => {}
        }
        input = &input[frame.wire_bytes()..];
    }
    body_bytes
}

/// As a server would: what is kept (properties and body) becomes a shared slice of the input.
fn read_shared(reader: FrameReader, input: &Bytes) -> usize {
    let mut rest: &[u8] = input;
    let mut body_bytes = 0;
    while let Some(frame) = reader.peek(rest).unwrap() {
        match frame.kind {
            FrameKind::Method => drop(black_box(Method::parse(frame.payload).unwrap())),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload).unwrap();
                body_bytes += black_box(input.slice_ref(header.properties.as_bytes())).len();
            }
            FrameKind::Body => body_bytes += black_box(input.slice_ref(frame.payload)).len(),
            FrameKind::Heartbeat => {}
        }
        rest = &rest[frame.wire_bytes()..];
    }
    body_bytes
}

fn measure(clock: &Clock, name: &str, mut round: impl FnMut() -> usize) {
    let allocations = allocation_counter::measure(|| {
        black_box(round());
    })
    .count_total;
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let began = clock.uptime();
        black_box(round());
        best = best.min((clock.uptime() - began).as_nanos() as f64);
    }
    let each = best / MESSAGES as f64;
    println!("{name:<58} {each:>8.1} ns {:>8.2} allocations", allocations as f64 / MESSAGES as f64);
}

fn main() {
    let clock = Clock::system();
    let reader = FrameReader::new(FRAME_MAX);
    for (with_headers, body_bytes) in [(false, 16), (true, 16), (true, 1024), (true, 16 * 1024)] {
        let input = publishes(with_headers, body_bytes).freeze();
        let what = format!("{} headers, {body_bytes} B", if with_headers { 3 } else { 0 });
        measure(&clock, &format!("read a publish, {what}"), || read_borrowed(reader, &input));
        measure(&clock, &format!("read a publish and keep slices, {what}"), || read_shared(reader, &input));
        let properties = properties(with_headers);
        let properties = Properties::parse(&properties).unwrap();
        let body = vec![7; body_bytes];
        let mut out = BytesMut::with_capacity(MESSAGES * (body_bytes + 2048));
        measure(&clock, &format!("write a delivery, {what}"), || {
            out.clear();
            for delivery_tag in 0..MESSAGES as u64 {
                let deliver = basic::Deliver {
                    consumer_tag: b"ctag1.0123456789abcdef",
                    delivery_tag,
                    redelivered: false,
                    exchange: b"orders",
                    routing_key: b"eu.created",
                };
                put_message(&mut out, 1, &deliver, properties, black_box(&body), FRAME_MAX).unwrap();
            }
            out.len()
        });
    }
    let properties = properties(true);
    let properties = Properties::parse(&properties).unwrap();
    measure(&clock, "look for a header by name and the message id", || {
        let mut found = 0;
        for _ in 0..MESSAGES {
            let properties = black_box(properties);
            found += usize::from(properties.headers().unwrap().get(b"tenant").is_some());
            found += properties.message_id().unwrap().len();
        }
        found
    });
}
