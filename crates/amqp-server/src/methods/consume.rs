//! Class basic: consumers.
//!
//! **Invariants.** `basic.consume-ok` precedes the first delivery; whatever was sent to a consumer before it
//! was cancelled precedes `basic.cancel-ok`, or is available again.
//!
//! Deliberately absent: consumers that do not acknowledge in time (`overdue`); `no_local`, which RabbitMQ ignores as
//! well.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{ReplyCode, Table};
use ferrymq_broker::queues::{
    Consumer as QueueConsumer, Credit, Entity, NewConsumer, Permits, QueueError, QueueType, Settle,
    StreamFrom, Value, Wrong,
};
use ferrymq_types::limits::{AMQP_CONSUMERS_MAX, AMQP_UNACKED_MAX};

use crate::args::from_value;
use crate::channel::{Channel, Consumer};
use crate::context::Context;
use crate::failure::Failure;
use crate::reader::Reader;
use crate::replies::PSEUDO_QUEUE;
use crate::streams;

const PRIORITY: &str = "x-priority";
const TIMEOUT: &str = "x-consumer-timeout";

impl Reader<'_> {
    pub(crate) async fn consume(&mut self, number: u16, consume: &basic::Consume<'_>) -> Result<(), Failure> {
        let connection = self.connection;
        let name = self.queue_name(number, consume.queue)?;
        if name.starts_with(PSEUDO_QUEUE) {
            return self.consume_replies(number, &name, consume);
        }
        self.check_tag(number, consume.consumer_tag)?;
        let Asked { kind, priority, timeout_ms, from } = self.asked(&name, consume.arguments)?;
        if let Some(channel) = connection.state.lock().channels.get(&number) {
            check_channel(channel, kind, consume.no_ack, &connection.opened.vhost, &name)?;
        }
        let Registered { token, tag, credit, permits } = self.register(number, consume, kind)?;
        let (no_ack, exclusive) = (consume.no_ack, consume.exclusive);
        let new = NewConsumer {
            no_ack,
            exclusive,
            priority,
            timeout_ms,
            permits,
            ..NewConsumer::new(token, credit)
        };
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let (session, sink) = (&connection.session, &connection.sink);
        let begun = match from {
            Some(from) => queues.consume_stream(session, vhost, &name, new, from, sink).await,
            None => queues.consume(session, vhost, &name, new, sink).await,
        };
        let mut state = connection.state.lock();
        match begun {
            Err(error) => {
                state.consumers.remove(&token);
                if let Some(channel) = state.channels.get_mut(&number) {
                    channel.consumers.remove(&tag);
                }
                Err(error.into())
            }
            Ok(inner) => {
                if !consume.nowait {
                    connection.output.method(number, &basic::ConsumeOk { consumer_tag: &tag });
                }
                match state.consumers.get_mut(&token) {
                    Some(consumer) => consumer.inner = Some(inner),
                    // The queue was deleted meanwhile.
                    None if connection.opened.cancel_notify => {
                        let cancel = basic::Cancel { consumer_tag: &tag, nowait: true };
                        connection.output.method(number, &cancel);
                    }
                    None => {}
                }
                connection.announced(&mut state, number, token)
            }
        }
    }

    /// A tag that is in use ends the connection, whatever else is wrong.
    fn check_tag(&self, number: u16, tag: &[u8]) -> Result<(), Failure> {
        let state = self.connection.state.lock();
        let known = state.channels.get(&number).is_some_and(|channel| channel.consumers.contains_key(tag));
        if known { Err(reused(tag)) } else { Ok(()) }
    }

    /// Makes a consumer known, so that what arrives for it is held until it is announced.
    fn register(
        &mut self,
        number: u16,
        consume: &basic::Consume<'_>,
        kind: QueueType,
    ) -> Result<Registered, Failure> {
        let connection = self.connection;
        let mut guard = connection.state.lock();
        let state = &mut *guard;
        if state.consumers.len() >= AMQP_CONSUMERS_MAX {
            return Err(too_many());
        }
        let token = state.next_token();
        let Some(channel) = state.channels.get_mut(&number) else {
            return Err(Failure::new(ReplyCode::ChannelError, "expected 'channel.open'"));
        };
        let tag = tag_of(&connection.context, consume.consumer_tag);
        let credit = match (consume.no_ack, channel.prefetch) {
            (true, _) => Credit::Unlimited,
            (false, 0) => Credit::Window(AMQP_UNACKED_MAX),
            (false, prefetch) => Credit::Window(prefetch.into()),
        };
        // As in RabbitMQ, those of other types know no global prefetch, also where it is set later.
        let permits = (kind == QueueType::Classic).then(|| channel.permits().clone());
        channel.consumers.insert(tag.clone(), token);
        let consumer = Consumer {
            channel: number,
            tag: tag.clone(),
            no_ack: consume.no_ack,
            stream: kind == QueueType::Stream,
            limited: permits.is_some() && !consume.no_ack,
            held: 0,
            inner: None,
        };
        state.consumers.insert(token, consumer);
        Ok(Registered { token, tag, credit, permits })
    }

    pub(crate) async fn cancel(&mut self, number: u16, tag: &[u8], nowait: bool) -> Result<(), Failure> {
        let connection = self.connection;
        if self.cancel_replies(number, tag)? {
            if !nowait {
                connection.output.method(number, &basic::CancelOk { consumer_tag: tag });
            }
            return Ok(());
        }
        let found = {
            let state = connection.state.lock();
            let token = state.channels.get(&number).and_then(|channel| channel.consumers.get(tag)).copied();
            token.and_then(|token| {
                let inner = state.consumers.get(&token)?.inner.clone()?;
                Some((token, inner))
            })
        };
        if let Some((token, inner)) = found {
            self.end_consumer(number, token, tag, &inner).await?;
        }
        if !nowait {
            connection.output.method(number, &basic::CancelOk { consumer_tag: tag });
        }
        Ok(())
    }

    /// Ends a consumer; what of its deliveries did not go out is available again.
    pub(crate) async fn end_consumer(
        &mut self,
        number: u16,
        token: u64,
        tag: &[u8],
        inner: &QueueConsumer,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        let ended = connection.context.queues.cancel(&connection.session, inner).await;
        connection.drain().await;
        {
            let mut guard = connection.state.lock();
            let state = &mut *guard;
            let (consumer, mut forgone) = (state.consumers.remove(&token), Vec::new());
            if let Some(channel) = state.channels.get_mut(&number) {
                channel.consumers.remove(tag);
                channel.held.retain(|(held, delivery)| {
                    let is_its = *held == token;
                    if is_its && consumer.as_ref().is_some_and(|consumer| !consumer.no_ack) {
                        self.settlements.push(inner.queue.clone(), delivery.offset, Settle::Requeue);
                        forgone.push(delivery.permit);
                    }
                    !is_its
                });
                forgone.into_iter().for_each(|permit| channel.forgo(permit));
            }
            connection.release(state, number)?;
        }
        self.send().await;
        Ok(ended?)
    }
}

