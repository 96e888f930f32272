//! What is gathered becomes commits, and what the store says of them.
//!
//! Two lanes, so that messages that need no sync do not wait for one: a queue with only such messages gathered
//! goes out in the memory lane, everything else in the sync lane, acks included.
//!
//! **Invariants.** Each lane has a few commits in flight; what comes meanwhile is gathered. The operations of
//! one queue are handed to the store in the order of their offsets. Acks of persistent messages go out with the
//! next commit of the sync lane; others when they free enough, or along with it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use ferrymq_storage::{Action, ErrorKind, Group, Op, Outcome, StorageError};
use ferrymq_types::{Durability, LogId, Offset};
use tokio::sync::oneshot;

use super::journal::{Sealed, WALK_BYTES};
use super::message::{Refused, Released};
use super::queue::{Debt, Queue};
use super::{Done, Owner};
use crate::queues::ack::AckRecord;
use crate::queues::error::QueueError;

/// Commits under way at a time in each lane.
const COMMITS_IN_FLIGHT: usize = 3;
/// Messages done without a trim after which one is due, whatever their class.
const TRIM_MESSAGES: u64 = 16_384;
/// The same in bytes delivered.
const TRIM_BYTES: u64 = 8 * 1024 * 1024;
/// Messages done behind a stuck one after which their batches are freed.
const DISCARD_MESSAGES: u64 = 16_384;
/// Ranges freed at a time.
const DISCARD_RANGES: usize = 1024;

/// Commits in flight.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    sync: usize,
    memory: usize,
}

/// What one group of a commit was for.
enum Sent {
    Run { log: LogId, number: u64 },
    Acks { log: LogId, floor: u64 },
    Journal(Sealed),
    JournalTrim { rewrite: u64 },
}

/// A commit that the store has answered.
pub(super) struct Committed {
    lane: Durability,
    /// Among those of the sync lane.
    number: Option<u64>,
    sent: Vec<Sent>,
    outcomes: Vec<Outcome>,
    purges: Vec<Purge>,
}

/// Who waits for a purge, and what to tell him.
pub(super) type Purge = (oneshot::Sender<Result<u64, Refused>>, u64);

/// A commit being put together.
#[derive(Default)]
struct Gathering {
    groups: Vec<Group>,
    sent: Vec<Sent>,
    /// Purges whose effect is in this commit.
    purges: Vec<Purge>,
}

impl Gathering {
    fn push(&mut self, group: Group, sent: Sent) {
        self.groups.push(group);
        self.sent.push(sent);
    }
}

impl Owner {
    /// Hands what was gathered to the store, as far as the lanes have room.
    pub(super) fn flush(&mut self) {
        self.prepare_parked();
        if self.stopped.is_some() {
            return;
        }
        if self.lanes.memory < COMMITS_IN_FLIGHT {
            let mut commit = Gathering::default();
            self.seal_queues(Durability::Memory, &mut commit);
            self.submit(Durability::Memory, commit);
        }
        if self.lanes.sync < COMMITS_IN_FLIGHT {
            let mut commit = Gathering::default();
            self.seal_queues(Durability::Sync, &mut commit);
            if !self.journal.is_held() {
                self.seal_acks(&mut commit);
            }
            self.submit(Durability::Sync, commit);
            self.hand_barriers();
        }
    }

    /// What is known of acks goes along.
    fn seal_acks(&mut self, commit: &mut Gathering) {
        // Not for its own sake: a store that refuses is not asked again and again.
        let is_missing = self.barriers.is_asked() && !self.journal.is_up_to_date();
        let wanted = self.due || !self.purges.is_empty() || is_missing;
        let goes_along = wanted || !commit.groups.is_empty() || self.journal.can_seal();
        if goes_along || self.journal.is_walking() {
            self.rewrite();
        }
        if goes_along {
            self.collect_acks(commit);
        }
        if self.journal.can_seal() {
            let (op, sealed) = self.journal.seal(self.context.clock.wall_ms());
            commit.push(vec![op], Sent::Journal(sealed));
        }
        if self.journal.is_failing() || commit.groups.is_empty() && self.lanes.sync > 0 {
            // What they did is not recorded yet, or is on its way with an earlier commit.
            self.purges.append(&mut commit.purges);
        }
    }

    /// Hands over what a queue has gathered, whether or not its lane has room: a joint commit goes behind it.
    pub(super) fn submit_gathered(&mut self, log: LogId) {
        let (owner, writer) = (self.context.owner, self.context.writer);
        let Some(queue) = self.queues.get_mut(&log).filter(|queue| queue.can_seal()) else { return };
        let lane = queue.gathered_class();
        queue.in_gather_list = false;
        let mut ops = Vec::new();
        queue.seal(owner, writer, self.context.clock.wall_ms(), &mut ops);
        self.gathering.retain(|gathering| *gathering != log);
        let mut commit = Gathering::default();
        for (op, number) in ops {
            commit.push(vec![op], Sent::Run { log, number });
        }
        self.submit(lane, commit);
    }

