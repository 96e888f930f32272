//! Messages that leave their queue without having been consumed.
//!
//! **Invariants.** What comes here is acquired, and by nobody: no consumer holds it any more. It is done once it is
//! gone for good, and until then a crash brings it back.
//!
//! Deliberately absent: deciding that a message has to go.

use ferrymq_types::LogId;

use super::Owner;
use super::queue::Debt;
use crate::queues::types::Message;

/// Why a message leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// A consumer did not want it.
    Rejected,
}

/// A message that has to go.
#[derive(Debug)]
pub(super) struct Discarded {
    pub(super) offset: u64,
    pub(super) reason: Reason,
    /// Whether it would come back after a restart.
    pub(super) survives: bool,
    /// The message, if it is at hand; else the log has it.
    pub(super) message: Option<Message>,
}

impl Owner {
    /// Lets go of messages of one queue, in the order in which they have to go.
    pub(super) fn discard(&mut self, log: LogId, gone: Vec<Discarded>) {
        let Some(queue) = self.queues.get_mut(&log).filter(|_| !gone.is_empty()) else { return };
        let mut debt = Debt::Lazy;
        let mut done = 0;
        for Discarded { offset, reason, survives, message } in gone {
            tracing::trace!(queue = %queue.handle.name(), offset, ?reason, known = message.is_some(), "discarded");
            done += u64::from(queue.acks.finish(offset));
            if survives {
                debt = Debt::Must;
            }
        }
        self.owe(log, debt, done);
        self.run_soon(log);
    }
}
