//! The faults: each runs a workload, breaks something and hands every state that may follow to a judge.
//!
//! **Invariant.** What a fault is shown to find with a seeded bug is found by the same code that must find nothing
//! without one.
//!
//! Deliberately absent: what is to be found; see `crash.rs`.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ferrymq_checker::crash::CrashSubject;
use ferrymq_checker::{Expectations, Terms, What, trace};
use ferrymq_disk::sim::{Failure, Fault, OpKind};
use ferrymq_disk::{Disk, SimDisk};
use ferrymq_engine_local::SeededBug;
use ferrymq_engine_local::core::{Core, Done, Work};
use ferrymq_runtime::Rng;
use ferrymq_types::{Durability, LogId, OwnerId};

use super::journal::{Journal, Verdict};
use super::payload::{self, Writer};
use super::workload::Workload;
use super::{append, claim, execute, open, tiny};

const ALL_CLASSES: [Durability; 3] = [Durability::Sync, Durability::Os, Durability::Memory];

/// What a fault needs to know: the bug, and what to do with each state's verdict.
pub struct Trial<'a> {
    pub bug: Option<SeededBug>,
    /// Gets the place and the verdict; says whether to go on.
    pub judge: &'a mut dyn FnMut(&str, Verdict) -> ControlFlow<()>,
    /// States judged.
    pub states: u64,
    /// Sends acknowledged and records read after faults.
    pub after: (usize, usize),
}

impl<'a> Trial<'a> {
    pub fn new(
        bug: Option<SeededBug>,
        judge: &'a mut dyn FnMut(&str, Verdict) -> ControlFlow<()>,
    ) -> Trial<'a> {
        Trial { bug, judge, states: 0, after: (0, 0) }
    }

    fn open(&self, disk: &SimDisk) -> Result<Core, ferrymq_storage::StorageError> {
        open(disk, &tiny(self.bug))
    }

    fn judge(&mut self, place: &str, journal: &Journal, expected: &Expectations) -> ControlFlow<()> {
        self.states += 1;
        (self.judge)(place, journal.judge(expected))
    }
}

/// Where a fault may leave little, the floor is that of the run without it.
fn without_floor() -> Expectations {
    Expectations { sends_min: 0, records_min: 0, ..Expectations::default() }
}

/// Runs `rounds` rounds, now and then stopping cleanly or dying and starting again.
fn run(disk: &SimDisk, seed: u64, rounds: u64, trial: &Trial<'_>, traced: bool) -> Workload {
    let only_sync = traced || seed.is_multiple_of(2);
    let classes = if only_sync { &ALL_CLASSES[..1] } else { &ALL_CLASSES[..] };
    let mut workload = Workload::new(seed, classes);
    workload.journal.trace = traced.then(|| disk.clone());
    let Ok(mut core) = trial.open(disk) else { return workload };
    for round in 0..rounds {
        if round % 16 == 15 {
            let clean = workload.rng.below(2) == 0;
            if clean && core.stop().is_err() {
                return workload;
            }
            drop(core);
            let restart = workload.restarted(false);
            core = match trial.open(disk) {
                Ok(core) => core,
                // The disk's fault; what comes of it is seen after the fault.
                Err(_) => return workload,
            };
            restart.ok();
            workload.claim_all(&mut core);
        }
        if !workload.step(&mut core) {
            break;
        }
    }
    workload
}

/// Starts on what a fault left. `None`, and noted, if it does not start.
fn start(workload: &mut Workload, disk: &SimDisk, power_cut: bool, trial: &Trial<'_>) -> Option<Core> {
    let restart = workload.restarted(power_cut);
    match trial.open(disk) {
        Ok(core) => {
            restart.ok();
            Some(core)
        }
        Err(error) => {
            restart.fail();
            workload.journal.besides(format!("cannot start: {error:?}"));
            None
        }
    }
}

