//! Two requests of every served API: an empty one, and one that says something, in any version.

use bytes::Bytes;
use ferrymq_kafka_codec::messages::*;
use ferrymq_kafka_codec::{ApiKey, Records, RequestKind, StrBytes, Uuid};

use super::records::batch;
use super::support::{NODE, name};

/// The topic that requests that say something speak of.
pub(crate) const TOPIC: &str = "spoken-of";
/// The group that they speak of.
pub(crate) const GROUP: &str = "speakers";

/// The empty request.
pub(crate) fn empty(api: ApiKey) -> RequestKind {
    match api {
        // By default it would want no answer.
        ApiKey::Produce => RequestKind::Produce(ProduceRequest { acks: -1, ..Default::default() }),
        ApiKey::Fetch => RequestKind::Fetch(FetchRequest::default()),
        ApiKey::ListOffsets => RequestKind::ListOffsets(ListOffsetsRequest::default()),
        ApiKey::Metadata => RequestKind::Metadata(MetadataRequest::default()),
        ApiKey::OffsetCommit => RequestKind::OffsetCommit(OffsetCommitRequest::default()),
        ApiKey::OffsetFetch => RequestKind::OffsetFetch(OffsetFetchRequest::default()),
        ApiKey::FindCoordinator => RequestKind::FindCoordinator(FindCoordinatorRequest::default()),
        ApiKey::JoinGroup => RequestKind::JoinGroup(JoinGroupRequest::default()),
        ApiKey::Heartbeat => RequestKind::Heartbeat(HeartbeatRequest::default()),
        ApiKey::LeaveGroup => RequestKind::LeaveGroup(LeaveGroupRequest::default()),
        ApiKey::SyncGroup => RequestKind::SyncGroup(SyncGroupRequest::default()),
        ApiKey::DescribeGroups => RequestKind::DescribeGroups(DescribeGroupsRequest::default()),
        ApiKey::ListGroups => RequestKind::ListGroups(ListGroupsRequest::default()),
        ApiKey::ApiVersions => RequestKind::ApiVersions(ApiVersionsRequest::default()),
        ApiKey::CreateTopics => RequestKind::CreateTopics(CreateTopicsRequest::default()),
        ApiKey::DeleteTopics => RequestKind::DeleteTopics(DeleteTopicsRequest::default()),
        ApiKey::DeleteRecords => RequestKind::DeleteRecords(DeleteRecordsRequest::default()),
        ApiKey::InitProducerId => RequestKind::InitProducerId(InitProducerIdRequest::default()),
        ApiKey::OffsetForLeaderEpoch => {
            RequestKind::OffsetForLeaderEpoch(OffsetForLeaderEpochRequest::default())
        }
        ApiKey::DescribeConfigs => RequestKind::DescribeConfigs(DescribeConfigsRequest::default()),
        ApiKey::AlterConfigs => RequestKind::AlterConfigs(AlterConfigsRequest::default()),
        ApiKey::DescribeLogDirs => RequestKind::DescribeLogDirs(DescribeLogDirsRequest::default()),
        ApiKey::CreatePartitions => RequestKind::CreatePartitions(CreatePartitionsRequest::default()),
        ApiKey::DeleteGroups => RequestKind::DeleteGroups(DeleteGroupsRequest::default()),
        ApiKey::IncrementalAlterConfigs => {
            RequestKind::IncrementalAlterConfigs(IncrementalAlterConfigsRequest::default())
        }
        ApiKey::ListPartitionReassignments => {
            RequestKind::ListPartitionReassignments(ListPartitionReassignmentsRequest::default())
        }
        ApiKey::OffsetDelete => RequestKind::OffsetDelete(OffsetDeleteRequest::default()),
        ApiKey::DescribeCluster => RequestKind::DescribeCluster(DescribeClusterRequest::default()),
        ApiKey::DescribeProducers => RequestKind::DescribeProducers(DescribeProducersRequest::default()),
        ApiKey::DescribeTopicPartitions => {
            RequestKind::DescribeTopicPartitions(DescribeTopicPartitionsRequest::default())
        }
        other => panic!("{other} is served but has no request here"),
    }
}

