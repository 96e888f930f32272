//! Looking at consumer groups and moving their offsets.
//!
//! **Invariant.** Offsets are only committed as an outsider (no member, generation -1); the broker refuses that
//! while the group has members, which is what keeps `group seek` from fighting a running consumer.
//!
//! Deliberately absent: joining a group.

use ferrymq_kafka_codec::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use ferrymq_kafka_codec::messages::{
    DescribeGroupsRequest, FindCoordinatorRequest, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use ferrymq_kafka_codec::{Decoder, StrBytes};

use crate::cluster::{Broker, join_address};
use crate::connection::Connection;
use crate::{Client, ClientError};

const COORDINATOR_RETRIES: u32 = 50;

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupListing {
    /// Its id.
    pub group: String,
    /// Its state, such as `Stable` or `Empty`; empty if the broker is too old to say.
    pub state: String,
    /// What it is a group of, such as `consumer`.
    pub protocol_type: String,
}

/// A group with its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group: String,
    /// Its state; `Dead` if there is no such group.
    pub state: String,
    /// How partitions are assigned.
    pub assignor: String,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: String,
    /// Its client's id.
    pub client_id: String,
    /// Where it connects from.
    pub host: String,
    /// Topic and partition of what it is assigned.
    pub assigned: Vec<(String, u32)>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset of the next record to read.
    pub offset: i64,
    /// What the consumer noted beside it.
    pub metadata: String,
}

impl Client {
    /// Every group of every broker.
    ///
    /// # Errors
    /// If a broker cannot be asked or refuses.
    pub async fn groups(&self) -> Result<Vec<GroupListing>, ClientError> {
        self.topics().await?;
        let mut groups = Vec::new();
        for broker in self.brokers() {
            let response = self.node(broker.node_id).await?.call(&ListGroupsRequest::default()).await?;
            ClientError::check(|| "list groups".to_owned(), response.error_code, None)?;
            groups.extend(response.groups.iter().map(|group| GroupListing {
                group: group.group_id.to_owned_str(),
                state: group.group_state.to_owned_str(),
                protocol_type: group.protocol_type.to_owned_str(),
            }));
        }
        groups.sort();
        Ok(groups)
    }

    /// One group.
    ///
    /// # Errors
    /// If the coordinator cannot be asked or refuses.
    pub async fn group(&self, group: &str) -> Result<GroupDescription, ClientError> {
        let request = DescribeGroupsRequest {
            groups: vec![StrBytes::from(group.to_owned())],
            include_authorized_operations: false,
        };
        let found = self.coordinated(group, async |coordinator| {
            let response = coordinator.call(&request).await?;
            let found = response.groups.into_iter().next();
            let found =
                found.ok_or_else(|| ClientError::Invalid(format!("no answer about group {group}")))?;
            ClientError::check(|| format!("describe group {group}"), found.error_code, None)?;
            Ok(found)
        });
        let found = found.await?;
        let members = found.members.iter().map(|member| GroupMember {
            member_id: member.member_id.to_owned_str(),
            client_id: member.client_id.to_owned_str(),
            host: member.client_host.to_owned_str(),
            assigned: read_assignment(&member.member_assignment).unwrap_or_default(),
        });
        Ok(GroupDescription {
            group: group.to_owned(),
            state: found.group_state.to_owned_str(),
            assignor: found.protocol_data.to_owned_str(),
            members: members.collect(),
        })
    }

    /// Every offset a group has committed.
    ///
    /// # Errors
    /// If the coordinator cannot be asked or refuses.
    pub async fn committed(&self, group: &str) -> Result<Vec<CommittedOffset>, ClientError> {
        let request = OffsetFetchRequest {
            group_id: StrBytes::from(group.to_owned()),
            topics: None,
            ..OffsetFetchRequest::default()
        };
        let what = || format!("read the offsets of group {group}");
        let response = self.coordinated(group, async |coordinator| {
            let response = coordinator.call(&request).await?;
            ClientError::check(what, response.error_code, None)?;
            Ok(response)
        });
        let response = response.await?;
        let mut committed = Vec::new();
        for topic in &response.topics {
            for one in topic.partitions.iter().filter(|one| one.committed_offset >= 0) {
                ClientError::check(what, one.error_code, None)?;
                committed.push(CommittedOffset {
                    topic: topic.name.to_owned_str(),
                    partition: u32::try_from(one.partition_index).unwrap_or(0),
                    offset: one.committed_offset,
                    metadata: one.metadata.as_ref().map(StrBytes::to_owned_str).unwrap_or_default(),
                });
            }
        }
        committed.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(committed)
    }

