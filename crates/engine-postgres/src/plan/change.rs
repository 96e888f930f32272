//! One log's part of a plan: its row before and after, what is inserted, what goes.
//!
//! **Invariant.** `bytes` and `memory` count exactly the batches that stay readable, stored and unlogged ones.
//!
//! Deliberately absent: fences; the plan has checked them.

use std::collections::BTreeMap;
use std::ops::Range;

use ferrymq_storage::{Batch, ErrorKind, Outcome, StorageError};
use ferrymq_types::{Epoch, LogId, Offset};

use crate::row::{Holes, Row};

/// A batch to be inserted.
#[derive(Debug, Clone)]
pub(crate) struct Insert {
    pub(crate) batch: Batch,
    pub(crate) epoch: Epoch,
    /// Into the unlogged table.
    pub(crate) memory: bool,
    /// In place of others, so into the table that its offset belongs to.
    pub(crate) replaces: bool,
}

/// What is known of a batch that can be read, by its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) span: u32,
    pub(crate) size: u32,
    pub(crate) epoch: Epoch,
    pub(crate) memory: bool,
    /// Comes with this round.
    pub(crate) fresh: bool,
}

/// What becomes of a log.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) before: Row,
    pub(crate) after: Row,
    pub(crate) holes: Holes,
    /// Bytes of readable batches in unlogged tables.
    pub(crate) memory: u64,
    pub(crate) inserts: Vec<Insert>,
    /// Bases of stored batches that others take the place of.
    pub(crate) replaced: Vec<u64>,
    /// How many operations succeeded.
    pub(crate) steps: usize,
    /// Whether `live` is kept: it holds all batches of the ranges that removals of this round look at.
    pub(super) looked_at: bool,
    pub(super) live: BTreeMap<u64, Live>,
}

impl Change {
    pub(super) fn new(row: Row, holes: Holes, memory: u64) -> Change {
        Change {
            before: row,
            after: row,
            holes,
            memory,
            inserts: Vec::new(),
            replaced: Vec::new(),
            steps: 0,
            looked_at: false,
            live: BTreeMap::new(),
        }
    }

    /// Whether something was or may have been taken away.
    pub(crate) fn looked_at(&self) -> bool {
        self.looked_at
    }

    /// Whether batches come in the place of others.
    pub(crate) fn replaces(&self) -> bool {
        !self.replaced.is_empty() || self.inserts.iter().any(|insert| insert.replaces)
    }

    pub(super) fn insert(&mut self, insert: Insert) {
        let size = u32::try_from(insert.batch.bytes.len()).expect("checked to be below the batch limit");
        *self.count(insert.memory) += u64::from(size);
        if self.looked_at {
            let (span, epoch, memory) = (insert.batch.span, insert.epoch, insert.memory);
            self.live.insert(insert.batch.base.0, Live { span, size, epoch, memory, fresh: true });
        }
        self.inserts.push(insert);
    }

    fn count(&mut self, memory: bool) -> &mut u64 {
        if memory { &mut self.memory } else { &mut self.after.bytes }
    }

    pub(super) fn trim(&mut self, to: Offset) {
        let start = self.after.start.max(to.min(self.after.next));
        self.after.start = start;
        self.take(0, start.0);
        self.holes.trim(start.0);
    }

    pub(super) fn discard(&mut self, range: &Range<Offset>) {
        let gone = self.take(range.start.0, range.end.0);
        let stored = |(_, live): &&(u64, Live)| !live.fresh;
        let first = gone.iter().find(stored);
        let last = gone.iter().rev().find(stored);
        if let (Some((lo, _)), Some((base, live))) = (first, last) {
            // Batches ascend and do not overlap: between these two nothing else is left.
            self.holes.add(*lo, base + u64::from(live.span));
        }
    }

    pub(super) fn replace(&mut self, log: LogId, range: &Range<Offset>, batches: &[Batch]) -> Outcome {
        let mut fresh = Vec::with_capacity(batches.len());
        for batch in batches {
            let last = batch.next().0 - 1;
            match (self.replaced_at(range, batch.base.0), self.replaced_at(range, last)) {
                (Some(old), Some(_)) => {
                    let (epoch, memory) = (old.epoch, old.memory);
                    fresh.push(Insert { batch: batch.clone(), epoch, memory, replaces: true });
                }
                _ => {
                    let what =
                        format!("log {log} has nothing to replace at an end of a batch: base={}", batch.base);
                    return Err(StorageError::new(ErrorKind::Conflict, what));
                }
            }
        }
        let gone = self.take(range.start.0, range.end.0);
        self.replaced.extend(gone.iter().filter(|(_, live)| !live.fresh).map(|(base, _)| *base));
        fresh.into_iter().for_each(|insert| self.insert(insert));
        Ok(())
    }

    pub(super) fn delete(&mut self) {
        self.after.deleted = true;
        self.after.bytes = 0;
        self.memory = 0;
        self.inserts.clear();
        self.live.clear();
    }

    /// The batch that holds `at`, if it lies entirely inside `range`.
    fn replaced_at(&self, range: &Range<Offset>, at: u64) -> Option<Live> {
        let (base, live) = self.live.range(..=at).next_back()?;
        let next = base + u64::from(live.span);
        (next > at && range.start.0 <= *base && next <= range.end.0).then_some(*live)
    }

    /// Takes away the batches that lie entirely between `from` and `to`, and returns them in order.
    fn take(&mut self, from: u64, to: u64) -> Vec<(u64, Live)> {
        if from >= to {
            return Vec::new();
        }
        let inside = |(base, live): &(&u64, &Live)| **base + u64::from(live.span) <= to;
        let gone: Vec<(u64, Live)> =
            self.live.range(from..to).filter(inside).map(|(base, live)| (*base, *live)).collect();
        for (base, live) in &gone {
            self.live.remove(base);
            let count = self.count(live.memory);
            // A crash of the server empties unlogged tables behind our back.
            *count = count.saturating_sub(live.size.into());
        }
        if gone.iter().any(|(_, live)| live.fresh) {
            let gone: std::collections::HashSet<u64> =
                gone.iter().filter(|(_, live)| live.fresh).map(|(base, _)| *base).collect();
            self.inserts.retain(|insert| !gone.contains(&insert.batch.base.0));
        }
        gone
    }
}
