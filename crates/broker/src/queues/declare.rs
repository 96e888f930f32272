//! What may be declared: names, arguments, and whether a declaration says what is there.
//!
//! Arguments of a queue are of four sorts. *Served*: see [`SERVED`]; `x-queue-type` is `classic`, `quorum`: the same
//! queue, of which every message is durable, or `stream`: a topic; with `x-kafka-topic` a queue's messages are those of a
//! topic. *Dead*: accepted and without effect, in RabbitMQ too
//! or because they speak of copies; see [`DEAD`]. *Not served yet*: refused; see [`NOT_SERVED`]. All others mean nothing
//! to RabbitMQ either and are kept as given. What queues of a type take is compared when one is declared again
//! (`settings::compared`).
//!
//! **Invariant.** An argument that would change what happens to a message is honoured or refused.

use std::sync::Arc;

use ferrymq_types::limits::QUEUE_NAME_BYTES_MAX;

use super::args::{Arguments, Value};
use super::consuming;
use super::dead_letters;
use super::error::{Entity, Property, QueueError, Unfit};
use super::exchange::{DELAYED_TYPE, check_kind};
use super::priorities;
use super::settings::{self, QUEUE_TYPE, QueueType};
use super::streams;
use super::types::{ExchangeKind, ExchangeSpec, QueueSpec};

/// Arguments that do what they say.
pub const SERVED: [&str; 20] = [
    QUEUE_TYPE,
    priorities::MAX_PRIORITY,
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    consuming::SINGLE_ACTIVE,
    consuming::DELIVERY_LIMIT,
    "x-consumer-timeout",
    consuming::RETRY_TYPE,
    consuming::RETRY_MIN,
    consuming::RETRY_MAX,
    dead_letters::EXCHANGE,
    dead_letters::ROUTING_KEY,
    "x-dead-letter-strategy",
    streams::MAX_AGE,
    streams::SEGMENT_BYTES,
    streams::TOPIC,
    streams::START,
];

/// Arguments without effect.
pub const DEAD: [&str; 11] = [
    "x-queue-mode",
    "x-queue-version",
    "x-queue-master-locator",
    "x-queue-leader-locator",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
    "x-initial-cluster-size",
    // Of consumers whose node cannot be reached; here all are local.
    "x-consumer-disconnected-timeout",
    FILTER_BYTES,
];

/// Arguments that are refused until they are served.
pub const NOT_SERVED: [&str; 1] = ["x-message-deduplication"];

/// How large a filter of a chunk is; filters are exact here.
const FILTER_BYTES: &str = "x-stream-filter-size-bytes";
const ALTERNATE: &str = "alternate-exchange";

/// Checks a name that a client chose for something new.
pub(super) fn check_new_name(entity: Entity, name: &Arc<str>) -> Result<(), QueueError> {
    if name.starts_with("amq.") {
        return Err(QueueError::ReservedName { entity, name: name.clone() });
    }
    if name.len() > QUEUE_NAME_BYTES_MAX {
        return Err(QueueError::BadName { entity, why: "longer than 255 bytes" });
    }
    if name.contains(['\r', '\n', '\0']) {
        return Err(QueueError::BadName { entity, why: "it holds a control character" });
    }
    Ok(())
}

/// Checks arguments that are to be stored.
pub(super) fn check_arguments(arguments: &Arguments) -> Result<(), QueueError> {
    if arguments.too_deep() {
        let limit = super::args::DEPTH_MAX as u64;
        return Err(QueueError::Limit { what: "the depth of an argument", limit });
    }
    Ok(())
}

/// Whether each message of a queue declared so is durable.
pub(super) fn always_durable(spec: &QueueSpec) -> bool {
    QueueType::of(&spec.arguments) == Some(QueueType::Quorum)
}

/// Checks what is asked of a new queue.
pub(super) fn check_queue(vhost: &Arc<str>, spec: &QueueSpec) -> Result<(), QueueError> {
    check_arguments(&spec.arguments)?;
    check_name(Entity::Queue, vhost, &spec.name, &spec.arguments, dead_letters::EXCHANGE)?;
    let kind = settings::check(&spec.arguments).map_err(|(argument, wrong)| QueueError::WrongArgument {
        vhost: vhost.clone(),
        name: spec.name.clone(),
        argument,
        value: spec.arguments.get(argument).cloned().unwrap_or(Value::Void),
        wrong,
    })?;
    for (name, value) in spec.arguments.iter() {
        if NOT_SERVED.contains(&name) {
            let (argument, value) = (name.to_owned(), value.clone());
            return Err(QueueError::Unsupported { entity: Entity::Queue, argument, value });
        }
    }
    // As quorum queues: acks are kept for as long as the queue is there, which is until somebody deletes it.
    let over_topic = streams::is_over_topic(&spec.arguments);
    let properties = [
        ("auto-delete", spec.auto_delete),
        ("exclusive-owner", spec.exclusive),
        ("non-durable", !spec.durable),
    ];
    match properties.into_iter().find(|(_, has)| *has && (kind != QueueType::Classic || over_topic)) {
        Some((property, _)) => {
            Err(QueueError::WrongProperty { vhost: vhost.clone(), name: spec.name.clone(), property })
        }
        None => check_sizes(&spec.arguments),
    }
}

