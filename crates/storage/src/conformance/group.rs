//! Groups: they stand or fall as one, over one log or several.

use ferrymq_types::Offset;

use super::bench::{Bench, batch, refused, row};
use crate::ErrorKind;

pub(super) async fn all_or_nothing_over_logs(bench: Bench) {
    if !bench.store().atomic_multi_log() {
        return;
    }
    let mut owner = bench.owner(1, &[1, 2, 3]).await;
    let good: Vec<_> = [1, 2, 3].map(|log| owner.append(log, &row(0, &[1, 2]))).into();
    owner.done(good).await;
    let bad = vec![
        owner.append(1, &[batch(3, 1)]),
        owner.append_at(2, 9, &[batch(9, 1)]),
        owner.append(3, &[batch(3, 1)]),
    ];
    let alone = vec![owner.append(3, &[batch(3, 7)])];
    let mut outcomes = bench.store().commit(vec![bad, alone]).await;
    outcomes.remove(1).expect("what the failed group would have taken is still free");
    refused(outcomes.remove(0), ErrorKind::Conflict);
    bench.holds(1, &row(0, &[1, 2])).await;
    bench.holds(2, &row(0, &[1, 2])).await;
    bench.holds(3, &row(0, &[1, 2, 7])).await;

    let _thief = bench.owner(2, &[2]).await;
    let fenced = vec![owner.trim(1, 3), owner.append(1, &[batch(3, 1)]), owner.trim(2, 1), owner.delete(3)];
    refused(owner.commit(fenced).await, ErrorKind::Fenced);
    bench.holds(1, &row(0, &[1, 2])).await;
    bench.holds(3, &row(0, &[1, 2, 7])).await;
    assert_eq!(bench.stat(1).await.start, Offset(0));
}

pub(super) async fn several_logs_are_refused_without_capability(bench: Bench) {
    if bench.store().atomic_multi_log() {
        return;
    }
    let mut owner = bench.owner(1, &[1, 2]).await;
    let group: Vec<_> = [1, 2].map(|log| owner.append(log, &[batch(0, 1)])).into();
    refused(owner.commit(group).await, ErrorKind::InvalidArgument);
    bench.holds(1, &[]).await;
    bench.holds(2, &[]).await;
}

pub(super) async fn steps_build_on_each_other(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let group = vec![
        owner.append(1, &row(0, &[1, 1])),
        owner.append(1, &row(2, &[1, 1, 1, 1])),
        owner.discard(1, &[(2, 3)]),
        owner.replace(1, 3, 5, &[batch(3, 2)]),
        owner.trim(1, 1),
        owner.append(1, &[batch(6, 1)]),
    ];
    owner.done(group).await;
    bench.holds(1, &[batch(1, 1), batch(3, 2), batch(5, 1), batch(6, 1)]).await;
    assert_eq!(bench.stat(1).await.start, Offset(1));
    // Trimmed up to what the same group appends, not up to what was next before.
    let group = vec![owner.append(1, &[batch(7, 1)]), owner.trim(1, 100)];
    owner.done(group).await;
    assert_eq!(bench.stat(1).await.start, Offset(8));
    bench.holds(1, &[]).await;
}

pub(super) async fn failed_group_leaves_no_trace(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let batches = row(0, &[1, 1, 1, 1]);
    owner.fill(1, &batches).await;
    let last = owner.commit_id();
    let groups = [
        vec![owner.append(1, &[batch(4, 1)]), owner.append(1, &[batch(6, 1)])],
        vec![owner.trim(1, 3), owner.append_at(1, 9, &[batch(9, 1)])],
        vec![owner.discard(1, &[(0, 4)]), owner.append_at(1, 9, &[batch(9, 1)])],
        vec![owner.replace(1, 0, 4, &[batch(0, 4)]), owner.append_at(1, 9, &[batch(9, 1)])],
        vec![owner.discard(1, &[(1, 2)]), owner.replace(1, 1, 2, &[batch(1, 1)])],
    ];
    for group in groups {
        refused(owner.commit(group).await, ErrorKind::Conflict);
        bench.holds(1, &batches).await;
    }
    let deleted_first = vec![owner.delete(1), owner.append(1, &[batch(4, 1)])];
    refused(owner.commit(deleted_first).await, ErrorKind::NotFound);
    bench.holds(1, &batches).await;
    let stat = bench.stat(1).await;
    assert_eq!((stat.start, stat.next), (Offset(0), Offset(4)));
    assert_eq!(owner.claim(&[1]).await[0].last_commit, Some(last));
}

pub(super) async fn one_owner_per_group(bench: Bench) {
    let mut one = bench.owner(1, &[1]).await;
    let mut two = bench.owner(2, &[2]).await;
    let group = vec![one.append(1, &[batch(0, 1)]), two.append(2, &[batch(0, 1)])];
    refused(bench.store().commit(vec![group]).await.remove(0), ErrorKind::InvalidArgument);
    bench.holds(1, &[]).await;
    bench.holds(2, &[]).await;
}