/// No fault but restarts; how many moves there were, and how many bytes were not written because they lay there.
pub fn restarts(seed: u64, trial: &mut Trial<'_>) -> (ControlFlow<()>, (u64, u64)) {
    let disk = SimDisk::new(seed);
    let mut workload = run(&disk, seed, 60, trial, false);
    if let Some(core) = start(&mut workload, &disk, false, trial) {
        workload.look(&core, true);
    }
    let expected = Expectations { sends_min: 30, records_min: 30, ..Expectations::default() };
    (trial.judge(&format!("seed {seed}"), &workload.journal, &expected), (workload.moves, workload.shared))
}

/// No fault at all; every acknowledgement is held against the disk's trace.
pub fn traced(seed: u64, trial: &mut Trial<'_>) -> ControlFlow<()> {
    let disk = SimDisk::new(seed);
    disk.start_trace();
    run(&disk, seed, 60, trial, true);
    trial.states += 1;
    let verdict = Verdict { report: trace::check(&disk.trace()), besides: Vec::new() };
    (trial.judge)(&format!("seed {seed}, traced"), verdict)
}

/// Cuts the power at each second step and looks at `cuts` of the states it may leave.
pub fn power_cuts(seed: u64, cuts: u64, trial: &mut Trial<'_>) -> ControlFlow<()> {
    const ROUNDS: u64 = 48;
    let disk = SimDisk::new(seed);
    let mut workload = run(&disk, seed, ROUNDS, trial, false);
    if let Some(core) = start(&mut workload, &disk.kill(), false, trial) {
        workload.look(&core, true);
    }
    // Any seed does something; that all together do enough, the test says. Everything may be trimmed in the end.
    let expected = Expectations { sends_min: 10, ..without_floor() };
    trial.judge(&format!("seed {seed} without a cut"), &workload.journal, &expected)?;
    let steps = disk.counts().steps();
    for step in (1..steps).step_by(2) {
        let disk = SimDisk::new(seed);
        disk.stop_at(step);
        let mut workload = run(&disk, seed, ROUNDS, trial, false);
        workload.journal.seal();
        for cut in 0..cuts {
            let left = if cut == 0 { disk.crash_to_synced() } else { disk.crash(seed * 1000 + cut) };
            after_crash(
                &format!("seed {seed} step {step} of {steps} cut {cut}"),
                left,
                &workload,
                cut,
                trial,
            )?;
        }
    }
    ControlFlow::Continue(())
}

/// Lets the first `count` of these operations fail, one a run, and cuts the power later.
pub fn failures(kinds: &[OpKind], path: &str, count: u64, trial: &mut Trial<'_>) -> ControlFlow<()> {
    (1..=count).try_for_each(|nth| failure(kinds, path, nth, 120, trial))
}

/// Lets a sync of the WAL fail, one a run, and cuts the power within a few rounds, before everything is trimmed.
pub fn failing_syncs(count: u64, trial: &mut Trial<'_>) -> ControlFlow<()> {
    (1..=count).try_for_each(|nth| failure(&[OpKind::SyncData], "wal/", nth, nth + 3, trial))
}

fn failure(kinds: &[OpKind], path: &str, nth: u64, rounds: u64, trial: &mut Trial<'_>) -> ControlFlow<()> {
    let disk = SimDisk::new(nth);
    disk.order(Fault::nth(kinds, nth, Failure::Eio).at(path));
    let mut workload = run(&disk, nth % 7, rounds, trial, false);
    workload.journal.seal();
    for cut in 0..3 {
        let left = if cut == 0 { disk.crash_to_synced() } else { disk.crash(cut) };
        left.clear_faults();
        after_crash(&format!("failure {nth} of {kinds:?} cut {cut}"), left, &workload, cut, trial)?;
    }
    ControlFlow::Continue(())
}

/// What must hold after a crash, and after another one during recovery, and for the life after it.
pub fn after_crash(
    place: &str,
    mut left: SimDisk,
    workload: &Workload,
    cut: u64,
    trial: &mut Trial<'_>,
) -> ControlFlow<()> {
    if cut % 2 == 1 {
        let again = left.crash(cut);
        again.stop_at(1 + cut * 7 % 23);
        drop(trial.open(&again));
        left = again.crash(cut + 1);
    }
    let mut next = workload.fork(cut + 100_000);
    live_on(&left, &mut next, cut == 2, trial);
    let (acked, read) = next.journal.counts();
    trial.after = (trial.after.0 + acked, trial.after.1 + read);
    trial.judge(place, &next.journal, &without_floor())
}

