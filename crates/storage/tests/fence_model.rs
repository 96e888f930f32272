//! The fence as a model: three writers that are paused anywhere, statements that arrive late, replies that are lost, trims. All
//! states are visited; with the fence none is wrong, and without any one part of it some is.
//!
//! ```text
//! writer   read the row > claim if it is still so > send > (arrives, some time) > told, or lost > resolve by a turn, as often
//!          as it takes > told, or send again
//! turn     +1 by a round or a trim, +2 by a claim or a resolve: an odd difference says that the round was done
//! row      epoch, owner, turn, next, start, last commit          a pause: nothing but others' steps in between
//! ```
//! What is checked in each state: an acknowledged record is where it was said to be, and was not trimmed before it came; no offset
//! holds two records; no record is there twice; epochs never fall along the log, so no former owner wrote behind its
//! successor; what was refused for certain is not there.
//!
//! Deliberately absent: leases and views. They only say when a claim is tried, and here it may be at any time.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::{BTreeSet, HashSet, VecDeque};

const WRITERS: usize = 3;

/// What a statement compares before it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fence {
    /// Epoch, owner, turn and next offset.
    Whole,
    /// Nothing: the writer believes that it still has its lease.
    None,
    /// That nothing is stored at the offset; what was trimmed is forgotten.
    Position,
    /// Only epoch and owner: what became of a lost reply is not told by a turn, so it is sent again.
    Blind,
    /// Everything, but a lost reply is taken for a refusal.
    Hasty,
    /// Everything, but a resolve turns by one and takes a row that moved by more for one that the round wrote to: what it
    /// turned itself, when its own reply was lost, it takes for the round.
    Single,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Row {
    epoch: u8,
    owner: u8,
    turn: u8,
    next: u8,
    start: u8,
    last: u8,
}

