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
