//! Producing to one topic: records gather in a batch per partition, batches travel many to a request.
//!
//! ```text
//!   send --> accumulator (bounded, one open batch per partition) --> sender task --> leaders
//!                 ^                                                      |
//!                 +------------ room, retries, report <------------------+
//! ```
//!
//! **Invariants.** [`Producer::send`] waits while [`ProducerConfig::buffer_bytes`] are unacknowledged. A record
//! is either acknowledged or counted as failed, within [`ProducerConfig::delivery_timeout`]. Per partition,
//! batches are sent in order; a batch that is sent again travels alone. With `idempotent` the broker drops
//! what arrives twice; without it a retry may duplicate and, with several requests in flight, reorder.
//!
//! Deliberately absent: transactions, several topics (make a producer for each), interceptors.

mod accumulator;
mod sender;

use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::TaskKind;
use ferrymq_types::{Compression, Header};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Client, ClientError, StickyPartitioner, key_partition};
use accumulator::{Accumulator, Pushed};

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nothing: what the network loses is lost.
    None,
    /// The leader.
    Leader,
    /// All replicas that are in sync.
    All,
}

impl Acks {
    /// Kafka's number.
    #[must_use]
    pub const fn number(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How a producer behaves.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// What to wait for.
    pub acks: Acks,
    /// How long a batch may wait for company.
    pub linger: Duration,
    /// Bytes at which a batch is full.
    pub batch_bytes: usize,
    /// Bytes of batches one request carries; at least one batch always fits.
    pub request_bytes: usize,
    /// Requests in flight per broker.
    pub in_flight: usize,
    /// Bytes of batches that may be unacknowledged, on their way or waiting.
    pub buffer_bytes: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// Whether the broker drops what is sent twice (KIP-98).
    pub idempotent: bool,
    /// After how long an unacknowledged batch has failed.
    pub delivery_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            acks: Acks::All,
            linger: Duration::from_millis(5),
            batch_bytes: 128 * 1024,
            request_bytes: 1024 * 1024,
            in_flight: 5,
            buffer_bytes: 32 * 1024 * 1024,
            compression: Compression::None,
            idempotent: false,
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

/// A record to send; everything is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProducerRecord<'a> {
    /// The partition; chosen by key, or stickily without one, if `None`.
    pub partition: Option<u32>,
    /// Milliseconds since 1970; now if `None`.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: &'a [Header],
    /// Handed back in [`Delivery::tags`] if the producer has a callback.
    pub tag: u64,
}

/// What became of one batch.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Its partition.
    pub partition: u32,
    /// Offset of its first record; `None` without acknowledgement.
    pub base_offset: Option<i64>,
    /// Its records' tags, in order.
    pub tags: &'a [u64],
    /// Why it failed, if it did.
    pub error: Option<&'a ClientError>,
}

/// Called for each batch when its fate is known, on the sender's task: it must not wait.
pub type DeliveryCallback = Box<dyn Fn(&Delivery<'_>) + Send + Sync>;

/// What a producer has done so far.
#[derive(Debug, Clone, Default)]
pub struct ProducerReport {
    /// Records acknowledged (or, with acks=0, sent).
    pub acked_records: u64,
    /// Bytes of batches acknowledged.
    pub acked_bytes: u64,
    /// Batches acknowledged.
    pub batches: u64,
    /// Requests sent.
    pub requests: u64,
    /// Records given up.
    pub failed_records: u64,
    /// Why the first of them was.
    pub first_error: Option<ClientError>,
}

/// State that the producer's handle and its sender share.
struct Shared {
    accumulator: Mutex<Accumulator>,
    /// There is something new for the sender.
    wake: Notify,
    /// Room was made, or everything was acknowledged.
    room: Notify,
}

/// A producer to one topic. Dropping it gives up what is not yet acknowledged; [`Producer::flush`] first.
pub struct Producer {
    shared: Arc<Shared>,
    client: Client,
    partitions: u32,
    sticky: StickyPartitioner,
}

impl Producer {
    /// A producer to `topic`, which the broker may make if it does such things.
    ///
    /// # Errors
    /// If the topic is not there or the broker cannot be asked.
    pub async fn new(
        client: &Client,
        topic: &str,
        config: ProducerConfig,
        on_delivery: Option<DeliveryCallback>,
    ) -> Result<Producer, ClientError> {
        if config.idempotent && (config.acks != Acks::All || config.in_flight > 5) {
            let what = "an idempotent producer needs acks=all and at most 5 requests in flight";
            return Err(ClientError::Invalid(what.to_owned()));
        }
        let info = client.topic(topic, true).await?;
        let partitions = u32::try_from(info.partitions.len()).unwrap_or(u32::MAX);
        if partitions == 0 {
            return Err(ClientError::Invalid(format!("topic {topic} has no partitions")));
        }
        let tagged = on_delivery.is_some();
        let shared = Arc::new(Shared {
            accumulator: Mutex::new(Accumulator::new(&config, info.partitions.len(), tagged)),
            wake: Notify::new(),
            room: Notify::new(),
        });
        let sticky = StickyPartitioner::new(client.rng().clone(), config.batch_bytes);
        let mut sender =
            sender::Sender::new(client.clone(), &info, config, shared.clone(), on_delivery).await?;
        client.tasks().spawn(TaskKind::Background, "kafka-client-sender", async move { sender.run().await });
        Ok(Producer { shared, client: client.clone(), partitions, sticky })
    }

    /// Partitions of the topic.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Takes a record, waiting for room if there is none. Its fate is told by the callback and the report.
    ///
    /// # Errors
    /// If the partition does not exist.
    pub async fn send(&mut self, record: &ProducerRecord<'_>) -> Result<(), ClientError> {
        let partition = self.choose(record)?;
        let timestamp = record.timestamp.unwrap_or_else(|| self.client.clock().wall_ms());
        loop {
            let pushed = self
                .shared
                .accumulator
                .lock()
                .push(partition, timestamp, record, || self.client.clock().now());
            match pushed {
                Pushed::Added => return Ok(()),
                Pushed::First => {
                    self.shared.wake.notify_one();
                    return Ok(());
                }
                Pushed::Filled => {
                    self.shared.wake.notify_one();
                    // Lets the sender send it while its bytes are still in the processor's cache.
                    tokio::task::yield_now().await;
                    return Ok(());
                }
                Pushed::NoRoom => {
                    self.shared.wake.notify_one();
                    self.shared.room.notified().await;
                }
            }
        }
    }

    fn choose(&mut self, record: &ProducerRecord<'_>) -> Result<u32, ClientError> {
        match (record.partition, record.key) {
            (Some(partition), _) if partition < self.partitions => Ok(partition),
            (Some(partition), _) => {
                let count = self.partitions;
                Err(ClientError::Invalid(format!("no partition {partition}: the topic has {count}")))
            }
            (None, Some(key)) => Ok(key_partition(key, self.partitions)),
            (None, None) => Ok(self.sticky.next(record.value.map_or(0, <[u8]>::len), self.partitions)),
        }
    }

    /// Sends everything now and waits until its fate is known. What is known then.
    pub async fn flush(&mut self) -> ProducerReport {
        loop {
            let report = self.shared.accumulator.lock().flush();
            if let Some(report) = report {
                return report;
            }
            self.shared.wake.notify_one();
            self.shared.room.notified().await;
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn report(&self) -> ProducerReport {
        self.shared.accumulator.lock().report().clone()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.accumulator.lock().close();
        self.shared.wake.notify_one();
    }
}
