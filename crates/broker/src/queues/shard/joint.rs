//! A shard's part of a joint commit: sealed, held until the whole is with the store, and undone if it fails.
//!
//! ```text
//!  coordinator:  Prepare ─▶ ... ─▶ commit (one group of all parts) ─▶ submitted ─────▶ outcome
//!  shard:        what was gathered goes first ─▶ seal ─▶ operations   release the holds   as of any run or delta
//! ```
//! **Invariants.** Between sealing and the word that the group is with the store, nothing else of its queues and of
//! the journal is sealed: offsets and calls of the store are in one order. What the part settles is nobody's
//! meanwhile and neither done nor available; it is done, or held again, once the outcome is known. No snapshot
//! of acks is taken while such an outcome is missing, so none contradicts it. A part that cannot be sealed yet
//! waits by itself; a shard never waits for the coordinator.
//!
//! Deliberately absent: which shards take part, and the store (`queues::joint`).

use std::collections::{BTreeMap, HashMap};

use ferrymq_runtime::BytePermit;
use ferrymq_storage::{ErrorKind, Op, Outcome, StorageError};
use ferrymq_types::{LogId, Offset};
use tokio::sync::oneshot;

use super::commit::refused;
use super::discard::{Discarded, Reason};
use super::journal::Sealed;
use super::levels::place;
use super::message::{Item, Refused, SMALL};
use super::queue::{Debt, Queue};
use super::unsettled::{SURVIVES, holder};
use super::{Done, Owner};
use crate::queues::ack::{AckRecord, Delta, Ranges};
use crate::queues::tally::DeadLettering;
use crate::queues::types::{QueueHandle, Settle};

/// What a shard contributes.
pub(in crate::queues) struct Prepare {
    /// Messages for queues of this shard.
    pub(in crate::queues) items: Vec<Item>,
    pub(in crate::queues) settles: Vec<Settles>,
    pub(in crate::queues) reply: oneshot::Sender<Result<Vec<Op>, Refused>>,
    /// The operations are with the store. Dropped: they never will be.
    pub(in crate::queues) submitted: oneshot::Receiver<()>,
    /// What became of them.
    pub(in crate::queues) outcome: oneshot::Receiver<Outcome>,
    /// Dropped when the shard has done with it, however it ended: what it settled is settled, or held again.
    pub(in crate::queues) over: oneshot::Sender<()>,
}

/// Deliveries of one queue to one session that are settled, or letters of it that have arrived.
#[derive(Debug, Clone)]
pub(in crate::queues) struct Settles {
    pub(in crate::queues) queue: QueueHandle,
    /// `None`: they are letters, and without their queue nothing may happen.
    pub(in crate::queues) session: Option<u64>,
    pub(in crate::queues) what: Vec<(Offset, Settle)>,
}

impl Prepare {
    /// Bytes it is counted as in the mailbox.
    pub(in crate::queues) fn bytes(&self) -> usize {
        let items = self.items.iter().map(|item| item.message.bytes() + 128).sum::<usize>();
        let settles = self.settles.iter().map(|settles| settles.what.len()).sum::<usize>();
        SMALL + items + settles * size_of::<Settling>()
    }
}

/// Joint commits that this shard has a part in.
#[derive(Default)]
pub(super) struct Joints {
    /// One whose turn has not come, and how often the journal had failed when it came.
    parked: Option<(Prepare, BytePermit, u64)>,
    all: HashMap<u64, Joint>,
    last: u64,
    /// One is sealed and not with the store.
    holding: bool,
    /// How many have records of acks in flight.
    settling: usize,
}

/// One of them.
struct Joint {
    runs: Vec<(LogId, u64)>,
    journal: Option<Sealed>,
    settling: Vec<Settling>,
    outcome: Option<oneshot::Receiver<Outcome>>,
    over: oneshot::Sender<()>,
    _permit: BytePermit,
}

/// A delivery that is being settled.
struct Settling {
    queue: QueueHandle,
    session: Option<u64>,
    offset: u64,
    /// Its entry among the unacked.
    entry: u32,
    how: Settle,
}

