//! `ferrymq bench kafka`: its options, the topic it uses, and the order of its parts.

use std::time::Duration;

use ferrymq_kafka_client::{ConsumerConfig, NewTopic, ProducerConfig};
use ferrymq_runtime::Clock;
use serde_json::json;

use super::super::connect::ConnectArgs;
use super::super::out::{Out, note};
use super::super::produce::{AcksArg, CompressionArg};
use super::super::units::{parse_bytes, parse_duration, parse_pair};
use super::super::usage;
use super::{latency, load};

const SECONDS_DEFAULT: u64 = 10;
const LATENCY_RATE_DEFAULT: u64 = 10_000;
/// A run that is bounded by messages still ends.
const SECONDS_MAX: u64 = 3600;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Produce as fast as possible, or at --rate
    Produce,
    /// Consume what is in the topic
    Consume,
    /// Produce at --rate and consume at once: time from intended send to receipt
    Latency,
    /// Produce, then consume, then latency
    All,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Produce-to-consume latency is counted from the time at which a message was due, not from \
    when it was sent, so a stalled broker cannot hide its stall. The client runs on one thread; compare with \
    `ferrymq bench null-responder` to see its own ceiling.\n\n\
    Examples:\n  \
    ferrymq bench kafka --mode produce --partitions 16 --message-bytes 1024 --seconds 20\n  \
    ferrymq bench kafka --mode latency --rate 10000 --linger-ms 0\n  \
    ferrymq bench kafka --mode all --messages 1000000 --recreate"
)]
pub(crate) struct KafkaArgs {
    #[arg(long, value_enum, default_value = "all")]
    mode: Mode,
    /// The topic; made if it is missing
    #[arg(long, default_value = "bench")]
    pub(super) topic: String,
    /// Partitions of the topic if it is made
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// A config of the topic if it is made; may be repeated
    #[arg(long = "topic-config", value_parser = parse_pair, value_name = "NAME=VALUE")]
    topic_configs: Vec<(String, String)>,
    /// Delete the topic first
    #[arg(long)]
    recreate: bool,
    /// Bytes of each message's value
    #[arg(long, default_value = "1024", value_parser = parse_bytes, value_name = "BYTES")]
    pub(super) message_bytes: usize,
    /// End after so many messages; consuming ends where the topic ended by default
    #[arg(long)]
    pub(super) messages: Option<u64>,
    /// End after so many seconds; 10 by default when producing without --messages
    #[arg(long)]
    seconds: Option<u64>,
    /// Messages per second, whatever the broker keeps up with; 0 is as fast as possible (latency: 10000)
    #[arg(long, default_value_t = 0)]
    pub(super) rate: u64,
    /// Seconds at the beginning that latency is not counted in
    #[arg(long, default_value_t = 1)]
    pub(super) warmup_seconds: u64,
    /// Milliseconds a batch waits for company
    #[arg(long, default_value_t = 5)]
    linger_ms: u64,
    /// Bytes of a batch
    #[arg(long, default_value = "128k", value_parser = parse_bytes, value_name = "BYTES")]
    batch_bytes: usize,
    /// Bytes of batches in one produce request
    #[arg(long, default_value = "1m", value_parser = parse_bytes, value_name = "BYTES")]
    request_bytes: usize,
    /// Bytes that may be unacknowledged, per connection
    #[arg(long, default_value = "32m", value_parser = parse_bytes, value_name = "BYTES")]
    buffer_bytes: usize,
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    #[arg(long, value_enum, default_value = "none")]
    compression: CompressionArg,
    /// Let the broker drop what a retry sends twice
    #[arg(long)]
    idempotent: bool,
    /// Producers (or consumers), each with connections of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) connections: u32,
    /// Produce requests in flight on each connection
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    in_flight: u32,
    /// Bytes of one fetch
    #[arg(long, default_value = "8m", value_parser = parse_bytes, value_name = "BYTES")]
    fetch_bytes: usize,
    /// Bytes of one partition in a fetch
    #[arg(long, default_value = "1m", value_parser = parse_bytes, value_name = "BYTES")]
    fetch_partition_bytes: usize,
    /// Bytes the broker waits for before it answers a fetch
    #[arg(long, default_value = "1", value_parser = parse_bytes, value_name = "BYTES")]
    fetch_min_bytes: usize,
    /// How long it waits for them
    #[arg(long, default_value = "500ms", value_parser = parse_duration, value_name = "TIME")]
    fetch_max_wait: Duration,
    /// Do not verify the checksums of what is consumed
    #[arg(long)]
    no_verify_crc: bool,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

impl KafkaArgs {
    pub(super) fn producer_config(&self) -> ProducerConfig {
        ProducerConfig {
            acks: self.acks.acks(),
            linger: Duration::from_millis(self.linger_ms),
            batch_bytes: self.batch_bytes,
            request_bytes: self.request_bytes,
            in_flight: self.in_flight as usize,
            buffer_bytes: self.buffer_bytes,
            compression: self.compression.compression(),
            idempotent: self.idempotent,
            ..ProducerConfig::default()
        }
    }