/// A record: what it is, and in which epoch its writer believed to be.
type Record = (u8, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Statement {
    row: Row,
    record: Record,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Writer {
    /// The epoch it read before a claim.
    read: Option<u8>,
    /// What it believes to own.
    owned: Option<Row>,
    /// Under way.
    sent: Option<Statement>,
    /// Of connections that were cut: they may still arrive, and nobody hears of it.
    late: Vec<Statement>,
    /// What it waits for: the outcome of this record.
    waits: Option<u8>,
    /// The reply on its way: whether it was done.
    reply: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct World {
    row: Row,
    /// Everything that was ever at an offset.
    log: Vec<Vec<Record>>,
    writers: [Writer; WRITERS],
    acknowledged: Vec<(u8, u8)>,
    refused: Vec<u8>,
    records: u8,
    claims: u8,
    cuts: u8,
    trims: u8,
    /// A record came to where the log had been trimmed already.
    into_the_past: bool,
}

/// How much happens at most.
const RECORDS: u8 = 3;
const CLAIMS: u8 = 3;
const CUTS: u8 = 2;
const TRIMS: u8 = 1;

impl World {
    fn steps(&self, fence: Fence) -> Vec<World> {
        let mut next = Vec::new();
        for at in 0..WRITERS {
            self.claims_of(at, &mut next);
            self.sends_of(at, fence, &mut next);
            self.arrivals_of(at, fence, &mut next);
            self.replies_of(at, fence, &mut next);
        }
        next
    }

    fn with(&self, next: &mut Vec<World>, change: impl FnOnce(&mut World)) {
        let mut world = self.clone();
        change(&mut world);
        next.push(world);
    }

    fn claims_of(&self, at: usize, next: &mut Vec<World>) {
        let writer = &self.writers[at];
        if writer.waits.is_none() && writer.read.is_none() && self.claims < CLAIMS {
            self.with(next, |world| {
                world.claims += 1;
                world.writers[at].read = Some(world.row.epoch);
            });
        }
        if let Some(read) = writer.read.filter(|_| writer.waits.is_none()) {
            self.with(next, |world| {
                world.writers[at].read = None;
                if world.row.epoch == read {
                    world.row.epoch += 1;
                    world.row.owner = u8::try_from(at).unwrap() + 1;
                    world.row.turn += 2;
                    world.writers[at].owned = Some(world.row.clone());
                }
            });
        }
    }

    fn sends_of(&self, at: usize, fence: Fence, next: &mut Vec<World>) {
        let writer = &self.writers[at];
        let Some(owned) = writer.owned.clone().filter(|_| writer.waits.is_none()) else { return };
        if writer.sent.is_none() && self.records < RECORDS {
            self.with(next, |world| {
                world.records += 1;
                let record = (world.records, owned.epoch);
                world.writers[at].sent = Some(Statement { row: owned.clone(), record });
                world.writers[at].waits = Some(world.records);
            });
        }
        // Trims are fenced in the same way; the whole of one is a step here.
        let is_owner =
            (self.row.epoch, self.row.owner, self.row.turn) == (owned.epoch, owned.owner, owned.turn);
        if self.trims < TRIMS && (is_owner || fence == Fence::None) && self.row.start < self.row.next {
            self.with(next, |world| {
                world.trims += 1;
                world.row.start = world.row.next;
                world.row.turn += 1;
                world.writers[at].owned = Some(world.row.clone());
            });
        }
    }

    fn arrivals_of(&self, at: usize, fence: Fence, next: &mut Vec<World>) {
        let writer = &self.writers[at];
        for index in 0..writer.late.len() {
            self.with(next, |world| {
                let statement = world.writers[at].late.remove(index);
                world.execute(&statement, fence);
            });
        }
        let Some(statement) = &writer.sent else { return };
        self.with(next, |world| {
            world.writers[at].reply = Some(world.execute(statement, fence));
            world.writers[at].sent = None;
        });
        if self.cuts < CUTS {
            // The connection is cut before it arrives; it may arrive all the same.
            self.with(next, |world| {
                world.cuts += 1;
                world.writers[at].sent = None;
                world.writers[at].late.push(statement.clone());
            });
        }
    }

    fn replies_of(&self, at: usize, fence: Fence, next: &mut Vec<World>) {
        let writer = &self.writers[at];
        let (Some(record), Some(owned)) = (writer.waits, &writer.owned) else { return };
        if let Some(done) = writer.reply {
            self.with(next, |world| world.told(at, record, done));
            if self.cuts < CUTS {
                self.with(next, |world| {
                    world.cuts += 1;
                    world.writers[at].reply = None;
                });
            }
            return;
        }
        if writer.sent.is_some() {
            return;
        }
        match fence {
            Fence::Hasty => self.with(next, |world| world.told(at, record, false)),
            Fence::Whole | Fence::Single => {
                self.with(next, |world| {
                    world.row.turn += turns(fence);
                    world.resolved(at, record, owned, fence);
                });
                if self.cuts < CUTS {
                    // Its own reply is lost: it will be asked again.
                    self.with(next, |world| {
                        world.cuts += 1;
                        world.row.turn += turns(fence);
                    });
                }
            }
            // Sent again, as what is next now.
            _ => self.with(next, |world| {
                let statement = Statement { row: owned.clone(), record: (record, owned.epoch) };
                world.writers[at].sent = Some(statement);
            }),
        }
    }

    /// The row was turned: what is late finds another turn. It then says what happened.
    fn resolved(&mut self, at: usize, record: u8, owned: &Row, fence: Fence) {
        if (self.row.epoch, self.row.owner) == (owned.epoch, owned.owner) {
            let moved = self.row.turn - owned.turn;
            let done = if fence == Fence::Single { moved > 1 } else { moved % 2 == 1 };
            if done {
                self.told(at, record, true);
                // Where it went is what was told; what the row says is what comes next.
                self.writers[at].owned = Some(self.row.clone());
            } else {
                let statement = Statement { row: self.row.clone(), record: (record, self.row.epoch) };
                self.writers[at].owned = Some(self.row.clone());
                self.writers[at].sent = Some(statement);
            }
        } else if self.row.last == record {
            self.told(at, record, true);
        } else if self.row.next <= owned.next {
            self.told(at, record, false);
        } else {
            // Others have written over it: unknown, and said to be.
            let late = std::mem::take(&mut self.writers[at].late);
            self.writers[at] = Writer { late, ..Writer::default() };
        }
    }

    fn execute(&mut self, statement: &Statement, fence: Fence) -> bool {
        let Statement { row, record } = statement;
        let now = &self.row;
        let is_owner = (now.epoch, now.owner) == (row.epoch, row.owner);
        let holds = match fence {
            Fence::Whole | Fence::Hasty | Fence::Single => {
                is_owner && (now.turn, now.next) == (row.turn, row.next)
            }
            Fence::None => true,
            Fence::Position => row.next >= now.next || row.next < now.start,
            Fence::Blind => is_owner,
        };
        if !holds {
            return false;
        }
        let at = if fence == Fence::Blind { now.next } else { row.next };
        self.into_the_past |= at < now.start;
        let offset = usize::from(at);
        self.log.resize_with(self.log.len().max(offset + 1), Vec::new);
        self.log[offset].push(*record);
        self.row.next = self.row.next.max(at + 1);
        self.row.turn += 1;
        self.row.last = record.0;
        true
    }

    fn told(&mut self, at: usize, record: u8, done: bool) {
        let writer = &mut self.writers[at];
        (writer.waits, writer.reply) = (None, None);
        match &mut writer.owned {
            Some(owned) if done => {
                self.acknowledged.push((owned.next, record));
                owned.next += 1;
                owned.turn += 1;
            }
            _ => {
                writer.owned = None;
                self.refused.push(record);
            }
        }
    }

    /// What is wrong, if anything is.
    fn fault(&self) -> Option<&'static str> {
        if self.into_the_past {
            return Some("a record came to where the log had been trimmed");
        }
        if self.log.iter().any(|there| there.len() > 1) {
            return Some("an offset holds two records");
        }
        let records: Vec<Record> = self.log.iter().flatten().copied().collect();
        let distinct: HashSet<u8> = records.iter().map(|record| record.0).collect();
        if distinct.len() < records.len() {
            return Some("a record is there twice");
        }
        if records.windows(2).any(|pair| pair[0].1 > pair[1].1) {
            return Some("a former owner wrote behind its successor");
        }
        let is_at = |(offset, record): &(u8, u8)| {
            self.log.get(usize::from(*offset)).is_some_and(|there| there.iter().any(|one| one.0 == *record))
        };
        if !self.acknowledged.iter().all(is_at) {
            return Some("an acknowledged record is not where it was said to be");
        }
        self.refused.iter().any(|record| distinct.contains(record)).then_some("what was refused is there")
    }
}

/// By how much a resolve turns the row.
fn turns(fence: Fence) -> u8 {
    if fence == Fence::Single { 1 } else { 2 }
}

/// Visits all states, but none behind one in which something is wrong, or until this is; how many, and what was wrong.
fn explore(fence: Fence, until: Option<&str>) -> (usize, BTreeSet<&'static str>) {
    let mut seen = HashSet::from([World::default()]);
    let mut waiting = VecDeque::from([World::default()]);
    let mut faults = BTreeSet::new();
    while let Some(world) = waiting.pop_front() {
        for next in world.steps(fence) {
            if let Some(fault) = next.fault() {
                faults.insert(fault);
                if until == Some(fault) {
                    return (seen.len(), faults);
                }
            } else if seen.insert(next.clone()) {
                waiting.push_back(next);
            }
        }
    }
    (seen.len(), faults)
}

#[test]
fn with_the_fence_nothing_is_ever_wrong() {
    let (states, faults) = explore(Fence::Whole, None);
    assert!(faults.is_empty(), "{faults:?}");
    assert!(states > 100_000, "only {states} states: not enough happens");
}

#[test]
fn without_any_part_of_it_something_is() {
    for (fence, fault) in [
        (Fence::None, "an offset holds two records"),
        (Fence::Position, "a record came to where the log had been trimmed"),
        (Fence::Blind, "a record is there twice"),
        (Fence::Hasty, "what was refused is there"),
        (Fence::Single, "an acknowledged record is not where it was said to be"),
    ] {
        let (_, faults) = explore(fence, Some(fault));
        assert!(faults.contains(fault), "{fence:?}: {faults:?}");
    }
}
