//! Queues as a door uses them: stories, restarts, crashes.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

mod brute;
mod crash;
mod declare;
mod deliver;
mod joint;
mod joint_crash;
mod races;
mod restart;
mod rig;
mod staged;
