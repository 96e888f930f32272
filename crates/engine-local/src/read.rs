//! Reading: from memory if the batches are the newest, else from files, around the writer.
//!
//! ```text
//! tail cache -> plan under the log's lock (memory only) -> entries -> pread of neighbours -> verify -> runs
//! ```
//! **Invariants.** No lock is held during I/O. Nothing is returned that did not verify. Space that is given back
//! while it is being read shows as a mismatch and is planned anew.
//!
//! Deliberately absent: waiting for data that is not there yet.

use std::sync::Arc;

use ferrymq_storage::{ErrorKind, Read, Run, StorageError};
use ferrymq_types::Offset;

use crate::counters::Counters;
use crate::files::DataFile;
use crate::index::Entry;
use crate::log::{LogState, Segment};
use crate::shared::{Log, Shared};

pub(crate) mod buffers;
pub(crate) mod describe;
mod framed;
mod region;

pub(crate) use region::read_picks;

/// Segments looked at in one read.
const SEGMENTS_MAX: usize = 256;
/// A mismatch is believed after planning anew this often.
const ATTEMPTS: usize = 3;

/// Whether the device may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Cached,
    Blocking,
}

/// Why a read stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The device would have to be waited for.
    WouldBlock,
    /// This batch does not verify.
    Mismatch(Pick),
    Failed(StorageError),
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Stop {
        Stop::Failed(error)
    }
}

/// A batch to be read.
#[derive(Clone)]
pub(crate) struct Pick {
    pub file: Arc<DataFile>,
    pub entry: Entry,
    pub epoch: u32,
}

impl std::fmt::Debug for Pick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pick")
            .field("file", &self.file.id)
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// What to read, in offsets and bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub from: u64,
    pub until: u64,
    pub bytes_max: u64,
    pub count_max: usize,
}

/// Reads whole batches; see [`ferrymq_storage::LogStore::read`].
pub(crate) fn read(shared: &Shared, id: u64, wanted: Wanted, mode: Mode) -> Result<Read, Stop> {
    let log = shared.log(id)?;
    for attempt in 1..=ATTEMPTS {
        let segments = {
            let state = log.state.read();
            if let Some(read) = from_tail(&state, wanted) {
                Counters::add(&shared.counters.reads_from_tail, read.runs.len() as u64);
                return Ok(read);
            }
            plan(&state, id, wanted)?
        };
        let picks = pick(shared, &log, segments, wanted, mode)?;
        match read_picks(shared, id, &picks, mode) {
            Err(Stop::Mismatch(_)) if attempt < ATTEMPTS => {}
            Err(Stop::Mismatch(pick)) => return Err(corrupt(shared, id, &pick).into()),
            other => {
                Counters::add(&shared.counters.reads_from_files, 1);
                return other.map(|runs| Read { runs });
            }
        }
    }
    Ok(Read::default())
}

pub(crate) fn corrupt(shared: &Shared, id: u64, pick: &Pick) -> StorageError {
    Counters::add(&shared.counters.corrupt_reads, 1);
    let (base, next) = (pick.entry.base, pick.entry.next());
    let text = format!("log {id} {base}..{next}: batch does not verify");
    shared.report_damage(text.clone());
    StorageError::new(ErrorKind::Corrupt { resume: Offset(next) }, text)
}

/// The newest batches, if they are all that is wanted.
fn from_tail(state: &LogState, wanted: Wanted) -> Option<Read> {
    let from = wanted.from.max(state.start);
    if from >= state.next {
        return Some(Read::default());
    }
    let first = state.tail.partition_point(|cached| cached.next <= from);
    if first == 0 && state.tail.front()?.base > from {
        return None;
    }
    let mut read = Read::default();
    let mut bytes = 0;
    for cached in state.tail.range(first..) {
        bytes += cached.bytes.len() as u64;
        let too_much = bytes > wanted.bytes_max && !read.runs.is_empty();
        if too_much || cached.base >= wanted.until {
            break;
        }
        let (base, next) = (Offset(cached.base), Offset(cached.next));
        read.runs.push(Run { base, next, bytes: cached.bytes.clone() });
    }
    Some(read)
}

