//! The requests the harness sends, each as one function; versions are fixed, so that runs compare.
//!
//! Errors come in two kinds: a broken connection ([`std::io::Error`], result unknown) and an error code, which is
//! handed on as it came.

use std::io::{Error, Result};

use bytes::Bytes;
use ferrymq_kafka_codec::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use ferrymq_kafka_codec::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use ferrymq_kafka_codec::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use ferrymq_kafka_codec::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use ferrymq_kafka_codec::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use ferrymq_kafka_codec::messages::offset_fetch::OffsetFetchRequestTopic;
use ferrymq_kafka_codec::messages::produce::{PartitionProduceData, TopicProduceData};
use ferrymq_kafka_codec::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, FetchRequest,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    ProduceRequest,
};
use ferrymq_kafka_codec::{ApiKey, Records, StrBytes};

use crate::client::Client;

/// The version Produce is sent in.
pub(crate) const PRODUCE: i16 = 11;
/// The version Fetch is sent in, the last that names topics.
pub(crate) const FETCH: i16 = 12;
/// Asks for the first offset kept.
pub(crate) const EARLIEST: i64 = -2;
/// Asks for the offset the next record will get.
pub(crate) const LATEST: i64 = -1;

/// What a topic is made with.
#[derive(Debug, Clone)]
pub(crate) struct TopicPlan {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    pub(crate) configs: Vec<(&'static str, String)>,
}

fn text(name: &str) -> StrBytes {
    StrBytes::from(name.to_owned())
}

fn missing(what: &str) -> Error {
    Error::other(format!("the answer says nothing about {what}"))
}

/// The APIs that are served.
pub(crate) fn served(client: &mut Client) -> Result<Vec<ApiKey>> {
    let request = ApiVersionsRequest {
        client_software_name: text("ferrymq-faults"),
        client_software_version: text("1"),
    };
    let answer = client.call(&request, 3)?;
    Ok(answer.api_keys.iter().filter_map(|api| ApiKey::from_id(api.api_key)).collect())
}

/// Every topic with its number of partitions.
pub(crate) fn topics(client: &mut Client) -> Result<Vec<(String, usize)>> {
    let request = MetadataRequest { topics: None, ..MetadataRequest::default() };
    let answer = client.call(&request, 12)?;
    let named = answer.topics.into_iter().filter(|topic| !topic.is_internal);
    Ok(named.filter_map(|topic| Some((topic.name?.as_str().to_owned(), topic.partitions.len()))).collect())
}

/// Creates a topic; the error code.
pub(crate) fn create_topic(client: &mut Client, plan: &TopicPlan) -> Result<i16> {
    let configs = plan
        .configs
        .iter()
        .map(|(name, value)| CreatableTopicConfig { name: text(name), value: Some(text(value)) });
    let topic = CreatableTopic {
        name: text(&plan.name),
        num_partitions: plan.partitions,
        replication_factor: 1,
        configs: configs.collect(),
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
    let answer = client.call(&request, 5)?;
    answer.topics.first().map(|topic| topic.error_code).ok_or_else(|| missing("the topic"))
}

/// Deletes a topic; the error code.
pub(crate) fn delete_topic(client: &mut Client, name: &str) -> Result<i16> {
    let request = DeleteTopicsRequest {
        topic_names: vec![text(name)],
        timeout_ms: 10_000,
        ..DeleteTopicsRequest::default()
    };
    let answer = client.call(&request, 5)?;
    answer.responses.first().map(|topic| topic.error_code).ok_or_else(|| missing("the topic"))
}

/// A producer id and epoch, or the error code.
pub(crate) fn init_producer(client: &mut Client) -> Result<std::result::Result<(i64, i16), i16>> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
    };
    let answer = client.call(&request, 4)?;
    Ok(match answer.error_code {
        0 => Ok((answer.producer_id, answer.producer_epoch)),
        code => Err(code),
    })
}

/// A produce request of one batch per (topic, partition).
pub(crate) fn produce<'a>(batches: impl Iterator<Item = (&'a str, i32, Bytes)>) -> ProduceRequest {
    let mut topics: Vec<TopicProduceData> = Vec::new();
    for (name, index, batch) in batches {
        let data = PartitionProduceData { index, records: Some(Records::from(batch)) };
        match topics.iter_mut().find(|topic| topic.name.as_str() == name) {
            Some(topic) => topic.partition_data.push(data),
            None => topics.push(TopicProduceData {
                name: text(name),
                partition_data: vec![data],
                ..TopicProduceData::default()
            }),
        }
    }
    ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 30_000, topic_data: topics }
}

