//! Appends: order, expectations, gaps, classes, and what is visible when.

use ferrymq_types::limits::BATCH_BYTES_MAX;
use ferrymq_types::{Durability, LogId, Offset};
use futures_util::future;

use super::bench::{ALL, Bench, batch, only, refused, row, same_read, sized};
use crate::ErrorKind;

pub(super) async fn reads_back(bench: Bench) {
    let mut owner = bench.owner(1, &[7]).await;
    let batches = row(0, &[1, 5, 2, 1, 1]);
    owner.fill(7, &batches[..1]).await;
    owner.fill(7, &batches[1..4]).await;
    owner.fill(7, &batches[4..]).await;
    bench.holds(7, &batches).await;
    let stat = bench.stat(7).await;
    assert_eq!((stat.start, stat.next), (Offset(0), Offset(10)));
    assert_eq!(stat.epoch, owner.epochs[&LogId(7)]);
}

pub(super) async fn queued_in_order(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2]).await;
    let batches = row(0, &[1; 100]);
    let mut waiting = Vec::new();
    for batch in &batches {
        for log in [1, 2] {
            let op = owner.append(log, std::slice::from_ref(batch));
            waiting.push(owner.send(vec![op]));
        }
    }
    // Waited for from the last to the first: who waits when must not matter.
    waiting.reverse();
    for outcome in future::join_all(waiting).await {
        only(outcome).expect("commits called in order take effect in order");
    }
    bench.holds(1, &batches).await;
    bench.holds(2, &batches).await;
}

pub(super) async fn stale_expectation_conflicts(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    owner.fill(1, &[batch(0, 5)]).await;
    for expect in [0, 4, 6, 100] {
        let op = owner.append_at(1, expect, &[batch(200, 1)]);
        refused(owner.commit(vec![op]).await, ErrorKind::Conflict);
    }
    bench.holds(1, &[batch(0, 5)]).await;
    owner.fill(1, &[batch(5, 1)]).await;
    bench.holds(1, &[batch(0, 5), batch(5, 1)]).await;
}

pub(super) async fn failure_fails_successors(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let first = owner.append(1, &[batch(0, 1)]);
    let wrong = owner.append_at(1, 0, &[batch(1, 1)]);
    let after = owner.append(1, &[batch(2, 1)]);
    let waiting = [first, wrong, after].map(|op| owner.send(vec![op]));
    let mut outcomes = future::join_all(waiting).await.into_iter().map(only);
    outcomes.next().expect("three outcomes").expect("the first is in order");
    refused(outcomes.next().expect("three outcomes"), ErrorKind::Conflict);
    refused(outcomes.next().expect("three outcomes"), ErrorKind::Conflict);
    bench.holds(1, &[batch(0, 1)]).await;
}

pub(super) async fn gaps(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let op = owner.append_at(1, 0, &[batch(10, 2), batch(20, 1)]);
    owner.done(vec![op]).await;
    assert_eq!(bench.stat(1).await.next, Offset(21));
    assert_eq!(bench.stat(1).await.start, Offset(0));
    let op = owner.append_at(1, 21, &[batch(1 << 40, 1)]);
    owner.done(vec![op]).await;
    bench.holds(1, &[batch(10, 2), batch(20, 1), batch(1 << 40, 1)]).await;
    assert_eq!(bench.stat(1).await.next, Offset((1 << 40) + 1));
}

pub(super) async fn outcomes_match_groups(bench: Bench) {
    let mut owner = bench.owner(1, &[0, 1, 2, 3]).await;
    let groups = (0..12u64).map(|i| {
        let (log, turn) = (i % 4, i / 4);
        // In the second turn the odd logs expect the wrong offset, and so their third turn fails too.
        let expect = if turn == 1 && log % 2 == 1 { 77 } else { turn };
        vec![owner.append_at(log, expect, &[batch(turn.max(expect), 1)])]
    });
    let groups: Vec<_> = groups.collect();
    let outcomes = bench.store().commit(groups).await;
    assert_eq!(outcomes.len(), 12);
    for (i, outcome) in outcomes.into_iter().enumerate() {
        if i % 2 == 1 && i >= 4 {
            refused(outcome, ErrorKind::Conflict);
        } else {
            outcome.expect("a group in order is committed whatever becomes of its neighbours");
        }
    }
    bench.holds(0, &row(0, &[1, 1, 1])).await;
    bench.holds(1, &row(0, &[1])).await;
}