/// The tag that was asked for, or a new one.
pub(super) fn tag_of(context: &Context, asked: &[u8]) -> Bytes {
    if asked.is_empty() {
        Bytes::from(format!("amq.ctag-{:032x}", context.rng.next_u128()))
    } else {
        Bytes::copy_from_slice(asked)
    }
}

pub(super) fn too_many() -> Failure {
    let text = format!("reached maximum ({AMQP_CONSUMERS_MAX}) of consumers per connection");
    Failure::new(ReplyCode::NotAllowed, text)
}

pub(super) fn reused(tag: &[u8]) -> Failure {
    let text = format!("attempt to reuse consumer tag '{}'", String::from_utf8_lossy(tag));
    Failure::new(ReplyCode::NotAllowed, text)
}

/// Arguments that only consumers of one type of queue have.
const OF_SOME: [(&str, QueueType); 4] = [
    (TIMEOUT, QueueType::Quorum),
    (streams::OFFSET, QueueType::Stream),
    (streams::FILTER, QueueType::Stream),
    (streams::UNFILTERED, QueueType::Stream),
];

/// What a consumer's arguments say, and what is consumed.
struct Asked {
    kind: QueueType,
    priority: i64,
    /// How long it may have a delivery unsettled.
    timeout_ms: Option<u64>,
    /// Where it begins, if it reads a stream.
    from: Option<StreamFrom>,
}

