//! Messages that come back: to their place, at once or after a while, or, where they failed too often, out of the queue.
//!
//! **Invariants.** What comes back is held by nobody any more. Every return is counted, and a failure as well where
//! the queue counts them; both survive a restart as acks do. A message may fail as often as its queue says and is
//! discarded by the next failure: it is never lost by being given back.
//!
//! Deliberately absent: what becomes of a discarded message (`discard`), and of one that waits (`waiting`). A crash of the
//! broker counts nothing: what was acquired is not stored.

use super::discard::{Discarded, Reason};
use super::levels::place;
use super::queue::Queue;

impl Queue {
    /// Gives a message, by its id, back to its place; `failed`: whoever had it failed on it. If that was once too often, what is
    /// to be discarded instead.
    pub(super) fn give_back(&mut self, offset: u64, survives: bool, failed: bool) -> Option<Discarded> {
        let failed = failed && self.consuming.counts;
        let at = place(offset);
        let failures = self.level(offset).acks.failed(at).saturating_add(u16::from(failed));
        let is_gone = self.consuming.delivery_limit.is_some_and(|limit| failed && failures > limit);
        self.count_settled(offset, !is_gone);
        if is_gone {
            return Some(Discarded { offset, reason: Reason::DeliveryLimit, survives });
        }
        match self.consuming.retry.and_then(|retry| retry.delay_ms(failed, failures)) {
            Some(delay_ms) => self.put_off(offset, failed, delay_ms),
            None if failed => drop(self.level(offset).acks.fail(at)),
            None => drop(self.level(offset).acks.release(at, true)),
        }
        None
    }
}
