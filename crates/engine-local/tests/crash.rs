//! Power cuts at every step of random workloads over a simulated disk; nothing acknowledged may be lost.
//!
//! Deliberately absent: threads and time; every run can be repeated from its seed.

mod common;

use common::{Workload, compare, open, tiny};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::SeededBug;
use ferrymq_types::Durability;

const ALL_CLASSES: [Durability; 3] = [Durability::Sync, Durability::Os, Durability::Memory];

/// Runs `rounds` rounds, now and then stopping cleanly or dying and starting again.
fn run(disk: &SimDisk, seed: u64, rounds: u64, bug: Option<SeededBug>) -> Workload {
    let classes = if seed % 2 == 0 { &ALL_CLASSES[..1] } else { &ALL_CLASSES[..] };
    let mut workload = Workload::new(seed, classes);
    let Ok(mut core) = open(disk, &tiny(bug)) else { return workload };
    for round in 0..rounds {
        if round % 16 == 15 {
            let clean = workload.rng.below(2) == 0;
            if clean && core.stop().is_err() {
                return workload;
            }
            drop(core);
            workload.restarted(false);
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
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let mut workload = run(&disk, seed, 60, None);
        let core = open(&disk, &tiny(None)).unwrap();
        workload.restarted(false);
        compare(&workload.model, &core.reader()).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

/// Cuts the power at each `stride`-th step and looks at `cuts` of the states it may leave.
fn cut_everywhere(seed: u64, rounds: u64, stride: u64, cuts: u64, bug: Option<SeededBug>) -> Result<u64, String> {
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
    common::compare(&workload.model, &core.reader())?;
    // Life goes on: claims, appends, a clean stop and one more start.
    let mut next = workload.fork(cut);
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

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let mut states = 0;
    for seed in 0..12 {
        states += cut_everywhere(seed, 40, 3, 4, None).unwrap_or_else(|what| panic!("{what}"));
    }
    println!("{states} crash states");
}
