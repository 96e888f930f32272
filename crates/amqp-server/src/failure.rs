//! What went wrong, in AMQP's codes and RabbitMQ's words: the one map from the queues' errors.
//!
//! **Invariants.** There is no catch-all arm: a new error of the queues does not compile until it is mapped.
//! Codes and texts are those of RabbitMQ 4.3 where it has the error at all.
//!
//! Deliberately absent: errors of single frames (`ferrymq_amqp_codec::DecodeError` knows its own).

use ferrymq_amqp_codec::{DecodeError, MethodId, ReplyCode, Scope};
use ferrymq_broker::queues::{Entity, Property, QueueError, QueueType, Unfit, Value, Wrong};

/// Why a channel or a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ReplyCode,
    pub(crate) scope: Scope,
    /// The whole reply text.
    pub(crate) text: String,
    /// The method at fault, if one was.
    pub(crate) method: MethodId,
}

impl Failure {
    /// A failure that reaches as far as its code says.
    pub(crate) fn new(code: ReplyCode, explanation: impl std::fmt::Display) -> Failure {
        Failure { code, scope: code.scope(), text: code.text(explanation), method: MethodId::NONE }
    }

    /// A failure that ends the connection whatever its code says.
    pub(crate) fn hard(code: ReplyCode, explanation: impl std::fmt::Display) -> Failure {
        Failure { scope: Scope::Connection, ..Failure::new(code, explanation) }
    }

