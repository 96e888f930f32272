//! Queues over topics: what a partition has becomes available, what it trims is gone.
//!
//! **Invariants.** What was trimmed before it was done is counted once in a life, unless somebody holds it: then it is
//! settled by him, or counted when it comes back. What retention is about to trim becomes dead letters first, where the
//! queue makes any. The floor of the acks is told by deltas and snapshots alone: there is no log whose start would tell it.
//!
//! Deliberately absent: reading (`streams/over/source.rs`), waiting for holds (retention).

use std::ops::Range;
use std::sync::Arc;

use ferrymq_types::LogId;

use super::Owner;
use super::discard::{Discarded, Reason};
use super::queue::{Debt, Queue};
use crate::holds::Hold;
use crate::queues::ack::{Delta, Next};
use crate::queues::streams::Source;
use crate::watch::{Registration, Watcher};

/// Letters of a queue beyond which no more records are taken out for retention.
const TAKEN_AT_A_TIME: usize = 65_536;

/// A partition that a level of a queue follows.
pub(super) struct Followed {
    pub(super) source: Arc<Source>,
    hold: Arc<Hold>,
    _watch: Arc<Registration>,
}

impl Followed {
    pub(super) fn new(source: Arc<Source>, watcher: &Arc<Watcher>, number: LogId) -> Box<Followed> {
        let (hold, watch) = (source.hold(), source.watch(watcher, number.0));
        Box::new(Followed { source, hold, _watch: watch })
    }
}

impl Owner {
    /// Has queues looked at whose partitions have changed.
    pub(super) fn follow_changed(&mut self) {
        for number in self.watcher.take_changed() {
            self.run_soon(LogId(number));
        }
    }

    /// Takes over what the partitions of a queue over a topic have and have not by now.
    pub(super) fn follow(&mut self, log: LogId) {
        let log = self.queues.root(log);
        let Some(queue) = self.queues.get_mut(&log).filter(|queue| queue.followed.is_some()) else { return };
        let buries = queue.letters.as_ref().is_some_and(|letters| letters.to().is_some());
        let under_way = queue.letters.as_ref().map_or(0, |letters| letters.count());
        let room = TAKEN_AT_A_TIME.saturating_sub(usize::try_from(under_way).unwrap_or(usize::MAX));
        let (mut lost, mut gone) = (0, Vec::new());
        for base in queue.bases() {
            let level = queue.level(base);
            lost += level.catch_up();
            if buries {
                level.take_asked(base, room, &mut gone);
            }
            level.tell_reached(buries);
        }
        if lost > 0 {
            self.owe(log, Debt::Lazy, lost);
        }
        self.discard(log, gone);
    }
}

impl Queue {
    /// Whether its messages are a topic's records.
    pub(super) fn is_over_topic(&self) -> bool {
        self.followed.is_some()
    }

    /// Takes over where the partition begins and ends; how many of what it has no more were not done.
    fn catch_up(&mut self) -> u64 {
        let Some(source) = self.followed.as_ref().map(|followed| followed.source.clone()) else { return 0 };
        let (start, end) = (source.start(), source.end());
        source.tell(&mut self.acks, end);
        self.follow_to(end);
        match self.acks.first_available() {
            Some(Next::Returned(first) | Next::Fresh(first)) if first < start => {}
            // What somebody has of it stays his.
            _ => return 0,
        }
        let count = self.acks.trimmed(start, |range| source.told(range));
        self.ready.forget_below(start.min(end));
        source.count_trimmed(count);
        count
    }

    /// The first at or above `offset` that is not known to be missing.
    fn first_told(&self, offset: u64) -> u64 {
        self.followed.as_ref().map_or(offset, |followed| followed.source.first_told(offset))
    }

    /// These are not there, whatever was thought.
    pub(super) fn lost(&mut self, offsets: Range<u64>) {
        match &self.followed {
            Some(followed) => self.acks.lost_of(offsets, |range| followed.source.told(range)),
            None => self.acks.lost(offsets),
        }
    }

    /// Records between what was given out last and the next one that is there are none.
    #[inline]
    pub(super) fn pass_to(&mut self, offset: u64) {
        if self.followed.is_some() && self.acks.fresh() < offset {
            self.lost(self.acks.fresh()..offset);
        }
    }

    /// Takes out what retention is about to trim.
    fn take_asked(&mut self, base: u64, room: usize, gone: &mut Vec<Discarded>) {
        let asked = self.followed.as_ref().map_or(0, |followed| followed.hold.asked());
        while gone.len() < room {
            let offset = match self.acks.first_available() {
                Some(Next::Returned(offset)) if offset < asked => offset,
                Some(Next::Fresh(offset)) if offset < asked => self.first_told(offset),
                _ => return,
            };
            // A gap is nothing to wait for.
            self.pass_to(offset.min(asked));
            if offset >= asked {
                return;
            }
            if self.acks.acquire(offset).is_err() {
                return;
            }
            gone.push(Discarded { offset: base | offset, reason: Reason::Expired, survives: true });
        }
    }

    /// Says how far nothing is needed any more; `buries`: what is not done is.
    fn tell_reached(&self, buries: bool) {
        if let Some(followed) = &self.followed {
            followed.hold.reach(if buries { self.acks.floor() } else { u64::MAX });
        }
    }

    /// Adds to a delta how far everything is done, if that is for it to tell.
    pub(super) fn tell_floor(&mut self, delta: &mut Delta) {
        if self.is_over_topic() && self.owes_a_trim() {
            let floor = self.acks.floor();
            delta.done.insert(0, self.trimmed..floor);
            self.trimmed = floor;
        }
    }
}
