//! Queues as a door uses them: stories, restarts, crashes.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

mod acked;
mod attacks;
mod attacks2;
mod brute;
mod consumers;
mod crash;
mod declare;
mod default_types;
mod delayed;
mod delayed_crash;
mod deliver;
mod expiry;
mod fan_out;
mod golden;
mod golden_delays;
mod golden_policies;
mod joint;
mod joint_crash;
mod letters;
mod letters_crash;
mod levels;
mod limits;
mod model;
mod over;
mod over_batches;
mod over_crash;
mod over_restart;
mod over_retention;
mod over_rig;
mod policies;
mod priorities;
mod priorities_crash;
mod priorities_model;
mod races;
mod refused;
mod restart;
mod rig;
mod staged;
mod tally;
mod turns;
mod unsettled;
mod vhosts;
mod vhosts_again;
mod waiting;
