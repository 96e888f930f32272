//! What waits to be written, in order, and which logs are being written.
//!
//! ```text
//! front [a: 1] [b: 1,2] [c: 3] [d: 2]      log 1 is in flight
//!         x       x       ->      x         a waits for 1, b for a, d for b; c goes
//! ```
//! **Invariants.** At most one round has a log at a time. For each log, work is taken in the order in which it came.
//! A claim is a round of its own.
//!
//! Deliberately absent: tasks and waiting.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use ferrymq_storage::{Action, Claim, ErrorKind, Group, Outcome, StorageError};
use ferrymq_types::{LogId, OwnerId};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::options::Options;
use crate::row::closed;

/// Something to write.
pub(crate) enum Work {
    Group { ops: Group, ticket: Arc<Ticket>, index: usize },
    Claim { logs: Vec<LogId>, owner: OwnerId, reply: oneshot::Sender<Result<Vec<Claim>, StorageError>> },
}

impl Work {
    fn logs(&self) -> Vec<LogId> {
        match self {
            Work::Group { ops, .. } => ops.iter().map(|op| op.log).collect(),
            Work::Claim { logs, .. } => logs.clone(),
        }
    }

    /// Ends it with an error.
    pub(crate) fn refuse(self, error: StorageError) {
        match self {
            Work::Group { ticket, index, .. } => ticket.set(index, Err(error)),
            // Nobody waits any more: fine.
            Work::Claim { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// Gathers the outcomes of the groups of one commit.
pub(crate) struct Ticket(Mutex<Outcomes>);

struct Outcomes {
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    reply: Option<oneshot::Sender<Vec<Outcome>>>,
}

impl Ticket {
    pub(crate) fn new(groups: usize, reply: oneshot::Sender<Vec<Outcome>>) -> Arc<Ticket> {
        let outcomes = (0..groups).map(|_| None).collect();
        Arc::new(Ticket(Mutex::new(Outcomes { outcomes, left: groups, reply: Some(reply) })))
    }

    pub(crate) fn set(&self, index: usize, outcome: Outcome) {
        let mut ticket = self.0.lock();
        ticket.outcomes[index] = Some(outcome);
        ticket.left -= 1;
        if ticket.left == 0
            && let Some(reply) = ticket.reply.take()
        {
            let outcomes = ticket.outcomes.drain(..).map(|outcome| outcome.unwrap_or_else(|| Err(closed())));
            // Nobody waits any more: fine, it is done all the same.
            let _ = reply.send(outcomes.collect());
        }
    }
}

struct Queued {
    work: Work,
    logs: Vec<LogId>,
    bytes: usize,
    since: Instant,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Queued>,
    bytes: usize,
    busy: HashSet<LogId>,
}

/// Work for one connection.
pub(crate) struct Round {
    pub(crate) work: Vec<Work>,
    /// Its logs, which are given back with [`Queue::done`].
    pub(crate) logs: HashSet<LogId>,
}

/// Bytes of batches in a group, and something for each operation.
pub(crate) fn group_bytes(group: &Group) -> usize {
    let batches = |op: &ferrymq_storage::Op| match &op.action {
        Action::Append(append) => append.batches.iter().map(|batch| batch.bytes.len() + 64).sum(),
        Action::Replace { batches, .. } => batches.iter().map(|batch| batch.bytes.len() + 64).sum(),
        Action::Discard(ranges) => ranges.len() * 16,
        Action::Trim(_) | Action::Delete => 0usize,
    };
    group.iter().map(|op| 64 + batches(op)).sum()
}

impl Queue {
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds work, which is refused if too much waits.
    pub(crate) fn push(&mut self, work: Vec<Work>, max: usize, now: Instant) -> Result<(), Vec<Work>> {
        let bytes = |work: &Work| match work {
            Work::Group { ops, .. } => group_bytes(ops),
            Work::Claim { logs, .. } => logs.len() * 32,
        };
        let sizes: Vec<usize> = work.iter().map(bytes).collect();
        let added: usize = sizes.iter().sum();
        if self.bytes > 0 && self.bytes.saturating_add(added) > max {
            return Err(work);
        }
        self.bytes += added;
        for (work, bytes) in work.into_iter().zip(sizes) {
            self.waiting.push_back(Queued { logs: work.logs(), work, bytes, since: now });
        }
        Ok(())
    }

    /// The next round, if anything that waits can go.
    pub(crate) fn take_round(&mut self, options: &Options) -> Option<Round> {
        let mut round = Round { work: Vec::new(), logs: HashSet::new() };
        let (mut bytes, mut blocked) = (0usize, HashSet::new());
        let mut left = VecDeque::with_capacity(self.waiting.len());
        while let Some(item) = self.waiting.pop_front() {
            let full = !round.work.is_empty()
                && (bytes + item.bytes > options.round_bytes_max
                    || round.work.len() >= options.round_groups_max);
            let claims = matches!(item.work, Work::Claim { .. });
            let alone = claims && !round.work.is_empty();
            let free = |log: &LogId| !self.busy.contains(log) && !blocked.contains(log);
            if full || alone || !item.logs.iter().all(free) {
                if full {
                    left.push_back(item);
                    break;
                }
                blocked.extend(item.logs.iter().copied());
                left.push_back(item);
                continue;
            }
            bytes += item.bytes;
            self.bytes -= item.bytes;
            round.logs.extend(item.logs);
            round.work.push(item.work);
            if claims {
                break;
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        if round.work.is_empty() {
            return None;
        }
        self.busy.extend(round.logs.iter().copied());
        Some(round)
    }

    /// A round has ended.
    pub(crate) fn done(&mut self, logs: &HashSet<LogId>) {
        self.busy.retain(|log| !logs.contains(log));
    }

    /// Takes out what came before `since`, or everything.
    pub(crate) fn take_older(&mut self, since: Option<Instant>) -> Vec<Work> {
        let old = |item: &Queued| since.is_none_or(|since| item.since < since);
        let (old, left): (VecDeque<Queued>, VecDeque<Queued>) = self.waiting.drain(..).partition(old);
        self.waiting = left;
        self.bytes -= old.iter().map(|item| item.bytes).sum::<usize>();
        old.into_iter().map(|item| item.work).collect()
    }
}

pub(crate) fn too_busy() -> StorageError {
    StorageError::new(ErrorKind::Unavailable, "too much waits to be written to the database")
}

#[cfg(test)]
mod tests {
    use ferrymq_storage::Op;
    use ferrymq_types::{Epoch, Offset};

    use super::*;

    fn group(logs: &[u64]) -> Work {
        let op = |log: &u64| Op {
            log: LogId(*log),
            epoch: Epoch(1),
            owner: OwnerId(1),
            action: Action::Trim(Offset(0)),
        };
        let (reply, _) = oneshot::channel();
        Work::Group { ops: logs.iter().map(op).collect(), ticket: Ticket::new(1, reply), index: 0 }
    }

    fn claim(logs: &[u64]) -> Work {
        let (reply, _) = oneshot::channel();
        Work::Claim { logs: logs.iter().copied().map(LogId).collect(), owner: OwnerId(1), reply }
    }

    fn queue(work: Vec<Work>) -> Queue {
        let mut queue = Queue::default();
        let pushed = queue.push(work, usize::MAX, ferrymq_runtime::Clock::system().now());
        assert!(pushed.is_ok());
        queue
    }

    fn take(queue: &mut Queue) -> Option<(usize, Vec<u64>)> {
        let round = queue.take_round(&Options { round_groups_max: 3, ..Options::default() })?;
        let mut logs: Vec<u64> = round.logs.iter().map(|log| log.0).collect();
        logs.sort_unstable();
        Some((round.work.len(), logs))
    }

    #[test]
    fn what_waits_for_a_log_is_not_overtaken_on_it() {
        let mut queue = queue(vec![group(&[1]), group(&[9]), group(&[1, 2])]);
        assert_eq!(take(&mut queue), Some((3, vec![1, 2, 9])), "groups of one round may share logs");
        let more = vec![group(&[1]), group(&[1, 5]), group(&[3]), group(&[5]), group(&[6])];
        assert!(queue.push(more, usize::MAX, ferrymq_runtime::Clock::system().now()).is_ok());
        assert_eq!(take(&mut queue), Some((2, vec![3, 6])));
        assert_eq!(take(&mut queue), None);
        queue.done(&[1, 2, 9].map(LogId).into());
        assert_eq!(take(&mut queue), Some((3, vec![1, 5])));
    }

    #[test]
    fn a_claim_goes_alone_and_in_its_turn() {
        let mut queue = queue(vec![group(&[1]), claim(&[2, 1]), group(&[2]), group(&[3])]);
        assert_eq!(take(&mut queue), Some((2, vec![1, 3])));
        assert_eq!(take(&mut queue), None);
        queue.done(&[1, 3].map(LogId).into());
        assert_eq!(take(&mut queue), Some((1, vec![1, 2])));
        assert_eq!(take(&mut queue), None);
        queue.done(&[1, 2].map(LogId).into());
        assert_eq!(take(&mut queue), Some((1, vec![2])));
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn a_round_is_bounded_and_a_large_group_goes_alone() {
        let mut queue = queue((0..5).map(|log| group(&[log])).collect());
        assert_eq!(take(&mut queue).map(|(count, _)| count), Some(3));
        assert_eq!(take(&mut queue).map(|(count, _)| count), Some(2));
        let mut queue = self::queue(vec![group(&[1]), group(&[2])]);
        let tight = Options { round_bytes_max: 1, ..Options::default() };
        assert_eq!(queue.take_round(&tight).map(|round| round.work.len()), Some(1));
        assert_eq!(queue.take_round(&tight).map(|round| round.work.len()), Some(1));
        assert!(
            queue.push(vec![group(&[1]), group(&[2])], 100, ferrymq_runtime::Clock::system().now()).is_ok()
        );
        let refused = queue.push(vec![group(&[1])], 100, ferrymq_runtime::Clock::system().now());
        assert_eq!(refused.map_err(|work| work.len()), Err(1));
    }
}
