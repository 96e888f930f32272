//! A log's newest batches, in memory.
//!
//! **Invariant.** From `from` on, the tail holds exactly the batches that a read would find.
//!
//! Deliberately absent: a bound; the mirror keeps all tails within one.

use std::collections::VecDeque;

use ferrymq_storage::{Batch, BatchHead, Read, Run};
use ferrymq_types::{Epoch, Offset};

use crate::plan::Live;

#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) batch: Batch,
    pub(crate) epoch: Epoch,
    pub(crate) memory: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    from: Offset,
    batches: VecDeque<Kept>,
}

impl Tail {
    /// One that knows nothing of what lies below `next`.
    pub(crate) fn from(next: Offset) -> Tail {
        Tail { from: next, batches: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, kept: Kept) {
        self.batches.push_back(kept);
    }

    /// Whether everything from `at` on is here.
    pub(crate) fn covers(&self, at: Offset) -> bool {
        at >= self.from
    }

    /// Forgets the oldest batch if it is this one.
    pub(crate) fn evict(&mut self, base: Offset) -> usize {
        match self.batches.front() {
            Some(first) if first.batch.base == base => {
                self.from = first.batch.next();
                self.batches.pop_front().map_or(0, |kept| kept.batch.bytes.len())
            }
            _ => 0,
        }
    }

    /// Drops batches that are not readable any more; how many bytes they had.
    pub(crate) fn drop_dead(&mut self, dead: impl Fn(&Batch) -> bool) -> usize {
        let mut bytes = 0;
        self.batches.retain(|kept| {
            let dead = dead(&kept.batch);
            bytes += if dead { kept.batch.bytes.len() } else { 0 };
            !dead
        });
        bytes
    }

    pub(crate) fn bytes(&self) -> usize {
        self.batches.iter().map(|kept| kept.batch.bytes.len()).sum()
    }

    /// The batches from the one that holds `at` on.
    fn at(&self, at: Offset) -> impl Iterator<Item = &Kept> {
        let first = self.batches.partition_point(|kept| kept.batch.next() <= at);
        self.batches.range(first..)
    }

    pub(crate) fn read(&self, from: Offset, until: Offset, max_bytes: usize) -> Read {
        let mut read = Read::default();
        let mut total = 0usize;
        for kept in self.at(from).take_while(|kept| kept.batch.base < until) {
            total += kept.batch.bytes.len();
            if !read.runs.is_empty() && total > max_bytes {
                break;
            }
            let batch = &kept.batch;
            read.runs.push(Run { base: batch.base, next: batch.next(), bytes: batch.bytes.clone() });
        }
        read
    }

    pub(crate) fn heads(&self, from: Offset, max: usize, prefix: usize) -> Vec<BatchHead> {
        let head = |kept: &Kept| BatchHead {
            base: kept.batch.base,
            span: kept.batch.span,
            max_timestamp: kept.batch.max_timestamp,
            size: u32::try_from(kept.batch.bytes.len()).expect("checked to be below the batch limit"),
            epoch: kept.epoch,
            prefix: kept.batch.bytes.slice(..prefix.min(kept.batch.bytes.len())),
        };
        self.at(from).take(max).map(head).collect()
    }

    /// What a plan wants to know of the batches that begin before `until`.
    pub(crate) fn live(&self, from: Offset, until: Offset) -> Vec<(u64, Live)> {
        let live = |kept: &Kept| {
            let size = u32::try_from(kept.batch.bytes.len()).expect("checked to be below the batch limit");
            (kept.batch.base.0, crate::plan::live(kept.batch.span, size, kept.epoch, kept.memory))
        };
        self.at(from).take_while(|kept| kept.batch.base < until).map(live).collect()
    }
}
