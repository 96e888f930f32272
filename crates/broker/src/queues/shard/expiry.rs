//! Messages and queues whose time is over.
//!
//! **Invariants.** A message goes when it is the first that a consumer would get and its time to live is over; behind
//! one that may stay it waits, as RabbitMQ's does. One that has just become visible goes to a consumer who can take it
//! at once, however old it is. A queue that holds nothing that could expire has no timer. For a head that is not in
//! memory, its batch is read and nothing ahead of it; so many queues are looked at so at a time.
//!
//! Deliberately absent: what becomes of what leaves (`discard`); deleting a queue (the admin does, and asks again).

use ferrymq_types::LogId;

use super::Owner;
use super::ages::Ages;
use super::discard::{Discarded, Reason};
use super::dispatch::Taken;
use super::queue::Queue;
use super::timers::{Kind, Slot};
use crate::queues::ack::Next;
use crate::queues::envelope::{EnvelopeError, Stamp};

/// Queues looked at in a turn because of a deadline.
const TIMERS_PER_TURN: usize = 256;
/// How long to wait until a queue that nobody uses is told of again.
const TELL_AGAIN_MS: i64 = 1000;
/// Bytes read to look at a head that nobody takes; a whole batch at least.
pub(super) const HEAD_BYTES: usize = 64 * 1024;
/// Queues whose head is read, for nobody who wants it, at a time.
const HEADS_AT_A_TIME: usize = 32;

/// What a queue knows of time.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Offsets below were given out in an earlier life.
    pub(super) earlier: u64,
    /// At and above, no message has a time to live of its own.
    pub(super) own_until: u64,
    /// Messages at and above have not been offered to anybody yet, nor delivered.
    new_from: u64,
    /// When it was last used.
    used_ms: i64,
    pub(super) head: Slot,
    /// For which head that is known.
    pub(super) head_for: Option<Next>,
    /// Whether it waits to read its head.
    waits: bool,
    unused: Slot,
    /// When to look for deliveries that are overdue.
    pub(super) overdue: Slot,
}

impl Times {
    /// Of a queue whose next offset is `next`; `filled`: it may hold anything.
    pub(super) fn new(next: u64, filled: bool) -> Times {
        Times { earlier: next, own_until: if filled { next } else { 0 }, new_from: next, ..Times::default() }
    }
}

/// Queues whose head has to be read.
#[derive(Debug, Default)]
pub(super) struct Heads {
    reading: usize,
    waiting: std::collections::VecDeque<LogId>,
}

impl Heads {
    /// Whether a queue may read its head now; else it is run when it may.
    pub(super) fn enter(&mut self, queue: &mut Queue) -> bool {
        if self.reading < HEADS_AT_A_TIME {
            self.reading += 1;
            return true;
        }
        if !std::mem::replace(&mut queue.times.waits, true) {
            self.waiting.push_back(queue.handle.log());
        }
        false
    }
}

impl Owner {
    /// A head was read.
    pub(super) fn head_was_read(&mut self) {
        self.heads.reading -= 1;
    }

    /// Those that wait to read their heads may, as many as there are places. In every turn: one that has no need any
    /// more leaves its place to nobody.
    pub(super) fn wake_heads(&mut self) {
        for _ in self.heads.reading..HEADS_AT_A_TIME {
            let Some(log) = self.heads.waiting.pop_front() else { return };
            if let Some(queue) = self.queues.get_mut(&log)
                && std::mem::take(&mut queue.times.waits)
            {
                self.run_soon(log);
            }
        }
    }

    /// Looks at the queues whose time has come.
    pub(super) fn ring(&mut self) {
        if self.timers.first().is_none() || self.stopped.is_some() {
            return;
        }
        let now_ms = self.ages.now_ms();
        for _ in 0..TIMERS_PER_TURN {
            let Some((log, kind)) = self.timers.due(now_ms) else { return };
            let Some(queue) = self.queues.get_mut(&log) else { continue };
            match kind {
                Kind::Head => {
                    (queue.times.head, queue.times.head_for) = (None, None);
                    self.run_soon(log);
                }
                Kind::Unused => {
                    queue.times.unused = None;
                    self.look_for_use(log, now_ms);
                }
                Kind::Overdue => {
                    queue.times.overdue = None;
                    self.look_for_overdue(log, now_ms);
                }
                Kind::Due => {
                    queue.lane.iter_mut().for_each(|lane| lane.next = None);
                    self.run_soon(log);
                }
                Kind::Retry => {
                    queue.waiting.iter_mut().for_each(|waiting| waiting.next = None);
                    self.run_soon(log);
                }
            }
        }
    }

