//! How much disk the partitions of a topic take, as their leaders say (KIP-113).
//!
//! Deliberately absent: other replicas, and which directory it is.

use std::collections::BTreeMap;

use ferrymq_kafka_codec::messages::DescribeLogDirsRequest;
use ferrymq_kafka_codec::messages::describe_log_dirs::DescribableLogDirTopic;
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use crate::cluster::LEADER_RETRIES;
use crate::{Client, ClientError, TopicInfo};

impl Client {
    /// Bytes of each partition of a topic, at its leader, or the next one if that changes meanwhile. A partition that its
    /// leader says nothing of, or whose leader does not know this request, is left out.
    ///
    /// # Errors
    /// If a broker cannot be asked, or refuses.
    pub async fn partition_bytes(&self, topic: &TopicInfo) -> Result<BTreeMap<u32, u64>, ClientError> {
        let mut left = LEADER_RETRIES;
        let mut topic = topic.clone();
        loop {
            match self.bytes_at_leaders(&topic).await {
                Err(error) if error.is_retriable() && left > 0 => left -= 1,
                result => return result,
            }
            self.pause().await;
            topic = self.topic(&topic.name, false).await?;
        }
    }

    async fn bytes_at_leaders(&self, topic: &TopicInfo) -> Result<BTreeMap<u32, u64>, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for one in &topic.partitions {
            let wire = i32::try_from(one.partition).unwrap_or(i32::MAX);
            by_leader.entry(one.leader).or_default().push(wire);
        }
        let mut bytes = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let name = StrBytes::from(topic.name.clone());
            let asked = vec![DescribableLogDirTopic { topic: name, partitions }];
            let request = DescribeLogDirsRequest { topics: Some(asked) };
            let response = match self.node(leader).await?.call(&request).await {
                Err(ClientError::Unsupported { .. }) => continue,
                response => response?,
            };
            let what = || format!("ask broker {leader} for the size of {}", topic.name);
            ClientError::check(what, response.error_code, None)?;
            for directory in &response.results {
                // A directory that has failed says so; the leader's partitions are not in it.
                if directory.error_code == ErrorCode::KafkaStorageError.code() {
                    continue;
                }
                ClientError::check(what, directory.error_code, None)?;
                for partition in directory.topics.iter().flat_map(|topic| &topic.partitions) {
                    // A replica on its way from one directory to another is in both; one of them counts.
                    let index = u32::try_from(partition.partition_index);
                    let size = u64::try_from(partition.partition_size);
                    if let (Ok(index), Ok(size), false) = (index, size, partition.is_future_key) {
                        bytes.insert(index, size);
                    }
                }
            }
        }
        Ok(bytes)
    }
}
