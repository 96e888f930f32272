//! What goes in and out of the queues: messages, declarations, deliveries, settlements.
//!
//! **Invariants.** A message's properties are opaque bytes: what was published is what is delivered. Names of
//! exchanges, queues and virtual hosts are UTF-8; routing keys are bytes.
//!
//! Deliberately absent: delivery tags, channels, anything a door can keep for itself.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{LogId, Offset};
use serde::{Deserialize, Serialize};

use super::args::Arguments;
use super::priorities::Priorities;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The exchange it was published to.
    pub exchange: Bytes,
    /// The routing key it was published with.
    pub routing_key: Bytes,
    /// The publisher's properties, as its protocol encodes them.
    pub properties: Bytes,
    /// What it carries.
    pub body: Bytes,
    /// Whether it is to survive a restart, where the queue does.
    pub persistent: bool,
    /// How long it may wait in a queue, in milliseconds; 0: for no longer than it takes to find a consumer.
    pub ttl_ms: Option<u64>,
    /// Its priority: what queues that know priorities order by.
    pub priority: Option<u8>,
}

impl Message {
    /// Bytes it is counted as.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.exchange.len() + self.routing_key.len() + self.properties.len() + self.body.len()
    }
}

/// A queue that was there when it was looked up; cheap to clone. Messages to one that has been deleted since
/// go nowhere.
#[derive(Clone)]
pub struct QueueHandle(pub(super) Arc<QueueIdentity>);

/// What never changes about a queue.
#[derive(Debug)]
pub(super) struct QueueIdentity {
    pub(super) log: LogId,
    pub(super) shard: usize,
    pub(super) vhost: Arc<str>,
    pub(super) name: Arc<str>,
    /// What orders its messages beside their coming.
    pub(super) priorities: Option<Box<Priorities>>,
}

impl QueueHandle {
    /// Its virtual host.
    #[must_use]
    pub fn vhost(&self) -> &Arc<str> {
        &self.0.vhost
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The log its messages lie in; unique among the queues that are there.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.0.log
    }
}

impl PartialEq for QueueHandle {
    fn eq(&self, other: &QueueHandle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for QueueHandle {}

impl fmt::Debug for QueueHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueHandle({}/{}, log {})", self.0.vhost, self.0.name, self.0.log)
    }
}

/// Where a message goes: each queue once. Cheap to clone, and right as long as
/// [`Queues::generation`](super::Queues::generation) stays what it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routed(pub(super) Option<Arc<[QueueHandle]>>);

impl Routed {
    /// To these queues.
    #[must_use]
    pub fn to(queues: Vec<QueueHandle>) -> Routed {
        if queues.is_empty() { Routed(None) } else { Routed(Some(queues.into())) }
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> &[QueueHandle] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether it goes nowhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// A message and where it goes.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The message.
    pub message: Message,
    /// Its queues.
    pub to: Routed,
}

/// A virtual host as asked for, or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostSpec {
    /// Its name.
    pub name: Arc<str>,
    /// What people wrote about it.
    pub description: String,
    /// Words that people find it by.
    pub tags: Vec<String>,
}

impl VhostSpec {
    /// One about which nothing is said.
    #[must_use]
    pub fn named(name: &str) -> VhostSpec {
        VhostSpec { name: Arc::from(name), description: String::new(), tags: Vec::new() }
    }
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// By the whole routing key.
    Direct,
    /// To everything bound.
    Fanout,
    /// By words of the routing key, with `*` and `#`.
    Topic,
    /// By headers.
    Headers,
    /// To one, by the hash of a key, as much as its weight says.
    #[serde(rename = "x-consistent-hash")]
    ConsistentHash,
    /// To one, by the hash of the routing key.
    #[serde(rename = "x-modulus-hash")]
    ModulusHash,
    /// To one, by chance.
    #[serde(rename = "x-random")]
    Random,
    /// To one classic queue, by chance; all queues are local.
    #[serde(rename = "x-local-random")]
    LocalRandom,
}

