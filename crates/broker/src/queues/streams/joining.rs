//! Streams in transactions, and as targets of dead letters.
//!
//! Topics belong to another owner than queues do, so a joint commit cannot hold both. What goes to streams is made durable
//! first, then the rest is committed. So nothing is lost; what fails in between, or a crash, leaves the messages in
//! the stream, and they may come there again.
//!
//! Deliberately absent: transactions over topics (Kafka's), which would make one of both.

use tokio::sync::oneshot;

use crate::queues::error::QueueError;
use crate::queues::handle::Queues;
use crate::queues::joint::Parts;
use crate::queues::shard::joint::Settles;
use crate::queues::shard::message::{Item, ShardMessage};
use crate::queues::types::{Publish, QueueHandle};

/// What becomes of a message that its topic never takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queues) enum TooLarge {
    /// Whoever sent it is told, and nothing happens.
    Refused,
    /// It goes nowhere, with an error in the log.
    Dropped,
}

impl Queues {
    /// Takes what concerns streams out of a joint commit, and makes their messages durable. The settlements are to be
    /// told to the desk when the rest is committed.
    pub(in crate::queues) async fn append_streams(
        &self,
        parts: &Parts,
        too_large: TooLarge,
    ) -> Result<(Parts, Vec<Settles>), QueueError> {
        let (settled, settles) = parts.settles.iter().cloned().partition(|settles| is_stream(&settles.queue));
        let publishes = Vec::with_capacity(parts.publishes.len());
        let mut rest = Parts { publishes, settles, ..Parts::default() };
        let mut items = Vec::new();
        for publish in &parts.publishes {
            if publish.to.queues().iter().any(is_stream) {
                let (message, to) = (publish.message.clone(), publish.to.clone());
                items.push(Item::new(u32::try_from(items.len()).unwrap_or(u32::MAX), message, to));
            }
            rest.publishes.extend(without_streams(publish));
        }
        if let (Some(streams), false) = (&self.streams, items.is_empty()) {
            let (reply, answer) = oneshot::channel();
            let message = ShardMessage::Publish { items, reply };
            let bytes = message.bytes();
            // If the desk has ended, the answer's sender is gone.
            let _ended = self.shards[streams.shard].send(message, bytes).await.is_err();
            for (_, error) in answer.await.map_err(|_| QueueError::Stopped)? {
                match error {
                    // It never fits: what waits for it to be taken would wait for ever.
                    QueueError::Limit { .. } if too_large == TooLarge::Dropped => {
                        tracing::error!(%error, "a dead letter is too large for its stream and is dropped");
                    }
                    error => return Err(error),
                }
            }
        }
        Ok((rest, settled))
    }

    /// Tells the desk of settlements that are decided.
    pub(in crate::queues) async fn settle_streams(&self, settled: Vec<Settles>) {
        for Settles { queue, session, what } in settled {
            let Some(session) = session else { continue };
            let settle = ShardMessage::Settle { queue: queue.clone(), session, what };
            self.tell(&queue, settle).await;
        }
    }
}

fn is_stream(queue: &QueueHandle) -> bool {
    queue.stream().is_some()
}

/// A message with the queues that it goes to, now or later; none if it goes to streams only.
pub(in crate::queues) fn without_streams(publish: &Publish) -> Option<Publish> {
    let to = publish.to.clone().only(|queue| !is_stream(queue));
    (!to.is_empty()).then(|| Publish { message: publish.message.clone(), to })
}
