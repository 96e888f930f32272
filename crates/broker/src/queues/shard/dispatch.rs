//! Messages find their consumers: of the highest priority, lowest offset first, consumers in turn, from memory or, where they are not
//! there, from the log.
//!
//! **Invariants.** At most one read per queue is under way. A queue gives up its turn after so many messages. A
//! message that the log turns out not to have is passed over; one that is there and cannot be read stops its
//! queue rather than being lost.

use std::time::Duration;

use ferrymq_storage::{ErrorKind, Pending, Read, StorageError};
use ferrymq_types::{LogId, Offset};

use super::consumers::Consumers;
use super::expiry::HEAD_BYTES;
use super::queue::{Debt, Getter, Queue};
use super::ready::{Fill, RETURNED_BYTES};
use super::unsettled::entry_of;
use super::{Done, Owner};
use crate::queues::ack::{Acquired, Next};
use crate::queues::envelope::EnvelopeError;
use crate::queues::permits::Permit;
use crate::queues::types::{Delivery, Message, QueueHandle};

/// Messages of one queue delivered in a turn.
const DELIVERIES_PER_TURN: usize = 2048;
/// How long to wait before a read that failed is tried again.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(200);

/// What a queue can give now.
pub(super) enum Taken {
    /// Of this offset in its level.
    Message { offset: u64, acquired: Acquired, message: Message },
    /// It must be read first.
    Missing,
    /// Nothing is available, or nothing more may be acquired.
    Nothing,
}

/// What a queue's level is looked at for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// The queue has consumers.
    pub(super) consumed: bool,
    /// Nobody takes from the queue.
    pub(super) idle: bool,
    /// Somebody could take the level's next message now.
    pub(super) wanted: bool,
    /// The level's next message has to go, for there are too many.
    pub(super) over: bool,
}

/// A read that has come back.
pub(super) struct ReadDone {
    queue: QueueHandle,
    /// Nobody takes what was read; it is looked at.
    idle: bool,
    returned: bool,
    from: u64,
    until: u64,
    result: Result<Fill, StorageError>,
}

impl Owner {
    /// Gives what a queue has its turn.
    pub(super) fn dispatch(&mut self, log: LogId) {
        if self.queues.root(log) != log {
            // It was a queue's own log when this was put off, and is a level's by now.
            return;
        }
        if self.queues.get(&log).is_some_and(|queue| queue.lane.is_some()) {
            return self.dispatch_lane(log);
        }
        self.end_waits(log);
        self.follow(log);
        let Some(queue) = self.queues.get_mut(&log) else { return };
        queue.in_run_list = false;
        if queue.gone || self.stopped.is_some() || queue.is_measuring() {
            return;
        }
        if queue.is_unreadable() {
            return queue.answer_empty();
        }
        self.deliver(log);
    }

    /// Delivers what a queue has to whoever wants it.
    fn deliver(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let (mut done, mut must) = (0, false);
        let (mut left, mut gone) = (DELIVERIES_PER_TURN, Vec::new());
        let now_ms = queue.is_watching().then(|| self.ages.now_ms());
        let timed_ms = queue.is_timed().then(|| self.ages.now_ms());
        while left > 0 {
            let taker = queue.next_taker(&self.waker);
            let front = queue.front();
            let expired = queue.expire_head(front, &self.ages, now_ms, taker.is_some(), &mut gone);
            let Ok(expired) = expired.map_err(|error| queue.cannot_read(&error)) else { break };
            if expired {
                left -= 1;
                continue;
            }
            let Some((id, no_ack)) = taker else {
                queue.offered();
                queue.expire_behind(&self.ages, now_ms, &mut left, &mut gone);
                break;
            };
            if queue.waits_enough() && !queue.level(front).acks.has_returned() {
                queue.answer_empty();
                break;
            }
            let (offset, acquired, message) = match queue.level(front).take(no_ack) {
                Ok(Taken::Message { offset, acquired, message }) => (front | offset, acquired, message),
                Ok(Taken::Missing) => break,
                // A level held nothing but a gap.
                Ok(Taken::Nothing) if queue.front() != front => continue,
                Ok(Taken::Nothing) => {
                    queue.answer_empty();
                    break;
                }
                Err(error) => {
                    queue.cannot_read(&error);
                    break;
                }
            };
            left -= 1;
            queue.pass_the_turn(front);
            let survives = queue.note_taken((id, no_ack), offset, &message, timed_ms);
            if no_ack {
                done += 1;
                must |= survives;
            }
            queue.expire_uncounted(&self.ages, now_ms, &mut left, &mut gone);
            queue.hand_over(id, offset, acquired, message);
        }
        queue.drop_surplus(&mut left, &mut gone);
        queue.consumers.send();
        if queue.consumers.any_blocked() && !std::mem::replace(&mut queue.in_blocked_list, true) {
            self.blocked.push(log);
        }
        let lost_the_head = queue.each().any(|level| level.owes_a_trim() && !level.in_ack_list);
        let again = left == 0;
        if done > 0 || lost_the_head {
            self.owe(log, if must { Debt::Must } else { Debt::Lazy }, done);
        }
        if timed_ms.is_some() {
            self.watch_unsettled(log);
        }
        if again {
            self.run_soon(log);
        } else {
            self.look_ahead(log);
        }
        self.discard(log, gone);
    }

