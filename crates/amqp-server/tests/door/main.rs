//! The AMQP door over TCP: dialogues frame by frame, every error with its code and words, and what bad clients
//! cannot do.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

mod acked;
mod across;
mod blocking;
mod channels;
mod connections;
mod consumers;
mod consuming;
mod dead_letters;
mod declaring;
mod delayed;
mod exchanges;
mod hostile;
mod limits;
mod over;
mod policies;
mod precedence;
mod priorities;
mod publishing;
mod random;
mod replies;
mod streams;
mod support;
mod timeouts;
mod tx;
mod vhosts;
