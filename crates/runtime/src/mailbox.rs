//! A queue to one owner, bounded in bytes: room is taken before a message is enqueued.
//!
//! Policy: push back. A sender waits for room, unless it holds room elsewhere; nothing is dropped.

use tokio::sync::mpsc;

use crate::{ByteBudget, BytePermit};

/// The owner has gone; the message was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailboxClosed;

impl std::fmt::Display for MailboxClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the receiving task has ended")
    }
}

impl std::error::Error for MailboxClosed {}

/// The sending side; cheap to clone.
#[derive(Debug)]
pub struct MailboxSender<T> {
    queue: mpsc::UnboundedSender<(T, BytePermit)>,
    budget: ByteBudget,
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        MailboxSender { queue: self.queue.clone(), budget: self.budget.clone() }
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: mpsc::UnboundedReceiver<(T, BytePermit)>,
}

/// A mailbox that holds at most `bytes` of messages.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "the one unbounded channel: bounded by permits taken first")]
pub fn mailbox<T>(bytes: usize) -> (MailboxSender<T>, Mailbox<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (MailboxSender { queue: sender, budget: ByteBudget::new(bytes) }, Mailbox { queue: receiver })
}

impl<T> MailboxSender<T> {
    /// Waits for room for `bytes` and enqueues.
    ///
    /// # Errors
    /// [`MailboxClosed`] if the owner has ended.
    pub async fn send(&self, message: T, bytes: usize) -> Result<(), MailboxClosed> {
        let permit = match self.budget.try_take(bytes) {
            Some(permit) => permit,
            None => self.budget.take(bytes).await,
        };
        self.queue.send((message, permit)).map_err(|_| MailboxClosed)
    }

    /// Enqueues what takes no room here, at once: the caller holds room for it elsewhere until it is done with.
    ///
    /// # Errors
    /// [`MailboxClosed`] if the owner has ended.
    pub fn send_beside(&self, message: T) -> Result<(), MailboxClosed> {
        self.queue.send((message, self.budget.nothing())).map_err(|_| MailboxClosed)
    }

    /// Bytes waiting now.
    #[must_use]
    pub fn bytes_waiting(&self) -> usize {
        self.budget.in_use()
    }
}

impl<T> Mailbox<T> {
    /// The next message with the room it takes; `None` once all senders are gone. Room is given back when
    /// the permit is dropped. Cancel safety: a dropped wait loses no message.
    pub async fn recv(&mut self) -> Option<(T, BytePermit)> {
        self.queue.recv().await
    }

    /// The next message if there is one now.
    pub fn try_recv(&mut self) -> Option<(T, BytePermit)> {
        self.queue.try_recv().ok()
    }
}
