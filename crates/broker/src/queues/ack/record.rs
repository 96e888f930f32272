//! What of an ack state is stored, and its bytes.
//!
//! ```text
//!  0  version   1
//!  1  kind      1 delta, 2 reset, 3 delta with failures
//!  2  delta: number of done ranges, each (offsets since the last end, length);
//!            number of count runs, each (offsets since the last end, length, count);
//!            with failures: number of failure runs, each the same
//!     reset: floor, delivered
//! ```
//! All numbers but the first two are varints (`varint`).
//!
//! **Invariants.** Decoding never panics and allocates no more than the bytes that are there; what decodes
//! ascends. A newer version is refused.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::Delta;
use crate::queues::varint;

/// The version written.
const VERSION: u8 = 1;
/// Ranges after which a snapshot begins a new record.
const RANGES_PER_RECORD: usize = 8192;

const DELTA: u8 = 1;
const RESET: u8 = 2;
const DELTA_FAILURES: u8 = 3;

/// One record of one log's ack state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AckRecord {
    /// More is done or counted.
    Delta(Delta),
    /// Forget what was recorded before: everything below `floor` is done, nothing else.
    Reset {
        /// See [`AckState::floor`](super::AckState::floor).
        floor: u64,
        /// Offsets below may have been delivered.
        delivered: u64,
    },
}

/// Bytes that are no ack record of a version known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an ack record cannot be read: {0}")]
pub struct AckRecordError(&'static str);

/// Moves the delta to the records if it is large enough.
pub(super) fn cut(delta: &mut Delta, records: &mut Vec<AckRecord>) {
    if delta.done.len() + delta.counts.len() + delta.failures.len() >= RANGES_PER_RECORD {
        records.push(AckRecord::Delta(std::mem::take(delta)));
    }
}

impl AckRecord {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(32);
        match self {
            AckRecord::Delta(delta) => {
                let kind = if delta.failures.is_empty() { DELTA } else { DELTA_FAILURES };
                out.extend_from_slice(&[VERSION, kind]);
                varint::put(&mut out, delta.done.len() as u64);
                let mut at = 0;
                for range in &delta.done {
                    at = put_range(&mut out, at, range);
                }
                put_counts(&mut out, &delta.counts);
                if kind == DELTA_FAILURES {
                    put_counts(&mut out, &delta.failures);
                }
            }
            AckRecord::Reset { floor, delivered } => {
                out.extend_from_slice(&[VERSION, RESET]);
                varint::put(&mut out, *floor);
                varint::put(&mut out, *delivered);
            }
        }
        out.freeze()
    }

    /// From its bytes.
    ///
    /// # Errors
    /// [`AckRecordError`].
    pub fn decode(bytes: &[u8]) -> Result<AckRecord, AckRecordError> {
        let [version, kind, rest @ ..] = bytes else { return Err(AckRecordError("cut short")) };
        if *version != VERSION {
            return Err(AckRecordError("it is of another version: a newer FerryMQ wrote it"));
        }
        let mut rest = rest;
        let record = match *kind {
            DELTA | DELTA_FAILURES => AckRecord::Delta(Delta {
                done: take_done(&mut rest)?,
                counts: take_counts(&mut rest)?,
                failures: if *kind == DELTA { Vec::new() } else { take_counts(&mut rest)? },
            }),
            RESET => AckRecord::Reset { floor: take(&mut rest)?, delivered: take(&mut rest)? },
            _ => return Err(AckRecordError("unknown kind")),
        };
        if rest.is_empty() { Ok(record) } else { Err(AckRecordError("bytes left over")) }
    }
}

fn put_range(out: &mut BytesMut, at: u64, range: &Range<u64>) -> u64 {
    varint::put(out, range.start - at);
    varint::put(out, range.end - range.start);
    range.end
}

fn put_counts(out: &mut BytesMut, counts: &[(Range<u64>, u16)]) {
    varint::put(out, counts.len() as u64);
    let mut at = 0;
    for (range, count) in counts {
        at = put_range(out, at, range);
        varint::put(out, u64::from(*count));
    }
}

fn take(rest: &mut &[u8]) -> Result<u64, AckRecordError> {
    varint::take(rest).ok_or(AckRecordError("cut short"))
}

/// A number of elements of at least two bytes each.
fn take_length(rest: &mut &[u8]) -> Result<usize, AckRecordError> {
    let length = take(rest)?;
    usize::try_from(length).ok().filter(|length| *length <= rest.len() / 2).ok_or(AckRecordError("cut short"))
}

fn take_range(rest: &mut &[u8], at: u64) -> Result<Range<u64>, AckRecordError> {
    let start = at.checked_add(take(rest)?);
    let end = start.and_then(|start| start.checked_add(varint::take(rest)?));
    start.zip(end).map(|(start, end)| start..end).ok_or(AckRecordError("offset out of range"))
}

fn take_done(rest: &mut &[u8]) -> Result<Vec<Range<u64>>, AckRecordError> {
    let length = take_length(rest)?;
    let mut done: Vec<Range<u64>> = Vec::with_capacity(length);
    for _ in 0..length {
        let at = done.last().map_or(0, |last| last.end);
        done.push(take_range(rest, at)?);
    }
    Ok(done)
}

fn take_counts(rest: &mut &[u8]) -> Result<Vec<(Range<u64>, u16)>, AckRecordError> {
    let length = take_length(rest)?;
    let mut counts: Vec<(Range<u64>, u16)> = Vec::with_capacity(length);
    for _ in 0..length {
        let at = counts.last().map_or(0, |(last, _)| last.end);
        let range = take_range(rest, at)?;
        let count = u16::try_from(take(rest)?).map_err(|_| AckRecordError("count out of range"))?;
        counts.push((range, count));
    }
    Ok(counts)
}
