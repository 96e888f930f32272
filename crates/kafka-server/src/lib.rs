//! The Kafka door: connections, fetch sessions and one handler per API.
//!
//! Reading order: [`listener`] (what a listener is called), [`server`] (accepting), [`connection`] (one client: frames in, answers out, in order),
//! [`dispatch`] (which APIs are served), `handlers/` (one file per API), [`errors`] (the one place where our
//! errors become Kafka's codes).
//!
//! **Invariants.** No durable state lives here. Requests of one connection are answered in order; produce
//! requests are handed to their owners while earlier ones are still being written. What is not in
//! [`dispatch::SERVED`] is neither advertised nor answered.
//!
//! Deliberately absent: transactions, KIP-848, SASL (later issues).

#![forbid(unsafe_code)]

mod answers;
mod cluster;
pub mod connection;
pub mod context;
pub mod dispatch;
pub mod errors;
pub mod framing;
mod handlers;
mod intake;
pub mod listener;
pub mod server;
mod turns;

pub use context::{Context, Counters, KafkaConfig};
pub use listener::{Endpoint, Listener};
pub use server::KafkaServer;