/// A segment and, if its file has no index yet, those of its entries that are wanted.
pub(crate) type Planned = (Segment, Option<Vec<Entry>>);

/// Chooses segments under the log's lock.
pub(crate) fn plan(state: &LogState, id: u64, wanted: Wanted) -> Result<Vec<Planned>, StorageError> {
    if state.deleted {
        return Err(StorageError::new(ErrorKind::NotFound, format!("log is deleted: {id}")));
    }
    let from = wanted.from.max(state.start);
    let until = until_damage(state, from, wanted.until)?;
    let first = state.segments.partition_point(|segment| segment.next <= from);
    let mut planned = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    for segment in state.segments.range(first..).take(SEGMENTS_MAX) {
        let enough = !planned.is_empty() && (bytes >= wanted.bytes_max || count >= wanted.count_max);
        if segment.base >= until || enough {
            break;
        }
        let dense = state.dense(segment.file).map(|entries| {
            let slice = segment.slice(entries);
            let skip = slice.partition_point(|entry| entry.next() <= from);
            let room = wanted.bytes_max.saturating_sub(bytes);
            take_wanted(&slice[skip..], room, wanted.count_max - count)
        });
        // How much of the first one lies before `from` is not known: it does not count.
        let whole = segment.base >= from;
        bytes += if whole { segment.bytes } else { 0 };
        count += if whole { segment.count as usize } else { 0 };
        planned.push((Segment { next: segment.next.min(until.max(segment.base)), ..*segment }, dense));
    }
    Ok(planned)
}

/// The entries that fit and the first that does not, so that whoever picks from them stops there.
fn take_wanted(entries: &[Entry], bytes_max: u64, count_max: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let begins_inside = |entry: &&Entry| {
        let inside = bytes <= bytes_max;
        bytes += u64::from(entry.bytes());
        inside
    };
    entries.iter().take(count_max.max(1)).take_while(begins_inside).copied().collect()
}

/// Where to stop because of lost offsets.
fn until_damage(state: &LogState, from: u64, until: u64) -> Result<u64, StorageError> {
    let first = state.segments.partition_point(|segment| segment.next <= from);
    let base = state.segments.get(first).map_or(state.next, |segment| segment.base.max(from));
    let Some(bad) = state.bad.iter().find(|bad| bad.end > from && bad.start < until) else {
        return Ok(until);
    };
    if bad.start <= from || bad.end <= base {
        let text = format!("offsets {}..{} were lost", bad.start, bad.end);
        return Err(StorageError::new(ErrorKind::Corrupt { resume: Offset(bad.end) }, text));
    }
    Ok(bad.start)
}

/// Turns segments into batches, loading entries if need be.
pub(crate) fn pick(
    shared: &Shared,
    log: &Log,
    planned: Vec<Planned>,
    wanted: Wanted,
    mode: Mode,
) -> Result<Vec<Pick>, Stop> {
    let mut picks: Vec<Pick> = Vec::new();
    let mut bytes = 0;
    for (segment, dense) in planned {
        let Some(file) = shared.file(segment.file) else {
            // Gone since planning, or lost: the plan made anew will tell.
            return if picks.is_empty() { Err(lost(segment.base, segment.next)) } else { Ok(picks) };
        };
        let loaded;
        let entries: &[Entry] = match &dense {
            Some(entries) => entries,
            None => {
                loaded = entries_of(shared, log, &file, mode)?;
                let slice = segment.slice(&loaded);
                if slice.len() != segment.count as usize {
                    return with_missing(shared, log, &file, segment, slice, wanted, picks);
                }
                slice
            }
        };
        let skip = entries.partition_point(|entry| entry.next() <= wanted.from);
        let (entries, before) = (&entries[skip..], picks.len());
        let fits = |(at, entry): &(usize, &Entry)| {
            bytes += u64::from(entry.bytes());
            let count = before + at;
            let enough = count >= wanted.count_max || (bytes > wanted.bytes_max && count > 0);
            !enough && entry.base < wanted.until && entry.base < segment.next
        };
        // Counted before they are taken: a list that grows is copied again and again.
        let count = entries.iter().enumerate().take_while(fits).count();
        let taken = entries[..count].iter();
        picks.extend(taken.map(|entry| Pick { file: file.clone(), entry: *entry, epoch: segment.epoch }));
        if count < entries.len() {
            return Ok(picks);
        }
    }
    Ok(picks)
}

