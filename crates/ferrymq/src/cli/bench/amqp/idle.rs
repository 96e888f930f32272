//! Queues that nobody uses and connections that do nothing: what they cost is for others to see.
//!
//! **Invariant.** Everything is there when the report is: each declaration and each channel was answered.

use std::io::Read as _;

use bytes::BytesMut;
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::queue;
use ferrymq_runtime::Clock;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::args::AmqpArgs;
use super::link::Link;

/// Declarations in one write.
const DECLARATIONS_PER_WRITE: usize = 200;
/// Connections that are being opened at a time.
const OPENING: u32 = 32;

/// Declares the queues; the result as JSON.
pub(super) async fn queues(args: &AmqpArgs, clock: &Clock) -> anyhow::Result<Value> {
    let started = clock.uptime();
    let lanes = args.connections.min(args.queues);
    try_join_all((0..lanes).map(|lane| declare_lane(args, lane, lanes))).await?;
    let seconds = clock.uptime().saturating_sub(started).as_secs_f64();
    Ok(
        json!({ "queues": args.queues, "seconds": seconds, "queues_per_second": f64::from(args.queues) / seconds }),
    )
}

async fn declare_lane(args: &AmqpArgs, lane: u32, lanes: u32) -> anyhow::Result<()> {
    let mut link = Link::connect(&args.address).await?;
    let arguments = args.queue_table()?;
    let indexes: Vec<u32> = (lane..args.queues).step_by(lanes as usize).collect();
    for some in indexes.chunks(DECLARATIONS_PER_WRITE) {
        let mut out = BytesMut::new();
        for index in some {
            let name = args.queue_name(*index);
            let declare = queue::Declare {
                queue: name.as_bytes(),
                passive: args.passive,
                durable: !args.transient,
                arguments: arguments.as_table(),
                ..Default::default()
            };
            put_method(&mut out, 1, &declare)?;
        }
        link.stream.write_all(&out).await?;
        for _ in some {
            link.answer().await?;
        }
    }
    link.close().await
}

/// Opens the connections; give them to [`hold`].
pub(super) async fn connections(args: &AmqpArgs, clock: &Clock) -> anyhow::Result<(Vec<Link>, Value)> {
    let started = clock.uptime();
    let lanes = OPENING.min(args.connections);
    let opened = try_join_all((0..lanes).map(|lane| async move {
        let mut links = Vec::new();
        for _ in (lane..args.connections).step_by(lanes as usize) {
            let mut link = Link::connect(&args.address).await?;
            for channel in 2..=args.channels {
                link.open_channel(channel).await?;
            }
            // Nothing more is read: the client's own memory is not the question.
            link.input = BytesMut::new();
            links.push(link);
        }
        anyhow::Ok(links)
    }))
    .await?;
    let seconds = clock.uptime().saturating_sub(started).as_secs_f64();
    let report = json!({ "connections": args.connections, "channels": args.channels, "seconds": seconds });
    Ok((opened.into_iter().flatten().collect(), report))
}

/// Holds connections until stdin ends.
pub(super) async fn hold(links: Vec<Link>) {
    ferrymq_runtime::blocking(|| {
        let mut ignored = [0; 512];
        while std::io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
    })
    .await;
    drop(links);
}
