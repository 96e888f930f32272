//! Reading, describing and finding.

use ferrymq_types::{LogId, Offset};

use super::bench::{ALL, Bench, batch, refused, row, same_head, same_read, sized};
use crate::{Batch, BatchHead, ErrorKind, Find};

/// `[0..4) [4..5) gap [10..13) [13..15)`, trimmed to 0.
async fn filled(bench: &Bench) -> Vec<Batch> {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = [row(0, &[4, 1]), row(10, &[3, 2])].concat();
    owner.fill(1, &batches[..2]).await;
    let op = owner.append_at(1, 5, &batches[2..]);
    owner.done(vec![op]).await;
    batches
}

async fn reads(bench: &Bench, from: u64, until: u64, max_bytes: usize, expected: &[Batch]) {
    let read = bench.store().read(LogId(1), Offset(from), Offset(until), max_bytes).await;
    same_read(&read.expect("the log is there"), expected);
}

pub(super) async fn from_where(bench: Bench) {
    let batches = filled(&bench).await;
    let first_read = [(0, 0), (3, 0), (4, 1), (5, 2), (9, 2), (10, 2), (12, 2), (13, 3), (14, 3)];
    for (from, first) in first_read {
        reads(&bench, from, Offset::MAX.0, ALL, &batches[first..]).await;
    }
    for behind in [15, 16, Offset::MAX.0] {
        reads(&bench, behind, Offset::MAX.0, ALL, &[]).await;
    }
    let owner = bench.owner(1, &[1]).await;
    owner.done(vec![owner.trim(1, 10)]).await;
    for from in [0, 4, 9, 10] {
        reads(&bench, from, Offset::MAX.0, ALL, &batches[2..]).await;
    }
}

pub(super) async fn until_where(bench: Bench) {
    let batches = filled(&bench).await;
    for (until, count) in [(0, 0), (1, 1), (4, 1), (5, 2), (10, 2), (11, 3), (13, 3), (14, 4), (99, 4)] {
        reads(&bench, 0, until, ALL, &batches[..count]).await;
    }
    // What counts is where a batch begins, also if it is the one that holds `from`.
    reads(&bench, 12, 11, ALL, &batches[2..3]).await;
    reads(&bench, 12, 10, ALL, &[]).await;
    reads(&bench, 7, 9, ALL, &[]).await;
}

pub(super) async fn at_least_one_batch(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = [sized(0, 1, 0, 100), sized(1, 1, 0, 50), sized(2, 1, 0, 1), sized(3, 1, 0, 500)];
    owner.fill(1, &batches).await;
    for (max_bytes, count) in [(0, 1), (99, 1), (100, 1), (149, 1), (150, 2), (151, 3), (650, 3), (651, 4)] {
        reads(&bench, 0, Offset::MAX.0, max_bytes, &batches[..count]).await;
    }
    reads(&bench, 3, Offset::MAX.0, 1, &batches[3..]).await;
}

pub(super) async fn empty_and_unknown(bench: Bench) {
    let _owner = bench.owner(1, &[1]).await;
    bench.holds(1, &[]).await;
    let read = bench.store().read(LogId(1), Offset(0), Offset::MAX, ALL).await.expect("the log is there");
    assert_eq!((read.bytes(), read.next()), (0, None));
    let finds = [Find::Timestamp(i64::MIN), Find::MaxTimestamp, Find::TailBytes(u64::MAX)];
    for find in finds {
        assert_eq!(bench.store().find(LogId(1), find).await.expect("the log is there"), None);
    }
    let (store, unknown) = (bench.store(), LogId(2));
    refused(store.read(unknown, Offset(0), Offset::MAX, ALL).await, ErrorKind::NotFound);
    refused(store.headers(unknown, Offset(0), 1, 0).await, ErrorKind::NotFound);
    refused(store.stat(unknown).await, ErrorKind::NotFound);
    for find in finds {
        refused(store.find(unknown, find).await, ErrorKind::NotFound);
    }
}

pub(super) async fn heads(bench: Bench) {
    let batches = filled(&bench).await;
    let ask = |from, max, prefix| bench.store().headers(LogId(1), Offset(from), max, prefix);
    for (from, max, expected) in [
        (0, 9, &batches[..]),
        (0, 2, &batches[..2]),
        (3, 1, &batches[..1]),
        (6, 9, &batches[2..]),
        (0, 0, &[]),
        (15, 9, &[]),
    ] {
        for prefix in [0, 1, 7, 20, 1_000] {
            let heads: Vec<BatchHead> = ask(from, max, prefix).await.expect("the log is there");
            assert_eq!(heads.len(), expected.len(), "from {from} at most {max}");
            for (head, batch) in heads.iter().zip(expected) {
                same_head(head, batch);
                assert_eq!(head.prefix, batch.bytes.slice(..prefix.min(20)));
            }
        }
    }
}

