//! The fetch loop of one leader.
//!
//! **Invariants.** Positions advance by the batches' headers before the batches are handed out, so that the next
//! fetch can be asked for at once. Partitions that brought data move to the back of the next request, so that
//! none starves when answers are full.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_kafka_codec::messages::FetchRequest;
use ferrymq_kafka_codec::messages::FetchResponse;
use ferrymq_kafka_codec::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use ferrymq_kafka_codec::{Records, StrBytes};
use ferrymq_runtime::{TaskKind, Tasks};
use ferrymq_types::{BatchError, BatchView};
use tokio::sync::mpsc;

use super::{Answer, ConsumerConfig, Fetched};
use crate::connection;
use crate::{Client, ClientError};

/// Where one partition's reading stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) partition: u32,
    pub(super) offset: i64,
    pub(super) leader: i32,
}

/// What every fetch loop of a consumer shares.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) client: Client,
    pub(super) topic: Arc<str>,
    pub(super) config: ConsumerConfig,
    pub(super) answers: mpsc::Sender<Answer>,
    pub(super) tasks: Tasks,
}

impl Fetcher {
    /// Starts one loop per leader.
    pub(super) fn spawn(&self, positions: Vec<Position>) {
        let mut by_leader: BTreeMap<i32, Vec<Position>> = BTreeMap::new();
        for position in positions {
            by_leader.entry(position.leader).or_default().push(position);
        }
        for (leader, positions) in by_leader {
            let fetcher = self.clone();
            let stopping = self.tasks.stopping();
            self.tasks.spawn(TaskKind::Background, "kafka-client-fetcher", async move {
                tokio::select! {
                    () = fetcher.run(leader, positions) => {}
                    () = stopping => {}
                }
            });
        }
    }

    async fn run(&self, leader: i32, mut positions: Vec<Position>) {
        loop {
            match self.fetch_all(leader, &mut positions).await {
                Ok(()) => return,
                Err(error) if error.is_retriable() => {
                    tracing::debug!(error = %error, leader, "fetching again");
                    self.client.pause().await;
                }
                Err(error) => {
                    let _ = self.answers.send(Err(error)).await;
                    return;
                }
            }
            let Ok(info) = self.client.topic(&self.topic, false).await else { continue };
            for position in &mut positions {
                let found = info.partitions.iter().find(|one| one.partition == position.partition);
                position.leader = found.map_or(position.leader, |one| one.leader);
            }
            if positions.iter().any(|position| position.leader != leader) {
                return self.spawn(positions);
            }
        }
    }

    /// Fetches until nobody wants more (`Ok`) or something fails.
    async fn fetch_all(&self, leader: i32, positions: &mut [Position]) -> Result<(), ClientError> {
        let mut answer = self.ask(leader, positions).await?;
        loop {
            let patience = self.client.patience() + self.config.max_wait;
            let response = answer.wait_for(patience).await?;
            let (fetched, failed) = self.digest(response, positions);
            // What was fetched counts as read from here on: it is handed out before any error is looked at.
            let next = match failed {
                None => self.ask(leader, positions).await,
                Some(error) => Err(error),
            };
            if !fetched.is_empty() && self.answers.send(Ok(fetched)).await.is_err() {
                return Ok(());
            }
            answer = next?;
        }
    }

    async fn ask(
        &self,
        leader: i32,
        positions: &[Position],
    ) -> Result<connection::Answer<FetchRequest>, ClientError> {
        let wire = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
        let partition = |position: &Position| FetchPartition {
            partition: i32::try_from(position.partition).unwrap_or(i32::MAX),
            fetch_offset: position.offset,
            partition_max_bytes: wire(self.config.partition_bytes),
            ..FetchPartition::default()
        };
        let request = FetchRequest {
            max_wait_ms: i32::try_from(self.config.max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: wire(self.config.min_bytes),
            max_bytes: wire(self.config.max_bytes),
            topics: vec![FetchTopic {
                topic: StrBytes::from(self.topic.to_string()),
                partitions: positions.iter().map(partition).collect(),
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        };
        self.client.node(leader).await?.start(&request).await
    }

    /// Takes an answer apart and advances the positions. An error of one partition keeps none of the others
    /// from being read.
    fn digest(
        &self,
        response: FetchResponse,
        positions: &mut [Position],
    ) -> (Vec<Fetched>, Option<ClientError>) {
        let mut failed =
            ClientError::check(|| format!("fetch from {}", self.topic), response.error_code, None).err();
        let places: HashMap<u32, usize> =
            positions.iter().enumerate().map(|(at, position)| (position.partition, at)).collect();
        let mut fetched = Vec::new();
        let mut brought = HashSet::new();
        for data in response.responses.into_iter().flat_map(|topic| topic.partitions) {
            let partition = u32::try_from(data.partition_index).unwrap_or(u32::MAX);
            let Some(position) = places.get(&partition).and_then(|at| positions.get_mut(*at)) else {
                continue;
            };
            match self.batches(data, position) {
                Ok(None) => {}
                Ok(Some(one)) => {
                    brought.insert(partition);
                    fetched.push(one);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if brought.len() < positions.len() {
            positions.sort_by_key(|position| brought.contains(&position.partition));
        }
        (fetched, failed)
    }

    fn batches(&self, data: PartitionData, position: &mut Position) -> Result<Option<Fetched>, ClientError> {
        let from = position.offset;
        let what = || format!("fetch from {}/{} at offset {from}", self.topic, position.partition);
        ClientError::check(what, data.error_code, None)?;
        let mut rest = data.records.as_ref().map(Records::to_bytes).unwrap_or_default();
        let mut batches = Vec::new();
        let mut next = from;
        while let Some(batch) = self.next_batch(&mut rest, position.partition)? {
            let last = batch.header.base_offset.saturating_add(i64::from(batch.header.last_offset_delta));
            // A fetch begins with the batch that holds the offset; compaction may have left nothing of it.
            if last >= next {
                next = last.saturating_add(1);
                batches.push(batch);
            }
        }
        position.offset = next;
        let (topic, partition) = (self.topic.clone(), position.partition);
        Ok((!batches.is_empty()).then_some(Fetched {
            topic,
            partition,
            from,
            next,
            high_watermark: data.high_watermark,
            batches,
            decompressed_bytes: self.config.decompressed_bytes,
        }))
    }

    /// The next whole batch; brokers may cut the last one of an answer short.
    fn next_batch(&self, rest: &mut Bytes, partition: u32) -> Result<Option<BatchView>, ClientError> {
        if rest.is_empty() {
            return Ok(None);
        }
        let damaged =
            |source| ClientError::Batch { partition: format!("{}/{partition}", self.topic), source };
        match BatchView::split_from(rest) {
            Ok(batch) => {
                if self.config.verify_crc {
                    batch.verify_crc().map_err(damaged)?;
                }
                Ok(Some(batch))
            }
            Err(BatchError::Truncated { .. }) => Ok(None),
            Err(source) => Err(damaged(source)),
        }
    }
}