    /// Commits offsets for a group without members.
    ///
    /// # Errors
    /// If the group has members, or the coordinator cannot be asked or refuses.
    pub async fn commit(&self, group: &str, topic: &str, offsets: &[(u32, i64)]) -> Result<(), ClientError> {
        let partition = |(partition, offset): &(u32, i64)| OffsetCommitRequestPartition {
            partition_index: i32::try_from(*partition).unwrap_or(i32::MAX),
            committed_offset: *offset,
            committed_leader_epoch: -1,
            committed_metadata: Some(StrBytes::new()),
        };
        let request = OffsetCommitRequest {
            group_id: StrBytes::from(group.to_owned()),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: StrBytes::from(topic.to_owned()),
                partitions: offsets.iter().map(partition).collect(),
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        };
        let committed = self.coordinated(group, async |coordinator| {
            let response = coordinator.call(&request).await?;
            for one in response.topics.iter().flat_map(|topic| &topic.partitions) {
                let what =
                    || format!("commit an offset of {topic}/{} for group {group}", one.partition_index);
                ClientError::check(what, one.error_code, None)?;
            }
            Ok(())
        });
        committed.await
    }

    /// Asks a group's coordinator, and again a little later if it is only just becoming that.
    async fn coordinated<T>(
        &self,
        group: &str,
        ask: impl AsyncFn(&Connection) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut left = COORDINATOR_RETRIES;
        loop {
            let answer = match self.coordinator(group).await {
                Ok(coordinator) => ask(&coordinator).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(ClientError::Broker(error)) if error.is_retriable() && left > 0 => left -= 1,
                answer => return answer,
            }
            self.pause().await;
        }
    }

    async fn coordinator(&self, group: &str) -> Result<Connection, ClientError> {
        let key = StrBytes::from(group.to_owned());
        let request = FindCoordinatorRequest { key, ..FindCoordinatorRequest::default() };
        let response = self.ask(&request).await?;
        let what = || format!("find the coordinator of group {group}");
        ClientError::check(what, response.error_code, response.error_message.as_ref())?;
        let address = join_address(&response.host, response.port);
        self.learn(Broker { node_id: response.node_id, address });
        self.node(response.node_id).await
    }
}

/// Reads a consumer's assignment: version, then topics with partitions (Kafka's `ConsumerProtocolAssignment`).
fn read_assignment(bytes: &bytes::Bytes) -> Option<Vec<(String, u32)>> {
    let mut reader = Decoder::new(bytes);
    let _version = reader.i16().ok()?;
    let mut assigned = Vec::new();
    for _ in 0..reader.i32().ok()? {
        let topic = reader.string().ok()?.to_owned_str();
        for _ in 0..reader.i32().ok()? {
            assigned.push((topic.clone(), u32::try_from(reader.i32().ok()?).ok()?));
        }
    }
    assigned.sort();
    Some(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_garbage_is_not() {
        let mut wire = vec![0, 1, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1];
        wire.extend_from_slice(&[0xff; 4]);
        let expected = vec![("t".to_owned(), 1), ("t".to_owned(), 3)];
        assert_eq!(read_assignment(&wire.clone().into()), Some(expected));
        for cut in 0..21 {
            assert_eq!(read_assignment(&wire[..cut].to_vec().into()), None, "{cut}");
        }
        assert_eq!(read_assignment(&vec![0, 0, 0x7f, 0xff, 0xff, 0xff].into()), None);
    }
}
