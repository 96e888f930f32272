//! What a power cut may leave, and above all what it must not.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::RealDisk;

fn write(file: &Arc<dyn File>, bytes: &[u8], at: u64) {
    file.write_at(&[io::IoSlice::new(bytes)], at).unwrap();
}

fn read(disk: &dyn Disk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path)).ok()?;
    let mut bytes = vec![0xee; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

/// A file under a durable name with durable bytes.
fn synced_file(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.create(Path::new(path)).unwrap();
    write(&file, bytes, 0);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    file
}

/// What `look` sees after each of many power cuts.
fn after_cuts<T: Ord>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..2_000).map(|seed| look(&disk.crash(seed))).collect()
}

#[test]
fn synced_bytes_under_a_synced_name_survive_every_cut() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", &[7; 5_000]);
    write(&file, &[8; 5_000], 5_000);
    let fronts = after_cuts(&disk, |left| read(left, "f").unwrap()[..5_000].to_vec());
    assert_eq!(fronts, BTreeSet::from([vec![7; 5_000]]));
}

#[test]
fn a_sync_of_the_bytes_does_not_keep_the_name_nor_the_other_way_round() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("bytes")).unwrap();
    write(&file, b"synced", 0);
    file.sync_data().unwrap();
    assert_eq!(
        after_cuts(&disk, |left| read(left, "bytes")),
        BTreeSet::from([None, Some(b"synced".to_vec())])
    );

    let disk = SimDisk::new(1);
    write(&disk.create(Path::new("name")).unwrap(), b"unsynced", 0);
    disk.sync_dir(Path::new("")).unwrap();
    let seen = after_cuts(&disk, |left| read(left, "name").unwrap());
    assert_eq!(seen, BTreeSet::from([vec![], vec![0; 8], b"unsynced".to_vec()]));
}

#[test]
fn a_directory_whose_name_is_lost_takes_its_files_with_it() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("a/b")).unwrap();
    let file = disk.create(Path::new("a/b/f")).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("a/b")).unwrap();
    disk.sync_dir(Path::new("a")).unwrap();
    assert_eq!(after_cuts(&disk, |left| read(left, "a/b/f").is_some()), BTreeSet::from([false, true]));
    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(after_cuts(&disk, |left| read(left, "a/b/f").is_some()), BTreeSet::from([true]));
}

#[test]
fn writes_are_torn_between_sectors_only() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", &[1; 4_096]);
    write(&file, &[2; 2_000], 700);
    let seen = after_cuts(&disk, |left| read(left, "f").unwrap());
    // Bytes 700..2700 touch sectors 1 to 5: every combination is possible and nothing else.
    assert_eq!(seen.len(), 32);
    for bytes in seen {
        for (sector, chunk) in bytes.chunks(512).enumerate() {
            let inside: Vec<u8> =
                (0..512).filter(|i| (700..2_700).contains(&(sector * 512 + i))).map(|i| chunk[i]).collect();
            assert!(inside.windows(2).all(|pair| pair[0] == pair[1]), "torn inside a sector");
        }
    }
}

#[test]
fn a_later_write_may_survive_an_earlier_one_but_not_in_the_same_sector() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", &[0; 1_024]);
    write(&file, &[1], 0);
    write(&file, &[2], 600);
    let far = after_cuts(&disk, |left| read(left, "f").map(|bytes| (bytes[0], bytes[600])));
    assert_eq!(far, BTreeSet::from([Some((0, 0)), Some((0, 2)), Some((1, 0)), Some((1, 2))]));
    write(&file, &[3], 1);
    let near = after_cuts(&disk, |left| read(left, "f").map(|bytes| (bytes[0], bytes[1])));
    assert_eq!(near, BTreeSet::from([Some((0, 0)), Some((1, 0)), Some((1, 3))]));
}

#[test]
fn an_unsynced_truncation_may_come_undone_below_newer_bytes() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", &[1; 2_048]);
    file.set_len(512).unwrap();
    write(&file, &[2; 512], 512);
    let seen = after_cuts(&disk, |left| read(left, "f").unwrap());
    let (old, new) = (vec![1; 512], vec![2; 512]);
    let undone = [old.clone(), new.clone(), vec![1; 1_024]].concat();
    assert!(seen.contains(&undone), "old bytes behind new ones");
    assert!(seen.contains(&old), "cut, and the new bytes lost");
    assert!(seen.contains(&[old.clone(), new].concat()), "all done");
    assert!(seen.contains(&[old, vec![0; 512]].concat()), "length kept, bytes lost: zeros");
    file.sync_data().unwrap();
    assert_eq!(after_cuts(&disk, |left| read(left, "f").unwrap().len()), BTreeSet::from([1_024]));
}

