//! Messages that came back and wait before they are available again (delayed retry).
//!
//! ```text
//!  give_back ─▶ acquired by nobody, counted ─▶ by when it is over ─▶ at its old place, available
//! ```
//! **Invariants.** One that waits is neither ready nor unacked; it counts for the limits of length and goes with a purge.
//! It is available no earlier than its delay after it came back; the count of its returns is stored as that of any, and
//! when it came back is not: after a restart, every message that came back before waits anew, as long as its counts
//! say. Memory: 16 bytes and a little for each that waits; beyond `WAITING_MAX` the queue delivers nothing new until
//! some of them are over, and after a restart the others do not wait.
//!
//! Deliberately absent: which of them wait, and for how long (`consuming`).

use std::collections::BTreeSet;

use ferrymq_types::LogId;

use super::Owner;
use super::ages::Ages;
use super::levels::place;
use super::queue::Queue;
use super::timers::{Kind, Slot};

/// Messages of a queue that may wait before it delivers nothing new.
const WAITING_MAX: usize = 1 << 20;

/// Those of one queue.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Until when.
    until: BTreeSet<(i64, u64)>,
    /// How long those wait that came since the last look.
    new: Vec<(u64, u64)>,
    /// When the first is over.
    pub(super) next: Slot,
}

impl Waiting {
    fn count(&self) -> usize {
        self.until.len() + self.new.len()
    }

    /// Their ids.
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.until.iter().map(|(_, id)| *id).chain(self.new.iter().map(|(id, _)| *id))
    }

    /// Those that came since the last look begin to wait now.
    fn begin(&mut self, now_ms: i64) {
        for (offset, delay_ms) in self.new.drain(..) {
            let delay_ms = i64::try_from(delay_ms).unwrap_or(i64::MAX);
            // Readings are rounded down: never early.
            self.until.insert((now_ms.saturating_add(delay_ms).saturating_add(1), offset));
        }
    }

    /// Takes out one whose time is over.
    fn over(&mut self, now_ms: i64) -> Option<u64> {
        self.until.first().filter(|(at_ms, _)| *at_ms <= now_ms)?;
        self.until.pop_first().map(|(_, offset)| offset)
    }

    fn drain(&mut self) -> impl Iterator<Item = u64> {
        let until = std::mem::take(&mut self.until).into_iter().map(|(_, offset)| offset);
        until.chain(std::mem::take(&mut self.new).into_iter().map(|(offset, _)| offset))
    }
}

impl Queue {
    /// How many wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.as_ref().map_or(0, |waiting| waiting.count() as u64)
    }

    /// Whether nothing new may be delivered because of them.
    pub(super) fn waits_enough(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.count() >= WAITING_MAX)
    }

    /// A message that came back waits.
    pub(super) fn put_off(&mut self, offset: u64, failed: bool, delay_ms: u64) {
        // One that nobody had does not come back.
        if self.level(offset).acks.count(place(offset), failed) {
            self.waiting.get_or_insert_default().new.push((offset, delay_ms));
        }
    }

    /// What came back in an earlier life to a level, by the id of its first place, waits anew.
    pub(super) fn wait_anew(&mut self, base: u64) {
        let Some(retry) = self.consuming.retry else { return };
        let acks = &mut self.level(base).acks;
        let waits = acks.returned_before().filter_map(|(offset, returned, failed)| {
            retry.delay_again_ms(returned, failed).map(|delay_ms| (offset, delay_ms))
        });
        let mut new: Vec<(u64, u64)> = waits.take(WAITING_MAX).collect();
        for (offset, _) in &mut new {
            // It was there: an earlier life had acquired it.
            let _acquired = acks.acquire(*offset);
            *offset |= base;
        }
        if !new.is_empty() {
            self.waiting.get_or_insert_default().new.extend(new);
        }
    }

    /// Is done with all that wait; how many.
    pub(super) fn purge_waiting(&mut self) -> u64 {
        let Some(waiting) = &mut self.waiting else { return 0 };
        let all: Vec<u64> = waiting.drain().collect();
        all.into_iter().filter(|id| self.finish(*id)).count() as u64
    }

    /// Has those available whose time is over; when the next one's is.
    fn end_waits(&mut self, ages: &Ages) -> Slot {
        let waiting = self.waiting.as_mut()?;
        let now_ms = ages.now_ms();
        waiting.begin(now_ms);
        while let Some(id) = self.waiting.as_mut().and_then(|waiting| waiting.over(now_ms)) {
            self.level(id).acks.release(place(id), false);
        }
        self.waiting.as_ref()?.until.first().map(|(at_ms, _)| *at_ms)
    }
}

impl Owner {
    /// Has those available whose time is over.
    pub(super) fn end_waits(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log).filter(|queue| queue.waiting.is_some()) else { return };
        let next = queue.end_waits(&self.ages);
        if let Some(waiting) = &mut queue.waiting {
            self.timers.set(&mut waiting.next, log, Kind::Retry, next);
        }
    }
}
