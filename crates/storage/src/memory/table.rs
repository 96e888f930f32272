//! The state of a [`MemoryStore`](super::MemoryStore): pure, without a lock and without a future.
//!
//! **Invariant.** A group that fails is undone step by step; nothing else is ever undone.
//!
//! Deliberately absent: durability classes. Memory makes no difference between them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use ferrymq_types::{CommitId, Epoch, LogId, Offset, OwnerId};

use crate::{
    Action, Append, Batch, BatchHead, Claim, ErrorKind, Find, Op, Read, Run, Space, Stat, StorageError,
    validate,
};

/// A batch and the epoch it belongs to.
#[derive(Debug, Clone)]
struct Stored {
    batch: Batch,
    epoch: Epoch,
}

impl Stored {
    fn head(&self, prefix: usize) -> BatchHead {
        let batch = &self.batch;
        BatchHead {
            base: batch.base,
            span: batch.span,
            max_timestamp: batch.max_timestamp,
            size: u32::try_from(batch.bytes.len()).expect("checked to be below the batch limit"),
            epoch: self.epoch,
            prefix: batch.bytes.slice(..prefix.min(batch.bytes.len())),
        }
    }
}

/// What a log is apart from its batches.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    epoch: Epoch,
    owner: OwnerId,
    start: Offset,
    next: Offset,
    last_commit: Option<CommitId>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Log {
    bounds: Bounds,
    batches: BTreeMap<Offset, Stored>,
}

/// How to take one step of a group back.
enum Undo {
    Bounds(LogId, Bounds),
    Inserted(LogId, Offset),
    Removed(LogId, Stored),
    Deleted(LogId, Log),
}

/// All logs.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// `None`: deleted, and never to be created again.
    logs: HashMap<LogId, Option<Log>>,
    used: u64,
    /// Bytes that fit, and how many of them only [`Space::Reserve`] may take.
    pub(super) capacity: Option<(u64, u64)>,
}

impl Table {
    pub(super) fn claim(&mut self, logs: &[LogId], owner: OwnerId) -> Result<Vec<Claim>, StorageError> {
        validate::check_claim(logs)?;
        if let Some(log) = logs.iter().find(|log| matches!(self.logs.get(log), Some(None))) {
            return Err(not_found(*log));
        }
        let claims = logs.iter().map(|log| {
            let slot = self.logs.entry(*log).or_insert_with(|| Some(Log::default()));
            let bounds = &mut slot.as_mut().expect("deleted logs were refused above").bounds;
            bounds.epoch = bounds.epoch.next();
            bounds.owner = owner;
            let Bounds { epoch, start, next, last_commit, .. } = *bounds;
            Claim { log: *log, epoch, start, next, last_commit }
        });
        Ok(claims.collect())
    }

    /// Applies a group wholly or not at all.
    pub(super) fn apply(&mut self, group: &[Op]) -> Result<(), StorageError> {
        validate::check_group(group, true)?;
        let mut undo = Vec::new();
        let result = group.iter().try_for_each(|op| self.apply_op(op, &mut undo));
        if result.is_err() {
            undo.into_iter().rev().for_each(|step| self.take_back(step));
        }
        result
    }

    fn apply_op(&mut self, op: &Op, undo: &mut Vec<Undo>) -> Result<(), StorageError> {
        let log = self.log(op.log)?;
        if (log.bounds.epoch, log.bounds.owner) != (op.epoch, op.owner) {
            let what = format!("log {} belongs to somebody else: epoch={}", op.log, log.bounds.epoch);
            return Err(StorageError::new(ErrorKind::Fenced, what));
        }
        undo.push(Undo::Bounds(op.log, log.bounds));
        match &op.action {
            Action::Append(append) => self.append(op, append, undo),
            Action::Trim(start) => {
                let bounds = &mut self.log_mut(op.log)?.bounds;
                bounds.start = bounds.start.max((*start).min(bounds.next));
                let start = bounds.start;
                self.remove(op.log, undo, |batch| batch.next() <= start)
            }
            Action::Discard(ranges) => {
                self.remove(op.log, undo, |batch| ranges.iter().any(|range| inside(batch, range)))
            }
            Action::Replace { range, batches } => self.replace(op.log, range, batches, undo),
            Action::Delete => {
                self.remove(op.log, undo, |_| true)?;
                let log = self.logs.insert(op.log, None).flatten();
                undo.extend(log.map(|log| Undo::Deleted(op.log, log)));
                Ok(())
            }
        }
    }

