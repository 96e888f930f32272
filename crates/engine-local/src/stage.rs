//! Decides what each operation does, against the logs as they will be once everything queued is done.
//!
//! **Invariants.** A group that fails leaves no trace here. The fence (epoch, owner, expected next offset) is
//! checked here and nowhere else, by the one thread that writes.
//!
//! Deliberately absent: I/O; what readers see.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrymq_storage::{Action, Append, Batch, Claim, ErrorKind, Group, Op, Space, StorageError};
use ferrymq_types::{CommitId, Durability, Epoch, IdMap, LogId, Offset, OwnerId};

use crate::format::{FileKind, Kind, Record, RecordHeader, encode_ranges};
use crate::options::SeededBug;
use crate::shared::Shared;

mod replace;

/// A log as it will be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pending {
    pub epoch: u32,
    pub owner: OwnerId,
    pub start: u64,
    pub next: u64,
    pub reserved: u64,
    pub last_commit: Option<CommitId>,
}

/// Ids of deleted logs, as ranges.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tombstones(pub BTreeMap<u64, u64>);

impl Tombstones {
    pub(crate) fn contains(&self, log: u64) -> bool {
        self.0.range(..=log).next_back().is_some_and(|(_, last)| *last >= log)
    }

    pub(crate) fn insert(&mut self, log: u64) {
        if self.contains(log) {
            return;
        }
        let (mut first, mut last) = (log, log);
        if let Some((before, before_last)) = self.0.range(..log).next_back().map(|(a, b)| (*a, *b))
            && before_last + 1 == log
        {
            first = before;
        }
        if let Some(after_last) = log.checked_add(1).and_then(|after| self.0.remove(&after)) {
            last = after_last;
        }
        self.0.insert(first, last);
    }
}

/// The records of one accepted piece of work.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    /// What to write, and into which kind of file.
    pub records: Vec<(Record, FileKind)>,
    /// Whether it is done only after a sync.
    pub needs_sync: bool,
}

impl Accepted {
    fn wal(&mut self, record: Record) {
        self.records.push((record, FileKind::Wal));
    }
}

/// All logs as they will be.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    pub logs: IdMap<u64, Pending>,
    pub deleted: Tombstones,
    /// What to put back if the current piece of work fails.
    undo: Vec<(u64, Option<Pending>)>,
    deleted_now: Vec<u64>,
}

impl Staging {
    /// Begins a write group: from here on changes can be taken back with [`Staging::take_back`].
    pub(crate) fn begin(&mut self) {
        self.undo.clear();
        self.deleted_now.clear();
    }

    /// Takes back everything since [`Staging::begin`]: nothing of it was written.
    pub(crate) fn take_back(&mut self) {
        self.take_back_to(0);
        self.deleted_now.clear();
    }

    /// Makes what was staged final.
    pub(crate) fn keep(&mut self) {
        for log in self.deleted_now.drain(..) {
            self.deleted.insert(log);
        }
        self.undo.clear();
    }

    fn take_back_to(&mut self, mark: usize) {
        for (log, pending) in self.undo.drain(mark..).rev() {
            match pending {
                Some(pending) => self.logs.insert(log, pending),
                None => self.logs.remove(&log),
            };
        }
    }

    /// Logs changed since [`Staging::begin`], with repetitions.
    fn remember(&mut self, log: u64) {
        self.undo.push((log, self.logs.get(&log).copied()));
    }

    /// Takes logs for an owner; creates the unknown ones.
    pub(crate) fn claim(
        &mut self,
        logs: &[LogId],
        owner: OwnerId,
    ) -> Result<(Accepted, Vec<Claim>), StorageError> {
        if let Some(gone) = logs.iter().find(|log| self.is_deleted(log.0)) {
            return Err(StorageError::new(ErrorKind::NotFound, format!("log is deleted: {gone}")));
        }
        let mut accepted = Accepted { needs_sync: true, ..Accepted::default() };
        let mut claims = Vec::with_capacity(logs.len());
        for log in logs {
            self.remember(log.0);
            let pending = self.logs.entry(log.0).or_default();
            pending.epoch = Epoch(pending.epoch).next().0;
            pending.owner = owner;
            claims.push(Claim {
                log: *log,
                epoch: Epoch(pending.epoch),
                start: Offset(pending.start),
                next: Offset(pending.next),
                last_commit: pending.last_commit,
            });
            let (a, b) = halves(owner);
            let header = RecordHeader { a, b, ..RecordHeader::new(Kind::Claim, log.0, pending.epoch) };
            accepted.wal(Record::new(header, Bytes::new()));
        }
        Ok((accepted, claims))
    }

    /// Accepts a group whole or not at all. Its replacements look at what is published: nothing of their logs
    /// may be staged and not yet published but what the group itself does. `full`: only the reserve is left.
    pub(crate) fn group(
        &mut self,
        group: Group,
        full: bool,
        shared: &Shared,
    ) -> Result<Accepted, StorageError> {
        let mark = self.undo.len();
        let deleted_mark = self.deleted_now.len();
        let mut accepted = Accepted::default();
        for op in group {
            if let Err(error) = self.op(op, full, shared, &mut accepted) {
                self.take_back_to(mark);
                self.deleted_now.truncate(deleted_mark);
                return Err(error);
            }
        }
        Ok(accepted)
    }

