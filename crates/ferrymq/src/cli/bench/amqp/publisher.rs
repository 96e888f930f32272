//! One publisher.
//!
//! **Invariants.** Each message is a frame sequence of its own on the wire. At most a window of them is
//! unconfirmed. With a rate, each carries the time at which it was due, whatever delayed it; messages of the
//! warm-up carry zero. What is not confirmed counts once the broker has answered what came after it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::{basic, confirm};
use ferrymq_amqp_codec::{BasicProperties, FrameKind, Method, Properties};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::WriteHalf;
use tokio::sync::Notify;

use super::super::load::Payload;
use super::super::pacer::Pacer;
use super::args::{AmqpArgs, STAMP_BYTES, share};
use super::confirms::Confirms;
use super::link::{self, FRAME_MAX, Link};
use super::tally::{Shared, Tally};

/// Messages put into one write at most.
const MESSAGES_PER_WRITE: u64 = 512;

/// Where messages go.
pub(super) struct Target<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    /// The queues that get each message.
    pub(super) queues: &'a [Tally],
}

/// A publisher that is connected.
pub(super) struct Publisher {
    link: Link,
    index: u32,
}

/// What writing and reading tell each other.
#[derive(Default)]
struct Flight {
    sent: Cell<u64>,
    all_sent: Cell<bool>,
    confirms: RefCell<Confirms>,
    /// When each message that is not confirmed was due; only with a rate.
    due: RefCell<VecDeque<u64>>,
    /// There is room in the window again.
    room: Notify,
    /// Nothing more will be sent.
    end: Notify,
}

impl Publisher {
    /// Connects the one with this index of all.
    pub(super) async fn connect(args: &AmqpArgs, index: u32) -> anyhow::Result<Publisher> {
        let mut link = Link::connect(&args.address).await?;
        if !args.no_confirm {
            link.ask(&confirm::Select::default()).await?;
        }
        Ok(Publisher { link, index })
    }