pub(super) async fn head_epochs(bench: Bench) {
    let mut epochs = Vec::new();
    for turn in 0..3u64 {
        let mut owner = bench.owner(u128::from(turn), &[1]).await;
        owner.fill(1, &row(turn * 2, &[1, 1])).await;
        epochs.extend([owner.epochs[&LogId(1)]; 2]);
    }
    let found: Vec<_> = bench.heads(1).await.into_iter().map(|head| head.epoch).collect();
    assert_eq!(found, epochs);
}

/// Writes batches of these timestamps and sizes, one offset each.
async fn stamped(bench: &Bench, batches: &[(i64, usize)]) -> Vec<Batch> {
    let mut owner = bench.owner(1, &[1]).await;
    let batches: Vec<Batch> =
        (0..).zip(batches).map(|(base, (stamp, size))| sized(base, 1, *stamp, *size)).collect();
    for batch in &batches {
        owner.fill(1, std::slice::from_ref(batch)).await;
    }
    batches
}

async fn finds(bench: &Bench, what: Find, expected: Option<&Batch>) {
    let found = bench.store().find(LogId(1), what).await.expect("the log is there");
    match (found, expected) {
        (None, None) => {}
        (Some(head), Some(batch)) => {
            same_head(&head, batch);
            assert!(head.prefix.is_empty(), "nobody asked for bytes");
        }
        (found, expected) => panic!("{what:?} found {found:?} and should have found {expected:?}"),
    }
}

pub(super) async fn by_timestamp(bench: Bench) {
    let stamps = [50, 10, 30, -5, 30, 90, 20, i64::MIN];
    let batches = stamped(&bench, &stamps.map(|stamp| (stamp, 20))).await;
    for (at, first) in [(i64::MIN, 0), (10, 0), (50, 0), (51, 5), (90, 5)] {
        finds(&bench, Find::Timestamp(at), Some(&batches[first])).await;
    }
    finds(&bench, Find::Timestamp(91), None).await;
    let owner = bench.owner(1, &[1]).await;
    owner.done(vec![owner.trim(1, 1), owner.discard(1, &[(5, 6)])]).await;
    for (at, first) in [(i64::MIN, Some(1)), (11, Some(2)), (30, Some(2)), (31, None)] {
        finds(&bench, Find::Timestamp(at), first.map(|first: usize| &batches[first])).await;
    }
}

pub(super) async fn by_max_timestamp(bench: Bench) {
    let batches = stamped(&bench, &[(1, 20), (7, 20), (3, 20), (7, 20), (-2, 20)]).await;
    finds(&bench, Find::MaxTimestamp, Some(&batches[1])).await;
    let owner = bench.owner(1, &[1]).await;
    owner.done(vec![owner.trim(1, 2)]).await;
    finds(&bench, Find::MaxTimestamp, Some(&batches[3])).await;
    owner.done(vec![owner.discard(1, &[(2, 4)])]).await;
    finds(&bench, Find::MaxTimestamp, Some(&batches[4])).await;
    owner.done(vec![owner.trim(1, 5)]).await;
    finds(&bench, Find::MaxTimestamp, None).await;
}

pub(super) async fn by_tail_bytes(bench: Bench) {
    let batches = stamped(&bench, &[(0, 40), (0, 30), (0, 10), (0, 20)]).await;
    let first_kept = [(0, None), (19, None), (20, Some(3)), (29, Some(3)), (30, Some(2)), (59, Some(2))];
    let and_more = [(60, Some(1)), (99, Some(1)), (100, Some(0)), (u64::MAX, Some(0))];
    for (bytes, first) in first_kept.into_iter().chain(and_more) {
        finds(&bench, Find::TailBytes(bytes), first.map(|first: usize| &batches[first])).await;
    }
    let owner = bench.owner(1, &[1]).await;
    owner.done(vec![owner.discard(1, &[(2, 3)])]).await;
    finds(&bench, Find::TailBytes(50), Some(&batches[1])).await;
    finds(&bench, Find::TailBytes(49), Some(&batches[3])).await;
    // The order of the answers is the order of offsets, not of appends: nothing is left, nothing is found.
    owner.done(vec![owner.trim(1, 4)]).await;
    finds(&bench, Find::TailBytes(u64::MAX), None).await;
    bench.holds(1, &[]).await;
    let mut owner = bench.owner(1, &[1]).await;
    owner.fill(1, &[batch(4, 1)]).await;
    finds(&bench, Find::TailBytes(20), Some(&batch(4, 1))).await;
}
