//! What waits for the writer, and which of it goes into the next write group.
//!
//! **Policy.** Reject: what does not fit is refused at once, because `commit` must enqueue before it returns.
//! **Fairness.** Each log gets its share of a group; what exceeds it waits for the next. A log behind a
//! saturated one waits for the group being written and is in the one after that.
//! **Invariant.** Work that touches a log is done in the order of arrival.
//!
//! Deliberately absent: priorities.

use std::collections::{HashMap, HashSet, VecDeque};

use ferrymq_storage::{Action, Op};

use crate::core::{Submission, Work};

/// Passes over the queue with growing shares.
const PASSES: u32 = 3;

/// A piece of work, what it touches and how much it is.
pub(crate) struct Queued {
    pub submission: Submission,
    logs: Vec<u64>,
    bytes: usize,
}

impl Queued {
    pub(crate) fn new(submission: Submission) -> Queued {
        let (mut logs, bytes): (Vec<u64>, usize) = match &submission.work {
            Work::Claim { logs, .. } => (logs.iter().map(|log| log.0).collect(), 64 * logs.len()),
            Work::Group(ops) => (ops.iter().map(|op| op.log.0).collect(), group_bytes(ops)),
        };
        logs.sort_unstable();
        logs.dedup();
        Queued { submission, logs, bytes: bytes + 64 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes that a group will take, about.
pub(crate) fn group_bytes(ops: &[Op]) -> usize {
    ops.iter().map(op_bytes).sum()
}

fn op_bytes(op: &Op) -> usize {
    let batches = match &op.action {
        Action::Append(append) => &append.batches[..],
        Action::Replace { batches, .. } => &batches[..],
        Action::Discard(ranges) => return 64 + 16 * ranges.len(),
        Action::Trim(_) | Action::Delete => return 64,
    };
    batches.iter().map(|batch| batch.bytes.len() + 64).sum()
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    items: VecDeque<Queued>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn push(&mut self, item: Queued) {
        self.bytes += item.bytes;
        self.items.push_back(item);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes what goes into the next group: at least one piece, else at most `bytes_max`.
    pub(crate) fn take_round(&mut self, bytes_max: usize) -> Vec<Submission> {
        if self.bytes <= bytes_max {
            self.bytes = 0;
            return self.items.drain(..).map(|item| item.submission).collect();
        }
        let logs: HashSet<u64> = self.items.iter().flat_map(|item| item.logs.iter().copied()).collect();
        let mut round = Round { bytes_max, ..Round::default() };
        for pass in 0..PASSES {
            let share = (bytes_max / logs.len().max(1)).saturating_mul(4_usize.pow(pass)).min(bytes_max);
            round.pass(&mut self.items, share);
        }
        self.bytes -= round.bytes;
        round.taken
    }
}

#[derive(Default)]
struct Round {
    taken: Vec<Submission>,
    bytes: usize,
    bytes_max: usize,
    bytes_by_log: HashMap<u64, usize>,
}

impl Round {
    /// Takes what fits into the share of each of its logs and overtakes nothing of the same log.
    fn pass(&mut self, items: &mut VecDeque<Queued>, share: usize) {
        let mut blocked: HashSet<u64> = HashSet::new();
        let mut kept = VecDeque::new();
        while let Some(item) = items.pop_front() {
            if self.bytes >= self.bytes_max {
                kept.push_back(item);
                kept.append(items);
                break;
            }
            let held = item.logs.iter().any(|log| blocked.contains(log));
            if held || !self.fits(&item, share) {
                blocked.extend(&item.logs);
                kept.push_back(item);
                continue;
            }
            self.bytes += item.bytes;
            for log in &item.logs {
                *self.bytes_by_log.entry(*log).or_default() += item.bytes;
            }
            self.taken.push(item.submission);
        }
        *items = kept;
    }

    fn fits(&self, item: &Queued, share: usize) -> bool {
        let first = |log| !self.bytes_by_log.contains_key(log);
        let in_share = |log: &u64| self.bytes_by_log.get(log).is_none_or(|taken| taken + item.bytes <= share);
        let in_group = self.bytes + item.bytes <= self.bytes_max || self.taken.is_empty();
        in_group && (item.logs.iter().all(first) || item.logs.iter().all(in_share))
    }
}
