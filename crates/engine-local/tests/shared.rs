//! What several batches hold is written once to a file, and reads as if each had its own.
//!
//! Random lives with crashes over such batches are in `crash.rs`; here is what is written, and when.
//!
//! Deliberately absent: the broker's fan-outs, see `crates/broker/tests/queues/fan_out.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{append, bytes_of, claim, execute, open, show, tiny};
use ferrymq_disk::{Disk, SimDisk};
use ferrymq_engine_local::core::{Core, Done, Work};
use ferrymq_engine_local::{Counters, Options};
use ferrymq_storage::{Action, Batch, ErrorKind, Op, ShareKey, SharedPart};
use ferrymq_types::{Durability, Epoch, LogId, Offset, OwnerId};

const LOGS: u64 = 16;
const BODY_BYTES: usize = 64 << 10;

/// A batch with a body in the middle that others hold too.
fn batch(log: u64, base: u64, key: ShareKey, body: &[u8]) -> Batch {
    let (head, tail) = (bytes_of(log * 1000 + base, 90), bytes_of(log + 77, 30));
    let bytes = Bytes::from([&head[..], body, &tail[..]].concat());
    let part = SharedPart { key, at: 90, bytes: u32::try_from(body.len()).unwrap() };
    Batch { shared: vec![part], ..Batch::new(Offset(base), 1, 0, bytes) }
}

fn options() -> Options {
    Options {
        wal_file_bytes: 1 << 20,
        move_extent_bytes_max: 16 << 20,
        zeros_ahead_bytes: 0,
        ..Options::tiny()
    }
}

fn written(core: &Core) -> u64 {
    Counters::get(&core.reader().counters().bytes_written)
}

fn done(core: &mut Core, work: Vec<Work>) {
    for done in execute(core, work) {
        assert!(matches!(done, Done::Group(Ok(()))), "{done:?}");
    }
}

fn op(log: u64, epoch: Epoch, action: Action) -> Op {
    Op { log: LogId(log), epoch, owner: OwnerId(1), action }
}

/// A copy for each log, in groups of so many that are synced one after the other.
fn fan_out(core: &mut Core, epoch: Epoch, base: u64, body: &[u8], together: usize) -> Vec<Batch> {
    let key = ShareKey::new();
    let batches: Vec<Batch> = (0..LOGS).map(|log| batch(log, base, key, body)).collect();
    for chunk in (0..LOGS).zip(&batches).collect::<Vec<_>>().chunks(together) {
        let one = |(log, batch): &(u64, &Batch)| {
            Work::Group(vec![append(*log, epoch.0, 1, base, Durability::Sync, vec![(*batch).clone()])])
        };
        done(core, chunk.iter().map(one).collect());
    }
    batches
}

fn opened(disk: &SimDisk) -> (Core, Epoch) {
    let mut core = open(disk, &options()).unwrap();
    let epoch = claim(&mut core, &(0..LOGS).collect::<Vec<_>>(), 1)[0].epoch;
    (core, epoch)
}

fn check(core: &Core, log: u64, expected: &[&Batch]) {
    let expected: Vec<_> = expected.iter().map(|batch| (batch.base.0, 1, batch.bytes.clone())).collect();
    assert_eq!(show(&core.reader(), log).unwrap(), expected, "log {log}");
}

