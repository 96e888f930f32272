//! Opening a data directory: from whatever a crash left to a state that keeps every promise made.
//!
//! ```text
//! lock -> FORMAT -> wipe volatile/ -> newest valid checkpoint -> scan WAL files -> judge damage
//!      -> apply groups -> cut the torn tail, sync -> indexes -> checkpoint -> remove CLEAN -> new WAL file
//! ```
//! **Invariants.** Every step can be repeated after a crash in the middle. No new group is written before the
//! cut is durable, and never into a file that was recovered. What a checkpoint needs and is not there is
//! damage to be reported, never an empty store.
//!
//! Deliberately absent: repair from another copy. How damage is judged is in `replay`.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrymq_disk::Disk;
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::IdMap;
use parking_lot::{Mutex, RwLock};

use crate::checkpoint::{self, Checkpoint, Encoder, Head};
use crate::core::bodies::Bodies;
use crate::core::maintain::{CLEAN, create_file};
use crate::core::{ActiveFile, Core};
use crate::counters::{Counters, Health};
use crate::files::{DataFile, FileId, data_path, directory, parse_name};
use crate::format::FileKind;
use crate::index::IndexCache;
use crate::options::{Options, SeededBug};
use crate::read::buffers::Buffers;
use crate::shared::{Log, Shared};
use crate::stage::{Pending, Staging};
use replay::Replay;

mod quarantine;
mod replay;

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const FORMAT_NAME: &str = "ferrymq-data";
/// A directory in which every payload lies as it is.
pub(crate) const FORMAT_PLAIN: u32 = 1;
/// One that may hold frames; written before the first of them.
pub(crate) const FORMAT_FRAMED: u32 = 2;
const DIRECTORIES: [&str; 5] = ["wal", "sorted", "volatile", "quarantine", checkpoint::DIRECTORY];

impl Core {
    /// Opens the data directory on `disk`, creating or recovering it.
    ///
    /// # Errors
    /// `Unavailable` if another process holds the directory, `InvalidArgument` if a newer version wrote it,
    /// `Corrupt` if no checkpoint verifies, `Closed` if the disk fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        clock: Clock,
        rng: &Rng,
    ) -> Result<Core, StorageError> {
        let lock = disk.lock(Path::new(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                StorageError::new(ErrorKind::Unavailable, "another process uses this data directory")
            }
            _ => broken("cannot lock the data directory", error),
        })?;
        let checkpoint = prepare(&*disk, rng)?;
        recover(disk, options, clock, checkpoint, lock)
            .map_err(|error| broken("cannot recover the data directory", error))
    }
}

fn broken(what: &str, error: io::Error) -> StorageError {
    StorageError::new(ErrorKind::Closed, format!("{what}: {error}")).caused_by(error)
}

/// Checks or makes the directory's outline; the checkpoint to begin with.
fn prepare(disk: &dyn Disk, rng: &Rng) -> Result<Loaded, StorageError> {
    let io = |error| broken("cannot prepare the data directory", error);
    for directory in DIRECTORIES {
        disk.create_dir(Path::new(directory)).map_err(io)?;
    }
    let version = read_format(disk).map_err(io)?;
    if version.is_none() {
        // FORMAT says that the rest is there, so the rest must be durable first.
        disk.sync_dir(Path::new("")).map_err(io)?;
    }
    match version.as_deref().map(parse_format) {
        None => {}
        Some(Some(FORMAT_PLAIN | FORMAT_FRAMED)) => {}
        Some(Some(newer)) => {
            let text = format!(
                "the data directory has format {newer}, this program reads {FORMAT_PLAIN} and \
                 {FORMAT_FRAMED}: start a version of ferrymq that reads it"
            );
            return Err(StorageError::new(ErrorKind::InvalidArgument, text));
        }
        Some(None) => {
            let text = "the file FORMAT is damaged: if this is a ferrymq data directory, write into it the \
                        line: ferrymq-data 2";
            return Err(StorageError::new(ErrorKind::InvalidArgument, text));
        }
    }
    let format = version.as_deref().and_then(parse_format);
    if let Some(mut loaded) = load_checkpoint(disk).map_err(io)? {
        // After a kill its name may be in memory only, and everything from now on builds on it.
        disk.sync_dir(Path::new(checkpoint::DIRECTORY)).map_err(io)?;
        loaded.format = match format {
            Some(format) => format,
            None => {
                // Made and not finished, unless somebody took it away: then there may be frames.
                let is_new = disk.list(Path::new("wal")).map_err(io)?.is_empty();
                let format = if is_new { FORMAT_PLAIN } else { FORMAT_FRAMED };
                write_format(disk, format).map_err(io)?;
                format
            }
        };
        return Ok(loaded);
    }
    let in_use = version.is_some() || !disk.list(Path::new("wal")).map_err(io)?.is_empty();
    if in_use {
        let text = "no checkpoint verifies: restore the data directory from a copy";
        return Err(StorageError::new(ErrorKind::Corrupt { resume: ferrymq_types::Offset::MAX }, text));
    }
    let head = Head { store: rng.next_u64(), number: 1, seq: 0, replay_from: 1, next_file: 1 };
    let bytes = Encoder::new(&head, &crate::stage::Tombstones::default(), &[], 0).finish();
    checkpoint::write(disk, 1, 0, &bytes, true).map_err(io)?;
    write_format(disk, FORMAT_PLAIN).map_err(io)?;
    let checkpoint = Checkpoint { head, ..Checkpoint::default() };
    Ok(Loaded { checkpoint, number_max: 1, broken: Vec::new(), format: FORMAT_PLAIN })
}

