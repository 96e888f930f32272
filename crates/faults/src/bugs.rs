//! Seeded bugs: a server that breaks one promise must be found out by the fault that shows it.
//!
//! The server must be built with its feature `seeded-bugs`. What this cannot see from outside is listed with the
//! reason; the engine's own tests on the simulated disk see it.

use crate::cli::{Common, skipped};
use crate::scenario::{Fault, Scenario};

/// A bug and what shows it.
struct Bug {
    /// The name the server knows it by; empty for a setting that promises less.
    name: &'static str,
    /// Arguments of the server.
    args: &'static [&'static str],
    fault: Fault,
    cycles: u64,
}

const fn bug(name: &'static str, fault: Fault, cycles: u64) -> Bug {
    Bug { name, args: &[], fault, cycles }
}

/// Each is caught within so many faults, by a wide margin.
const BUGS: &[Bug] = &[
    Bug { name: "", args: &["--durability", "memory"], fault: Fault::Kill, cycles: 5 },
    Bug { name: "", args: &["--durability", "os"], fault: Fault::Power, cycles: 10 },
    bug("AckBeforeSync", Fault::Power, 25),
    bug("IgnoreSyncError", Fault::Eio, 10),
    bug("RetrySync", Fault::Eio, 10),
    bug("ReuseOffsetAfterTrim", Fault::Kill, 25),
    bug("AckGroupPartially", Fault::Kill, 10),
];

/// What a test from outside does not see, and why.
const UNSEEN: &[(&str, &str)] = &[
    ("SkipDirSync", "ext4 makes a new name durable with the file's own sync"),
    ("ForgetCheckpointSync", "ext4 writes a file out before a rename that replaces another"),
    ("TrustStaleIndex", "the kernel does not damage files; needs damage of a file"),
    ("TruncateBelowDurable", "the kernel does not damage files; needs damage of a file"),
    ("SkipFence", "one process has one owner"),
];

/// Runs each bug; whether all were caught.
pub(crate) fn run(only: Option<&str>, common: &Common) -> anyhow::Result<bool> {
    let (mut caught_all, mut results) = (true, Vec::new());
    for bug in BUGS {
        let name = if bug.name.is_empty() { bug.args.join(" ") } else { bug.name.to_owned() };
        if only.is_some_and(|only| only != name) {
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
            seed: common.seed,
            size: common.size(),
            until_broken: true,
        };
        let caught = match scenario.run(&spec, common.work()?) {
            Ok(None) => {
                caught_all &= skipped()?;
                continue;
            }
            Ok(Some(report)) => report.violations.iter().map(|violation| violation.rule.to_owned()).collect(),
            // A server that cannot even be restarted has been found out too.
            Err(error) => vec![format!("{error:#}")],
        };
        let verdict = if caught.is_empty() { "NOT CAUGHT" } else { "caught" };
        crate::say(&format!("bug {name}: {verdict} {}", caught.join(", ")));
        caught_all &= !caught.is_empty();
        results.push((name, caught));
    }
    for (name, why) in UNSEEN {
        crate::say(&format!("bug {name}: left to the simulated disk: {why}"));
    }
    common.write(&results)?;
    Ok(caught_all)
}
