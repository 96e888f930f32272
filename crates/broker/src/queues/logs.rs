//! The logs that queues take and leave.
//!
//! Logs of durable queues are claimed for them and deleted with them. All other queues take theirs from a pool
//! that is claimed at the start and never shrinks: a queue that lives for a second costs no durable write, and
//! leaves no name behind in the store.
//!
//! **Invariant.** A log is in the pool only while nobody uses it, and empty as far as its next user can see.

use std::ops::Range;

use ferrymq_runtime::TaskKind;
use ferrymq_storage::{Action, Compare, ErrorKind, Op, StorageError};
use ferrymq_types::{LogId, Offset};

use super::handle::Queues;
use super::records::{self, LOG_COUNTER, POOL_COUNTER, gone};
use super::shard::message::Released;

/// Logs of durable queues have ids from here on.
pub(super) const FIRST_DURABLE_LOG: u64 = 1 << 40;
/// Logs of all other queues have ids from here on.
pub(super) const FIRST_POOL_LOG: u64 = 1 << 41;
/// Ids taken from a counter at a time.
const BLOCK: u64 = 64;

/// What changes of the topology need to know besides.
#[derive(Debug, Default)]
pub(super) struct Admin {
    pub(super) next_binding: u64,
    /// Ids taken from the counter and not used yet.
    pub(super) durable_ids: Range<u64>,
    /// Claimed logs that nobody uses.
    pub(super) pool: Vec<Released>,
}

impl Queues {
    /// Deletes a log in the background; should that fail, the next start does it.
    pub(super) fn delete_log(&self, released: Released, deleting: String) {
        let op = self.op(released, Action::Delete);
        let outcome = self.stores.logs.commit(vec![vec![op]]);
        let meta = self.stores.meta.clone();
        self.tasks.spawn(TaskKind::Background, "deletion of a queue's log", async move {
            let mut done = outcome.await.pop().unwrap_or(Ok(()));
            if done.is_ok() {
                done = meta.txn(Vec::new(), vec![gone(deleting)]).await.map(drop);
            }
            if let Err(error) = done {
                tracing::warn!(log = released.log.0, %error, "a deleted queue's log goes at the next start");
            }
        });
    }

    /// Empties a log and puts it back into the pool. What comes next to the log comes behind the trim.
    pub(super) fn give_back(&self, admin: &mut Admin, released: Released) {
        let op = self.op(released, Action::Trim(Offset(released.next)));
        let outcome = self.stores.logs.commit(vec![vec![op]]);
        self.tasks.spawn(TaskKind::Background, "emptying of a queue's log", async move {
            if let Some(Err(error)) = outcome.await.pop() {
                tracing::warn!(log = released.log.0, %error, "a deleted queue's log could not be emptied");
            }
        });
        admin.pool.push(released);
    }

    fn op(&self, released: Released, action: Action) -> Op {
        Op { log: released.log, epoch: released.epoch, owner: self.owner, action }
    }

    /// The number of a new log for a durable queue.
    pub(super) async fn durable_id(&self, admin: &mut Admin) -> Result<LogId, StorageError> {
        if admin.durable_ids.is_empty() {
            let first = self.take_from_counter(LOG_COUNTER, FIRST_DURABLE_LOG).await?;
            admin.durable_ids = first..first + BLOCK;
        }
        let id = admin.durable_ids.start;
        admin.durable_ids.start += 1;
        Ok(LogId(id))
    }

    pub(super) async fn claim_one(&self, log: LogId) -> Result<Released, StorageError> {
        let claims = self.stores.logs.claim(vec![log], self.owner).await?;
        let none = || StorageError::new(ErrorKind::Internal, "a claim without an answer");
        let claim = claims.first().ok_or_else(none)?;
        Ok(Released { log: claim.log, epoch: claim.epoch, next: claim.next.0 })
    }

    /// A log for a queue that does not outlive the process.
    pub(super) async fn pooled_log(&self, admin: &mut Admin) -> Result<Released, StorageError> {
        if admin.pool.is_empty() {
            let first = self.take_from_counter(POOL_COUNTER, 0).await?;
            let logs = (first..first + BLOCK).map(|at| LogId(FIRST_POOL_LOG + at)).collect();
            let claims = self.stores.logs.claim(logs, self.owner).await?;
            let free = |claim: &ferrymq_storage::Claim| Released {
                log: claim.log,
                epoch: claim.epoch,
                next: claim.next.0,
            };
            admin.pool.extend(claims.iter().rev().map(free));
        }
        let none = || StorageError::new(ErrorKind::Internal, "a claim without an answer");
        admin.pool.pop().ok_or_else(none)
    }

    /// Takes [`BLOCK`] numbers from a durable counter that starts at `from`; returns the first.
    async fn take_from_counter(&self, name: &str, from: u64) -> Result<u64, StorageError> {
        let entry = self.stores.meta.get(name).await?;
        let first = match &entry {
            None => from,
            Some(entry) => records::read_counter(entry)?,
        };
        let compare = Compare { key: name.to_owned(), revision: entry.map(|entry| entry.revision) };
        let put = records::put_counter(name, first + BLOCK);
        self.stores.meta.txn(vec![compare], vec![put]).await?;
        Ok(first)
    }
}
