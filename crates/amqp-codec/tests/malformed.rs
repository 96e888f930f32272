//! Hostile bytes: valid frames cut at every byte, with every bit flipped, with a length bomb at every place,
//! and mutated. Nothing may panic, and reading may allocate nothing at all.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_any_method;
use ferrymq_amqp_codec::{
    ContentHeader, DecodeError, FieldTable, FrameKind, FrameReader, FrameRef, Method, Properties, Table,
};
use support::{Random, look_into, look_into_table, valid_frames};

/// Everything that claims to be large.
const BOMBS: &[&[u8]] = &[
    &[0xff],
    &[0x7f, 0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0, 0, 0xff, 0xff],
    &[b'F', 0, 0, 0, 0xff],
    &[b'A', 0xff, 0xff, 0xff, 0xff],
];

/// Reads a frame under the rules: no panic, no allocation, and what was read survives being written.
fn read(kind: FrameKind, payload: &[u8]) -> Result<(), DecodeError> {
    let frame = FrameRef { kind, channel: 1, payload };
    let mut result = Ok(0);
    let memory = allocation_counter::measure(|| result = look_into(&frame));
    assert_eq!(memory.count_total, 0, "reading allocated: {payload:x?}");
    result?;
    match kind {
        FrameKind::Method => {
            let method = Method::parse(payload).unwrap();
            let mut out = BytesMut::new();
            put_any_method(&mut out, 1, &method).unwrap();
            assert_eq!(Method::parse(&out[7..out.len() - 1]), Ok(method), "{payload:x?}");
        }
        FrameKind::Header => {
            let properties = ContentHeader::parse(payload).unwrap().properties;
            let mut out = BytesMut::new();
            properties.decode().encode(&mut out).unwrap();
            assert_eq!(Properties::parse(&out).unwrap().decode(), properties.decode(), "{payload:x?}");
            check_owned(properties.headers().unwrap_or_default());
        }
        FrameKind::Body | FrameKind::Heartbeat => {}
    }
    Ok(())
}

/// A table that is kept takes memory in proportion, and says the same.
fn check_owned(table: Table<'_>) {
    let mut owned = FieldTable::new();
    let memory = allocation_counter::measure(|| owned = FieldTable::from(table));
    let allowed = 24 * u64::try_from(table.as_bytes().len()).unwrap();
    assert!(memory.bytes_max <= allowed, "{} bytes for {table:?}", memory.bytes_max);
    let again = owned.to_builder().unwrap();
    assert_eq!(format!("{:?}", again.as_table()), format!("{table:?}"));
}

fn parts(bytes: &[u8]) -> (FrameKind, &[u8]) {
    let frame = FrameReader::new(131_072).peek(bytes).unwrap().unwrap();
    (frame.kind, frame.payload)
}

#[test]
fn cut_short_at_every_byte() {
    for bytes in valid_frames() {
        for len in 0..bytes.len() {
            assert_eq!(FrameReader::new(131_072).peek(&bytes[..len]), Ok(None), "{bytes:x?} at {len}");
        }
        let (kind, payload) = parts(&bytes);
        if kind == FrameKind::Body {
            continue;
        }
        assert_eq!(read(kind, payload), Ok(()));
        for len in 0..payload.len() {
            assert!(read(kind, &payload[..len]).is_err(), "whole without its end: {payload:x?} at {len}");
        }
        let longer = [payload, &[0]].concat();
        assert_eq!(read(kind, &longer), Err(DecodeError::TrailingBytes { count: 1 }));
    }
}

#[test]
fn every_bit_flipped() {
    for bytes in valid_frames() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(frame)) = FrameReader::new(4096).peek(&flipped) {
                let _any_answer_will_do = read(frame.kind, frame.payload);
            }
        }
    }
}

#[test]
fn length_bombs_at_every_place() {
    for bytes in valid_frames() {
        let (kind, payload) = parts(&bytes);
        for at in 0..=payload.len() {
            for bomb in BOMBS {
                let rest = (at + bomb.len()).min(payload.len());
                let _any_answer_will_do = read(kind, &[&payload[..at], bomb, &payload[rest..]].concat());
                let _any_answer_will_do = read(kind, &[&payload[..at], bomb].concat());
                let _any_answer_will_do = read(kind, &[&payload[..at], bomb, &payload[at..]].concat());
            }
        }
    }
}

#[test]
fn the_most_memory_per_byte() {
    // The smallest entry of a table, the smallest value of an array, and both in many layers.
    check_owned(Table::parse(&b"\0V".repeat(5000)).unwrap());
    let many = [b"\0A\0\0\x27\x10", &b"V".repeat(10_000)[..]].concat();
    check_owned(Table::parse(&many).unwrap());
    let empty = b"\0F\0\0\0\0".repeat(3000);
    check_owned(Table::parse(&empty).unwrap());
}

#[test]
fn seeded_mutations() {
    let mut random = Random(0x5eed);
    let frames = valid_frames();
    for _ in 0..200_000 {
        let mut bytes = frames[random.below(frames.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        if let [kind @ (1 | 2), _, _, _, _, _, _, payload @ .., _] = &bytes[..] {
            let _any_answer_will_do = read(FrameKind::from_octet(*kind).unwrap(), payload);
        }
        let _any_answer_will_do = FrameReader::new(4096).peek(&bytes);
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let (a, b) = (random.below(bytes.len()), random.below(bytes.len()));
    let (from, to) = (a.min(b), a.max(b));
    match random.below(6) {
        0 => bytes[a] = random.next().to_le_bytes()[0],
        1 => bytes.swap(a, b),
        2 => drop(bytes.drain(from..to)),
        3 => {
            let piece = bytes[from..to].to_vec();
            bytes.splice(a..a, piece);
        }
        4 => bytes[a] = b"tbBsuIilLfdDSxATFV\x00\x01\x7f\x80\xff"[random.below(23)],
        _ => {
            let bomb = BOMBS[random.below(BOMBS.len())];
            bytes.splice(a..(a + bomb.len()).min(bytes.len()), bomb.iter().copied());
        }
    }
}

/// Everything the fuzzer was given or found worth keeping, under the same rules.
#[test]
fn the_fuzz_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut seen = 0;
    for entry in fs::read_dir(corpus.join("amqp_frames")).unwrap() {
        let input = Bytes::from(fs::read(entry.unwrap().path()).unwrap());
        let mut rest: &[u8] = &input;
        while let Ok(Some(frame)) = FrameReader::new(131_072).peek(rest) {
            let _any_answer_will_do = read(frame.kind, frame.payload);
            rest = &rest[frame.wire_bytes()..];
        }
        seen += 1;
    }
    for entry in fs::read_dir(corpus.join("amqp_table")).unwrap() {
        let input = fs::read(entry.unwrap().path()).unwrap();
        if let Ok(table) = Table::parse(&input) {
            look_into_table(table);
            check_owned(table);
        }
        seen += 1;
    }
    assert!(seen > 60, "only {seen} inputs were found");
}