/// A request that says something, of a topic with this id.
pub(crate) fn full(api: ApiKey, v: i16, id: Uuid) -> RequestKind {
    match api {
        ApiKey::Produce | ApiKey::Fetch | ApiKey::ListOffsets | ApiKey::Metadata => of_records(api, v, id),
        ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::FindCoordinator
        | ApiKey::JoinGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::SyncGroup
        | ApiKey::DescribeGroups
        | ApiKey::ListGroups
        | ApiKey::DeleteGroups
        | ApiKey::OffsetDelete => of_groups(api, v, id),
        ApiKey::DescribeConfigs | ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => {
            of_settings(api, v)
        }
        _ => of_topics(api, v),
    }
}

fn topic_name(v: i16, by_id_since: i16) -> StrBytes {
    if v >= by_id_since { StrBytes::new() } else { name(TOPIC) }
}

fn topic_id(v: i16, since: i16, id: Uuid) -> Uuid {
    if v >= since { id } else { Uuid::ZERO }
}

fn of_records(api: ApiKey, v: i16, id: Uuid) -> RequestKind {
    match api {
        ApiKey::Produce => {
            let records = Some(Records::from(batch(&["one", "two"])));
            let partition_data = vec![produce::PartitionProduceData { index: 0, records }];
            let (name, topic_id) = (topic_name(v, 13), topic_id(v, 13, id));
            let topic_data = vec![produce::TopicProduceData { name, topic_id, partition_data }];
            RequestKind::Produce(ProduceRequest {
                acks: -1,
                timeout_ms: 1000,
                topic_data,
                ..Default::default()
            })
        }
        ApiKey::Fetch => {
            let partitions = vec![fetch::FetchPartition { partition_max_bytes: 1000, ..Default::default() }];
            let topic =
                fetch::FetchTopic { topic: topic_name(v, 13), topic_id: topic_id(v, 13, id), partitions };
            RequestKind::Fetch(FetchRequest { max_bytes: 1000, topics: vec![topic], ..Default::default() })
        }
        ApiKey::ListOffsets => {
            let partitions = vec![list_offsets::ListOffsetsPartition { timestamp: -1, ..Default::default() }];
            let topics = vec![list_offsets::ListOffsetsTopic { name: name(TOPIC), partitions }];
            RequestKind::ListOffsets(ListOffsetsRequest { topics, ..Default::default() })
        }
        _ => {
            let topic = metadata::MetadataRequestTopic { name: Some(name(TOPIC)), ..Default::default() };
            RequestKind::Metadata(MetadataRequest { topics: Some(vec![topic]), ..Default::default() })
        }
    }
}

fn of_groups(api: ApiKey, v: i16, id: Uuid) -> RequestKind {
    let group_id = name(GROUP);
    match api {
        ApiKey::OffsetCommit => {
            let partition = offset_commit::OffsetCommitRequestPartition {
                committed_offset: 1,
                committed_metadata: Some(name("a note")),
                ..Default::default()
            };
            let topics = vec![offset_commit::OffsetCommitRequestTopic {
                name: topic_name(v, 10),
                topic_id: topic_id(v, 10, id),
                partitions: vec![partition],
            }];
            RequestKind::OffsetCommit(OffsetCommitRequest {
                group_id,
                generation_id_or_member_epoch: -1,
                topics,
                ..Default::default()
            })
        }
        ApiKey::OffsetFetch if v >= 8 => {
            let topics = vec![offset_fetch::OffsetFetchRequestTopics {
                name: topic_name(v, 10),
                topic_id: topic_id(v, 10, id),
                partition_indexes: vec![0],
            }];
            let group = offset_fetch::OffsetFetchRequestGroup {
                group_id,
                topics: Some(topics),
                ..Default::default()
            };
            RequestKind::OffsetFetch(OffsetFetchRequest { groups: vec![group], ..Default::default() })
        }
        ApiKey::OffsetFetch => {
            let topics =
                vec![offset_fetch::OffsetFetchRequestTopic { name: name(TOPIC), partition_indexes: vec![0] }];
            RequestKind::OffsetFetch(OffsetFetchRequest {
                group_id,
                topics: Some(topics),
                ..Default::default()
            })
        }
        ApiKey::FindCoordinator if v >= 4 => RequestKind::FindCoordinator(FindCoordinatorRequest {
            coordinator_keys: vec![group_id],
            ..Default::default()
        }),
        ApiKey::FindCoordinator => {
            RequestKind::FindCoordinator(FindCoordinatorRequest { key: group_id, ..Default::default() })
        }
        // A group of its own: a second member would wait for the first to join again.
        ApiKey::JoinGroup => RequestKind::JoinGroup(JoinGroupRequest {
            group_id: name(&format!("{GROUP}-{v}")),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: if v >= 1 { 10_000 } else { -1 },
            protocol_type: name("consumer"),
            protocols: vec![join_group::JoinGroupRequestProtocol {
                name: name("range"),
                metadata: Bytes::from_static(b"\0\0"),
            }],
            ..Default::default()
        }),
        _ => of_members(api, v, group_id),
    }
}

