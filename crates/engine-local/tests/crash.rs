//! Power cuts at every step of random workloads over a simulated disk; nothing acknowledged may be lost.
//!
//! What was done is recorded as a history and judged by `ferrymq-checker`, and so is each seeded bug: a bug counts as
//! caught only by a rule that the table names for it, shown by the fault that the table names.
//!
//! Deliberately absent: threads and time; every run can be repeated from its seed.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use common::faults::{self, OneLog, Trial};
use common::journal::Verdict;
use common::{open, tiny};
use ferrymq_checker::Rule;
use ferrymq_checker::crash::{Effort, explore};
use ferrymq_disk::sim::OpKind;
use ferrymq_disk::{Disk as _, SimDisk};
use ferrymq_engine_local::SeededBug;

/// Runs a fault without a bug: nothing may be wrong in any state. States, and what succeeded after faults.
fn nothing_is_wrong(fault: impl FnOnce(&mut Trial<'_>) -> ControlFlow<()>) -> (u64, (usize, usize)) {
    let mut judge = |place: &str, verdict: Verdict| {
        verdict.assert_clean(place);
        ControlFlow::Continue(())
    };
    let mut trial = Trial::new(None, &mut judge);
    assert_eq!(fault(&mut trial), ControlFlow::Continue(()));
    (trial.states, trial.after)
}

#[test]
fn without_a_crash_everything_is_as_promised() {
    let (mut moves, mut shared) = (0, 0);
    nothing_is_wrong(|trial| {
        (0..40).try_for_each(|seed| {
            let (end, (moved, saved)) = faults::restarts(seed, trial);
            moves += moved;
            shared += saved;
            end
        })
    });
    assert!(moves > 20, "the workloads do not move enough: {moves}");
    assert!(shared > 200_000, "the workloads do not share enough: {shared}");
}

#[test]
fn every_acknowledgement_comes_after_its_sync() {
    nothing_is_wrong(|trial| (0..6).try_for_each(|seed| faults::traced(seed, trial)));
}

/// What a campaign asks for, else a default.
fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let (wanted, first) = (asked("FERRYMQ_CRASH_STATES", 10_000), asked("FERRYMQ_CRASH_SEED", 0));
    let mut seed = first;
    let (states, (acked, read)) = nothing_is_wrong(|trial| {
        while trial.states < wanted {
            faults::power_cuts(seed, 4, trial)?;
            seed += 1;
        }
        ControlFlow::Continue(())
    });
    let seeds = seed - first;
    assert!(states > 400 * seeds, "the workload became too small: {states} states of {seeds} seeds");
    let floor = usize::try_from(states).unwrap();
    assert!(
        acked > 4 * floor && read > 40 * floor,
        "too little succeeds after power cuts: {acked} sends, {read} records read"
    );
    println!("{states} crash states, seeds {first} to {}", seed - 1);
}

#[test]
fn the_checkers_own_power_cuts_lose_nothing() {
    let states = explore::<OneLog>(Effort { groups: 10, cuts_per_step: 2, second_cuts: 1 });
    assert!(states.as_ref().is_ok_and(|states| *states > 1_000), "{states:?}");
}

#[test]
fn failing_syncs_and_writes_lose_nothing_acknowledged() {
    nothing_is_wrong(|trial| {
        faults::failures(&OpKind::SYNCS, "", 200, trial)?;
        faults::failing_syncs(60, trial)?;
        faults::failures(&[OpKind::Write], "", 100, trial)?;
        faults::failures(&[OpKind::Allocate, OpKind::Create, OpKind::Rename], "", 20, trial)?;
        faults::failures(&[OpKind::Remove, OpKind::SetLen], "", 20, trial)
    });
}

#[test]
fn a_full_disk_refuses_and_goes_on() {
    nothing_is_wrong(faults::full_disk);
}

#[test]
fn flipped_bits_cost_what_they_hit_and_nothing_else() {
    nothing_is_wrong(|trial| faults::flips(150, trial));
}

/// What shows a bug.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing but restarts.
    Restarts,
    /// Nothing at all: the trace of the disk.
    Trace,
    PowerCuts,
    /// A sync of the WAL fails, and the power is cut later.
    FailingSyncs,
    Flips,
}

