//! Producing and consuming as fast as it goes, or at a rate.
//!
//! **Invariants.** Every record is built for itself (its own timestamp, its own slice of the payload, a checksum
//! per batch); nothing is sent twice. Records go to the partitions in turn, so the load is even.

use std::sync::Arc;

use ferrymq_kafka_client::{
    Consumer, Delivery, DeliveryCallback, OffsetSpec, Producer, ProducerRecord, ProducerReport, Start,
};
use ferrymq_runtime::{Clock, Rng};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::kafka::KafkaArgs;
use super::pacer::{Pacer, now_ns};
use super::report::{Latencies, Throughput, cpu_seconds};

/// Records between two looks at the clock, when going as fast as possible.
const RECORDS_PER_LOOK: usize = 64;
/// Bytes by which one payload's start differs from the last one's.
const PAYLOAD_SLIDE: usize = 61;

/// Text that compresses about as well as machine-written messages do; records are slices of it.
#[derive(Clone)]
pub(super) struct Payload {
    text: Arc<[u8]>,
    message_bytes: usize,
    at: usize,
}

impl Payload {
    pub(super) fn new(message_bytes: usize) -> Payload {
        let rng = Rng::seeded(7);
        let mut text = Vec::with_capacity(message_bytes + 64 * 1024 + 32);
        while text.len() < message_bytes + 64 * 1024 {
            text.extend_from_slice(format!("\"id\":\"{:016x}\",", rng.next_u64()).as_bytes());
        }
        Payload { text: text.into(), message_bytes, at: 0 }
    }

    pub(super) fn next(&mut self) -> &[u8] {
        let start = self.at;
        self.at = (start + PAYLOAD_SLIDE) % (64 * 1024);
        &self.text[start..start + self.message_bytes]
    }
}

/// Counts acknowledgement latency of tagged records from their intended send time on.
pub(super) fn ack_latency(clock: &Clock, latencies: &Arc<Mutex<Latencies>>) -> DeliveryCallback {
    let (clock, latencies) = (clock.clone(), latencies.clone());
    Box::new(move |delivery: &Delivery<'_>| {
        if delivery.error.is_none() {
            let now = now_ns(&clock);
            let mut latencies = latencies.lock();
            // A tag of 0 marks the warm-up.
            for tag in delivery.tags.iter().filter(|tag| **tag > 0) {
                latencies.record(now.saturating_sub(*tag));
            }
        }
    })
}

/// Produces; the result as JSON.
pub(super) async fn produce(args: &KafkaArgs, clock: &Clock) -> anyhow::Result<Value> {
    let latencies = Arc::new(Mutex::new(Latencies::new()));
    let cpu = cpu_seconds();
    let started = clock.uptime();
    let mut lanes = Vec::new();
    for lane in 0..args.connections {
        let client = args.connect.client_with(clock.clone()).await?;
        let callback = (args.rate > 0).then(|| ack_latency(clock, &latencies));
        let producer = Producer::new(&client, &args.topic, args.producer_config(), callback).await?;
        lanes.push(produce_lane(args, clock, producer, lane));
    }
    let reports = futures_util::future::try_join_all(lanes).await?;
    let took = clock.uptime().saturating_sub(started);
    let sum = |field: fn(&ProducerReport) -> u64| reports.iter().map(field).sum::<u64>();
    let (records, failed) = (sum(|report| report.acked_records), sum(|report| report.failed_records));
    let (batches, requests) = (sum(|report| report.batches), sum(|report| report.requests));
    let batch_bytes_mean = sum(|report| report.acked_bytes).checked_div(batches);
    if let Some(error) = reports.into_iter().find_map(|report| report.first_error) {
        return Err(anyhow::Error::from(error).context(format!("{failed} records failed, {records} did not")));
    }
    Ok(json!({
        "mode": "produce",
        "throughput": Throughput::new(records, args.message_bytes, took, cpu_seconds() - cpu),
        "requests": requests,
        "batches": batches,
        "batch_bytes_mean": batch_bytes_mean,
        "ack_latency_us": latencies.lock().json(),
    }))
}

