//! Seeded bugs: a server that breaks one promise must be found out by the fault that shows it.
//!
//! The server must be built with its feature `seeded-bugs`. What this cannot see from outside is listed with the
//! reason; the engine's tests on the simulated disk, held to the same checker, name the rule that catches it.

use crate::campaign::Tier;
use crate::cli::{Common, skipped};
use crate::scenario::{Fault, Scenario};
use crate::workload::Size;

/// A bug and what shows it.
struct Bug {
    /// The name the server knows it by; empty for a setting that promises less.
    name: &'static str,
    /// Arguments of the server.
    args: &'static [&'static str],
    fault: Fault,
    cycles: u64,
    /// Whether queues are used as well. What they sync makes durable what topics wrote before, and hides what these lack:
    /// beside queues, one round in three lost a record of a topic, and a run of five rounds may well lose none.
    queues: bool,
    /// The rules it breaks, of each group one at least; others may break with it, and prove nothing.
    breaks: &'static [&'static [&'static str]],
}

const fn bug(
    name: &'static str,
    fault: Fault,
    cycles: u64,
    breaks: &'static [&'static [&'static str]],
) -> Bug {
    Bug { name, args: &[], fault, cycles, queues: true, breaks }
}

/// A setting that promises less for topics.
const fn promise(
    args: &'static [&'static str],
    fault: Fault,
    cycles: u64,
    breaks: &'static [&'static [&'static str]],
) -> Bug {
    Bug { name: "", args, fault, cycles, queues: false, breaks }
}

/// Each is caught within so many faults, by a wide margin.
const BUGS: &[Bug] = &[
    promise(&["--durability", "memory"], Fault::Kill, 10, &[LOST]),
    promise(&["--durability", "os"], Fault::Power, 20, &[GONE]),
    Bug { queues: false, ..bug("AckBeforeSync", Fault::Power, 25, &[LOST]) },
    bug("AckBeforeSync", Fault::Power, 25, &[CONFIRMED_LOST, ACKED_BACK]),
    bug("IgnoreSyncError", Fault::Eio, 10, &[AFTER_FAILURE, CONFIRMED_AFTER]),
    bug("RetrySync", Fault::Eio, 10, &[AFTER_FAILURE, CONFIRMED_AFTER]),
    bug("ReuseOffsetAfterTrim", Fault::Kill, 75, &[&["diverged", "offset-reused"]]),
    // Of the engine on PostgreSQL.
    bug("BelieveLostReply", Fault::Postgres, 40, &[LOST]),
    bug("BlindRetry", Fault::Postgres, 80, &[DENIED]),
    bug("WriteUnfenced", Fault::Postgres, 80, &[OVERWRITTEN]),
];

const LOST: &[&str] = &["lost"];
/// What an idempotent producer sends again is not lost for good, but readers had seen it elsewhere.
const GONE: &[&str] = &["lost", "vanished"];
/// The fence keeps what is sent again from being done twice; but then it is said to have failed.
const DENIED: &[&str] = &["failed-but-visible", "refused-but-there", "acked-came-back", "half-committed"];
/// What comes late lies where the new owner writes: over it, or the table's own key is in its way and it refuses
/// messages for which there is room.
const OVERWRITTEN: &[&str] =
    &["lost", "vanished", "diverged", "duplicated", "offset-reused", "confirmed-lost", "refused-with-room"];
const AFTER_FAILURE: &[&str] = &["acknowledged-after-a-failed-sync"];
/// The same for queues. What settings promise less for topics they do not for queues.
const CONFIRMED_LOST: &[&str] = &["confirmed-lost"];
const ACKED_BACK: &[&str] = &["acked-came-back", "removed-came-back"];
const CONFIRMED_AFTER: &[&str] = &["confirmed-after-a-failed-sync"];

/// What a test from outside does not see, why, and what sees it: `crates/engine-local/tests/crash.rs`.
const UNSEEN: &[(&str, &str, &str)] = &[
    (
        "SkipDirSync",
        "ext4 makes a new name durable with the file's own sync",
        "acked-before-sync in the trace, lost after a power cut",
    ),
    (
        "ForgetCheckpointSync",
        "ext4 writes a file out before a rename that replaces another",
        "lost after a power cut",
    ),
    (
        "TrustStaleIndex",
        "the kernel does not damage files; needs damage of a file",
        "never-sent after a flipped bit: other bytes than were written",
    ),
    (
        "TruncateBelowDurable",
        "the kernel does not damage files; needs damage of a file",
        "lost after a flipped bit: more than it hit",
    ),
    ("SkipFence", "one process has one owner", "stale-owner"),
    ("AckGroupPartially", "a produce request makes no atomic group of several records", "torn, and lost"),
];

/// Runs each bug; whether all were caught.
pub(crate) fn run(only: Option<&str>, tier: Tier, common: &Common) -> anyhow::Result<bool> {
    let (mut caught_all, mut results) = (true, Vec::new());
    for bug in BUGS {
        let promise = bug.args.join(" ").replace("--", "");
        let name = if bug.name.is_empty() { promise } else { bug.name.to_owned() };
        let is_wanted = only.map_or(tier == Tier::Full || bug.fault != Fault::Postgres, |only| only == name);
        if !is_wanted {
            continue;
        }
        let mut spec = common.spec();
        spec.args.extend(bug.args.iter().map(|arg| (*arg).to_owned()));
        if !bug.name.is_empty() {
            spec.envs.push(("FERRYMQ_SEEDED_BUG", bug.name.to_owned()));
        }
        let scenario = Scenario {
            fault: bug.fault,
            cycles: bug.cycles,
            acked_min: 1,
            confirmed_min: u64::from(bug.queues),
            seed: common.seed,
            size: Size { queues: bug.queues, ..common.size() },
            until: bug.breaks,
        };
        let Some(report) = scenario.run(&spec, common.work()?)? else {
            caught_all &= skipped()?;
            continue;
        };
        let (all, caught) = report.breaks(bug.breaks);
        let verdict = if all { "caught" } else { "NOT CAUGHT" };
        crate::say(&format!("bug {name}: {verdict} {}", caught.join(", ")));
        caught_all &= all;
        results.push((name, caught));
    }
    for (name, why, seen) in UNSEEN {
        crate::say(&format!("bug {name}: left to the simulated disk ({seen}): {why}"));
    }
    common.write(&results)?;
    Ok(caught_all)
}