#[test]
fn allocated_and_never_written_bytes_are_zeros() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", b"");
    file.allocate(8_192).unwrap();
    assert_eq!(after_cuts(&disk, |left| read(left, "f").unwrap().len()), BTreeSet::from([0, 8_192]));
    file.sync_data().unwrap();
    write(&file, &[5; 512], 4_096);
    let seen = after_cuts(&disk, |left| read(left, "f").unwrap());
    let mut written = vec![0; 8_192];
    assert!(seen.contains(&written));
    written[4_096..4_608].fill(5);
    assert!(seen.contains(&written));
    assert_eq!(seen.len(), 2);
    file.sync_data().unwrap();
    file.punch(4_096..5_000).unwrap();
    assert_eq!(after_cuts(&disk, |left| read(left, "f").unwrap()), seen, "the hole is there or not");
}

#[test]
fn a_rename_is_all_or_nothing_and_only_as_good_as_the_bytes() {
    for sync_first in [true, false] {
        let disk = SimDisk::new(1);
        synced_file(&disk, "state", b"old");
        let file = disk.create(Path::new("state.tmp")).unwrap();
        write(&file, b"new", 0);
        if sync_first {
            file.sync_data().unwrap();
        }
        disk.rename(Path::new("state.tmp"), Path::new("state")).unwrap();
        let seen = after_cuts(&disk, |left| read(left, "state").unwrap());
        let mut expected = BTreeSet::from([b"old".to_vec(), b"new".to_vec()]);
        if !sync_first {
            expected.extend([vec![], vec![0; 3]]);
        }
        assert_eq!(seen, expected, "synced first: {sync_first}");
        disk.sync_dir(Path::new("")).unwrap();
        assert!(!after_cuts(&disk, |left| read(left, "state").unwrap()).contains(&b"old"[..]));
    }
}

#[test]
fn changes_of_one_name_are_kept_in_order_and_of_several_in_any() {
    let disk = SimDisk::new(1);
    synced_file(&disk, "a", b"1");
    disk.remove(Path::new("a")).unwrap();
    let second = disk.create(Path::new("a")).unwrap();
    write(&second, b"2", 0);
    second.sync_data().unwrap();
    disk.create(Path::new("b")).unwrap();
    let seen = after_cuts(&disk, |left| (read(left, "a"), read(left, "b").is_some()));
    let versions = [Some(b"1".to_vec()), None, Some(b"2".to_vec())];
    let all = versions.into_iter().flat_map(|a| [(a.clone(), false), (a, true)]);
    assert_eq!(seen, all.collect());
}

#[test]
fn a_change_is_not_kept_without_the_earlier_one_of_the_same_name() {
    let disk = SimDisk::new(1);
    synced_file(&disk, "a", b"new");
    synced_file(&disk, "b", b"old");
    disk.rename(Path::new("a"), Path::new("b")).unwrap();
    disk.remove(Path::new("b")).unwrap();
    let seen = after_cuts(&disk, |left| (read(left, "a"), read(left, "b")));
    let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    assert_eq!(seen, BTreeSet::from([(new.clone(), old), (None, new), (None, None)]));
}

#[test]
fn a_sync_that_the_cut_interrupts_promises_nothing() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", b"old");
    write(&file, b"new", 0);
    disk.stop_at(disk.counts().steps() + 1);
    assert!(file.sync_data().is_err());
    assert_eq!(
        after_cuts(&disk, |left| read(left, "f").unwrap()),
        BTreeSet::from([b"old".to_vec(), b"new".to_vec()])
    );
    let disk = SimDisk::new(1);
    disk.create(Path::new("f")).unwrap();
    disk.stop_at(2);
    assert!(disk.sync_dir(Path::new("")).is_err());
    assert_eq!(after_cuts(&disk, |left| read(left, "f").is_some()), BTreeSet::from([false, true]));
}

