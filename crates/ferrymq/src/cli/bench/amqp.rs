//! `ferrymq bench amqp`: publishes to queues and consumes them, in raw frames.
//!
//! **Invariants.** Nothing is counted before it is confirmed (publishing) or there whole (consuming). Everything
//! is connected before the clock starts. The same load goes to any AMQP 0-9-1 broker.
//!
//! Deliberately absent: reconnecting; whatever goes wrong ends the run.

mod args;
mod confirms;
mod consumer;
mod idle;
mod incoming;
mod link;
mod publisher;
mod slices;
mod tally;
mod topology;

use std::time::Duration;

use ferrymq_runtime::Clock;
use futures_util::future::try_join_all;
use serde_json::{Map, Value, json};

use super::super::out::Out;
use super::report::{Throughput, cpu_seconds};
pub(crate) use args::AmqpArgs;
use args::{Mode, share};
use consumer::Consumer;
use link::Link;
use publisher::{Publisher, Target};
use tally::{Shared, Tally};

/// How often it is looked whether queues are empty.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) async fn run(args: AmqpArgs) -> anyhow::Result<()> {
    args.check()?;
    let clock = Clock::system();
    let mut setup = Link::connect(&args.address).await?;
    let mut results = Map::new();
    let mut held = None;
    match args.mode {
        Mode::IdleQueues => {
            results.insert("idle_queues".to_owned(), idle::queues(&args, &clock).await?);
        }
        Mode::IdleConnections => {
            let (links, opened) = idle::connections(&args, &clock).await?;
            results.insert("idle_connections".to_owned(), opened);
            held = Some(links);
        }
        _ => {
            if args.publishes() {
                topology::make(&args, &mut setup).await?;
            }
            move_messages(&args, &clock, &mut setup, &mut results).await?;
        }
    }
    let mut report = json!({
        "tool": "ferrymq bench amqp",
        "version": env!("CARGO_PKG_VERSION"),
        "mode": args.mode.name(),
        "server": setup.server,
        "settings": args.settings(),
    });
    report.as_object_mut().expect("an object").extend(results);
    let mut out = Out::new();
    out.json(&report)?;
    out.flush()?;
    if let Some(links) = held {
        idle::hold(links).await;
    }
    Ok(())
}

/// The modes that publish and consume.
async fn move_messages(
    args: &AmqpArgs,
    clock: &Clock,
    setup: &mut Link,
    results: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let mut insert = |(name, value): (&str, Value)| results.insert(name.to_owned(), value);
    match args.mode {
        Mode::Backlog => {
            let tallies = tallies(args, None);
            insert(run_together(args, clock, &tallies, true, false).await?.publish);
            insert(run_together(args, clock, &tallies, false, true).await?.consume);
        }
        Mode::Consume => {
            let mut there = Vec::new();
            for index in 0..args.queues {
                let wanted = args.messages.map(|messages| share(messages, index, args.queues));
                there.push(match wanted {
                    Some(wanted) => wanted,
                    None => topology::ready(args, setup, index).await?,
                });
            }
            insert(run_together(args, clock, &tallies(args, Some(&there)), false, true).await?.consume);
        }
        _ => {
            let consumes = args.consumes();
            let done = run_together(args, clock, &tallies(args, None), true, consumes).await?;
            insert(done.publish);
            if consumes {
                insert(done.consume);
            }
        }
    }
    if args.until_empty {
        let waited = until_empty(args, clock, setup).await?;
        insert(("until_empty", json!({ "seconds": waited.as_secs_f64() })));
    }
    Ok(())
}

fn tallies(args: &AmqpArgs, there: Option<&[u64]>) -> Vec<Tally> {
    match there {
        Some(there) => there.iter().map(|count| Tally::new(*count, 0)).collect(),
        None => (0..args.queues).map(|_| Tally::new(0, args.publishers)).collect(),
    }
}

/// What publishers and consumers did, each under its name in the report.
struct Done {
    publish: (&'static str, Value),
    consume: (&'static str, Value),
}

/// Publishers, consumers or both, from the moment at which all are connected.
async fn run_together(
    args: &AmqpArgs,
    clock: &Clock,
    tallies: &[Tally],
    publishes: bool,
    consumes: bool,
) -> anyhow::Result<Done> {
    let mut publishers = Vec::new();
    for index in 0..if publishes { args.publishers_in_all() } else { 0 } {
        publishers.push(Publisher::connect(args, index).await?);
    }
    let names: Vec<String> = (0..args.queues).map(|index| args.queue_name(index)).collect();
    let mut consumers = Vec::new();
    for index in 0..if consumes { names.len() * args.consumers as usize } else { 0 } {
        consumers.push((index % names.len(), Consumer::connect(args).await?));
    }
    let (cpu, started) = (cpu_seconds(), clock.uptime());
    let shared = Shared::start(clock, args.warmup_seconds, args.messages_to_publish());
    let publishing =
        try_join_all(publishers.into_iter().zip((0..names.len()).cycle()).map(|(one, queue)| {
            let target = if args.fan_out {
                Target { exchange: &args.queue, routing_key: "", queues: tallies }
            } else {
                Target { exchange: "", routing_key: &names[queue], queues: &tallies[queue..=queue] }
            };
            one.run(args, target, &shared)
        }));
    let consuming = try_join_all(
        consumers.into_iter().map(|(queue, one)| one.run(args, &names[queue], &tallies[queue], &shared)),
    );
    let (refused, nacked) = tokio::select! {
        done = async { tokio::try_join!(publishing, consuming) } => done?,
        stuck = shared.watch(args.patience_seconds) => return Err(stuck),
    };
    let cpu = cpu_seconds() - cpu;
    let figure = |(count, end): (u64, Duration)| {
        json!(Throughput::new(count, args.message_bytes, end.saturating_sub(started), cpu))
    };
    let mut publish = figure(shared.confirms());
    publish["refused"] = json!(refused.iter().sum::<u64>());
    publish["confirm_us"] = shared.confirmed.borrow().json();
    if args.mode == Mode::Backlog && args.messages_to_publish() < u64::MAX {
        publish["growth"] = shared.slices.json();
    }
    let mut consume = figure(shared.deliveries());
    consume["nacked"] = json!(nacked.iter().sum::<u64>());
    consume["publish_to_deliver_us"] = shared.delivered.borrow().json();
    Ok(Done { publish: ("publish", publish), consume: ("consume", consume) })
}

/// Waits until all queues are empty; how long that took.
async fn until_empty(args: &AmqpArgs, clock: &Clock, setup: &mut Link) -> anyhow::Result<Duration> {
    let started = clock.uptime();
    let patience = Duration::from_secs(args.patience_seconds);
    let (mut fewest, mut moved) = (u64::MAX, started);
    loop {
        let mut ready = 0;
        for index in 0..args.queues {
            ready += topology::ready(args, setup, index).await?;
        }
        let now = clock.uptime();
        if ready == 0 {
            return Ok(now.saturating_sub(started));
        }
        if ready < fewest {
            (fewest, moved) = (ready, now);
        }
        anyhow::ensure!(now.saturating_sub(moved) < patience, "{ready} messages stayed in the queues");
        clock.sleep(LOOK_EVERY).await;
    }
}