/// A consumer that the door knows and its queue does not yet.
struct Registered {
    token: u64,
    tag: Bytes,
    credit: Credit,
    permits: Option<Arc<Permits>>,
}

/// What a channel must have said, or not said, before it consumes from a queue of a type; in RabbitMQ's order.
fn check_channel(
    channel: &Channel,
    kind: QueueType,
    no_ack: bool,
    vhost: &str,
    name: &str,
) -> Result<(), Failure> {
    if kind == QueueType::Classic {
        return Ok(());
    }
    let queue = format!("queue '{name}' in vhost '{vhost}'");
    if channel.prefetch_global != 0 {
        return Err(Failure::new(ReplyCode::NotImplemented, format!("{queue} does not support global qos")));
    }
    if kind != QueueType::Stream {
        return Ok(());
    }
    if channel.prefetch == 0 {
        let text = format!("consumer prefetch count is not set for stream {queue}");
        return Err(Failure::new(ReplyCode::PreconditionFailed, text));
    }
    if no_ack {
        let text = format!("automatic acknowledgement not supported by stream {queue}");
        return Err(Failure::new(ReplyCode::NotImplemented, text));
    }
    Ok(())
}

impl Reader<'_> {
    /// What a consumer's arguments say. What it asks for and does not get is refused.
    fn asked(&self, name: &Arc<str>, arguments: Table<'_>) -> Result<Asked, Failure> {
        let connection = self.connection;
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let kind = queues.kind(&connection.session, vhost, name)?;
        let wrong = |argument, value, wrong| QueueError::WrongArgument {
            vhost: vhost.clone(),
            name: name.clone(),
            argument,
            value,
            wrong,
        };
        let given = |argument: &str| arguments.get(argument.as_bytes()).map(from_value);
        let priority = match given(PRIORITY) {
            None => 0,
            Some(value) if kind == QueueType::Stream => {
                return Err(wrong(PRIORITY, value, Wrong::NotOf(kind)).into());
            }
            Some(Value::Int(priority, _)) => priority,
            Some(other) => return Err(wrong(PRIORITY, other, Wrong::NotAnInteger).into()),
        };
        let timeout_ms = match given(TIMEOUT).filter(|_| kind == QueueType::Quorum) {
            None => None,
            Some(Value::Int(timeout_ms @ 0.., _)) => Some(timeout_ms.unsigned_abs()),
            Some(negative @ Value::Int(..)) => return Err(wrong(TIMEOUT, negative, Wrong::Negative).into()),
            Some(other) => return Err(wrong(TIMEOUT, other, Wrong::NotAnInteger).into()),
        };
        let is_served = |argument| argument == TIMEOUT && timeout_ms.is_some();
        for (argument, of) in OF_SOME.into_iter().filter(|(argument, _)| !is_served(*argument)) {
            let Some(value) = given(argument) else { continue };
            let error = match of == kind {
                true if kind == QueueType::Stream => continue,
                true => {
                    QueueError::Unsupported { entity: Entity::Queue, argument: argument.to_owned(), value }
                }
                false => wrong(argument, value, Wrong::NotOf(kind)),
            };
            return Err(error.into());
        }
        let from = match kind {
            QueueType::Stream => {
                let now_ms = connection.context.clock.wall_ms();
                let asked = streams::asked(given, now_ms);
                Some(asked.map_err(|(argument, value, why)| wrong(argument, value, why))?)
            }
            _ => None,
        };
        Ok(Asked { kind, priority, timeout_ms, from })
    }
}
