//! Queues as a door uses them: stories, restarts, crashes.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

mod attacks;
mod brute;
mod consumers;
mod crash;
mod declare;
mod deliver;
mod expiry;
mod golden;
mod golden_policies;
mod joint;
mod joint_crash;
mod letters;
mod letters_crash;
mod levels;
mod limits;
mod model;
mod policies;
mod priorities;
mod priorities_crash;
mod priorities_model;
mod races;
mod restart;
mod rig;
mod staged;
mod turns;
mod vhosts;