/// The newest checkpoint that verifies.
struct Loaded {
    checkpoint: Checkpoint,
    number_max: u64,
    /// Numbers of newer ones that do not.
    broken: Vec<u64>,
    /// What `FORMAT` says.
    format: u32,
}

fn load_checkpoint(disk: &dyn Disk) -> io::Result<Option<Loaded>> {
    let numbers = checkpoint::numbers(disk)?;
    let number_max = numbers.last().copied().unwrap_or(0);
    let mut broken = Vec::new();
    for number in numbers.into_iter().rev() {
        match checkpoint::read(disk, number)? {
            Some(checkpoint) => {
                return Ok(Some(Loaded { checkpoint, number_max, broken, format: FORMAT_PLAIN }));
            }
            None => broken.push(number),
        }
    }
    Ok(None)
}

fn read_small(disk: &dyn Disk, path: &Path) -> io::Result<Option<String>> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = [0; 256];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(Some(String::from_utf8_lossy(&bytes[..length]).into_owned()))
}

fn read_format(disk: &dyn Disk) -> io::Result<Option<String>> {
    read_small(disk, Path::new(FORMAT))
}

fn parse_format(text: &str) -> Option<u32> {
    let (name, version) = text.trim_end().split_once(' ')?;
    (name == FORMAT_NAME).then(|| version.parse().ok()).flatten()
}

