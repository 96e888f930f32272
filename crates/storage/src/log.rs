//! [`LogStore`]: ordered runs of batches with one owner each.
//!
//! ```text
//!            start                                        next
//!              |                                            |
//!  ... trimmed | batch | batch |  gap  | batch | discarded  | (appends in flight)
//!              '--------------------------------------------'
//!                readable: durable for its class, oldest to newest
//! ```
//! - **start** only moves up (trim). **next** only moves up (append). An offset is never given out twice,
//!   also not after trims, discards, a restart or a takeover.
//! - A **gap** is legal: an append may begin above the log's next offset.
//! - A log has one **owner** at one **epoch**. [`LogStore::claim`] makes an owner and fences all earlier ones;
//!   the fence is checked in the same atomic step that writes.
//! - A batch stays **readable** until a trim passes its last offset or a discard, a replacement or the log's
//!   deletion takes it away: a start in the middle of a batch leaves the whole batch readable.
//! - Which log ids exist is the caller's business: a log begins with its first claim, empty, at offset 0.
//!
//! **Order.** `commit` enqueues before it returns; its future only waits. Groups take effect in the order of
//! the calls made for the same log by one caller. An append whose predecessor failed fails too, with
//! [`ErrorKind::Conflict`], because the next offset is not what it expects. A commit
//! whose future is dropped goes on; what has been read once stays readable until it is taken away.
//!
//! **Restarts.** Claims, starts, deletions and what was done for [`Durability::Sync`] survive a power cut, what
//! was done for [`Durability::Os`] survives the end of the process, what was done for [`Durability::Memory`]
//! neither; the next offset never falls back behind an offset that was given out in any class.
//!
//! **Refusals.** What can be refused without looking at a log is ([`crate::validate`]), then `NotFound`, then
//! `Fenced`, then `Conflict`, then `Full`.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};

use crate::{ErrorKind, Pending, StorageError};

/// Keeps logs. Cheap to clone behind an `Arc`; every method may be called from any thread.
pub trait LogStore: Send + Sync + 'static {
    /// Whether one [`Group`] may span several logs of one owner. If not, such a group is refused with
    /// [`ErrorKind::InvalidArgument`].
    fn atomic_multi_log(&self) -> bool;

    /// Makes `owner` the owner of all `logs`, creating those that do not exist, and fences every earlier
    /// owner: once this has succeeded, nothing an earlier owner sends takes effect. One claim per log in the
    /// order asked. The epoch rises with every claim, also with one by the present owner. A deleted log cannot
    /// be claimed ([`ErrorKind::NotFound`]): ids are not reused. A log named twice
    /// is an [`ErrorKind::InvalidArgument`].
    ///
    /// All or nothing; batched, so that 10,000 logs take a second at most.
    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>>;

    /// Applies many groups, each atomically, together durably; one outcome per group in order. A group that
    /// is refused, fenced or in conflict fails alone.
    ///
    /// The operations of a group take effect in their order, each on what those before it left; all of them
    /// have one owner. An empty group is `Ok`.
    ///
    /// An outcome is `Ok` only when the group is durable for the strictest class in it. What is not an append
    /// has the class [`Durability::Sync`].
    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>>;

    /// Reads whole batches in offset order, beginning with the one that holds `from` or else the first
    /// behind it, and none that begins at or behind `until`. Stops before exceeding `max_bytes` but returns
    /// at least one batch if there is one. Only what is durable for its class is seen; what was acknowledged
    /// before the call is seen. What one group does to the log is seen at once or not yet.
    ///
    /// # Errors
    /// `NotFound` for an unknown log, `Corrupt` if the first batch to return does not verify. `from` below
    /// start reads from start, beginning with the batch that holds it; `from` at or behind next reads nothing.
    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max_bytes: usize,
    ) -> Pending<Result<Read, StorageError>>;

    /// Describes up to `max` batches from the one that holds `from` on, or else the first behind it, with the
    /// first `prefix` bytes of each (0: do not touch the data). Sees what [`LogStore::read`] sees.
    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>>;

    /// Finds a batch by time or by size, among those that [`LogStore::read`] sees. The prefix is left empty.
    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>>;

    /// A log's present bounds and size. Cheap: answered from memory by the owner's engine.
    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>>;

    /// The present epochs of many logs, whoever owns them; `None` for one that is not there. For those who tell
    /// others; it may be late by the time it is told.
    fn epochs(&self, logs: Vec<LogId>) -> Pending<Result<Vec<Option<Epoch>>, StorageError>> {
        let stats: Vec<_> = logs.into_iter().map(|log| self.stat(log)).collect();
        Box::pin(async move {
            let mut epochs = Vec::with_capacity(stats.len());
            for stat in stats {
                epochs.push(match stat.await {
                    Ok(stat) => Some(stat.epoch),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                });
            }
            Ok(epochs)
        })
    }
}

/// What an owner learns when it takes a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The claimed log.
    pub log: LogId,
    /// The new epoch.
    pub epoch: Epoch,
    /// First offset that may be read.
    pub start: Offset,
    /// Next offset to be given out.
    pub next: Offset,
    /// The last append that took effect, so that an owner who lost a reply knows. `None` if there was none;
    /// unspecified after a restart that lost appends of a class that does not survive it.
    pub last_commit: Option<CommitId>,
}

/// Operations that take effect together or not at all.
pub type Group = Vec<Op>;

/// The result of one group.
pub type Outcome = Result<(), StorageError>;

