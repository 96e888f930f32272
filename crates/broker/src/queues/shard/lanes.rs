//! Messages that exchanges keep back: when each is due, as far as that is known in memory.
//!
//! ```text
//!  log of a lane   floor ........ acquired ........ fresh ........ end
//!                  done or due    in the index, if  not looked at: the first of them
//!                  soon           before `horizon`  cannot be due soon
//! ```
//! All messages of a lane have delays of one range. They lie in the order in which they were published, so nothing
//! behind the first is due earlier than its own publishing plus the shortest delay: only what may be due soon is looked at.
//! It is acquired, and the index tells when it is due. If that is too much, the index keeps what is due first, up to the
//! horizon; when it runs short, what is acquired is looked at again.
//!
//! **Invariants.** Whatever is acquired, not on its way and due before the horizon is in the index. What is due goes to
//! the mover in the order in which it is due, and so much at a time. Nothing is due early. A lane that is empty, or whose
//! messages are far from due, has no body in memory and at most one timer.
//!
//! Deliberately absent: where a message goes when it is due (`queues::delays`).

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use ferrymq_storage::{ErrorKind, Read, StorageError};
use ferrymq_types::{LogId, Offset};

use super::ages::Ages;
use super::discard::{Discarded, Reason};
use super::dispatch::{Ahead, READ_PAUSE, Taken};
use super::queue::Queue;
use super::timers::{Kind, Slot};
use super::{Done, Owner};
use crate::queues::ack::Next;
use crate::queues::envelope::{EnvelopeError, Messages, Stamp};
use crate::queues::types::QueueHandle;

/// Messages looked at, or handed to a mover, in a turn.
const PER_TURN: usize = 2048;
/// On their way at a time, at most, before no more are handed over.
const ON_THE_WAY: u64 = 8192;
/// How long before it may be due a message is looked at.
const AHEAD_MS: i64 = 2000;
/// How long until one that a queue has refused is due again.
const AGAIN_MS: i64 = 500;
/// Bytes read at a time to look at what is acquired again.
const SCAN_BYTES: usize = 1024 * 1024;

/// When a message is due, in milliseconds of uptime, and which it is.
type Due = (i64, u64);

/// When the messages of a lane are due.
#[derive(Debug)]
pub(super) struct Lane {
    shortest_ms: i64,
    index: BTreeSet<Due>,
    index_max: usize,
    /// What is due from here on is not in the index; `None`: everything is.
    horizon: Option<Due>,
    /// Refused by a queue, and due again. While there are as many as the index holds, nothing new is sent on.
    again: BTreeSet<Due>,
    /// Those of them, also on their way again, that streams have taken: these are not to get them twice.
    written: HashSet<u64>,
    scan: Option<Scan>,
    /// Which message is the first that was not looked at, and from when on it has to be.
    far: Option<(Next, i64)>,
    pub(super) next: Slot,
}

/// A walk over what is acquired, to fill the index.
#[derive(Debug)]
struct Scan {
    /// The horizon that it begins at.
    beyond: Due,
    found: BTreeSet<Due>,
    /// The first that there was no room for.
    horizon: Option<Due>,
}

/// A part of a log that was read to be looked at again.
pub(super) struct Scanned {
    queue: QueueHandle,
    from: u64,
    result: Result<Read, StorageError>,
}

impl Lane {
    pub(super) fn new(shortest_ms: u64, index_max: usize) -> Lane {
        Lane {
            shortest_ms: i64::try_from(shortest_ms).unwrap_or(i64::MAX),
            index: BTreeSet::new(),
            index_max: index_max.max(1),
            horizon: None,
            again: BTreeSet::new(),
            written: HashSet::new(),
            scan: None,
            far: None,
            next: None,
        }
    }

    /// Takes a message in that was looked at for the first time.
    fn add(&mut self, due: Due) {
        if self.horizon.is_some_and(|horizon| due >= horizon) {
            return;
        }
        self.index.insert(due);
        if self.index.len() > 2 * self.index_max {
            // A scan would not find again what is thrown out here.
            self.scan = None;
            while self.index.len() > self.index_max {
                self.horizon = self.index.pop_last();
            }
        }
    }