    pub(super) fn consumer_config(&self) -> ConsumerConfig {
        ConsumerConfig {
            max_bytes: self.fetch_bytes,
            partition_bytes: self.fetch_partition_bytes,
            min_bytes: self.fetch_min_bytes,
            max_wait: self.fetch_max_wait,
            verify_crc: !self.no_verify_crc,
            ..ConsumerConfig::default()
        }
    }

    /// How long a part may take.
    pub(super) fn seconds_to_send(&self) -> Duration {
        let bounded = if self.messages.is_some() { SECONDS_MAX } else { SECONDS_DEFAULT };
        Duration::from_secs(self.seconds.unwrap_or(bounded))
    }

    /// As [`seconds_to_send`](Self::seconds_to_send), where there is an end without a bound.
    pub(super) fn seconds_to_read(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(SECONDS_MAX))
    }

    pub(super) fn latency_rate(&self) -> u64 {
        if self.rate > 0 { self.rate } else { LATENCY_RATE_DEFAULT }
    }

    fn settings(&self) -> serde_json::Value {
        json!({
            "bootstrap": self.connect.bootstrap, "topic": self.topic, "partitions": self.partitions,
            "topic_configs": self.topic_configs, "recreate": self.recreate,
            "message_bytes": self.message_bytes, "messages": self.messages, "seconds": self.seconds,
            "rate": self.rate, "warmup_seconds": self.warmup_seconds, "linger_ms": self.linger_ms,
            "batch_bytes": self.batch_bytes, "request_bytes": self.request_bytes,
            "buffer_bytes": self.buffer_bytes, "acks": format!("{:?}", self.acks).to_lowercase(),
            "compression": self.compression.compression().name(), "idempotent": self.idempotent,
            "connections": self.connections, "in_flight": self.in_flight, "fetch_bytes": self.fetch_bytes,
            "fetch_partition_bytes": self.fetch_partition_bytes, "fetch_min_bytes": self.fetch_min_bytes,
            "fetch_max_wait_ms": u64::try_from(self.fetch_max_wait.as_millis()).unwrap_or(u64::MAX),
            "verify_crc": !self.no_verify_crc,
        })
    }
}

pub(super) async fn run(args: KafkaArgs) -> anyhow::Result<()> {
    if args.message_bytes < 8 && matches!(args.mode, Mode::Latency | Mode::All) {
        return Err(usage("latency needs messages of at least 8 bytes: each carries its time"));
    }
    let clock = Clock::system();
    make_topic(&args, &clock).await?;
    let mut results = Vec::new();
    let wants = |mode: Mode| args.mode == mode || args.mode == Mode::All;
    if wants(Mode::Produce) {
        results.push(load::produce(&args, &clock).await?);
    }
    if wants(Mode::Consume) {
        results.push(load::consume(&args, &clock).await?);
    }
    if wants(Mode::Latency) {
        results.push(latency::measure(&args, &clock).await?);
    }
    let mut out = Out::new();
    out.json(&json!({
        "tool": "ferrymq bench kafka",
        "version": env!("CARGO_PKG_VERSION"),
        "settings": args.settings(),
        "results": results,
    }))?;
    out.flush()
}

async fn make_topic(args: &KafkaArgs, clock: &Clock) -> anyhow::Result<()> {
    let client = args.connect.client_with(clock.clone()).await?;
    if args.recreate {
        client.delete_topic(&args.topic, true).await?;
    }
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: Some(args.partitions),
        replication_factor: None,
        configs: args.topic_configs.clone(),
    };
    // A broker may take a moment to be done with a topic it has just deleted.
    let deadline = clock.now() + args.connect.timeout;
    loop {
        match client.create_topic(&topic, !args.recreate).await {
            Ok(true) => break,
            Ok(false) => {
                note(format_args!("topic {} exists: used as it is", args.topic));
                break;
            }
            Err(error) if args.recreate && clock.now() < deadline => {
                clock.sleep(Duration::from_millis(100)).await;
                note(format_args!("{error}; trying again"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    client.topic(&args.topic, false).await?;
    Ok(())
}
