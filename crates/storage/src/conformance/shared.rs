//! Batches that say that others hold some of their bytes too: nobody who reads can tell.

use ferrymq_types::Offset;

use super::bench::{Bench, batch, refused, sized};
use crate::{Batch, ErrorKind, ShareKey, SharedPart};

/// Logs that get a copy.
const LOGS: u64 = 16;

/// A batch that holds `body`, behind some bytes of its own and before some.
fn holding(log: u64, base: u64, key: ShareKey, body: &[u8]) -> Batch {
    let own = sized(base, 1, 0, 70 + usize::try_from(log).expect("small")).bytes;
    let part = SharedPart {
        key,
        at: u32::try_from(own.len()).expect("small"),
        bytes: u32::try_from(body.len()).expect("small"),
    };
    let bytes = [&own[..], body, &own[..30]].concat();
    Batch { bytes: bytes.into(), shared: vec![part], ..batch(base, 1) }
}

fn body(number: u64, length: usize) -> Vec<u8> {
    (number..).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).take(length).collect()
}

pub(super) async fn copies_read_back(mut bench: Bench) {
    let logs: Vec<u64> = (0..LOGS).collect();
    let mut owner = bench.owner(1, &logs).await;
    let mut expected: Vec<Vec<Batch>> = vec![Vec::new(); logs.len()];
    // In one group, in groups of their own, and far apart; short ones too.
    for (base, length) in [(0, 5_000), (1, 64 << 10), (2, 3), (3, 1_500)] {
        let (key, body) = (ShareKey::new(), body(base, length));
        let copies: Vec<Batch> = logs.iter().map(|log| holding(*log, base, key, &body)).collect();
        let together = base == 0 && bench.store().atomic_multi_log();
        let mut group = Vec::new();
        for (log, copy) in logs.iter().zip(&copies) {
            let op = owner.append(*log, std::slice::from_ref(copy));
            if together {
                group.push(op);
            } else {
                owner.done(vec![op]).await;
            }
        }
        owner.done(group).await;
        expected.iter_mut().zip(copies).for_each(|(expected, copy)| expected.push(copy));
    }
    for (log, batches) in logs.iter().zip(&expected) {
        bench.holds(*log, batches).await;
    }
    drop(owner);
    if bench.reopen().await {
        for (log, batches) in logs.iter().zip(&expected) {
            bench.holds(*log, batches).await;
        }
    }
}

pub(super) async fn one_copy_goes_and_the_others_stay(mut bench: Bench) {
    let mut owner = bench.owner(1, &[0, 1, 2, 3]).await;
    let (first, second) = (body(1, 4_000), body(2, 4_000));
    let keys = [ShareKey::new(), ShareKey::new()];
    let held = |log| [holding(log, 0, keys[0], &first), holding(log, 1, keys[1], &second)];
    for log in 0..4 {
        owner.fill(log, &held(log)).await;
    }
    owner.done(vec![owner.delete(0)]).await;
    owner.done(vec![owner.trim(1, 1)]).await;
    owner.done(vec![owner.discard(2, &[(0, 1)])]).await;
    // What comes later may share with what has gone.
    let late = holding(3, 2, keys[0], &first);
    owner.fill(3, std::slice::from_ref(&late)).await;
    drop(owner);
    for _ in 0..2 {
        bench.holds(1, &held(1)[1..]).await;
        bench.holds(2, &held(2)[1..]).await;
        bench.holds(3, &[&held(3)[..], std::slice::from_ref(&late)].concat()).await;
        if !bench.reopen().await {
            return;
        }
    }
}

pub(super) async fn a_key_given_twice_mixes_nothing_up(bench: Bench) {
    let mut owner = bench.owner(1, &[0, 1, 2]).await;
    let key = ShareKey::new();
    let batches = [
        holding(0, 0, key, &body(1, 2_000)),
        holding(1, 0, key, &body(2, 2_000)),
        holding(2, 0, key, &body(1, 1_999)),
    ];
    for (log, batch) in (0..).zip(&batches) {
        owner.fill(log, std::slice::from_ref(batch)).await;
    }
    for (log, batch) in (0..).zip(&batches) {
        bench.holds(log, std::slice::from_ref(batch)).await;
    }
}

pub(super) async fn parts_lie_within_and_apart(bench: Bench) {
    let mut owner = bench.owner(1, &[1]).await;
    let key = ShareKey::new();
    let part = |at, bytes| SharedPart { key, at, bytes };
    let wrong = [
        vec![part(0, 0)],
        vec![part(0, 21)],
        vec![part(20, 1)],
        vec![part(u32::MAX, u32::MAX)],
        vec![part(0, 10), part(9, 2)],
        vec![part(10, 2), part(0, 2)],
    ];
    for shared in wrong {
        let op = owner.append_at(1, 0, &[Batch { shared, ..batch(0, 1) }]);
        refused(owner.commit(vec![op]).await, ErrorKind::InvalidArgument);
    }
    let right = Batch { shared: vec![part(0, 10), part(10, 10)], ..batch(0, 1) };
    let op = owner.append_at(1, 0, std::slice::from_ref(&right));
    owner.done(vec![op]).await;
    bench.holds(1, &[right]).await;
    assert_eq!(bench.stat(1).await.next, Offset(1));
}
