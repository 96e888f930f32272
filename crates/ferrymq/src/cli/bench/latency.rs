//! Produce-to-consume latency at a rate.
//!
//! **Invariants.** Open loop: each message carries the time at which it was due, whatever delayed it, and latency
//! is counted from then to when the consumer has it in hand. Messages of the warm-up carry zero and are not
//! counted.

use std::sync::Arc;

use ferrymq_kafka_client::{Consumer, Producer, ProducerRecord, Start};
use ferrymq_runtime::Clock;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::kafka::KafkaArgs;
use super::load::{Payload, ack_latency};
use super::pacer::{Pacer, now_ns};
use super::report::{Latencies, Throughput, cpu_seconds};

const STAMP_BYTES: usize = 8;

/// Measures; the result as JSON.
pub(super) async fn measure(args: &KafkaArgs, clock: &Clock) -> anyhow::Result<Value> {
    let client = args.connect.client_with(clock.clone()).await?;
    let consumer = Consumer::new(&client, &args.topic, &[], Start::Latest, args.consumer_config()).await?;
    let acks = Arc::new(Mutex::new(Latencies::new()));
    let callback = ack_latency(clock, &acks);
    let producer =
        Producer::new(&client.sibling().await?, &args.topic, args.producer_config(), Some(callback)).await?;
    let (cpu, started) = (cpu_seconds(), clock.uptime());
    let sent = Mutex::new(None);
    let sending = async {
        let count = send(args, clock, producer).await?;
        *sent.lock() = Some(count);
        anyhow::Ok(())
    };
    let mut receiver = Receiver { clock: clock.clone(), end_to_end: Latencies::new(), received: 0 };
    let receiving = receiver.run(args, consumer, &sent);
    tokio::try_join!(sending, receiving)?;
    let took = clock.uptime().saturating_sub(started);
    let sent = sent.lock().unwrap_or(0);
    anyhow::ensure!(receiver.end_to_end.count() > 0, "nothing came back after the warm-up");
    Ok(json!({
        "mode": "latency",
        "rate": args.latency_rate(),
        "throughput": Throughput::new(receiver.received, args.message_bytes, took, cpu_seconds() - cpu),
        "sent": sent,
        "received": receiver.received,
        "end_to_end_us": receiver.end_to_end.json(),
        "ack_latency_us": acks.lock().json(),
    }))
}

/// Sends at the rate; how many were acknowledged.
async fn send(args: &KafkaArgs, clock: &Clock, mut producer: Producer) -> anyhow::Result<u64> {
    let mut payload = Payload::new(args.message_bytes);
    let mut value = vec![0; args.message_bytes];
    let mut pacer = Pacer::start(clock, args.latency_rate())?;
    let counted_from = now_ns(clock) + args.warmup_seconds * 1_000_000_000;
    let deadline = clock.uptime() + args.seconds_to_send();
    let partitions = producer.partitions();
    let (mut sent, messages) = (0u64, args.messages.unwrap_or(u64::MAX));
    while sent < messages && clock.uptime() < deadline {
        let timestamp = Some(clock.wall_ms());
        for due in pacer.due().await? {
            let tag = if due >= counted_from { due } else { 0 };
            value.copy_from_slice(payload.next());
            value[..STAMP_BYTES].copy_from_slice(&tag.to_be_bytes());
            let partition = u32::try_from(sent % u64::from(partitions)).ok();
            let record = ProducerRecord {
                partition,
                timestamp,
                value: Some(&value),
                tag,
                ..ProducerRecord::default()
            };
            producer.send(&record).await?;
            sent += 1;
        }
    }
    let report = producer.flush().await;
    match report.first_error {
        Some(error) => Err(error.into()),
        None => Ok(report.acked_records),
    }
}

struct Receiver {
    clock: Clock,
    end_to_end: Latencies,
    received: u64,
}

impl Receiver {
    /// Receives until as many came as were sent, or none has for the client's patience.
    async fn run(
        &mut self,
        args: &KafkaArgs,
        mut consumer: Consumer,
        sent: &Mutex<Option<u64>>,
    ) -> anyhow::Result<()> {
        let mut quiet_since = self.clock.now();
        while sent.lock().is_none_or(|sent| self.received < sent) {
            // Whether everything was sent is looked at now and then, also when nothing comes.
            let wait = tokio::time::timeout(std::time::Duration::from_millis(100), consumer.next());
            let Ok(answer) = wait.await else {
                let sending = sent.lock().is_none();
                let quiet = self.clock.now().duration_since(quiet_since);
                anyhow::ensure!(
                    sending || quiet < args.connect.timeout,
                    "{} messages were acknowledged and only {} came back",
                    sent.lock().unwrap_or(0),
                    self.received
                );
                continue;
            };
            quiet_since = self.clock.now();
            for fetched in answer? {
                for record in fetched.records() {
                    self.count(record?.value.as_deref().unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, value: &[u8]) {
        self.received += 1;
        let due = value.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp));
        if due > 0 {
            self.end_to_end.record(now_ns(&self.clock).saturating_sub(due));
        }
    }
}
