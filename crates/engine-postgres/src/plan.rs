//! What a round will do, worked out in memory: groups applied in order to the rows as they are known.
//!
//! **Invariants.** Pure: no connection, no lock. A group that fails leaves no trace. What comes out is, for each log,
//! one change from the row as it was to the row as it will be.
//!
//! Deliberately absent: whether the rows are still so. The statement asks that.

mod change;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;

use ferrymq_storage::{Action, Append, Batch, ErrorKind, Op, Outcome, StorageError, validate};
use ferrymq_types::{Durability, Epoch, LogId, Offset};

use crate::row::{Holes, Row, not_found};
pub(crate) use change::{Change, Insert, Live};

/// How to take one step of a group back.
enum Undo {
    Append { log: LogId, after: Row, inserts: usize, memory: u64, steps: usize },
    Whole(LogId, Box<Change>),
}

/// Groups on their way to a statement.
#[derive(Default)]
pub(crate) struct Plan {
    /// `None`: there is no such log.
    logs: HashMap<LogId, Option<Change>>,
}

/// The parts of a log that a group's removals look at, so that its batches there must be known.
pub(crate) fn looks_at(op: &Op, start: Offset) -> Vec<Range<Offset>> {
    match &op.action {
        Action::Append(_) | Action::Delete => Vec::new(),
        Action::Trim(to) => vec![start..*to],
        Action::Discard(ranges) => ranges.clone(),
        Action::Replace { range, .. } => vec![range.clone()],
    }
}

impl Plan {
    /// Makes a log known: its row and holes and how many of its bytes are not durable.
    pub(crate) fn know(&mut self, log: LogId, known: Option<(Row, Holes, u64)>) {
        let change = known.map(|(row, holes, memory)| Change::new(row, holes, memory));
        self.logs.insert(log, change);
    }

    /// Makes batches of a log known, before any group that looks at them.
    pub(crate) fn know_batches(&mut self, log: LogId, live: impl IntoIterator<Item = (u64, Live)>) {
        if let Some(Some(change)) = self.logs.get_mut(&log) {
            change.looked_at = true;
            change.live.extend(live);
        }
    }

    /// Applies a group wholly or not at all.
    pub(crate) fn apply(&mut self, group: &[Op]) -> Outcome {
        validate::check_group(group, true)?;
        let mut undo = Vec::new();
        let result = group.iter().try_for_each(|op| self.apply_op(op, &mut undo));
        if result.is_err() {
            undo.into_iter().rev().for_each(|step| self.take_back(step));
        }
        result
    }

    fn apply_op(&mut self, op: &Op, undo: &mut Vec<Undo>) -> Outcome {
        let known = self.logs.get_mut(&op.log).and_then(Option::as_mut);
        let change = known.filter(|change| !change.after.deleted).ok_or_else(|| not_found(op.log))?;
        let row = &change.after;
        if (row.epoch, row.owner) != (op.epoch, op.owner) {
            let what = format!("log {} belongs to somebody else: epoch={}", op.log, row.epoch);
            return Err(StorageError::new(ErrorKind::Fenced, what));
        }
        undo.push(match &op.action {
            Action::Append(_) if !change.looked_at => Undo::Append {
                log: op.log,
                after: change.after,
                inserts: change.inserts.len(),
                memory: change.memory,
                steps: change.steps,
            },
            _ => Undo::Whole(op.log, Box::new(change.clone())),
        });
        change.steps += 1;
        match &op.action {
            Action::Append(append) => add(change, op, append)?,
            Action::Trim(to) => change.trim(*to),
            Action::Discard(ranges) => ranges.iter().for_each(|range| change.discard(range)),
            Action::Replace { range, batches } => change.replace(op.log, range, batches)?,
            Action::Delete => change.delete(),
        }
        Ok(())
    }

    fn take_back(&mut self, step: Undo) {
        match step {
            Undo::Append { log, after, inserts, memory, steps } => {
                if let Some(Some(change)) = self.logs.get_mut(&log) {
                    change.after = after;
                    change.inserts.truncate(inserts);
                    change.memory = memory;
                    change.steps = steps;
                }
            }
            Undo::Whole(log, change) => {
                self.logs.insert(log, Some(*change));
            }
        }
    }

    /// The logs that change, by id.
    pub(crate) fn changes(self) -> Vec<(LogId, Change)> {
        let touched = self.logs.into_iter().filter_map(|(log, change)| Some((log, change?)));
        let mut changes: Vec<_> = touched.filter(|(_, change)| change.steps > 0).collect();
        changes.sort_unstable_by_key(|(log, _)| *log);
        changes
    }
}

fn add(change: &mut Change, op: &Op, append: &Append) -> Outcome {
    let next = change.after.next;
    if next != append.expect_next {
        let what = format!("log {} goes on elsewhere: expected={} next={next}", op.log, append.expect_next);
        return Err(StorageError::new(ErrorKind::Conflict, what));
    }
    let memory = append.class == Durability::Memory;
    for batch in &append.batches {
        change.insert(Insert { batch: batch.clone(), epoch: op.epoch, memory, replaces: false });
    }
    change.after.next = append.batches.last().map_or(next, Batch::next);
    change.after.commit = Some(append.commit_id);
    Ok(())
}

/// What a row in a table of batches says of one.
pub(crate) fn live(span: u32, size: u32, epoch: Epoch, memory: bool) -> Live {
    Live { span, size, epoch, memory, fresh: false }
}