/// Starts, looks, claims, appends, ends by a clean stop or another power cut, starts once more and looks again.
fn live_on(left: &SimDisk, next: &mut Workload, cut_again: bool, trial: &Trial<'_>) {
    let Some(mut core) = start(next, left, true, trial) else { return };
    next.look(&core, false);
    next.claim_all(&mut core);
    for _ in 0..3 {
        next.step(&mut core);
    }
    next.look(&core, false);
    let mut left = left.clone();
    if cut_again {
        left = left.crash_to_synced();
    } else if let Err(error) = core.stop() {
        next.journal.besides(format!("cannot stop: {error}"));
    }
    drop(core);
    if let Some(core) = start(next, &left, cut_again, trial) {
        next.look(&core, true);
    }
}

/// One append per group, so that damage to one group costs one batch.
fn lonely_appends(disk: &SimDisk, clean: bool, trial: &Trial<'_>) -> Journal {
    let mut core = trial.open(disk).unwrap();
    let claims = claim(&mut core, &[1, 2, 3], 5);
    let epoch = claims[0].epoch.0;
    let mut journal = Journal::default();
    (1..=3).for_each(|log: u64| journal.done(What::CreateTopic { topic: log.to_string() }));
    let mut next = [0; 3];
    for number in 0..86_u64 {
        let log = number % 3;
        let at = &mut next[usize::try_from(log).unwrap()];
        let length = 50 + usize::try_from(number * 97 % 3000).unwrap();
        let batch = payload::batch(Writer::Owner, number, *at, 2, length);
        let (log, value) = ((log + 1).to_string(), payload::value(Writer::Owner, number));
        let terms = Terms { span: 2, ..Terms::default() };
        let sending = journal.begin(What::Send { log, value, offset: None, terms });
        let op = append(number % 3 + 1, epoch, 5, *at, Durability::Sync, vec![batch]);
        let done = execute(&mut core, vec![Work::Group(vec![op])]);
        assert!(matches!(&done[0], Done::Group(Ok(()))), "{done:?}");
        sending.sent_at(*at);
        *at += 2;
    }
    if clean {
        core.stop().unwrap();
    }
    journal.seal();
    journal
}

/// Flips a bit and opens; what hit data may cost one batch, what hit anything else none.
fn flip(disk: &SimDisk, path: &Path, bit: u64, past: &Journal, trial: &mut Trial<'_>) -> ControlFlow<()> {
    let disk = disk.kill();
    disk.flip_bit(path, bit).unwrap();
    let mut journal = past.future();
    journal.is_damaged = true;
    let restart = journal.begin(What::Restart { power_cut: false });
    match trial.open(&disk) {
        Ok(core) => {
            restart.ok();
            let reader = core.reader();
            let cut = reader.health().tail_bytes_cut > 0;
            // What looks like a torn tail is cut off and reported; nobody can tell it from one.
            for log in (1..=3).filter(|_| cut) {
                let from = reader.stat(log).map_or(0, |stat| stat.next.0);
                let text = "a tail was cut off".to_owned();
                journal.done(What::Damage { log: Some(log.to_string()), from, to: u64::MAX, text });
            }
            journal.look(&reader, 1..=3, true);
        }
        // Nothing is believed of a directory whose format is not known.
        Err(_) if path == Path::new("FORMAT") => return ControlFlow::Continue(()),
        Err(error) => {
            restart.fail();
            journal.besides(format!("cannot start: {error:?}"));
        }
    }
    let is_data = path.extension().is_some_and(|extension| extension == "wal" || extension == "run");
    let damaged_max = Some(usize::from(is_data));
    let expected = Expectations { damaged_max, sends_min: 86, records_min: 80, ..Expectations::default() };
    trial.judge(&format!("{} bit {bit}", path.display()), &journal, &expected)
}

