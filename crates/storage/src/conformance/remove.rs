//! Trims, discards, replacements and deletions.

use ferrymq_types::{LogId, Offset, OwnerId};

use super::bench::{ALL, Bench, batch, refused, row, same_read, sized};
use crate::{ErrorKind, Find};

async fn bounds(bench: &Bench, start: u64, next: u64) {
    let stat = bench.stat(1).await;
    assert_eq!((stat.start, stat.next), (Offset(start), Offset(next)));
}

pub(super) async fn trim_moves_up_only(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = row(0, &[2, 2, 2]);
    owner.fill(1, &batches).await;
    for (to, start, first) in [(0, 0, 0), (2, 2, 1), (2, 2, 1), (0, 2, 1), (1, 2, 1), (4, 4, 2)] {
        owner.done(vec![owner.trim(1, to)]).await;
        bounds(&bench, start, 6).await;
        bench.holds(1, &batches[first..]).await;
    }
}

pub(super) async fn trim_in_the_middle_of_a_batch(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = row(0, &[4, 4]);
    owner.fill(1, &batches).await;
    owner.done(vec![owner.trim(1, 3)]).await;
    bounds(&bench, 3, 8).await;
    bench.holds(1, &batches).await;
    owner.done(vec![owner.trim(1, 5)]).await;
    bounds(&bench, 5, 8).await;
    bench.holds(1, &batches[1..]).await;
    for from in [0, 4, 5, 7] {
        let read = bench.store().read(LogId(1), Offset(from), Offset::MAX, ALL).await;
        same_read(&read.expect("the log is there"), &batches[1..]);
    }
}

pub(super) async fn no_reuse_after_trim_to_the_end(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    owner.fill(1, &row(0, &[2, 3])).await;
    owner.done(vec![owner.trim(1, 1_000)]).await;
    bounds(&bench, 5, 5).await;
    bench.holds(1, &[]).await;
    let reused = owner.append_at(1, 0, &[batch(0, 1)]);
    refused(owner.commit(vec![reused]).await, ErrorKind::Conflict);
    let claim = owner.claim(&[1]).await[0];
    assert_eq!((claim.start, claim.next), (Offset(5), Offset(5)));
    owner.fill(1, &[batch(5, 1)]).await;
    bench.holds(1, &[batch(5, 1)]).await;
}

pub(super) async fn discard_takes_whole_batches(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let all = row(0, &[2; 10]);
    owner.fill(1, &all).await;
    let mut left = all.clone();
    type Discard = (&'static [(u64, u64)], &'static [u64]);
    let discards: [Discard; 7] = [
        (&[(2, 4)], &[2]),
        (&[(5, 9)], &[6]),
        // A batch across two ranges is inside neither, even if they touch.
        (&[(8, 9), (9, 10)], &[]),
        (&[(12, 14), (11, 15), (16, 16)], &[12]),
        (&[(4, 2), (7, 3)], &[]),
        (&[(18, 1_000), (0, 1)], &[18]),
        (&[(0, 1_000)], &[0, 4, 8, 10, 14, 16]),
    ];
    for (ranges, gone) in discards {
        let op = owner.discard(1, ranges);
        owner.done(vec![op.clone()]).await;
        left.retain(|batch| !gone.contains(&batch.base.0));
        bench.holds(1, &left).await;
        owner.done(vec![op]).await;
        bench.holds(1, &left).await;
    }
}

pub(super) async fn discard_does_not_move_bounds(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = row(0, &[1; 6]);
    owner.fill(1, &batches).await;
    owner.done(vec![owner.discard(1, &[(0, 2), (4, 6)])]).await;
    bounds(&bench, 0, 6).await;
    bench.holds(1, &batches[2..4]).await;
    owner.done(vec![owner.trim(1, 3)]).await;
    bounds(&bench, 3, 6).await;
    bench.holds(1, &batches[3..4]).await;
    owner.fill(1, &[batch(6, 1)]).await;
    bench.holds(1, &[batch(3, 1), batch(6, 1)]).await;
    // Behind the end nothing is there, and what comes there later stays.
    owner.done(vec![owner.discard(1, &[(7, 100)])]).await;
    owner.fill(1, &[batch(7, 1)]).await;
    bench.holds(1, &[batch(3, 1), batch(6, 1), batch(7, 1)]).await;
}