    /// Publishes its share until all of it is confirmed; how many were refused.
    pub(super) async fn run(
        mut self,
        args: &AmqpArgs,
        target: Target<'_>,
        shared: &Shared,
    ) -> anyhow::Result<u64> {
        let flight = Flight::default();
        let (mut read, write) = self.link.stream.split();
        let writing = write_all(args, &target, self.index, shared, &flight, write);
        let input = &mut self.link.input;
        let reading = async {
            while !args.no_confirm && !flight.is_landed() {
                tokio::select! {
                    done = link::more(&mut read, input) => done?,
                    () = flight.end.notified() => continue,
                }
                settle(self.link.frames, input, shared, &flight)?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(writing, reading).context("publishing")?;
        // Without confirms this answer is what tells that the broker has taken everything.
        self.link.close().await.context("publishing")?;
        let (sent, refused) = (flight.sent.get(), flight.confirms.borrow().refused());
        if args.no_confirm {
            shared.confirm(sent);
        }
        target.queues.iter().for_each(|queue| queue.published(sent - refused));
        Ok(refused)
    }
}

impl Flight {
    fn is_landed(&self) -> bool {
        self.all_sent.get() && self.confirms.borrow().count() == self.sent.get()
    }
}

/// Takes in what the broker confirmed.
fn settle(
    frames: ferrymq_amqp_codec::FrameReader,
    input: &mut BytesMut,
    shared: &Shared,
    flight: &Flight,
) -> anyhow::Result<()> {
    let mut confirms = flight.confirms.borrow_mut();
    let (before, low) = (confirms.count(), confirms.low());
    let sent = flight.sent.get();
    while let Some(frame) = frames.peek(input)? {
        if frame.kind == FrameKind::Method {
            match link::checked(frame.payload)? {
                Method::BasicAck(ack) => confirms.settle(ack.delivery_tag, ack.multiple, false, sent)?,
                Method::BasicNack(nack) => confirms.settle(nack.delivery_tag, nack.multiple, true, sent)?,
                other => anyhow::bail!("the broker said {other:?}"),
            }
        }
        let used = frame.wire_bytes();
        input.advance(used);
    }
    let mut due = flight.due.borrow_mut();
    if !due.is_empty() {
        let now = super::super::pacer::now_ns(&shared.clock);
        let settled = usize::try_from(confirms.low() - low)?.min(due.len());
        for due in due.drain(..settled).filter(|due| *due > 0) {
            shared.confirmed.borrow_mut().record(now.saturating_sub(due));
        }
    }
    shared.confirm(confirms.count() - before);
    flight.room.notify_one();
    Ok(())
}

/// Sends the publisher's share, within the window and at the rate.
async fn write_all(
    args: &AmqpArgs,
    target: &Target<'_>,
    index: u32,
    shared: &Shared,
    flight: &Flight,
    mut write: WriteHalf<'_>,
) -> anyhow::Result<()> {
    let of = args.publishers_in_all();
    let messages = share(args.messages_to_publish(), index, of);
    let mut messages = Messages::new(args, target, messages)?;
    let mut pacer = match args.rate {
        0 => None,
        rate => Some(Pacer::start(&shared.clock, share(rate, index, of))?),
    };
    let deadline = args.seconds.map(|seconds| shared.clock.uptime() + Duration::from_secs(seconds));
    let mut due = VecDeque::new();
    let mut out = BytesMut::new();
    while messages.left > 0 {
        if let Some(pacer) = pacer.as_mut().filter(|_| due.is_empty()) {
            due.extend(pacer.due().await?);
        }
        if deadline.is_some_and(|deadline| shared.clock.uptime() >= deadline) {
            break;
        }
        let unconfirmed = flight.sent.get() - flight.confirms.borrow().count();
        let room = if args.no_confirm { u64::MAX } else { args.window.saturating_sub(unconfirmed) };
        if room == 0 {
            flight.room.notified().await;
            continue;
        }
        let paced = if pacer.is_some() { due.len() as u64 } else { u64::MAX };
        for _ in 0..room.min(MESSAGES_PER_WRITE).min(messages.left).min(paced) {
            let stamp = due.pop_front().map(|due| if due >= shared.counted_from_ns { due } else { 0 });
            flight.due.borrow_mut().extend(stamp.filter(|_| !args.no_confirm));
            messages.put_next(&mut out, stamp)?;
            flight.sent.set(flight.sent.get() + 1);
        }
        write.write_all_buf(&mut out).await?;
    }
    flight.all_sent.set(true);
    flight.end.notify_one();
    Ok(())
}

/// The messages of a publisher, one after the other.
struct Messages<'a> {
    left: u64,
    next: usize,
    head: basic::Publish<'a>,
    /// One per priority.
    properties: Vec<BytesMut>,
    payload: Payload,
    stamped: Vec<u8>,
}

impl<'a> Messages<'a> {
    fn new(args: &AmqpArgs, target: &Target<'a>, left: u64) -> anyhow::Result<Messages<'a>> {
        let expiration = args.expiration.map(|millis| millis.to_string());
        let mut properties = Vec::new();
        for priority in 0..args.priorities.max(1) {
            let mut encoded = BytesMut::new();
            let fields = BasicProperties {
                delivery_mode: Some(if args.transient { 1 } else { 2 }),
                priority: (args.priorities > 0).then_some(priority),
                expiration: expiration.as_ref().map(String::as_bytes),
                ..Default::default()
            };
            fields.encode(&mut encoded)?;
            properties.push(encoded);
        }
        let head = basic::Publish {
            exchange: target.exchange.as_bytes(),
            routing_key: target.routing_key.as_bytes(),
            ..Default::default()
        };
        let payload = Payload::new(args.message_bytes);
        Ok(Messages { left, next: 0, head, properties, payload, stamped: Vec::new() })
    }

    /// Appends the next one, with a stamp in front of its body if there is one.
    fn put_next(&mut self, out: &mut BytesMut, stamp: Option<u64>) -> anyhow::Result<()> {
        let properties = Properties::parse(&self.properties[self.next])?;
        let mut body = self.payload.next();
        if let Some(stamp) = stamp {
            self.stamped.clear();
            self.stamped.extend_from_slice(body);
            self.stamped[..STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
            body = &self.stamped;
        }
        put_message(out, 1, &self.head, properties, body, FRAME_MAX)?;
        self.left -= 1;
        self.next = if self.next + 1 == self.properties.len() { 0 } else { self.next + 1 };
        Ok(())
    }
}
