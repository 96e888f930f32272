//! Deliveries that nobody has settled for as long as they may be unsettled: who has them is told.
//!
//! ```text
//!  entry of the unacked:   survives (1 bit) | class of age (6 bits) | who has it (25 bits)
//!  a consumer:             how many of its deliveries are of each class, a 32nd of its timeout wide
//! ```
//! **Invariants.** Nothing is overdue early; late by a 32nd of the timeout, and a millisecond. A consumer without a
//! timeout costs nothing, one with a timeout the same whatever it holds; the unacked are walked only when something
//! is overdue. What was told of is not told of again.
//!
//! Deliberately absent: giving anything back: whoever has the deliveries does, so that no settlement of his that is on
//! its way is taken for one of the next consumer.

use std::collections::HashMap;

use ferrymq_types::{LogId, Offset};

use super::Owner;
use super::timers::Kind;

/// Marks, in an entry of the unacked, a message that survives a restart.
pub(super) const SURVIVES: u32 = 1 << 31;
/// What of an entry says who has it.
pub(super) const HOLDER: u32 = (1 << CLASS_AT) - 1;
const CLASS_AT: u32 = 25;
/// Classes of age; that of what is not watched is 0.
const CLASSES: u32 = 64;
const UNWATCHED: u32 = 0;
/// How many classes a timeout is long.
const GRAIN: i64 = 32;

/// An entry of the unacked.
pub(super) fn entry_of(id: u32, class: u32, survives: bool) -> u32 {
    id | class << CLASS_AT | if survives { SURVIVES } else { 0 }
}

/// Who has it.
pub(super) fn holder(entry: u32) -> u32 {
    entry & HOLDER
}

/// How long he has had it.
pub(super) fn class_of(entry: u32) -> u32 {
    entry >> CLASS_AT & (CLASSES - 1)
}

/// What a consumer has, by age.
#[derive(Debug)]
pub(super) struct Unsettled {
    timeout_ms: i64,
    width_ms: i64,
    /// Of each class, how many there are and since when, in widths.
    classes: [(u32, i64); CLASSES as usize],
}

impl Unsettled {
    pub(super) fn new(timeout_ms: u64) -> Unsettled {
        let timeout_ms = i64::try_from(timeout_ms).unwrap_or(i64::MAX / 2);
        Unsettled { timeout_ms, width_ms: (timeout_ms / GRAIN).max(1), classes: [(0, 0); CLASSES as usize] }
    }

    pub(super) fn timeout_ms(&self) -> u64 {
        self.timeout_ms.unsigned_abs()
    }

    /// Something is delivered now: its class, and when it will be overdue.
    pub(super) fn deliver(&mut self, now_ms: i64) -> (u32, i64) {
        let since = now_ms / self.width_ms;
        let class = 1 + u32::try_from(since.rem_euclid(i64::from(CLASSES) - 1)).unwrap_or(0);
        // What is left of an older class becomes as young as this: later, never sooner.
        let (count, at) = &mut self.classes[class as usize];
        (*count, *at) = (*count + 1, since);
        (class, self.overdue_at(since))
    }

    /// Something of a class is settled.
    pub(super) fn settle(&mut self, class: u32) {
        if class != UNWATCHED {
            let (count, _) = &mut self.classes[class as usize];
            *count = count.saturating_sub(1);
        }
    }

    fn overdue_at(&self, since: i64) -> i64 {
        (since + 1).saturating_mul(self.width_ms).saturating_add(self.timeout_ms)
    }

    fn present(&self) -> impl Iterator<Item = (usize, i64)> {
        let present = self.classes.iter().enumerate().filter(|(_, (count, _))| *count > 0);
        present.map(|(class, (_, since))| (class, self.overdue_at(*since)))
    }

    /// When the first is overdue.
    pub(super) fn next(&self) -> Option<i64> {
        self.present().map(|(_, at)| at).min()
    }

    /// The classes that are overdue, as bits.
    pub(super) fn overdue(&self, now_ms: i64) -> u64 {
        self.present().filter(|(_, at)| *at <= now_ms).fold(0, |classes, (class, _)| classes | 1 << class)
    }

