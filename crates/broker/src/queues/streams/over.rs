//! Queues over topics: ack subscriptions to what lies in a topic, without a copy.
//!
//! ```text
//!  partition ── watch ──▶ level of the queue: ack machine over its offsets ──▶ consumers, as of any queue
//!      └── read, opened, translated ──▶ ready ───────────────────┘   └──▶ state log of the shard
//! ```
//! A classic or quorum queue that is declared with `x-kafka-topic` has the topic's records for messages. Each partition is
//! a level of the queue (`shard/levels.rs`), under a number that is given out like that of a queue's log and under which
//! its acks stand in the state log. See `docs/adr/0011-across-the-doors.md`.
//!
//! Reading order: this file (what is asked for), `stored`, `declaring`, `source` (reading), `shard/follow.rs`.
//!
//! **Invariants.** No log of such a number is ever claimed, appended to, trimmed or deleted. What the queue does changes
//! nothing for others who read the topic. It is there while its declaration and its topic, known by its id, are.
//!
//! Deliberately absent: what consumers do (queues), what is published to such a queue (it goes to the topic, as to a stream).

mod declaring;
mod source;
mod stored;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Semaphore;

use super::config::TOPIC;
use super::{StreamStart, Topics, max_age_ms};
use crate::queues::args::{Arguments, Value};
use crate::queues::settings::QueueType;
use crate::queues::types::QueueHandle;

pub(in crate::queues) use source::{Source, Window};

/// The argument that says where a queue over a topic begins.
pub(in crate::queues) const START: &str = "x-kafka-start";
/// Partitions that a queue reads: as many as a queue has levels.
pub(super) const PARTITIONS_MAX: usize = 256;
/// Arguments that queues over topics do not take: how long and how much is kept is said of the topic.
pub(in crate::queues) const REFUSED: [&str; 6] =
    ["x-expires", "x-message-ttl", "x-max-length", "x-max-length-bytes", "x-overflow", "x-max-priority"];

/// Whether arguments declare a queue over a topic.
#[must_use]
pub fn is_over_topic(arguments: &Arguments) -> bool {
    arguments.get(TOPIC).is_some() && QueueType::of(arguments) != Some(QueueType::Stream)
}

/// Queues over topics as a whole.
#[derive(Debug)]
pub(super) struct Over {
    /// Those that were declared.
    queues: parking_lot::RwLock<Vec<Declaration>>,
    /// Batches being opened that take long.
    opening: Arc<Semaphore>,
    /// Records that were trimmed before they were done.
    trimmed: Arc<AtomicU64>,
}

/// One of them, and how many partitions it reads.
#[derive(Debug, Clone)]
struct Declaration {
    queue: QueueHandle,
    partitions: usize,
}

impl Default for Over {
    fn default() -> Over {
        Over {
            queues: parking_lot::RwLock::default(),
            opening: Arc::new(Semaphore::new(ferrymq_types::limits::BATCHES_OPEN_AT_ONCE)),
            trimmed: Arc::default(),
        }
    }
}

impl StreamStart {
    /// What the value of an argument says; an interval counts back from `now_ms`.
    #[must_use]
    pub fn parse(value: &Value, now_ms: i64) -> Option<StreamStart> {
        Some(match (value, value.as_text()) {
            (_, Some("first")) => StreamStart::First,
            (_, Some("last")) => StreamStart::Last,
            (_, Some("next")) => StreamStart::Next,
            (_, Some(interval)) => StreamStart::Time(now_ms.saturating_sub(max_age_ms(interval)?)),
            (Value::Timestamp(seconds), None) => {
                StreamStart::Time(i64::try_from(*seconds).unwrap_or(i64::MAX).saturating_mul(1000))
            }
            // Below the first there is the first.
            (Value::Int(offset, _), None) => StreamStart::Offset(u64::try_from(*offset).unwrap_or(0)),
            _ => return None,
        })
    }
}

/// Where a queue begins that says nothing of it, or what it says.
fn start(arguments: &Arguments, now_ms: i64) -> StreamStart {
    arguments.get(START).and_then(|value| StreamStart::parse(value, now_ms)).unwrap_or(StreamStart::First)
}

impl Topics {
    /// Whether a topic has several partitions: then deliveries say which.
    fn has_several(&self, topic: &str) -> bool {
        self.broker.topics().get(topic).is_none_or(|topic| topic.partitions.len() > 1)
    }
}
