//! Whether a replacement may take place, and the epochs of its batches.
//!
//! **Invariant.** A batch comes back only in place of one that is there: its first and last offset lie in
//! batches that are replaced. It keeps the epoch of the one that held its first offset.
//!
//! Deliberately absent: any change.

use std::ops::Range;
use std::sync::Arc;

use ferrymq_storage::{Batch, ErrorKind, StorageError};
use ferrymq_types::Offset;

use crate::files::FileId;
use crate::format::{FileKind, Record, RecordHeader};
use crate::index::Entry;
use crate::log::Entries;
use crate::shared::Shared;

/// The epoch of each of `batches`. `before`: what the same group does before.
pub(super) fn epochs(
    shared: &Shared,
    log: u64,
    range: &Range<Offset>,
    batches: &[Batch],
    before: &[(Record, FileKind)],
) -> Result<Vec<u32>, StorageError> {
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let source = ReadOnly(shared);
    let range = range.start.0..range.end.0;
    let known = shared.log(log)?;
    let state = known.state.read();
    let before = || before.iter().filter(|(record, _)| record.header.log == log);
    let replaced = if before().next().is_none() {
        state.inside(log, &range, &source)
    } else {
        let mut scratch = state.scratch();
        for (position, (record, _)) in (1..).zip(before()) {
            let header = RecordHeader { position, ..record.header };
            scratch.apply(&header, FileId(u64::MAX), &record.payload, &source);
        }
        scratch.inside(log, &range, &source)
    };
    let unreadable =
        || StorageError::new(ErrorKind::Unavailable, format!("cannot load an index of log {log}"));
    let replaced = replaced.ok_or_else(unreadable)?;
    let holder = |offset: u64| {
        let after = replaced.partition_point(|(base, _, _)| *base <= offset);
        replaced[..after].last().filter(|(_, next, _)| *next > offset)
    };
    let epoch_of = |batch: &Batch| {
        let last = batch.next().0.checked_sub(1)?;
        holder(last).and_then(|_| holder(batch.base.0)).map(|(_, _, epoch)| *epoch)
    };
    let gone = |batch: &Batch| {
        let text = format!("nothing to replace at {} of log {log}", batch.base);
        StorageError::new(ErrorKind::Conflict, text)
    };
    batches.iter().map(|batch| epoch_of(batch).ok_or_else(|| gone(batch))).collect()
}

/// Entries for a trial: what it frees is not free.
struct ReadOnly<'a>(&'a Shared);

impl Entries for ReadOnly<'_> {
    fn entries(&self, log: u64, file: FileId) -> Option<Arc<Vec<Entry>>> {
        self.0.entries(log, file)
    }

    fn freed(&self, _: FileId, _: u64) {}
}
