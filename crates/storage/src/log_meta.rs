//! [`LogMeta`]: a [`MetaStore`] as the state of one log, so that an engine that keeps logs keeps this too.
//!
//! ```text
//!  txn ---> queue ---> one writer at a time: compare, encode, commit ---> durable ---> state ---> readers
//!                                                                  '-> snapshot and trim, now and then
//! ```
//! A transaction is one batch; its revision is its offset plus one, and so is never given out twice. Whoever
//! waits for its own transaction writes those of all who wait, one group each in one commit: a thousand
//! topics cost a few syncs.
//!
//! **Invariants.** Nothing is visible before it is durable. A transaction whose future was dropped is
//! finished by the next one, or by opening the log again. An outcome that is unknown, or another owner,
//! closes the store: it answers reads from what it has, and nothing else.
//!
//! Deliberately absent: tasks and timers. Heartbeats are batches of the class `Memory`: they cost no sync, a
//! restart forgets them, and still no revision is used twice.

mod record;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{Durability, LogId, Offset, OwnerId};
use parking_lot::{Mutex, RwLock};

use crate::validate::check_puts;
use crate::{Compare, Entry, ErrorKind, Listing, LogStore, MetaStore, Pending, Put, Revision, StorageError};
use record::Record;
use state::State;
use writer::{Inner, Reply, Request, Writer};

/// The log that metadata lives in.
pub const META_LOG: LogId = LogId(0);

/// Bytes read at a time when the log is opened.
const READ_BYTES: usize = 4 << 20;

/// Metadata kept in one log. Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct LogMeta {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for LogMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMeta")
            .field("revision", &self.inner.state.read().revision())
            .finish_non_exhaustive()
    }
}

impl LogMeta {
    /// Takes the log [`META_LOG`] of `store` over and reads it.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` for a log that is not one of metadata.
    pub async fn open(store: Arc<dyn LogStore>, owner: OwnerId) -> Result<LogMeta, StorageError> {
        let claim = store.claim(vec![META_LOG], owner).await?.remove(0);
        let mut state = State::default();
        let mut at = claim.start;
        while at < claim.next {
            let heads = store.headers(META_LOG, at, 4096, 0).await?;
            let Some(last) = heads.last() else { break };
            let until = last.base.plus(u64::from(last.span));
            load(&*store, &mut state, &heads, at, until).await?;
            at = until;
        }
        state.advance(Revision(claim.next.0));
        let log_bytes = store.stat(META_LOG).await?.bytes;
        let writer = Writer::new(claim.next, log_bytes);
        let inner = Inner {
            store,
            owner,
            epoch: claim.epoch,
            state: RwLock::new(state),
            queue: Mutex::default(),
            writer: futures_util::lock::Mutex::new(writer),
        };
        Ok(LogMeta { inner: Arc::new(inner) })
    }

    fn submit(
        &self,
        compares: Vec<Compare>,
        puts: Vec<Put>,
        class: Durability,
    ) -> Pending<Result<Revision, StorageError>> {
        if let Err(error) = check_puts(&puts) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let reply = Reply::default();
        let inner = self.inner.clone();
        inner.queue.lock().push_back(Request { compares, puts, class, reply: reply.clone() });
        Box::pin(async move {
            loop {
                let mut writer = inner.writer.lock().await;
                if let Some(result) = reply.lock().take() {
                    return result;
                }
                inner.write_some(&mut writer).await;
            }
        })
    }
}

/// Reads the batches that `heads` describe into the state.
async fn load(
    store: &dyn LogStore,
    state: &mut State,
    heads: &[crate::BatchHead],
    from: Offset,
    until: Offset,
) -> Result<(), StorageError> {
    let mut heads = heads.iter();
    let mut at = from;
    while at < until {
        let read = store.read(META_LOG, at, until, READ_BYTES).await?;
        let Some(next) = read.next() else { break };
        for mut run in read.runs {
            while !run.bytes.is_empty() {
                let head = heads.next().ok_or_else(|| unreadable(at, "more bytes than described"))?;
                let size = usize::try_from(head.size).unwrap_or(usize::MAX);
                if run.bytes.len() < size {
                    return Err(unreadable(head.base, "fewer bytes than described"));
                }
                let record = Record::decode(run.bytes.split_to(size));
                let revision = Revision(head.base.0 + 1);
                match record.map_err(|what| unreadable(head.base, what))? {
                    Record::Transaction(puts) => state.apply(revision, puts),
                    // Trimmed to in the step that wrote it, so nothing lies before it.
                    Record::Snapshot { entries, .. } => state.load(revision, entries),
                }
            }
        }
        at = next;
    }
    Ok(())
}

fn unreadable(at: Offset, what: &str) -> StorageError {
    let kind = ErrorKind::Corrupt { resume: at.plus(1) };
    StorageError::new(kind, format!("metadata cannot be read: {what}: offset={at}"))
}

impl MetaStore for LogMeta {
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>> {
        let entry = self.inner.state.read().get(key);
        Box::pin(std::future::ready(Ok(entry)))
    }

    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>> {
        let listing = self.inner.state.read().list(prefix, since);
        Box::pin(std::future::ready(Ok(listing)))
    }

    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>> {
        self.submit(compares, puts, Durability::Sync)
    }

    fn heartbeat(&self, broker: u32, status: Bytes) -> Pending<Result<Revision, StorageError>> {
        let put = Put { key: format!("brokers/{broker}"), value: Some(status) };
        self.submit(Vec::new(), vec![put], Durability::Memory)
    }
}
