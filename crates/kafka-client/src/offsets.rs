//! Looking offsets up: the log's ends, and the first record at or after a time.

use std::collections::BTreeMap;

use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::ListOffsetsRequest;
use ferrymq_kafka_codec::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};

use crate::cluster::LEADER_RETRIES;
use crate::{Client, ClientError, TopicInfo};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Which offset to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first one still there.
    Earliest,
    /// The one the next record will get.
    Latest,
    /// That of the first record at or after this many milliseconds since 1970.
    Timestamp(i64),
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAt {
    /// The offset; `None` if no record is as late as the time asked for.
    pub offset: Option<i64>,
    /// The record's timestamp, for a lookup by time.
    pub timestamp: i64,
}

impl Client {
    /// Looks up one offset in each of `partitions` of `topic`, at their leaders, and at the next ones if they change meanwhile.
    ///
    /// # Errors
    /// If the topic or a partition does not exist, or a broker cannot be asked.
    pub async fn offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        spec: OffsetSpec,
    ) -> Result<BTreeMap<u32, OffsetAt>, ClientError> {
        let mut left = LEADER_RETRIES;
        loop {
            let info = self.topic(topic, false).await?;
            match self.offsets_at_leaders(&info, partitions, spec).await {
                Err(error) if error.is_retriable() && left > 0 => left -= 1,
                result => return result,
            }
            self.pause().await;
        }
    }

    async fn offsets_at_leaders(
        &self,
        topic: &TopicInfo,
        partitions: &[u32],
        spec: OffsetSpec,
    ) -> Result<BTreeMap<u32, OffsetAt>, ClientError> {
        let name = &topic.name;
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            let leader = topic.partitions.iter().find(|one| one.partition == *partition);
            let leader = leader.ok_or_else(|| {
                let count = topic.partitions.len();
                ClientError::Invalid(format!("{name} has no partition {partition}: it has {count}"))
            })?;
            let wire = i32::try_from(*partition).unwrap_or(i32::MAX);
            by_leader.entry(leader.leader).or_default().push(wire);
        }
        let mut found = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let response = self.node(leader).await?.call(&request(name, partitions, spec)).await?;
            for one in response.topics.iter().flat_map(|topic| &topic.partitions) {
                let what = || format!("look up an offset of {name}/{}", one.partition_index);
                ClientError::check(what, one.error_code, None)?;
                let offset = (one.offset >= 0).then_some(one.offset);
                let partition = u32::try_from(one.partition_index).unwrap_or(0);
                found.insert(partition, OffsetAt { offset, timestamp: one.timestamp });
            }
        }
        Ok(found)
    }
}

fn request(topic: &str, partitions: Vec<i32>, spec: OffsetSpec) -> ListOffsetsRequest {
    let timestamp = match spec {
        OffsetSpec::Earliest => EARLIEST,
        OffsetSpec::Latest => LATEST,
        OffsetSpec::Timestamp(at) => at.max(0),
    };
    let one = |partition_index| ListOffsetsPartition {
        partition_index,
        timestamp,
        ..ListOffsetsPartition::default()
    };
    ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: StrBytes::from(topic.to_owned()),
            partitions: partitions.into_iter().map(one).collect(),
        }],
        ..ListOffsetsRequest::default()
    }
}