/// Says durably what the directory may hold.
pub(crate) fn write_format(disk: &dyn Disk, format: u32) -> io::Result<()> {
    let temporary = Path::new("FORMAT.tmp");
    remove_if_there(disk, temporary)?;
    let file = disk.create(temporary)?;
    file.write_at(&[IoSlice::new(format!("{FORMAT_NAME} {format}\n").as_bytes())], 0)?;
    file.sync_data()?;
    disk.rename(temporary, Path::new(FORMAT))?;
    disk.sync_dir(Path::new(""))
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The last group's number that the clean-stop marker names; `None` if there is no marker.
fn read_clean(disk: &dyn Disk) -> io::Result<Option<u64>> {
    let text = read_small(disk, Path::new(CLEAN))?;
    // A marker that cannot be read still proves nothing, so it only counts when it parses.
    Ok(text.and_then(|text| text.split(' ').next().and_then(|seq| seq.parse().ok())))
}

fn recover(
    disk: Arc<dyn Disk>,
    options: Options,
    clock: Clock,
    loaded: Loaded,
    lock: Box<dyn Send + Sync>,
) -> io::Result<Core> {
    let Loaded { checkpoint, number_max, broken, format } = loaded;
    wipe_volatile(&*disk)?;
    let clean_seq = read_clean(&*disk)?;
    let head = checkpoint.head.clone();
    let deleted = checkpoint.deleted.clone();
    let (shared, next_file) = share(disk, options, clock, checkpoint)?;
    shared.health.lock().clean_start = clean_seq.is_some();
    for number in &broken {
        shared.report_damage(format!("checkpoint {number} does not verify; an older one is used"));
    }
    let mut staging = Staging::default();
    staging.deleted = deleted;
    let mut replay = Replay::new(&shared, &head, clean_seq);
    replay.run(&mut staging.deleted)?;
    let (seq, replayed) = (replay.last_seq, replay.replayed);
    stage_logs(&shared, &mut staging);
    let mut core = Core {
        staging,
        wal: placeholder(&shared, next_file),
        bodies: Bodies::default(),
        format,
        volatile: None,
        next_file,
        seq,
        durable_seq: seq,
        checkpoint: number_max,
        checkpoint_previous: head.number,
        tail_order: std::collections::VecDeque::new(),
        tail_bytes: 0,
        space_checked: None,
        full: false,
        stopped: false,
        _lock: lock,
        shared: shared.clone(),
    };
    if replayed || !broken.is_empty() {
        // The previous checkpoint must stay the one that was loaded: a broken one is no fallback.
        core.checkpoint_after_recovery(head.number)?;
    } else {
        core.checkpoint = head.number;
        core.checkpoint_previous = head.number.saturating_sub(1);
    }
    remove_if_there(&*shared.disk, Path::new(CLEAN))?;
    if !shared.options.has(SeededBug::SkipDirSync) {
        shared.disk.sync_dir(Path::new(""))?;
    }
    core.wal = first_wal(&mut core)?;
    Ok(core)
}

/// A stand-in until the first WAL file is made: it is sealed and has no room.
fn placeholder(shared: &Arc<Shared>, next_file: u64) -> ActiveFile {
    let data = Arc::new(DataFile::new(FileId(next_file), FileKind::Wal, Arc::new(NoFile)));
    data.sealed.store(true, Ordering::Release);
    debug_assert!(shared.file(data.id).is_none(), "the number of the next file is not in use");
    ActiveFile { data, position: 0, length: 0, written: 0, unsynced: 0, logs: Default::default() }
}

fn first_wal(core: &mut Core) -> io::Result<ActiveFile> {
    let id = core.new_file_id();
    create_file(&core.shared, FileKind::Wal, id, core.shared.options.wal_file_bytes, core.seq + 1)
}

fn wipe_volatile(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list(Path::new("volatile"))? {
        disk.remove(&Path::new("volatile").join(name))?;
    }
    Ok(())
}

/// Opens all data files and puts the checkpoint's logs in place; also the next file's number.
fn share(
    disk: Arc<dyn Disk>,
    options: Options,
    clock: Clock,
    checkpoint: Checkpoint,
) -> io::Result<(Arc<Shared>, u64)> {
    let store = checkpoint.head.store;
    let counters = Arc::new(Counters::default());
    let trust = options.has(SeededBug::TrustStaleIndex);
    let index = IndexCache::new(disk.clone(), store, options.index_cache_bytes, counters.clone(), trust);
    let put: HashMap<FileId, u64> = checkpoint.files.iter().map(|file| (file.0, file.2)).collect();
    let mut files = IdMap::default();
    let mut next_file = checkpoint.head.next_file;
    for kind in [FileKind::Wal, FileKind::Run] {
        // Before a kill a file may have been removed; if a power cut brought it back later, its number would be taken
        // by another.
        disk.sync_dir(Path::new(directory(kind)))?;
        for name in disk.list(Path::new(directory(kind)))? {
            let Some(id) = parse_name(kind, &name) else { continue };
            let data = DataFile::new(id, kind, disk.open(&data_path(kind, id))?);
            data.sealed.store(true, Ordering::Relaxed);
            data.put_bytes.store(put.get(&id).copied().unwrap_or(0), Ordering::Relaxed);
            data.used_bytes.store(data.file.len()?, Ordering::Relaxed);
            next_file = next_file.max(id.0 + 1);
            if files.insert(id, Arc::new(data)).is_some() {
                let text = format!("two data files have the number {:016x}", id.0);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
    let reuse_offsets = options.has(SeededBug::ReuseOffsetAfterTrim);
    let mut logs = IdMap::with_capacity_and_hasher(checkpoint.logs.len(), Default::default());
    for (id, mut state) in checkpoint.logs {
        for segment in &state.segments {
            if let Some(data) = files.get(&segment.file) {
                let bytes = i64::try_from(segment.bytes).unwrap_or(i64::MAX);
                data.live_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        if reuse_offsets && state.segments.is_empty() {
            state.next = state.next.saturating_sub(1);
            state.start = state.start.min(state.next);
        }
        logs.insert(id, Arc::new(Log { id, state: RwLock::new(state) }));
    }
    let shared = Shared {
        disk,
        store,
        options,
        clock,
        counters,
        health: Mutex::new(Health::default()),
        logs: RwLock::new(logs),
        files: RwLock::new(files),
        index,
        buffers: Buffers::default(),
        stopping: AtomicBool::new(false),
    };
    report_missing(&shared);
    Ok((Arc::new(shared), next_file))
}

fn report_missing(shared: &Shared) {
    let logs = shared.logs.read();
    for log in logs.values() {
        let state = log.state.read();
        for segment in state.segments.iter().filter(|segment| shared.file(segment.file).is_none()) {
            let (file, base, next) = (segment.file.0, segment.base, segment.next);
            shared.report_damage(format!("log {} {base}..{next}: file {file:016x} is missing", log.id));
        }
    }
}

/// What the writer has to know of each log; offsets that may have been given out are skipped.
fn stage_logs(shared: &Shared, staging: &mut Staging) {
    let logs = shared.logs.read();
    // A table that grows by doubling leaves as much again behind.
    staging.logs.reserve(logs.len());
    for log in logs.values() {
        let mut state = log.state.write();
        state.next = state.next.max(state.reserved);
        let pending = Pending {
            epoch: state.epoch,
            owner: state.owner,
            start: state.start,
            next: state.next,
            reserved: state.reserved,
            last_commit: state.last_commit,
        };
        staging.logs.insert(log.id, pending);
    }
}

/// Stands for a file that is never read or written.
struct NoFile;

impl ferrymq_disk::File for NoFile {
    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn read_cached(&self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn punch(&self, _: std::ops::Range<u64>) -> io::Result<()> {
        Ok(())
    }
}