    /// What is left of these classes is being settled and may come back: it is looked at again later.
    pub(super) fn put_off(&mut self, classes: u64, now_ms: i64) {
        let since = now_ms / self.width_ms;
        let put_off = self.classes.iter_mut().enumerate().filter(|(class, _)| classes >> class & 1 == 1);
        put_off.for_each(|(_, (_, at))| *at = since);
    }
}

impl Owner {
    /// Has a queue looked at when a delivery of this turn may be overdue, if that is sooner than when it is anyway.
    pub(super) fn watch_unsettled(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let Some(at) = queue.consumers.take_earliest() else { return };
        if queue.times.overdue.is_none_or(|before| before > at) {
            self.timers.set(&mut queue.times.overdue, log, Kind::Overdue, Some(at));
        }
    }

    /// Tells those who have something that is overdue.
    pub(super) fn look_for_overdue(&mut self, log: LogId, now_ms: i64) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let mut overdue: HashMap<u32, (u64, Vec<Offset>)> =
            queue.consumers.overdue(now_ms).map(|(id, classes)| (id, (classes, Vec::new()))).collect();
        if !overdue.is_empty() {
            for (offset, entry) in &mut queue.unacked {
                let (id, class) = (holder(*entry), class_of(*entry));
                let Some((_, offsets)) =
                    overdue.get_mut(&id).filter(|(classes, _)| classes >> class & 1 == 1)
                else {
                    continue;
                };
                offsets.push(Offset(*offset));
                *entry = entry_of(id, UNWATCHED, *entry & SURVIVES != 0);
                queue.consumers.unwatch(id, class);
            }
            for (id, (classes, mut offsets)) in overdue {
                offsets.sort_unstable();
                queue.consumers.tell_overdue(id, classes, now_ms, &queue.handle, offsets);
            }
        }
        let next = queue.consumers.next_overdue();
        self.timers.set(&mut queue.times.overdue, log, Kind::Overdue, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_what_they_are_made_of() {
        for (id, class, survives) in [(0, 0, false), (HOLDER, 63, true), (7, 1, true), (1 << 24, 62, false)] {
            let entry = entry_of(id, class, survives);
            assert_eq!((holder(entry), class_of(entry), entry & SURVIVES != 0), (id, class, survives));
        }
    }

    /// Beside one that remembers each delivery by itself.
    #[test]
    fn nothing_is_overdue_early_nor_much_too_late() {
        let rng = ferrymq_runtime::Rng::seeded(5);
        for timeout_ms in [0u64, 1, 7, 100, 5000, 1_800_000] {
            let mut unsettled = Unsettled::new(timeout_ms);
            let timeout = i64::try_from(timeout_ms).unwrap();
            let late = timeout / GRAIN + 1;
            let mut all: Vec<(i64, u32)> = Vec::new();
            let mut now = 12_345;
            for _ in 0..5000 {
                now += (rng.next_u64() % (timeout_ms / 10 + 2)).cast_signed();
                let due = unsettled.overdue(now);
                let is_due = |class: u32| due >> class & 1 == 1;
                for (at, class) in &all {
                    let age = now - at;
                    assert!(!is_due(*class) || age >= timeout, "early: {age} of {timeout}");
                    assert!(is_due(*class) || age <= timeout + late, "late: {age} of {timeout}");
                }
                all.retain(|(_, class)| {
                    let told = is_due(*class);
                    if told {
                        unsettled.settle(*class);
                    }
                    !told
                });
                assert!(unsettled.next().is_none_or(|at| at > now) && unsettled.overdue(now) == 0);
                if rng.next_u64().is_multiple_of(3) {
                    let (class, at) = unsettled.deliver(now);
                    assert!(unsettled.next().is_some_and(|next| next <= at));
                    all.push((now, class));
                } else if !all.is_empty() {
                    let at = usize::try_from(rng.next_u64()).unwrap() % all.len();
                    let (_, class) = all.swap_remove(at);
                    unsettled.settle(class);
                }
                assert_eq!(unsettled.next().is_none(), all.is_empty());
            }
        }
    }

    #[test]
    fn a_look_that_comes_far_too_late_makes_nothing_early() {
        let mut unsettled = Unsettled::new(3200);
        let (class, _) = unsettled.deliver(0);
        let (again, _) = unsettled.deliver(6300);
        assert_eq!(class, again, "the same class, 63 widths later");
        assert_eq!((unsettled.overdue(9599), unsettled.overdue(9600)), (0, 1 << class));
    }
}