    /// How long until the next one's time has come.
    pub(super) fn next_ring(&self) -> Option<std::time::Duration> {
        // A shard that has stopped changes nothing any more.
        let at_ms = self.timers.first().filter(|_| self.stopped.is_none())?;
        let left_ms = at_ms.saturating_sub(self.ages.now_ms());
        Some(std::time::Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
    }

    /// Notes that a queue is used now, or was until now.
    pub(super) fn used(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let Some(expires_ms) = queue.expires_ms() else { return };
        queue.times.used_ms = self.ages.now_ms();
        let at = queue.times.used_ms.saturating_add(expires_ms);
        // An earlier deadline stays: it will see that there is time left.
        if queue.consumers.active() == 0 && queue.times.unused.is_none_or(|before| before > at) {
            self.timers.set(&mut queue.times.unused, log, Kind::Unused, Some(at));
        }
    }

    fn look_for_use(&mut self, log: LogId, now_ms: i64) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let Some(expires_ms) = queue.expires_ms() else { return };
        if queue.consumers.active() > 0 {
            // The last of them begins anew.
            return;
        }
        let mut at = queue.times.used_ms.saturating_add(expires_ms);
        if at <= now_ms {
            // Told of again, should the deletion fail or nobody listen.
            at = now_ms.saturating_add(TELL_AGAIN_MS);
            let _told_again_later = self.context.unused.try_send(queue.handle.clone()).is_err();
        }
        self.timers.set(&mut queue.times.unused, log, Kind::Unused, Some(at));
    }

    /// Whether nobody has used a queue for as long as it may be unused.
    pub(super) fn is_unused(&self, queue: &Queue) -> bool {
        let over = |expires_ms| queue.times.used_ms.saturating_add(expires_ms) <= self.ages.now_ms();
        queue.consumers.active() == 0 && queue.expires_ms().is_some_and(over)
    }

    /// Has a queue looked at when its head's time is over, or that of a level. `consumed`: the queue has consumers.
    pub(super) fn watch_head(&mut self, log: LogId, consumed: bool) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        if !queue.watches() && queue.times.head.is_none() {
            return;
        }
        let next = queue.acks.first_available();
        // What cannot be read is found out by whoever takes it.
        let deadline = match queue.head() {
            Ok(Some((offset, stamp))) => queue.deadline(offset, stamp, &self.ages),
            // It is known and was left to the log since.
            _ if next.is_some() && queue.times.head_for == next => return,
            _ => {
                queue.times.head_for = None;
                return self.timers.set(&mut queue.times.head, log, Kind::Head, None);
            }
        };
        queue.times.head_for = next;
        self.timers.set(&mut queue.times.head, log, Kind::Head, deadline);
        if !consumed {
            queue.ready.unload_if_crowded(queue.acks.fresh());
        }
    }

    /// No head of this level expires for now.
    pub(super) fn unwatch_head(&mut self, log: LogId) {
        let Some(level) = self.queues.get_mut(&log) else { return };
        level.times.head_for = None;
        self.timers.set(&mut level.times.head, log, Kind::Head, None);
    }

    /// Forgets the deadlines of a queue that goes.
    pub(super) fn unwatch(&mut self, log: LogId, queue: &mut Queue) {
        let timers = &mut self.timers;
        timers.set(&mut queue.times.unused, log, Kind::Unused, None);
        timers.set(&mut queue.times.overdue, log, Kind::Overdue, None);
        if let Some(lane) = &mut queue.lane {
            timers.set(&mut lane.next, log, Kind::Due, None);
        }
        if let Some(waiting) = &mut queue.waiting {
            timers.set(&mut waiting.next, log, Kind::Retry, None);
        }
        queue.for_each(&mut |level| {
            let log = level.handle.log();
            timers.set(&mut level.times.head, log, Kind::Head, None);
        });
    }
}

