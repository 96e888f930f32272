//! `ferrymq bench amqp`: publishes to one queue and consumes it, in raw frames.
//!
//! **Invariants.** Each message is a frame sequence of its own on the wire; nothing is counted before it is
//! confirmed (publishing) or there whole (consuming). The same load goes to any AMQP 0-9-1 broker.
//!
//! Deliberately absent: latency at a rate, several queues; they come with the bench of RabbitMQ's shapes.

mod link;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::{put_message, put_method};
use ferrymq_amqp_codec::method::{basic, confirm, queue};
use ferrymq_amqp_codec::{BasicProperties, ContentHeader, FrameKind, Method, Properties};
use ferrymq_runtime::Clock;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Notify;

use super::super::out::Out;
use super::super::units::parse_bytes;
use super::load::Payload;
use super::report::{Throughput, cpu_seconds};
use link::{FRAME_MAX, Link};

/// Messages put into one write at most.
const MESSAGES_PER_WRITE: u64 = 512;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Publish only; the messages stay in the queue
    Publish,
    /// Consume what is in the queue
    Consume,
    /// Publish and consume at the same time
    Both,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ferrymq bench amqp --messages 1000000 --window 20000 --ack-every 100\n  \
    ferrymq bench amqp --transient --no-ack --no-confirm --message-bytes 16")]
pub(crate) struct AmqpArgs {
    #[arg(long, value_enum, default_value = "both")]
    mode: Mode,
    /// The broker
    #[arg(long, default_value = "127.0.0.1:5672", value_name = "HOST:PORT")]
    address: String,
    /// The queue; made anew unless it is only consumed
    #[arg(long, default_value = "bench")]
    queue: String,
    /// `x-queue-type` of the queue; unset: the broker's default
    #[arg(long, value_name = "TYPE")]
    queue_type: Option<String>,
    /// Messages to publish, or to consume
    #[arg(long, default_value_t = 500_000)]
    messages: u64,
    /// Bytes of each message's body
    #[arg(long, default_value = "100", value_parser = parse_bytes, value_name = "BYTES")]
    message_bytes: usize,
    /// Messages that may be unconfirmed
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
    /// Acknowledge so many messages at a time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    ack_every: u64,
    /// Prefetch of the consumer; 0 is none
    #[arg(long, default_value_t = 0)]
    prefetch: u16,
    /// Do not ask for confirms
    #[arg(long)]
    no_confirm: bool,
    /// Let deliveries count as acknowledged when they are sent
    #[arg(long)]
    no_ack: bool,
    /// A transient queue and transient messages instead of durable ones
    #[arg(long)]
    transient: bool,
    /// Give up after so long without progress
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience_seconds: u64,
}

pub(super) async fn run(args: AmqpArgs) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut setup = Link::connect(&args.address).await?;
    if args.mode != Mode::Consume {
        declare(&args, &mut setup).await?;
    }
    let cpu = cpu_seconds();
    let started = clock.uptime();
    let publishing =
        async { if args.mode == Mode::Consume { Ok(None) } else { publish(&args, &clock).await.map(Some) } };
    let consuming =
        async { if args.mode == Mode::Publish { Ok(None) } else { consume(&args, &clock).await.map(Some) } };
    let (published, consumed) = tokio::try_join!(publishing, consuming)?;
    let cpu = cpu_seconds() - cpu;
    let figure = |end: Option<Duration>| -> Value {
        end.map_or(Value::Null, |end| {
            json!(Throughput::new(args.messages, args.message_bytes, end.saturating_sub(started), cpu))
        })
    };
    let report = json!({
        "bench": "amqp",
        "mode": format!("{:?}", args.mode).to_lowercase(),
        "server": setup.server,
        "settings": {
            "messages": args.messages, "message_bytes": args.message_bytes, "window": args.window,
            "ack_every": args.ack_every, "prefetch": args.prefetch, "confirms": !args.no_confirm,
            "no_ack": args.no_ack, "durable": !args.transient, "queue_type": args.queue_type,
        },
        "publish": figure(published),
        "consume": figure(consumed),
    });
    let mut out = Out::new();
    out.bytes(format!("{report:#}\n").as_bytes())?;
    out.flush()
}