fn of_members(api: ApiKey, v: i16, group_id: StrBytes) -> RequestKind {
    match api {
        ApiKey::LeaveGroup if v >= 3 => {
            let members =
                vec![leave_group::MemberIdentity { member_id: name("nobody"), ..Default::default() }];
            RequestKind::LeaveGroup(LeaveGroupRequest { group_id, members, ..Default::default() })
        }
        ApiKey::LeaveGroup => RequestKind::LeaveGroup(LeaveGroupRequest {
            group_id,
            member_id: name("nobody"),
            ..Default::default()
        }),
        ApiKey::Heartbeat => RequestKind::Heartbeat(HeartbeatRequest {
            group_id,
            generation_id: 1,
            member_id: name("nobody"),
            ..Default::default()
        }),
        ApiKey::SyncGroup => {
            let assignment = Bytes::from_static(b"yours");
            let assignments =
                vec![sync_group::SyncGroupRequestAssignment { member_id: name("nobody"), assignment }];
            RequestKind::SyncGroup(SyncGroupRequest {
                group_id,
                generation_id: 1,
                member_id: name("nobody"),
                assignments,
                ..Default::default()
            })
        }
        ApiKey::DescribeGroups => RequestKind::DescribeGroups(DescribeGroupsRequest {
            groups: vec![group_id],
            ..Default::default()
        }),
        ApiKey::ListGroups => RequestKind::ListGroups(ListGroupsRequest::default()),
        ApiKey::DeleteGroups => {
            RequestKind::DeleteGroups(DeleteGroupsRequest { groups_names: vec![name("not-there")] })
        }
        _ => {
            let partitions = vec![offset_delete::OffsetDeleteRequestPartition { partition_index: 0 }];
            let topics = vec![offset_delete::OffsetDeleteRequestTopic { name: name(TOPIC), partitions }];
            RequestKind::OffsetDelete(OffsetDeleteRequest { group_id, topics })
        }
    }
}

fn of_settings(api: ApiKey, v: i16) -> RequestKind {
    let (resource_type, resource_name) = (2, name(TOPIC));
    let (setting, value) = (name("retention.ms"), Some(name("1000")));
    match api {
        ApiKey::DescribeConfigs => {
            let resource = |resource_type, resource_name| describe_configs::DescribeConfigsResource {
                resource_type,
                resource_name,
                configuration_keys: None,
            };
            let resources =
                vec![resource(resource_type, resource_name), resource(4, name(&NODE.to_string()))];
            RequestKind::DescribeConfigs(DescribeConfigsRequest {
                resources,
                include_synonyms: true,
                include_documentation: v >= 3,
            })
        }
        ApiKey::AlterConfigs => {
            let configs = vec![alter_configs::AlterableConfig { name: setting, value }];
            let resource = alter_configs::AlterConfigsResource { resource_type, resource_name, configs };
            RequestKind::AlterConfigs(AlterConfigsRequest { resources: vec![resource], validate_only: true })
        }
        _ => {
            let configs = vec![incremental_alter_configs::AlterableConfig {
                name: setting,
                config_operation: 0,
                value,
            }];
            let resource =
                incremental_alter_configs::AlterConfigsResource { resource_type, resource_name, configs };
            RequestKind::IncrementalAlterConfigs(IncrementalAlterConfigsRequest {
                resources: vec![resource],
                validate_only: true,
            })
        }
    }
}