    fn append(&mut self, op: &Op, append: &Append, undo: &mut Vec<Undo>) -> Result<(), StorageError> {
        let next = self.log(op.log)?.bounds.next;
        if next != append.expect_next {
            let what =
                format!("log {} goes on elsewhere: expected={} next={next}", op.log, append.expect_next);
            return Err(StorageError::new(ErrorKind::Conflict, what));
        }
        self.make_room(append)?;
        for batch in &append.batches {
            self.insert(op.log, Stored { batch: batch.clone(), epoch: op.epoch }, undo)?;
        }
        let bounds = &mut self.log_mut(op.log)?.bounds;
        bounds.next = append.batches.last().map_or(next, Batch::next);
        bounds.last_commit = Some(append.commit_id);
        Ok(())
    }

    fn make_room(&self, append: &Append) -> Result<(), StorageError> {
        let Some((capacity, reserve)) = self.capacity else { return Ok(()) };
        let limit = match append.space {
            Space::Normal => capacity.saturating_sub(reserve),
            Space::Reserve => capacity,
        };
        let added: u64 = append.batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        if self.used + added > limit {
            let what = format!("the store is full: bytes={} limit={limit}", self.used);
            return Err(StorageError::new(ErrorKind::Full, what));
        }
        Ok(())
    }

    fn replace(
        &mut self,
        id: LogId,
        range: &Range<Offset>,
        batches: &[Batch],
        undo: &mut Vec<Undo>,
    ) -> Result<(), StorageError> {
        let log = self.log(id)?;
        let mut fresh = Vec::with_capacity(batches.len());
        for batch in batches {
            let last = Offset(batch.next().0 - 1);
            match (log.replaced(range, batch.base), log.replaced(range, last)) {
                (Some(old), Some(_)) => fresh.push(Stored { batch: batch.clone(), epoch: old.epoch }),
                _ => {
                    let what =
                        format!("log {id} has nothing to replace at an end of a batch: base={}", batch.base);
                    return Err(StorageError::new(ErrorKind::Conflict, what));
                }
            }
        }
        self.remove(id, undo, |batch| inside(batch, range))?;
        fresh.into_iter().try_for_each(|stored| self.insert(id, stored, undo))
    }

    fn insert(&mut self, id: LogId, stored: Stored, undo: &mut Vec<Undo>) -> Result<(), StorageError> {
        let size = stored.batch.bytes.len() as u64;
        let log = self.log_mut(id)?;
        let base = stored.batch.base;
        let old = log.batches.insert(base, stored);
        assert!(old.is_none(), "log {id} has two batches at offset {base}");
        log.bounds.bytes += size;
        undo.push(Undo::Inserted(id, base));
        self.used += size;
        Ok(())
    }

    fn remove(
        &mut self,
        id: LogId,
        undo: &mut Vec<Undo>,
        dead: impl Fn(&Batch) -> bool,
    ) -> Result<(), StorageError> {
        let log = self.log_mut(id)?;
        let mut freed = 0;
        for (_, stored) in log.batches.extract_if(.., |_, stored| dead(&stored.batch)) {
            freed += stored.batch.bytes.len() as u64;
            undo.push(Undo::Removed(id, stored));
        }
        log.bounds.bytes -= freed;
        self.used -= freed;
        Ok(())
    }