/// What a shard hears of a joint commit.
pub(super) enum Told {
    /// It is with the store, or was given up.
    Submitted { number: u64, submitted: bool },
    /// What became of it.
    Outcome { number: u64, outcome: Outcome },
}

impl Joints {
    /// Whether acks are on their way that no snapshot has.
    pub(super) fn settling(&self) -> bool {
        self.settling > 0
    }
}

impl Owner {
    pub(super) fn on_prepare(&mut self, prepare: Prepare, permit: BytePermit) {
        // One turn at a time: whoever waited here before has given up.
        self.joints.parked = Some((prepare, permit, self.journal.failures()));
        self.prepare_parked();
    }

    /// Seals the part that waits, if it can be by now.
    pub(super) fn prepare_parked(&mut self) {
        let Some((prepare, permit, failures)) = self.joints.parked.take() else { return };
        if prepare.reply.is_closed() {
            return;
        }
        if let Some(error) = &self.stopped {
            return answer(prepare.reply, Err(refused(error)));
        }
        let letters = prepare.settles.iter().filter(|settles| settles.session.is_none());
        if letters.map(|letters| &letters.queue).any(|queue| self.here(queue).is_none()) {
            return answer(prepare.reply, Err(Refused::Gone));
        }
        if self.must_wait(&prepare) {
            if self.journal.failures() == failures {
                self.joints.parked = Some((prepare, permit, failures));
            } else {
                let what = "acknowledgements cannot be recorded at present";
                let error = StorageError::new(ErrorKind::Unavailable, what);
                answer(prepare.reply, Err(refused(&error)));
            }
            return;
        }
        self.seal_joint(prepare, permit);
    }

    /// Whether something that is under way must end first. It does without anybody's help.
    fn must_wait(&mut self, prepare: &Prepare) -> bool {
        if self.joints.holding {
            return true;
        }
        let mut queues = prepare.items.iter().flat_map(|item| item.to.queues());
        let is_failing = |queue: &Queue| queue.each().any(Queue::is_failing);
        let failing = queues.any(|to| self.queues.get(&to.log()).is_some_and(is_failing));
        if failing || prepare.settles.is_empty() {
            return failing;
        }
        if self.journal.is_failing() || self.journal.is_walking() {
            return true;
        }
        // Else a rewrite would never find a moment without joint commits.
        let rewrite = self.journal.wants_rewrite()
            && self.context.opened.load(std::sync::atomic::Ordering::Acquire)
            && !self.closing;
        self.due |= rewrite;
        rewrite
    }

    fn seal_joint(&mut self, prepare: Prepare, permit: BytePermit) {
        let Prepare { items, settles, reply, submitted, outcome, over } = prepare;
        let mut ops = Vec::new();
        let runs = match self.seal_joint_runs(&items, &mut ops) {
            Ok(runs) => runs,
            Err(why) => return answer(reply, Err(why)),
        };
        let (settling, records) = self.take_settling(settles);
        let journal = (!records.is_empty()).then(|| {
            let (op, sealed) = self.journal.seal_joint(records, self.context.clock.wall_ms());
            ops.push(op);
            sealed
        });
        self.joints.last += 1;
        let number = self.joints.last;
        self.joints.settling += usize::from(journal.is_some());
        self.joints.holding = true;
        let joint = Joint { runs, journal, settling, outcome: Some(outcome), over, _permit: permit };
        self.joints.all.insert(number, joint);
        answer(reply, Ok(ops));
        self.done.push(Box::pin(async move {
            let submitted = submitted.await.is_ok();
            Done::Joint(Told::Submitted { number, submitted })
        }));
    }