    /// The same, with the method at fault.
    pub(crate) fn of(mut self, method: MethodId) -> Failure {
        if self.method == MethodId::NONE {
            self.method = method;
        }
        self
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Failure {
        let code = error.reply_code();
        Failure { code, scope: Scope::Connection, text: error.reply_text(), method: MethodId::NONE }
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Failure {
        use QueueError as E;
        use ReplyCode as C;
        match error {
            E::NoVhost(name) => vhost_deleted(&name),
            E::NotFound { entity, vhost, name } => not_found(entity, &vhost, &name),
            E::Inequivalent { entity, vhost, name, property, current, asked } => {
                let what = format!("'{property}' for {entity} '{name}' in vhost '{vhost}'");
                Failure::new(C::PreconditionFailed, inequivalent(&what, &asked, &current))
            }
            E::ReservedName { entity, name } => {
                let text = format!("{entity} name '{name}' contains reserved prefix 'amq.*'");
                Failure::new(C::AccessRefused, text)
            }
            E::DefaultExchange => {
                Failure::new(C::AccessRefused, "operation not permitted on the default exchange")
            }
            E::BadName { entity, why } => {
                Failure::new(C::PreconditionFailed, format_args!("{entity} name is not legal: {why}"))
            }
            E::InUse { entity, vhost, name } => {
                Failure::new(C::PreconditionFailed, format!("{entity} '{name}' in vhost '{vhost}' in use"))
            }
            E::NotEmpty { vhost, name } => Failure::new(
                C::PreconditionFailed,
                format_args!("queue '{name}' in vhost '{vhost}' not empty"),
            ),
            E::ExclusiveLocked { vhost, name } => locked(&vhost, &name),
            E::ExclusiveConsumer { vhost, name } => {
                Failure::new(C::AccessRefused, format!("queue '{name}' in vhost '{vhost}' in exclusive use"))
            }
            E::Internal { vhost, name } => Failure::new(
                C::AccessRefused,
                format_args!("cannot publish to internal exchange '{name}' in vhost '{vhost}'"),
            ),
            E::Unsupported { entity, argument, value } => Failure::new(
                C::PreconditionFailed,
                format_args!("invalid arg '{argument}' for {entity}: {} is not supported yet", told(&value)),
            ),
            E::InvalidArgument { entity, argument, value, why } => Failure::new(
                C::PreconditionFailed,
                format_args!("invalid arg '{argument}' for {entity}: {} ({why})", told(&value)),
            ),
            E::SingleActive { vhost, name } => Failure::new(C::ResourceLocked, no_get(&vhost, &name)),
            E::WrongArgument { vhost, name, argument, value, wrong } => {
                wrong_argument(&vhost, &name, argument, &why(&wrong, &value))
            }
            E::WrongProperty { vhost, name, property } => Failure::new(
                C::PreconditionFailed,
                format_args!("invalid property '{property}' for queue '{name}' in vhost '{vhost}'"),
            ),
            E::Full { vhost, name } => full(&vhost, &name),
            E::NotOfStreams { vhost, name, what } => not_of_streams(&vhost, &name, what),
            E::NotDeclared { vhost, name } => not_declared(&vhost, &name),
            E::ServerNamed => Failure::new(C::PreconditionFailed, SERVER_NAMED_STREAM),
            E::ArgumentType { entity, vhost, name, argument, value } => {
                argument_type(entity, &vhost, &name, argument, &value)
            }
            E::Unfit(unfit) => Failure::new(C::PreconditionFailed, misfit(&unfit)),
            E::Limit { what, limit } => {
                Failure::new(C::PreconditionFailed, format_args!("{what} is beyond its limit of {limit}"))
            }
            E::Storage(error) => Failure::hard(C::InternalError, format_args!("the store failed: {error}")),
            E::Retry => Failure::hard(C::InternalError, "an earlier operation failed; try again"),
            E::Stopped => forced(),
        }
    }
}

/// Topics are in no virtual host.
fn not_found(entity: Entity, vhost: &str, name: &str) -> Failure {
    let at = if entity == Entity::Topic { String::new() } else { format!(" in vhost '{vhost}'") };
    Failure::new(ReplyCode::NotFound, format_args!("no {entity} '{name}'{at}"))
}

/// Somebody else's queue.
fn locked(vhost: &str, name: &str) -> Failure {
    Failure::new(
        ReplyCode::ResourceLocked,
        format_args!(
            "cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be \
             originally declared on another connection or the exclusive property value does not match \
             that of the original declaration."
        ),
    )
}

/// A get where only consumers are served; the type of the queue as RabbitMQ's Erlang prints it.
fn no_get(vhost: &str, name: &str) -> String {
    format!(
        "cannot obtain access to locked queue '{name}' in vhost '{vhost}'. basic.get operations are not supported by \
         <<\"quorum\">> queues with single active consumer"
    )
}

/// A publisher's alone: it is told by `basic.nack`.
fn full(vhost: &str, name: &str) -> Failure {
    Failure::new(ReplyCode::PreconditionFailed, format_args!("queue '{name}' in vhost '{vhost}' is full"))
}

fn wrong_argument(vhost: &str, name: &str, argument: &str, why: &str) -> Failure {
    let text = format_args!("invalid arg '{argument}' for queue '{name}' in vhost '{vhost}'{why}");
    Failure::new(ReplyCode::PreconditionFailed, text)
}

/// A code and the words of an error, for doors that speak of the same things: without the name of the code.
#[must_use]
pub fn explain(error: QueueError) -> (u16, String) {
    let Failure { code, text, .. } = error.into();
    let words = text.split_once(" - ").map(|(_, words)| words.to_owned());
    (code.code(), words.unwrap_or(text))
}

/// A stream that wants a name of the server's.
const SERVER_NAMED_STREAM: &str = "Cannot declare a server-named queue for type rabbit_stream_queue";

/// What streams do not have.
fn not_of_streams(vhost: &str, name: &str, what: &str) -> Failure {
    let text = format_args!("{what} not supported by stream queues queue '{name}' in vhost '{vhost}'");
    Failure::new(ReplyCode::NotImplemented, text)
}

/// A topic that is not a queue's to delete.
fn not_declared(vhost: &str, name: &str) -> Failure {
    let text = format_args!("queue '{name}' in vhost '{vhost}' is a topic that was not declared here");
    Failure::new(ReplyCode::PreconditionFailed, text)
}

fn argument_type(entity: Entity, vhost: &str, name: &str, argument: &str, value: &Value) -> Failure {
    let kind = crate::args::to_wire(value).type_name();
    let text = format!("invalid type '{kind}' for arg '{argument}' in {entity} '{name}' in vhost '{vhost}'");
    Failure::new(ReplyCode::PreconditionFailed, text)
}

/// The broker is stopping.
pub(crate) fn forced() -> Failure {
    Failure::hard(ReplyCode::ConnectionForced, "broker forced connection closure with reason 'shutdown'")
}

/// The virtual host of an open connection is no more; it was there when it was opened.
pub(crate) fn vhost_deleted(name: &str) -> Failure {
    Failure::hard(ReplyCode::ConnectionForced, format_args!("vhost '{name}' is deleted"))
}

/// What was asked of something that is there and differs.
fn inequivalent(what: &str, asked: &Property, current: &Property) -> String {
    let (received, is) = (shown(asked, current), shown(current, asked));
    format!("inequivalent arg {what}: received {received} but current is {is}")
}

/// A property as RabbitMQ tells it in `inequivalent arg`: the type of an argument only where the other is not given.
fn shown(property: &Property, other: &Property) -> String {
    match property {
        // Erlang's `undefined`, which is also what is not there.
        Property::Argument(Some(Value::Void)) if !matches!(other, Property::Argument(None)) => {
            "none".to_owned()
        }
        Property::Flag(flag) => format!("'{flag}'"),
        Property::Kind(kind) => format!("'{}'", kind.name()),
        Property::Argument(None) => "none".to_owned(),
        Property::Argument(Some(value)) if !matches!(other, Property::Argument(None)) => {
            format!("'{}'", crate::args::to_wire(value))
        }
        Property::Argument(Some(value)) => {
            let wire = crate::args::to_wire(value);
            format!("the value '{wire}' of type '{}'", wire.type_name())
        }
    }
}

/// What is wrong with an argument, as RabbitMQ's Erlang prints it.
fn why(wrong: &Wrong, value: &Value) -> String {
    let wire = crate::args::to_wire(value);
    let kind = wire.type_name();
    match wrong {
        Wrong::NotAnInteger => format!(": \"expected integer, got {kind}\""),
        Wrong::Type => format!(": {{unacceptable_type,{kind}}}"),
        Wrong::Negative => format!(": {{value_negative,{wire}}}"),
        Wrong::Zero => format!(": {{value_zero,{wire}}}"),
        Wrong::TooLarge => format!(": {{value_too_large,{wire}}}"),
        Wrong::Exceeds => format!(": {{max_value_exceeded,{wire}}}"),
        Wrong::Overflow => ": invalid_overflow".to_owned(),
        Wrong::Strategy => ": invalid_dlx_strategy".to_owned(),
        Wrong::Retry => format!(
            ": \"{wire} is not a valid delayed retry type. Must be one of: all, failed, returned, disabled\""
        ),
        Wrong::NoDeadLetterExchange => ": routing_key_but_no_dlx_defined".to_owned(),
        Wrong::StreamOffset => {
            let shown = match value {
                Value::Text(text) => binary(text),
                _ => wire.to_string(),
            };
            format!(": {{invalid_stream_offset_arg,{{{kind},{shown}}}}}")
        }
        Wrong::MaxAge => ": invalid_max_age".to_owned(),
        Wrong::QueueType => format!(": \"unsupported queue type '{wire}'\""),
        Wrong::OverTopic => format!(": {wrong}"),
        Wrong::NoTopic => format!(": {wrong}"),
        Wrong::NotOf(QueueType::Classic) => " of queue type rabbit_classic_queue".to_owned(),
        Wrong::NotOf(QueueType::Quorum) => " of queue type rabbit_quorum_queue".to_owned(),
        Wrong::NotOf(QueueType::Stream) => " of queue type rabbit_stream_queue".to_owned(),
    }
}

/// What an exchange of a certain kind does not take, as its implementation in RabbitMQ says it.
fn misfit(unfit: &Unfit) -> String {
    match unfit {
        Unfit::Match(Value::Text(text)) => format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            binary(text)
        ),
        Unfit::Match(value) => {
            let wire = crate::args::to_wire(value);
            let kind = wire.type_name();
            format!("Invalid x-match field type {kind} (value {wire}); expected longstr")
        }
        Unfit::Weight(key) => format!("The binding key must be an integer: {}", binary(key)),
        Unfit::WeightTooSmall => "The binding key must be greater than 0".to_owned(),
        Unfit::WeightTooLarge(most) => format!("The binding key must not exceed {most}"),
        Unfit::TwoHashes => "hash-header and hash-property are mutually exclusive".to_owned(),
        Unfit::Hash(value) => format!("Unsupported property: {}", crate::args::to_wire(value)),
        Unfit::KeyNotEmpty(key) => {
            format!("Non empty binding '{}' key not permitted", String::from_utf8_lossy(key))
        }
        Unfit::NotClassic => "Queue type rabbit_quorum_queue not valid for this exchange type".to_owned(),
        Unfit::Size(text) => (*text).to_owned(),
        Unfit::NotAQueue => "Destination not found".to_owned(),
        Unfit::NoDelayedType => {
            "Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned()
        }
        Unfit::DelayedTwice => {
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'".to_owned()
        }
        Unfit::UnknownKind(kind) => format!("unknown exchange type '{kind}'"),
    }
}

/// Bytes as Erlang shows them.
fn binary(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "<<>>".to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => {
            let kind = if text.is_ascii() { "" } else { "/utf8" };
            format!("<<\"{}\"{kind}>>", text.replace('\\', "\\\\").replace('"', "\\\""))
        }
        _ => {
            let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!("<<{}>>", numbers.join(","))
        }
    }
}