    /// Takes out one that is due.
    fn pop(&mut self, now_ms: i64) -> Option<u64> {
        let goes_on = self.goes_on();
        let is_due = |set: &BTreeSet<Due>| set.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms);
        let from = match is_due(&self.again) {
            true => &mut self.again,
            false if goes_on && is_due(&self.index) => &mut self.index,
            false => return None,
        };
        from.pop_first().map(|(_, offset)| offset)
    }

    /// Whether few enough were refused for what is due for the first time to be sent on.
    fn goes_on(&self) -> bool {
        self.again.len() < self.index_max
    }

    /// Whether its streams have one that goes on its way; not remembered any longer.
    pub(super) fn take_written(&mut self, offset: u64) -> bool {
        self.written.remove(&offset)
    }

    /// When the first is due that may be sent on, as far as it is known.
    fn first(&self) -> Slot {
        let first = |set: &BTreeSet<Due>| set.first().map(|(at_ms, _)| *at_ms);
        first(&self.index).filter(|_| self.goes_on()).into_iter().chain(first(&self.again)).min()
    }

    /// Whether what is acquired must be looked at again, from now on.
    fn begins_scan(&mut self) -> bool {
        let Some(beyond) = self.horizon.filter(|_| self.scan.is_none()) else { return false };
        let is_short = self.index.len() <= self.index_max / 4;
        if is_short {
            self.scan = Some(Scan { beyond, found: BTreeSet::new(), horizon: None });
        }
        is_short
    }

    /// Takes in what a scan has come by.
    fn find(&mut self, due: Due) {
        let Some(scan) = self.scan.as_mut().filter(|scan| due >= scan.beyond) else { return };
        if scan.horizon.is_some_and(|horizon| due >= horizon) {
            return;
        }
        scan.found.insert(due);
        if scan.found.len() > self.index_max {
            scan.horizon = scan.found.pop_last();
        }
    }

    /// A scan has come to what was never looked at.
    fn end_scan(&mut self) {
        let Some(scan) = self.scan.take() else { return };
        self.index.extend(scan.found);
        self.horizon = scan.horizon;
    }
}

impl Queue {
    /// When a message was enqueued, in milliseconds of uptime.
    fn enqueued_at(&self, offset: u64, stamp: Stamp, ages: &Ages) -> i64 {
        ages.stamped_at(stamp.enqueued_ms, offset < self.times.earlier)
    }

    /// When a message is due.
    fn due_at(&self, offset: u64, stamp: Stamp, ages: &Ages) -> Due {
        let delay_ms = i64::try_from(stamp.delay_ms.unwrap_or(0)).unwrap_or(i64::MAX);
        // Readings are rounded down: never early.
        (self.enqueued_at(offset, stamp, ages).saturating_add(delay_ms).saturating_add(1), offset)
    }

    /// Looks at messages that may be due soon, as far as they are in memory; false if there are more.
    fn look_ahead(&mut self, ages: &Ages, now_ms: i64) -> Result<bool, EnvelopeError> {
        for _ in 0..PER_TURN {
            let Some((offset, stamp)) = self.head()? else { return Ok(true) };
            let (next, shortest_ms) =
                (self.acks.first_available(), self.lane.as_ref().map_or(0, |lane| lane.shortest_ms));
            let look_at = self.enqueued_at(offset, stamp, ages).saturating_add(shortest_ms - AHEAD_MS);
            let due = self.due_at(offset, stamp, ages);
            if look_at > now_ms {
                self.far_from(next, look_at);
                return Ok(true);
            }
            let Taken::Message { .. } = self.take(false)? else { return Ok(true) };
            self.lane.iter_mut().for_each(|lane| lane.add(due));
        }
        Ok(false)
    }

