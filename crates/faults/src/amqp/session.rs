//! A client on one channel that takes notes of all it does and is told.
//!
//! **Invariants** are those of [`ferrymq_checker::queues`]: what comes after the channel began to be closed is not
//! noted, and when the broker ended it, what came after the last question that was answered is noted as unsure.
//! However a session ends, dropping it hands its notes over.
//!
//! Deliberately absent: what to do; see the loads.

mod reading;
mod sending;
mod transaction;

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_amqp_codec::method::{basic, channel, confirm, exchange, queue};
use ferrymq_amqp_codec::{EncodeError, Table, TableBuilder, ValueRef, WireMethod};
use ferrymq_checker::Value as Named;
use ferrymq_checker::queues::{Delivery, Holder, How, Publishing, Settled};

use super::letters::target_of;
use super::limits;
use super::link::{Event, Link};
use super::{Queue, Style};
use crate::history::Sent;
use crate::value::Value;
use crate::world::World;
use sending::Sending;
pub(super) use sending::Way;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Gathered bytes that are sent at once.
const GATHER_BYTES: usize = 48 * 1024;

/// What a question is answered with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) messages: u64,
    pub(super) consumers: u64,
}

/// A session.
pub(super) struct Session {
    world: Arc<World>,
    link: Link,
    pub(super) life: u32,
    /// Its channel, of all there are.
    channel: u64,
    writer: u32,
    counter: u32,
    /// Publishings of this channel.
    published: u64,
    /// What waits for its confirm, by number.
    waiting: BTreeMap<u64, Sending>,
    answered: Vec<Publishing>,
    /// Records of topics that were answered.
    records: Vec<Sent>,
    /// The stream that is read.
    reading: Option<reading::Reading>,
    deliveries: Vec<Delivery>,
    /// Channels have transactions instead of confirms.
    transacts: bool,
    /// The transaction that is open.
    tx: Option<transaction::Open>,
    /// What is to be settled: where in `deliveries`, by tag.
    pub(super) held: BTreeMap<u64, usize>,
    /// Settled, and not vouched for.
    unvouched: Vec<usize>,
    holders: Vec<Holder>,
    /// The stretch that deliveries belong to.
    pub(super) stretch: Option<u64>,
    /// When the last question was asked that was answered.
    sure: u64,
    /// When the channel began to be closed by us.
    closing: Option<u64>,
    /// A get that is not answered: the queue, and whether it is to be settled.
    getting: Option<(String, bool)>,
}

fn refused(code: u16, text: &str) -> Error {
    Error::new(ErrorKind::ConnectionRefused, format!("{code} {text}"))
}

/// The code of an error with which the broker closed a channel.
pub(super) fn code_of(error: &Error) -> Option<u16> {
    let closed = error.kind() == ErrorKind::ConnectionRefused;
    error.to_string().split(' ').next().filter(|_| closed)?.parse().ok()
}

impl Session {
    /// A connection with a channel that confirms; `None` if there is no server.
    pub(super) fn open(world: &Arc<World>) -> Result<Option<Session>> {
        let Some((address, life)) = world.amqp_server() else { return Ok(None) };
        let link = world.connect_amqp(address, PATIENCE)?;
        let mut session = Session {
            world: world.clone(),
            link,
            life,
            channel: 0,
            writer: 0,
            counter: 0,
            published: 0,
            waiting: BTreeMap::new(),
            answered: Vec::new(),
            records: Vec::new(),
            reading: None,
            deliveries: Vec::new(),
            transacts: false,
            tx: None,
            held: BTreeMap::new(),
            unvouched: Vec::new(),
            holders: Vec::new(),
            stretch: None,
            sure: 0,
            closing: None,
            getting: None,
        };
        session.begin()?;
        Ok(Some(session))
    }

    /// Opens a channel; all that is known of the one before was handed over.
    fn begin(&mut self) -> Result<()> {
        self.sure = self.world.now();
        self.channel = u64::from(self.world.new_writer());
        self.writer = self.world.new_writer();
        (self.counter, self.published, self.stretch, self.closing) = (0, 0, None, None);
        self.held.clear();
        self.unvouched.clear();
        self.link.open_channel(PATIENCE)?;
        if self.transacts {
            return self.begin_transactions();
        }
        self.ask(&confirm::Select::default()).map(drop)
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.link.flush()
    }

