//! When a shard has to look at which queue: one ordered set of deadlines.
//!
//! **Invariants.** A queue has one deadline of a kind at most, and its slot says which. What is due is taken out
//! before anything is done about it, so much of it at a time.
//!
//! Deliberately absent: the clock; what a deadline means.

use std::collections::BTreeSet;

use ferrymq_types::LogId;

/// What a queue is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The time of the message at its head is over.
    Head,
    /// Nobody has used it for as long as it may be unused.
    Unused,
    /// Something that was delivered may have been unsettled for too long.
    Overdue,
    /// A message that came back may be available again.
    Retry,
    /// A message that was kept back is due, or soon will be.
    Due,
}

/// When a queue is to be looked at; one for each [`Kind`].
pub(super) type Slot = Option<i64>;

/// All deadlines of a shard, in milliseconds of uptime.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(i64, LogId, Kind)>);

impl Timers {
    /// Has a queue looked at at `at`, instead of when its slot says.
    pub(super) fn set(&mut self, slot: &mut Slot, log: LogId, kind: Kind, at: Slot) {
        if *slot == at {
            return;
        }
        if let Some(before) = slot.take() {
            self.0.remove(&(before, log, kind));
        }
        if let Some(at) = at {
            self.0.insert((at, log, kind));
        }
        *slot = at;
    }

    /// Takes out the first, if it is due. Its slot must be emptied.
    pub(super) fn due(&mut self, now_ms: i64) -> Option<(LogId, Kind)> {
        let (at, log, kind) = *self.0.first()?;
        if at > now_ms {
            return None;
        }
        self.0.pop_first();
        Some((log, kind))
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Slot {
        self.0.first().map(|(at, ..)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_due_first_and_slots_are_kept() {
        let mut timers = Timers::default();
        let (mut a, mut b, mut c) = (None, None, None);
        timers.set(&mut a, LogId(1), Kind::Head, Some(30));
        timers.set(&mut b, LogId(2), Kind::Head, Some(20));
        timers.set(&mut c, LogId(1), Kind::Unused, Some(20));
        timers.set(&mut a, LogId(1), Kind::Head, Some(10));
        assert_eq!((a, timers.first()), (Some(10), Some(10)));
        assert_eq!(timers.due(9), None);
        assert_eq!(timers.due(20), Some((LogId(1), Kind::Head)));
        assert_eq!(timers.due(20), Some((LogId(1), Kind::Unused)));
        timers.set(&mut b, LogId(2), Kind::Head, None);
        assert_eq!((b, timers.due(i64::MAX), timers.first()), (None, None, None));
    }
}
