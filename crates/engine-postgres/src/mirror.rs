//! What the engine knows of the logs it has claimed: rows, holes, where their batches are, the newest of them.
//!
//! **Invariants.** A log's entry changes only with a round or claim that has the log, or when it is found to be wrong.
//! Tails together stay within their bound.
//!
//! Deliberately absent: logs that somebody else has; those are asked of the database each time.

use std::collections::{HashMap, VecDeque};

use ferrymq_storage::Stat;
use ferrymq_types::{Epoch, LogId, Offset};

use crate::plan::Change;
use crate::row::{Holes, Row};
use crate::tail::{Kept, Tail};

/// Where a log's batches are: from which offset on, in which segment; ascending.
pub(crate) type Extents = Vec<(u64, i64)>;

/// A claimed log.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) row: Row,
    pub(crate) holes: Holes,
    /// Bytes in unlogged tables.
    pub(crate) memory: u64,
    /// Whether it ever wrote to one since the start.
    has_memory: bool,
    /// The epoch of the claim since which nobody else had it.
    since: Epoch,
    /// The segment of its last extent, if it wrote since it was claimed.
    pub(crate) segment: Option<i64>,
    /// `None`: not asked for yet.
    pub(crate) extents: Option<Extents>,
    pub(crate) tail: Tail,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    logs: HashMap<LogId, Known>,
    /// What is in tails, in the order in which it came. May name what has gone.
    kept: VecDeque<(LogId, Offset)>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// Whether nobody else writes to the schema.
    alone: bool,
}

impl Known {
    /// From which epoch on batches of class `Memory` are there, if any are.
    pub(crate) fn memory_since(&self) -> Option<Epoch> {
        self.has_memory.then_some(self.since)
    }
}

impl Mirror {
    pub(crate) fn new(tail_bytes_max: usize, alone: bool) -> Mirror {
        Mirror { tail_bytes_max, alone, ..Mirror::default() }
    }

    pub(crate) fn get(&self, log: LogId) -> Option<&Known> {
        self.logs.get(&log)
    }

    pub(crate) fn get_mut(&mut self, log: LogId) -> Option<&mut Known> {
        self.logs.get_mut(&log)
    }

    /// A log was claimed. If nobody else wrote to it since, what is known stays.
    pub(crate) fn claimed(&mut self, log: LogId, row: Row, holes: Holes) {
        match self.logs.get_mut(&log) {
            // A claim of ours is two turns; more, and somebody else had it meanwhile.
            Some(known) if (known.row.epoch.next(), known.row.turn + 2) == (row.epoch, row.turn) => {
                known.row = row;
                known.holes = holes;
            }
            _ => {
                self.forget(log);
                let tail = Tail::from(row.next);
                // Who is alone has emptied those tables; one number for all makes for few statements.
                let since = if self.alone { Epoch(0) } else { row.epoch };
                let known = Known {
                    row,
                    holes,
                    memory: 0,
                    has_memory: false,
                    since,
                    segment: None,
                    extents: None,
                    tail,
                };
                self.logs.insert(log, known);
            }
        }
    }

    /// Somebody else has a log, or it is gone.
    pub(crate) fn forget(&mut self, log: LogId) {
        if let Some(known) = self.logs.remove(&log) {
            self.tail_bytes -= known.tail.bytes();
        }
    }

    /// A table was dropped.
    pub(crate) fn forget_extents(&mut self) {
        self.logs.values_mut().for_each(|known| known.extents = None);
    }

    /// A round has changed a log; its batches went to `segment`.
    pub(crate) fn changed(&mut self, log: LogId, change: Change, turn: u64, segment: i64) {
        if change.after.deleted {
            self.forget(log);
            return;
        }
        let Some(known) = self.logs.get_mut(&log) else { return };
        known.row = Row { turn, ..change.after };
        known.memory = change.memory;
        known.has_memory |= change.inserts.iter().any(|insert| insert.memory);
        if let Some(first) = new_extent(known.segment, &change, segment) {
            known.segment = Some(segment);
            known.extents.iter_mut().for_each(|extents| extents.push((first, segment)));
        }
        if change.replaces() {
            self.tail_bytes -= known.tail.bytes();
            known.tail = Tail::from(known.row.next);
            known.holes = change.holes;
            known.holes.saved();
            return;
        }
        let looked_at = change.looked_at();
        known.holes = change.holes;
        known.holes.saved();
        for insert in change.inserts {
            self.tail_bytes += insert.batch.bytes.len();
            self.kept.push_back((log, insert.batch.base));
            let mut batch = insert.batch;
            batch.shared = Vec::new();
            known.tail.push(Kept { batch, epoch: insert.epoch, memory: insert.memory });
        }
        let (start, holes) = (known.row.start, &known.holes);
        if looked_at {
            let dead = |batch: &ferrymq_storage::Batch| {
                batch.next() <= start || holes.cover(batch.base.0, batch.next().0)
            };
            self.tail_bytes -= known.tail.drop_dead(dead);
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.tail_bytes > self.tail_bytes_max || self.kept.len() > 64 + 4 * self.logs.len().max(1 << 16)
        {
            let Some((log, base)) = self.kept.pop_front() else { break };
            if let Some(known) = self.logs.get_mut(&log) {
                self.tail_bytes -= known.tail.evict(base);
            }
        }
    }

    pub(crate) fn stat(&self, log: LogId) -> Option<Stat> {
        let known = self.logs.get(&log)?;
        let Row { epoch, start, next, bytes, .. } = known.row;
        Some(Stat { epoch, start, next, bytes: bytes + known.memory })
    }
}

/// The beginning of a new extent, if what a change appends needs one.
pub(crate) fn new_extent(last: Option<i64>, change: &Change, segment: i64) -> Option<u64> {
    let first = change.inserts.iter().find(|insert| !insert.replaces)?;
    (last != Some(segment)).then_some(first.batch.base.0)
}
