//! Records as bytes.
//!
//! **Invariant.** The golden bytes never change: logs hold them.
//!
//! Deliberately absent: fuzzing with coverage; random bytes only.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_runtime::Rng;
use ferrymq_types::{Epoch, Offset};

use super::super::batch::{pack, unpack};
use super::super::record::{CommittedOffset, GroupMetadata, GroupRecord, MemberMetadata, RecordDecodeError};
use super::super::types::Protocol;

fn offset(value: Option<CommittedOffset>) -> GroupRecord {
    GroupRecord::Offset { group: "g".into(), topic: "topic".into(), partition: 7, value }
}

fn committed() -> CommittedOffset {
    CommittedOffset {
        offset: 258,
        leader_epoch: Some(3),
        metadata: "note".into(),
        commit_ms: 1_700_000_000_000,
        expire_ms: None,
        topic_id: Some(*b"0123456789abcdef"),
    }
}

fn classic() -> GroupRecord {
    let member = MemberMetadata {
        id: "m".into(),
        instance_id: Some("i".into()),
        client_id: "c".into(),
        client_host: "h".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"\x01\x02") }],
        assignment: Bytes::from_static(b"\xff"),
    };
    let metadata = GroupMetadata {
        generation: 5,
        protocol_type: Some("consumer".into()),
        protocol: Some("range".into()),
        leader: Some("m".into()),
        since_ms: 9,
        members: vec![member],
    };
    GroupRecord::Classic { group: "g".into(), value: Some(Arc::new(metadata)) }
}

fn all() -> Vec<GroupRecord> {
    let plain = CommittedOffset { leader_epoch: None, topic_id: None, expire_ms: Some(4), ..committed() };
    vec![
        offset(Some(committed())),
        offset(Some(plain)),
        offset(None),
        classic(),
        GroupRecord::Classic { group: "g".into(), value: None },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let record = offset(Some(committed()));
    assert_eq!(hex(&record.encode_key()), "0101016705746f70696300000007");
    assert_eq!(
        hex(&record.encode_value().unwrap()),
        "010000000000000102000000030000018bcfe56800ffffffffffffffff0130313233343536373839616263646566046e6f7465"
    );
    assert_eq!(offset(None).encode_value(), None);
    assert_eq!(hex(&classic().encode_key()), "02010167");
    assert_eq!(
        hex(&classic().encode_value().unwrap()),
        "01000000050108636f6e73756d6572010572616e676501016d000000000000000901016d010169016301680000271000\
         00ea60010572616e67650201020
         1ff"
        .replace([' ', '\n'], "")
    );
}

#[test]
fn what_is_written_is_read() {
    for record in all() {
        let read = GroupRecord::decode(record.encode_key(), record.encode_value()).unwrap();
        assert_eq!(read, record);
    }
}

#[test]
fn what_is_newer_is_refused() {
    for record in all() {
        let (key, value) = (record.encode_key(), record.encode_value());
        for (at, byte) in [(0, 3), (0, 16), (0, 32), (1, 2)] {
            let mut newer = key.to_vec();
            newer[at] = byte;
            let refused = GroupRecord::decode(newer.into(), value.clone());
            assert!(matches!(refused, Err(RecordDecodeError::Unsupported { .. })), "{refused:?}");
        }
        if let Some(value) = value {
            let mut newer = value.to_vec();
            newer[0] = 2;
            let refused = GroupRecord::decode(key, Some(newer.into()));
            assert!(matches!(refused, Err(RecordDecodeError::Unsupported { version: 2, .. })), "{refused:?}");
        }
    }
}

#[test]
fn damaged_bytes_never_panic_and_cuts_are_found() {
    let rng = Rng::seeded(1);
    for record in all() {
        let (key, value) = (record.encode_key(), record.encode_value());
        for cut in 0..key.len() {
            assert!(GroupRecord::decode(key.slice(..cut), value.clone()).is_err());
        }
        let Some(value) = value else { continue };
        for cut in 0..value.len() {
            assert!(GroupRecord::decode(key.clone(), Some(value.slice(..cut))).is_err(), "cut at {cut}");
        }
        let longer: Bytes = [&value[..], b"\0"].concat().into();
        assert!(GroupRecord::decode(key.clone(), Some(longer)).is_err());
        for _ in 0..2000 {
            let mut damaged = value.to_vec();
            for _ in 0..=rng.below(3) {
                let at = usize::try_from(rng.below(damaged.len() as u64)).unwrap();
                damaged[at] = rng.next_u64().to_le_bytes()[0];
            }
            let _any = GroupRecord::decode(key.clone(), Some(damaged.into()));
        }
    }
}

#[test]
fn batches_hold_all_records_in_order() {
    let big = "x".repeat(300_000);
    let records: Vec<GroupRecord> = (0..20u32)
        .map(|partition| GroupRecord::Offset {
            group: "g".into(),
            topic: "t".into(),
            partition,
            value: Some(CommittedOffset { metadata: big.as_str().into(), ..committed() }),
        })
        .collect();
    let batches = pack(&records, Offset(100), Epoch(2), 5);
    assert!(batches.len() > 1);
    let (mut next, mut read) = (Offset(100), Vec::new());
    for batch in batches {
        assert_eq!(batch.base, next);
        next = batch.next();
        unpack(batch.bytes.clone(), |record| read.push(record)).unwrap();
        let mut damaged = batch.bytes.to_vec();
        // Within a note: only the CRC can tell.
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        assert!(unpack(damaged.into(), |_| ()).is_err());
    }
    assert_eq!(next, Offset(120));
    assert_eq!(read, records);
}
