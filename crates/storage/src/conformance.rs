//! The storage contract as tests: what every engine passes before it is shipped.
//!
//! Each case states sentences of [`log`](crate::log) and panics where an engine breaks one. No protocol is in
//! sight: the plays at the end act out a queue, a transaction and a compaction on bare logs.
//!
//! ```text
//! conformance::run_all(&factory, &conformance::block_on);          // all of it
//! for case in conformance::cases() { case.run(&factory, &run) }   // or one by one
//! conformance::random::run(&factory, &run, 256);                   // against MemoryStore as the oracle
//! conformance::meta::run_all(&meta_factory, &run);                  // for a MetaStore
//! ```
//! **Invariants.** A case gets a store of its own, empty. It claims before it writes and does not depend on
//! how long anything takes. Where a store cannot be reopened, what is said about restarts is left out.
//!
//! Deliberately absent: power cuts and full disks. Each engine tests those with its own medium and holds what is
//! left to the rules of `crates/checker`, as `crates/engine-local/tests/crash.rs` does.

#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]

mod append;
mod bench;
mod fence;
mod group;
pub mod meta;
mod plays;
pub mod random;
mod read;
mod remove;
mod restart;
mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::{LogStore, Pending};
use bench::Bench;

/// A store that is open, and the way to open it again.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn LogStore>,
    /// Ends the store in an orderly way or by killing it, and opens what it left. `None`: it leaves nothing.
    pub reopen: Option<Reopen>,
}

/// See [`Opened::reopen`]. The store was dropped by the suite before.
pub type Reopen = Box<dyn FnOnce() -> Pending<Opened> + Send + Sync>;

/// Makes an empty store of its own for each case.
pub type Factory = dyn Fn() -> Pending<Opened> + Send + Sync;

/// Runs a future to its end, on whatever runtime the engine needs.
pub type Runner = dyn Fn(Pending<()>);

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it states.
    pub name: &'static str,
    test: fn(Bench) -> Pending<()>,
}

impl Case {
    /// Runs it on a fresh store; panics if the store breaks the contract.
    pub fn run(&self, factory: &Factory, run: &Runner) {
        let (opening, test) = (factory(), self.test);
        run(Box::pin(async move { test(Bench::new(opening.await)).await }));
    }
}

/// Lists cases by the functions that are them.
macro_rules! list {
    ($($module:ident: $($case:ident),+ $(,)?;)+) => {
        vec![$($(Case {
            name: concat!(stringify!($module), "::", stringify!($case)),
            test: |bench| Box::pin($module::$case(bench)),
        }),+),+]
    };
}

/// All tests but the random ones.
#[must_use]
pub fn cases() -> Vec<Case> {
    list! {
        append: reads_back, queued_in_order, stale_expectation_conflicts, failure_fails_successors, gaps,
            outcomes_match_groups, malformed_is_refused, every_class_is_read_back, nothing_to_do,
            dropped_future_goes_on, shared_and_large_payloads, acknowledged_is_visible, reads_see_a_prefix;
        fence: claim_begins_a_log, old_owner_is_fenced, epoch_and_nonce_are_both_checked, claim_races_with_append,
            fenced_group_fails_no_other, claim_of_many, claim_is_all_or_nothing, unclaimed_is_not_found,
            last_commit_tells_the_fate;
        group: all_or_nothing_over_logs, several_logs_are_refused_without_capability, steps_build_on_each_other,
            failed_group_leaves_no_trace, one_owner_per_group;
        read: from_where, until_where, at_least_one_batch, empty_and_unknown, heads, head_epochs,
            by_timestamp, by_max_timestamp, by_tail_bytes;
        remove: trim_moves_up_only, trim_in_the_middle_of_a_batch, no_reuse_after_trim_to_the_end,
            discard_takes_whole_batches, discard_does_not_move_bounds, replace_compacts, replace_keeps_epochs,
            replace_brings_nothing_back, delete_is_for_good;
        restart: everything_survives, removals_survive, fences_survive, no_offset_is_reused, memory_leaves_a_gap;
        shared: copies_read_back, one_copy_goes_and_the_others_stay, a_key_given_twice_mixes_nothing_up,
            parts_lie_within_and_apart;
        plays: ack_queue_with_dead_letters, transaction_over_three_logs, compaction_under_a_reader,
            a_thousand_logs_at_once, takeovers_with_lost_replies;
    }
}

/// Runs all tests, the random ones too.
///
/// # Panics
/// With the names of those that failed, after all have run.
pub fn run_all(factory: &Factory, run: &Runner) {
    let failed = |test: &dyn Fn()| catch_unwind(AssertUnwindSafe(test)).is_err();
    let mut names: Vec<&str> =
        cases().into_iter().filter(|case| failed(&|| case.run(factory, run))).map(|case| case.name).collect();
    if failed(&|| random::run(factory, run, 64)) {
        names.push("random");
    }
    assert!(names.is_empty(), "the engine breaks the storage contract: {}", names.join(", "));
}

/// A runner for engines that need no runtime: polls on this thread.
pub fn block_on(future: Pending<()>) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    while future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Pending {
        std::thread::park();
    }
}