#[test]
fn syncing_one_directory_leaves_the_other_alone() {
    let disk = SimDisk::new(1);
    for dir in ["x", "y"] {
        disk.create_dir(Path::new(dir)).unwrap();
    }
    disk.sync_dir(Path::new("")).unwrap();
    for path in ["x/f", "y/f"] {
        disk.create(Path::new(path)).unwrap();
    }
    disk.sync_dir(Path::new("x")).unwrap();
    let seen = after_cuts(&disk, |left| (read(left, "x/f").is_some(), read(left, "y/f").is_some()));
    assert_eq!(seen, BTreeSet::from([(true, false), (true, true)]));
    // Moving a file durably into x takes it durably out of y, and so needs its creation there.
    disk.rename(Path::new("y/f"), Path::new("x/g")).unwrap();
    disk.sync_dir(Path::new("x")).unwrap();
    let seen = after_cuts(&disk, |left| (read(left, "x/g").is_some(), read(left, "y/f").is_some()));
    assert_eq!(seen, BTreeSet::from([(true, false)]));
}

#[test]
fn a_killed_process_loses_nothing_written_and_makes_nothing_durable() {
    let disk = SimDisk::new(1);
    let file = disk.create(Path::new("f")).unwrap();
    write(&file, b"written", 0);
    let _lock = disk.lock(Path::new("lock")).unwrap();
    let killed = disk.kill();
    assert_eq!(read(&killed, "f").unwrap(), b"written");
    killed.lock(Path::new("lock")).unwrap();
    assert!(after_cuts(&killed, |left| read(left, "f")).contains(&None));
    write(&file, b"!", 7);
    assert_eq!(read(&killed, "f").unwrap(), b"written", "the old handle leads to the old disk");
}

#[test]
fn a_failed_sync_may_have_done_anything_and_the_next_one_lies() {
    let (mut lost, mut kept, mut reverted, mut lied) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = synced_file(&disk, "f", b"old");
        write(&file, b"new", 0);
        disk.order(Fault::nth(&[OpKind::SyncData], 1, Failure::Eio));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        file.sync_data().unwrap();
        reverted += usize::from(read(&disk, "f").unwrap() == b"old");
        let on_disk = read(&disk.crash_to_synced(), "f").unwrap();
        lied += usize::from(on_disk != read(&disk, "f").unwrap());
        match &on_disk[..] {
            b"old" => lost += 1,
            b"new" => kept += 1,
            other => panic!("{other:?}"),
        }
        // What is written later and synced is durable all the same.
        write(&file, b"later", 600);
        file.sync_data().unwrap();
        let bytes = read(&disk.crash(seed), "f").unwrap();
        assert!(bytes.ends_with(b"later"));
        assert_eq!(bytes[..3], on_disk[..], "a later sync does not write what counts as written");
    }
    assert!(lost > 20 && kept > 20 && reverted > 10, "lost {lost}, kept {kept}, reverted {reverted}");
    assert!(lied > 10, "read back and not on the device: {lied}");
}

#[test]
fn a_failed_sync_of_a_directory_forgets_names() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        disk.create(Path::new("f")).unwrap();
        disk.order(Fault::nth(&OpKind::SYNCS, 1, Failure::Eio));
        disk.sync_dir(Path::new("")).unwrap_err();
        disk.sync_dir(Path::new("")).unwrap();
        assert!(read(&disk, "f").is_some());
        seen.insert(read(&disk.crash_to_synced(), "f").is_some());
    }
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn faults_strike_where_they_were_ordered() {
    let disk = SimDisk::new(3);
    let (wal, other) = (synced_file(&disk, "wal-1", b""), synced_file(&disk, "other", b""));
    disk.order(Fault::nth(&[OpKind::Write], 2, Failure::Enospc).at("wal"));
    write(&other, b"1", 0);
    write(&wal, b"1", 0);
    write(&other, b"2", 0);
    let error = wal.write_at(&[io::IoSlice::new(b"2222")], 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let written = read(&disk, "wal-1").unwrap();
    assert!(b"12222".starts_with(&written[..]), "a part at most: {written:?}");
    write(&wal, b"3", 0);

    disk.order(Fault::nth(&[OpKind::Create, OpKind::Write], 1, Failure::Eio).and_after());
    for _ in 0..3 {
        assert_eq!(disk.create(Path::new("new")).err().unwrap().raw_os_error(), Some(5));
    }
    disk.clear_faults();
    disk.create(Path::new("new")).unwrap();

    disk.order(Fault::nth(&[OpKind::Read], 1, Failure::ShortRead));
    write(&other, &[9; 100], 0);
    assert!(other.read_at(&mut [0; 100], 0).unwrap() < 100);
    assert_eq!(other.read_at(&mut [0; 100], 0).unwrap(), 100);
    disk.set_cold_percent(100);
    assert_eq!(other.read_cached(&mut [0; 1], 0).unwrap(), None);
    disk.set_cold_percent(0);
    assert_eq!(other.read_cached(&mut [0; 1], 0).unwrap(), Some(1));
}

#[test]
fn a_full_disk_takes_no_more_until_there_is_room() {
    let disk = SimDisk::new(1);
    disk.set_capacity(3 * 4_096);
    let first = disk.create(Path::new("first")).unwrap();
    first.allocate(2 * 4_096).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 4_096);
    let second = disk.create(Path::new("second")).unwrap();
    let error = second.write_at(&[io::IoSlice::new(&[1; 10_000])], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(second.len().unwrap(), 4_096, "what fits is written");
    write(&first, &[2; 8_192], 0);
    assert_eq!(first.allocate(3 * 4_096).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.remove(Path::new("first")).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0, "an open handle keeps the space");
    drop(first);
    assert_eq!(disk.free_bytes().unwrap(), 8_192);
    second.punch(0..4_096).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 3 * 4_096);
    assert_eq!(disk.crash_to_synced().free_bytes().unwrap(), 3 * 4_096);
}

