//! A random workload over an engine's core: what it asks, and what it has to remember to ask something sensible.
//!
//! **Invariants.** The same seed makes the same workload, whatever the disk does. What the engine answers is taken
//! for true and noted; whether it may be true, the checker says.
//!
//! Deliberately absent: threads, time, judgement.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use ferrymq_checker::{Pending, Survives, Terms, What};
use ferrymq_engine_local::Counters;
use ferrymq_engine_local::core::{Core, Done, Work};
use ferrymq_engine_local::mover::Moved;
use ferrymq_runtime::Rng;
use ferrymq_storage::{Action, Batch, Group, Op, ShareKey, SharedPart};
use ferrymq_types::{Durability, Epoch, LogId, Offset, OwnerId};

use super::journal::Journal;
use super::payload::{self, LENGTH_MIN, Writer};
use super::{OnAnswer, append, execute_noting};

mod answers;

/// Logs that the workload uses.
pub const LOGS: u64 = 6;

/// A batch that was acknowledged and not freed, as far as the owner knows.
#[derive(Debug, Clone)]
struct Known {
    span: u32,
    class: Durability,
}

/// A log as its owner knows it.
#[derive(Debug, Clone, Default)]
struct Log {
    epoch: u32,
    owner: u128,
    next: u64,
    batches: BTreeMap<u64, Known>,
    /// It was deleted, or perhaps.
    deleted: bool,
    /// Up to where it was read.
    read: u64,
}

/// What an owner has to do once a piece of work is answered.
enum Note {
    Claim(Vec<u64>, u128),
    Adds { log: u64, batches: Vec<(Batch, Terms, Writer)> },
    Frees { log: u64, from: u64, to: u64 },
    Deletes(u64),
}

/// What a step of the workload asks.
struct Asked {
    work: Work,
    notes: Vec<Note>,
}

/// A random workload.
pub struct Workload {
    pub rng: Rng,
    pub journal: Journal,
    /// Which classes appends have.
    classes: Vec<Durability>,
    logs: BTreeMap<u64, Log>,
    groups: u64,
    numbers: u64,
    /// What goes into several batches.
    bodies: BTreeMap<u64, ShareKey>,
    owners: u128,
    steps: u64,
    stale: Vec<(u64, u32, u128)>,
    /// Copied and not yet switched to.
    moving: Option<io::Result<Moved>>,
    /// Moves begun.
    pub moves: u64,
    /// Bytes that were not written because they lay there.
    pub shared: u64,
}

impl Workload {
    pub fn new(seed: u64, classes: &[Durability]) -> Workload {
        Workload {
            rng: Rng::seeded(seed),
            journal: Journal::default(),
            classes: classes.to_vec(),
            logs: BTreeMap::new(),
            groups: 0,
            numbers: 0,
            bodies: BTreeMap::new(),
            owners: 100,
            steps: 0,
            stale: Vec::new(),
            moving: None,
            moves: 0,
            shared: 0,
        }
    }

