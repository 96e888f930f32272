//! Deliveries on their way from the queues to the client.
//!
//! **Invariants.** Nothing is sent for a consumer before `basic.consume-ok`, and nothing beyond the global
//! prefetch of its channel. What the client has to settle is remembered before it is sent. A client that deletes a
//! queue hears of that before its consumers of it are cancelled.
//!
//! Deliberately absent: prefetch of a single consumer, which its queue keeps. A consumer under a global prefetch
//! is sent that many ahead by each of its queues, and what may not go out is held here.

use std::collections::VecDeque;

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::{put_message, put_method};
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{EncodeError, Properties, ReplyCode};
use ferrymq_broker::queues::{Delivery, Event, Message};

use crate::channel::{Channel, Consumer};
use crate::counts;
use crate::failure::Failure;
use crate::numbers::Numbered;
use crate::overdue::Overdue;
use crate::replies::Reply;
use crate::state::{Connection, State};
use crate::streams;
use crate::unacked::Unacked;

impl Connection {
    /// Writes what an event brings, or holds it.
    pub(crate) fn take_event(&self, event: Event, out: &mut BytesMut) -> Result<(), Failure> {
        match event {
            Event::Deliver(deliveries) => {
                let mut state = self.state.lock();
                for delivery in deliveries {
                    self.take_delivery(&mut state, delivery, out)?;
                }
            }
            Event::Cancelled { token } => self.cancelled(token, out)?,
            Event::Overdue { token, queue, offsets, timeout_ms } => {
                self.overdue.push(Overdue { token, queue, offsets, timeout_ms });
            }
        }
        Ok(())
    }

    fn take_delivery(
        &self,
        state: &mut State,
        delivery: Delivery,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let token = delivery.token;
        let Some(consumer) = state.consumers.get(&token) else { return Ok(()) };
        let Some(channel) = state.channels.get_mut(&consumer.channel) else { return Ok(()) };
        let is_ready = consumer.inner.is_some() && !channel.closing;
        let may_go = if consumer.no_ack {
            // Nothing limits it; it only waits for what of its own is held.
            !channel.held.iter().any(|(held, _)| *held == token)
        } else {
            channel.held.is_empty() && !channel.is_full()
        };
        if is_ready && may_go {
            self.send(channel, consumer, delivery, out)
        } else {
            channel.held.push_back((token, delivery));
            Ok(())
        }
    }

    fn send(
        &self,
        channel: &mut Channel,
        consumer: &Consumer,
        delivery: Delivery,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let told = match consumer.stream {
            true => streams::shortened(&delivery, self.opened.frame_max),
            false => streams::told(&delivery, self.opened.frame_max),
        };
        let properties = counts::properties(&delivery, told.as_ref());
        let Delivery { offset, redelivered, message, .. } = &delivery;
        let tag = channel.next_delivery_tag();
        if let (false, Some(queue)) = (consumer.no_ack, consumer.queue()) {
            channel.unacked.push(tag, Unacked { queue: queue.clone(), offset: *offset, consumed: true });
            channel.consumed += 1;
        }
        let deliver = basic::Deliver {
            consumer_tag: &consumer.tag,
            delivery_tag: tag,
            redelivered: *redelivered,
            exchange: &message.exchange,
            routing_key: &message.routing_key,
        };
        let counters = &self.context.counters;
        let by = if consumer.no_ack { &counters.consumed_auto_total } else { &counters.consumed_total };
        counters.count_delivery(by, *redelivered);
        put_message(out, consumer.channel, &deliver, properties, &message.body, self.opened.frame_max)
            .map_err(undeliverable)
    }

    /// Sends what was held on a channel, as far as it may go now.
    pub(crate) fn release(&self, state: &mut State, number: u16) -> Result<(), Failure> {
        let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
        while let Some((token, _)) = channel.held.front() {
            let consumer = state.consumers.get(token);
            let may_go = match consumer {
                None => true,
                Some(consumer) => consumer.inner.is_some() && (consumer.no_ack || !channel.is_full()),
            };
            if !may_go {
                break;
            }
            let Some((_, delivery)) = channel.held.pop_front() else { break };
            if let Some(consumer) = consumer {
                self.send_now(channel, consumer, delivery)?;
            }
        }
        self.release_unlimited(channel, &state.consumers)
    }