    /// Nothing need be looked at until `look_at`; it is left to the log.
    fn far_from(&mut self, next: Option<Next>, look_at: i64) {
        self.ready.unload(self.acks.fresh());
        if let (Some(lane), Some(next)) = (&mut self.lane, next) {
            lane.far = Some((next, look_at));
        }
    }

    /// From when on the next message has to be looked at, if that is known and later.
    fn is_far(&mut self, now_ms: i64) -> Slot {
        let next = self.acks.first_available()?;
        let (far, at_ms) = self.lane.as_ref()?.far?;
        (far == next && at_ms > now_ms).then_some(at_ms)
    }

    /// Looks again at what a part of the log has.
    fn look_again(&mut self, runs: Vec<Bytes>, ages: &Ages) -> Result<(), EnvelopeError> {
        for mut run in runs {
            while !run.is_empty() {
                let mut messages = Messages::split_from(&mut run)?;
                while messages.offset() < messages.next() {
                    let offset = messages.offset();
                    if self.acks.is_acquired(offset) {
                        let due = self.due_at(offset, messages.stamp()?, ages);
                        self.lane.iter_mut().for_each(|lane| lane.find(due));
                    }
                    messages.skip_to(offset + 1)?;
                }
            }
        }
        Ok(())
    }
}

impl Owner {
    /// Looks at what is new in a lane, and sends on what is due.
    pub(super) fn dispatch_lane(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        queue.in_run_list = false;
        if queue.unreadable || queue.gone || self.stopped.is_some() {
            return;
        }
        let now_ms = self.ages.now_ms();
        let far = queue.is_far(now_ms);
        let is_done = if far.is_some() {
            // What has just come stands behind it.
            queue.ready.unload(queue.acks.fresh());
            Ok(true)
        } else {
            queue.look_ahead(&self.ages, now_ms)
        };
        let is_done = match is_done {
            Ok(is_done) => is_done,
            Err(error) => return queue.cannot_read(&error),
        };
        let far = queue.is_far(now_ms);
        let mut room = queue.letters.as_ref().map_or(0, |letters| ON_THE_WAY.saturating_sub(letters.count()));
        let mut gone = Vec::new();
        let Some(lane) = &mut queue.lane else { return };
        while room > 0
            && gone.len() < PER_TURN
            && let Some(offset) = lane.pop(now_ms)
        {
            gone.push(Discarded { offset, reason: Reason::Expired, survives: true });
            room -= 1;
        }
        let more = !is_done || room > 0 && lane.first().is_some_and(|at_ms| at_ms <= now_ms);
        // With no room, the mover's end is what to wait for.
        let first = lane.first().filter(|_| room > 0);
        let next = first.into_iter().chain(far).min();
        let scans = lane.begins_scan();
        self.timers.set(&mut lane.next, log, Kind::Due, next);
        if scans {
            let from = queue.acks.floor();
            self.scan(log, from);
        }
        if more {
            self.run_soon(log);
        } else if far.is_none() {
            self.read_ahead(log, Ahead { consumed: false, idle: false, wanted: true, over: false });
        }
        self.discard(log, gone);
    }

    /// Messages that a queue has refused are due again in a while.
    pub(super) fn due_again(&mut self, queue: &QueueHandle, offsets: &[u64]) {
        let at_ms = self.ages.now_ms().saturating_add(AGAIN_MS);
        let Some((log, queue)) = self.here(queue) else { return };
        if let (Some(lane), Some(letters)) = (&mut queue.lane, &mut queue.letters) {
            // A queue refuses after the streams have taken it.
            lane.written.extend(offsets);
            lane.again.extend(offsets.iter().map(|offset| (at_ms, *offset)));
            letters.came_back(offsets.len() as u64);
            self.run_soon(log);
        }
    }