    /// The same past, sealed, with another future.
    pub fn fork(&self, seed: u64) -> Workload {
        Workload {
            rng: Rng::seeded(seed),
            journal: self.journal.future(),
            classes: self.classes.clone(),
            logs: self.logs.clone(),
            groups: self.groups,
            numbers: self.numbers,
            bodies: self.bodies.clone(),
            owners: self.owners + 1000,
            steps: self.steps,
            stale: self.stale.clone(),
            moving: None,
            moves: 0,
            shared: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// One round of several pieces of work. Whether the store still takes work.
    pub fn step(&mut self, core: &mut Core) -> bool {
        let mut asked = Vec::new();
        if self.logs.len() < 4 || self.below(12) == 0 {
            asked.extend(self.ask_claim());
        } else {
            for _ in 0..=self.below(4) {
                asked.extend(self.ask_group());
            }
        }
        self.execute(core, asked);
        // A move begins now and is finished in some later round.
        if self.below(3) == 0
            && let Some(moved) = self.moving.take()
        {
            // An error has stopped the core; that shows below.
            let _ = core.finish_move(moved);
        }
        if self.moving.is_none()
            && let Some(job) = core.plan_move()
        {
            self.moves += 1;
            self.moving = Some(job.run());
        }
        self.steps += 1;
        if self.steps.is_multiple_of(4) || core.is_stopped() {
            self.follow(core);
        }
        !core.is_stopped()
    }

    /// Does work and notes what came of it.
    fn execute(&mut self, core: &mut Core, asked: Vec<Asked>) {
        let (work, notes): (Vec<Work>, Vec<Vec<Note>>) =
            asked.into_iter().map(|asked| (asked.work, asked.notes)).unzip();
        let on_answer = self.on_answer(&notes);
        let saved = |core: &Core| Counters::get(&core.reader().counters().bytes_shared);
        let before = saved(core);
        let done = execute_noting(core, work, on_answer);
        self.shared += saved(core) - before;
        for (done, notes) in done.into_iter().zip(notes) {
            match done {
                Done::Claim(result) => {
                    let claims =
                        result.map(|claims| claims.iter().map(|it| (it.epoch.0, it.next.0)).collect());
                    notes.into_iter().for_each(|note| self.note_claim(note, &claims));
                }
                Done::Group(result) => self.note_group(notes, &result),
            }
        }
    }

    /// Notes in the disk's trace what is acknowledged, at the moment at which it is.
    fn on_answer(&self, notes: &[Vec<Note>]) -> OnAnswer {
        let Some(disk) = self.journal.trace.clone() else { return Arc::new(|_, _| {}) };
        let synced = |note: &Note| match note {
            Note::Adds { batches, .. } => batches.iter().map(|(batch, ..)| batch.clone()).collect(),
            _ => Vec::new(),
        };
        let batches: Vec<Vec<Batch>> =
            notes.iter().map(|notes| notes.iter().flat_map(synced).collect()).collect();
        Arc::new(move |index, done| {
            if matches!(done, Done::Group(Ok(()))) {
                batches[index].iter().for_each(|batch| Journal::acked(&disk, batch));
            }
        })
    }

    /// A reader that follows the logs, one at a time; all of them once the store takes no more work.
    fn follow(&mut self, core: &Core) {
        let one = self.steps / 4 % LOGS;
        let living = self.logs.iter_mut().filter(|(_, log)| !log.deleted && log.epoch > 0);
        for (id, log) in living.filter(|(id, _)| core.is_stopped() || **id == one) {
            let reader = core.reader();
            if let Ok(stat) = reader.stat(*id)
                && let Ok(end) = self.journal.read(&reader, *id, log.read, stat.next.0, false)
            {
                log.read = end;
            }
        }
    }

    /// Reads everything.
    pub fn look(&mut self, core: &Core, last: bool) {
        self.journal.look(&core.reader(), self.logs.keys().copied(), last);
    }

    /// What an owner does after a restart: it claims all its logs.
    pub fn claim_all(&mut self, core: &mut Core) {
        let living = |log: &Log| !log.deleted && log.epoch > 0;
        let logs: Vec<u64> = self.logs.iter().filter(|(_, log)| living(log)).map(|(id, _)| *id).collect();
        self.owners += 1;
        let asked = claim_of(logs, self.owners);
        self.execute(core, vec![asked]);
    }

    /// The process has ended and begins anew. What was asked for and not acknowledged may not have happened.
    pub fn restarted(&mut self, power_cut: bool) -> Pending {
        self.moving = None;
        for log in self.logs.values_mut() {
            log.batches.retain(|_, known| known.class == Durability::Sync);
            log.read = 0;
        }
        self.journal.begin(What::Restart { power_cut })
    }

    fn ask_claim(&mut self) -> Option<Asked> {
        let first = self.below(LOGS);
        let logs: Vec<u64> = (0..LOGS)
            .map(|at| (first + at) % LOGS)
            .take(1 + usize::try_from(self.below(4)).unwrap())
            .filter(|log| self.logs.get(log).is_none_or(|log| !log.deleted))
            .collect();
        if logs.is_empty() {
            return None;
        }
        self.owners += 1;
        for log in &logs {
            let entry = self.logs.entry(*log).or_default();
            if entry.epoch > 0 {
                self.stale.push((*log, entry.epoch, entry.owner));
            }
        }
        Some(claim_of(logs, self.owners))
    }

    fn pick_log(&self) -> Option<u64> {
        let living: Vec<u64> =
            self.logs.iter().filter(|(_, log)| !log.deleted && log.epoch > 0).map(|(id, _)| *id).collect();
        living.get(usize::try_from(self.below(living.len() as u64)).unwrap()).copied()
    }

    fn ask_group(&mut self) -> Option<Asked> {
        let log = self.pick_log()?;
        if self.below(10) == 0
            && let Some(stale) = self.stale.last().copied()
        {
            return Some(self.ask_stale(stale));
        }
        match self.below(14) {
            0 => Some(self.ask_free(log, true)),
            1 | 2 => Some(self.ask_free(log, false)),
            3 => self.ask_replace(log),
            4 if self.below(4) == 0 => Some(self.ask_delete(log)),
            5 | 6 => {
                let other = self.pick_log().filter(|other| *other != log);
                Some(self.ask_append(std::iter::once(log).chain(other).collect()))
            }
            _ => Some(self.ask_append(vec![log])),
        }
    }

    fn batch(&mut self, writer: Writer, base: u64, span: u32, length: usize) -> Batch {
        self.numbers += 1;
        let mut batch = payload::batch(writer, self.numbers, base, span, length);
        if let Some((body, range)) = payload::body(self.numbers, length) {
            let key = *self.bodies.entry(body).or_insert_with(ShareKey::new);
            let (at, bytes) = (u32::try_from(range.start).unwrap(), u32::try_from(range.len()).unwrap());
            batch.shared.push(SharedPart { key, at, bytes });
        }
        batch
    }

    fn span(&self) -> u32 {
        1 + u32::try_from(self.below(5)).unwrap()
    }

    /// An append by somebody who lost the log.
    fn ask_stale(&mut self, (id, epoch, owner): (u64, u32, u128)) -> Asked {
        let next = self.logs[&id].next;
        let span = self.span();
        let batch = self.batch(Writer::Stale, next, span, 100);
        let terms = Terms { span, epoch: Some(epoch), ..Terms::default() };
        let op = append(id, epoch, owner, next, Durability::Sync, vec![batch.clone()]);
        let note = Note::Adds { log: id, batches: vec![(batch, terms, Writer::Stale)] };
        Asked { work: Work::Group(vec![op]), notes: vec![note] }
    }

    fn ask_append(&mut self, logs: Vec<u64>) -> Asked {
        self.groups += 1;
        let (mut group, mut notes): (Group, Vec<Note>) = (Vec::new(), Vec::new());
        let owner = self.logs[&logs[0]].owner;
        for id in logs {
            if self.logs[&id].owner != owner {
                continue;
            }
            let class = self.classes[usize::try_from(self.below(self.classes.len() as u64)).unwrap()];
            let (expect, epoch) = (self.logs[&id].next, self.logs[&id].epoch);
            let mut next = expect + if self.below(8) == 0 { self.below(9) } else { 0 };
            let mut batches = Vec::new();
            for _ in 0..=self.below(2) {
                let large = self.below(4) == 0;
                let length =
                    LENGTH_MIN + usize::try_from(self.below(if large { 6000 } else { 600 })).unwrap();
                let span = self.span();
                let batch = self.batch(Writer::Owner, next, span, length);
                next = batch.next().0;
                let survives = survives(class);
                let terms =
                    Terms { span, epoch: Some(epoch), group: Some(self.groups), survives, replaces: false };
                batches.push((batch, terms, Writer::Owner));
            }
            self.logs.get_mut(&id).unwrap().next = next;
            let plain = batches.iter().map(|(batch, ..)| batch.clone()).collect();
            group.push(append(id, epoch, owner, expect, class, plain));
            notes.push(Note::Adds { log: id, batches });
        }
        Asked { work: Work::Group(group), notes }
    }

    fn op(&self, id: u64, action: Action) -> Work {
        let log = &self.logs[&id];
        Work::Group(vec![Op { log: LogId(id), epoch: Epoch(log.epoch), owner: OwnerId(log.owner), action }])
    }

    fn ask_free(&mut self, id: u64, trim: bool) -> Asked {
        let next = self.logs[&id].next;
        let from = if trim { 0 } else { self.below(next + 1) };
        let all = trim && self.below(4) == 0;
        let to = if all { next } else { from + self.below((next - from) * 3 / 4 + 1) };
        let range = Offset(from)..Offset(to);
        let action = if trim { Action::Trim(Offset(to)) } else { Action::Discard(Vec::from([range])) };
        Asked { work: self.op(id, action), notes: vec![Note::Frees { log: id, from, to }] }
    }

    /// Puts one batch in place of one that is surely there.
    fn ask_replace(&mut self, id: u64) -> Option<Asked> {
        let log = &self.logs[&id];
        let there = log.batches.iter().find(|(_, known)| known.class == Durability::Sync);
        let (base, span) = there.map(|(base, known)| (*base, known.span))?;
        self.groups += 1;
        let batch = self.batch(Writer::Replacer, base, span, 50);
        let terms = Terms { span, group: Some(self.groups), replaces: true, ..Terms::default() };
        let (from, to) = (base, base + u64::from(span));
        let action = Action::Replace { range: Offset(from)..Offset(to), batches: vec![batch.clone()] };
        let adds = Note::Adds { log: id, batches: vec![(batch, terms, Writer::Replacer)] };
        Some(Asked { work: self.op(id, action), notes: vec![Note::Frees { log: id, from, to }, adds] })
    }

    fn ask_delete(&mut self, id: u64) -> Asked {
        self.logs.get_mut(&id).unwrap().deleted = true;
        Asked { work: self.op(id, Action::Delete), notes: vec![Note::Deletes(id)] }
    }
}

fn claim_of(logs: Vec<u64>, owner: u128) -> Asked {
    let ids = logs.iter().map(|log| LogId(*log)).collect();
    Asked { work: Work::Claim { logs: ids, owner: OwnerId(owner) }, notes: vec![Note::Claim(logs, owner)] }
}

fn survives(class: Durability) -> Survives {
    match class {
        Durability::Sync => Survives::PowerCut,
        Durability::Os => Survives::Kill,
        Durability::Memory => Survives::Nothing,
    }
}
