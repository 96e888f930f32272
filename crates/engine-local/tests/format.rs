//! The bytes on the disk: a data directory written by format 1 or 2 must be read by every later program.
//!
//! Format 2 is what a directory has once batches in it share bytes; without such the bytes are those of format 1.
//!
//! To write it anew after a deliberate change of format: delete the directory and run this test once.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{append, bytes_of, claim, execute, show, tiny};
use ferrymq_disk::{Disk, RealDisk, SimDisk};
use ferrymq_engine_local::core::{Core, Done, Work};
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::{Batch, ShareKey, SharedPart};
use ferrymq_types::{Durability, Offset};

const DIRECTORIES: [&str; 3] = ["", "wal", "checkpoint"];

const FORMATS: [u32; 2] = [1, 2];

fn golden(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/format-{format}"))
}

fn batch(base: u64, length: usize) -> Batch {
    Batch::new(Offset(base), 3, 1_000, bytes_of(base + 1, length))
}

/// Three batches that share two bodies: the third holds one of them and is the first to hold the other.
fn sharing(base: u64, which: usize, keys: [ShareKey; 2]) -> Batch {
    let bodies = [bytes_of(50, 1100), bytes_of(51, 1200)];
    let mut bytes = bytes_of(base + 10, 40).to_vec();
    let mut shared = Vec::new();
    for (body, key) in bodies.iter().zip(keys).take([1, 1, 2, 2][which]).skip([0, 0, 0, 1][which]) {
        let (at, length) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(body.len()).unwrap());
        shared.push(SharedPart { key, at, bytes: length });
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"and so on");
    }
    Batch { shared, ..Batch::new(Offset(base), 3, 1_000, bytes.into()) }
}

/// One group for the first two logs, and one for the others, which refers to it and to itself.
fn write_shared(core: &mut Core) {
    let keys = [ShareKey::new(), ShareKey::new()];
    let epoch = claim(core, &[3, 4, 5, 6], 9)[0].epoch.0;
    let one = |log: u64, which| append(log, epoch, 9, 0, Durability::Sync, vec![sharing(log, which, keys)]);
    for group in [vec![one(3, 0), one(4, 1)], vec![one(5, 2), one(6, 3)]] {
        let done = execute(core, vec![Work::Group(group)]);
        assert!(matches!(done[0], Done::Group(Ok(()))), "{done:?}");
    }
}

/// Small: two logs, an atomic group over both, one more group; no clean stop, so that it is replayed.
fn write(disk: &SimDisk, format: u32) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut core = Core::open(disk, tiny(None), Clock::starting_at(0), &Rng::seeded(1)).unwrap();
    let epoch = claim(&mut core, &[1, 2], 9)[0].epoch.0;
    let both = vec![
        append(1, epoch, 9, 0, Durability::Sync, vec![batch(0, 10), batch(3, 20)]),
        append(2, epoch, 9, 0, Durability::Sync, vec![batch(7, 30)]),
    ];
    for group in [both, vec![append(1, epoch, 9, 6, Durability::Sync, vec![batch(6, 40)])]] {
        let done = execute(&mut core, vec![Work::Group(group)]);
        assert!(matches!(done[0], Done::Group(Ok(()))), "{done:?}");
    }
    if format == 2 {
        write_shared(&mut core);
    }
}

fn check(core: &Core, format: u32) {
    let reader = core.reader();
    let of = |base: u64, length: usize| (base, 3, bytes_of(base + 1, length));
    assert_eq!(show(&reader, 1).unwrap(), [of(0, 10), of(3, 20), of(6, 40)]);
    assert_eq!(show(&reader, 2).unwrap(), [of(7, 30)]);
    assert_eq!(reader.stat(2).unwrap().next, Offset(10));
    if format == 2 {
        let keys = [ShareKey::new(), ShareKey::new()];
        for (log, which) in [(3, 0), (4, 1), (5, 2), (6, 3)] {
            assert_eq!(show(&reader, log).unwrap(), [(log, 3, sharing(log, which, keys).bytes)]);
        }
    }
    assert!(reader.health().damage.is_empty(), "{:?}", reader.health());
}

#[test]
fn directories_of_all_formats_are_read() {
    for format in FORMATS {
        let simulated = SimDisk::new(1);
        write(&simulated, format);
        if !golden(format).join("FORMAT").exists() {
            save(&simulated, format);
        }
        let said = std::fs::read_to_string(golden(format).join("FORMAT")).unwrap();
        assert_eq!(said, format!("ferrymq-data {format}\n"));
        let root = tempfile::tempdir().unwrap();
        for directory in DIRECTORIES {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
            for entry in std::fs::read_dir(golden(format).join(directory)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let to = root.path().join(directory).join(entry.file_name());
                    std::fs::copy(entry.path(), to).unwrap();
                }
            }
        }
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(root.path()).unwrap());
        let mut core = Core::open(disk.clone(), tiny(None), Clock::starting_at(0), &Rng::seeded(2)).unwrap();
        check(&core, format);
        core.stop().unwrap();
        drop(core);
        check(&Core::open(disk, tiny(None), Clock::starting_at(0), &Rng::seeded(3)).unwrap(), format);
    }
}

#[test]
fn the_same_work_still_makes_the_same_bytes() {
    for format in FORMATS {
        let disk = SimDisk::new(1);
        write(&disk, format);
        let wal = Path::new("wal/0000000000000001.wal");
        let stored = std::fs::read(golden(format).join(wal)).unwrap();
        assert_eq!(without_padding(read(&disk, wal)), without_padding(stored), "format {format} has changed");
    }
}

fn read(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn without_padding(mut bytes: Vec<u8>) -> Vec<u8> {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    bytes
}

fn save(disk: &SimDisk, format: u32) {
    for directory in DIRECTORIES {
        std::fs::create_dir_all(golden(format).join(directory)).unwrap();
        for name in disk.list(Path::new(directory)).unwrap() {
            let path = Path::new(directory).join(&name);
            if name != "LOCK" && disk.open(&path).is_ok() {
                std::fs::write(golden(format).join(&path), without_padding(read(disk, &path))).unwrap();
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_with_what_to_do() {
    let disk = SimDisk::new(1);
    write(&disk, 1);
    let file = disk.open(Path::new("FORMAT")).unwrap();
    file.write_at(&[std::io::IoSlice::new(b"ferrymq-data 3\n")], 0).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = Core::open(disk, tiny(None), Clock::starting_at(0), &Rng::seeded(1));
    let text = opened.err().expect("a newer format is refused").to_string();
    assert!(text.contains("format 3") && text.contains("start a version"), "{text}");
}
