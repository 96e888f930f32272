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
use super::permits::{Permit, Permits};
use super::priorities::Priorities;
use super::settings::QueueType;
use super::streams::StreamOf;

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
    /// What an exchange keeps back of it, while it does; nothing of what is delivered.
    pub delay: Option<Box<Delay>>,
}

/// How long a message is kept before it is routed, and what it is routed by then.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delay {
    /// Milliseconds from when it was published.
    pub ms: u64,
    /// The exchange that routes it.
    pub exchange: Bytes,
    /// Routing keys of carbon copies, besides its own.
    pub keys: Vec<Bytes>,
}

impl Delay {
    fn bytes(&self) -> usize {
        self.exchange.len() + self.keys.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Message {
    /// Bytes it is counted as.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let delay = self.delay.as_ref().map_or(0, |delay| delay.bytes());
        self.exchange.len() + self.routing_key.len() + self.properties.len() + self.body.len() + delay
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
    /// Which of the virtual hosts of that name, as [`Vhost::number`](super::topology::Vhost) says.
    pub(super) vhost_number: u64,
    pub(super) name: Arc<str>,
    /// What orders its messages beside their coming.
    pub(super) priorities: Option<Box<Priorities>>,
    /// The topic that it is, if it is a stream.
    pub(super) stream: Option<StreamOf>,
    /// Where what is published to it goes instead: the topic that it stands over.
    pub(super) over: Option<QueueHandle>,
}

impl QueueHandle {
    pub(super) fn stream(&self) -> Option<&StreamOf> {
        self.0.stream.as_ref()
    }

    /// The topic that it stands over, as what is published to it goes there.
    pub(super) fn over(&self) -> Option<&QueueHandle> {
        self.0.over.as_ref()
    }

    /// Whether it is a stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.0.stream.is_some()
    }

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
pub struct Routed {
    queues: Option<Arc<[QueueHandle]>>,
    kept: Option<Arc<[Kept]>>,
}

/// A copy that an exchange keeps back: the queue of delayed messages that it waits in, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) lane: QueueHandle,
    pub(super) delay: Delay,
}

impl Routed {
    /// To these queues; to the topics in the place of queues over topics.
    #[must_use]
    pub fn to(mut queues: Vec<QueueHandle>) -> Routed {
        for queue in &mut queues {
            if let Some(topic) = queue.over() {
                *queue = topic.clone();
            }
        }
        Routed { queues: (!queues.is_empty()).then(|| queues.into()), kept: None }
    }

    /// The queues that it goes to at once.
    #[must_use]
    pub fn queues(&self) -> &[QueueHandle] {
        self.queues.as_deref().unwrap_or_default()
    }

    /// Whether it goes nowhere, now or later.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.is_none() && self.kept.is_none()
    }

    /// Without the queues that `stays` does not hold for.
    #[must_use]
    pub fn only(mut self, stays: impl FnMut(&QueueHandle) -> bool) -> Routed {
        let mut queues = self.queues().to_vec();
        let (before, mut stays) = (queues.len(), stays);
        queues.retain(|queue| stays(queue));
        if queues.len() < before {
            self.queues = Routed::to(queues).queues;
        }
        self
    }

    /// Whether there are copies that are kept back.
    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// The same with copies that are kept back.
    pub(super) fn keeping(mut self, kept: Vec<Kept>) -> Routed {
        self.kept = (!kept.is_empty()).then(|| kept.into());
        self
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

impl Publish {
    /// Itself, and the copies that exchanges keep back, as what each is published as.
    pub(super) fn spread(mut self) -> impl Iterator<Item = Publish> {
        let kept = self.to.kept.take();
        let copies: Vec<Publish> =
            kept.iter().flat_map(|kept| kept.iter()).map(|kept| self.kept(kept)).collect();
        std::iter::once(self).chain(copies)
    }

    fn kept(&self, kept: &Kept) -> Publish {
        let delay = Some(Box::new(kept.delay.clone()));
        Publish {
            message: Message { delay, ..self.message.clone() },
            to: Routed::to(vec![kept.lane.clone()]),
        }
    }
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
    /// What its queues are that name no type.
    pub default_queue_type: QueueType,
}

impl VhostSpec {
    /// One about which nothing is said; its queues are classic ones.
    #[must_use]
    pub fn named(name: &str) -> VhostSpec {
        VhostSpec {
            name: Arc::from(name),
            description: String::new(),
            tags: Vec::new(),
            default_queue_type: QueueType::Classic,
        }
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
    /// As an exchange of another kind, which its arguments name, after as long as a message's header says.
    #[serde(rename = "x-delayed-message")]
    Delayed,
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
            ExchangeKind::Delayed => "x-delayed-message",
        }
    }

    /// The inverse of [`ExchangeKind::name`].
    #[must_use]
    pub fn parse(name: &str) -> Option<ExchangeKind> {
        use ExchangeKind::{
            ConsistentHash, Delayed, Direct, Fanout, Headers, LocalRandom, ModulusHash, Random, Topic,
        };
        let all = [Direct, Fanout, Topic, Headers, ConsistentHash, ModulusHash, Random, LocalRandom, Delayed];
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

impl QueueSpec {
    /// A queue that is everybody's and stays until it is deleted.
    pub(crate) fn kept(name: impl Into<Arc<str>>, arguments: Arguments) -> QueueSpec {
        QueueSpec { name: name.into(), durable: true, exclusive: false, auto_delete: false, arguments }
    }
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
#[derive(Debug, Clone)]
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
    /// How long a delivery may be unsettled, in milliseconds; `None`: as its queue says. Quorum queues only.
    pub timeout_ms: Option<u64>,
    /// What it shares with others, of whichever queues, beside its own credit. Not for streams.
    pub permits: Option<Arc<Permits>>,
}

impl NewConsumer {
    /// One that acknowledges, shares, and is nothing special.
    #[must_use]
    pub fn new(token: u64, credit: Credit) -> NewConsumer {
        NewConsumer {
            token,
            credit,
            no_ack: false,
            exclusive: false,
            priority: 0,
            timeout_ms: None,
            permits: None,
        }
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
    /// What it took of its consumer's [`NewConsumer::permits`].
    pub permit: Permit,
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