    /// Gives out offsets to messages of a joint commit, behind everything gathered before; to none if a queue is full.
    fn seal_joint_runs(&mut self, items: &[Item], ops: &mut Vec<Op>) -> Result<Vec<(LogId, u64)>, Refused> {
        let (now_ms, index) = (self.ages.stamp(), self.index);
        let mut logs = Vec::new();
        for item in items {
            for to in item.to.queues().iter().filter(|to| to.0.shard == index) {
                // As with any publish: what was routed to a queue that is gone goes nowhere.
                let Some((_, queue)) = self.here(to) else { continue };
                let full = queue.is_full_for(&item.message).then(|| queue.handle.clone());
                let log = queue.level_for(&item.message).handle.log();
                if !logs.contains(&log) {
                    self.submit_gathered(log);
                    logs.push(log);
                }
                if let Some(queue) = self.queues.get_mut(&log) {
                    if let Some(full) = full {
                        let full = Refused::Full(full);
                        // What is gathered now is of this commit only, and nobody waits for it.
                        let touched =
                            logs.iter().filter_map(|log| Some(self.queues.get_mut(log)?.drop_gathered()));
                        drop(touched.collect::<Vec<_>>());
                        return Err(full);
                    }
                    queue.gather(0, item, now_ms, &mut self.scratch);
                }
            }
        }
        let mut runs = Vec::new();
        let mut sealed = Vec::new();
        for log in logs {
            let Some(queue) = self.queues.get_mut(&log) else { continue };
            queue.seal(self.context.owner, self.context.writer, now_ms, &mut sealed);
            queue.hold(true);
            for (op, number) in sealed.drain(..) {
                ops.push(op);
                runs.push((log, number));
            }
        }
        Ok(runs)
    }

    /// Takes what is settled out of its session's hands, and says what of it must be recorded.
    fn take_settling(&mut self, settles: Vec<Settles>) -> (Vec<Settling>, Vec<(LogId, AckRecord)>) {
        let mut settling = Vec::new();
        let mut done: BTreeMap<LogId, Ranges> = BTreeMap::new();
        for Settles { queue: handle, session, what } in settles {
            let Some((_, queue)) = self.here(&handle) else { continue };
            for (offset, how) in what {
                let Some(entry) = queue.let_go(offset.0, session) else { continue };
                let becomes_a_letter = how == Settle::Reject && queue.letters.is_some();
                let is_done = matches!(how, Settle::Ack | Settle::Reject) && !becomes_a_letter;
                if queue.durable && entry & SURVIVES != 0 && is_done {
                    let at = place(offset.0);
                    let log = queue.level(offset.0).handle.log();
                    done.entry(log).or_default().insert(at..at + 1);
                }
                settling.push(Settling { queue: handle.clone(), session, offset: offset.0, entry, how });
            }
        }
        let delta = |done: Ranges| Delta { done: done.iter().collect(), ..Delta::default() };
        let records = done.into_iter().map(|(log, done)| (log, AckRecord::Delta(delta(done))));
        (settling, records.collect())
    }

    pub(super) fn on_joint(&mut self, told: Told) {
        match told {
            Told::Submitted { number, submitted } => self.joint_submitted(number, submitted),
            Told::Outcome { number, outcome } => self.joint_decided(number, &outcome),
        }
    }

    fn joint_submitted(&mut self, number: u64, submitted: bool) {
        let Some(joint) = self.joints.all.get_mut(&number) else { return };
        let outcome = joint.outcome.take();
        self.joints.holding = false;
        if joint.journal.is_some() {
            self.journal.release();
        }
        for (log, _) in &joint.runs {
            let queue = match self.queues.get_mut(log) {
                None => self.leaving.get_mut(log),
                here => here,
            };
            if let Some(queue) = queue {
                queue.hold(false);
            }
        }
        match outcome.filter(|_| submitted) {
            Some(outcome) => self.done.push(Box::pin(async move {
                let ended =
                    || StorageError::new(ErrorKind::Unknown, "a joint commit ended without an outcome");
                let outcome = outcome.await.unwrap_or_else(|_| Err(ended()));
                Done::Joint(Told::Outcome { number, outcome })
            })),
            None => self.joint_given_up(number),
        }
    }