fn lost(base: u64, next: u64) -> Stop {
    let text = format!("offsets {base}..{next} were lost");
    StorageError::new(ErrorKind::Corrupt { resume: Offset(next) }, text).into()
}

/// Entries of a segment are missing, because index and data are both damaged: a hole is damage here.
fn with_missing(
    shared: &Shared,
    log: &Log,
    file: &Arc<DataFile>,
    segment: Segment,
    slice: &[Entry],
    wanted: Wanted,
    picks: Vec<Pick>,
) -> Result<Vec<Pick>, Stop> {
    if !picks.is_empty() {
        return Ok(picks);
    }
    let from = wanted.from.max(segment.base);
    shared.report_damage(format!("log {} {}..{}: entries are lost", log.id, segment.base, segment.next));
    match slice.iter().find(|entry| entry.next() > from) {
        Some(entry) if entry.base <= from => {
            Ok(vec![Pick { file: file.clone(), entry: *entry, epoch: segment.epoch }])
        }
        Some(entry) => Err(lost(from, entry.base)),
        None => Err(lost(from, segment.next)),
    }
}

/// All entries of a log in a file.
pub(crate) fn entries_of(
    shared: &Shared,
    log: &Log,
    file: &DataFile,
    mode: Mode,
) -> Result<Arc<Vec<Entry>>, Stop> {
    if let Some(dense) = log.state.read().dense(file.id) {
        return Ok(Arc::new(dense.clone()));
    }
    if let Some(entries) = shared.index.load_cached(file.id, log.id) {
        return Ok(entries);
    }
    if mode == Mode::Cached {
        return Err(Stop::WouldBlock);
    }
    let failed = |error| StorageError::new(ErrorKind::Unavailable, "cannot read an index").caused_by(error);
    Ok(shared.index.load(file, log.id).map_err(failed)?)
}

/// Reads without a runtime: for tests that drive [`Core`](crate::core::Core) step by step.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// See [`ferrymq_storage::LogStore::read`]; may wait for the device.
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, log: u64, from: u64, until: u64, bytes_max: usize) -> Result<Read, StorageError> {
        let wanted = Wanted { from, until, bytes_max: bytes_max as u64, count_max: usize::MAX };
        read(&self.shared, log, wanted, Mode::Blocking).map_err(into_error)
    }

    /// See [`ferrymq_storage::LogStore::headers`].
    ///
    /// # Errors
    /// As there.
    pub fn headers(
        &self,
        log: u64,
        from: u64,
        max: usize,
        prefix: usize,
    ) -> Result<Vec<ferrymq_storage::BatchHead>, StorageError> {
        describe::headers(&self.shared, log, from, max, prefix, Mode::Blocking).map_err(into_error)
    }

    /// See [`ferrymq_storage::LogStore::stat`].
    ///
    /// # Errors
    /// As there.
    pub fn stat(&self, log: u64) -> Result<ferrymq_storage::Stat, StorageError> {
        describe::stat(&self.shared, log)
    }

    /// How the store is.
    #[must_use]
    pub fn health(&self) -> crate::Health {
        self.shared.health.lock().clone()
    }

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }
}

/// The error for the caller.
pub(crate) fn into_error(stop: Stop) -> StorageError {
    match stop {
        Stop::Failed(error) => error,
        Stop::WouldBlock | Stop::Mismatch(_) => {
            StorageError::new(ErrorKind::Internal, "a read ended without an answer")
        }
    }
}