/// A step-by-step program whose every change counts.
fn program(disk: &SimDisk) -> io::Result<()> {
    disk.create_dir(Path::new("d"))?;
    disk.sync_dir(Path::new(""))?;
    let file = disk.create(Path::new("d/tmp"))?;
    file.allocate(1_024)?;
    file.write_at(&[io::IoSlice::new(b"data")], 0)?;
    file.set_len(4)?;
    file.sync_data()?;
    disk.rename(Path::new("d/tmp"), Path::new("d/final"))?;
    disk.sync_dir(Path::new("d"))?;
    file.punch(0..1)?;
    disk.remove(Path::new("d/final"))
}

#[test]
fn the_power_can_be_cut_at_every_step() {
    let whole = SimDisk::new(1);
    program(&whole).unwrap();
    assert_eq!(whole.counts().steps(), 11);
    assert_eq!(whole.counts().of(OpKind::SyncDir), 2);
    for step in 1..=11 {
        let disk = SimDisk::new(1);
        disk.stop_at(step);
        program(&disk).unwrap_err();
        assert!(disk.is_stopped());
        assert_eq!(disk.counts().steps(), step);
        assert!(disk.list(Path::new("")).is_err() && disk.create(Path::new("x")).is_err());
        let seen = after_cuts(&disk, |left| read(left, "d/final"));
        match step {
            1..=7 => assert_eq!(seen, BTreeSet::from([None]), "step {step}"),
            8 => assert_eq!(seen, BTreeSet::from([None, Some(b"data".to_vec())])),
            // The sync of the directory was interrupted: still either.
            9 => assert_eq!(seen, BTreeSet::from([None, Some(b"data".to_vec())])),
            10 => assert_eq!(seen, BTreeSet::from([Some(b"data".to_vec()), Some(b"\0ata".to_vec())])),
            _ => assert!(seen.contains(&None) && seen.contains(&Some(b"data".to_vec()))),
        }
    }
}

#[test]
fn the_trace_tells_what_a_sync_covers() {
    let disk = SimDisk::new(1);
    disk.create(Path::new("before")).unwrap();
    disk.create_dir(Path::new("d")).unwrap();
    disk.start_trace();
    disk.create_dir(Path::new("d")).unwrap();
    let file = disk.create(Path::new("f")).unwrap();
    write(&file, b"one", 0);
    file.sync_data().unwrap();
    disk.mark(b"ack one");
    write(&file, b"two", 3);
    let trace = disk.trace();
    assert!(matches!(&trace[0], Event::Create { path, .. } if path == Path::new("f")));
    assert!(matches!(&trace[1], Event::Write { position: 0, bytes, .. } if &bytes[..] == b"one"));
    assert!(matches!(trace[2], Event::SyncData { covers: 2, .. }));
    assert_eq!(trace[3], Event::Mark(b"ack one".to_vec()));
    assert_eq!(trace.len(), 5);
}