    fn take_back(&mut self, step: Undo) {
        match step {
            Undo::Deleted(id, log) => {
                self.logs.insert(id, Some(log));
            }
            Undo::Bounds(id, bounds) => {
                if let Ok(log) = self.log_mut(id) {
                    log.bounds = bounds;
                }
            }
            Undo::Inserted(id, base) => {
                let gone = self.log_mut(id).ok().and_then(|log| log.batches.remove(&base));
                self.used -= gone.map_or(0, |stored| stored.batch.bytes.len() as u64);
            }
            Undo::Removed(id, stored) => {
                self.used += stored.batch.bytes.len() as u64;
                if let Ok(log) = self.log_mut(id) {
                    log.batches.insert(stored.batch.base, stored);
                }
            }
        }
    }

    fn log(&self, id: LogId) -> Result<&Log, StorageError> {
        self.logs.get(&id).and_then(Option::as_ref).ok_or_else(|| not_found(id))
    }

    fn log_mut(&mut self, id: LogId) -> Result<&mut Log, StorageError> {
        self.logs.get_mut(&id).and_then(Option::as_mut).ok_or_else(|| not_found(id))
    }

    pub(super) fn read(
        &self,
        id: LogId,
        from: Offset,
        until: Offset,
        max_bytes: usize,
    ) -> Result<Read, StorageError> {
        let mut read = Read::default();
        let mut total = 0;
        for stored in self.log(id)?.batches_from(from).take_while(|stored| stored.batch.base < until) {
            let batch = &stored.batch;
            total += batch.bytes.len();
            if !read.runs.is_empty() && total > max_bytes {
                break;
            }
            read.runs.push(Run { base: batch.base, next: batch.next(), bytes: batch.bytes.clone() });
        }
        Ok(read)
    }

    pub(super) fn headers(
        &self,
        id: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Result<Vec<BatchHead>, StorageError> {
        Ok(self.log(id)?.batches_from(from).take(max).map(|stored| stored.head(prefix)).collect())
    }

    pub(super) fn find(&self, id: LogId, what: Find) -> Result<Option<BatchHead>, StorageError> {
        let mut batches = self.log(id)?.batches.values();
        let found = match what {
            Find::Timestamp(at) => batches.find(|stored| stored.batch.max_timestamp >= at),
            Find::MaxTimestamp => batches.reduce(|best, stored| {
                if stored.batch.max_timestamp > best.batch.max_timestamp { stored } else { best }
            }),
            Find::TailBytes(bytes) => {
                let mut left = bytes;
                let fits = |stored: &&Stored| match left.checked_sub(stored.batch.bytes.len() as u64) {
                    Some(rest) => {
                        left = rest;
                        true
                    }
                    None => false,
                };
                batches.rev().take_while(fits).last()
            }
        };
        Ok(found.map(|stored| stored.head(0)))
    }

    pub(super) fn stat(&self, id: LogId) -> Result<Stat, StorageError> {
        let Bounds { epoch, start, next, bytes, .. } = self.log(id)?.bounds;
        Ok(Stat { epoch, start, next, bytes })
    }
}

impl Log {
    /// Batches in offset order, beginning with the one that holds `from`.
    fn batches_from(&self, from: Offset) -> impl Iterator<Item = &Stored> {
        let holding =
            self.batches.range(..=from).next_back().filter(|(_, stored)| stored.batch.next() > from);
        let begin = holding.map_or(from, |(base, _)| *base);
        self.batches.range(begin..).map(|(_, stored)| stored)
    }

    /// The batch that holds `at`, if it lies entirely inside `range`.
    fn replaced(&self, range: &Range<Offset>, at: Offset) -> Option<&Stored> {
        let (_, stored) = self.batches.range(..=at).next_back()?;
        Some(stored).filter(|stored| stored.batch.next() > at && inside(&stored.batch, range))
    }
}

fn inside(batch: &Batch, range: &Range<Offset>) -> bool {
    range.start <= batch.base && batch.next() <= range.end
}

fn not_found(log: LogId) -> StorageError {
    StorageError::new(ErrorKind::NotFound, format!("no such log: log={log}"))
}
