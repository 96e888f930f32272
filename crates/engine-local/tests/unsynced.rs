//! Class `Os`: nobody waits for a sync, and yet there is never much that none was made for.
//!
//! Deliberately absent: what a crash does to what was not synced, see `crash.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use common::{append, bytes_of, claim, execute, open, show};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::Options;
use ferrymq_engine_local::core::{Done, Work};
use ferrymq_storage::Batch;
use ferrymq_types::{Durability, Offset};

const BATCH_BYTES: usize = 3_000;
/// What one takes in the log.
const BLOCK_BYTES: u64 = 4_096;
const UNSYNCED_BLOCKS: u64 = 8;

#[test]
fn bytes_without_a_sync_have_a_bound() {
    let options = Options { unsynced_bytes_max: UNSYNCED_BLOCKS * BLOCK_BYTES, ..Options::default() };
    let disk = SimDisk::new(1);
    let mut core = open(&disk, &options).unwrap();
    let epoch = claim(&mut core, &[1], 1)[0].epoch.0;
    let mut unsynced_most = 0;
    for base in 0..100 {
        let bytes = bytes_of(base, BATCH_BYTES);
        let batch = Batch::new(Offset(base), 1, 0, bytes);
        let work = Work::Group(vec![append(1, epoch, 1, base, Durability::Os, vec![batch])]);
        assert!(matches!(execute(&mut core, vec![work])[..], [Done::Group(Ok(()))]));
        // A power cut that keeps nothing but what was synced.
        let cut = open(&disk.crash_to_synced(), &options).unwrap();
        let there = show(&cut.reader(), 1).unwrap().len() as u64;
        unsynced_most = unsynced_most.max(base + 1 - there);
    }
    assert_eq!(unsynced_most, UNSYNCED_BLOCKS - 1, "appends that a power cut takes at most");
}
