//! Bytes that Kafka's own Java classes wrote (`vectors/`), for every API and version.
//!
//! Each vector must decode and encode back to itself. For the newest version of each message the vector
//! also says which value was put into which field.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use ferrymq_kafka_codec::{ApiKey, Decoder, Encoder, RequestHeader, ResponseHeader};
use support::debug_tree::{Tree, parse};
use support::{Any, schema};

struct Vector {
    name: &'static str,
    version: i16,
    bytes: Bytes,
    fields: Option<&'static str>,
}

fn vectors() -> impl Iterator<Item = Vector> {
    include_str!("../vectors/golden.txt").lines().map(|line| {
        let mut words = line.splitn(4, ' ');
        Vector {
            name: words.next().unwrap(),
            version: words.next().unwrap().parse().unwrap(),
            bytes: hex(words.next().unwrap()),
            fields: words.next(),
        }
    })
}

fn hex(text: &str) -> Bytes {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Does `ours` hold everything that `said` says? Fields that are not said were bytes.
fn assert_holds(ours: &Tree, said: &Tree, context: &str) {
    match (ours, said) {
        (Tree::Struct(ours), Tree::Struct(said)) => {
            for (name, value) in said {
                let field = ours.get(name).unwrap_or_else(|| panic!("{context}: no field {name}"));
                assert_holds(field, value, &format!("{context}.{name}"));
            }
        }
        (Tree::List(ours), Tree::List(said)) => {
            assert_eq!(ours.len(), said.len(), "{context}");
            ours.iter().zip(said).for_each(|(ours, said)| assert_holds(ours, said, context));
        }
        _ => assert_eq!(ours, said, "{context}"),
    }
}

#[test]
fn every_vector_decodes_and_encodes_to_itself() {
    let messages = schema::all();
    let by_name: HashMap<&str, &schema::Message> = messages.iter().map(|m| (m.name.as_str(), m)).collect();
    let mut seen = BTreeSet::new();
    for vector in vectors() {
        let Some(m) = by_name.get(vector.name) else { continue };
        let context = format!("{} v{}", vector.name, vector.version);
        let message =
            Any::decode(m, vector.version, &vector.bytes).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(message.encode(vector.version).as_ref(), Ok(&vector.bytes), "{context}");
        if let Some(fields) = vector.fields {
            assert_holds(&parse(&message.debug(), &[]), &parse(fields, &[]), &context);
        }
        seen.insert((vector.name, vector.version));
    }
    let all = messages.iter().flat_map(|m| m.versions.clone().map(|version| (m.name.as_str(), version)));
    assert_eq!(seen, all.collect(), "a vector for every message and version");
    assert_eq!(messages.len(), 2 * ApiKey::ALL.len());
}

#[test]
fn headers() {
    let mut seen = 0;
    for vector in vectors() {
        let context = format!("{} v{}", vector.name, vector.version);
        let said = |text: String| {
            let Some(fields) = vector.fields else { return };
            // Kafka's names for what we call api_key and api_version.
            let fields = fields.replace("request_api", "api");
            assert_holds(&parse(&text, &[]), &parse(&fields, &[]), &context);
        };
        let mut e = Encoder::new();
        let mut d = Decoder::new(&vector.bytes);
        match (vector.name, vector.version) {
            ("RequestHeader", version) => {
                let header = RequestHeader::decode_as(&mut d, version).unwrap();
                header.encode(&mut e, version).unwrap();
                said(format!("{header:?}"));
            }
            ("ResponseHeader", version) => {
                // ApiVersions always has version 0, DescribeCluster always version 1.
                let api = if version == 0 { ApiKey::ApiVersions } else { ApiKey::DescribeCluster };
                let header = ResponseHeader::decode(&mut d, api, 0).unwrap();
                header.encode(&mut e, version);
                said(format!("{header:?}"));
            }
            _ => continue,
        }
        d.finish().unwrap();
        assert_eq!(e.finish().to_bytes(), vector.bytes, "{context}");
        seen += 1;
    }
    assert_eq!(seen, 4);
}
