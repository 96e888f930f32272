//! What applications publish in transactions of their own database (`SELECT ferrymq.publish(..)`), relayed exactly once.
//!
//! ```text
//!  outbox ─▶ tick (two snapshots) ─▶ page of rows ─▶ records and routed messages ─▶ Queues::relay ─▶ topics, queues
//!                 ▲                                                                     │
//!                 └── next page, next tick ◀── note: from, to, last id ◀────────────────┘  one commit with what it speaks of
//! ```
//! Reading order: [`relay`] (the loop), [`note`] (what is remembered), [`message`] (what a row becomes), `properties`.
//! `docs/adr/0016-publish-in-a-transaction.md` says why it is so.
//!
//! **Invariants.** A row is relayed if and only if its transaction committed, and once: the note of a page is in the commit of its
//! messages, and every start and every failure begins by reading it. Rows go in the order of their ids within a tick, and no
//! tick begins before the last one ended. What can never be relayed is kept in `undelivered`, with the reason, and holds up
//! nobody.
//!
//! Deliberately absent: the tables and their SQL (`ferrymq-engine-postgres`), several brokers, other databases.

#![forbid(unsafe_code)]

pub mod message;
pub mod note;
mod properties;
pub mod relay;

pub use relay::{Counters, Options, Relay};
