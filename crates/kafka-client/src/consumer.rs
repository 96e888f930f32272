//! Consuming partitions of one topic by assignment: one fetch loop per leader, records decoded when asked for.
//!
//! **Invariants.** While one answer is being handed out the next fetch is already asked for, and no more than
//! that: at most three answers of `max_bytes` are held per leader. Within a partition, offsets
//! strictly rise; records below the start are not handed out although their batch was fetched.
//!
//! Deliberately absent: groups, fetch sessions, aborted transactions (everything is read, as Kafka's default
//! isolation does; control records are skipped).

mod fetcher;
mod records;

use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::Tasks;
use ferrymq_types::BatchView;
use tokio::sync::mpsc;

use crate::{Client, ClientError, OffsetSpec, TopicInfo};
use fetcher::{Fetcher, Position};

pub use records::{ConsumedRecord, FetchedRecords};

/// Answers that wait to be handed out, per consumer.
const ANSWERS_AHEAD: usize = 1;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// With the next record to come.
    Latest,
    /// At an offset.
    Offset(i64),
    /// At the first record at or after this many milliseconds since 1970; at the end if there is none.
    Timestamp(i64),
}

/// How a consumer behaves.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// Bytes of one answer.
    pub max_bytes: usize,
    /// Bytes of one partition in it.
    pub partition_bytes: usize,
    /// Bytes the broker waits for.
    pub min_bytes: usize,
    /// How long it waits for them.
    pub max_wait: Duration,
    /// Whether each batch's checksum is verified.
    pub verify_crc: bool,
    /// Largest size of one batch decompressed.
    pub decompressed_bytes: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        ConsumerConfig {
            max_bytes: 8 * 1024 * 1024,
            partition_bytes: 1024 * 1024,
            min_bytes: 1,
            max_wait: Duration::from_millis(500),
            verify_crc: true,
            decompressed_bytes: ferrymq_types::limits::DECOMPRESSED_BATCH_BYTES_MAX,
        }
    }
}

/// What one fetch brought for one partition.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// Records below this offset were not asked for.
    pub from: i64,
    /// Offset behind the last record.
    pub next: i64,
    /// Offset the next record written will get.
    pub high_watermark: i64,
    /// Whole batches, compressed as they were stored; checksums verified if the consumer does.
    pub batches: Vec<BatchView>,
    decompressed_bytes: usize,
}

impl Fetched {
    /// The records, in order, decompressed batch by batch.
    #[must_use]
    pub fn records(&self) -> FetchedRecords<'_> {
        FetchedRecords::new(self)
    }

    /// How many records the batches claim to hold from [`Fetched::from`] on, by their headers alone.
    #[must_use]
    pub fn record_count(&self) -> u64 {
        let data = self.batches.iter().filter(|batch| !batch.header.is_control());
        let count = |batch: &BatchView| {
            let skipped = self.from.saturating_sub(batch.header.base_offset).max(0);
            u64::try_from(i64::from(batch.header.record_count) - skipped).unwrap_or(0)
        };
        data.map(count).sum()
    }
}

type Answer = Result<Vec<Fetched>, ClientError>;

/// A consumer of some partitions of a topic.
pub struct Consumer {
    answers: mpsc::Receiver<Answer>,
    tasks: Tasks,
    starts: Vec<(u32, i64)>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Consumer {
    /// Begins to consume `partitions` of `topic` (all of them if empty). Uses connections of its own.
    ///
    /// # Errors
    /// If the topic or a partition does not exist, or the broker cannot be asked.
    pub async fn new(
        client: &Client,
        topic: &str,
        partitions: &[u32],
        start: Start,
        config: ConsumerConfig,
    ) -> Result<Consumer, ClientError> {
        let client = client.sibling().await?;
        let info = client.topic(topic, false).await?;
        let all: Vec<u32> = info.partitions.iter().map(|one| one.partition).collect();
        let partitions = if partitions.is_empty() { all } else { partitions.to_vec() };
        let starts = resolve(&client, topic, &partitions, start).await?;
        Ok(Consumer::from_offsets(client, &info, starts, config))
    }

    /// As [`new`](Self::new), with an offset for each partition; `client` should serve nothing else.
    #[must_use]
    pub fn from_offsets(
        client: Client,
        topic: &TopicInfo,
        starts: Vec<(u32, i64)>,
        config: ConsumerConfig,
    ) -> Consumer {
        let (sender, answers) = mpsc::channel(ANSWERS_AHEAD);
        let tasks = client.tasks().child();
        let positions = starts.iter().map(|(partition, offset)| Position {
            partition: *partition,
            offset: *offset,
            leader: topic
                .partitions
                .iter()
                .find(|one| one.partition == *partition)
                .map_or(-1, |one| one.leader),
        });
        let positions: Vec<Position> = positions.collect();
        Fetcher { client, topic: topic.name.as_str().into(), config, answers: sender, tasks: tasks.clone() }
            .spawn(positions);
        Consumer { answers, tasks, starts }
    }

    /// Partitions and the offsets they began at.
    #[must_use]
    pub fn starts(&self) -> &[(u32, i64)] {
        &self.starts
    }

    /// The next answer that brought anything: one entry per partition with new batches. Waits for as long as
    /// nothing comes. Cancel safety: nothing is lost.
    ///
    /// # Errors
    /// What retrying does not help; nothing follows.
    pub async fn next(&mut self) -> Result<Vec<Fetched>, ClientError> {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => Err(ClientError::Invalid("the consumer has ended after an error".to_owned())),
        }
    }
}

/// The offset to begin at in each partition.
async fn resolve(
    client: &Client,
    topic: &str,
    partitions: &[u32],
    start: Start,
) -> Result<Vec<(u32, i64)>, ClientError> {
    let spec = match start {
        Start::Offset(offset) => return Ok(partitions.iter().map(|one| (*one, offset)).collect()),
        Start::Earliest => OffsetSpec::Earliest,
        Start::Latest => OffsetSpec::Latest,
        Start::Timestamp(at) => OffsetSpec::Timestamp(at),
    };
    let found = client.offsets(topic, partitions, spec).await?;
    let mut starts = Vec::with_capacity(partitions.len());
    let missing = partitions.iter().any(|one| found.get(one).is_none_or(|at| at.offset.is_none()));
    let ends =
        if missing { client.offsets(topic, partitions, OffsetSpec::Latest).await? } else { found.clone() };
    for partition in partitions {
        let offset = |at: &std::collections::BTreeMap<u32, crate::OffsetAt>| at.get(partition)?.offset;
        let offset = offset(&found).or_else(|| offset(&ends));
        let unknown = || ClientError::Invalid(format!("the broker told no offset of {topic}/{partition}"));
        starts.push((*partition, offset.ok_or_else(unknown)?));
    }
    Ok(starts)
}
