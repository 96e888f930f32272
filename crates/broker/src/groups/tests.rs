//! Tests of the groups: stories as text (`testdata/groups`), random histories, the shard's task, the bytes.
//!
//! **Invariant.** Nothing here waits for time to pass by itself; stories and histories have a clock of their
//! own.
//!
//! Deliberately absent: protocols; the doors' tests have them.

mod history;
mod records;
mod runtime;
mod story;
mod world;
