//! A small, fast Kafka client for the command line and the benchmarks.
//!
//! In reading order: [`connection`] (one pipelined socket), [`Client`] (who leads which partition, one
//! connection per broker), its administrative calls, [`Producer`], [`Consumer`].
//!
//! **Invariants.** Everything is bounded: bytes buffered by a producer, requests in flight, bytes fetched ahead
//! by a consumer. Every wait has a deadline. An error says what the broker answered, by Kafka's name for it,
//! and what to do.
//!
//! Deliberately absent: joining groups, transactions, reading only committed data, TLS and SASL, fetch
//! sessions. It works against FerryMQ and Apache Kafka 2.4 and later.

#![forbid(unsafe_code)]

pub mod connection;

mod admin;
mod cluster;
mod consumer;
mod error;
mod groups;
mod offsets;
mod partitioner;
mod producer;
mod sizes;
mod versions;

pub use admin::{ConfigEntry, NewTopic};
pub use cluster::{Broker, Client, ClientConfig, PartitionInfo, TopicInfo};
pub use consumer::{ConsumedRecord, Consumer, ConsumerConfig, Fetched, FetchedRecords, Start};
pub use error::{BrokerError, ClientError};
pub use groups::{CommittedOffset, GroupDescription, GroupListing, GroupMember};
pub use offsets::{OffsetAt, OffsetSpec};
pub use partitioner::{StickyPartitioner, key_partition, murmur2};
pub use producer::{
    Acks, Delivery, DeliveryCallback, Producer, ProducerConfig, ProducerRecord, ProducerReport,
};
