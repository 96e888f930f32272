//! Class basic, but for publishing and consumers: get, settling, recover, qos.
//!
//! **Invariants.** A delivery is settled once; a tag that is not there ends the channel. Settlements take
//! effect before anything that is answered later.

use std::sync::atomic::Ordering;

use ferrymq_amqp_codec::ReplyCode;
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_broker::queues::{Got, Settle};

use super::queue::counted;
use crate::counts;
use crate::deliver::undeliverable;
use crate::failure::Failure;
use crate::reader::Reader;
use crate::streams;
use crate::unacked::Unacked;

impl Reader<'_> {
    pub(crate) fn ack(&mut self, number: u16, ack: &basic::Ack) -> Result<(), Failure> {
        self.settle(number, ack.delivery_tag, ack.multiple, Settle::Ack)
    }

    pub(crate) fn nack(&mut self, number: u16, nack: &basic::Nack) -> Result<(), Failure> {
        let how = if nack.requeue { Settle::Requeue } else { Settle::Reject };
        self.settle(number, nack.delivery_tag, nack.multiple, how)
    }

    pub(crate) fn reject(&mut self, number: u16, reject: &basic::Reject) -> Result<(), Failure> {
        // To reject says that the consumer failed; to nack, that it would rather not.
        let how = if reject.requeue { Settle::Fail } else { Settle::Reject };
        self.settle(number, reject.delivery_tag, false, how)
    }

    fn settle(&mut self, number: u16, tag: u64, multiple: bool, how: Settle) -> Result<(), Failure> {
        let connection = self.connection;
        let mut state = connection.state.lock();
        let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
        let unknown =
            || Failure::new(ReplyCode::PreconditionFailed, format_args!("unknown delivery tag {tag}"));
        if channel.tx.is_some() {
            return channel.settle_later(tag, multiple, how).map(drop).ok_or_else(unknown);
        }
        let settled = match (tag, multiple) {
            (0, true) => channel.unacked.take_all(),
            (_, true) => channel.unacked.take_up_to(tag).ok_or_else(unknown)?,
            (_, false) => {
                let Unacked { queue, offset, consumed } = channel.unacked.take(tag).ok_or_else(unknown)?;
                channel.settled(consumed.into());
                self.settlements.push(queue, offset, how);
                connection.context.counters.count_settled(how, 1);
                Vec::new()
            }
        };
        connection.context.counters.count_settled(how, settled.len() as u64);
        let mut counted = 0;
        for Unacked { queue, offset, consumed } in settled {
            counted += u32::from(consumed);
            self.settlements.push(queue, offset, how);
        }
        channel.settled(counted);
        connection.release(&mut state, number)
    }

    pub(crate) async fn recover(
        &mut self,
        number: u16,
        requeue: bool,
        is_answered: bool,
    ) -> Result<(), Failure> {
        if !requeue {
            return Err(Failure::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        let connection = self.connection;
        {
            let mut state = connection.state.lock();
            let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
            let mut counted = 0;
            for Unacked { queue, offset, consumed } in channel.unacked.take_all() {
                counted += u32::from(consumed);
                self.settlements.push(queue, offset, Settle::Requeue);
            }
            channel.settled(counted);
        }
        self.send().await;
        if is_answered {
            connection.output.method(number, &basic::RecoverOk {});
        }
        connection.release(&mut connection.state.lock(), number)
    }

    pub(crate) fn qos(&mut self, number: u16, qos: &basic::Qos) -> Result<(), Failure> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Failure::new(ReplyCode::NotImplemented, text));
        }
        let connection = self.connection;
        {
            let mut state = connection.state.lock();
            let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
            if qos.global {
                channel.limit(qos.prefetch_count);
            } else {
                // Consumers that are there keep their own prefetch.
                channel.prefetch = qos.prefetch_count;
                channel.limit(0);
            }
            connection.release(&mut state, number)?;
        }
        connection.output.method(number, &basic::QosOk {});
        Ok(())
    }

    pub(crate) async fn get(&mut self, number: u16, get: &basic::Get<'_>) -> Result<(), Failure> {
        self.settle_all().await;
        let connection = self.connection;
        let name = self.queue_name(number, get.queue)?;
        if self.has_replies(&name)? {
            let vhost = &connection.opened.vhost;
            let text = format!("basic.get not supported by volatile queue '{name}' in vhost '{vhost}'");
            return Err(Failure::new(ReplyCode::NotImplemented, text));
        }
        let (queues, vhost) = (&connection.context.queues, &connection.opened.vhost);
        let got = queues.get(&connection.session, vhost, &name, get.no_ack).await?;
        let counters = &connection.context.counters;
        let Some(Got { delivery, ready, queue }) = got else {
            counters.got_nothing_total.fetch_add(1, Ordering::Relaxed);
            connection.output.method(number, &basic::GetEmpty { cluster_id: b"" });
            return Ok(());
        };
        let tag = {
            let mut state = connection.state.lock();
            let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
            let tag = channel.next_delivery_tag();
            if !get.no_ack {
                channel.unacked.push(tag, Unacked { queue, offset: delivery.offset, consumed: false });
            }
            tag
        };
        let message = &delivery.message;
        let ok = basic::GetOk {
            delivery_tag: tag,
            redelivered: delivery.redelivered,
            exchange: &message.exchange,
            routing_key: &message.routing_key,
            message_count: counted(ready),
        };
        let by = if get.no_ack { &counters.got_auto_total } else { &counters.got_total };
        counters.count_delivery(by, delivery.redelivered);
        let frame_max = connection.opened.frame_max;
        let told = streams::told(&delivery, frame_max);
        let properties = counts::properties(&delivery, told.as_ref());
        connection
            .output
            .with(|out| put_message(out, number, &ok, properties, &message.body, frame_max))
            .map_err(undeliverable)
    }
}