    /// Sends what is held behind others for consumers that nothing limits.
    fn release_unlimited(
        &self,
        channel: &mut Channel,
        consumers: &Numbered<u64, Consumer>,
    ) -> Result<(), Failure> {
        let is_unlimited = |token: &u64| {
            consumers.get(token).is_some_and(|consumer| consumer.no_ack && consumer.inner.is_some())
        };
        if channel.held.is_empty() || !channel.consumers.values().any(is_unlimited) {
            return Ok(());
        }
        let (free, held) =
            std::mem::take(&mut channel.held).into_iter().partition(|(token, _)| is_unlimited(token));
        channel.held = held;
        let free: VecDeque<(u64, Delivery)> = free;
        for (token, delivery) in free {
            if let Some(consumer) = consumers.get(&token) {
                self.send_now(channel, consumer, delivery)?;
            }
        }
        Ok(())
    }

    fn send_now(
        &self,
        channel: &mut Channel,
        consumer: &Consumer,
        delivery: Delivery,
    ) -> Result<(), Failure> {
        let mut sent = Ok(());
        let written = self.output.with(|out| {
            sent = self.send(channel, consumer, delivery, out);
            Ok::<(), EncodeError>(())
        });
        written.map_err(undeliverable)?;
        sent
    }

    /// Writes a direct reply, if the consumer that it is for is still there.
    pub(crate) fn take_reply(&self, reply: &Reply, out: &mut BytesMut) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let Some(channel) = state.channels.get_mut(&reply.channel) else { return Ok(()) };
        let is_its = channel.replies.as_ref().is_some_and(|consumer| consumer.token == reply.token);
        if is_its && !channel.closing { self.send_reply(channel, reply, out) } else { Ok(()) }
    }

    /// Writes a direct reply to a channel that consumes them.
    pub(crate) fn send_reply(
        &self,
        channel: &mut Channel,
        reply: &Reply,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let delivery_tag = channel.next_delivery_tag();
        let Some(consumer) = &channel.replies else { return Ok(()) };
        let message = &reply.message;
        let deliver = basic::Deliver {
            consumer_tag: &consumer.tag,
            delivery_tag,
            redelivered: false,
            exchange: &message.exchange,
            routing_key: &message.routing_key,
        };
        let counters = &self.context.counters;
        counters.count_delivery(&counters.consumed_auto_total, false);
        let frame_max = self.opened.frame_max;
        put_message(out, reply.channel, &deliver, properties_of(message), &message.body, frame_max)
            .map_err(undeliverable)
    }

    /// The queue of a consumer was deleted.
    fn cancelled(&self, token: u64, out: &mut BytesMut) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let Some(consumer) = state.consumers.remove(&token) else { return Ok(()) };
        let Some(channel) = state.channels.get_mut(&consumer.channel) else { return Ok(()) };
        channel.held.retain(|(held, _)| *held != token);
        channel.consumers.remove(&consumer.tag);
        let is_told = self.opened.cancel_notify && !channel.closing && consumer.inner.is_some();
        if !is_told {
            return Ok(());
        }
        if let Some(cancels) = &mut state.cancels {
            cancels.push((consumer.channel, consumer.tag));
        } else {
            let cancel = basic::Cancel { consumer_tag: &consumer.tag, nowait: true };
            put_method(out, consumer.channel, &cancel).map_err(undeliverable)?;
        }
        Ok(())
    }
}

/// The publisher's properties, as they were stored.
pub(crate) fn properties_of(message: &Message) -> Properties<'_> {
    Properties::parse(&message.properties).unwrap_or_else(|error| {
        tracing::error!(error = %error, "a stored message has properties that are not AMQP's; it goes without");
        Properties::EMPTY
    })
}

/// Properties that do not fit a frame as small as the client asked for.
pub(crate) fn undeliverable(error: EncodeError) -> Failure {
    Failure::hard(ReplyCode::FrameError, format_args!("a message cannot be delivered: {error}"))
}
