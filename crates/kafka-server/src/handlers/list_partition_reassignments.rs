//! ListPartitionReassignments: there are none, ever; partitions do not move between brokers.

use ferrymq_kafka_codec::messages::list_partition_reassignments::ListPartitionReassignmentsResponse;

pub(crate) fn handle() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}