    fn is_deleted(&self, log: u64) -> bool {
        self.deleted.contains(log) || self.deleted_now.contains(&log)
    }

    fn op(
        &mut self,
        op: Op,
        full: bool,
        shared: &Shared,
        accepted: &mut Accepted,
    ) -> Result<(), StorageError> {
        let log = op.log.0;
        let Some(pending) = self.logs.get(&log).copied() else {
            return Err(StorageError::new(ErrorKind::NotFound, format!("no such log: {log}")));
        };
        let fenced = op.epoch.0 != pending.epoch || op.owner != pending.owner;
        if fenced && !shared.options.has(SeededBug::SkipFence) {
            let text = format!("log {log} is at epoch {}, the caller at {}", pending.epoch, op.epoch);
            return Err(StorageError::new(ErrorKind::Fenced, text));
        }
        self.remember(log);
        let header = |kind| RecordHeader::new(kind, log, pending.epoch);
        match op.action {
            Action::Append(append) => self.append(log, append, full, shared, accepted)?,
            Action::Trim(to) => {
                let to = to.0.min(pending.next);
                if to > pending.start {
                    self.change(log).start = to;
                    let header = RecordHeader { base: to, ..header(Kind::Trim) };
                    accepted.wal(Record::new(header, Bytes::new()));
                }
                accepted.needs_sync = true;
            }
            Action::Discard(ranges) => {
                let filled = ranges.iter().filter(|range| range.start < range.end);
                let payload = encode_ranges(filled.map(|range| (range.start.0, range.end.0)));
                accepted.wal(Record::new(header(Kind::Discard), payload));
                accepted.needs_sync = true;
            }
            Action::Replace { range, batches } => {
                let epochs = replace::epochs(shared, log, &range, &batches, &accepted.records)?;
                let (a, b) = (range.start.0, range.end.0);
                let replace = RecordHeader { a, b, ..header(Kind::Replace) };
                accepted.wal(Record::new(replace, Bytes::new()));
                for (batch, epoch) in batches.into_iter().zip(epochs) {
                    let header = RecordHeader { epoch, ..header(Kind::ReplaceBatch) };
                    accepted.wal(record(header, batch));
                }
                accepted.needs_sync = true;
            }
            Action::Delete => {
                accepted.wal(Record::new(header(Kind::Delete), Bytes::new()));
                accepted.needs_sync = true;
                self.logs.remove(&log);
                self.deleted_now.push(log);
            }
        }
        Ok(())
    }

    fn change(&mut self, log: u64) -> &mut Pending {
        self.logs.entry(log).or_default()
    }

    fn append(
        &mut self,
        log: u64,
        append: Append,
        full: bool,
        shared: &Shared,
        accepted: &mut Accepted,
    ) -> Result<(), StorageError> {
        let skip_fence = shared.options.has(SeededBug::SkipFence);
        let end = append.batches.last().map_or(0, |batch| batch.next().0);
        let pending = self.change(log);
        if append.expect_next.0 != pending.next && !skip_fence {
            let text =
                format!("log {log} goes on at {}, the caller expects {}", pending.next, append.expect_next);
            return Err(StorageError::new(ErrorKind::Conflict, text));
        }
        if full && append.space == Space::Normal {
            return Err(StorageError::new(ErrorKind::Full, "the disk is full up to the reserve"));
        }
        let epoch = pending.epoch;
        pending.next = pending.next.max(end);
        pending.last_commit = Some(append.commit_id);
        let header = RecordHeader {
            class: append.class as u8,
            a: append.commit_id.writer,
            b: append.commit_id.sequence,
            ..RecordHeader::new(Kind::Append, log, epoch)
        };
        accepted.needs_sync |= append.class == Durability::Sync;
        // A batch that a power cut may take must not leave its offsets to another.
        if append.class != Durability::Sync && end > pending.reserved {
            pending.reserved = end.saturating_add(shared.options.reserve_offsets).min(Offset::MAX.0);
            let header =
                RecordHeader { base: pending.reserved, ..RecordHeader::new(Kind::Reserve, log, epoch) };
            accepted.wal(Record::new(header, Bytes::new()));
            accepted.needs_sync = true;
        }
        let kind = if append.class == Durability::Memory { FileKind::Volatile } else { FileKind::Wal };
        accepted.records.extend(append.batches.into_iter().map(|batch| (record(header, batch), kind)));
        Ok(())
    }
}

fn record(header: RecordHeader, batch: Batch) -> Record {
    let header =
        RecordHeader { base: batch.base.0, span: batch.span, max_timestamp: batch.max_timestamp, ..header };
    Record { header, payload: batch.bytes, shared: batch.shared, frame: None }
}

/// The two halves of an owner's id.
pub(crate) fn halves(owner: OwnerId) -> (u64, u64) {
    let bytes = owner.0.to_be_bytes();
    let half = |from: usize| {
        let mut out = [0; 8];
        out.copy_from_slice(&bytes[from..from + 8]);
        u64::from_be_bytes(out)
    };
    (half(0), half(8))
}
