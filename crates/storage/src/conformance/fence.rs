//! Claims and fences: one owner at a time, whatever the earlier ones still send.

use ferrymq_types::{Epoch, LogId, Offset};
use futures_util::future;

use super::bench::{Bench, Owner, batch, only, refused, row};
use crate::{Claim, ErrorKind};

pub(super) async fn claim_begins_a_log(bench: Bench) {
    let mut owner = Owner::new(bench.store(), 1);
    let first = owner.claim(&[5, 3, u64::MAX >> 1]).await;
    for claim in &first {
        let Claim { start, next, last_commit, .. } = *claim;
        assert_eq!((start, next, last_commit), (Offset(0), Offset(0), None));
    }
    bench.holds(3, &[]).await;
    owner.fill(5, &row(0, &[4, 1])).await;
    let commit_id = owner.commit_id();
    owner.done(vec![owner.trim(5, 2)]).await;
    let again = owner.claim(&[3, 5]).await;
    assert!(
        again[0].epoch > first[1].epoch && again[1].epoch > first[0].epoch,
        "epochs rise with every claim"
    );
    assert_eq!(
        (again[1].start, again[1].next, again[1].last_commit),
        (Offset(2), Offset(5), Some(commit_id))
    );
    assert!(owner.claim(&[]).await.is_empty());
    assert_eq!(bench.stat(5).await.epoch, again[1].epoch);
}

pub(super) async fn old_owner_is_fenced(bench: Bench) {
    let mut old = bench.owner(1, &[1]).await;
    let batches = row(0, &[1, 1, 1]);
    old.fill(1, &batches).await;
    let _new = bench.owner(2, &[1]).await;
    let late = [
        old.append(1, &[batch(3, 1)]),
        // Fenced comes before Conflict: the old owner is to stop, not to read again.
        old.append_at(1, 77, &[batch(77, 1)]),
        old.trim(1, 2),
        old.discard(1, &[(0, 2)]),
        old.replace(1, 0, 3, &[batch(0, 3)]),
        old.delete(1),
    ];
    for op in late {
        refused(old.commit(vec![op]).await, ErrorKind::Fenced);
    }
    bench.holds(1, &batches).await;
    assert_eq!(bench.stat(1).await.start, Offset(0));
}

pub(super) async fn epoch_and_nonce_are_both_checked(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    owner.claim(&[1]).await;
    let right = owner.append(1, &[batch(0, 1)]);
    let mut twin = right.clone();
    twin.owner.0 = 2;
    let mut early = right.clone();
    early.epoch = Epoch(right.epoch.0 - 1);
    let mut late = right.clone();
    late.epoch = right.epoch.next();
    for wrong in [twin, early, late] {
        refused(owner.commit(vec![wrong]).await, ErrorKind::Fenced);
    }
    bench.holds(1, &[]).await;
    owner.done(vec![right]).await;
}

pub(super) async fn claim_races_with_append(bench: Bench) {
    let mut old = bench.owner(0, &[1]).await;
    let mut at = 0;
    for turn in 1..30 {
        let op = old.append_at(1, at, &[batch(at, 1)]);
        let append = old.send(vec![op]);
        let claim = bench.store().claim(vec![LogId(1)], ferrymq_types::OwnerId(turn));
        let late = old.append_at(1, at + 1, &[batch(at + 1, 1)]);
        let (outcome, claims) = future::join(append, claim).await;
        let claim = claims.expect("a log that exists is claimed")[0];
        // Whoever is told that it happened finds it in the claim, and nobody else does.
        match only(outcome) {
            Ok(()) => assert_eq!(
                (claim.next, claim.last_commit.map(|id| id.sequence)),
                (Offset(at + 1), Some(old.sequence - 1))
            ),
            Err(error) => {
                assert_eq!((error.kind(), claim.next), (ErrorKind::Fenced, Offset(at)));
            }
        }
        refused(old.commit(vec![late]).await, ErrorKind::Fenced);
        assert_eq!(bench.stat(1).await.next, claim.next, "nothing takes effect behind a claim");
        at = claim.next.0;
        old = Owner::new(bench.store(), turn);
        old.epochs.insert(LogId(1), claim.epoch);
    }
}

pub(super) async fn fenced_group_fails_no_other(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2, 3]).await;
    let _thief = bench.owner(2, &[2]).await;
    let groups: Vec<_> = [1, 2, 3].map(|log| vec![owner.append(log, &[batch(0, 1)])]).into();
    let mut outcomes = bench.store().commit(groups).await;
    refused(outcomes.remove(1), ErrorKind::Fenced);
    outcomes.into_iter().for_each(|outcome| outcome.expect("its own logs are not fenced"));
    bench.holds(1, &[batch(0, 1)]).await;
    bench.holds(2, &[]).await;
    bench.holds(3, &[batch(0, 1)]).await;
}

pub(super) async fn claim_of_many(bench: Bench) {
    let logs: Vec<u64> = (0..10_000).map(|i| i * 3).collect();
    let mut old = bench.owner(1, &logs).await;
    old.fill(2_997, &[batch(0, 3)]).await;
    let mut new = Owner::new(bench.store(), 2);
    let claims = new.claim(&logs).await;
    assert_eq!(claims[999].next, Offset(3));
    assert!(claims.iter().all(|claim| claim.epoch > old.epochs[&claim.log]));
    let late = old.append(9, &[batch(0, 1)]);
    refused(old.commit(vec![late]).await, ErrorKind::Fenced);
    new.fill(9, &[batch(0, 1)]).await;
}

pub(super) async fn claim_is_all_or_nothing(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2]).await;
    owner.done(vec![owner.delete(2)]).await;
    let other = ferrymq_types::OwnerId(2);
    refused(bench.store().claim(vec![LogId(1), LogId(2)], other).await, ErrorKind::NotFound);
    refused(bench.store().claim(vec![LogId(1), LogId(3), LogId(1)], other).await, ErrorKind::InvalidArgument);
    owner.fill(1, &[batch(0, 1)]).await;
    refused(bench.store().stat(LogId(3)).await, ErrorKind::NotFound);
}

pub(super) async fn unclaimed_is_not_found(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let op = owner.append(2, &[batch(0, 1)]);
    refused(owner.commit(vec![op]).await, ErrorKind::NotFound);
    refused(owner.commit(vec![owner.trim(2, 0)]).await, ErrorKind::NotFound);
}

pub(super) async fn last_commit_tells_the_fate(bench: Bench) {
    let mut owner = bench.owner(1, &[1, 2]).await;
    let op = owner.append(1, &[batch(0, 1)]);
    let first = owner.commit_id();
    owner.done(vec![op]).await;
    let lost = owner.append_at(1, 5, &[batch(5, 1)]);
    refused(owner.commit(vec![lost]).await, ErrorKind::Conflict);
    owner.done(vec![owner.trim(1, 1), owner.discard(1, &[(0, 1)])]).await;
    let claims = owner.claim(&[1, 2]).await;
    assert_eq!(claims[0].last_commit, Some(first), "only an append that took effect counts");
    assert_eq!(claims[1].last_commit, None);
    // Two appends of one group: the later one is the last.
    let pair = vec![owner.append(1, &[batch(1, 1)]), owner.append(1, &[batch(2, 1)])];
    owner.done(pair).await;
    let last = owner.commit_id();
    assert_eq!(owner.claim(&[1]).await[0].last_commit, Some(last));
}