pub(super) async fn malformed_is_refused(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    owner.fill(1, &[batch(0, 10)]).await;
    let mut no_bytes = batch(10, 1);
    no_bytes.bytes = bytes::Bytes::new();
    let malformed = [
        vec![],
        vec![batch(10, 0)],
        vec![no_bytes],
        vec![batch(10, 2), batch(11, 1)],
        vec![batch(12, 1), batch(10, 1)],
        vec![batch(10, 1), batch(10, 1)],
        vec![batch(9, 2)],
    ];
    for batches in malformed {
        let op = owner.append_at(1, 10, &batches);
        refused(owner.commit(vec![op]).await, ErrorKind::InvalidArgument);
    }
    let mut too_large = batch(10, 1);
    too_large.bytes = vec![0; BATCH_BYTES_MAX + 1].into();
    let mut too_far = batch(10, 2);
    too_far.base = Offset(Offset::MAX.0 - 1);
    for batches in [[too_large], [too_far]] {
        let op = owner.append_at(1, 10, &batches);
        refused(owner.commit(vec![op]).await, ErrorKind::LimitExceeded);
    }
    bench.holds(1, &[batch(0, 10)]).await;
}

pub(super) async fn every_class_is_read_back(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2]).await;
    let batches = row(0, &[2; 6]);
    let classes = [Durability::Sync, Durability::Os, Durability::Memory];
    for (turn, batch) in batches.iter().enumerate() {
        let op = owner.append_as(1, batch.base.0, std::slice::from_ref(batch), classes[turn % 3]);
        owner.done(vec![op]).await;
        bench.holds(1, &batches[..=turn]).await;
    }
    let mixed: Vec<_> =
        (0..3).map(|i| owner.append_as(2, batches[i].base.0, &batches[i..=i], classes[2 - i])).collect();
    owner.done(mixed).await;
    bench.holds(2, &batches[..3]).await;
}

pub(super) async fn nothing_to_do(bench: Bench) {
    let owner = bench.owner(1, &[1]).await;
    assert!(bench.store().commit(vec![]).await.is_empty());
    owner.done(vec![]).await;
    owner.done(vec![owner.discard(1, &[])]).await;
    bench.holds(1, &[]).await;
}

pub(super) async fn dropped_future_goes_on(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let op = owner.append(1, &[batch(0, 1)]);
    drop(owner.send(vec![op]));
    owner.fill(1, &[batch(1, 1)]).await;
    bench.holds(1, &row(0, &[1, 1])).await;
}

pub(super) async fn shared_and_large_payloads(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2, 3]).await;
    let large = sized(0, 3, 0, 3 << 20);
    let mut slice = batch(3, 1);
    slice.bytes = large.bytes.slice(100..1_000_100);
    let batches = [large, slice, sized(4, 1, 0, 1)];
    for log in [1, 2, 3] {
        owner.fill(log, &batches).await;
    }
    for log in [1, 2, 3] {
        bench.holds(log, &batches).await;
    }
}

pub(super) async fn acknowledged_is_visible(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    for at in 0..50 {
        owner.fill(1, &[batch(at, 1)]).await;
        let read = bench.store().read(LogId(1), Offset(at), Offset::MAX, ALL).await;
        same_read(&read.expect("the log is there"), &[batch(at, 1)]);
        assert_eq!(bench.stat(1).await.next, Offset(at + 1));
    }
}

pub(super) async fn reads_see_a_prefix(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = row(0, &[1; 60]);
    for turn in batches.chunks(6) {
        let (front, back) = turn.split_at(3);
        let ops = [owner.append(1, front), owner.append(1, back)];
        let writes = future::join_all(ops.map(|op| owner.send(vec![op])));
        let read = bench.store().read(LogId(1), Offset::ZERO, Offset::MAX, ALL);
        let (outcomes, read) = future::join(writes, read).await;
        outcomes.into_iter().for_each(|outcome| only(outcome).expect("appends in order"));
        let read = read.expect("the log is there");
        let seen = read.next().map_or(0, |next| next.0);
        // An append of three batches is seen wholly or not at all, and all acknowledged ones are.
        assert!(seen % 3 == 0 && seen >= turn[0].base.0, "{seen} offsets were seen");
        same_read(&read, &batches[..usize::try_from(seen).expect("small")]);
    }
}
