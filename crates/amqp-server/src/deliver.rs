//! Deliveries on their way from the queues to the client.
//!
//! **Invariants.** Nothing is sent for a consumer before `basic.consume-ok`, and nothing beyond the global
//! prefetch of its channel. What the client has to settle is remembered before it is sent. A client that deletes a
//! queue hears of that before its consumers of it are cancelled.
//!
//! Deliberately absent: prefetch of a single consumer, which its queue keeps. A consumer under a global prefetch
//! is sent that many ahead by each of its queues, and what may not go out is held here.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::{put_message, put_method};
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{EncodeError, Properties, ReplyCode};
use ferrymq_broker::queues::{Delivery, Event, Message};

use crate::channel::{Channel, Consumer};
use crate::failure::Failure;
use crate::state::{Connection, State};
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
        let is_ready = consumer.inner.is_some() && !channel.closing && channel.held.is_empty();
        if is_ready && (consumer.no_ack || !channel.is_full()) {
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
        let Delivery { offset, redelivered, message, .. } = delivery;
        let tag = channel.next_delivery_tag();
        if let (false, Some(queue)) = (consumer.no_ack, consumer.queue()) {
            channel.unacked.push(tag, Unacked { queue: queue.clone(), offset });
        }
        let deliver = basic::Deliver {
            consumer_tag: &consumer.tag,
            delivery_tag: tag,
            redelivered,
            exchange: &message.exchange,
            routing_key: &message.routing_key,
        };
        self.context.counters.delivered_total.fetch_add(1, Ordering::Relaxed);
        put_message(
            out,
            consumer.channel,
            &deliver,
            properties_of(&message),
            &message.body,
            self.opened.frame_max,
        )
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
                let mut sent = Ok(());
                let written = self.output.with(|out| {
                    sent = self.send(channel, consumer, delivery, out);
                    Ok::<(), EncodeError>(())
                });
                written.map_err(undeliverable)?;
                sent?;
            }
        }
        Ok(())
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
