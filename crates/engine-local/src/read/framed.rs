//! Reading a batch of which parts lie elsewhere in its file: its frame, then what that refers to.
//!
//! **Invariants.** Nothing that does not verify is returned: the frame's crc covers what was written for this batch,
//! the entry's the whole of it. A frame never makes us allocate more than the batch has bytes, and is not followed
//! further than one step.

use std::ops::Range;

use bytes::Bytes;
use ferrymq_storage::{ErrorKind, Run, StorageError};
use ferrymq_types::Offset;

use super::region::verifies;
use super::{Mode, Pick, Stop};
use crate::format::frame::{Source, decode_frame, frame_bytes};
use crate::shared::Shared;

/// Bytes of a frame read at first: all of it, for most.
const FIRST_BYTES: u64 = 4096;
/// Parts closer than this are read together. Less than the shortest part: what is read is at most half as much again as is wanted.
const GAP_BYTES_MAX: u64 = 512;

/// Reads one batch.
pub(super) fn read(shared: &Shared, id: u64, pick: &Pick, mode: Mode) -> Result<Run, Stop> {
    let entry = &pick.entry;
    let mismatch = || Stop::Mismatch(pick.clone());
    let frame = frame(pick, mode)?.ok_or_else(mismatch)?;
    let identity = shared.identity(pick.file.id);
    let pieces = decode_frame(identity, entry.position, entry.bytes(), &frame).ok_or_else(mismatch)?;
    let length = entry.bytes() as usize;
    let mut buffer = shared.buffers.take(length);
    let mut elsewhere: Vec<Part> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece.source {
            Source::Frame(from) => {
                let bytes = &frame[from..from + piece.at.len()];
                buffer.space()[piece.at].copy_from_slice(bytes);
            }
            Source::File(from) => elsewhere.push(Part { at: piece.at, from: u64::from(from) }),
        }
    }
    let near = |one: &Part, other: &Part| other.from >= one.end() && other.from - one.end() <= GAP_BYTES_MAX;
    for parts in elsewhere.chunk_by(near) {
        if !fetch(shared, pick, parts, buffer.space(), mode)? {
            return Err(mismatch());
        }
    }
    let bytes: Bytes = buffer.filled(length);
    if !verifies(shared, id, pick, &bytes) {
        return Err(mismatch());
    }
    Ok(Run { base: Offset(entry.base), next: Offset(entry.next()), bytes })
}

/// A part of the batch and where in the file it lies.
struct Part {
    at: Range<usize>,
    from: u64,
}

impl Part {
    fn end(&self) -> u64 {
        self.from + self.at.len() as u64
    }
}

/// Gets neighbours with one read; whether the file has all of them.
fn fetch(shared: &Shared, pick: &Pick, parts: &[Part], into: &mut [u8], mode: Mode) -> Result<bool, Stop> {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(true) };
    if parts.len() == 1 {
        return Ok(fill(pick, &mut into[first.at.clone()], first.from, mode)? == first.at.len());
    }
    // Not much more than the parts themselves, which the batch has.
    let Ok(length) = usize::try_from(last.end() - first.from) else { return Ok(false) };
    let mut region = shared.buffers.take(length);
    if fill(pick, region.space(), first.from, mode)? < length {
        return Ok(false);
    }
    for part in parts {
        let Ok(skip) = usize::try_from(part.from - first.from) else { return Ok(false) };
        into[part.at.clone()].copy_from_slice(&region.space()[skip..skip + part.at.len()]);
    }
    Ok(true)
}

/// The frame's bytes; `None` if there is none.
fn frame(pick: &Pick, mode: Mode) -> Result<Option<Vec<u8>>, Stop> {
    let position = u64::from(pick.entry.position);
    // A frame is shorter than its batch.
    let first = FIRST_BYTES.min(u64::from(pick.entry.bytes()));
    let mut bytes = vec![0; usize::try_from(first).unwrap_or_default()];
    let read = fill(pick, &mut bytes, position, mode)?;
    let Some(length) = frame_bytes(&bytes[..read], pick.entry.bytes()) else { return Ok(None) };
    if length > read && read < bytes.len() {
        return Ok(None);
    }
    bytes.resize(length, 0);
    if length > read && fill(pick, &mut bytes[read..], position + read as u64, mode)? < length - read {
        return Ok(None);
    }
    Ok(Some(bytes))
}

/// Reads until `into` is full or the file ends.
fn fill(pick: &Pick, into: &mut [u8], from: u64, mode: Mode) -> Result<usize, Stop> {
    let file = &pick.file.file;
    let read = match mode {
        Mode::Cached => file.read_cached(into, from).map(|read| read.ok_or(Stop::WouldBlock)),
        Mode::Blocking => file.read_at(into, from).map(Ok),
    };
    let failed =
        |error| StorageError::new(ErrorKind::Unavailable, "cannot read a data file").caused_by(error);
    let read = read.map_err(failed)??;
    if read < into.len() && mode == Mode::Cached {
        // Perhaps only as far as memory goes.
        return Err(Stop::WouldBlock);
    }
    Ok(read)
}