#[test]
fn a_held_sync_covers_only_what_was_written_before_it() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", b"");
    write(&file, b"before", 0);
    let hold = disk.hold_syncs();
    std::thread::scope(|scope| {
        scope.spawn(|| file.sync_data().unwrap());
        while disk.syncs_held() == 0 {
            std::thread::yield_now();
        }
        write(&file, b"during", 6);
        drop(hold);
    });
    assert_eq!(read(&disk.crash_to_synced(), "f").unwrap(), b"before");
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash_to_synced(), "f").unwrap(), b"beforeduring");
}

#[test]
fn damage_reaches_the_device() {
    let disk = SimDisk::new(1);
    let file = synced_file(&disk, "f", b"abcd");
    disk.flip_bit(Path::new("f"), 8).unwrap();
    assert_eq!(read(&disk.crash_to_synced(), "f").unwrap(), b"accd");
    disk.copy_range(Path::new("f"), 0..2, Path::new("f"), 2).unwrap();
    assert_eq!(read(&disk, "f").unwrap(), b"acac");
    disk.zero_range(Path::new("f"), 1..3).unwrap();
    assert_eq!(read(&disk.crash(9), "f").unwrap(), b"a\0\0c");
    assert!(disk.flip_bit(Path::new("f"), 32).is_err());
    assert!(disk.zero_range(Path::new("g"), 0..1).is_err());
    drop(file);
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// Does the same random things to any disk; the answers and the bytes found at the end.
fn random_life(disk: &dyn Disk, seed: u64) -> Vec<String> {
    let mut rng = rng::Rng::new(seed);
    let mut said = Vec::new();
    let names = ["a", "b", "d/a", "d/b", "d/e/a", "d", "missing/a", "../a"];
    disk.create_dir(Path::new("d/e")).unwrap();
    for _ in 0..120 {
        let name = Path::new(names[index(rng.below(names.len() as u64))]);
        let other = Path::new(names[index(rng.below(5))]);
        let (at, count) = (rng.below(20_000), rng.below(6_000));
        let outcome = match rng.below(12) {
            0 => disk.create(name).map(|_| String::new()),
            1 => disk.remove(name).map(|()| String::new()),
            2 if name.components().count() > 1 || name == Path::new("a") => {
                disk.rename(name, other).map(|()| String::new())
            }
            3 => disk.list(name.parent().unwrap()).map(|names| names.join(",")),
            4 => disk.sync_dir(name.parent().unwrap()).map(|()| String::new()),
            kind => disk.open(name).and_then(|file| {
                match kind {
                    5 => file.set_len(at)?,
                    6 => file.allocate(at)?,
                    7 => file.punch(at..at + count)?,
                    8 => file.sync_data()?,
                    _ => {
                        let bytes = vec![u8::try_from(at % 255).unwrap() + 1; index(count)];
                        let (front, back) = bytes.split_at(bytes.len() / 3);
                        file.write_at(&[io::IoSlice::new(front), io::IoSlice::new(back)], at)?;
                    }
                }
                Ok(file.len()?.to_string())
            }),
        };
        said.push(match outcome {
            Ok(text) => text,
            Err(error) => format!("{:?}", error.kind()),
        });
    }
    for name in &names[..5] {
        said.push(format!("{name} {:?}", read(disk, name)));
    }
    said
}

#[test]
fn the_simulated_disk_answers_as_the_real_one_does() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let real = random_life(&RealDisk::open(dir.path()).unwrap(), seed);
        let simulated = random_life(&SimDisk::new(0), seed);
        for (step, (real, simulated)) in real.iter().zip(&simulated).enumerate() {
            assert!(real == simulated, "seed {seed} step {step}: {real:.80} or {simulated:.80}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_cut() {
    let disk = SimDisk::new(5);
    random_life(&disk, 11);
    let look = |left: &SimDisk| ["a", "b", "d/a", "d/b", "d/e/a"].map(|path| read(left, path));
    for seed in 0..50 {
        assert_eq!(look(&disk.crash(seed)), look(&disk.crash(seed)));
    }
    assert!(after_cuts(&disk, look).len() > 20, "different seeds are different cuts");
}

#[test]
fn twenty_thousand_cuts_are_cheap() {
    let disk = SimDisk::new(1);
    let files: Vec<_> = (0..8).map(|i| synced_file(&disk, &format!("f{i}"), &[1; 4 << 20])).collect();
    for step in 0..200u64 {
        write(&files[index(step % 8)], &[2; 900], step * 700);
    }
    let files_seen: usize = (0..20_000).map(|seed| disk.crash(seed).list(Path::new("")).unwrap().len()).sum();
    assert_eq!(files_seen, 160_000);
}