/// Checks sizes that RabbitMQ checks last, and words otherwise.
fn check_sizes(arguments: &Arguments) -> Result<(), QueueError> {
    let given = |name: &str| arguments.get(name).and_then(Value::as_int);
    let wrong = |why| Err(QueueError::Unfit(Unfit::Size(why)));
    if given(streams::SEGMENT_BYTES) > Some(streams::SEGMENT_BYTES_MAX) {
        return wrong("Exceeded max value for x-stream-max-segment-size-bytes");
    }
    match given(FILTER_BYTES) {
        Some(bytes) if !(16..=255).contains(&bytes) => wrong("Invalid value for x-stream-filter-size-bytes"),
        _ => Ok(()),
    }
}

/// Checks what is asked of a new exchange.
pub(super) fn check_exchange(vhost: &str, spec: &ExchangeSpec) -> Result<(), QueueError> {
    check_arguments(&spec.arguments)?;
    check_name(Entity::Exchange, vhost, &spec.name, &spec.arguments, ALTERNATE)?;
    check_kind(spec.kind, &spec.arguments).map_err(QueueError::Unfit)
}

/// Checks that an argument that names an exchange does so; RabbitMQ looks at these before all others.
fn check_name(
    entity: Entity,
    vhost: &str,
    name: &Arc<str>,
    arguments: &Arguments,
    argument: &'static str,
) -> Result<(), QueueError> {
    match arguments.get(argument) {
        Some(value) if value.as_text().is_none() => Err(QueueError::ArgumentType {
            entity,
            vhost: vhost.into(),
            name: name.clone(),
            argument,
            value: value.clone(),
        }),
        _ => Ok(()),
    }
}

/// Whether a queue that is there is as asked.
pub(super) fn same_queue(vhost: &Arc<str>, is: &QueueSpec, asked: &QueueSpec) -> Result<(), QueueError> {
    let differs = Differs { entity: Entity::Queue, vhost, name: &is.name };
    differs.flag("durable", is.durable, asked.durable)?;
    differs.flag("auto_delete", is.auto_delete, asked.auto_delete)?;
    let kind = QueueType::of(&is.arguments).unwrap_or(QueueType::Classic);
    settings::compared(kind).try_for_each(|name| differs.argument(name, &is.arguments, &asked.arguments))
}

/// Whether an exchange that is there is as asked.
pub(super) fn same_exchange(
    vhost: &Arc<str>,
    is: &ExchangeSpec,
    asked: &ExchangeSpec,
) -> Result<(), QueueError> {
    let differs = Differs { entity: Entity::Exchange, vhost, name: &is.name };
    if is.kind != asked.kind {
        return Err(differs.error("type", Property::Kind(is.kind), Property::Kind(asked.kind)));
    }
    differs.flag("durable", is.durable, asked.durable)?;
    differs.flag("auto_delete", is.auto_delete, asked.auto_delete)?;
    differs.flag("internal", is.internal, asked.internal)?;
    differs.argument(ALTERNATE, &is.arguments, &asked.arguments)?;
    match is.kind {
        ExchangeKind::Delayed => differs.argument(DELAYED_TYPE, &is.arguments, &asked.arguments),
        _ => Ok(()),
    }
}

/// Whose properties are compared.
struct Differs<'a> {
    entity: Entity,
    vhost: &'a Arc<str>,
    name: &'a Arc<str>,
}

impl Differs<'_> {
    fn error(&self, property: &str, current: Property, asked: Property) -> QueueError {
        QueueError::Inequivalent {
            entity: self.entity,
            vhost: self.vhost.clone(),
            name: self.name.clone(),
            property: property.to_owned(),
            current: Box::new(current),
            asked: Box::new(asked),
        }
    }

    fn flag(&self, property: &str, current: bool, asked: bool) -> Result<(), QueueError> {
        if current == asked {
            return Ok(());
        }
        Err(self.error(property, Property::Flag(current), Property::Flag(asked)))
    }

    fn argument(&self, name: &str, current: &Arguments, asked: &Arguments) -> Result<(), QueueError> {
        let (current, asked) = (current.get(name), asked.get(name));
        // A queue of no type is a classic one, and told so: RabbitMQ writes it down since 4.0.
        let classic = Value::text(QueueType::Classic.name());
        let implied = (name == QUEUE_TYPE).then_some(&classic);
        let (current, asked) = (current.or(implied), asked.or(implied));
        match (current, asked) {
            (None, None) => Ok(()),
            (Some(current), Some(asked)) if current.equivalent(asked) => Ok(()),
            _ => {
                let property = |value: Option<&Value>| Property::Argument(value.cloned());
                Err(self.error(name, property(current), property(asked)))
            }
        }
    }
}