fn of_topics(api: ApiKey, v: i16) -> RequestKind {
    match api {
        ApiKey::ApiVersions if v >= 3 => RequestKind::ApiVersions(ApiVersionsRequest {
            client_software_name: name("door-test"),
            client_software_version: name("1.0"),
        }),
        ApiKey::CreateTopics => {
            let topic = create_topics::CreatableTopic {
                name: name("made-up"),
                num_partitions: 2,
                replication_factor: 1,
                ..Default::default()
            };
            RequestKind::CreateTopics(CreateTopicsRequest {
                topics: vec![topic],
                validate_only: true,
                ..Default::default()
            })
        }
        ApiKey::DeleteTopics if v >= 6 => {
            let topic =
                delete_topics::DeleteTopicState { name: Some(name("not-there")), ..Default::default() };
            RequestKind::DeleteTopics(DeleteTopicsRequest { topics: vec![topic], ..Default::default() })
        }
        ApiKey::DeleteTopics => RequestKind::DeleteTopics(DeleteTopicsRequest {
            topic_names: vec![name("not-there")],
            ..Default::default()
        }),
        ApiKey::DeleteRecords => {
            let partitions = vec![delete_records::DeleteRecordsPartition { partition_index: 0, offset: 0 }];
            let topics = vec![delete_records::DeleteRecordsTopic { name: name(TOPIC), partitions }];
            RequestKind::DeleteRecords(DeleteRecordsRequest { topics, ..Default::default() })
        }
        ApiKey::OffsetForLeaderEpoch => {
            let partition =
                offset_for_leader_epoch::OffsetForLeaderPartition { leader_epoch: 1, ..Default::default() };
            let topics = vec![offset_for_leader_epoch::OffsetForLeaderTopic {
                topic: name(TOPIC),
                partitions: vec![partition],
            }];
            RequestKind::OffsetForLeaderEpoch(OffsetForLeaderEpochRequest { topics, ..Default::default() })
        }
        _ => of_partitions(api),
    }
}

fn of_partitions(api: ApiKey) -> RequestKind {
    match api {
        ApiKey::DescribeLogDirs => {
            let topic = describe_log_dirs::DescribableLogDirTopic { topic: name(TOPIC), partitions: vec![0] };
            RequestKind::DescribeLogDirs(DescribeLogDirsRequest { topics: Some(vec![topic]) })
        }
        ApiKey::CreatePartitions => {
            let topic =
                create_partitions::CreatePartitionsTopic { name: name(TOPIC), count: 3, assignments: None };
            RequestKind::CreatePartitions(CreatePartitionsRequest {
                topics: vec![topic],
                validate_only: true,
                ..Default::default()
            })
        }
        ApiKey::DescribeProducers => {
            let topic = describe_producers::TopicRequest { name: name(TOPIC), partition_indexes: vec![0, 7] };
            RequestKind::DescribeProducers(DescribeProducersRequest { topics: vec![topic] })
        }
        ApiKey::DescribeTopicPartitions => {
            let topic = describe_topic_partitions::TopicRequest { name: name(TOPIC) };
            let cursor =
                describe_topic_partitions::RequestCursor { topic_name: name(TOPIC), partition_index: 0 };
            RequestKind::DescribeTopicPartitions(DescribeTopicPartitionsRequest {
                topics: vec![topic],
                response_partition_limit: 1,
                cursor: Some(cursor),
            })
        }
        ApiKey::DescribeCluster => RequestKind::DescribeCluster(DescribeClusterRequest {
            include_cluster_authorized_operations: true,
            ..Default::default()
        }),
        _ => empty(api),
    }
}