pub(super) async fn replace_compacts(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    owner.fill(1, &row(0, &[2, 2, 2, 2, 2])).await;
    let outside = [
        owner.replace(1, 2, 6, &[batch(1, 2)]),
        owner.replace(1, 2, 6, &[batch(4, 3)]),
        owner.replace(1, 2, 6, &[batch(4, 1), batch(2, 1)]),
        owner.replace(1, 2, 6, &[batch(2, 0)]),
    ];
    for op in outside {
        refused(owner.commit(vec![op]).await, ErrorKind::InvalidArgument);
    }
    // [1..7) holds batches 2 and 4 wholly, and parts of 0 and 6, which stay.
    let small = sized(2, 4, 99, 5);
    owner.done(vec![owner.replace(1, 1, 7, std::slice::from_ref(&small))]).await;
    let [first, sixth, eighth] = [0, 6, 8].map(|base| batch(base, 2));
    bench.holds(1, &[first.clone(), small.clone(), sixth, eighth]).await;
    let found = bench.store().find(LogId(1), Find::MaxTimestamp).await.expect("the log is there");
    assert_eq!(found.map(|head| head.base), Some(Offset(2)));
    // The tail may go; the next offset stays.
    owner.done(vec![owner.replace(1, 6, 10, &[batch(7, 1)])]).await;
    bench.holds(1, &[first, small, batch(7, 1)]).await;
    bounds(&bench, 0, 10).await;
    owner.done(vec![owner.replace(1, 0, 10, &[])]).await;
    bench.holds(1, &[]).await;
    bounds(&bench, 0, 10).await;
    owner.fill(1, &[batch(10, 1)]).await;
    owner.done(vec![owner.replace(1, 0, 5, &[])]).await;
    bench.holds(1, &[batch(10, 1)]).await;
}

pub(super) async fn replace_keeps_epochs(bench: Bench) {
    let mut epochs = Vec::new();
    for turn in 0..3u64 {
        let mut owner = bench.owner(u128::from(turn), &[1]).await;
        owner.fill(1, &row(turn * 4, &[2, 2])).await;
        epochs.push(owner.epochs[&LogId(1)]);
    }
    let owner = bench.owner(9, &[1]).await;
    owner.done(vec![owner.replace(1, 0, 10, &[batch(1, 2), batch(3, 2), batch(8, 1)])]).await;
    let found: Vec<_> = bench.heads(1).await.into_iter().map(|head| (head.base.0, head.epoch)).collect();
    assert_eq!(found, [(1, epochs[0]), (3, epochs[0]), (8, epochs[2]), (10, epochs[2])]);
}

pub(super) async fn replace_brings_nothing_back(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    owner.fill(1, &row(0, &[2, 2, 2, 2])).await;
    owner.done(vec![owner.trim(1, 2), owner.discard(1, &[(4, 6)])]).await;
    let stale = [
        vec![batch(0, 1)],
        vec![batch(0, 4)],
        vec![batch(2, 2), batch(5, 1)],
        vec![batch(2, 3)],
        vec![batch(8, 1)],
    ];
    for batches in stale {
        let op = owner.replace(1, 0, 20, &batches);
        refused(owner.commit(vec![op]).await, ErrorKind::Conflict);
    }
    // A batch that reaches out of the range is not replaced, so nothing may lie in it.
    let op = owner.replace(1, 3, 8, &[batch(3, 1)]);
    refused(owner.commit(vec![op]).await, ErrorKind::Conflict);
    bench.holds(1, &[batch(2, 2), batch(6, 2)]).await;
    // Over a hole it may reach, if both ends are replaced.
    owner.done(vec![owner.replace(1, 0, 20, &[batch(3, 4)])]).await;
    bench.holds(1, &[batch(3, 4)]).await;
}

pub(super) async fn delete_is_for_good(mut bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2]).await;
    owner.fill(1, &row(0, &[1, 1])).await;
    owner.fill(2, &row(0, &[1])).await;
    owner.done(vec![owner.delete(1)]).await;
    for reopened in [false, true] {
        if reopened {
            owner.store = std::sync::Arc::new(crate::MemoryStore::new());
            if !bench.reopen().await {
                break;
            }
            owner = bench.owner(1, &[2]).await;
        }
        let store = bench.store();
        refused(store.read(LogId(1), Offset(0), Offset::MAX, ALL).await, ErrorKind::NotFound);
        refused(store.headers(LogId(1), Offset(0), 1, 0).await, ErrorKind::NotFound);
        refused(store.find(LogId(1), Find::MaxTimestamp).await, ErrorKind::NotFound);
        refused(store.stat(LogId(1)).await, ErrorKind::NotFound);
        refused(store.claim(vec![LogId(1)], OwnerId(1)).await, ErrorKind::NotFound);
        let late = owner.append(1, &[batch(2, 1)]);
        refused(owner.commit(vec![late]).await, ErrorKind::NotFound);
        refused(owner.commit(vec![owner.delete(1)]).await, ErrorKind::NotFound);
        bench.holds(2, &row(0, &[1])).await;
    }
}
