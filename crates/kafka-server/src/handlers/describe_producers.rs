//! DescribeProducers: who has written to partitions with idempotence (KIP-664).

use std::collections::{BTreeMap, BTreeSet};

use ferrymq_broker::Partition;
use ferrymq_broker::topics::check_name;
use ferrymq_kafka_codec::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use crate::context::Context;
use crate::errors;
use crate::turns::Turns;

/// No transaction coordinator has written for the producer.
const NO_COORDINATOR_EPOCH: i32 = -1;
/// No transaction is open.
const NO_TRANSACTION: i64 = -1;

pub(crate) async fn handle(
    context: &Context,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    // Each partition is told once, however often it is asked for: one may have thousands of producers.
    let mut wanted: BTreeMap<StrBytes, BTreeSet<i32>> = BTreeMap::new();
    for topic in request.topics {
        wanted.entry(topic.name).or_default().extend(topic.partition_indexes);
    }
    let mut topics = Vec::with_capacity(wanted.len());
    let mut turns = Turns::default();
    for (name, indexes) in wanted {
        let invalid = check_name(&name).err();
        let mut partitions = Vec::with_capacity(indexes.len());
        for index in indexes {
            turns.spend(1).await;
            let partition = context.broker.topics().partition(&name, index);
            partitions.push(match (&invalid, partition) {
                (Some(error), _) => failed(index, ErrorCode::InvalidTopicException, Some(error.to_string())),
                (None, None) => failed(index, ErrorCode::UnknownTopicOrPartition, None),
                (None, Some(partition)) if !context.broker.is_served(&partition) => {
                    failed(index, ErrorCode::NotLeaderOrFollower, None)
                }
                (None, Some(partition)) => describe(context, &partition).await,
            });
        }
        topics.push(TopicResponse { name, partitions });
    }
    DescribeProducersResponse { topics, ..Default::default() }
}

async fn describe(context: &Context, partition: &Partition) -> PartitionResponse {
    let partition_index = partition.index.cast_signed();
    let known = match context.broker.producers(partition).await {
        Ok(known) => known,
        Err(error) => return failed(partition_index, errors::append(&error), Some(error.to_string())),
    };
    let mut active_producers: Vec<ProducerState> = known
        .iter()
        .map(|(producer_id, producer)| {
            let last = producer.batches.last();
            ProducerState {
                producer_id,
                producer_epoch: i32::from(producer.epoch),
                last_sequence: last.map_or(-1, |batch| batch.last_sequence),
                last_timestamp: last.map_or(-1, |batch| batch.timestamp),
                coordinator_epoch: NO_COORDINATOR_EPOCH,
                current_txn_start_offset: NO_TRANSACTION,
            }
        })
        .collect();
    active_producers.sort_unstable_by_key(|producer| producer.producer_id);
    PartitionResponse { partition_index, active_producers, ..Default::default() }
}

fn failed(partition_index: i32, code: ErrorCode, text: Option<String>) -> PartitionResponse {
    PartitionResponse {
        partition_index,
        error_code: code.code(),
        error_message: text.map(StrBytes::from),
        ..Default::default()
    }
}
