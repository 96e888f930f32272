//! What a restart keeps. Left out where a store cannot be opened again.

use ferrymq_types::{Durability, LogId, Offset};

use super::bench::{ALL, Bench, batch, refused, row};
use crate::ErrorKind;

pub(super) async fn everything_survives(mut bench: Bench) {
    let mut batches = [Vec::new(), Vec::new(), Vec::new()];
    let mut last = None;
    for turn in 0..4u64 {
        let mut owner = bench.owner(u128::from(turn), &[0, 1, 2]).await;
        for log in 0..3u64 {
            let held = &mut batches[usize::try_from(log).expect("small")];
            bench.holds(log, held).await;
            let more = row(turn * 10 + log, &[2, 1]);
            let expect = if turn == 0 { 0 } else { (turn - 1) * 10 + log + 3 };
            let class = [Durability::Sync, Durability::Os][usize::from(turn % 2 == 1)];
            let op = owner.append_as(log, expect, &more, class);
            owner.done(vec![op]).await;
            held.extend(more);
        }
        last = Some(owner.commit_id());
        drop(owner);
        if !bench.reopen().await {
            return;
        }
    }
    let mut owner = super::bench::Owner::new(bench.store(), 9);
    let claim = owner.claim(&[2]).await[0];
    assert_eq!((claim.start, claim.next, claim.last_commit), (Offset(0), Offset(35), last));
}

pub(super) async fn removals_survive(mut bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2, 3]).await;
    for log in [1, 2, 3] {
        owner.fill(log, &row(0, &[2; 8])).await;
    }
    owner.done(vec![owner.trim(1, 3)]).await;
    owner.done(vec![owner.discard(2, &[(2, 6), (14, 16)])]).await;
    owner.done(vec![owner.replace(3, 2, 16, &[batch(3, 9)])]).await;
    let before = bench.heads(3).await;
    drop(owner);
    for _ in 0..2 {
        if !bench.reopen().await {
            return;
        }
        let _owner = bench.owner(2, &[1, 2, 3]).await;
        bench.holds(1, &row(0, &[2; 8])[1..]).await;
        assert_eq!(bench.stat(1).await.start, Offset(3));
        bench.holds(2, &[row(0, &[2]), row(6, &[2; 4])].concat()).await;
        bench.holds(3, &[batch(0, 2), batch(3, 9)]).await;
        assert_eq!(bench.heads(3).await, before, "epochs survive too");
        for log in [1, 2, 3] {
            assert_eq!(bench.stat(log).await.next, Offset(16));
        }
    }
}

pub(super) async fn fences_survive(mut bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2]).await;
    owner.claim(&[1]).await;
    owner.fill(1, &[batch(0, 1)]).await;
    let mut late = owner.append(1, &[batch(1, 1)]);
    let epochs = owner.epochs.clone();
    drop(owner);
    if !bench.reopen().await {
        return;
    }
    let thief = bench.owner(2, &[1, 2]).await;
    assert!(epochs.iter().all(|(log, epoch)| thief.epochs[log] > *epoch), "epochs rise over a restart");
    for _ in 0..2 {
        refused(bench.store().commit(vec![vec![late.clone()]]).await.remove(0), ErrorKind::Fenced);
        // Also with the new epoch, which it cannot know: the number drawn tells owners apart.
        late.epoch = thief.epochs[&LogId(1)];
    }
    bench.holds(1, &[batch(0, 1)]).await;
}

pub(super) async fn no_offset_is_reused(mut bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2, 3]).await;
    for log in [1, 2, 3] {
        owner.fill(log, &row(0, &[2, 5])).await;
    }
    owner.done(vec![owner.trim(1, 100)]).await;
    owner.done(vec![owner.discard(2, &[(0, 7)])]).await;
    owner.done(vec![owner.replace(3, 0, 7, &[])]).await;
    drop(owner);
    for turn in 0..3 {
        if !bench.reopen().await {
            return;
        }
        let mut owner = super::bench::Owner::new(bench.store(), 2 + turn);
        for claim in owner.claim(&[1, 2, 3]).await {
            assert_eq!(claim.next, Offset(7), "log {}", claim.log);
        }
        assert_eq!(bench.stat(1).await.start, Offset(7));
        bench.holds(1, &[]).await;
    }
    let mut owner = bench.owner(9, &[1]).await;
    owner.fill(1, &[batch(7, 1)]).await;
    bench.holds(1, &[batch(7, 1)]).await;
}

pub(super) async fn memory_leaves_a_gap(mut bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = row(0, &[1, 10, 1, 10]);
    for (turn, batch) in batches.iter().enumerate() {
        let class = [Durability::Sync, Durability::Memory][turn % 2];
        let op = owner.append_as(1, batch.base.0, std::slice::from_ref(batch), class);
        owner.done(vec![op]).await;
    }
    bench.holds(1, &batches).await;
    drop(owner);
    if !bench.reopen().await {
        return;
    }
    let mut owner = super::bench::Owner::new(bench.store(), 2);
    let claim = owner.claim(&[1]).await[0];
    assert!(claim.next >= Offset(22), "offsets given out for memory are not given out again: {claim:?}");
    let mut survivors = bench.heads(1).await;
    survivors.retain(|head| head.span == 1);
    assert_eq!(survivors.iter().map(|head| head.base.0).collect::<Vec<_>>(), [0, 11]);
    let new = batch(claim.next.0, 1);
    owner.fill(1, std::slice::from_ref(&new)).await;
    let read = bench.store().read(LogId(1), claim.next, Offset::MAX, ALL).await.expect("the log is there");
    super::bench::same_read(&read, &[new]);
}