    fn seal_queues(&mut self, lane: Durability, commit: &mut Gathering) {
        if self.gathering.is_empty() {
            return;
        }
        let now_ms = self.context.clock.wall_ms();
        let (owner, writer) = (self.context.owner, self.context.writer);
        let mut ops = Vec::new();
        let queues = &mut self.queues;
        self.gathering.retain(|log| {
            let Some(queue) = queues.get_mut(log) else { return false };
            if !queue.can_seal() || queue.gathered_class() != lane {
                return true;
            }
            queue.in_gather_list = false;
            queue.seal(owner, writer, now_ms, &mut ops);
            for (op, number) in ops.drain(..) {
                commit.push(vec![op], Sent::Run { log: *log, number });
            }
            false
        });
    }

    /// Trims and deltas of all queues that owe some.
    fn collect_acks(&mut self, commit: &mut Gathering) {
        self.due = false;
        commit.purges = std::mem::take(&mut self.purges);
        for log in std::mem::take(&mut self.owing) {
            let Some(queue) = self.queues.get_mut(&log) else { continue };
            queue.in_ack_list = false;
            queue.debt = Debt::None;
            let mut delta = queue.acks.take_delta();
            queue.tell_floor(&mut delta);
            if queue.durable && !delta.is_empty() {
                self.journal.record(log, &AckRecord::Delta(delta));
            }
            let mut group = Vec::new();
            let op = |action| Op { log, epoch: queue.epoch, owner: self.context.owner, action };
            let floor = queue.acks.floor();
            if queue.owes_a_trim() {
                group.push(op(Action::Trim(Offset(floor))));
                queue.done_since_discard = 0;
            } else {
                queue.done_since_discard += queue.done_since_trim;
            }
            (queue.done_since_trim, queue.bytes_since_trim) = (0, 0);
            if queue.done_since_discard >= DISCARD_MESSAGES && !queue.is_over_topic() {
                queue.done_since_discard = 0;
                group.push(op(Action::Discard(discards(queue))));
            }
            if !group.is_empty() {
                commit.push(group, Sent::Acks { log, floor });
            }
        }
    }

    /// Begins a rewrite of the state log, or goes on with it.
    fn rewrite(&mut self) {
        // What a joint commit has done and is not decided yet is in no snapshot: none is taken meanwhile.
        if self.closing || self.joints.settling() {
            return;
        }
        if self.context.opened.load(Ordering::Acquire) && self.journal.wants_rewrite() {
            let durable = self.queues.iter().filter(|(_, queue)| queue.has_acks_to_tell());
            let logs: VecDeque<LogId> = durable.map(|(log, _)| log).collect();
            self.journal.begin_rewrite(logs);
            // A log without queues that need it is rewritten by a mark alone.
            self.journal.mark();
        }
        while self.journal.is_walking() && self.journal.pending_bytes() < WALK_BYTES {
            let Some(log) = self.journal.next_to_rewrite() else { break };
            self.snapshot(log);
        }
    }

    /// Records all that is known of a queue's acks.
    pub(super) fn snapshot(&mut self, log: LogId) {
        let Some(queue) = self.queues.get_mut(&log).filter(|queue| queue.has_acks_to_tell()) else { return };
        // The snapshot says it too.
        let mut told_by_the_snapshot = queue.acks.take_delta();
        queue.tell_floor(&mut told_by_the_snapshot);
        for record in queue.acks.snapshot() {
            self.journal.record(log, &record);
        }
    }

    fn submit(&mut self, lane: Durability, commit: Gathering) {
        let Gathering { groups, sent, purges } = commit;
        if groups.is_empty() {
            // Nothing had to be written for them.
            return purges.into_iter().for_each(|(reply, count)| drop(reply.send(Ok(count))));
        }
        *self.lanes.of(lane) += 1;
        let number = (lane == Durability::Sync).then(|| self.barriers.begin());
        let answer = self.context.store.commit(groups);
        self.done.push(Box::pin(async move {
            let outcomes = answer.await;
            Done::Commit(Committed { lane, number, sent, outcomes, purges })
        }));
    }

