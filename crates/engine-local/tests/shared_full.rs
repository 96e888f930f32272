//! What fails half way must not be referred to: a disk that is full for a moment, at each step of a fan-out.
//!
//! The writer survives a full disk, so what it remembers of a file must be what the file holds, whichever step of a
//! group found no room.
//!
//! Deliberately absent: what is written when all goes well, see `shared.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use bytes::Bytes;
use common::{append, bytes_of, claim, execute, open, show};
use ferrymq_disk::SimDisk;
use ferrymq_disk::sim::{Failure, Fault, OpKind};
use ferrymq_engine_local::core::{Core, Done, Work};
use ferrymq_engine_local::{Counters, Options};
use ferrymq_storage::{Batch, ShareKey, SharedPart};
use ferrymq_types::{Durability, Offset};

const LOGS: u64 = 8;
const BODY_BYTES: usize = 20_000;
const BLOCK_BYTES: u64 = 4096;
const FILE_BYTES: u64 = 128 << 10;

fn options() -> Options {
    Options { wal_file_bytes: FILE_BYTES, zeros_ahead_bytes: 0, ..Options::tiny() }
}

fn batch(log: u64, base: u64, key: ShareKey, body: &[u8]) -> Batch {
    let bytes = Bytes::from([&bytes_of(log * 1000 + base, 90)[..], body].concat());
    let part = SharedPart { key, at: 90, bytes: u32::try_from(body.len()).unwrap() };
    Batch { shared: vec![part], ..Batch::new(Offset(base), 1, 0, bytes) }
}

/// A store in which each append is a group of its own, and what it said it has.
struct Writer {
    core: Core,
    epoch: u32,
    next: Vec<u64>,
    acknowledged: Vec<Vec<(u64, u32, Bytes)>>,
}

impl Writer {
    fn open(disk: &SimDisk) -> Writer {
        let mut core = open(disk, &options()).unwrap();
        let epoch = claim(&mut core, &(0..LOGS).collect::<Vec<_>>(), 1)[0].epoch.0;
        Writer { core, epoch, next: vec![0; 8], acknowledged: vec![Vec::new(); 8] }
    }

    /// Whether it was acknowledged.
    fn send(&mut self, log: u64, key: ShareKey, body: &[u8], class: Durability) -> bool {
        let at = usize::try_from(log).unwrap();
        let base = self.next[at];
        let batch = batch(log, base, key, body);
        let bytes = batch.bytes.clone();
        let work = Work::Group(vec![append(log, self.epoch, 1, base, class, vec![batch])]);
        let done = execute(&mut self.core, vec![work]).remove(0);
        let accepted = matches!(done, Done::Group(Ok(())));
        if accepted {
            self.next[at] += 1;
            self.acknowledged[at].push((base, 1, bytes));
        }
        accepted
    }

    /// Leaves the active file with room for `blocks` blocks.
    fn fill(&mut self, blocks: u64) {
        let wrote = |core: &Core| Counters::get(&core.reader().counters().bytes_written);
        let block = bytes_of(9, 3000);
        let before = wrote(&self.core);
        assert!(self.send(7, ShareKey::new(), &block, Durability::Sync));
        assert_eq!(wrote(&self.core) - before, BLOCK_BYTES);
        let room =
            FILE_BYTES - BLOCK_BYTES * 2 - BLOCK_BYTES - (BODY_BYTES as u64 + 4096).next_multiple_of(4096);
        for _ in blocks..room / BLOCK_BYTES {
            assert!(self.send(7, ShareKey::new(), &block, Durability::Sync));
        }
    }

    /// What was acknowledged is there, now and after a kill.
    fn check(self, disk: &SimDisk, what: &str) {
        let check = |core: &Core, when: &str| {
            for (log, expected) in (0..LOGS).zip(&self.acknowledged) {
                let shown = show(&core.reader(), log)
                    .unwrap_or_else(|error| panic!("{what}, {when}: log {log}: {error}"));
                assert_eq!(shown.len(), expected.len(), "{what}, {when}: log {log}");
                assert!(shown == *expected, "{what}, {when}: log {log} has other bytes");
            }
            assert!(core.reader().health().damage.is_empty(), "{what}, {when}");
        };
        check(&self.core, "running");
        disk.clear_faults();
        for disk in [disk.kill(), disk.crash_to_synced()] {
            check(&open(&disk, &options()).unwrap(), "opened");
        }
    }
}

/// There is no room to say that the directory has another format; so the copy is written whole, for which the file has
/// no room: what the old file held is not in the new one.
#[test]
fn without_room_for_the_format_a_new_file_begins_with_nothing() {
    for blocks in 0..8 {
        let disk = SimDisk::new(1);
        let mut writer = Writer::open(&disk);
        let (key, body) = (ShareKey::new(), bytes_of(5, BODY_BYTES));
        assert!(writer.send(0, key, &body, Durability::Sync));
        writer.fill(blocks);
        disk.order(Fault::nth(&[OpKind::Create], 1, Failure::Enospc).at("FORMAT.tmp"));
        for log in 1..6 {
            assert!(writer.send(log, key, &body, Durability::Sync), "{blocks} blocks: log {log}");
        }
        writer.check(&disk, &format!("{blocks} blocks"));
    }
}

/// Every operation of a fan-out finds the disk full once, with the file's end here and there; who is refused asks again.
#[test]
fn a_disk_full_for_a_moment_leaves_nothing_to_refer_to() {
    let kinds = [OpKind::Create, OpKind::Write, OpKind::Allocate, OpKind::Rename];
    let mut refused = 0;
    for (failure, blocks) in
        [Failure::Enospc, Failure::Edquot].into_iter().flat_map(|it| (0..8).map(move |n| (it, n)))
    {
        for nth in 1..12 {
            let disk = SimDisk::new(nth);
            let mut writer = Writer::open(&disk);
            writer.fill(blocks + 4);
            disk.order(Fault::nth(&kinds, nth, failure));
            for seed in 0..3 {
                let (key, body) = (ShareKey::new(), bytes_of(50 + seed, BODY_BYTES));
                for log in 0..6 {
                    for _ in 0..2 {
                        if writer.send(log, key, &body, Durability::Sync) {
                            break;
                        }
                        refused += 1;
                    }
                }
            }
            writer.check(&disk, &format!("{blocks} blocks, operation {nth}"));
        }
    }
    assert!(refused > 8, "too little was refused: {refused}");
}

/// A copy that waits for no sync is written first; one that was synced refers to it and outlives a power cut.
#[test]
fn what_a_synced_copy_refers_to_was_synced_with_it() {
    let disk = SimDisk::new(1);
    let mut writer = Writer::open(&disk);
    for seed in 0..12 {
        let (key, body) = (ShareKey::new(), bytes_of(50 + seed, BODY_BYTES));
        assert!(writer.send(0, key, &body, Durability::Os));
        assert!(
            writer.send(1, key, &body, Durability::Memory) && writer.send(2, key, &body, Durability::Sync)
        );
        for cut in [disk.crash(seed), disk.crash_to_synced()] {
            let core = open(&cut, &options()).unwrap();
            assert!(show(&core.reader(), 2).unwrap() == writer.acknowledged[2], "body {seed}");
            assert!(core.reader().health().damage.is_empty(), "body {seed}");
        }
    }
}
