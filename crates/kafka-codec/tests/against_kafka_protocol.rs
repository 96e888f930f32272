//! Both ways against the `kafka-protocol` crate, whose code comes from Kafka 4.1's descriptors.
//!
//! Random valid bytes, written by a third party (the test writer), must decode in both crates to the same
//! fields, and both must encode what they decoded to the very same bytes. That is done for every API and
//! version; `UNKNOWN_TO_THEM` lists the versions that crate does not have.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use bytes::{Bytes, BytesMut};
use ferrymq_kafka_codec::Uuid;
use support::debug_tree::{Tree, parse};
use support::writer::{Random, valid};
use support::{Any, schema};

/// What is newer than Kafka 4.1, or was unstable in it. The Java vectors cover these.
const UNKNOWN_TO_THEM: &[(&str, i16)] = &[
    ("ListOffsetsRequest", 11),
    ("ListOffsetsResponse", 11),
    ("OffsetCommitRequest", 10),
    ("OffsetFetchRequest", 10),
];

/// Fields that are not compared by name: opaque bytes, whose place the re-encoding shows, and fields of
/// theirs alone, the last four of which belong to the unstable InitProducerId 6.
const SKIP: &[&str] = &[
    "records",
    "unknown_tagged_fields",
    "enable_2_pc",
    "keep_prepared_txn",
    "ongoing_txn_producer_id",
    "ongoing_txn_producer_epoch",
];

const ROUNDS: usize = 12;

fn they_decode_and_encode(
    m: &schema::Message,
    version: i16,
    bytes: &Bytes,
) -> Result<(String, Bytes), String> {
    let key = kafka_protocol::messages::ApiKey::try_from(m.key).map_err(|()| "they do not know it")?;
    let mut input = bytes.clone();
    let mut output = BytesMut::new();
    let text = if m.is_request {
        let theirs = kafka_protocol::messages::RequestKind::decode(key, &mut input, version);
        let theirs = theirs.map_err(|e| format!("they do not decode: {e}"))?;
        theirs.encode(&mut output, version).map_err(|e| format!("they do not encode: {e}"))?;
        format!("{theirs:?}")
    } else {
        let theirs = kafka_protocol::messages::ResponseKind::decode(key, &mut input, version);
        let theirs = theirs.map_err(|e| format!("they do not decode: {e}"))?;
        theirs.encode(&mut output, version).map_err(|e| format!("they do not encode: {e}"))?;
        format!("{theirs:?}")
    };
    if !input.is_empty() {
        return Err(format!("they left {} bytes", input.len()));
    }
    Ok((text, output.freeze()))
}

/// Their UUIDs print with hyphens, ours as Kafka prints them.
fn kafka_uuids(tree: Tree) -> Tree {
    match tree {
        Tree::Struct(fields) => Tree::Struct(fields.into_iter().map(|(k, v)| (k, kafka_uuids(v))).collect()),
        Tree::List(list) => Tree::List(list.into_iter().map(kafka_uuids).collect()),
        Tree::Scalar(text) => {
            let hex: String = text.split('-').collect();
            let is_uuid = text.len() == 36 && hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit());
            match u128::from_str_radix(&hex, 16) {
                Ok(number) if is_uuid => Tree::Scalar(Uuid(number.to_be_bytes()).to_string()),
                _ => Tree::Scalar(text),
            }
        }
    }
}

fn compare(m: &schema::Message, version: i16, bytes: &Bytes) -> Result<(), String> {
    let ours = Any::decode(m, version, bytes).map_err(|e| format!("we do not decode: {e}"))?;
    let again = ours.encode(version).map_err(|e| format!("we do not encode: {e}"))?;
    if again != bytes {
        return Err(format!("we encode {again:x?}"));
    }
    let theirs = they_decode_and_encode(m, version, bytes);
    if UNKNOWN_TO_THEM.contains(&(m.name.as_str(), version)) {
        return theirs.map_or(Ok(()), |_| Err("they know it: take it from the list".to_owned()));
    }
    let (their_text, their_bytes) = theirs?;
    if their_bytes != bytes {
        return Err(format!("they encode {their_bytes:x?}"));
    }
    let (our_fields, their_fields) = (parse(&ours.debug(), SKIP), kafka_uuids(parse(&their_text, SKIP)));
    if our_fields != their_fields {
        return Err(format!("fields differ\n  ours   {}\n  theirs {their_text}", ours.debug()));
    }
    Ok(())
}

#[test]
fn same_bytes_and_same_fields() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for m in schema::all() {
        for version in m.versions.clone() {
            let mut random =
                Random(u64::from(m.key.unsigned_abs()) << 16 | u64::from(version.unsigned_abs()));
            for round in 0..ROUNDS {
                let bytes = Bytes::from(valid(&m, version, &mut random));
                compared += 1;
                if let Err(what) = compare(&m, version, &bytes) {
                    failures
                        .push(format!("{} v{version} round {round}: {what}\n  bytes  {bytes:x?}", m.name));
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {compared}:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 4000, "only {compared} messages were compared");
}