impl Queue {
    fn expires_ms(&self) -> Option<i64> {
        self.settings.expires_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX))
    }

    /// Whether anything in it may expire.
    #[inline]
    pub(super) fn watches(&self) -> bool {
        self.settings.ttl_ms.is_some() || self.acks.floor() < self.times.own_until
    }

    /// The same, and on any of its levels.
    #[inline]
    pub(super) fn is_watching(&self) -> bool {
        self.each().any(Queue::watches)
    }

    /// Whether its head must be read although nobody takes it. `over`: it has to go.
    pub(super) fn wants_head(&mut self, over: bool) -> bool {
        if !self.watches() && !over {
            return false;
        }
        let next = self.acks.first_available();
        let unknown = next.is_some() && (next != self.times.head_for || over);
        unknown && matches!(self.head(), Ok(None))
    }

    /// The first message that is available and when it was enqueued; `None` if it is not in memory, or there is none.
    pub(super) fn head(&mut self) -> Result<Option<(u64, Stamp)>, EnvelopeError> {
        match self.acks.first_available() {
            None => Ok(None),
            Some(Next::Returned(offset)) => {
                Ok(self.ready.returned_stamp(offset).map(|stamp| (offset, stamp)))
            }
            Some(Next::Fresh(from)) => self.ready.fresh_stamp(from),
        }
    }

    /// When the time of a message is over; `None`: it may stay for good.
    fn deadline(&self, offset: u64, stamp: Stamp, ages: &Ages) -> Slot {
        let ttl_ms = self.settings.ttl_ms.into_iter().chain(stamp.ttl_ms).min()?;
        let at = ages.stamped_at(stamp.enqueued_ms, offset < self.times.earlier);
        // Readings are rounded down: never early, but with no time at all at once.
        let ttl_ms = i64::try_from(ttl_ms).unwrap_or(i64::MAX).saturating_add(i64::from(ttl_ms > 0));
        Some(at.saturating_add(ttl_ms))
    }

    /// Takes the head of the level with this first place out if its time is over at `now_ms` (`None`: nothing in the
    /// queue expires); whether it was.
    /// `taken`: somebody would take it now.
    #[inline]
    pub(super) fn expire_head(
        &mut self,
        base: u64,
        ages: &Ages,
        now_ms: Option<i64>,
        taken: bool,
        gone: &mut Vec<Discarded>,
    ) -> Result<bool, EnvelopeError> {
        let Some(now_ms) = now_ms else { return Ok(false) };
        // Who gets one message is no consumer who was there before it.
        let taken = taken && self.getters.is_empty();
        let level = self.level(base);
        let Some((offset, stamp)) = level.head()? else { return Ok(false) };
        let in_time = taken && offset >= level.times.new_from.max(level.acks.fresh());
        if in_time || level.deadline(offset, stamp, ages).is_none_or(|at| now_ms < at) {
            return Ok(false);
        }
        self.take_out(base, Reason::Expired, gone)
    }

    /// Takes out the heads of levels behind the front one whose time is over, where they go before they are the front;
    /// at most `left` of them.
    pub(super) fn expire_behind(
        &mut self,
        ages: &Ages,
        now_ms: Option<i64>,
        left: &mut usize,
        gone: &mut Vec<Discarded>,
    ) {
        if self.levels.is_none() || now_ms.is_none() {
            return;
        }
        for base in self.expiring() {
            while *left > 0 {
                match self.expire_head(base, ages, now_ms, false, gone) {
                    Ok(true) => *left -= 1,
                    Ok(false) => break,
                    Err(error) => return self.cannot_read(&error),
                }
            }
        }
    }

    /// Takes out what has expired behind a message that somebody gets: he is told how many are left. Not if a
    /// consumer could still take it.
    pub(super) fn expire_uncounted(
        &mut self,
        ages: &Ages,
        now_ms: Option<i64>,
        left: &mut usize,
        gone: &mut Vec<Discarded>,
    ) {
        if self.getters.is_empty() || self.consumers.any_ready() {
            return;
        }
        // What cannot be read is told of when it is the head.
        while *left > 0
            && self.expire_head(self.front(), ages, now_ms, false, gone).is_ok_and(|expired| expired)
        {
            *left -= 1;
        }
    }

    /// What is here was offered to everybody who could have taken it.
    #[inline]
    pub(super) fn offered(&mut self) {
        self.for_each(&mut |level| level.times.new_from = level.acks.end());
    }

    /// Acquires the head of the level with this first place for nobody, to be discarded; false if it is not in memory, or
    /// there is none.
    pub(super) fn take_out(
        &mut self,
        base: u64,
        reason: Reason,
        gone: &mut Vec<Discarded>,
    ) -> Result<bool, EnvelopeError> {
        let level = self.level(base);
        let Taken::Message { offset, message, .. } = level.take(false)? else { return Ok(false) };
        level.bytes_since_trim += message.bytes() as u64;
        let survives = level.survives(&message);
        self.count_taken(base | offset, &message, true);
        gone.push(Discarded { offset: base | offset, reason, survives });
        Ok(true)
    }
}
