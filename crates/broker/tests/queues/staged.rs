//! Stores whose writes wait for the test's word, and may then fail.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{
    BatchHead, Claim, Compare, Entry, ErrorKind, Find, Group, Listing, LogStore, MetaStore, Outcome, Pending,
    Put, Read, Revision, Stat, StorageError,
};
use ferrymq_types::{LogId, Offset, OwnerId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What becomes of a write.
pub(crate) enum Fate {
    Happens,
    Fails(ErrorKind),
}

/// Writes that wait, first come first.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<Mutex<Option<Vec<oneshot::Sender<Fate>>>>>);

impl Stage {
    /// From now on writes wait.
    pub(crate) fn hold(&self) {
        *self.0.lock() = Some(Vec::new());
    }

    /// From now on they do not; those that wait happen.
    pub(crate) fn release(&self) {
        for waiting in self.0.lock().take().unwrap_or_default() {
            waiting.send(Fate::Happens).unwrap_or_default();
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().as_ref().map_or(0, Vec::len)
    }

    /// Decides the fate of the first that waits.
    pub(crate) fn decide(&self, fate: Fate) {
        let first = self.0.lock().as_mut().unwrap().remove(0);
        assert!(first.send(fate).is_ok(), "nobody waits for it any more");
    }

    fn enter(&self) -> Option<oneshot::Receiver<Fate>> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().as_mut().map(|waiting| {
            waiting.push(sender);
            receiver
        })
    }
}

async fn fate(ticket: Option<oneshot::Receiver<Fate>>) -> Result<(), StorageError> {
    match ticket {
        Some(ticket) => match ticket.await {
            Ok(Fate::Happens) => Ok(()),
            Ok(Fate::Fails(kind)) => Err(StorageError::new(kind, "failed as ordered")),
            Err(_) => Err(StorageError::new(ErrorKind::Closed, "the test has ended")),
        },
        None => Ok(()),
    }
}

/// A memory store of metadata whose transactions wait.
#[derive(Default)]
pub(crate) struct StagedMeta {
    pub(crate) memory: Arc<MemoryMeta>,
    pub(crate) stage: Stage,
}

impl MetaStore for StagedMeta {
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>> {
        self.memory.get(key)
    }

    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>> {
        self.memory.list(prefix, since)
    }

    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>> {
        let (memory, ticket) = (self.memory.clone(), self.stage.enter());
        Box::pin(async move {
            fate(ticket).await?;
            memory.txn(compares, puts).await
        })
    }

    fn heartbeat(&self, broker: u32, status: Bytes) -> Pending<Result<Revision, StorageError>> {
        self.memory.heartbeat(broker, status)
    }
}

/// A memory store whose commits, claims and reads wait.
#[derive(Clone, Default)]
pub(crate) struct StagedLogs {
    pub(crate) memory: MemoryStore,
    pub(crate) stage: Stage,
    /// Where claims wait.
    pub(crate) claims: Stage,
    /// Where reads of queues' logs wait.
    pub(crate) reads: Stage,
}

impl LogStore for StagedLogs {
    fn atomic_multi_log(&self) -> bool {
        self.memory.atomic_multi_log()
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        let (memory, ticket) = (self.memory.clone(), self.claims.enter());
        Box::pin(async move {
            fate(ticket).await?;
            memory.claim(logs, owner).await
        })
    }

    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        let (memory, ticket) = (self.memory.clone(), self.stage.enter());
        Box::pin(async move {
            match fate(ticket).await {
                Ok(()) => memory.commit(groups).await,
                Err(error) => groups.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }

    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max: usize,
    ) -> Pending<Result<Read, StorageError>> {
        let is_queue = log.0 >= 1 << 40;
        let (memory, ticket) = (self.memory.clone(), if is_queue { self.reads.enter() } else { None });
        Box::pin(async move {
            // What was read is what was there when it was asked for: only the answer is late.
            let read = memory.read(log, from, until, max).await;
            fate(ticket).await?;
            read
        })
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        self.memory.headers(log, from, max, prefix)
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        self.memory.find(log, what)
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        self.memory.stat(log)
    }
}