impl Fault {
    fn run(self, trial: &mut Trial<'_>) -> ControlFlow<()> {
        match self {
            Fault::Restarts => (0..6).try_for_each(|seed| faults::restarts(seed, trial).0),
            Fault::Trace => (0..2).try_for_each(|seed| faults::traced(seed, trial)),
            Fault::PowerCuts => (0..6).try_for_each(|seed| faults::power_cuts(seed, 4, trial)),
            Fault::FailingSyncs => faults::failing_syncs(60, trial),
            Fault::Flips => faults::flips(20, trial),
        }
    }
}

/// A bug, the fault that shows it and the rule that it breaks then. Other rules may break with it and prove nothing;
/// nor does a panic, or a store that does not start.
const TABLE: &[(SeededBug, Fault, Rule)] = &[
    (SeededBug::AckBeforeSync, Fault::Trace, Rule::AckedBeforeSync),
    (SeededBug::AckBeforeSync, Fault::PowerCuts, Rule::Lost),
    (SeededBug::SkipDirSync, Fault::Trace, Rule::AckedBeforeSync),
    (SeededBug::SkipDirSync, Fault::PowerCuts, Rule::Lost),
    (SeededBug::IgnoreSyncError, Fault::FailingSyncs, Rule::Lost),
    (SeededBug::RetrySync, Fault::FailingSyncs, Rule::Lost),
    // What is read is not what was written.
    (SeededBug::TrustStaleIndex, Fault::Flips, Rule::NeverSent),
    (SeededBug::TruncateBelowDurable, Fault::Flips, Rule::Lost),
    (SeededBug::SkipFence, Fault::Restarts, Rule::StaleOwner),
    (SeededBug::ReuseOffsetAfterTrim, Fault::Restarts, Rule::OffsetReused),
    (SeededBug::AckGroupPartially, Fault::Restarts, Rule::Torn),
    (SeededBug::AckGroupPartially, Fault::Restarts, Rule::Lost),
    (SeededBug::ForgetCheckpointSync, Fault::PowerCuts, Rule::Lost),
    (SeededBug::ShareAcrossFiles, Fault::Restarts, Rule::Lost),
];

/// Where a bug breaks a rule, if it does; else what else was found.
fn hunt(bug: SeededBug, fault: Fault, rule: Rule) -> Result<String, Vec<String>> {
    let (mut caught, mut others) = (None, Vec::new());
    let mut judge = |place: &str, verdict: Verdict| {
        if let Some(violation) = verdict.report.violations.iter().find(|violation| violation.rule == rule) {
            caught = Some(format!("{place}: {}", violation.what));
            return ControlFlow::Break(());
        }
        if others.len() < 3 && !verdict.is_clean() {
            others.push(format!("{place}: {} {:?}", verdict.report, verdict.besides));
        }
        ControlFlow::Continue(())
    };
    // Whether it was left early, `caught` says.
    let _ = fault.run(&mut Trial::new(Some(bug), &mut judge));
    caught.ok_or(others)
}

#[test]
fn every_seeded_bug_is_caught_by_its_rule() {
    let mut missed = Vec::new();
    for (bug, fault, rule) in TABLE {
        match hunt(*bug, *fault, *rule) {
            Ok(place) => println!("{bug:?} by {fault:?}: {rule:?}: {place}"),
            Err(others) => missed.push(format!("{bug:?} by {fault:?} does not break {rule:?}: {others:#?}")),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    for bug in SeededBug::ALL {
        assert!(TABLE.iter().any(|row| row.0 == bug), "{bug:?} is not in the table");
    }
}

/// A move that failed has removed its file; a kill and, later, a power cut bring it back. Its number must not have been
/// given to another file meanwhile.
#[test]
fn a_removal_is_durable_before_its_number_is_given_again() {
    let disk = SimDisk::new(1);
    drop(open(&disk, &tiny(None)).unwrap());
    let numbers = disk.list(Path::new("wal")).unwrap();
    let numbers = numbers.iter().filter_map(|name| u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok());
    let path = format!("sorted/{:016x}.run", numbers.max().unwrap() + 1);
    let path = Path::new(&path);
    disk.create(path).unwrap().sync_data().unwrap();
    disk.sync_dir(Path::new("sorted")).unwrap();
    disk.remove(path).unwrap();
    let disk = disk.kill();
    drop(open(&disk, &tiny(None)).unwrap());
    let disk = disk.crash_to_synced();
    open(&disk, &tiny(None)).unwrap();
}
