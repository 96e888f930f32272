//! One file per API.

pub(crate) mod alter_configs;
pub(crate) mod altering;
pub(crate) mod api_versions;
pub(crate) mod broker_settings;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_groups;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_groups;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_producers;
pub(crate) mod describe_topic_partitions;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod heartbeat;
pub(crate) mod incremental_alter_configs;
pub(crate) mod init_producer_id;
pub(crate) mod join_group;
pub(crate) mod leave_group;
pub(crate) mod list_groups;
pub(crate) mod list_offsets;
pub(crate) mod list_partition_reassignments;
pub(crate) mod metadata;
pub(crate) mod offset_commit;
pub(crate) mod offset_delete;
pub(crate) mod offset_fetch;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod settings;
pub(crate) mod sync_group;

use ferrymq_broker::Partition;
use ferrymq_kafka_codec::ErrorCode;

use crate::context::Context;

/// Whether a partition is led here, and the epoch a client believes in is the one in force (KIP-320); -1: the client does not
/// say.
pub(crate) fn check_epoch(context: &Context, partition: &Partition, believed: i32) -> Option<ErrorCode> {
    if !context.broker.is_served(partition) {
        return Some(ErrorCode::NotLeaderOrFollower);
    }
    let epoch = partition.leader_epoch();
    match believed {
        -1 => None,
        older if older < epoch => Some(ErrorCode::FencedLeaderEpoch),
        newer if newer > epoch => Some(ErrorCode::UnknownLeaderEpoch),
        _ => None,
    }
}