    pub(super) fn on_committed(&mut self, committed: Committed) {
        let Committed { lane, number, sent, outcomes, purges } = committed;
        *self.lanes.of(lane) -= 1;
        let failed = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).cloned();
        if let Some(number) = number {
            let of_acks = |sent: &Sent| matches!(sent, Sent::Acks { .. } | Sent::Journal(_));
            let mut failed =
                sent.iter().zip(&outcomes).filter(|(sent, outcome)| of_acks(sent) && outcome.is_err());
            let error = failed.next().map(|(_, outcome)| told(outcome.clone()));
            self.barriers.end(number, error.as_ref());
        }
        for (sent, outcome) in sent.into_iter().zip(outcomes) {
            match sent {
                Sent::Run { log, number } => self.on_run(log, number, outcome),
                Sent::Acks { log, floor } => self.on_acks(log, floor, outcome),
                Sent::Journal(sealed) => self.on_journal(sealed, outcome),
                Sent::JournalTrim { rewrite } => {
                    let happened = self.certain(&outcome);
                    self.journal.trimmed(rewrite, happened);
                }
            }
        }
        for (reply, count) in purges {
            let answer = failed.clone().map_or(Ok(count), |error| Err(Refused::Storage(error)));
            // A caller that went away needs no answer.
            let _ = reply.send(answer);
        }
    }

    /// Whether it happened; if its fate is unknown, or it shows that this is not the owner, the shard stops.
    fn certain(&mut self, outcome: &Outcome) -> bool {
        let Err(error) = outcome else { return true };
        match error.kind() {
            ErrorKind::Full
            | ErrorKind::Unavailable
            | ErrorKind::LimitExceeded
            | ErrorKind::InvalidArgument
            | ErrorKind::Conflict => {}
            _ => self.stop(error.clone()),
        }
        false
    }

    pub(super) fn on_run(&mut self, log: LogId, number: u64, outcome: Outcome) {
        let happened = self.certain(&outcome);
        let (queue, leaving) = match self.queues.get_mut(&log) {
            Some(queue) => (queue, false),
            None => match self.leaving.get_mut(&log) {
                Some(queue) => (queue, true),
                None => return,
            },
        };
        if happened {
            for part in queue.run_done(number) {
                self.requests.succeed(part);
            }
        } else {
            let error = told(outcome);
            for part in queue.run_failed(number) {
                self.requests.fail(part, &error);
            }
        }
        if leaving {
            self.release_if_settled(log);
        } else {
            self.run_soon(log);
        }
    }

    fn on_acks(&mut self, log: LogId, floor: u64, outcome: Outcome) {
        let happened = self.certain(&outcome);
        let Some(queue) = self.queues.get_mut(&log) else { return };
        if happened {
            queue.trimmed = queue.trimmed.max(floor);
        } else {
            // The next trim reaches as far and further.
            self.owe(log, Debt::Lazy, 0);
        }
    }

    pub(super) fn on_journal(&mut self, sealed: Sealed, outcome: Outcome) {
        let happened = self.certain(&outcome);
        self.journal.settled(sealed, happened);
        if let (true, Some((start, rewrite))) = (happened, sealed.then_trim) {
            let mut commit = Gathering::default();
            commit.push(vec![self.journal.trim(start)], Sent::JournalTrim { rewrite });
            self.submit(Durability::Sync, commit);
        }
    }

    /// Notes that a queue, or whichever of its levels, has acks that are not durable.
    pub(super) fn owe(&mut self, log: LogId, debt: Debt, done: u64) {
        let Some(queue) = self.queues.get_mut(&log) else { return };
        let (due, owing) = (&mut self.due, &mut self.owing);
        let mut note = |queue: &mut Queue| {
            queue.owe(debt, done);
            let much = queue.done_since_trim >= TRIM_MESSAGES || queue.bytes_since_trim >= TRIM_BYTES;
            *due |= much || queue.debt == Debt::Must;
            if !std::mem::replace(&mut queue.in_ack_list, true) {
                owing.push(queue.handle.log());
            }
        };
        match queue.levels {
            None => note(queue),
            Some(_) => queue.for_each(&mut |level| {
                if level.owes_anything() {
                    note(level);
                }
            }),
        }
    }

    /// Tells that a queue that was let go of has nothing in flight any more.
    pub(super) fn release_if_settled(&mut self, log: LogId) {
        let log = self.leaving.root(log);
        if !self.leaving.get(&log).is_some_and(Queue::is_settled) {
            return;
        }
        let Some(mut queue) = self.leaving.remove(&log) else { return };
        if let Some(reply) = queue.releasing.take() {
            let released = |level: &Queue| Released {
                log: level.handle.log(),
                epoch: level.epoch,
                next: level.next_offset(),
            };
            // Whoever let go of it may have gone; then its logs are claimed anew at the next start.
            let _ = reply.send(queue.each().map(released).collect());
        }
    }
}

impl Lanes {
    fn of(&mut self, lane: Durability) -> &mut usize {
        if lane == Durability::Memory { &mut self.memory } else { &mut self.sync }
    }
}

/// What a caller is told of a run that did not happen.
fn told(outcome: Outcome) -> QueueError {
    match outcome {
        Err(error) if error.kind() != ErrorKind::Conflict => QueueError::Storage(error),
        // Behind a failure the others fail by conflict; what the caller needs to know is: try again.
        _ => QueueError::Retry,
    }
}

fn discards(queue: &Queue) -> Vec<std::ops::Range<Offset>> {
    let ranges = queue.acks.done_ranges().filter(|range| range.end - range.start > 1);
    ranges.take(DISCARD_RANGES).map(|range| Offset(range.start)..Offset(range.end)).collect()
}

/// A store's refusal in a shard's words.
pub(super) fn refused(error: &StorageError) -> Refused {
    Refused::Storage(error.clone())
}
