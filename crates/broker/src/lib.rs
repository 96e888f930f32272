//! The protocol-neutral domain: topics, partitions, producers, consumer groups, queues.
//!
//! Reading order: [`settings`] (what a topic can be told), [`topics`] (which there are), [`partition`] (one
//! log of a topic as readers see it), [`producers`] (idempotence), [`shard`] (the owners that append),
//! [`watch`] (how a reader learns of new records), [`broker`] (all of it put together).
//!
//! **Invariants.** Nothing here knows a wire protocol or an engine. What is acknowledged was durable first.
//! A partition's appends go through exactly one owner task; readers never cross it.
//!
//! Deliberately absent: sessions, credit, error codes of a protocol (the doors have them).

#![forbid(unsafe_code)]

mod appended;
mod believed;
pub mod broker;
pub mod cluster;
pub mod groups;
pub mod holds;
pub mod partition;
pub mod producers;
pub mod queues;
pub mod retention;
pub mod settings;
pub mod shard;
mod to_its_end;
pub mod topics;
pub mod validate;
pub mod watch;

pub use broker::{Broker, BrokerOptions};
pub use partition::Partition;
pub use settings::{SettingError, TopicConfig};
pub use shard::{AppendError, AppendItem, Appended};
pub use topics::{NewTopic, Topic, TopicError};
pub use watch::Watcher;
