//! Deadlines of a shard: one ordered set, no task and no sleep per member or group.
//!
//! **Invariant.** A key has at most one deadline; setting it again moves it.
//!
//! Deliberately absent: the clock. Time is a number of milliseconds that the caller passes in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a deadline is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum TimerKey {
    /// A member's or pending member's session.
    Member(Arc<str>, Arc<str>),
    /// A group's wait for members to join.
    Join(Arc<str>),
    /// A group's wait for members to ask for their assignment.
    Sync(Arc<str>),
    /// The next look for expired offsets.
    Retention,
}

/// All deadlines.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: HashMap<TimerKey, u64>,
    ordered: BTreeSet<(u64, TimerKey)>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(super) fn set(&mut self, key: TimerKey, at_ms: u64) {
        self.cancel(&key);
        self.deadlines.insert(key.clone(), at_ms);
        self.ordered.insert((at_ms, key));
    }

    pub(super) fn cancel(&mut self, key: &TimerKey) {
        if let Some((key, at_ms)) = self.deadlines.remove_entry(key) {
            self.ordered.remove(&(at_ms, key));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<u64> {
        self.ordered.first().map(|(at_ms, _)| *at_ms)
    }

    /// Takes the earliest deadline that is due.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<TimerKey> {
        if self.next()? > now_ms {
            return None;
        }
        let (_, key) = self.ordered.pop_first()?;
        self.deadlines.remove(&key);
        Some(key)
    }

    #[cfg(test)]
    pub(super) fn is_set(&self, key: &TimerKey) -> bool {
        assert_eq!(self.ordered.len(), self.deadlines.len());
        self.deadlines.contains_key(key)
    }
}
