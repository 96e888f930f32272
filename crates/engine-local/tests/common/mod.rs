//! A model of what was promised, a random workload over it, and the comparison with what a store shows.
//!
//! **Invariant.** The same seed makes the same workload, whatever the disk does.
//!
//! Deliberately absent: threads, tokio, time.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_disk::{Disk, SimDisk};
use ferrymq_engine_local::core::{Core, Done, Submission, Work};
use ferrymq_engine_local::mover::Moved;
use ferrymq_engine_local::read::Reader;
use ferrymq_engine_local::{Options, SeededBug};
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::{Action, Append, Batch, ErrorKind, Group, Op, Space, StorageError};
use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};
use parking_lot::Mutex;

/// Whether something certainly happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    No,
    Perhaps,
    Yes,
}

/// A batch that was asked to be appended.
#[derive(Debug, Clone)]
pub struct Known {
    pub span: u32,
    pub bytes: Bytes,
    pub class: Durability,
    pub group: u64,
    pub there: Fact,
    pub freed: Fact,
}

/// A log as its owner knows it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub epoch: u32,
    pub owner: u128,
    pub next: u64,
    pub batches: BTreeMap<u64, Vec<Known>>,
    pub deleted: Option<Fact>,
}

/// All that was asked for and promised.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub logs: BTreeMap<u64, Log>,
    pub groups: u64,
}

pub fn bytes_of(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    Bytes::from(out)
}

pub fn open(disk: &SimDisk, options: &Options) -> Result<Core, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Core::open(disk, options.clone(), Clock::starting_at(0), &Rng::seeded(7))
}

pub fn tiny(bug: Option<SeededBug>) -> Options {
    Options { seeded_bug: bug, ..Options::tiny() }
}

/// Does work and returns what came of each piece.
pub fn execute(core: &mut Core, work: Vec<Work>) -> Vec<Done> {
    let answers: Arc<Mutex<BTreeMap<usize, Done>>> = Arc::default();
    let submissions = work.into_iter().enumerate().map(|(index, work)| {
        let answers = answers.clone();
        let reply = Box::new(move |done| {
            assert!(answers.lock().insert(index, done).is_none(), "answered twice");
        });
        Submission { work, reply }
    });
    core.execute(submissions.collect());
    Arc::try_unwrap(answers).expect("all replies are gone").into_inner().into_values().collect()
}

pub fn append(log: u64, epoch: u32, owner: u128, next: u64, class: Durability, batches: Vec<Batch>) -> Op {
    Op {
        log: LogId(log),
        epoch: Epoch(epoch),
        owner: OwnerId(owner),
        action: Action::Append(Append {
            expect_next: Offset(next),
            commit_id: CommitId { writer: 1, sequence: next },
            class,
            space: Space::Normal,
            batches,
        }),
    }
}

pub fn claim(core: &mut Core, logs: &[u64], owner: u128) -> Vec<ferrymq_storage::Claim> {
    let logs = logs.iter().map(|log| LogId(*log)).collect();
    match execute(core, vec![Work::Claim { logs, owner: OwnerId(owner) }]).remove(0) {
        Done::Claim(result) => result.expect("a claim of living logs on a good disk succeeds"),
        Done::Group(_) => unreachable!("a claim was asked for"),
    }
}

/// What a step of the workload asks and what to note when it is done.
struct Asked {
    work: Work,
    note: Note,
}

enum Note {
    Claim(Vec<u64>, u128),
    Group { adds: Vec<(u64, u64)>, frees: Vec<(u64, u64)>, deletes: Option<u64> },
    MustFail,
}

/// A random workload.
pub struct Workload {
    pub rng: Rng,
    pub model: Model,
    /// Which classes appends have.
    pub classes: Vec<Durability>,
    owners: u128,
    stale: Vec<(u64, u32, u128)>,
    /// Copied and not yet switched to.
    moving: Option<io::Result<Moved>>,
    /// Moves begun.
    pub moves: u64,
}