fn told(value: &Value) -> String {
    let wire = crate::args::to_wire(value);
    format!("'{wire}' of type '{}'", wire.type_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_broker::queues::Width;

    #[track_caller]
    fn check(error: QueueError, code: u16, scope: Scope, text: &str) {
        let failure = Failure::from(error);
        assert_eq!((failure.code.code(), failure.scope, &*failure.text), (code, scope, text));
    }

    #[test]
    fn words_are_rabbitmqs() {
        let inequivalent = |current, asked| QueueError::Inequivalent {
            entity: Entity::Queue,
            vhost: "/".into(),
            name: "q".into(),
            property: "durable".to_owned(),
            current: Box::new(current),
            asked: Box::new(asked),
        };
        check(
            inequivalent(Property::Flag(false), Property::Flag(true)),
            406,
            Scope::Channel,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but \
             current is 'false'",
        );
        check(
            inequivalent(Property::Argument(None), Property::Argument(Some(Value::Int(5, Width::I32)))),
            406,
            Scope::Channel,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received the value '5' \
             of type 'signedint' but current is none",
        );
        let seconds = |seconds| Property::Argument(Some(Value::Int(seconds, Width::I32)));
        check(
            inequivalent(seconds(1), seconds(2)),
            406,
            Scope::Channel,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received '2' but current \
             is '1'",
        );
        check(
            inequivalent(seconds(1), Property::Argument(Some(Value::Void))),
            406,
            Scope::Channel,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received none but current \
             is '1'",
        );
        let wrong = |argument, value, wrong| QueueError::WrongArgument {
            vhost: "/".into(),
            name: "q".into(),
            argument,
            value,
            wrong,
        };
        let text = |argument: &str, rest: &str| {
            format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue 'q' in vhost '/'{rest}")
        };
        for (error, text) in [
            (
                wrong("x-message-ttl", Value::text("5"), Wrong::NotAnInteger),
                text("x-message-ttl", ": \"expected integer, got longstr\""),
            ),
            (
                wrong("x-expires", Value::Int(-5, Width::I32), Wrong::Negative),
                text("x-expires", ": {value_negative,-5}"),
            ),
            (
                wrong("x-max-priority", Value::Int(5, Width::U8), Wrong::NotOf(QueueType::Quorum)),
                text("x-max-priority", " of queue type rabbit_quorum_queue"),
            ),
            (
                wrong("x-overflow", Value::Bool(true), Wrong::Type),
                text("x-overflow", ": {unacceptable_type,bool}"),
            ),
        ] {
            check(error, 406, Scope::Channel, &text);
        }
        let missing = QueueError::NotFound { entity: Entity::Exchange, vhost: "/".into(), name: "x".into() };
        check(missing, 404, Scope::Channel, "NOT_FOUND - no exchange 'x' in vhost '/'");
        let text = "CONNECTION_FORCED - vhost 'v' is deleted";
        check(QueueError::NoVhost("v".into()), 320, Scope::Connection, text);
        check(
            QueueError::DefaultExchange,
            403,
            Scope::Channel,
            "ACCESS_REFUSED - operation not permitted on the default exchange",
        );
    }
}
