//! Streams: topics as queues that are read and not emptied.
//!
//! ```text
//!  publish ─▶ exchange ─▶ Routed ─▶ desk ─▶ Translate ─▶ batch ─▶ Broker::append ─▶ durable ─▶ confirm
//!  sink ◀── Translate ◀── window of records ◀── reader (one for each consumer) ◀── Partition::read, woken by its watch
//! ```
//! A queue that is declared with `x-queue-type: stream` is a topic, and a topic is there as a stream for whoever names it.
//! Whatever speaks to a shard of queues speaks to the `desk` in the same words; so sessions, settlements and deliveries
//! need know nothing of streams. See `docs/adr/0011-across-the-doors.md`.
//!
//! Reading order: this file, `names` and `config` (what a declaration means), `stored`, `known` (which streams there are),
//! `declaring`, `desk`, `appending`, `reader`, `window`, `joining` (streams in transactions and dead letters); `over` (queues
//! over topics).
//!
//! **Invariants.**
//! - A message is confirmed once its record is durable, and delivered only once it is.
//! - Nothing a consumer does changes what others read. Each has a position of its own, which ends with it.
//! - A stream is there while both its record and its topic are. Without the topic the declaration goes.
//!
//! Deliberately absent: what a record looks like in a protocol ([`Translate`], which a door brings); positions that
//! are kept for a consumer.

mod appending;
mod config;
mod declaring;
mod desk;
mod joining;
mod known;
mod names;
mod over;
pub(super) mod policies;
mod reader;
mod stored;
mod window;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{Header, RecordKey};
use uuid::Uuid;

use super::types::Message;
use crate::broker::Broker;

pub(super) use appending::Appending;
pub use config::max_age_ms;
pub(super) use config::{MAX_AGE, SEGMENT_BYTES, SEGMENT_BYTES_MAX, TOPIC};
pub(super) use declaring::watch_topics;
pub(super) use desk::start as desk;
pub(super) use joining::{TooLarge, without_streams};
pub(super) use known::Streams;
pub use over::is_over_topic;
pub(super) use over::{REFUSED as REFUSED_OVER_TOPICS, START, Source, Window};

/// What of a record is a client's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamRecord {
    /// The key; may be null.
    pub key: Option<Bytes>,
    /// The value; may be null.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

impl StreamRecord {
    /// Bytes it is counted as.
    pub(crate) fn bytes(&self) -> usize {
        let field = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len) + 10;
        let headers = self.headers.iter().map(|header| header.key.len() + 10 + field(&header.value));
        field(&self.key) + field(&self.value) + headers.sum::<usize>() + 40
    }
}

/// Where a record lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlace {
    /// Its offset.
    pub offset: u64,
    /// Its partition, where there are several.
    pub partition: Option<u32>,
    /// Its topic, where that is not what the queue is called.
    pub topic: Option<Arc<str>>,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// Messages as records and back, as a protocol has them.
pub trait Translate: Send + Sync {
    /// The record that a message is stored as, with a key by `rule` unless the message says otherwise.
    fn record(&self, message: &Message, rule: &RecordKey) -> StreamRecord;
    /// The message that a record is delivered as.
    fn message(&self, record: StreamRecord, place: StreamPlace) -> Message;
    /// What consumers filter a record by.
    fn filter_value<'a>(&self, record: &'a StreamRecord) -> Option<&'a [u8]>;
}

/// The topics that are there as streams, and how; cheap to clone.
#[derive(Clone)]
pub struct Topics {
    /// Who has the topics.
    pub broker: Arc<Broker>,
    /// How their records are messages.
    pub translate: Arc<dyn Translate>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Topics")
    }
}

/// The topic that a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamOf {
    pub(super) topic: Arc<str>,
    pub(super) id: Uuid,
    /// Whether its declaration made the topic.
    pub(super) made: bool,
}

/// Where a consumer begins, in each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamStart {
    /// The oldest record that is there.
    First,
    /// The last batch that was written.
    Last,
    /// What is written from now on.
    #[default]
    Next,
    /// This offset, or the nearest that is there.
    Offset(u64),
    /// The first record of this time or later, in milliseconds since 1970.
    Time(i64),
}

/// What a consumer gets of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamFrom {
    /// Where it begins.
    pub start: StreamStart,
    /// Which records it wants; `None`: all.
    pub filter: Option<StreamFilter>,
}

/// Which records a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamFilter {
    /// Those with one of these filter values.
    pub values: Vec<Bytes>,
    /// Also those without any.
    pub unfiltered: bool,
}

impl StreamFilter {
    fn takes(&self, value: Option<&[u8]>) -> bool {
        match value {
            None => self.unfiltered,
            Some(value) => self.values.iter().any(|wanted| &wanted[..] == value),
        }
    }
}