fn format_of(disk: &SimDisk) -> String {
    let mut bytes = [0; 64];
    let read = disk.open(Path::new("FORMAT")).unwrap().read_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// Sixteen copies of 64 KiB cost a body and a bit, whichever groups they are synced in.
#[test]
fn sixteen_copies_write_one_body() {
    let body = bytes_of(5, BODY_BYTES);
    for together in [16, 4, 1] {
        let disk = SimDisk::new(1);
        let (mut core, epoch) = opened(&disk);
        let before = written(&core);
        let batches = fan_out(&mut core, epoch, 0, &body, together);
        let wrote = written(&core) - before;
        // Each group is padded to a block of the disk.
        let room = BODY_BYTES as u64 / 10 + 4096 * (LOGS / together as u64);
        assert!(wrote <= BODY_BYTES as u64 + room, "{together} at a time: {wrote} bytes");
        for (log, batch) in (0..LOGS).zip(&batches) {
            check(&core, log, &[batch]);
            let stat = core.reader().stat(log).unwrap();
            assert_eq!(stat.bytes, batch.bytes.len() as u64);
        }
        drop(core);
        // After a kill, and after a power cut.
        for disk in [disk.kill(), disk.crash_to_synced()] {
            let core = open(&disk, &options()).unwrap();
            (0..LOGS).zip(&batches).for_each(|(log, batch)| check(&core, log, &[batch]));
            assert!(core.reader().health().damage.is_empty());
        }
    }
}

/// Without shared parts nothing is different, down to what the directory says of itself.
#[test]
fn a_directory_says_that_it_has_another_format_before_it_has() {
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let body = bytes_of(5, 2000);
    for log in 0..LOGS {
        // The same bytes under keys of their own, and short ones under the same key: not shared either.
        let key = ShareKey::new();
        let batches = vec![batch(log, 0, key, &body), batch(log, 1, ShareKey::new(), &body[..900])];
        done(&mut core, vec![Work::Group(vec![append(log, epoch.0, 1, 0, Durability::Sync, batches)])]);
    }
    assert_eq!(format_of(&disk.crash_to_synced()), "ferrymq-data 1\n");
    fan_out(&mut core, epoch, 2, &body, 16);
    assert_eq!(format_of(&disk.crash_to_synced()), "ferrymq-data 2\n");
    drop(core);
    drop(open(&disk, &options()).unwrap());
    assert_eq!(format_of(&disk), "ferrymq-data 2\n");
}

/// The copy that was written out may go first; the others go on reading it where it lies.
#[test]
fn the_written_copy_may_be_trimmed_discarded_or_deleted() {
    let body = bytes_of(6, BODY_BYTES);
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let all: Vec<Vec<Batch>> =
        (0..4).map(|base| fan_out(&mut core, epoch, base, &bytes_of(base, 5000), 16)).collect();
    done(
        &mut core,
        vec![
            Work::Group(vec![op(0, epoch, Action::Delete)]),
            Work::Group(vec![op(1, epoch, Action::Trim(Offset(4)))]),
            Work::Group(vec![op(2, epoch, Action::Discard(Vec::from([Offset(1)..Offset(3)])))]),
        ],
    );
    let holds = |core: &Core| {
        assert_eq!(show(&core.reader(), 1).unwrap(), []);
        check(core, 2, &[&all[0][2], &all[3][2]]);
        for log in 3..LOGS {
            let at = usize::try_from(log).unwrap();
            check(core, log, &all.iter().map(|copies| &copies[at]).collect::<Vec<_>>());
        }
    };
    holds(&core);
    // More files, so that this one is sealed, has an index, and its entries are loaded from that.
    let epoch = claim(&mut core, &(1..LOGS).collect::<Vec<_>>(), 1)[0].epoch;
    for base in 4..80 {
        let one =
            append(1, epoch.0, 1, base, Durability::Sync, vec![Batch::new(Offset(base), 1, 0, body.clone())]);
        done(&mut core, vec![Work::Group(vec![one])]);
        done(&mut core, vec![Work::Group(vec![op(1, epoch, Action::Trim(Offset(base + 1)))])]);
    }
    holds(&core);
    core.stop().unwrap();
    drop(core);
    holds(&open(&disk, &options()).unwrap());
}

/// A file that is full is followed by one that refers to nothing before it, and the mover writes each copy whole.
#[test]
fn files_stand_alone_and_moves_write_whole_bodies() {
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let mut all = Vec::new();
    for base in 0..60 {
        all.push(fan_out(&mut core, epoch, base, &bytes_of(base, BODY_BYTES), 16));
    }
    let holds = |core: &Core, from: usize| {
        for log in 0..LOGS {
            let at = usize::try_from(log).unwrap();
            check(core, log, &all[from..].iter().map(|copies| &copies[at]).collect::<Vec<_>>());
        }
    };
    assert!(disk.list(Path::new("wal")).unwrap().len() > 4);
    holds(&core, 0);
    // Written out it would be sixteen times as much: it stays, until most of it has gone.
    assert!(core.plan_move().is_none());
    for log in 0..LOGS - 1 {
        done(&mut core, vec![Work::Group(vec![op(log, epoch, Action::Trim(Offset(59)))])]);
    }
    let job = core.plan_move().expect("little is left in many files");
    let moved = job.run();
    core.finish_move(moved).unwrap();
    let last = usize::try_from(LOGS - 1).unwrap();
    let expected: Vec<&Batch> = all.iter().map(|copies| &copies[last]).collect();
    check(&core, LOGS - 1, &expected);
    core.stop().unwrap();
    drop(core);
    let core = open(&disk, &options()).unwrap();
    check(&core, LOGS - 1, &expected);
    for log in 0..LOGS - 1 {
        check(&core, log, &[&all[59][usize::try_from(log).unwrap()]]);
    }
}

/// Damage to what is shared is damage to each that holds it, and to nothing else; also where the damaged group comes
/// before the last one, which is whole and must not be taken for a torn tail.
#[test]
fn damage_is_noticed_by_all_that_refer_to_it() {
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let other = fan_out(&mut core, epoch, 0, &bytes_of(1, 3000), 16);
    let hit = fan_out(&mut core, epoch, 1, &bytes_of(2, BODY_BYTES), 4);
    drop(core);
    let wal = Path::new("wal/0000000000000001.wal");
    let file = disk.open(wal).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    let body = bytes_of(2, BODY_BYTES);
    let at = bytes.windows(64).position(|window| window == &body[100..164]).unwrap();
    assert_eq!(bytes.windows(64).filter(|window| *window == &body[100..164]).count(), 1);
    disk.flip_bit(wal, at as u64 * 8 + 3).unwrap();
    for _ in 0..2 {
        let mut core = open(&disk, &options()).unwrap();
        let reader = core.reader();
        assert_eq!(reader.health().tail_bytes_cut, 0, "what was acknowledged is not cut");
        assert!(!reader.health().damage.is_empty() || reader.health().clean_start);
        for log in 0..LOGS {
            let at = usize::try_from(log).unwrap();
            let read = reader.read(log, 0, 1, usize::MAX).unwrap();
            assert_eq!(read.runs[0].bytes, other[at].bytes);
            let error = reader.read(log, 1, 2, usize::MAX).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt { resume: Offset(2) }, "{}", hit[at].base);
        }
        core.stop().unwrap();
    }
}

