//! Power cuts at every step of random workloads over a simulated disk; nothing acknowledged may be lost.
//!
//! Deliberately absent: threads and time; every run can be repeated from its seed.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{Workload, append, bytes_of, claim, compare, execute, open, tiny};
use ferrymq_disk::sim::{Failure, Fault, OpKind};
use ferrymq_disk::{Disk, SimDisk};
use ferrymq_engine_local::SeededBug;
use ferrymq_engine_local::core::{Done, Work};
use ferrymq_engine_local::read::Reader;
use ferrymq_runtime::Rng;
use ferrymq_storage::{Batch, ErrorKind};
use ferrymq_types::{Durability, Offset};

const ALL_CLASSES: [Durability; 3] = [Durability::Sync, Durability::Os, Durability::Memory];

/// Runs `rounds` rounds, now and then stopping cleanly or dying and starting again.
fn run(disk: &SimDisk, seed: u64, rounds: u64, bug: Option<SeededBug>) -> Workload {
    let classes = if seed.is_multiple_of(2) { &ALL_CLASSES[..1] } else { &ALL_CLASSES[..] };
    let mut workload = Workload::new(seed, classes);
    let Ok(mut core) = open(disk, &tiny(bug)) else { return workload };
    for round in 0..rounds {
        if round % 16 == 15 {
            let clean = workload.rng.below(2) == 0;
            if clean && core.stop().is_err() {
                return workload;
            }
            workload.restarted(false);
            drop(core);
            core = match open(disk, &tiny(bug)) {
                Ok(core) => core,
                Err(_) => return workload,
            };
            workload.claim_all(&mut core);
        }
        if !workload.step(&mut core) {
            break;
        }
    }
    workload
}

#[test]
fn without_a_crash_everything_is_as_promised() {
    let mut moves = 0;
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let mut workload = run(&disk, seed, 60, None);
        moves += workload.moves;
        let core = open(&disk, &tiny(None)).unwrap();
        workload.restarted(false);
        compare(&workload.model, &core.reader()).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    assert!(moves > 20, "the workloads do not move enough: {moves}");
}

/// Cuts the power at each `stride`-th step and looks at `cuts` of the states it may leave.
fn cut_everywhere(
    seed: u64,
    rounds: u64,
    stride: u64,
    cuts: u64,
    bug: Option<SeededBug>,
) -> Result<u64, String> {
    let disk = SimDisk::new(seed);
    run(&disk, seed, rounds, bug);
    let steps = disk.counts().steps();
    let mut states = 0;
    for step in (1..steps).step_by(usize::try_from(stride).unwrap()) {
        let disk = SimDisk::new(seed);
        disk.stop_at(step);
        let mut workload = run(&disk, seed, rounds, bug);
        workload.restarted(true);
        for cut in 0..cuts {
            let left = if cut == 0 { disk.crash_to_synced() } else { disk.crash(seed * 1000 + cut) };
            states += 1;
            let place = format!("seed {seed} step {step} of {steps} cut {cut}");
            after_crash(&left, &workload, cut, bug).map_err(|what| format!("{place}: {what}"))?;
        }
    }
    Ok(states)
}

/// What must hold after a crash, and after another one during recovery, and for the life after it.
fn after_crash(left: &SimDisk, workload: &Workload, cut: u64, bug: Option<SeededBug>) -> Result<(), String> {
    let mut left = left.clone();
    if cut % 2 == 1 {
        let again = left.crash(cut);
        again.stop_at(1 + cut * 7 % 23);
        drop(open(&again, &tiny(bug)));
        left = again.crash(cut + 1);
    }
    let mut core = open(&left, &tiny(bug)).map_err(|error| format!("cannot start: {error:?}"))?;
    compare(&workload.model, &core.reader())?;
    // Life goes on: claims, appends, a clean stop and one more start.
    let mut next = workload.fork(cut + 100_000);
    next.claim_all(&mut core);
    for _ in 0..3 {
        next.step(&mut core);
    }
    compare(&next.model, &core.reader()).map_err(|what| format!("after going on: {what}"))?;
    core.stop().map_err(|error| format!("cannot stop: {error}"))?;
    drop(core);
    next.restarted(false);
    let core = open(&left, &tiny(bug)).map_err(|error| format!("cannot start again: {error:?}"))?;
    compare(&next.model, &core.reader()).map_err(|what| format!("after a clean stop: {what}"))
}