    /// Watches the heads of a queue and reads what is wanted of it and not in memory.
    fn look_ahead(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let ahead = Ahead {
            consumed: queue.consumers.active() > 0,
            idle: queue.getters.is_empty() && queue.consumers.active() == 0,
            wanted: !queue.getters.is_empty() || queue.consumers.any_ready(),
            over: queue.is_over(),
        };
        if queue.levels.is_none() {
            self.watch_head(log, ahead.consumed);
            return self.read_ahead(log, ahead);
        }
        let (front, expiring) = (queue.front(), queue.expiring());
        for base in queue.bases() {
            let Some(queue) = self.queues.get_mut(&log) else { return };
            let (level, is_front) = (queue.level(base).handle.log(), base == front);
            let (wanted, over) = (ahead.wanted && is_front, ahead.over && is_front);
            if expiring.contains(&base) {
                self.watch_head(level, ahead.consumed);
            } else {
                self.unwatch_head(level);
                if ahead.idle {
                    continue;
                }
            }
            self.read_ahead(level, Ahead { wanted, over, ..ahead });
        }
    }

    /// Reads what is wanted of a level and not in memory.
    pub(super) fn read_ahead(&mut self, log: LogId, ahead: Ahead) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let idle = ahead.idle;
        let head = queue.lane.is_some() || queue.wants_head(ahead.over);
        if queue.reading || idle && !head || idle && !self.heads.enter(queue) {
            return;
        }
        let wanted = head || ahead.wanted;
        let (returned, from, until, bytes) = match queue.acks.first_available() {
            Some(Next::Returned(offset)) if !queue.ready.has_returned(offset) => {
                (true, offset, queue.acks.fresh(), RETURNED_BYTES)
            }
            _ => match queue.ready.missing(queue.acks.end(), wanted) {
                Some((from, bytes)) => (false, from, queue.acks.end(), bytes),
                None if idle => return self.head_was_read(),
                None => return,
            },
        };
        let bytes = if idle { HEAD_BYTES } else { bytes };
        queue.reading = true;
        let read: Pending<Result<Fill, StorageError>> = match &queue.followed {
            Some(followed) => {
                let read = followed.source.clone().read(from, until, bytes);
                Box::pin(async move { read.await.map(Fill::Window) })
            }
            None => {
                let read = self.context.store.read(log, Offset(from), Offset(until), bytes);
                let runs = |read: Read| Fill::Runs(read.runs.into_iter().map(|run| run.bytes).collect());
                Box::pin(async move { read.await.map(runs) })
            }
        };
        let (clock, queue) = (self.context.clock.clone(), queue.handle.clone());
        self.done.push(Box::pin(async move {
            let result = read.await;
            if result.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::Corrupt { .. })) {
                clock.sleep(READ_PAUSE).await;
            }
            Done::Read(ReadDone { queue, idle, returned, from, until, result })
        }));
    }

    pub(super) fn on_read(&mut self, done: ReadDone) {
        let ReadDone { queue, idle, returned, from, until, result } = done;
        if idle {
            self.head_was_read();
        }
        // What was trimmed meanwhile is counted, and not taken for what was never there.
        self.follow(queue.log());
        let Some((log, queue)) = self.here(&queue) else { return };
        queue.reading = false;
        match result {
            Ok(read) => {
                let filled = if returned {
                    queue.fill_returned(from, until, read)
                } else {
                    queue.ready.fill(from, until, read)
                };
                if let Err(error) = filled {
                    queue.cannot_read(&error);
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => {
                    tracing::error!(log = log.0, from, %error, "messages of a queue are damaged and passed over");
                    queue.pass_over(returned, from, resume.0.max(from + 1).min(until));
                    self.owe(log, Debt::Lazy, 0);
                }
                _ => {
                    tracing::warn!(log = log.0, %error, "messages of a queue could not be read; trying again")
                }
            },
        }
        self.run_soon(log);
    }

    /// Lets consumers whose sinks have room again take their turns.
    pub(super) fn unblock(&mut self) {
        for log in std::mem::take(&mut self.blocked) {
            if let Some(queue) = self.queues.get_mut(&log) {
                queue.in_blocked_list = false;
                queue.consumers.unblock();
                self.run_soon(log);
            }
        }
    }
}