    /// Reads what is acquired, to look at it again.
    fn scan(&mut self, log: LogId, from: u64) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let until = queue.acks.fresh();
        if from >= until {
            queue.lane.iter_mut().for_each(|lane| lane.end_scan());
            return self.run_soon(log);
        }
        let read = self.context.store.read(log, Offset(from), Offset(until), SCAN_BYTES);
        let (clock, queue) = (self.context.clock.clone(), queue.handle.clone());
        self.done.push(Box::pin(async move {
            let result = read.await;
            if result.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Corrupt { .. })) {
                clock.sleep(READ_PAUSE).await;
            }
            Done::Scanned(Scanned { queue, from, result })
        }));
    }

    pub(super) fn on_scanned(&mut self, scanned: Scanned) {
        let Scanned { queue, from, result } = scanned;
        let log = queue.log();
        let Some(queue) = self.queues.get_mut(&log).filter(|here| here.handle == queue) else { return };
        if queue.lane.as_ref().is_none_or(|lane| lane.scan.is_none()) {
            // It was given up; another one begins when it is needed.
            return self.run_soon(log);
        }
        let next = match result {
            Ok(read) => {
                let next = read.next().map_or(queue.acks.fresh(), |next| next.0);
                let runs = read.runs.into_iter().map(|run| run.bytes).collect();
                if let Err(error) = queue.look_again(runs, &self.ages) {
                    return queue.cannot_read(&error);
                }
                next
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => {
                    tracing::error!(log = log.0, from, %error, "delayed messages are damaged and passed over");
                    resume.0.max(from + 1)
                }
                _ => {
                    tracing::warn!(log = log.0, %error, "delayed messages could not be read; trying again");
                    from
                }
            },
        };
        self.scan(log, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What queues refuse is bounded: beyond that, what else is due waits until some of it is taken.
    #[test]
    fn refused_ones_are_no_more_than_the_index_holds() {
        let mut lane = Lane::new(0, 4);
        (0..8).for_each(|offset| lane.add((5, offset)));
        let refused: Vec<u64> = (0..4).filter_map(|_| lane.pop(5)).collect();
        assert_eq!(refused, [0, 1, 2, 3]);
        lane.again.extend(refused.into_iter().map(|offset| (500, offset)));
        assert_eq!((lane.pop(5), lane.first()), (None, Some(500)));
        // One is tried again and taken: there is room for one more.
        assert_eq!(lane.pop(500), Some(0));
        lane.again = lane.again.iter().map(|(_, offset)| (900, *offset)).collect();
        assert_eq!((lane.first(), lane.pop(500)), (Some(5), Some(4)));
    }

    /// Beside one that keeps everything: whatever the index has room for, what is due goes in order and at its time.
    #[test]
    fn what_there_is_no_room_for_is_found_again() {
        let rng = ferrymq_runtime::Rng::seeded(11);
        for index_max in [1usize, 2, 7, 50] {
            let mut lane = Lane::new(0, index_max);
            let (mut all, mut offset, mut now_ms) = (BTreeSet::new(), 0u64, 0i64);
            for _ in 0..4000 {
                now_ms += i64::from(rng.next_u64().is_multiple_of(4));
                for _ in 0..rng.next_u64() % 3 {
                    let due = (now_ms + 1 + (rng.next_u64() % 200).cast_signed(), offset);
                    offset += 1;
                    lane.add(due);
                    all.insert(due);
                }
                while lane.begins_scan() {
                    // New ones come while it goes on; it comes by them, too.
                    let new = (now_ms + (rng.next_u64() % 200).cast_signed(), offset);
                    offset += 1;
                    lane.add(new);
                    all.insert(new);
                    all.iter().for_each(|due| lane.find(*due));
                    lane.end_scan();
                }
                while let Some(offset) = lane.pop(now_ms) {
                    let first = all.pop_first().unwrap();
                    assert_eq!(first.1, offset);
                    assert!(first.0 <= now_ms);
                    while lane.begins_scan() {
                        all.iter().for_each(|due| lane.find(*due));
                        lane.end_scan();
                    }
                }
                assert!(all.first().is_none_or(|(at_ms, _)| *at_ms > now_ms), "late");
                assert!(lane.index.len() <= 2 * index_max + 1);
            }
        }
    }
}