/// One fenced operation on one log.
#[derive(Debug, Clone)]
pub struct Op {
    /// Which log.
    pub log: LogId,
    /// The owner's epoch, from its [`Claim`].
    pub epoch: Epoch,
    /// The owner itself.
    pub owner: OwnerId,
    /// What to do.
    pub action: Action,
}

/// What an [`Op`] does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Adds batches at the end.
    Append(Append),
    /// Moves the log's start up to this offset, at most to its next. Lower values do nothing. Batches that
    /// lie entirely below it are freed.
    Trim(Offset),
    /// Frees whole batches that lie entirely inside one of these ranges: they are no longer read. Neither
    /// start nor next moves. Ranges may overlap, be empty or reach behind next.
    Discard(Vec<Range<Offset>>),
    /// Puts `batches` in place of all batches that lie entirely inside `range` (compaction). The batches
    /// must lie inside the range and ascend; the log's next offset does not change.
    ///
    /// The first and the last offset of each must lie in a batch that is replaced, or the group is in
    /// conflict: what was trimmed or discarded meanwhile does not come back. A batch keeps the epoch of the
    /// replaced one that held its first offset, so that epochs never fall along a log.
    Replace {
        /// Offsets replaced.
        range: Range<Offset>,
        /// What takes their place; fewer or none.
        batches: Vec<Batch>,
    },
    /// Deletes the log for good. Its id stays taken; whatever names it later is `NotFound`.
    Delete,
}

/// Batches to be added to a log.
#[derive(Debug, Clone)]
pub struct Append {
    /// The log's next offset as the owner knows it.
    pub expect_next: Offset,
    /// Names this append; see [`Claim::last_commit`].
    pub commit_id: CommitId,
    /// When it counts as done.
    pub class: Durability,
    /// Which space it may use when the store is nearly full.
    pub space: Space,
    /// At least one batch, ascending, not overlapping, the first at or above `expect_next`. Gaps between them
    /// are as legal as one before them.
    pub batches: Vec<Batch>,
}

/// Which space an append may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Space {
    /// Refused with [`ErrorKind::Full`] when only the reserve is left.
    #[default]
    Normal,
    /// May draw on the reserve: what frees space or records consumption.
    Reserve,
}

/// One batch: opaque bytes and what the store needs to know of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Offset of its first record.
    pub base: Offset,
    /// Offsets it takes up, at least 1.
    pub span: u32,
    /// Largest timestamp in it, in milliseconds since 1970; of any order along the log.
    pub max_timestamp: i64,
    /// The bytes, stored and returned as they are: at least one, at most
    /// [`BATCH_BYTES_MAX`](ferrymq_types::limits::BATCH_BYTES_MAX).
    pub bytes: Bytes,
    /// Which parts of `bytes` other batches hold too: a store may write those once. Ascending, apart, at least one
    /// byte each. Empty where nothing is shared.
    pub shared: Vec<SharedPart>,
}

/// A part of a batch that other batches hold too. It only says so: the bytes are in the batch like all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedPart {
    /// Whose bytes they are. A store that finds other bytes under a key that it knows takes them for what they are.
    pub key: ShareKey,
    /// Where they begin in the batch.
    pub at: u32,
    /// How many.
    pub bytes: u32,
}

/// Names bytes that go into several batches, as long as this process lives. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShareKey(u64);

impl ShareKey {
    /// A new one.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> ShareKey {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        ShareKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Parts shorter than this are not worth a [`SharedPart`]: what is saved is less than what reading them apart costs.
pub const SHARED_BYTES_MIN: usize = 1024;

impl Batch {
    /// One that shares nothing.
    #[must_use]
    pub fn new(base: Offset, span: u32, max_timestamp: i64, bytes: Bytes) -> Batch {
        Batch { base, span, max_timestamp, bytes, shared: Vec::new() }
    }

    /// The offset behind its last record.
    #[must_use]
    pub fn next(&self) -> Offset {
        self.base.plus(u64::from(self.span))
    }
}

/// What a read returned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// Batches in offset order, gathered into as few pieces as the engine has.
    pub runs: Vec<Run>,
}

impl Read {
    /// Bytes in all runs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes.len()).sum()
    }

    /// The offset behind the last batch; `None` if nothing was read.
    #[must_use]
    pub fn next(&self) -> Option<Offset> {
        self.runs.last().map(|run| run.next)
    }
}

/// One or more whole batches, back to back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Offset of the first batch's first record.
    pub base: Offset,
    /// Offset behind the last batch.
    pub next: Offset,
    /// The batches' bytes.
    pub bytes: Bytes,
}

/// A batch described without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHead {
    /// Offset of its first record.
    pub base: Offset,
    /// Offsets it takes up.
    pub span: u32,
    /// Largest timestamp in it.
    pub max_timestamp: i64,
    /// How many bytes it has.
    pub size: u32,
    /// The epoch it was appended in. Never falls along a log.
    pub epoch: Epoch,
    /// The first bytes of it, as many as were asked for and are there.
    pub prefix: Bytes,
}

/// What [`LogStore::find`] looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find {
    /// The first batch, in offset order, whose largest timestamp is at or above this many milliseconds.
    Timestamp(i64),
    /// The batch with the largest timestamp of all; the first of several.
    MaxTimestamp,
    /// The first batch such that it and all behind it hold at most this many bytes; none if already the last
    /// one holds more.
    TailBytes(u64),
}

/// A log's bounds and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its present epoch.
    pub epoch: Epoch,
    /// First readable offset.
    pub start: Offset,
    /// Next offset to be given out, counting only what is done for its class.
    pub next: Offset,
    /// Bytes of readable batches, one that only reaches over the start included.
    pub bytes: u64,
}