impl Workload {
    pub fn new(seed: u64, classes: &[Durability]) -> Workload {
        Workload {
            rng: Rng::seeded(seed),
            model: Model::default(),
            classes: classes.to_vec(),
            owners: 100,
            stale: Vec::new(),
            moving: None,
            moves: 0,
        }
    }

    /// The same promises with another future.
    pub fn fork(&self, seed: u64) -> Workload {
        Workload {
            rng: Rng::seeded(seed),
            model: self.model.clone(),
            classes: self.classes.clone(),
            owners: self.owners + 1000,
            stale: self.stale.clone(),
            moving: None,
            moves: 0,
        }
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// One round of several pieces of work. Whether the store still takes work.
    pub fn step(&mut self, core: &mut Core) -> bool {
        let mut asked = Vec::new();
        if self.model.logs.len() < 4 || self.below(12) == 0 {
            asked.extend(self.ask_claim());
        } else {
            for _ in 0..=self.below(4) {
                asked.extend(self.ask_group());
            }
        }
        let (work, notes): (Vec<Work>, Vec<Note>) =
            asked.into_iter().map(|asked| (asked.work, asked.note)).unzip();
        let done = execute(core, work);
        for (done, note) in done.into_iter().zip(notes) {
            self.note(done, note);
        }
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
        !core.is_stopped()
    }

    /// What an owner does after a restart: it claims all its logs.
    pub fn claim_all(&mut self, core: &mut Core) {
        let living = |log: &Log| log.deleted.is_none() && log.epoch > 0;
        let logs: Vec<u64> =
            self.model.logs.iter().filter(|(_, log)| living(log)).map(|(id, _)| *id).collect();
        self.owners += 1;
        let ids = logs.iter().map(|log| LogId(*log)).collect();
        let work = Work::Claim { logs: ids, owner: OwnerId(self.owners) };
        let done = execute(core, vec![work]).remove(0);
        self.note(done, Note::Claim(logs, self.owners));
    }

    fn ask_claim(&mut self) -> Option<Asked> {
        let first = self.below(6);
        let logs: Vec<u64> = (0..6)
            .map(|at| (first + at) % 6)
            .take(1 + usize::try_from(self.below(4)).unwrap())
            .filter(|log| self.model.logs.get(log).is_none_or(|log| log.deleted.is_none()))
            .collect();
        if logs.is_empty() {
            return None;
        }
        self.owners += 1;
        for log in &logs {
            let entry = self.model.logs.entry(*log).or_default();
            if entry.epoch > 0 {
                self.stale.push((*log, entry.epoch, entry.owner));
            }
        }
        let owner = self.owners;
        let ids = logs.iter().map(|log| LogId(*log)).collect();
        Some(Asked { work: Work::Claim { logs: ids, owner: OwnerId(owner) }, note: Note::Claim(logs, owner) })
    }

    fn pick_log(&self) -> Option<u64> {
        let living: Vec<u64> = self
            .model
            .logs
            .iter()
            .filter(|(_, log)| log.deleted.is_none() && log.epoch > 0)
            .map(|(id, _)| *id)
            .collect();
        living.get(usize::try_from(self.below(living.len() as u64)).unwrap()).copied()
    }

    fn ask_group(&mut self) -> Option<Asked> {
        let log = self.pick_log()?;
        if self.below(10) == 0
            && let Some((log, epoch, owner)) = self.stale.last().copied()
        {
            let next = self.model.logs[&log].next;
            let batch = self.batch(next, 100);
            let op = append(log, epoch, owner, next, Durability::Sync, vec![batch]);
            return Some(Asked { work: Work::Group(vec![op]), note: Note::MustFail });
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

    fn batch(&self, base: u64, length: usize) -> Batch {
        let span = 1 + u32::try_from(self.below(5)).unwrap();
        Batch {
            base: Offset(base),
            span,
            max_timestamp: i64::try_from(self.below(1000)).unwrap(),
            bytes: bytes_of(self.rng.next_u64(), length),
        }
    }

    fn ask_append(&mut self, logs: Vec<u64>) -> Asked {
        self.model.groups += 1;
        let mut group: Group = Vec::new();
        let mut adds = Vec::new();
        let owner = self.model.logs[&logs[0]].owner;
        for id in logs {
            if self.model.logs[&id].owner != owner {
                continue;
            }
            let class = self.classes[usize::try_from(self.below(self.classes.len() as u64)).unwrap()];
            let expect = self.model.logs[&id].next;
            let mut next = expect + if self.below(8) == 0 { self.below(9) } else { 0 };
            let mut batches = Vec::new();
            for _ in 0..=self.below(2) {
                let large = self.below(4) == 0;
                let length = 1 + usize::try_from(self.below(if large { 6000 } else { 600 })).unwrap();
                let batch = self.batch(next, length);
                next = batch.next().0;
                batches.push(batch);
            }
            let log = self.model.logs.get_mut(&id).unwrap();
            for batch in &batches {
                let known = Known {
                    span: batch.span,
                    bytes: batch.bytes.clone(),
                    class,
                    group: self.model.groups,
                    there: Fact::Perhaps,
                    freed: Fact::No,
                };
                log.batches.entry(batch.base.0).or_default().push(known);
                adds.push((id, batch.base.0));
            }
            log.next = next;
            group.push(append(id, log.epoch, log.owner, expect, class, batches));
        }
        Asked { work: Work::Group(group), note: Note::Group { adds, frees: Vec::new(), deletes: None } }
    }

    fn ask_free(&mut self, id: u64, trim: bool) -> Asked {
        let next = self.model.logs[&id].next;
        let from = if trim { 0 } else { self.below(next + 1) };
        let all = trim && self.below(4) == 0;
        let to = if all { next } else { from + self.below((next - from) * 3 / 4 + 1) };
        let frees = self.free(id, from, to);
        let log = &self.model.logs[&id];
        let range = Offset(from)..Offset(to);
        let action = if trim { Action::Trim(Offset(to)) } else { Action::Discard(Vec::from([range])) };
        let op = Op { log: LogId(id), epoch: Epoch(log.epoch), owner: OwnerId(log.owner), action };
        Asked { work: Work::Group(vec![op]), note: Note::Group { adds: Vec::new(), frees, deletes: None } }
    }

    fn free(&mut self, id: u64, from: u64, to: u64) -> Vec<(u64, u64)> {
        let log = self.model.logs.get_mut(&id).unwrap();
        let mut freed = Vec::new();
        for (base, versions) in log.batches.range_mut(from..to) {
            for known in versions.iter_mut() {
                if base + u64::from(known.span) <= to && known.freed == Fact::No {
                    known.freed = Fact::Perhaps;
                    freed.push((id, *base));
                }
            }
        }
        freed
    }

    /// Puts one batch in place of one that is surely there.
    fn ask_replace(&mut self, id: u64) -> Option<Asked> {
        let log = &self.model.logs[&id];
        let there = |known: &Known| {
            known.freed == Fact::No && known.there == Fact::Yes && known.class == Durability::Sync
        };
        let (base, span) = log
            .batches
            .iter()
            .find_map(|(base, all)| all.iter().find(|known| there(known)).map(|known| (*base, known.span)))?;
        let frees = self.free(id, base, base + u64::from(span));
        self.model.groups += 1;
        let mut batch = self.batch(base, 50);
        batch.span = span;
        let log = self.model.logs.get_mut(&id).unwrap();
        log.batches.entry(base).or_default().push(Known {
            span,
            bytes: batch.bytes.clone(),
            class: Durability::Sync,
            group: self.model.groups,
            there: Fact::Perhaps,
            freed: Fact::No,
        });
        let range = Offset(base)..Offset(base + u64::from(span));
        let action = Action::Replace { range, batches: vec![batch] };
        let op = Op { log: LogId(id), epoch: Epoch(log.epoch), owner: OwnerId(log.owner), action };
        let note = Note::Group { adds: vec![(id, base)], frees, deletes: None };
        Some(Asked { work: Work::Group(vec![op]), note })
    }

    fn ask_delete(&mut self, id: u64) -> Asked {
        let log = self.model.logs.get_mut(&id).unwrap();
        log.deleted = Some(Fact::Perhaps);
        let op =
            Op { log: LogId(id), epoch: Epoch(log.epoch), owner: OwnerId(log.owner), action: Action::Delete };
        let note = Note::Group { adds: Vec::new(), frees: Vec::new(), deletes: Some(id) };
        Asked { work: Work::Group(vec![op]), note }
    }

    fn note(&mut self, done: Done, note: Note) {
        match (done, note) {
            (Done::Claim(Ok(claims)), Note::Claim(logs, owner)) => {
                for (claim, id) in claims.iter().zip(logs) {
                    let log = self.model.logs.get_mut(&id).unwrap();
                    assert!(claim.epoch.0 > log.epoch, "an epoch did not rise");
                    assert!(claim.next.0 >= log.next, "log {id} fell back to {}", claim.next);
                    (log.epoch, log.owner, log.next) = (claim.epoch.0, owner, claim.next.0);
                }
            }
            (Done::Group(result), Note::MustFail) => {
                let error = result.expect_err("a fenced owner's append took effect");
                let kinds = [ErrorKind::Fenced, ErrorKind::NotFound, ErrorKind::Closed];
                assert!(kinds.contains(&error.kind()), "wrong refusal: {error:?}");
            }
            (Done::Group(result), Note::Group { adds, frees, deletes }) => {
                let fact = match result {
                    Ok(()) => Fact::Yes,
                    Err(error) if error.kind() == ErrorKind::Unknown => return,
                    Err(error) if error.kind() == ErrorKind::Closed => Fact::No,
                    // The log was deleted in the same round.
                    Err(error) if error.kind() == ErrorKind::NotFound => Fact::No,
                    // No space or no index: this one and what builds on it.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::Full | ErrorKind::Conflict | ErrorKind::Unavailable
                        ) =>
                    {
                        Fact::No
                    }
                    Err(error) => panic!("unexpected refusal: {error:?}"),
                };
                for (id, base) in adds {
                    let log = self.model.logs.get_mut(&id).unwrap();
                    log.batches.get_mut(&base).unwrap().last_mut().unwrap().there = fact;
                }
                for (id, base) in frees {
                    let log = self.model.logs.get_mut(&id).unwrap();
                    let known = log.batches.get_mut(&base).unwrap();
                    let known = known.iter_mut().find(|known| known.freed == Fact::Perhaps).unwrap();
                    known.freed = fact;
                }
                if let Some(id) = deletes {
                    let log = self.model.logs.get_mut(&id).unwrap();
                    log.deleted = if fact == Fact::No { None } else { Some(fact) };
                }
            }
            (Done::Claim(Err(_)), _) => {}
            (done, _) => panic!("the wrong kind of answer: {done:?}"),
        }
    }

    /// The process has ended and a new one begins: what was of class `Memory` is gone.
    pub fn restarted(&mut self, power_cut: bool) {
        self.moving = None;
        for log in self.model.logs.values_mut() {
            // What was asked for and not acknowledged may not have happened.
            let given = log.batches.iter().filter_map(|(base, all)| {
                let known = all.iter().find(|known| known.there == Fact::Yes)?;
                Some(base + u64::from(known.span))
            });
            log.next = given.max().unwrap_or(0);
            for known in log.batches.values_mut().flatten() {
                if known.class == Durability::Memory {
                    known.there = Fact::No;
                }
                if power_cut && known.class == Durability::Os && known.there == Fact::Yes {
                    known.there = Fact::Perhaps;
                }
            }
        }
    }
}

/// Everything a log shows, each batch with its bytes.
pub fn show(reader: &Reader, log: u64) -> Result<Vec<(u64, u32, Bytes)>, StorageError> {
    let heads = reader.headers(log, 0, usize::MAX, 0)?;
    let mut out = Vec::new();
    for head in heads {
        let read = reader.read(log, head.base.0, head.base.0 + 1, 1)?;
        assert_eq!(read.runs.len(), 1, "one batch was asked for");
        assert_eq!((read.runs[0].base, read.runs[0].bytes.len()), (head.base, head.size as usize));
        out.push((head.base.0, head.span, read.runs[0].bytes.clone()));
    }
    Ok(out)
}

/// Compares a store with the model; what is wrong, if anything.
pub fn compare(model: &Model, reader: &Reader) -> Result<(), String> {
    let health = reader.health();
    if !health.damage.is_empty() {
        return Err(format!("damage reported: {:?}", health.damage));
    }
    let mut whole: HashMap<u64, (bool, bool)> = HashMap::new();
    for (id, log) in &model.logs {
        let shown = match show(reader, *id) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if log.deleted.is_none() && log.epoch > 0 {
                    return Err(format!("log {id} is gone"));
                }
                continue;
            }
            Err(error) => return Err(format!("log {id}: {error:?}")),
            Ok(shown) => shown,
        };
        if log.deleted == Some(Fact::Yes) {
            return Err(format!("deleted log {id} is back"));
        }
        check_log(*id, log, &shown, reader, &mut whole)?;
    }
    match whole.iter().find(|(_, seen)| **seen == (true, true)) {
        Some((group, _)) => Err(format!("group {group} is there in part")),
        None => Ok(()),
    }
}

