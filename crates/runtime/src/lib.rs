//! Clock, random numbers, tasks, threads, shutdown and byte budgets.
//!
//! Everything that would make a run unrepeatable is reached through here, so that a test can own it; clippy
//! bans the direct ways (`clippy.toml`).
//!
//! **Invariants.** A task has a kind that says what its panic means. A queue is bounded in bytes by permits
//! taken before anything is put into it.
//!
//! Deliberately absent: ambient globals. A component is handed what it uses.

#![forbid(unsafe_code)]

pub mod budget;
pub mod clock;
pub mod mailbox;
pub mod rng;
pub mod tasks;

pub use budget::{ByteBudget, BytePermit};
pub use clock::Clock;
pub use mailbox::{Mailbox, MailboxClosed, MailboxSender, mailbox};
pub use rng::Rng;
pub use tasks::{TaskKind, Tasks, blocking, spawn_thread};
