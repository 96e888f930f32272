//! The PostgreSQL engine: logs in tables of a database that users already run.
//!
//! ```text
//! commit --> queue --> round: plan in memory --> one statement --> outcomes      (a few append connections)
//!              ^          ^                          |
//!        order per log   rows of claimed logs <------'
//! read  --> tail in memory, else tables by key                                   (a pool of its own)
//!           rotate, drop                                                         (one connection for housekeeping)
//! ```
//! Tables, statements, failures and what was refused: `docs/adr/0014-postgresql-engine.md`.
//!
//! **Invariants.** What is acknowledged is committed. A round takes effect whole or not at all, and only if each of
//! its logs' rows is as the plan supposed. A statement whose reply was lost is never sent again before it is known
//! what became of it. Rows of `log` are never deleted.
//!
//! Deliberately absent: who of several stores on one schema is to own what, TLS, anything of a protocol.

#![forbid(unsafe_code)]

mod claim;
mod connection;
mod housekeeping;
pub mod meta;
mod mirror;
pub mod options;
pub mod outbox;
mod plan;
mod pool;
mod queue;
mod read;
mod resolve;
mod round;
mod row;
mod schema;
mod segments;
mod server;
mod statement;
pub mod store;
mod tail;
mod writer;

pub use meta::PostgresMeta;
pub use options::{Config, Options, SeededBug, parse_url};
pub use outbox::Outbox;
pub use store::{Counters, Health, PostgresStore};
