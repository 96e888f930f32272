//! What is written can be read, is split where it must be, and is all or nothing.

use super::*;
use crate::frame::{FrameReader, FrameRef};
use crate::method::queue;
use crate::properties::BasicProperties;

fn frames(mut stream: &[u8]) -> Vec<FrameRef<'_>> {
    let mut frames = Vec::new();
    while let Some(frame) = FrameReader::new(0).peek(stream).unwrap() {
        stream = &stream[frame.wire_bytes()..];
        frames.push(frame);
    }
    assert!(stream.is_empty());
    frames
}

#[track_caller]
fn check_message(body_bytes: usize, frame_max: u32, expected: &[usize]) {
    let body: Vec<u8> = (0..=250).cycle().take(body_bytes).collect();
    let deliver = basic::Deliver { consumer_tag: b"c", delivery_tag: 1 << 40, ..Default::default() };
    let mut out = BytesMut::from(&HEARTBEAT[..]);
    put_message(&mut out, 3, &deliver, Properties::EMPTY, &body, frame_max).unwrap();
    let frames = frames(&out);
    assert!(frames[1..].iter().all(|frame| frame.channel == 3));
    assert_eq!(Method::parse(frames[1].payload), Ok(Method::BasicDeliver(deliver)));
    let header = ContentHeader::parse(frames[2].payload).unwrap();
    assert_eq!(header.body_size_bytes, body_bytes as u64);
    let parts: Vec<usize> = frames[3..].iter().map(|frame| frame.payload.len()).collect();
    assert_eq!(parts, expected);
    assert!(frames[3..].iter().all(|frame| frame.kind == FrameKind::Body));
    let joined: Vec<u8> = frames[3..].iter().flat_map(|frame| frame.payload).copied().collect();
    assert_eq!(joined, body);
}

#[test]
fn a_body_is_split_by_the_size_of_a_frame() {
    check_message(0, 4096, &[]);
    check_message(1, 4096, &[1]);
    check_message(4088, 4096, &[4088]);
    check_message(4089, 4096, &[4088, 1]);
    check_message(3 * 4088, 4096, &[4088, 4088, 4088]);
    check_message(100_000, 131_072, &[100_000]);
    check_message(100_000, 0, &[100_000]);
    check_message(4089, 1, &[4088, 1]);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let mut out = BytesMut::from(&b"before"[..]);
    let long = [b'x'; 256];
    let bad = basic::Deliver { routing_key: &long, ..Default::default() };
    let error = EncodeError::ShortStringTooLong { size_bytes: 256 };
    assert_eq!(put_method(&mut out, 1, &bad), Err(error));
    assert_eq!(put_any_method(&mut out, 1, &bad.into()), Err(error));
    assert_eq!(put_message(&mut out, 1, &bad, Properties::EMPTY, b"body", 4096), Err(error));
    let properties = [&[0x80, 0, 255][..], &[b'x'; 255]].concat();
    let many = [&[0x20, 0][..], &4000_u32.to_be_bytes(), &[0, b'V'].repeat(2000)].concat();
    assert!(Properties::parse(&properties).is_ok());
    let many = Properties::parse(&many).unwrap();
    let good = basic::Deliver::default();
    assert_eq!(put_message(&mut out, 1, &good, many, b"body", 4096), Ok(()));
    out.truncate(6);
    let more = [&[0x20, 0][..], &4080_u32.to_be_bytes(), &[0, b'V'].repeat(2040)].concat();
    let error = EncodeError::FrameTooLarge { size_bytes: 12 + 2 + 4 + 4080, size_bytes_max: 4088 };
    let more = Properties::parse(&more).unwrap();
    assert_eq!(put_message(&mut out, 1, &good, more, b"body", 4096), Err(error));
    assert_eq!(&out[..], b"before");
}

#[test]
fn a_message_with_everything() {
    let properties = BasicProperties { delivery_mode: Some(2), ..Default::default() };
    let mut bytes = BytesMut::new();
    properties.encode(&mut bytes).unwrap();
    let mut out = BytesMut::new();
    let get_ok = basic::GetOk { delivery_tag: 1, routing_key: b"k", message_count: 5, ..Default::default() };
    put_message(&mut out, 1, &get_ok, Properties::parse(&bytes).unwrap(), b"hi", 4096).unwrap();
    put_method(&mut out, 1, &basic::Ack { delivery_tag: 2, multiple: true }).unwrap();
    put_method(&mut out, 1, &queue::BindOk {}).unwrap();
    put_heartbeat(&mut out);
    let expected = [
        &b"\x01\0\x01\0\0\0\x14\0\x3c\0\x47\0\0\0\0\0\0\0\x01\0\0\x01k\0\0\0\x05\xce"[..],
        b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x02\x10\0\x02\xce",
        b"\x03\0\x01\0\0\0\x02hi\xce",
        b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50\0\0\0\0\0\0\0\x02\x01\xce",
        b"\x01\0\x01\0\0\0\x04\0\x32\0\x15\xce",
        b"\x08\0\0\0\0\0\0\xce",
    ];
    assert_eq!(out, expected.concat());
    assert_eq!(frame_head(FrameKind::Body, 1, 2), [3, 0, 1, 0, 0, 0, 2]);
}
