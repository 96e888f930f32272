//! Batch heads, lookups by time and by size, bounds: answered from the index.
//!
//! **Invariant.** A prefix of a batch is returned only after the whole batch verified.
//!
//! Deliberately absent: a time index; a segment carries its largest timestamp and has 4096 entries at most.

use bytes::Bytes;
use ferrymq_storage::{BatchHead, ErrorKind, Find, Stat, StorageError};
use ferrymq_types::{Epoch, Offset};

use super::{Mode, Pick, Stop, Wanted, corrupt, entries_of, pick, plan, read_picks};
use crate::index::Entry;
use crate::log::Segment;
use crate::shared::{Log, Shared};

/// Bytes read at a time for prefixes.
const PREFIX_STEP_BYTES: u64 = 4 << 20;

/// See [`ferrymq_storage::LogStore::stat`].
pub(crate) fn stat(shared: &Shared, id: u64) -> Result<Stat, StorageError> {
    let log = shared.log(id)?;
    let state = log.state.read();
    if state.deleted {
        return Err(StorageError::new(ErrorKind::NotFound, format!("log is deleted: {id}")));
    }
    Ok(Stat {
        epoch: Epoch(state.epoch),
        start: Offset(state.start),
        next: Offset(state.next),
        bytes: state.bytes,
    })
}

/// See [`ferrymq_storage::LogStore::headers`].
pub(crate) fn headers(
    shared: &Shared,
    id: u64,
    from: u64,
    max: usize,
    prefix: usize,
    mode: Mode,
) -> Result<Vec<BatchHead>, Stop> {
    let log = shared.log(id)?;
    let mut heads: Vec<BatchHead> = Vec::new();
    let bytes_max = if prefix == 0 { u64::MAX } else { PREFIX_STEP_BYTES };
    let mut from = from;
    while heads.len() < max {
        let wanted = Wanted { from, until: u64::MAX, bytes_max, count_max: max - heads.len() };
        let step = step(shared, &log, wanted, prefix, mode);
        let step = match step {
            // What was found before the damage is an answer; asking again from there shows it.
            Err(Stop::Failed(_) | Stop::Mismatch(_)) if !heads.is_empty() => break,
            Err(Stop::Mismatch(pick)) => return Err(corrupt(shared, id, &pick).into()),
            other => other?,
        };
        let Some(last) = step.last() else { break };
        from = last.base.0 + u64::from(last.span);
        heads.extend(step);
    }
    Ok(heads)
}

fn step(
    shared: &Shared,
    log: &Log,
    wanted: Wanted,
    prefix: usize,
    mode: Mode,
) -> Result<Vec<BatchHead>, Stop> {
    let mut attempts = 0;
    loop {
        let planned = plan(&log.state.read(), log.id, wanted)?;
        let picks = pick(shared, log, planned, wanted, mode)?;
        if prefix == 0 {
            return Ok(picks.iter().map(|pick| head(pick, Bytes::new())).collect());
        }
        match prefixes(shared, log.id, &picks, prefix, mode) {
            Err(Stop::Mismatch(_)) if attempts < 2 => attempts += 1,
            other => return other,
        }
    }
}

fn prefixes(
    shared: &Shared,
    id: u64,
    picks: &[Pick],
    prefix: usize,
    mode: Mode,
) -> Result<Vec<BatchHead>, Stop> {
    let runs = read_picks(shared, id, picks, mode)?;
    let mut heads = Vec::with_capacity(picks.len());
    let mut picks = picks.iter();
    for run in runs {
        let mut rest = run.bytes;
        // A run is made of whole picks: it ends with the pick that ends where it does.
        for pick in picks.by_ref() {
            let batch = rest.split_to(pick.entry.bytes() as usize);
            let shown = batch.len().min(prefix);
            heads.push(head(pick, Bytes::copy_from_slice(&batch[..shown])));
            if pick.entry.next() == run.next.0 {
                break;
            }
        }
    }
    Ok(heads)
}

fn head(pick: &Pick, prefix: Bytes) -> BatchHead {
    BatchHead {
        base: Offset(pick.entry.base),
        span: pick.entry.span,
        max_timestamp: pick.entry.max_timestamp,
        size: pick.entry.bytes(),
        epoch: Epoch(pick.epoch),
        prefix,
    }
}

/// See [`ferrymq_storage::LogStore::find`].
pub(crate) fn find(shared: &Shared, id: u64, what: Find, mode: Mode) -> Result<Option<BatchHead>, Stop> {
    let log = shared.log(id)?;
    for (segment, behind_bytes) in candidates(&log, what)? {
        let Some(file) = shared.file(segment.file) else {
            let text = format!("data file {:016x} is missing", segment.file.0);
            let kind = ErrorKind::Corrupt { resume: Offset(segment.next) };
            return Err(StorageError::new(kind, text).into());
        };
        let entries = entries_of(shared, &log, &file, mode)?;
        let found = entry_for(segment.slice(&entries), what, segment.max_timestamp, behind_bytes);
        if let Some(entry) = found {
            return Ok(Some(head(&Pick { file, entry, epoch: segment.epoch }, Bytes::new())));
        }
    }
    Ok(None)
}

/// The segments that may hold the answer, likeliest first, and the bytes behind each.
fn candidates(log: &Log, what: Find) -> Result<Vec<(Segment, u64)>, StorageError> {
    let state = log.state.read();
    if state.deleted {
        return Err(StorageError::new(ErrorKind::NotFound, format!("log is deleted: {}", log.id)));
    }
    let segments = &state.segments;
    Ok(match what {
        Find::Timestamp(at) => {
            let found = segments.iter().find(|segment| segment.max_timestamp >= at);
            found.map(|segment| (*segment, 0)).into_iter().collect()
        }
        Find::MaxTimestamp => {
            let largest = segments.iter().map(|segment| segment.max_timestamp).max();
            let holds = |segment: &&Segment| Some(segment.max_timestamp) == largest;
            segments.iter().find(holds).map(|segment| (*segment, 0)).into_iter().collect()
        }
        Find::TailBytes(bytes) => {
            let mut behind = 0;
            let mut found = Vec::new();
            for segment in segments.iter().rev() {
                // If not even the last batch in here fits, the answer is the first of the segment behind.
                found.insert(0, (*segment, behind));
                found.truncate(2);
                if behind + segment.bytes > bytes {
                    break;
                }
                behind += segment.bytes;
            }
            found
        }
    })
}

fn entry_for(entries: &[Entry], what: Find, largest: i64, behind_bytes: u64) -> Option<Entry> {
    match what {
        Find::Timestamp(at) => entries.iter().find(|entry| entry.max_timestamp >= at).copied(),
        Find::MaxTimestamp => entries.iter().find(|entry| entry.max_timestamp == largest).copied(),
        Find::TailBytes(bytes) => {
            let mut held = behind_bytes;
            let fits = |entry: &&Entry| {
                held += u64::from(entry.bytes());
                held <= bytes
            };
            entries.iter().rev().take_while(fits).last().copied()
        }
    }
}
