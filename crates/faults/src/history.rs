//! What was done and what was seen, from the clients' side.
//!
//! **Invariants.** Every operation ends `Ok`, `Fail` (it certainly did not happen) or `Info` (unknown). A
//! timeout or a dropped connection is `Info`, never `Fail`. Times are microseconds of one monotonic clock.
//!
//! Runs of consecutive values at consecutive offsets are kept as one entry: two million records fit in little
//! memory.

use crate::value::Value;

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It happened; for a send, where, if the broker said so.
    Ok(Option<i64>),
    /// It certainly did not happen; the error code.
    Fail(i16),
    /// Nobody knows.
    Info,
}

/// When an operation began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct During {
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// A batch sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) log: usize,
    pub(crate) first: Value,
    pub(crate) count: u32,
    pub(crate) outcome: Outcome,
    pub(crate) during: During,
}

/// Consecutive values at consecutive offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: i64,
    pub(crate) first: Value,
    pub(crate) count: u32,
}

impl Run {
    /// Its records.
    pub(crate) fn records(self) -> impl Iterator<Item = (i64, Value)> {
        (0..self.count).map(move |index| (self.offset + i64::from(index), self.first.plus(index)))
    }
}

/// What a reader was given of a log: everything in `from..to`.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) reader: u32,
    pub(crate) log: usize,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) runs: Vec<Run>,
    pub(crate) during: During,
}

impl Span {
    /// Nothing yet, from `from` on.
    pub(crate) fn starting_at(reader: u32, log: usize, from: i64, began: u64) -> Span {
        let during = During { began, ended: began };
        Span { reader, log, from, to: from, runs: Vec::new(), during }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, offset: i64, value: Value) {
        match self.runs.last_mut() {
            Some(run)
                if offset == run.offset + i64::from(run.count) && value == run.first.plus(run.count) =>
            {
                run.count += 1;
            }
            _ => self.runs.push(Run { offset, first: value, count: 1 }),
        }
    }

    /// Its records.
    pub(crate) fn records(&self) -> impl Iterator<Item = (i64, Value)> {
        self.runs.iter().flat_map(|run| run.records())
    }
}

/// A committed offset: written or read.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) group: String,
    pub(crate) log: usize,
    /// What was committed, or what was found (-1: nothing).
    pub(crate) offset: i64,
    /// None for a read.
    pub(crate) written: Option<Outcome>,
    pub(crate) during: During,
}

/// A topic made or deleted.
#[derive(Debug, Clone)]
pub(crate) struct TopicChange {
    pub(crate) name: String,
    pub(crate) made: bool,
    pub(crate) outcome: Outcome,
    pub(crate) during: During,
}

/// A list of all topics.
#[derive(Debug, Clone)]
pub(crate) struct TopicsSeen {
    pub(crate) names: Vec<String>,
    pub(crate) during: During,
}

/// A time in which the store had failed and nothing that was sent may have been acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Broken {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) sent: Vec<Sent>,
    pub(crate) spans: Vec<Span>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) topics: Vec<TopicChange>,
    pub(crate) topics_seen: Vec<TopicsSeen>,
    pub(crate) broken: Vec<Broken>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_records_are_one_run() {
        let value = Value { writer: 1, counter: 5 };
        let mut span = Span::starting_at(1, 0, 3, 0);
        for (offset, by) in [(3, 0), (4, 1), (6, 2), (7, 3), (8, 5)] {
            span.push(offset, value.plus(by));
        }
        assert_eq!(span.runs.len(), 3);
        assert_eq!(span.records().count(), 5);
        assert_eq!(span.records().nth(3), Some((7, value.plus(3))));
    }
}
