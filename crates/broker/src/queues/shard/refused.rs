//! Messages that a full queue refuses and that become dead letters all the same (`reject-publish-dlx`).
//!
//! ```text
//!  publish ─▶ full ─▶ letter ─▶ its targets, as any message ─▶ durable, or refused there ─▶ the publisher is told no
//! ```
//! **Invariants.** Such a message was never in the queue, so there is nothing that its letter could be moved from: it is
//! published to its targets once, and what a target refuses is gone, as in RabbitMQ. Its publisher hears of the refusal
//! only when the letter's fate is known. Until then the room that the message takes in the mailbox is held, and
//! the letter takes none: whoever floods a full queue is held back, and no shard waits for another one's room.
//!
//! Deliberately absent: messages refused to a joint commit; that does not happen, and neither does a letter.

use std::sync::Arc;

use super::discard::Reason;
use super::queue::{Part, Queue};
use super::{Done, Owner};
use crate::queues::dead_letters::DeadLetterTo;
use crate::queues::settings::Overflow;
use crate::queues::types::{Message, QueueHandle};

/// A message that a queue has refused, and where it is to go.
pub(super) type RefusedMessage = (QueueHandle, Arc<DeadLetterTo>, Message);

impl Queue {
    /// Where messages go that are refused, if they go anywhere.
    pub(super) fn buries(&self) -> Option<Arc<DeadLetterTo>> {
        let to = self.letters.as_ref()?.to()?;
        (self.settings.overflow == Some(Overflow::RejectPublishDlx)).then(|| to.clone())
    }
}

impl Owner {
    /// Sends refused messages on. Their request has a part that ends when they have arrived.
    pub(super) fn bury(&mut self, request: u64, refused: &[RefusedMessage]) {
        let Some(queues) = self.context.queues.borrow().upgrade() else {
            // The broker ends.
            return self.on_buried(request);
        };
        let letter =
            |(queue, to, message): &RefusedMessage| queues.letter(queue, to, Reason::MaxLength, message);
        for (_, to, _) in refused {
            self.context.tally.died(to.of.0, to.of.1, Reason::MaxLength);
        }
        let arrived = queues.publish_beside(refused.iter().filter_map(letter).collect());
        let stopping = self.context.tasks.stopping();
        self.done.push(Box::pin(async move {
            tokio::select! {
                published = arrived => {
                    for (_, error) in published.failed {
                        tracing::debug!(%error, "a dead letter of a refused message is refused as well");
                    }
                }
                // Another shard may have ended; none waits for it.
                () = stopping => {}
            }
            Done::Buried(request)
        }));
    }

    /// The letters of a request have arrived.
    pub(super) fn on_buried(&mut self, request: u64) {
        self.requests.succeed(Part { request, messages: Vec::new() });
    }
}
