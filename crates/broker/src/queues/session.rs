//! A session: who exclusive queues, consumers and unsettled deliveries belong to.
//!
//! **Invariant.** However a session ends, its consumers go, what it has not settled is available again, and
//! its exclusive queues are deleted: at once and waited for by [`Session::close`], in a task by a drop.
//!
//! Deliberately absent: who the client is and what it may do.

use std::sync::Arc;

use ferrymq_runtime::TaskKind;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::handle::Queues;
use super::shard::message::{SMALL, ShardMessage};

/// One client's connection, as far as queues are concerned.
pub struct Session {
    id: u64,
    /// `None` once it was closed.
    queues: Option<Arc<Queues>>,
}

impl Session {
    pub(super) fn new(id: u64, queues: Arc<Queues>) -> Session {
        Session { id, queues: Some(queues) }
    }

    /// Its number, unique while the broker runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the session and waits until that is done.
    pub async fn close(mut self) {
        if let Some(queues) = self.queues.take() {
            end(&queues, self.id).await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(queues) = self.queues.take() {
            let (id, tasks) = (self.id, queues.tasks.clone());
            tasks.spawn(TaskKind::Background, "end of a session", async move { end(&queues, id).await });
        }
    }
}

async fn end(queues: &Queues, session: u64) {
    let ends = queues.shards.iter().map(|shard| async move {
        let (reply, answer) = oneshot::channel();
        // A shard that has ended has none of its consumers.
        let _ended = shard.send(ShardMessage::EndSession { session, reply }, SMALL).await.is_err();
        answer.await.unwrap_or_default()
    });
    let unused = join_all(ends).await;
    queues.delete_exclusive(session).await;
    for queue in unused.into_iter().flatten() {
        if let Err(error) = queues.delete_if_auto(&queue).await {
            tracing::warn!(queue = %queue.name(), %error, "an auto-delete queue could not be deleted");
        }
    }
}