/// What a campaign asks for, else a default.
fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let (wanted, first) = (asked("FERRYMQ_CRASH_STATES", 10_000), asked("FERRYMQ_CRASH_SEED", 0));
    let (mut states, mut seed) = (0, first);
    while states < wanted {
        states += cut_everywhere(seed, 48, 2, 4, None).unwrap_or_else(|what| panic!("{what}"));
        seed += 1;
    }
    let seeds = seed - first;
    assert!(states > 400 * seeds, "the workload became too small: {states} states of {seeds} seeds");
    println!("{states} crash states, seeds {first} to {}", seed - 1);
}

/// Lets one sync after another fail, and one write, and cuts the power a little later.
fn fail_each(kinds: &[OpKind], path: &str, count: u64, bug: Option<SeededBug>) -> Result<(), String> {
    for nth in 1..=count {
        let seed = nth % 7;
        let disk = SimDisk::new(nth);
        disk.order(Fault::nth(kinds, nth, Failure::Eio).at(path));
        let mut workload = run(&disk, seed, 120, bug);
        let place = format!("failure {nth} of {kinds:?}");
        workload.restarted(true);
        for cut in 0..3 {
            let left = if cut == 0 { disk.crash_to_synced() } else { disk.crash(cut) };
            left.clear_faults();
            after_crash(&left, &workload, cut, bug).map_err(|what| format!("{place} cut {cut}: {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn failing_syncs_and_writes_lose_nothing_acknowledged() {
    fail_each(&OpKind::SYNCS, "", 200, None).unwrap();
    fail_each(&[OpKind::Write], "", 100, None).unwrap();
    fail_each(&[OpKind::Allocate, OpKind::Create, OpKind::Rename], "", 20, None).unwrap();
    fail_each(&[OpKind::Remove, OpKind::SetLen], "", 20, None).unwrap();
}

#[test]
fn a_full_disk_refuses_and_goes_on() {
    let disk = SimDisk::new(1);
    let mut workload = Workload::new(2, &[Durability::Sync]);
    let mut core = open(&disk, &tiny(None)).unwrap();
    for _ in 0..10 {
        assert!(workload.step(&mut core));
    }
    // Whatever fails for want of space: refused, or done later, never lost, never stopped for good.
    for nth in 1..40 {
        disk.order(Fault::nth(&[OpKind::Write, OpKind::Allocate], nth % 5 + 1, Failure::Enospc));
        assert!(workload.step(&mut core), "the store stopped for want of space");
        disk.clear_faults();
        workload.restarted(false);
        workload.claim_all(&mut core);
        compare(&workload.model, &core.reader()).unwrap();
    }
    workload.restarted(true);
    after_crash(&disk.crash(1), &workload, 0, None).unwrap();
}

/// One append per group, so that damage to one group costs one batch.
fn lonely_appends(disk: &SimDisk, clean: bool, bug: Option<SeededBug>) -> Vec<(u64, u64, Bytes)> {
    let mut core = open(disk, &tiny(bug)).unwrap();
    let claims = claim(&mut core, &[1, 2, 3], 5);
    let epoch = claims[0].epoch.0;
    let mut next = [0; 3];
    let mut all = Vec::new();
    for number in 0..86_u64 {
        let log = number % 3;
        let at = &mut next[usize::try_from(log).unwrap()];
        let length = 50 + usize::try_from(number * 97 % 3000).unwrap();
        let bytes = bytes_of(number + 1, length);
        let batch = Batch { base: Offset(*at), span: 2, max_timestamp: 7, bytes: bytes.clone() };
        let op = append(log + 1, epoch, 5, *at, Durability::Sync, vec![batch]);
        let done = execute(&mut core, vec![Work::Group(vec![op])]);
        assert!(matches!(&done[0], Done::Group(Ok(()))), "{done:?}");
        all.push((log + 1, *at, bytes));
        *at += 2;
    }
    if clean {
        core.stop().unwrap();
    }
    all
}

/// Reads a log over damage.
fn read_over_damage(reader: &Reader, log: u64) -> Result<Vec<(u64, Bytes)>, String> {
    let mut from = 0;
    let mut out = Vec::new();
    loop {
        match reader.read(log, from, u64::MAX, 1) {
            Ok(read) => {
                let Some(run) = read.runs.first() else { return Ok(out) };
                out.push((run.base.0, run.bytes.clone()));
                from = run.next.0;
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } if resume.0 > from => from = resume.0,
                _ => return Err(format!("{error:?}")),
            },
        }
    }
}

/// Flips a bit, opens, reads; how many batches were lost.
fn flip(
    disk: &SimDisk,
    path: &Path,
    bit: u64,
    all: &[(u64, u64, Bytes)],
    bug: Option<SeededBug>,
) -> Result<usize, String> {
    let disk = disk.kill();
    disk.flip_bit(path, bit).map_err(|error| error.to_string())?;
    let core = match open(&disk, &tiny(bug)) {
        Err(_) if path == Path::new("FORMAT") => return Ok(0),
        other => other.map_err(|error| format!("cannot start: {error:?}"))?,
    };
    let mut lost = 0;
    for log in 1..=3 {
        let found: HashMap<u64, Bytes> = read_over_damage(&core.reader(), log)?.into_iter().collect();
        let known: HashMap<u64, &Bytes> =
            all.iter().filter(|batch| batch.0 == log).map(|batch| (batch.1, &batch.2)).collect();
        if let Some((base, _)) = found.iter().find(|(base, bytes)| known.get(base) != Some(bytes)) {
            return Err(format!("wrong bytes in log {log} at {base}"));
        }
        lost += known.len() - found.len();
        let next = core.reader().stat(log).map_err(|error| format!("{error:?}"))?.next.0;
        let missing_tail = known.keys().max().is_some_and(|last| next < last + 2);
        let tail_torn = core.reader().health().tail_bytes_cut > 0;
        if missing_tail && !tail_torn {
            return Err(format!("log {log} would reuse offsets from {next}"));
        }
    }
    Ok(lost)
}

fn flip_everywhere(flips: u64, bug: Option<SeededBug>) -> Result<(), String> {
    for clean in [false, true] {
        let disk = SimDisk::new(9);
        let all = lonely_appends(&disk, clean, bug);
        let rng = Rng::seeded(4);
        let mut paths = vec![PathBuf::from("FORMAT")];
        for directory in ["wal", "checkpoint", "sorted"] {
            let names = disk.list(Path::new(directory)).unwrap();
            paths.extend(names.into_iter().map(|name| Path::new(directory).join(name)));
        }
        for path in paths {
            let length = disk.open(&path).unwrap().len().unwrap();
            let is_data = path.extension().is_some_and(|extension| extension == "wal" || extension == "run");
            for _ in 0..flips {
                let bit = rng.below(length * 8);
                let lost = flip(&disk, &path, bit, &all, bug)
                    .map_err(|what| format!("{} bit {bit}: {what}", path.display()))?;
                if lost > usize::from(is_data) {
                    return Err(format!("{} bit {bit} cost {lost} batches", path.display()));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn flipped_bits_cost_what_they_hit_and_nothing_else() {
    flip_everywhere(150, None).unwrap();
}

/// Everything above, with a bug: somewhere it must show.
fn hunt(bug: SeededBug) -> Result<(), String> {
    let without_crash = |seed| {
        let disk = SimDisk::new(seed);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let mut workload = run(&disk, seed, 60, Some(bug));
            let core = open(&disk, &tiny(Some(bug))).map_err(|error| format!("{error:?}"))?;
            workload.restarted(false);
            compare(&workload.model, &core.reader())
        }));
        caught.unwrap_or_else(|_| Err("the workload itself saw it".to_owned()))
    };
    (0..6).try_for_each(without_crash)?;
    let with_crashes = || {
        flip_everywhere(20, Some(bug))?;
        fail_each(&OpKind::SYNCS, "", 60, Some(bug))?;
        fail_each(&[OpKind::SyncData], "wal/", 60, Some(bug))?;
        (0..6).try_for_each(|seed| cut_everywhere(seed, 48, 2, 4, Some(bug)).map(drop))
    };
    catch_unwind(AssertUnwindSafe(with_crashes)).unwrap_or_else(|_| Err("a test panicked".to_owned()))
}

#[test]
fn every_seeded_bug_is_caught() {
    let missed: Vec<SeededBug> = SeededBug::ALL
        .into_iter()
        .filter(|bug| match hunt(*bug) {
            Ok(()) => true,
            Err(how) => {
                println!("{bug:?}: {how}");
                false
            }
        })
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
