//! A session: who exclusive queues, consumers and unsettled deliveries belong to.
//!
//! **Invariant.** However a session ends, its consumers go, what it has not settled is available again, and
//! its exclusive queues are deleted, in a task; [`Session::close`] waits for it. Its joint commits end first.
//!
//! Deliberately absent: who the client is and what it may do.

use std::sync::{Arc, OnceLock};

use ferrymq_runtime::TaskKind;
use futures_util::future::join_all;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, oneshot};

use super::handle::Queues;
use super::shard::message::{SMALL, ShardMessage};
use super::sink::DeliverySink;

/// One client's connection, as far as queues are concerned.
pub struct Session {
    id: u64,
    /// `None` once it was closed.
    queues: Option<Arc<Queues>>,
    /// Read by its commits under way.
    alive: Arc<RwLock<()>>,
    /// Where it hears what becomes of messages that it got.
    told: OnceLock<DeliverySink>,
}

impl Session {
    pub(super) fn new(id: u64, queues: Arc<Queues>) -> Session {
        Session { id, queues: Some(queues), alive: Arc::default(), told: OnceLock::new() }
    }

    /// Its number, unique while the broker runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Has it told of messages that it got, not as a consumer, and that are overdue. Before, and for a session that is
    /// told nowhere, nothing that was got is ever overdue. Only the first call counts.
    pub fn tell(&self, sink: &DeliverySink) {
        let _told_already = self.told.set(sink.clone()).is_err();
    }

    pub(super) fn told(&self) -> Option<DeliverySink> {
        self.told.get().cloned()
    }

    /// Puts off its end.
    pub(super) async fn hold(&self) -> OwnedRwLockReadGuard<()> {
        self.alive.clone().read_owned().await
    }

    /// Ends the session and waits until that is done; it is, also if nobody waits any more.
    pub async fn close(mut self) {
        if let Some(ended) = self.begin_end() {
            // A process that ends closes everything.
            let _ended = ended.await;
        }
    }

    fn begin_end(&mut self) -> Option<oneshot::Receiver<()>> {
        let queues = self.queues.take()?;
        let (id, tasks, (reply, ended)) = (self.id, queues.tasks.clone(), oneshot::channel());
        let alive = self.alive.clone();
        tasks.spawn(TaskKind::Background, "end of a session", async move {
            let _no_commit_under_way = alive.write().await;
            end(&queues, id).await;
            let _nobody_waits = reply.send(()).is_err();
        });
        Some(ended)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _nobody_waits = self.begin_end();
    }
}

async fn end(queues: &Arc<Queues>, session: u64) {
    let ends = queues.shards.iter().map(|shard| async move {
        let (reply, answer) = oneshot::channel();
        // A shard that has ended has none of its consumers.
        let _ended = shard.send(ShardMessage::EndSession { session, reply }, SMALL).await.is_err();
        answer.await.unwrap_or_default()
    });
    let unused = join_all(ends).await;
    if let Err(error) = queues.delete_exclusive(session).await {
        tracing::warn!(%error, "a session's exclusive queues could not be deleted");
    }
    for queue in unused.into_iter().flatten() {
        if let Err(error) = queues.delete_if_auto(&queue).await {
            tracing::warn!(queue = %queue.name(), %error, "an auto-delete queue could not be deleted");
        }
    }
}