impl Queue {
    /// Who takes the next message, and whether he is done with it at once.
    fn next_taker(&mut self, waker: &super::ShardWaker) -> Option<(u32, bool)> {
        // Nobody waits any more: nothing is to be done with for him.
        while self.getters.pop_front_if(|getter| getter.reply.is_closed()).is_some() {}
        let timeout_ms = self.timeout_ms(None);
        if let Some(Getter { session, no_ack, told, .. }) = self.getters.front() {
            let (session, no_ack) = (*session, *no_ack);
            let getter = |consumers: &mut Consumers| consumers.getter(session, timeout_ms, told.as_ref());
            return Some((if no_ack { 0 } else { getter(&mut self.consumers) }, no_ack));
        }
        let id = self.consumers.turn(waker)?;
        self.consumers.get(id).map(|consumer| (id, consumer.no_ack))
    }

    /// Acquires the next message, or is done with it.
    pub(super) fn take(&mut self, no_ack: bool) -> Result<Taken, EnvelopeError> {
        let (offset, returned) = match self.acks.first_available() {
            None => return Ok(Taken::Nothing),
            Some(Next::Returned(offset)) if self.ready.has_returned(offset) => (offset, true),
            Some(Next::Returned(_)) => return Ok(Taken::Missing),
            Some(Next::Fresh(from)) => match self.ready.first_fresh(from)? {
                Some(offset) => {
                    self.pass_to(offset);
                    (offset, false)
                }
                None if self.ready.covers(self.acks.end()) => {
                    // The log was read to its end: nothing is left but a gap.
                    self.lost(from..self.acks.end());
                    return Ok(Taken::Nothing);
                }
                None => return Ok(Taken::Missing),
            },
        };
        // As many as there may be are acquired already: their acks make the queue runnable again.
        let Ok(acquired) = self.acks.acquire(offset) else { return Ok(Taken::Nothing) };
        let message = match returned {
            true => Ok(self.ready.take_returned(offset).unwrap_or_default()),
            false => self.ready.take_fresh(),
        };
        // Only what can be handed over is done.
        match message {
            Ok(_) if no_ack => self.acks.finish(offset),
            Ok(_) => true,
            Err(_) => self.acks.release(offset, false),
        };
        Ok(Taken::Message { offset, acquired, message: message? })
    }

    /// Counts what was taken, and notes who has it; whether it survives a restart.
    fn note_taken(&mut self, taker: (u32, bool), id: u64, message: &Message, timed_ms: Option<i64>) -> bool {
        let (survives, (holder, no_ack)) = (self.survives(message), taker);
        self.level(id).bytes_since_trim += message.bytes() as u64;
        self.count_taken(id, message, no_ack);
        if !no_ack {
            let class = self.consumers.note(holder, timed_ms);
            self.unacked.insert(id, entry_of(holder, class, survives));
        }
        survives
    }

    fn hand_over(&mut self, id: u32, offset: u64, acquired: Acquired, message: Message) {
        let Acquired { redelivered, returned, failed } = acquired;
        let (offset, failed) = (Offset(offset), self.consuming.counts.then_some(failed));
        let permit = Permit::default();
        let delivery = Delivery { token: 0, offset, redelivered, returned, failed, permit, message };
        match self.getters.pop_front() {
            Some(getter) => {
                if !getter.no_ack {
                    self.consumers.hold(id);
                }
                // A session that went away gives it back by its end.
                let _ = getter.reply.send(Ok(Some((delivery, self.ready_count()))));
            }
            None => self.consumers.deliver(id, delivery),
        }
    }

    fn answer_empty(&mut self) {
        for getter in self.getters.drain(..) {
            // A caller that went away needs no answer.
            let _ = getter.reply.send(Ok(None));
        }
    }

    fn fill_returned(&mut self, from: u64, until: u64, read: Fill) -> Result<(), EnvelopeError> {
        let first = self.ready.fill_returned(from, read, &self.acks)?;
        let exists = first.unwrap_or(until);
        if exists > from {
            self.lost(from..exists.min(until));
        }
        Ok(())
    }

    /// The log has lost these.
    fn pass_over(&mut self, returned: bool, from: u64, until: u64) {
        if returned {
            self.lost(from..until);
        } else if !self.ready.expect_damage() {
            self.lost(self.acks.fresh().min(from)..until);
            self.ready.clear(until);
        }
        // Else what lies before the damage is delivered first, and then it is read again.
    }

    /// Whether a stored message of any level cannot be read.
    fn is_unreadable(&self) -> bool {
        self.each().any(|level| level.unreadable)
    }

    pub(super) fn cannot_read(&mut self, error: &EnvelopeError) {
        tracing::error!(queue = %self.handle.name(), log = self.handle.log().0, %error, "a queue stands still");
        self.unreadable = true;
        self.answer_empty();
    }
}