/// Deletes the queue and makes it again.
async fn declare(args: &AmqpArgs, link: &mut Link) -> anyhow::Result<()> {
    link.ask(&queue::Delete { queue: args.queue.as_bytes(), ..Default::default() }).await?;
    let mut arguments = ferrymq_amqp_codec::TableBuilder::new();
    if let Some(kind) = &args.queue_type {
        let kind = ferrymq_amqp_codec::ValueRef::LongString(kind.as_bytes());
        arguments.push(b"x-queue-type", kind)?;
    }
    let declare = queue::Declare {
        queue: args.queue.as_bytes(),
        durable: !args.transient,
        arguments: arguments.as_table(),
        ..Default::default()
    };
    link.ask(&declare).await?;
    Ok(())
}

/// Publishes all messages; when the last was confirmed (or written, without confirms).
async fn publish(args: &AmqpArgs, clock: &Clock) -> anyhow::Result<Duration> {
    let mut link = Link::connect(&args.address).await?;
    if !args.no_confirm {
        link.ask(&confirm::Select::default()).await?;
    }
    let (mut read, mut write) = link.stream.split();
    let (mut input, frames) = (link.input, link.frames);
    let confirmed = Rc::new(Cell::new(0u64));
    let more = Notify::new();
    let writing = async {
        let mut payload = Payload::new(args.message_bytes);
        let mut properties = BytesMut::new();
        let mode = if args.transient { 1 } else { 2 };
        BasicProperties { delivery_mode: Some(mode), ..Default::default() }.encode(&mut properties)?;
        let properties = Properties::parse(&properties)?;
        let head = basic::Publish { routing_key: args.queue.as_bytes(), ..Default::default() };
        let (mut out, mut sent) = (BytesMut::new(), 0u64);
        while sent < args.messages {
            let room = if args.no_confirm { u64::MAX } else { confirmed.get() + args.window - sent };
            if room == 0 {
                more.notified().await;
                continue;
            }
            for _ in 0..room.min(MESSAGES_PER_WRITE).min(args.messages - sent) {
                put_message(&mut out, 1, &head, properties, payload.next(), FRAME_MAX)?;
                sent += 1;
            }
            write.write_all_buf(&mut out).await?;
        }
        anyhow::Ok(())
    };
    let reading = async {
        while !args.no_confirm && confirmed.get() < args.messages {
            link::more(&mut read, &mut input, clock, args.patience_seconds).await?;
            while let Some(frame) = frames.next(&mut input)? {
                match link::method(&frame)? {
                    Some(Method::BasicAck(ack)) if ack.multiple => confirmed.set(ack.delivery_tag),
                    Some(Method::BasicAck(_)) => confirmed.set(confirmed.get() + 1),
                    Some(other) => anyhow::bail!("the broker said {other:?}"),
                    None => {}
                }
            }
            more.notify_one();
        }
        anyhow::Ok(())
    };
    tokio::try_join!(writing, reading).context("publishing")?;
    Ok(clock.uptime())
}

/// Consumes all messages; when the last was there.
async fn consume(args: &AmqpArgs, clock: &Clock) -> anyhow::Result<Duration> {
    let mut link = Link::connect(&args.address).await?;
    if args.prefetch > 0 {
        link.ask(&basic::Qos { prefetch_count: args.prefetch, ..Default::default() }).await?;
    }
    let consume = basic::Consume { queue: args.queue.as_bytes(), no_ack: args.no_ack, ..Default::default() };
    link.ask(&consume).await?;
    let (mut read, mut write) = link.stream.split();
    let (mut input, frames) = (link.input, link.frames);
    let mut out = BytesMut::new();
    let (mut received, mut acked, mut tag, mut left) = (0u64, 0u64, 0u64, 0u64);
    while received < args.messages {
        while let Some(frame) = frames.next(&mut input)? {
            match frame.kind {
                FrameKind::Method => match link::method(&frame)? {
                    Some(Method::BasicDeliver(deliver)) => tag = deliver.delivery_tag,
                    other => anyhow::bail!("the broker said {other:?}"),
                },
                FrameKind::Header => {
                    left = ContentHeader::parse(&frame.payload)?.body_size_bytes;
                    received += u64::from(left == 0);
                }
                FrameKind::Body => {
                    left = left.saturating_sub(frame.payload.len() as u64);
                    received += u64::from(left == 0);
                }
                FrameKind::Heartbeat => {}
            }
            let is_due = received >= acked + args.ack_every || received == args.messages;
            if !args.no_ack && left == 0 && is_due && received > acked {
                put_method(&mut out, 1, &basic::Ack { delivery_tag: tag, multiple: true })?;
                acked = received;
            }
        }
        // Acks are small: the broker always takes them in the end.
        write.write_all_buf(&mut out).await?;
        if received < args.messages {
            link::more(&mut read, &mut input, clock, args.patience_seconds).await.context("consuming")?;
        }
    }
    Ok(clock.uptime())
}
