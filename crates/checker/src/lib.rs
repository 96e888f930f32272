//! The rules an acknowledged record is held to, as code; every fault test uses it.
//!
//! ```text
//!  test ---> Recorder: begin, then ok | fail | info ---> History ---> check ---> Report
//!  a past, and what each state after a power cut made of it -----> check_future ---> Report
//!  SimDisk trace with acknowledgements noted in it -----------------> trace::check
//!  anything on SimDisk, power cut at every step --------------------> crash::explore
//!  queues: published, delivered, settled, removed --> QueueHistory ---> queues::check ---> QueueReport
//! ```
//! Who uses it: `engine-local/tests/crash.rs` (power cuts, failing calls, a full disk, flipped bits, and a table of
//! which rule catches which seeded bug), `broker/tests/queues`, and `faults` (a real server that is killed, cut off,
//! starved of space).
//!
//! The anomalies are those of Jepsen's suites for Kafka and queues, and a few of our own; each [`Rule`] says
//! which. A rule is only worth what it catches: each is tested with a history that breaks it and nothing else.
//!
//! **Invariants.** What is not known to have failed may have happened: a timeout, a dropped connection or a
//! forgotten operation is recorded as unknown, never as failed. A run in which little succeeded proves nothing
//! and fails.
//!
//! Deliberately absent: clients, faults, time. Order is what the recorder saw, by one counter.

#![forbid(unsafe_code)]

pub mod crash;
pub mod history;
pub mod queues;
mod register;
pub mod report;
mod rules;
pub mod trace;

pub use history::{History, Op, Outcome, Pending, Polled, Recorder, Survives, Terms, Value, What};
pub use report::{Expectations, Report, Rule, Violation};

/// Holds a history to the rules.
#[must_use]
pub fn check(history: &History, expected: &Expectations) -> Report {
    check_ops(&history.ops.iter().collect::<Vec<_>>(), expected)
}

/// Holds a history and one of its continuations, from [`Recorder::after`], to the rules.
///
/// Of the states that one power cut may leave, each is another future of the same past.
#[must_use]
pub fn check_future(past: &History, future: &History, expected: &Expectations) -> Report {
    check_ops(&past.ops.iter().chain(&future.ops).collect::<Vec<_>>(), expected)
}

fn check_ops(ops: &[&Op], expected: &Expectations) -> Report {
    let mut report = Report::default();
    rules::floor::check(ops, expected, &mut report);
    let logs = rules::facts::collect(ops, &mut report);
    for (name, log) in &logs {
        rules::sends::check(name, log, expected, &mut report);
        rules::reads::check(name, log, expected, &mut report);
        rules::owners::check(name, log, &mut report);
    }
    rules::whole::check(ops, &logs, expected, &mut report);
    rules::states::check(ops, &mut report);
    report
}
