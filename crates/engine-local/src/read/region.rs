//! Reading chosen batches from their files: neighbours in one call, each verified before it is handed out.
//!
//! **Invariants.** Nothing that does not verify is returned. Batches that lie back to back come as one run, so that
//! a reader far behind costs few pieces. One of which parts lie elsewhere is read for itself and is a run of its own.

use std::ops::Range;

use bytes::Bytes;
use ferrymq_storage::{ErrorKind, Run, StorageError};
use ferrymq_types::Offset;

use super::{Mode, Pick, Stop, framed};
use crate::format::{Place, place_crc};
use crate::index::Entry;
use crate::shared::Shared;

/// Neighbours closer than this are read together.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// Bytes read at once, unless one batch is larger.
const REGION_BYTES_MAX: u64 = 4 << 20;

/// Reads batches, neighbours together; those before the first that does not verify.
pub(crate) fn read_picks(shared: &Shared, id: u64, picks: &[Pick], mode: Mode) -> Result<Vec<Run>, Stop> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < picks.len() {
        let count = region(&picks[at..]);
        match read_region(shared, id, &picks[at..at + count], mode, &mut runs) {
            Ok(()) => at += count,
            Err(Stop::Mismatch(pick)) if runs.is_empty() => return Err(Stop::Mismatch(pick)),
            Err(Stop::Mismatch(_)) => break,
            Err(other) => return Err(other),
        }
    }
    Ok(runs)
}

fn range_of(entry: &Entry) -> Range<u64> {
    u64::from(entry.position)..u64::from(entry.position) + u64::from(entry.bytes())
}

/// How many of the first picks lie so close together that one read gets them.
fn region(picks: &[Pick]) -> usize {
    let begin = range_of(&picks[0].entry).start;
    let near = picks.windows(2).take_while(|pair| {
        let (one, other) = (range_of(&pair[0].entry), range_of(&pair[1].entry));
        let whole = !pair[0].entry.is_framed() && !pair[1].entry.is_framed();
        whole
            && pair[0].file.id == pair[1].file.id
            && other.start >= one.end
            && other.start - one.end <= GAP_BYTES_MAX
            && other.end - begin <= REGION_BYTES_MAX
    });
    near.count() + 1
}

fn read_region(
    shared: &Shared,
    id: u64,
    picks: &[Pick],
    mode: Mode,
    runs: &mut Vec<Run>,
) -> Result<(), Stop> {
    let (Some(first), Some(last)) = (picks.first(), picks.last()) else { return Ok(()) };
    if first.entry.is_framed() {
        runs.push(framed::read(shared, id, first, mode)?);
        return Ok(());
    }
    let begin = range_of(&first.entry).start;
    let length = range_of(&last.entry).end - begin;
    let mut buffer = shared.buffers.take(index(length));
    let read = match mode {
        Mode::Cached => {
            first.file.file.read_cached(buffer.space(), begin).map(|read| read.ok_or(Stop::WouldBlock))
        }
        Mode::Blocking => first.file.file.read_at(buffer.space(), begin).map(Ok),
    };
    let failed =
        |error| StorageError::new(ErrorKind::Unavailable, "cannot read a data file").caused_by(error);
    let read = read.map_err(failed)??;
    if read < index(length) && mode == Mode::Cached {
        return Err(Stop::WouldBlock);
    }
    let buffer = buffer.filled(read);
    // Batches that lie back to back become one run.
    let mut open: Option<(Range<usize>, Run)> = None;
    for pick in picks {
        let range = range_of(&pick.entry);
        let range = index(range.start - begin)..index(range.end - begin);
        if range.end > buffer.len() || !verifies(shared, id, pick, &buffer[range.clone()]) {
            close(open, &buffer, runs);
            return Err(Stop::Mismatch(pick.clone()));
        }
        match &mut open {
            Some((held, run)) if held.end == range.start => {
                held.end = range.end;
                run.next = Offset(pick.entry.next());
            }
            _ => {
                close(open.take(), &buffer, runs);
                let (base, next) = (Offset(pick.entry.base), Offset(pick.entry.next()));
                open = Some((range, Run { base, next, bytes: Bytes::new() }));
            }
        }
    }
    close(open, &buffer, runs);
    Ok(())
}

fn close(open: Option<(Range<usize>, Run)>, buffer: &Bytes, runs: &mut Vec<Run>) {
    if let Some((range, run)) = open {
        runs.push(Run { bytes: buffer.slice(range), ..run });
    }
}

fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

pub(super) fn verifies(shared: &Shared, id: u64, pick: &Pick, payload: &[u8]) -> bool {
    if shared.options.has(crate::options::SeededBug::TrustStaleIndex) {
        return true;
    }
    let entry = &pick.entry;
    let place = Place { log: id, base: entry.base, span: entry.span, epoch: pick.epoch };
    place_crc(shared.identity(pick.file.id), place, entry.position, payload) == entry.crc
}