/// Flips so many bits in each file.
pub fn flips(count: u64, trial: &mut Trial<'_>) -> ControlFlow<()> {
    for clean in [false, true] {
        let disk = SimDisk::new(9);
        let past = lonely_appends(&disk, clean, trial);
        let rng = Rng::seeded(4);
        let mut paths = vec![PathBuf::from("FORMAT")];
        for directory in ["wal", "checkpoint", "sorted"] {
            let names = disk.list(Path::new(directory)).unwrap();
            paths.extend(names.into_iter().map(|name| Path::new(directory).join(name)));
        }
        for path in paths {
            let length = disk.open(&path).unwrap().len().unwrap();
            for _ in 0..count {
                flip(&disk, &path, rng.below(length * 8), &past, trial)?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// A disk that has no space now and then: refused, or done later, never lost, never stopped for good.
pub fn full_disk(trial: &mut Trial<'_>) -> ControlFlow<()> {
    let disk = SimDisk::new(1);
    let mut workload = Workload::new(2, &ALL_CLASSES[..1]);
    let mut core = trial.open(&disk).unwrap();
    for _ in 0..10 {
        assert!(workload.step(&mut core));
    }
    for nth in 1..40 {
        disk.order(Fault::nth(&[OpKind::Write, OpKind::Allocate], nth % 5 + 1, Failure::Enospc));
        assert!(workload.step(&mut core), "the store stopped for want of space");
        disk.clear_faults();
        workload.claim_all(&mut core);
        workload.look(&core, false);
    }
    workload.journal.seal();
    after_crash("full disk", disk.crash(1), &workload, 0, trial)
}

/// An engine with one log, for the checker's own power cuts.
pub struct OneLog {
    core: Core,
    epoch: u32,
    next: u64,
}

const OWNER: u128 = 5;
const LOG: u64 = 1;
/// Some appends fill a file.
const RECORD_BYTES: usize = 5_000;

impl CrashSubject for OneLog {
    fn open(disk: &SimDisk) -> io::Result<OneLog> {
        let mut core = open(disk, &tiny(None)).map_err(io::Error::other)?;
        let work = Work::Claim { logs: vec![LogId(LOG)], owner: OwnerId(OWNER) };
        match execute(&mut core, vec![work]).remove(0) {
            Done::Claim(Ok(claims)) => Ok(OneLog { core, epoch: claims[0].epoch.0, next: claims[0].next.0 }),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    fn append(&mut self, records: &[u64]) -> io::Result<()> {
        // One stands for the record that is written after a fault.
        let number = |record: u64| if record == u64::MAX { 0 } else { record + 1 };
        let batch = |(base, record): (u64, &u64)| {
            payload::batch(Writer::Owner, number(*record), base, 1, RECORD_BYTES)
        };
        let batches: Vec<_> = (self.next..).zip(records).map(batch).collect();
        let next = batches.last().map_or(self.next, |batch| batch.next().0);
        let op = append(LOG, self.epoch, OWNER, self.next, Durability::Sync, batches);
        match execute(&mut self.core, vec![Work::Group(vec![op])]).remove(0) {
            Done::Group(Ok(())) => {
                self.next = next;
                Ok(())
            }
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    fn housekeep(&mut self) -> io::Result<()> {
        if let Some(job) = self.core.plan_move() {
            self.core.finish_move(job.run())?;
        }
        Ok(())
    }

    fn read_all(&self) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        let mut at = 0;
        loop {
            let read = self.core.reader().read(LOG, at, u64::MAX, 1).map_err(io::Error::other)?;
            let Some(run) = read.runs.first() else { return Ok(all) };
            let value = payload::read(&run.bytes, run.next.0 - run.base.0);
            let whole = value == payload::value(Writer::Owner, value.number);
            // What is not whole is a record that nobody appended.
            all.push(if whole { value.number.wrapping_sub(1) } else { u64::MAX - 1 });
            at = run.next.0;
        }
    }
}