fn check_log(
    id: u64,
    log: &Log,
    shown: &[(u64, u32, Bytes)],
    reader: &Reader,
    whole: &mut HashMap<u64, (bool, bool)>,
) -> Result<(), String> {
    for pair in shown.windows(2) {
        if pair[1].0 < pair[0].0 + u64::from(pair[0].1) {
            return Err(format!("log {id}: batches overlap at {}", pair[1].0));
        }
    }
    let stat = reader.stat(id).map_err(|error| format!("log {id}: {error:?}"))?;
    let bytes: u64 = shown.iter().map(|batch| batch.2.len() as u64).sum();
    if stat.bytes != bytes {
        return Err(format!("log {id}: stat says {} bytes, {bytes} are shown", stat.bytes));
    }
    if stat.epoch.0 < log.epoch {
        return Err(format!("log {id}: epoch fell to {}", stat.epoch));
    }
    let found: HashMap<u64, &(u64, u32, Bytes)> = shown.iter().map(|batch| (batch.0, batch)).collect();
    for (base, span, bytes) in shown {
        let versions = log.batches.get(base).map(Vec::as_slice).unwrap_or_default();
        let known = versions.iter().find(|known| known.bytes == *bytes && known.span == *span);
        match known {
            None => return Err(format!("log {id}: a batch nobody appended at {base}")),
            Some(known) if known.there == Fact::No => {
                return Err(format!("log {id}: a refused or volatile batch at {base}"));
            }
            Some(known) if known.freed == Fact::Yes => {
                return Err(format!("log {id}: a freed batch is back at {base}"));
            }
            Some(_) => {}
        }
    }
    for (base, known) in log.batches.iter().flat_map(|(base, all)| all.iter().map(move |known| (base, known)))
    {
        let is_shown = found.get(base).is_some_and(|batch| batch.2 == known.bytes);
        if known.there == Fact::Yes && known.freed == Fact::No && log.deleted.is_none() && !is_shown {
            return Err(format!("log {id}: an acknowledged batch is lost at {base}"));
        }
        if known.there == Fact::Yes && stat.next.0 < base + u64::from(known.span) && log.deleted.is_none() {
            return Err(format!("log {id}: next fell back to {}", stat.next));
        }
        if known.there == Fact::Perhaps
            && known.freed == Fact::No
            && known.class == Durability::Sync
            && log.deleted.is_none()
        {
            let seen = whole.entry(known.group).or_default();
            if is_shown { seen.0 = true } else { seen.1 = true }
        }
    }
    Ok(())
}
