//! Messages that come back: to their place, or, where they failed too often, out of the queue.
//!
//! **Invariants.** What comes back is held by nobody any more. Every return is counted, and a failure as well where
//! the queue counts them; both survive a restart as acks do. A message may fail as often as its queue says and is
//! discarded by the next failure: it is never lost by being given back.
//!
//! Deliberately absent: what becomes of a discarded message (`discard`). A crash of the broker counts nothing: what
//! was acquired is not stored.

use super::discard::{Discarded, Reason};
use super::levels::place;
use super::queue::Queue;

impl Queue {
    /// Gives a message, by its id, back to its place; `failed`: whoever had it failed on it. If that was once too often, what is
    /// to be discarded instead.
    pub(super) fn give_back(&mut self, offset: u64, survives: bool, failed: bool) -> Option<Discarded> {
        let counts = failed && self.consuming.counts;
        let (failures, at) = (self.level(offset).acks.failed(place(offset)), place(offset));
        let too_often = |limit| counts && failures >= limit;
        let is_gone = self.consuming.delivery_limit.is_some_and(too_often);
        self.count_settled(offset, !is_gone);
        if is_gone {
            return Some(Discarded { offset, reason: Reason::DeliveryLimit, survives });
        }
        match counts {
            true => self.level(offset).acks.fail(at),
            false => self.level(offset).acks.release(at, true),
        };
        None
    }
}