    /// Nothing of it went to the store.
    fn joint_given_up(&mut self, number: u64) {
        if let Some(sealed) = self.joints.all.get_mut(&number).and_then(|joint| joint.journal.take()) {
            self.joints.settling -= 1;
            self.journal.unseal(sealed);
        }
        let error = StorageError::new(ErrorKind::Unavailable, "a joint commit was given up");
        self.joint_decided(number, &Err(error));
    }

    fn joint_decided(&mut self, number: u64, outcome: &Outcome) {
        let Some(joint) = self.joints.all.remove(&number) else { return };
        for (log, run) in joint.runs {
            self.on_run(log, run, outcome.clone());
        }
        if let Some(sealed) = joint.journal {
            self.joints.settling -= 1;
            self.on_journal(sealed, outcome.clone());
        }
        for settling in joint.settling {
            if outcome.is_ok() {
                self.settled(settling);
            } else {
                self.unsettled(settling);
            }
        }
        drop(joint.over);
    }

    /// A delivery is settled for good.
    fn settled(&mut self, settling: Settling) {
        let Settling { queue, session, offset, entry, how } = settling;
        let Some((log, queue)) = self.here(&queue) else { return };
        if let (None, Some(letters)) = (session, &mut queue.letters) {
            letters.arrived();
        }
        let survives = entry & SURVIVES != 0;
        let (mut done, mut debt, mut gone, mut rejected) = (0, Debt::Lazy, None, None);
        match how {
            Settle::Reject if queue.letters.is_some() => {
                queue.count_settled(offset, false);
                queue.consumers.settled(entry);
                let gone = Discarded { offset, reason: Reason::Rejected, survives };
                // There is room for another one, whenever this one arrives.
                self.run_soon(log);
                return self.discard(log, vec![gone]);
            }
            Settle::Ack | Settle::Reject => {
                done += u64::from(queue.finish(offset));
                rejected = (how == Settle::Reject).then(|| queue.kind());
            }
            Settle::Requeue | Settle::Fail => {
                gone = queue.give_back(offset, survives, how == Settle::Fail);
                debt = if survives { Debt::Must } else { Debt::Lazy };
            }
        }
        if session.is_some() && matches!(how, Settle::Ack | Settle::Reject) {
            queue.count_settled(offset, false);
        }
        queue.consumers.settled(entry);
        if let Some(kind) = rejected {
            self.context.tally.died(kind, DeadLettering::Disabled, Reason::Rejected);
        }
        self.owe(log, debt, done);
        self.run_soon(log);
        self.discard(log, gone.into_iter().collect());
    }

    /// A delivery is its session's again; or available, if that has ended.
    fn unsettled(&mut self, settling: Settling) {
        let Settling { queue, session, offset, entry, .. } = settling;
        let Some((log, queue)) = self.here(&queue) else { return };
        // A letter is still on its way.
        let Some(session) = session else { return };
        if queue.sessions.contains(&session) {
            queue.unacked.insert(offset, entry);
            return;
        }
        let survives = entry & SURVIVES != 0;
        let gone = queue.give_back(offset, survives, true);
        queue.consumers.settled(entry);
        self.owe(log, if survives { Debt::Must } else { Debt::Lazy }, 0);
        self.run_soon(log);
        self.discard(log, gone.into_iter().collect());
    }
}

impl Queue {
    /// Takes a delivery out of its session's hands, or a letter that has arrived; its entry among the unacked.
    fn let_go(&mut self, offset: u64, session: Option<u64>) -> Option<u32> {
        let Some(session) = session else {
            let is_letter = self.letters.is_some() && self.level(offset).acks.is_acquired(place(offset));
            return is_letter.then_some(SURVIVES);
        };
        let entry = self.unacked.get(&offset).copied()?;
        self.consumers.get(holder(entry)).filter(|holder| holder.session == session)?;
        self.unacked.remove(&offset)
    }
}

/// Answers; a coordinator that went away shows in the word that never comes.
fn answer<T>(reply: oneshot::Sender<T>, with: T) {
    let _gone = reply.send(with).is_err();
}
