//! DescribeLogDirs: how large partitions are, and how much room is left (KIP-113, KIP-827).
//!
//! There is one directory: the data directory. Partitions share its files; what is told is the size of their
//! batches.

use std::collections::{BTreeMap, BTreeSet};

use ferrymq_broker::Topic;
use ferrymq_kafka_codec::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};
use ferrymq_storage::StorageError;

use crate::context::Context;
use crate::errors;
use crate::turns::Turns;

pub(crate) async fn handle(context: &Context, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let mut topics = Vec::new();
    let mut error = ErrorCode::None;
    for (topic, indexes) in wanted(context, request) {
        match sizes(&topic, indexes.as_ref()).await {
            Ok(partitions) if partitions.is_empty() => {}
            Ok(partitions) => {
                let name = StrBytes::from(topic.name.to_string());
                topics.push(DescribeLogDirsTopic { name, partitions });
            }
            Err(failed) => error = errors::storage(&failed),
        }
    }
    let space = context.volume.space();
    let signed = |bytes: Option<u64>| bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let result = DescribeLogDirsResult {
        error_code: error.code(),
        log_dir: StrBytes::from(context.config.data_dir.clone()),
        topics,
        total_bytes: signed(space.map(|space| space.total_bytes)),
        usable_bytes: signed(space.map(|space| space.usable_bytes)),
    };
    DescribeLogDirsResponse { results: vec![result], ..Default::default() }
}

/// The topics asked for, each once, and which of their partitions; `None`: all.
fn wanted(
    context: &Context,
    request: DescribeLogDirsRequest,
) -> Vec<(std::sync::Arc<Topic>, Option<BTreeSet<i32>>)> {
    let topics = context.broker.topics();
    let Some(asked) = request.topics else {
        return topics.all().into_iter().map(|topic| (topic, None)).collect();
    };
    let mut indexes: BTreeMap<StrBytes, BTreeSet<i32>> = BTreeMap::new();
    for topic in asked {
        indexes.entry(topic.topic).or_default().extend(topic.partitions);
    }
    let found = indexes.into_iter().filter_map(|(name, set)| Some((topics.get(&name)?, Some(set))));
    found.collect()
}

async fn sizes(
    topic: &Topic,
    indexes: Option<&BTreeSet<i32>>,
) -> Result<Vec<DescribeLogDirsPartition>, StorageError> {
    let mut partitions = Vec::new();
    let mut turns = Turns::default();
    for partition in &topic.partitions {
        turns.spend(1).await;
        let partition_index = partition.index.cast_signed();
        if indexes.is_some_and(|set| !set.contains(&partition_index))
            || partition.is_gone()
            || partition.is_elsewhere()
        {
            continue;
        }
        let stat = partition.stat().await?;
        partitions.push(DescribeLogDirsPartition {
            partition_index,
            partition_size: i64::try_from(stat.bytes).unwrap_or(i64::MAX),
            ..Default::default()
        });
    }
    Ok(partitions)
}