impl ExchangeKind {
    /// Its name in AMQP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
            ExchangeKind::ConsistentHash => "x-consistent-hash",
            ExchangeKind::ModulusHash => "x-modulus-hash",
            ExchangeKind::Random => "x-random",
            ExchangeKind::LocalRandom => "x-local-random",
        }
    }

    /// The inverse of [`ExchangeKind::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<ExchangeKind> {
        use ExchangeKind::{
            ConsistentHash, Direct, Fanout, Headers, LocalRandom, ModulusHash, Random, Topic,
        };
        let all = [Direct, Fanout, Topic, Headers, ConsistentHash, ModulusHash, Random, LocalRandom];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// An exchange as asked for, or as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeSpec {
    /// Its name.
    pub name: Arc<str>,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last binding.
    pub auto_delete: bool,
    /// Whether only exchanges may publish to it.
    pub internal: bool,
    /// Its arguments; `alternate-exchange` is served.
    pub arguments: Arguments,
}

/// A queue as asked for, or as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueSpec {
    /// Its name; empty: the broker makes one that begins with `amq.gen-`.
    pub name: Arc<str>,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it is one session's and goes with it.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Its arguments; see [`super::declare`] for those that are served.
    pub arguments: Arguments,
}

/// A binding: what reaches `source` and fits goes on to the destination.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingSpec {
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// The queue or exchange they go to.
    pub destination: Arc<str>,
    /// What a routing key is compared with.
    pub routing_key: Bytes,
    /// Arguments; headers exchanges route by them.
    pub arguments: Arguments,
}

/// A declared queue.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The queue.
    pub queue: QueueHandle,
    /// Whether this declaration made it.
    pub created: bool,
    /// What is in it.
    pub stat: QueueStat,
}

/// What is in a queue at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStat {
    /// Messages that may be delivered now.
    pub ready: u64,
    /// Messages delivered and not settled.
    pub unacked: u64,
    /// Consumers.
    pub consumers: u64,
}

/// What must hold for a queue or exchange to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteIf {
    /// No consumers (queue), no bindings (exchange).
    pub unused: bool,
    /// No messages ready (queues only).
    pub empty: bool,
}

/// How much may be under way to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credit {
    /// As much as its channel holds.
    Unlimited,
    /// At most this many unsettled; settling makes room by itself.
    Window(u32),
    /// This many, and more only by [`Queues::credit`](super::Queues::credit).
    Granted(u32),
}

/// A consumer as asked for.
#[derive(Debug, Clone, Copy)]
pub struct NewConsumer {
    /// The door's name for it, repeated in each delivery.
    pub token: u64,
    /// How much may be under way.
    pub credit: Credit,
    /// Whether a message is done with when it is sent.
    pub no_ack: bool,
    /// Whether nobody else may consume.
    pub exclusive: bool,
    /// Those of a higher priority get what they can take before all others; 0 unless said otherwise.
    pub priority: i64,
}

impl NewConsumer {
    /// One that acknowledges, shares, and is nothing special.
    #[must_use]
    pub fn new(token: u64, credit: Credit) -> NewConsumer {
        NewConsumer { token, credit, no_ack: false, exclusive: false, priority: 0 }
    }
}

/// A consumer; stays until it is cancelled, its session ends or its queue is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// Its queue.
    pub queue: QueueHandle,
    /// Which of the queue's.
    pub(super) id: u32,
}

/// A message on its way to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// [`NewConsumer::token`]; 0 for a get.
    pub token: u64,
    /// Names the message within its queue until it is settled.
    pub offset: Offset,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// How often it was given back.
    pub returned: u16,
    /// How often whoever had it failed on it; `None`: its queue does not count.
    pub failed: Option<u16>,
    /// The message.
    pub message: Message,
}

/// The answer to a get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// Where it came from; what [`Queues::settle`](super::Queues::settle) wants to know.
    pub queue: QueueHandle,
    /// The message.
    pub delivery: Delivery,
    /// Messages left that may be delivered.
    pub ready: u64,
}

/// What becomes of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// It is done with.
    Ack,
    /// It goes back to its place in the queue, through no fault of its own.
    Requeue,
    /// The same, and whoever had it failed on it: where failures are limited, it may have been the last time.
    Fail,
    /// It is done with, unwanted: it goes to the queue's dead letter exchange, or is dropped if there is none.
    Reject,
}