async fn produce_lane(
    args: &KafkaArgs,
    clock: &Clock,
    mut producer: Producer,
    lane: u32,
) -> anyhow::Result<ProducerReport> {
    let mut payload = Payload::new(args.message_bytes);
    let lanes = u64::from(args.connections);
    let share = |total: u64| total / lanes + u64::from(u64::from(lane) < total % lanes);
    let messages = args.messages.map_or(u64::MAX, share);
    let deadline = clock.uptime() + args.seconds_to_send();
    let partitions = producer.partitions();
    let mut partition = lane % partitions;
    let mut pacer = if args.rate > 0 { Some(Pacer::start(clock, share(args.rate))?) } else { None };
    let mut sent = 0;
    'sending: loop {
        let due: Vec<u64> = match &mut pacer {
            Some(pacer) => pacer.due().await?.collect(),
            None => vec![0; RECORDS_PER_LOOK],
        };
        if clock.uptime() >= deadline {
            break;
        }
        let timestamp = Some(clock.wall_ms());
        for tag in due {
            if sent == messages {
                break 'sending;
            }
            let value = Some(payload.next());
            let record = ProducerRecord {
                partition: Some(partition),
                timestamp,
                value,
                tag,
                ..ProducerRecord::default()
            };
            producer.send(&record).await?;
            partition = if partition + 1 == partitions { 0 } else { partition + 1 };
            sent += 1;
        }
    }
    Ok(producer.flush().await)
}

/// Consumes what is in the topic; the result as JSON.
///
/// Records are counted by their batches' headers, as stored; checksums are verified if asked for.
pub(super) async fn consume(args: &KafkaArgs, clock: &Clock) -> anyhow::Result<Value> {
    let client = args.connect.client_with(clock.clone()).await?;
    let info = client.topic(&args.topic, false).await?;
    let all: Vec<u32> = info.partitions.iter().map(|one| one.partition).collect();
    let first = client.offsets(&args.topic, &all, OffsetSpec::Earliest).await?;
    let ends = client.offsets(&args.topic, &all, OffsetSpec::Latest).await?;
    let total = |found: &std::collections::BTreeMap<u32, ferrymq_kafka_client::OffsetAt>| {
        found.values().filter_map(|at| at.offset).sum::<i64>()
    };
    let there = u64::try_from(total(&ends) - total(&first)).unwrap_or(0);
    let wanted = args.messages.unwrap_or(there).min(there);
    anyhow::ensure!(wanted > 0, "topic {} is empty: produce first", args.topic);
    let config = args.consumer_config();
    let (cpu, started) = (cpu_seconds(), clock.uptime());
    let deadline = clock.now() + args.seconds_to_read();
    let mut lanes = Vec::new();
    for lane in 0..args.connections {
        let mine: Vec<u32> = all.iter().copied().filter(|one| one % args.connections == lane).collect();
        if !mine.is_empty() {
            lanes.push(Consumer::new(&client, &args.topic, &mine, Start::Earliest, config.clone()).await?);
        }
    }
    let (mut records, mut bytes, mut answers) = (0u64, 0u64, 0u64);
    while records < wanted {
        let (answer, _, _) = futures_util::future::select_all(
            lanes.iter_mut().map(|lane| Box::pin(tokio::time::timeout_at(deadline, lane.next()))),
        )
        .await;
        let Ok(answer) = answer else { break };
        answers += 1;
        for fetched in answer? {
            records += fetched.record_count();
            bytes += fetched.batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        }
    }
    let took = clock.uptime().saturating_sub(started);
    Ok(json!({
        "mode": "consume",
        "throughput": Throughput::new(records, args.message_bytes, took, cpu_seconds() - cpu),
        "complete": records >= wanted,
        "batch_bytes": bytes,
        "answers": answers,
    }))
}
