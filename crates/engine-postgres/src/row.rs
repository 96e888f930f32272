//! A log's row as the engine knows it, and its holes.
//!
//! **Invariant.** A hole begins and ends where batches did, and no live batch lies entirely inside one.
//!
//! Deliberately absent: SQL.

use std::collections::BTreeMap;

use ferrymq_storage::{Claim, ErrorKind, StorageError};
use ferrymq_types::{CommitId, Epoch, LogId, Offset, OwnerId};

/// One row of `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row {
    pub(crate) epoch: Epoch,
    pub(crate) owner: OwnerId,
    /// How often the row was written.
    pub(crate) turn: u64,
    pub(crate) start: Offset,
    pub(crate) next: Offset,
    /// Bytes of readable batches that a restart keeps.
    pub(crate) bytes: u64,
    pub(crate) commit: Option<CommitId>,
    pub(crate) deleted: bool,
}

impl Row {
    pub(crate) fn claim(&self, log: LogId) -> Claim {
        Claim { log, epoch: self.epoch, start: self.start, next: self.next, last_commit: self.commit }
    }
}

/// Discarded ranges of a log, merged, and how they differ from what the database has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holes {
    ranges: BTreeMap<u64, u64>,
    /// By beginning: the new end, or that it is gone.
    edits: BTreeMap<u64, Option<u64>>,
}

impl Holes {
    /// As the database has them.
    pub(crate) fn stored(ranges: impl IntoIterator<Item = (u64, u64)>) -> Holes {
        Holes { ranges: ranges.into_iter().collect(), edits: BTreeMap::new() }
    }

    /// Whether a batch from `base` to `next` is discarded.
    pub(crate) fn cover(&self, base: u64, next: u64) -> bool {
        self.ranges.range(..=base).next_back().is_some_and(|(_, hi)| *hi >= next)
    }

    /// Adds one; what it touches becomes part of it.
    pub(crate) fn add(&mut self, mut lo: u64, mut hi: u64) {
        while let Some((from, to)) = self.ranges.range(..=hi).next_back().filter(|(_, to)| **to >= lo) {
            let (from, to) = (*from, *to);
            (lo, hi) = (lo.min(from), hi.max(to));
            self.remove(from);
        }
        self.ranges.insert(lo, hi);
        self.edits.insert(lo, Some(hi));
    }

    /// Forgets those that lie below a log's start.
    pub(crate) fn trim(&mut self, start: u64) {
        let gone: Vec<u64> =
            self.ranges.range(..start).filter(|(_, hi)| **hi <= start).map(|(lo, _)| *lo).collect();
        gone.into_iter().for_each(|lo| self.remove(lo));
    }

    fn remove(&mut self, lo: u64) {
        self.ranges.remove(&lo);
        self.edits.insert(lo, None);
    }

    /// What the database does not know yet.
    pub(crate) fn edits(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        self.edits.iter().map(|(lo, hi)| (*lo, *hi))
    }

    /// The database has it all now.
    pub(crate) fn saved(&mut self) {
        self.edits.clear();
    }
}

pub(crate) fn not_found(log: LogId) -> StorageError {
    StorageError::new(ErrorKind::NotFound, format!("no such log: log={log}"))
}

pub(crate) fn closed() -> StorageError {
    StorageError::new(ErrorKind::Closed, "the store has stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_merge_with_what_they_touch_and_nothing_else() {
        let mut holes = Holes::stored([(10, 12), (20, 22)]);
        holes.add(14, 16);
        assert_eq!(holes.ranges.clone().into_iter().collect::<Vec<_>>(), [(10, 12), (14, 16), (20, 22)]);
        holes.add(12, 14);
        assert_eq!(holes.ranges.clone().into_iter().collect::<Vec<_>>(), [(10, 16), (20, 22)]);
        assert!(holes.cover(10, 16) && holes.cover(12, 13) && !holes.cover(15, 17) && !holes.cover(9, 11));
        holes.add(9, 30);
        assert_eq!(holes.ranges.clone().into_iter().collect::<Vec<_>>(), [(9, 30)]);
        assert_eq!(
            holes.edits.clone().into_iter().collect::<Vec<_>>(),
            [(9, Some(30)), (10, None), (14, None), (20, None)]
        );
    }

    #[test]
    fn holes_below_the_start_go() {
        let mut holes = Holes::stored([(0, 5), (7, 9)]);
        holes.trim(8);
        assert_eq!(holes.edits().collect::<Vec<_>>(), [(0, None)]);
        holes.trim(9);
        assert!(holes.ranges.is_empty());
    }
}
