//! Hostile bytes: for every API and version, valid messages cut at every byte, with every bit flipped and
//! with a length bomb at every place. Nothing may panic, and nothing may take more memory than a small
//! multiple of the input.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;

use bytes::Bytes;
use ferrymq_kafka_codec::DecodeError;
use support::writer::{Random, crammed, valid};
use support::{Any, schema};

/// Peak memory of a decode, per byte of input.
const MEMORY_PER_BYTE: usize = 64;
/// Peak memory that is always allowed: a struct or two, and the first share of a frame.
const MEMORY_FREE: usize = 4096;

/// Everything that claims to be large, in each of the encodings a length can have.
const BOMBS: &[&[u8]] = &[
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x7f, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0x80, 0x80, 0x80, 0x80, 0x80],
    &[0xff, 0xff, 0x03],
    &[0x00, 0x0f, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
];

/// Runs `test` on three valid messages of every API and version.
fn for_each_valid(salt: u64, mut test: impl FnMut(&schema::Message, i16, Vec<u8>)) {
    for m in schema::all() {
        for version in m.versions.clone() {
            let seed = u64::from(m.key.unsigned_abs()) << 16 | u64::from(version.unsigned_abs());
            let mut random = Random(seed ^ salt << 32);
            // Every bit of a long one takes too long and shows no more than those of a short one.
            let some = std::iter::repeat_with(|| valid(&m, version, &mut random));
            some.filter(|bytes| bytes.len() <= 300).take(3).for_each(|bytes| test(&m, version, bytes));
        }
    }
}

/// Decodes; what decodes must survive a round trip, because the server may hand it on.
fn decode(m: &schema::Message, version: i16, bytes: Vec<u8>) -> Result<Any, DecodeError> {
    let len = bytes.len();
    let bytes = Bytes::from(bytes);
    let mut result = None;
    let memory = allocation_counter::measure(|| result = Some(Any::decode(m, version, &bytes)));
    let peak = usize::try_from(memory.bytes_max).unwrap();
    let allowed = len * MEMORY_PER_BYTE + MEMORY_FREE;
    assert!(peak <= allowed, "{} v{version}: {peak} bytes of memory for {len}: {bytes:x?}", m.name);
    let result = result.expect("it ran");
    if let Ok(message) = &result {
        let again =
            message.encode(version).unwrap_or_else(|e| panic!("{} v{version}: {e}: {bytes:x?}", m.name));
        // Compared as text: a NaN does not equal itself.
        let decoded = Any::decode(m, version, &again).map(|m| m.debug());
        assert_eq!(decoded, Ok(message.debug()), "{} v{version}: {bytes:x?}", m.name);
    }
    result
}

#[test]
fn cut_short_at_every_byte() {
    for_each_valid(1, |m, version, bytes| {
        for len in 0..bytes.len() {
            let result = decode(m, version, bytes[..len].to_vec());
            assert!(result.is_err(), "{} v{version} is whole without its end: {bytes:x?} at {len}", m.name);
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(decode(m, version, longer).err(), Some(DecodeError::TrailingBytes { count: 1 }));
    });
}

#[test]
fn every_bit_flipped() {
    for_each_valid(2, |m, version, bytes| {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _any_answer_will_do = decode(m, version, flipped);
        }
    });
}

#[test]
fn length_bombs_at_every_place() {
    for_each_valid(3, |m, version, bytes| {
        for at in 0..=bytes.len() {
            for bomb in BOMBS {
                let rest = (at + bomb.len()).min(bytes.len());
                let bombed = [&bytes[..at], bomb, &bytes[rest..]].concat();
                let _any_answer_will_do = decode(m, version, bombed);
                let cut = [&bytes[..at], bomb].concat();
                let _any_answer_will_do = decode(m, version, cut);
            }
        }
    });
}

#[test]
fn the_most_memory_per_byte() {
    for m in schema::all() {
        for version in m.versions.clone() {
            for depth in 0..4 {
                let bytes = crammed(&m, version, depth, 2000);
                let result = decode(&m, version, bytes);
                assert!(result.is_ok(), "{} v{version} depth {depth}: {result:?}", m.name);
            }
        }
    }
}

/// Everything the fuzzer was given or found worth keeping, under the same rules.
#[test]
fn the_fuzz_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut seen = 0;
    for (target, is_request) in [("kafka_request", true), ("kafka_response", false)] {
        for entry in fs::read_dir(corpus.join(target)).unwrap() {
            let input = fs::read(entry.unwrap().path()).unwrap();
            let [key, version, body @ ..] = input.as_slice() else { continue };
            let all = schema::all();
            let m = all.iter().find(|m| m.is_request == is_request && m.key == i16::from(*key));
            let Some(m) = m else { continue };
            let _any_answer_will_do = decode(m, i16::from(*version), body.to_vec());
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} inputs were found");
}

/// Valid messages with some bytes changed, cut out, doubled and swapped; the same ones on every run.
#[test]
fn seeded_mutations() {
    let mut random = Random(0x5eed);
    for m in schema::all() {
        for version in m.versions.clone() {
            for _ in 0..1200 {
                let mut bytes = valid(&m, version, &mut random);
                bytes.truncate(2000);
                for _ in 0..=random.below(4) {
                    mutate(&mut bytes, &mut random);
                }
                let _any_answer_will_do = decode(&m, version, bytes);
            }
        }
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
        4 => bytes[a] = [0x00, 0x01, 0x7f, 0x80, 0xff][random.below(5)],
        _ => {
            let bomb = BOMBS[random.below(BOMBS.len())];
            bytes.splice(a..(a + bomb.len()).min(bytes.len()), bomb.iter().copied());
        }
    }
}
