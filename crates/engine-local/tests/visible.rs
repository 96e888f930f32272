//! What one group does to a log is seen at once, by readers that never stop looking.
//!
//! Deliberately absent: what is seen after a crash, see `crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{append, bytes_of, claim, execute, open};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::Options;
use ferrymq_engine_local::core::{Done, Work};
use ferrymq_storage::{Batch, Op};
use ferrymq_types::{Durability, Offset};

const GROUPS: u64 = 300;
const BATCHES: u64 = 400;

/// An append of `BATCHES` at `base`, of one offset each.
fn many(epoch: u32, base: u64) -> Op {
    let batches = (base..base + BATCHES).map(|base| Batch::new(Offset(base), 1, 0, bytes_of(base, 20)));
    append(1, epoch, 1, base, Durability::Sync, batches.collect())
}

#[test]
fn a_group_is_seen_whole() {
    let mut core = open(&SimDisk::new(1), &Options::default()).unwrap();
    let epoch = claim(&mut core, &[1], 1)[0].epoch.0;
    let reader = core.reader();
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                seen.insert(reader.stat(1).unwrap().next.0);
                seen.insert(reader.read(1, 0, u64::MAX, usize::MAX).unwrap().next().map_or(0, |next| next.0));
            }
            seen
        });
        for group in 0..GROUPS {
            let work = Work::Group(vec![many(epoch, group * BATCHES)]);
            assert!(matches!(execute(&mut core, vec![work])[..], [Done::Group(Ok(()))]));
        }
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    let torn: Vec<_> = seen.iter().filter(|next| *next % BATCHES != 0).collect();
    assert!(torn.is_empty(), "{} of {} looks saw a part of a group: {torn:?}", torn.len(), seen.len());
}
