//! [`MemoryStore`]: the whole contract in memory. The oracle that engines are compared with, the store of
//! tests, and of whoever wants no disk.
//!
//! **Invariants.** A commit takes effect inside the call, or, while held, in the order of the calls once
//! released; its future only tells. Nothing survives the process.
//!
//! Deliberately absent: speed. Finding is a scan, and one lock guards everything.

mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use ferrymq_types::{LogId, Offset, OwnerId};
use parking_lot::Mutex;

use crate::{
    Action, BatchHead, Claim, ErrorKind, Find, Group, LogStore, Outcome, Pending, Read, Stat, StorageError,
};
use table::Table;

/// Keeps logs in memory. Cheap to clone: clones are the same store.
#[derive(Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    table: Table,
    holds: usize,
    held: VecDeque<(Vec<Group>, Reply)>,
    failures: VecDeque<Failure>,
    closed: bool,
    commits: u64,
}

/// How the next group fails.
struct Failure {
    kind: ErrorKind,
    applied: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// An empty store that refuses appends when it holds `capacity` bytes of batches, and all but those from
    /// the reserve `reserve` bytes earlier.
    #[must_use]
    pub fn with_capacity(capacity: u64, reserve: u64) -> MemoryStore {
        let store = MemoryStore::new();
        store.inner.lock().table.capacity = Some((capacity, reserve));
        store
    }

    /// Lets commits wait, without effect, until the hold is dropped. A claim does not wait: commits held
    /// behind it find themselves fenced.
    #[must_use]
    pub fn hold_commits(&self) -> CommitHold {
        self.inner.lock().holds += 1;
        CommitHold { store: self.clone() }
    }

    /// Lets one more of the groups to come fail with `kind`; `applied`: after it took effect, as when only
    /// the reply is lost.
    pub fn fail_next(&self, kind: ErrorKind, applied: bool) {
        self.inner.lock().failures.push_back(Failure { kind, applied });
    }

    /// Stops for good: everything answers `Closed` from now on, except reads.
    pub fn close(&self) {
        self.inner.lock().closed = true;
    }

    /// How many times [`LogStore::commit`] was called.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.inner.lock().commits
    }

    fn read_with<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Table) -> Result<T, StorageError>,
    ) -> Pending<Result<T, StorageError>> {
        let result = read(&self.inner.lock().table);
        Box::pin(std::future::ready(result))
    }
}

impl Inner {
    fn apply(&mut self, mut groups: Vec<Group>) -> Vec<Outcome> {
        groups.iter_mut().map(|group| self.apply_group(group)).collect()
    }

    fn apply_group(&mut self, group: &mut Group) -> Outcome {
        if self.closed {
            return Err(closed());
        }
        own_bytes(group);
        match self.failures.pop_front() {
            Some(Failure { kind, applied }) => {
                if applied {
                    self.table.apply(group)?;
                }
                Err(StorageError::new(kind, "failed as ordered"))
            }
            None => self.table.apply(group),
        }
    }
}

/// What is stored must not keep alive the large buffer it was cut from.
fn own_bytes(group: &mut Group) {
    for op in group {
        let batches = match &mut op.action {
            Action::Append(append) => &mut append.batches,
            Action::Replace { batches, .. } => batches,
            Action::Trim(_) | Action::Discard(_) | Action::Delete => continue,
        };
        for batch in batches {
            batch.bytes = Bytes::copy_from_slice(&batch.bytes);
        }
    }
}

fn closed() -> StorageError {
    StorageError::new(ErrorKind::Closed, "the store has stopped")
}

impl LogStore for MemoryStore {
    fn atomic_multi_log(&self) -> bool {
        true
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        let mut inner = self.inner.lock();
        let result = if inner.closed { Err(closed()) } else { inner.table.claim(&logs, owner) };
        Box::pin(std::future::ready(result))
    }

    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        let mut inner = self.inner.lock();
        inner.commits += 1;
        if inner.holds == 0 {
            let outcomes = inner.apply(groups);
            return Box::pin(std::future::ready(outcomes));
        }
        let reply = Reply::default();
        inner.held.push_back((groups, reply.clone()));
        Box::pin(reply)
    }

    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max_bytes: usize,
    ) -> Pending<Result<Read, StorageError>> {
        self.read_with(|table| table.read(log, from, until, max_bytes))
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        self.read_with(|table| table.headers(log, from, max, prefix))
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        self.read_with(|table| table.find(log, what))
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        self.read_with(|table| table.stat(log))
    }
}

/// Lets commits wait; see [`MemoryStore::hold_commits`].
#[derive(Debug)]
pub struct CommitHold {
    store: MemoryStore,
}

impl Drop for CommitHold {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        let mut inner = self.store.inner.lock();
        inner.holds -= 1;
        while inner.holds == 0
            && let Some((groups, reply)) = inner.held.pop_front()
        {
            let outcomes = inner.apply(groups);
            wakers.extend(reply.put(outcomes));
        }
        drop(inner);
        // Outside the lock: who is woken may call the store at once.
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Where a held commit's outcomes are put.
#[derive(Clone, Default)]
struct Reply(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    outcomes: Option<Vec<Outcome>>,
    waiting: Option<Waker>,
}

impl Reply {
    fn put(&self, outcomes: Vec<Outcome>) -> Option<Waker> {
        let mut slot = self.0.lock();
        slot.outcomes = Some(outcomes);
        slot.waiting.take()
    }
}

impl Future for Reply {
    type Output = Vec<Outcome>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<Outcome>> {
        let mut slot = self.0.lock();
        match slot.outcomes.take() {
            Some(outcomes) => Poll::Ready(outcomes),
            None => {
                slot.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
