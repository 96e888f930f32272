//! Why an operation on queues failed, precisely enough that a door can say it in its protocol's words.
//!
//! **Invariant.** The core never words a protocol's text: names, properties and values are carried apart.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_storage::{ErrorKind, StorageError};

use super::args::Value;
use super::settings::Wrong;
use super::types::ExchangeKind;

/// What an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entity {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
    /// A virtual host.
    Vhost,
    /// A policy, or an operator's.
    Policy,
    /// A topic, which is in no virtual host.
    Topic,
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Entity::Queue => "queue",
            Entity::Exchange => "exchange",
            Entity::Vhost => "virtual host",
            Entity::Policy => "policy",
            Entity::Topic => "topic",
        })
    }
}

/// The value of a property in which a declaration differs from what is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Property {
    /// `durable`, `auto_delete`, `internal`.
    Flag(bool),
    /// The `type` of an exchange.
    Kind(ExchangeKind),
    /// An argument; `None`: not given.
    Argument(Option<Value>),
}

/// What an exchange of a certain kind does not take. RabbitMQ: 406 PRECONDITION_FAILED.
#[derive(Debug, Clone, PartialEq)]
pub enum Unfit {
    /// The `x-match` of a binding to a headers exchange.
    Match(Value),
    /// The routing key of a binding to a consistent hash exchange is no integer.
    Weight(Bytes),
    /// It is less than 1.
    WeightTooSmall,
    /// It is more than this.
    WeightTooLarge(u32),
    /// A consistent hash exchange hashes a header or a property, not both.
    TwoHashes,
    /// It cannot hash this header or property.
    Hash(Value),
    /// The routing key of a binding to a local random exchange is not empty.
    KeyNotEmpty(Bytes),
    /// The queue of a binding to a local random exchange is not a classic one.
    NotClassic,
    /// A size of a stream is out of range; in RabbitMQ's words.
    Size(&'static str),
    /// A binding to a local random exchange does not lead to a queue.
    NotAQueue,
    /// An exchange that keeps messages back does not say what it routes as.
    NoDelayedType,
    /// It cannot route as one that keeps them back.
    DelayedTwice,
    /// It cannot route as a kind that there is not.
    UnknownKind(String),
}

/// Why an operation failed. Unless said otherwise nothing changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// There is no such virtual host.
    #[error("no such virtual host: {0}")]
    NoVhost(Arc<str>),
    /// There is no such queue or exchange. RabbitMQ: 404 NOT_FOUND.
    #[error("no such {entity}: vhost={vhost} name={name}")]
    NotFound {
        /// What was looked for.
        entity: Entity,
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// It is there already and differs. RabbitMQ: 406 PRECONDITION_FAILED, inequivalent arg.
    #[error(
        "{entity} exists with another {property}: vhost={vhost} name={name} current={current:?} asked={asked:?}"
    )]
    Inequivalent {
        /// What was declared.
        entity: Entity,
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// `durable`, `auto_delete`, `internal`, `type` or the name of an argument.
        property: String,
        /// What it is.
        current: Box<Property>,
        /// What was asked.
        asked: Box<Property>,
    },
    /// Names that begin with `amq.` are the broker's. RabbitMQ: 403 ACCESS_REFUSED.
    #[error("{entity} name is reserved: {name}")]
    ReservedName {
        /// What was to be declared or deleted.
        entity: Entity,
        /// The name.
        name: Arc<str>,
    },
    /// The default exchange can be neither declared, deleted nor bound. RabbitMQ: 403 ACCESS_REFUSED.
    #[error("the default exchange cannot be changed")]
    DefaultExchange,
    /// The name is too long or holds a control character.
    #[error("{entity} name is not legal: {why}")]
    BadName {
        /// What was to be declared.
        entity: Entity,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Asked to delete only if unused, and it is used. RabbitMQ: 406 PRECONDITION_FAILED.
    #[error("{entity} is in use: vhost={vhost} name={name}")]
    InUse {
        /// What was to be deleted.
        entity: Entity,
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// Asked to delete only if empty, and it is not. RabbitMQ: 406 PRECONDITION_FAILED.
    #[error("queue is not empty: vhost={vhost} name={name}")]
    NotEmpty {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// The queue is another session's, or was declared with another exclusiveness. RabbitMQ: 405
    /// RESOURCE_LOCKED.
    #[error("queue belongs to another session: vhost={vhost} name={name}")]
    ExclusiveLocked {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A consumer has the queue to itself, or wants to and others are there. RabbitMQ: 403 ACCESS_REFUSED, in
    /// exclusive use.
    #[error("queue has an exclusive consumer, or consumers: vhost={vhost} name={name}")]
    ExclusiveConsumer {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// The exchange takes messages from other exchanges only. RabbitMQ: 403 ACCESS_REFUSED.
    #[error("exchange is internal: vhost={vhost} name={name}")]
    Internal {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// An argument that means something and that the core does not serve yet: never accepted and ignored.
    #[error("argument of the {entity} is not served: {argument}={value:?}")]
    Unsupported {
        /// What was declared.
        entity: Entity,
        /// The argument.
        argument: String,
        /// Its value.
        value: Value,
    },
    /// An argument has a value that is never legal. RabbitMQ: 406 PRECONDITION_FAILED, invalid arg.
    #[error("argument of the {entity} is not legal: {argument}={value:?} ({why})")]
    InvalidArgument {
        /// What was declared.
        entity: Entity,
        /// The argument.
        argument: String,
        /// Its value.
        value: Value,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An argument of a queue, or of a consumer of it, has a value that is never legal, or its type of queue does not
    /// take it. RabbitMQ: 406 PRECONDITION_FAILED, invalid arg.
    #[error("argument of queue {name} is not legal: {argument}={value:?} ({wrong})")]
    WrongArgument {
        /// Where.
        vhost: Arc<str>,
        /// The queue.
        name: Arc<str>,
        /// The argument.
        argument: &'static str,
        /// Its value.
        value: Value,
        /// What is wrong with it.
        wrong: Wrong,
    },
    /// A queue of this type cannot have this property. RabbitMQ: 406 PRECONDITION_FAILED, invalid property.
    #[error("queue {name} cannot be so: {property}")]
    WrongProperty {
        /// Where.
        vhost: Arc<str>,
        /// The queue.
        name: Arc<str>,
        /// `auto-delete`, `exclusive-owner` or `non-durable`.
        property: &'static str,
    },
    /// Single messages cannot be taken from a quorum queue that delivers to one consumer at a time. RabbitMQ: 405
    /// RESOURCE_LOCKED.
    #[error("queue delivers to one consumer at a time: vhost={vhost} name={name}")]
    SingleActive {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// Streams do not have this. RabbitMQ: 540 NOT_IMPLEMENTED.
    #[error("a stream does not have {what}: vhost={vhost} name={name}")]
    NotOfStreams {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// What was asked: `basic.get` or `queue.purge`.
        what: &'static str,
    },
    /// The stream is a topic that nobody declared, and is not deleted as a queue.
    #[error("the stream is a topic that nobody declared: vhost={vhost} name={name}")]
    NotDeclared {
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// Queues of this type need a name. RabbitMQ: 406 PRECONDITION_FAILED.
    #[error("a stream needs a name")]
    ServerNamed,
    /// The queue has as many messages as it may and takes no more. RabbitMQ: `basic.nack` to the publisher.
    #[error("queue is full and takes no more: vhost={vhost} name={name}")]
    Full {
        /// Where.
        vhost: Arc<str>,
        /// The queue.
        name: Arc<str>,
    },
    /// An argument that names something is no text. RabbitMQ: 406 PRECONDITION_FAILED, invalid type.
    #[error("argument of the {entity} is no text: vhost={vhost} name={name} {argument}={value:?}")]
    ArgumentType {
        /// What was declared.
        entity: Entity,
        /// Where.
        vhost: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// The argument.
        argument: &'static str,
        /// Its value.
        value: Value,
    },
    /// The exchange is of a kind that does not take this.
    #[error("the exchange does not take it: {0:?}")]
    Unfit(Unfit),
    /// A documented limit was exceeded.
    #[error("{what} is beyond its limit: limit={limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The store refused or lost it. What its kind says of having happened is true of the operation.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// An earlier message to the queue failed and took this one with it; certainly nothing happened, try again.
    #[error("an earlier message to the queue failed")]
    Retry,
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopped,
}

impl QueueError {
    /// Whether the store refused it for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, QueueError::Storage(error) if error.kind() == ErrorKind::Full)
    }

    /// Whether what was asked certainly did not happen.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            QueueError::Storage(error) => matches!(
                error.kind(),
                ErrorKind::Full
                    | ErrorKind::Unavailable
                    | ErrorKind::LimitExceeded
                    | ErrorKind::InvalidArgument
                    | ErrorKind::Conflict
            ),
            QueueError::Stopped => false,
            _ => true,
        }
    }
}
