//! When acknowledgements are durable: asked by a door before it answers something else.
//!
//! **Invariant.** [`Queues::acked`] returns without an error once every acknowledgement of a persistent message in a durable
//! queue that was handed over before is durable. It writes nothing for its own sake.
//!
//! Deliberately absent: rejections that make dead letters. These are moved by a commit of their own, some time later.

use futures_util::future::try_join_all;
use tokio::sync::oneshot;

use super::error::QueueError;
use super::handle::Queues;
use super::shard::message::{SMALL, ShardMessage};
use super::types::QueueHandle;

/// Which owners were told of acknowledgements.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct AckedAt(u32);

impl AckedAt {
    /// An acknowledgement goes to this queue. A stream keeps none.
    pub fn note(&mut self, queue: &QueueHandle) {
        if !queue.is_stream() {
            // There are at most 16 shards.
            self.0 |= 1 << (queue.0.shard % 32);
        }
    }

    /// Whether none were.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Queues {
    /// Waits until what was handed over with [`Queues::settle`] is durable at these owners, as far as that is promised.
    ///
    /// # Errors
    /// [`QueueError::Storage`] or [`QueueError::Retry`] if the store refused; [`QueueError::Stopped`].
    pub async fn acked(&self, at: AckedAt) -> Result<(), QueueError> {
        let asked = (0u32..).zip(&self.shards).filter(|(index, _)| at.0 & (1 << index) != 0);
        let answers = asked.map(|(_, shard)| async move {
            let (reply, answer) = oneshot::channel();
            // If the shard has ended, the answer's sender is gone.
            let _ended = shard.send(ShardMessage::Barrier { reply }, SMALL).await.is_err();
            answer.await.map_err(|_| QueueError::Stopped)?
        });
        try_join_all(answers).await.map(drop)
    }
}