/// Fetches from several (topic, partition, offset), without a session.
pub(crate) fn fetch<'a>(
    client: &mut Client,
    wanted: impl Iterator<Item = (&'a str, i32, i64)>,
    wait_ms: i32,
) -> Result<Vec<(String, PartitionData)>> {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for (name, partition, fetch_offset) in wanted {
        let partition = FetchPartition {
            partition,
            fetch_offset,
            partition_max_bytes: 1 << 20,
            ..FetchPartition::default()
        };
        match topics.iter_mut().find(|topic| topic.topic.as_str() == name) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(FetchTopic {
                topic: text(name),
                partitions: vec![partition],
                ..FetchTopic::default()
            }),
        }
    }
    let request = FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        max_bytes: 8 << 20,
        topics,
        ..FetchRequest::default()
    };
    let answer = client.call(&request, FETCH)?;
    if answer.error_code != 0 {
        return Err(Error::other(format!("the fetch was refused with error {}", answer.error_code)));
    }
    let each = answer.responses.into_iter().flat_map(|topic| {
        let name = topic.topic.as_str().to_owned();
        topic.partitions.into_iter().map(move |data| (name.clone(), data))
    });
    Ok(each.collect())
}

/// The offset at a point of a log ([`EARLIEST`], [`LATEST`]), or the error code.
pub(crate) fn offset_at(
    client: &mut Client,
    topic: &str,
    partition: i32,
    point: i64,
) -> Result<std::result::Result<i64, i16>> {
    let partition = ListOffsetsPartition {
        partition_index: partition,
        timestamp: point,
        ..ListOffsetsPartition::default()
    };
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic { name: text(topic), partitions: vec![partition] }],
        ..ListOffsetsRequest::default()
    };
    let answer = client.call(&request, 7)?;
    let found = answer.topics.first().and_then(|topic| topic.partitions.first());
    let found = found.ok_or_else(|| missing("the partition"))?;
    Ok(if found.error_code == 0 { Ok(found.offset) } else { Err(found.error_code) })
}

/// Deletes all records below `offset`; the new start of the log, or the error code.
pub(crate) fn delete_records(
    client: &mut Client,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<std::result::Result<i64, i16>> {
    let partitions = vec![DeleteRecordsPartition { partition_index: partition, offset }];
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic { name: text(topic), partitions }],
        timeout_ms: 10_000,
    };
    let answer = client.call(&request, 2)?;
    let found = answer.topics.first().and_then(|topic| topic.partitions.first());
    let found = found.ok_or_else(|| missing("the partition"))?;
    Ok(if found.error_code == 0 { Ok(found.low_watermark) } else { Err(found.error_code) })
}

/// Commits one offset for a group without members; the error code.
pub(crate) fn commit(
    client: &mut Client,
    group: &str,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<i16> {
    let partition = OffsetCommitRequestPartition {
        partition_index: partition,
        committed_offset: offset,
        committed_leader_epoch: -1,
        committed_metadata: Some(text("m")),
    };
    let topic = OffsetCommitRequestTopic {
        name: text(topic),
        partitions: vec![partition],
        ..OffsetCommitRequestTopic::default()
    };
    let request = OffsetCommitRequest {
        group_id: text(group),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..OffsetCommitRequest::default()
    };
    let answer = client.call(&request, 8)?;
    let found = answer.topics.first().and_then(|topic| topic.partitions.first());
    found.map(|partition| partition.error_code).ok_or_else(|| missing("the commit"))
}

/// The offset committed for a group, -1 if there is none, or the error code.
pub(crate) fn committed(
    client: &mut Client,
    group: &str,
    topic: &str,
    partition: i32,
) -> Result<std::result::Result<i64, i16>> {
    let topic = OffsetFetchRequestTopic { name: text(topic), partition_indexes: vec![partition] };
    let request = OffsetFetchRequest {
        group_id: text(group),
        topics: Some(vec![topic]),
        ..OffsetFetchRequest::default()
    };
    let answer = client.call(&request, 7)?;
    if answer.error_code != 0 {
        return Ok(Err(answer.error_code));
    }
    let found = answer.topics.first().and_then(|topic| topic.partitions.first());
    let found = found.ok_or_else(|| missing("the commit"))?;
    Ok(if found.error_code == 0 { Ok(found.committed_offset) } else { Err(found.error_code) })
}
