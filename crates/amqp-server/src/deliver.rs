//! Deliveries on their way from the queues to the client.
//!
//! **Invariants.** Nothing is sent for a consumer before `basic.consume-ok`, and nothing beyond the global
//! prefetch of its channel. What the client has to settle is remembered before it is sent. A client that deletes a
//! queue hears of that before its consumers of it are cancelled.
//!
//! Deliberately absent: prefetch, which the queues keep, that of a channel by its permits. Only what was under way without one when
//! the limit was set is held here.

use std::collections::VecDeque;

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::{put_message, put_method};
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{EncodeError, Properties, ReplyCode};
use ferrymq_broker::queues::{Delivery, Event, Message, Permit};

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
        mut delivery: Delivery,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let token = delivery.token;
        let Some(consumer) = state.consumers.get_mut(&token) else { return Ok(()) };
        let Some(channel) = state.channels.get_mut(&consumer.channel) else { return Ok(()) };
        if consumer.held == 0 && may_go(channel, consumer, &delivery) {
            return self.send(channel, consumer, delivery, out);
        }
        // One that waits behind others of its own leaves its permit to them.
        let waits = consumer.held > 0 && consumer.limited;
        let permit = if waits { std::mem::take(&mut delivery.permit) } else { Permit::default() };
        consumer.held += 1;
        channel.held.push_back((token, delivery));
        if waits {
            channel.forgo(permit);
            return self.send_held(channel, &mut state.consumers, out);
        }
        Ok(())
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
            let consumed = consumer.limited;
            channel.unacked.push(tag, Unacked { queue: queue.clone(), offset: *offset, consumed });
            channel.consumed += u32::from(consumed);
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
        if channel.held.is_empty() {
            return Ok(());
        }
        self.output.with(|out| self.send_held(channel, &mut state.consumers, out))
    }

    fn send_held(
        &self,
        channel: &mut Channel,
        consumers: &mut Numbered<u64, Consumer>,
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        while let Some((token, delivery)) = channel.held.front() {
            let mut consumer = consumers.get_mut(token);
            if consumer.as_mut().is_some_and(|consumer| !may_go(channel, consumer, delivery)) {
                break;
            }
            let Some((_, delivery)) = channel.held.pop_front() else { break };
            match consumer {
                None => channel.forgo(delivery.permit),
                Some(consumer) => {
                    consumer.held -= 1;
                    self.send(channel, consumer, delivery, out)?;
                }
            }
        }
        Ok(())
    }

    /// A consumer was told of: sends what was held for it until then, wherever it stands.
    pub(crate) fn announced(&self, state: &mut State, number: u16, token: u64) -> Result<(), Failure> {
        let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
        let held = state.consumers.get_mut(&token).map_or(0, |consumer| std::mem::take(&mut consumer.held));
        let mut own = VecDeque::new();
        if held > 0 {
            let all = std::mem::take(&mut channel.held).into_iter();
            (own, channel.held) = all.partition(|(held, _)| *held == token);
        }
        self.output.with(|out| {
            own.into_iter().try_for_each(|(_, delivery)| self.take_delivery(state, delivery, out))
        })?;
        self.release(state, number)
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
        let is_its = |(held, _): &(u64, Delivery)| *held == token;
        let permits: Vec<Permit> =
            channel.held.iter().filter(|held| is_its(held)).map(|(_, delivery)| delivery.permit).collect();
        channel.held.retain(|held| !is_its(held));
        permits.into_iter().for_each(|permit| channel.forgo(permit));
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

/// Whether a consumer may be sent a delivery, apart from what is held before it.
fn may_go(channel: &Channel, consumer: &Consumer, delivery: &Delivery) -> bool {
    consumer.inner.is_some() && !channel.closing && (!consumer.limited || channel.admits(delivery))
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