/// Whatever bit of the file flips, what is read is what was written, or damage.
#[test]
fn no_flipped_bit_changes_what_is_read() {
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let all: Vec<Vec<Batch>> =
        (0..6).map(|base| fan_out(&mut core, epoch, base, &bytes_of(base, 1500), 8)).collect();
    let used = {
        let counts = written(&core);
        core.stop().unwrap();
        counts
    };
    drop(core);
    let wal = Path::new("wal/0000000000000001.wal");
    let length = disk.open(wal).unwrap().len().unwrap();
    assert!(length <= used);
    let rng = ferrymq_runtime::Rng::seeded(9);
    let mut noticed = 0;
    for round in 0..300 {
        let disk = disk.kill();
        if round % 2 == 0 {
            // Then the indexes are made anew from the data.
            disk.remove(Path::new("wal/0000000000000001.idx")).unwrap();
        }
        let bit = rng.below((length - 4096) * 8) + 4096 * 8;
        disk.flip_bit(wal, bit).unwrap();
        let core = open(&disk, &options()).unwrap();
        for (log, base) in (0..LOGS).flat_map(|log| (0..6).map(move |base| (log, base))) {
            match core.reader().read(log, base, base + 1, 1) {
                Ok(read) => {
                    let copies = &all[usize::try_from(base).unwrap()];
                    let expected = &copies[usize::try_from(log).unwrap()].bytes;
                    assert!(read.runs.iter().all(|run| run.bytes == *expected), "bit {bit}");
                    noticed += u32::from(read.runs.is_empty());
                }
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Corrupt { .. }), "bit {bit}: {error}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 300, "{noticed}");
}

/// A key that was given to other bytes makes nobody read what is not his.
#[test]
fn other_bytes_under_a_known_key_are_written() {
    let disk = SimDisk::new(1);
    let mut core = open(&disk, &tiny(None)).unwrap();
    let epoch = claim(&mut core, &[0, 1, 2], 1)[0].epoch;
    let key = ShareKey::new();
    let bodies = [bytes_of(1, 2000), bytes_of(2, 2000), bytes_of(3, 1500)];
    let batches: Vec<Batch> = (0..).zip(&bodies).map(|(log, body)| batch(log, 0, key, body)).collect();
    for (log, batch) in (0..).zip(&batches) {
        let append = append(log, epoch.0, 1, 0, Durability::Sync, vec![batch.clone()]);
        done(&mut core, vec![Work::Group(vec![append])]);
    }
    (0..).zip(&batches).for_each(|(log, batch)| check(&core, log, &[batch]));
}

/// Many parts in one batch, some of them new, in any order; the transient ones of a class of its own are left alone.
#[test]
fn batches_of_many_parts_read_back() {
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let rng = ferrymq_runtime::Rng::seeded(4);
    let bodies: Vec<(ShareKey, Bytes)> = (0..40)
        .map(|body| (ShareKey::new(), bytes_of(body, 1024 + usize::try_from(body * 13).unwrap())))
        .collect();
    let mut expected = vec![Vec::new(); 16];
    for base in 0..12 {
        let mut work = Vec::new();
        for log in 0..LOGS {
            let (mut bytes, mut shared) = (bytes_of(log * 100 + base, 61).to_vec(), Vec::new());
            for _ in 0..rng.below(9) {
                let (key, body) = &bodies[usize::try_from(rng.below(40)).unwrap()];
                let (at, length) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(body.len()).unwrap());
                shared.push(SharedPart { key: *key, at, bytes: length });
                bytes.extend_from_slice(body);
                bytes.extend_from_slice(&bytes_of(at.into(), usize::try_from(rng.below(3)).unwrap()));
            }
            let class =
                [Durability::Sync, Durability::Os, Durability::Memory][usize::try_from(log % 3).unwrap()];
            let batch = Batch { shared, ..Batch::new(Offset(base), 1, 0, bytes.into()) };
            expected[usize::try_from(log).unwrap()].push(batch.clone());
            work.push(Work::Group(vec![append(log, epoch.0, 1, base, class, vec![batch])]));
        }
        done(&mut core, work);
    }
    for (log, batches) in (0..).zip(&expected) {
        check(&core, log, &batches.iter().collect::<Vec<_>>());
    }
}

/// Parts that lie side by side in the file are read together, in whatever order the batch has them.
#[test]
fn neighbours_read_back_in_any_order() {
    let disk = SimDisk::new(1);
    let (mut core, epoch) = opened(&disk);
    let bodies: Vec<(ShareKey, Bytes)> = (0..9).map(|body| (ShareKey::new(), bytes_of(body, 1500))).collect();
    let holding = |log: u64, order: &[usize], gap: usize| {
        let (mut bytes, mut shared) = (bytes_of(log, 61).to_vec(), Vec::new());
        for (key, body) in order.iter().map(|at| &bodies[*at]) {
            let (at, length) = (u32::try_from(bytes.len()).unwrap(), 1500);
            shared.push(SharedPart { key: *key, at, bytes: length });
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(&bytes_of(at.into(), gap));
        }
        Batch { shared, ..Batch::new(Offset(0), 1, 0, bytes.into()) }
    };
    let batches = [
        holding(0, &[0, 1, 2, 3, 4, 5], 30),
        holding(1, &[0, 1, 2, 3, 4, 5], 0),
        holding(2, &[5, 4, 3, 2, 1, 0], 3),
        holding(3, &[1, 2, 0, 0, 1, 4, 5], 700),
        holding(4, &[6, 7, 8], 600),
        holding(5, &[6, 8, 0, 7, 8], 40),
    ];
    for (log, batch) in (0..).zip(&batches) {
        let append = append(log, epoch.0, 1, 0, Durability::Sync, vec![batch.clone()]);
        done(&mut core, vec![Work::Group(vec![append])]);
    }
    (0..).zip(&batches).for_each(|(log, batch)| check(&core, log, &[batch]));
    let saved = Counters::get(&core.reader().counters().bytes_shared);
    assert_eq!(saved, (6 + 6 + 7 + 5) * 1500);
}
