//! The AMQP 0-9-1 door: what RabbitMQ's clients speak.
//!
//! ```text
//!  socket ─▶ input ─▶ reader ─▶ methods/ ─▶ Queues        one task for each connection:
//!  socket ◀─ writer ◀─ output ◀─ replies, returns         reader, writer and heartbeat side by side
//!                  ◀─ deliver ◀─ deliveries
//!                  ◀─ confirms ◀─ pending publishes
//!                  ◀─ replies ◀─ other connections' publishes (direct reply-to)
//! ```
//! Reading order: [`context`] (how the door presents itself), [`server`] (accepting), `connection` (the life of
//! one), `handshake`, `reader` (frames to methods), `channel` (what is known of one), `methods/` (a file per
//! class), `publish`, `confirms`, `tx`, `deliver`, [`streams`], `replies`, `alarm`, [`dead_letters`], [`inside`] (messages from beside clients), `writer`, `failure` (errors in
//! RabbitMQ's codes and words).
//!
//! **Invariants.**
//! - No durable state lives here. A message is confirmed when the queues say that it is where it belongs.
//! - Methods of a connection take effect in order. What has a reply is answered in the order of asking; a
//!   `basic.return` precedes the confirm of its message.
//! - Bytes of a client are bounded before they are kept: frames by what was negotiated, bodies by the largest
//!   message and a budget, what waits to be written by not reading on. Nothing of it panics.
//! - A mistake ends the channel or the connection, with the code and the words that RabbitMQ 4.3 has for it.
//!
//! Deliberately absent, for now: users and permissions (`guest` from this machine only), TLS.

#![forbid(unsafe_code)]

mod alarm;
mod args;
mod auth;
mod channel;
mod confirms;
mod connection;
mod content;
pub mod context;
mod counts;
pub mod dead_letters;
mod deliver;
mod expiration;
mod failure;
mod handshake;
mod input;
pub mod inside;
mod methods;
mod numbers;
mod output;
mod overdue;
mod publish;
mod reader;
mod replies;
pub mod server;
mod state;
pub mod streams;
mod tx;
mod unacked;
mod writer;

pub use context::{AmqpConfig, Context, Counters};
pub use dead_letters::AmqpDeadLetters;
pub use failure::explain;
pub use server::AmqpServer;
pub use streams::AmqpStreams;