    /// Takes one thing that the broker says; whether it said any in time.
    pub(super) fn hear(&mut self, patience: Duration) -> Result<bool> {
        match self.link.next(patience)? {
            None => Ok(false),
            Some(event) => self.on_event(event).map(|_| true),
        }
    }

    /// Sends a method and waits for its answer. What was settled before is vouched for.
    pub(super) fn ask<'a, M: WireMethod<'a>>(&mut self, method: &M) -> Result<Told> {
        self.link.put(method)?;
        let asked = self.world.now();
        self.flush()?;
        loop {
            let event = self.link.next(PATIENCE)?.ok_or(ErrorKind::TimedOut)?;
            if let Some(told) = self.on_event(event)? {
                self.vouch(asked);
                return Ok(told);
            }
        }
    }

    fn vouch(&mut self, asked: u64) {
        let now = self.world.now();
        self.sure = asked;
        for place in self.unvouched.drain(..) {
            let settled = self.deliveries.get_mut(place).and_then(|delivery| delivery.settled.as_mut());
            if let Some(settled) = settled {
                settled.vouched = Some(now);
                self.world.counts.settled.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn on_event(&mut self, event: Event) -> Result<Option<Told>> {
        match event {
            Event::Deliver { tag, redelivered, queue, offset, body } => {
                if self.reading.is_some() {
                    self.read(tag, offset, &body)?;
                } else if self.closing.is_none() {
                    self.deliver(tag, redelivered, queue, &body, true);
                }
            }
            Event::Got { tag, redelivered, body } => {
                if let Some((queue, settle)) = self.getting.take() {
                    self.deliver(tag, redelivered, queue, &body, settle);
                }
                return Ok(Some(Told { messages: 1, consumers: 0 }));
            }
            Event::Empty => {
                self.getting = None;
                return Ok(Some(Told { messages: 0, consumers: 0 }));
            }
            Event::Returned { body } => self.returned(&body),
            Event::Confirm { tag, multiple, ok } => self.confirmed(tag, multiple, ok),
            Event::Answer { messages, consumers } => {
                let (messages, consumers) = (u64::from(messages), u64::from(consumers));
                return Ok(Some(Told { messages, consumers }));
            }
            // Nobody deletes a queue that somebody consumes.
            Event::Cancelled { queue } => {
                self.world.violation("consumer-cancelled", || format!("{queue} in life {}", self.life));
            }
            Event::Closed { code, text } => return Err(refused(code, &text)),
        }
        Ok(None)
    }

    fn deliver(&mut self, tag: u64, redelivered: bool, queue: String, body: &[u8], settle: bool) {
        let value = match Value::read(body) {
            Ok(value) => value,
            Err(what) => {
                return self.world.violation("damaged-message", || format!("{queue}: {what}"));
            }
        };
        if settle {
            self.held.insert(tag, self.deliveries.len());
        }
        self.world.counts.delivered.fetch_add(1, Ordering::Relaxed);
        self.deliveries.push(Delivery {
            queue,
            value: named(value),
            redelivered,
            life: self.life,
            channel: self.channel,
            at: self.world.now(),
            stretch: self.stretch,
            no_ack: !settle,
            settled: None,
            let_go: None,
            unsure: false,
            last: false,
        });
    }

    /// Declares a queue, or asks for it if `passive`.
    pub(super) fn declare(&mut self, queue: &Queue, passive: bool) -> Result<Told> {
        let arguments = arguments_of(queue).map_err(Error::other)?;
        self.ask(&queue::Declare {
            queue: queue.name.as_bytes(),
            passive,
            durable: queue.style != Style::Exclusive,
            exclusive: queue.style == Style::Exclusive,
            arguments: if passive { Table::EMPTY } else { arguments.as_table() },
            ..Default::default()
        })
    }

    /// At most so many deliveries ahead of what is settled, for each consumer that begins later.
    pub(super) fn prefetch(&mut self, count: u16) -> Result<()> {
        self.ask(&basic::Qos { prefetch_count: count, ..Default::default() }).map(drop)
    }

    /// Begins to consume a queue; the consumer is named after it.
    pub(super) fn consume(&mut self, queue: &Queue) -> Result<()> {
        self.hold(queue, 0);
        let (queue, consumer_tag) = (queue.name.as_bytes(), queue.label.as_bytes());
        self.ask(&basic::Consume { queue, consumer_tag, ..Default::default() }).map(drop)
    }

    fn hold(&mut self, queue: &Queue, loses: usize) {
        let began = self.world.now();
        let queue = queue.label.clone();
        self.holders.push(Holder { queue, life: self.life, began, ended: None, loses });
    }

    /// Asks for one message; whether there was one. It is the last in `deliveries` and, if it is to be settled, held.
    pub(super) fn get(&mut self, queue: &Queue, settle: bool) -> Result<bool> {
        self.getting = Some((queue.label.clone(), settle));
        self.hold(queue, usize::from(!settle));
        let asked = basic::Get { queue: queue.name.as_bytes(), no_ack: !settle, ..Default::default() };
        let told = self.ask(&asked)?;
        // It was seen whatever there was.
        self.holders.pop();
        Ok(told.messages == 1)
    }

    /// Settles what has this tag.
    pub(super) fn settle(&mut self, tag: u64, how: How) -> Result<()> {
        self.note(tag, how);
        match how {
            How::Rejected if tag.is_multiple_of(2) => {
                self.link.put(&basic::Reject { delivery_tag: tag, requeue: false })
            }
            How::Rejected => {
                self.link.put(&basic::Nack { delivery_tag: tag, multiple: false, requeue: false })
            }
            How::Done => self.link.put(&basic::Ack { delivery_tag: tag, multiple: false }),
            How::Returned if tag.is_multiple_of(2) => {
                self.link.put(&basic::Reject { delivery_tag: tag, requeue: true })
            }
            How::Returned => {
                self.link.put(&basic::Nack { delivery_tag: tag, multiple: false, requeue: true })
            }
        }
    }

    /// Settles everything up to a tag that is held.
    pub(super) fn settle_up_to(&mut self, tag: u64, how: How) -> Result<()> {
        let tags: Vec<u64> = self.held.range(..=tag).map(|(tag, _)| *tag).collect();
        tags.into_iter().for_each(|tag| self.note(tag, how));
        match how {
            How::Done => self.link.put(&basic::Ack { delivery_tag: tag, multiple: true }),
            How::Returned | How::Rejected => {
                let requeue = how == How::Returned;
                self.link.put(&basic::Nack { delivery_tag: tag, multiple: true, requeue })
            }
        }
    }

    fn note(&mut self, tag: u64, how: How) {
        let Some(place) = self.held.remove(&tag) else { return };
        let sent = self.world.now();
        if let Some(delivery) = self.deliveries.get_mut(place) {
            // Without dead letters who rejects a message is done with it.
            let gone = how == How::Rejected && target_of(&delivery.queue).is_none();
            let how = if gone { How::Done } else { how };
            let part_of = self.tx.as_ref().map(|open| open.id);
            delivery.settled = Some(Settled { how, sent, vouched: None, part_of });
            match &mut self.tx {
                Some(open) => open.settled.push((tag, place)),
                None => self.unvouched.push(place),
            }
        }
        if how == How::Returned {
            self.stretch = None;
            self.world.counts.returned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Purges or deletes; the answer is noted by who asked.
    pub(super) fn purge(&mut self, queue: &Queue) -> Result<Told> {
        self.ask(&queue::Purge { queue: queue.name.as_bytes(), ..Default::default() })
    }

    /// Deletes a queue.
    pub(super) fn delete(&mut self, queue: &Queue) -> Result<Told> {
        self.ask(&queue::Delete { queue: queue.name.as_bytes(), ..Default::default() })
    }

    /// Declares a durable exchange; `delayed` is what one routes like that keeps messages back.
    pub(super) fn exchange(&mut self, name: &str, kind: &str, delayed: Option<&str>) -> Result<()> {
        let (exchange, kind) = (name.as_bytes(), kind.as_bytes());
        let mut arguments = TableBuilder::new();
        if let Some(like) = delayed {
            let like = ValueRef::LongString(like.as_bytes());
            arguments.push(b"x-delayed-type", like).map_err(Error::other)?;
        }
        let arguments = arguments.as_table();
        let declare = exchange::Declare { exchange, kind, durable: true, arguments, ..Default::default() };
        self.ask(&declare).map(drop)
    }

    /// Binds a queue to an exchange.
    pub(super) fn bind(&mut self, queue: &Queue, exchange: &str) -> Result<()> {
        let (queue, exchange) = (queue.name.as_bytes(), exchange.as_bytes());
        self.ask(&queue::Bind { queue, exchange, ..Default::default() }).map(drop)
    }

    /// Closes the channel, which returns what it holds, and opens another.
    pub(super) fn renew(&mut self) -> Result<()> {
        self.close()?;
        self.hand_over();
        self.begin()
    }

    /// Closes the channel; what comes on it from now on is not noted.
    fn close(&mut self) -> Result<()> {
        self.confirms(0)?;
        self.closing = Some(self.world.now());
        self.ask(&channel::Close { reply_code: 200, reply_text: b"done", ..Default::default() })?;
        let now = self.world.now();
        self.holders.iter_mut().for_each(|holder| holder.ended = Some(now));
        Ok(())
    }

    /// What was delivered last.
    pub(super) fn last_value(&self) -> Option<&Named> {
        self.deliveries.last().map(|delivery| &delivery.value)
    }

    /// All that was delivered was the last reading.
    pub(super) fn is_last(&mut self) {
        self.deliveries.iter_mut().for_each(|delivery| delivery.last = true);
    }

    /// Ends the connection at once.
    pub(super) fn cut(mut self) {
        self.closing = Some(self.world.now());
    }

    fn hand_over(&mut self) {
        self.end_transaction();
        let (closing, sure) = (self.closing, self.sure);
        for delivery in &mut self.deliveries {
            match closing {
                Some(closing) => delivery.let_go = Some(closing),
                None => {
                    delivery.let_go = Some(delivery.at);
                    delivery.unsure = delivery.at >= sure;
                }
            }
        }
        self.hand_over_sent();
        self.hand_over_reading();
        let mut notes = self.world.queues.lock();
        notes.deliveries.append(&mut self.deliveries);
        notes.holders.append(&mut self.holders);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// What a queue is declared with.
fn arguments_of(queue: &Queue) -> std::result::Result<TableBuilder, EncodeError> {
    let mut arguments = TableBuilder::new();
    let put = |name: &'static [u8], value| Some((name, value));
    let own = match queue.style {
        Style::Quorum | Style::Over => put(b"x-queue-type", ValueRef::LongString(b"quorum")),
        Style::Stream => put(b"x-queue-type", ValueRef::LongString(b"stream")),
        Style::Prioritized => put(b"x-max-priority", ValueRef::U8(3)),
        Style::Durable | Style::Exclusive => None,
    };
    if let Some((name, value)) = own {
        arguments.push(name, value)?;
    }
    if queue.style == Style::Over {
        arguments.push(b"x-kafka-topic", ValueRef::LongString(super::over::TOPIC.as_bytes()))?;
        // Nothing goes but what is rejected.
        arguments.push(b"x-delivery-limit", ValueRef::I32(-1))?;
    }
    if let Some(target) = target_of(&queue.name) {
        arguments.push(b"x-dead-letter-exchange", ValueRef::LongString(b""))?;
        arguments.push(b"x-dead-letter-routing-key", ValueRef::LongString(target.as_bytes()))?;
        if queue.style == Style::Quorum {
            // Nothing goes but what is rejected.
            arguments.push(b"x-delivery-limit", ValueRef::I32(-1))?;
        }
    }
    if let Some(limited) = limits::of(&queue.name) {
        arguments.push(b"x-max-length", ValueRef::I32(limited.messages))?;
        arguments.push(b"x-overflow", ValueRef::LongString(limited.overflow.as_bytes()))?;
    }
    Ok(arguments)
}

fn named(value: Value) -> Named {
    Named { writer: format!("w{}", value.writer), number: u64::from(value.counter) }
}
