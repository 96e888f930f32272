//! A shard's part of a joint commit: batches of several owners, and more, that are appended as one or not at all.
//!
//! ```text
//!  coordinator:  Together ─▶ ... ─▶ commit (one group of all parts) ─▶ submitted ─────▶ outcome
//!  shard:        what was gathered goes first ─▶ offsets ─▶ operations  goes on         as of any append
//! ```
//! **Invariants.** From the offsets until the word that the group is with the store, the shard does nothing else: what
//! it appends next lies behind. So a coordinator asks shards of partitions last, when only shards like them are missing. What
//! is given up before the store saw it is taken back, as if it had failed.
//!
//! Deliberately absent: idempotent producers (a coordinator knows by its commit what happened), and which shards
//! take part (`queues::joint`).

use ferrymq_runtime::BytePermit;
use ferrymq_storage::{ErrorKind, Op, Outcome, StorageError};
use tokio::sync::oneshot;

use super::{AppendError, AppendItem, Commit, Done, Owner, Sent};

/// What a shard contributes.
pub(crate) struct Together {
    /// Batches for partitions of this shard.
    pub(crate) items: Vec<AppendItem>,
    pub(crate) reply: oneshot::Sender<Result<Vec<Op>, AppendError>>,
    /// The operations are with the store. Dropped: they never will be.
    pub(crate) submitted: oneshot::Receiver<()>,
    /// What became of them.
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    /// Dropped when the shard has done with it, however it ended.
    pub(crate) over: oneshot::Sender<()>,
}

/// The request of appends that nobody waits for here.
const NOBODYS: u64 = u64::MAX;

impl Owner {
    /// Takes part in a joint commit.
    pub(super) async fn together(&mut self, together: Together, permit: BytePermit) {
        let Together { items, reply, submitted, outcome, over } = together;
        let mut sent = Vec::with_capacity(items.len());
        let ops = self.prepare_together(items, &mut sent);
        let is_refused = ops.is_err();
        let is_held = reply.send(ops).is_ok() && !is_refused;
        if !is_held || submitted.await.is_err() {
            return self.give_up(sent);
        }
        self.done.push(Box::pin(async move {
            let lost = || StorageError::new(ErrorKind::Unknown, "a joint commit without an outcome");
            let outcome = outcome.await.unwrap_or_else(|_| Err(lost()));
            drop(permit);
            Done::Together { sent, outcome, over }
        }));
    }

    /// Gives out the offsets; what was prepared is in `sent`, also if something is refused.
    fn prepare_together(
        &mut self,
        items: Vec<AppendItem>,
        sent: &mut Vec<Sent>,
    ) -> Result<Vec<Op>, AppendError> {
        let mut batch = Commit::default();
        let mut ops = Vec::with_capacity(items.len());
        for item in items {
            let Some(owned) = self.partitions.get_mut(&item.partition.log) else {
                return Err(AppendError::Gone);
            };
            let (op, of) = owned
                .prepare(&self.context, item, batch.now_ms(&self.context))
                .map_err(|answer| answer.err().unwrap_or(AppendError::Retry))?;
            ops.push(op);
            sent.push(Sent { request: NOBODYS, ..of });
        }
        Ok(ops)
    }

    /// Nothing of it reached the store.
    fn give_up(&mut self, sent: Vec<Sent>) {
        let now_ms = self.context.clock.wall_ms();
        for sent in sent {
            let why = StorageError::new(ErrorKind::Conflict, "a joint commit was given up");
            self.on_outcome(sent, Err(why), now_ms);
        }
    }

    /// What became of it.
    pub(super) fn on_together(&mut self, sent: Vec<Sent>, outcome: &Outcome) {
        let now_ms = self.context.clock.wall_ms();
        for sent in sent {
            self.on_outcome(sent, outcome.clone(), now_ms);
        }
        self.reclaims.start(&self.context);
    }
}
