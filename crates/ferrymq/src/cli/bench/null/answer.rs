//! The answers of the null responder, as structs.

use std::collections::HashMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use ferrymq_kafka_codec::messages::api_versions::ApiVersion;
use ferrymq_kafka_codec::messages::create_topics::CreatableTopicResult;
use ferrymq_kafka_codec::messages::delete_topics::DeletableTopicResult;
use ferrymq_kafka_codec::messages::fetch::{FetchableTopicResponse, PartitionData};
use ferrymq_kafka_codec::messages::list_offsets::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use ferrymq_kafka_codec::messages::metadata::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use ferrymq_kafka_codec::messages::produce::{PartitionProduceResponse, TopicProduceResponse};
use ferrymq_kafka_codec::messages::{
    ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest,
    DeleteTopicsResponse, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
};
use ferrymq_kafka_codec::{ApiKey, ErrorCode, Records, StrBytes};
use ferrymq_types::BatchBuilder;

use super::Responder;

/// Partitions of each topic.
pub(super) type Topics = HashMap<String, u32>;

const NODE: i32 = 1;
/// What an answer may hold at most, whatever is asked for.
const FETCH_BYTES_MAX: usize = 55 * 1024 * 1024;
const LATEST: i64 = -1;

/// The batch that every fetch is answered with: all of it behind the base offset.
pub(super) struct Prepared {
    behind_offset: Bytes,
    records: i64,
}

impl Prepared {
    pub(super) fn new(message_bytes: usize, batch_bytes: usize) -> Prepared {
        let value = vec![b'x'; message_bytes];
        let mut builder = BatchBuilder::new(0);
        while builder.count() == 0 || builder.bytes() + message_bytes < batch_bytes {
            builder.push(0, None, Some(&value), &[]);
        }
        let records = i64::from(builder.count());
        Prepared { behind_offset: builder.build().slice(8..), records }
    }

    fn bytes(&self) -> usize {
        8 + self.behind_offset.len()
    }

    /// Whole batches from the one with `offset` on, at least one if `first`, up to `room` bytes.
    fn batches(&self, offset: i64, end: i64, room: usize, first: bool) -> Option<Records> {
        let mut records = Records::new();
        let mut base = offset - offset.rem_euclid(self.records);
        while base < end && (records.len() + self.bytes() <= room || (first && records.is_empty())) {
            let mut head = BytesMut::with_capacity(8);
            head.put_i64(base);
            records.push(head.freeze());
            records.push(self.behind_offset.clone());
            base += self.records;
        }
        (!records.is_empty()).then_some(records)
    }
}

/// What is answered here. The versions that address topics by id are left out: topics have none.
pub(super) fn api_versions(known: bool) -> ApiVersionsResponse {
    let range = |api: ApiKey, newest: i16| ApiVersion {
        api_key: api.id(),
        min_version: api.advertised().min,
        max_version: newest.min(api.advertised().max),
    };
    ApiVersionsResponse {
        error_code: if known { 0 } else { ErrorCode::UnsupportedVersion.code() },
        api_keys: vec![
            range(ApiKey::Produce, 12),
            range(ApiKey::Fetch, 12),
            range(ApiKey::ListOffsets, 9),
            range(ApiKey::Metadata, 9),
            range(ApiKey::ApiVersions, 4),
            range(ApiKey::CreateTopics, 6),
            range(ApiKey::DeleteTopics, 5),
            range(ApiKey::InitProducerId, 4),
        ],
        ..ApiVersionsResponse::default()
    }
}

pub(super) fn produce(request: ProduceRequest) -> ProduceResponse {
    // Where the records would stand is not kept: every batch is answered with offset 0.
    let partition = |index| PartitionProduceResponse { index, log_start_offset: 0, ..Default::default() };
    let topics = request.topic_data.into_iter().map(|topic| TopicProduceResponse {
        name: topic.name,
        partition_responses: topic.partition_data.iter().map(|one| partition(one.index)).collect(),
        ..TopicProduceResponse::default()
    });
    ProduceResponse { responses: topics.collect(), ..ProduceResponse::default() }
}

impl Responder {
    pub(super) fn metadata(&self, request: &MetadataRequest, version: i16) -> MetadataResponse {
        let mut topics = self.topics.lock();
        // Version 0 asks for all topics with an empty list, later ones with null.
        let named = request.topics.as_ref().filter(|named| version > 0 || !named.is_empty());
        let asked: Vec<String> = match named {
            Some(named) => named.iter().filter_map(|one| Some(one.name.as_ref()?.to_owned_str())).collect(),
            None => topics.keys().cloned().collect(),
        };
        let answers = asked.into_iter().map(|name| {
            if request.allow_auto_topic_creation || version < 4 {
                topics.entry(name.clone()).or_insert(self.partitions_default);
            }
            match topics.get(&name) {
                Some(partitions) => topic(name, *partitions),
                None => MetadataResponseTopic {
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                    name: Some(name.into()),
                    ..MetadataResponseTopic::default()
                },
            }
        });
        MetadataResponse {
            topics: answers.collect(),
            brokers: vec![MetadataResponseBroker {
                node_id: NODE,
                host: StrBytes::from(self.host.clone()),
                port: self.port,
                rack: None,
            }],
            cluster_id: Some(StrBytes::from_static("null-responder")),
            controller_id: NODE,
            ..MetadataResponse::default()
        }
    }

    pub(super) fn create_topics(&self, request: &CreateTopicsRequest) -> CreateTopicsResponse {
        let mut topics = self.topics.lock();
        let mut results = Vec::new();
        for asked in &request.topics {
            let exists = topics.contains_key(asked.name.as_str());
            let partitions = u32::try_from(asked.num_partitions).unwrap_or(self.partitions_default);
            topics.entry(asked.name.to_owned_str()).or_insert(partitions);
            results.push(CreatableTopicResult {
                name: asked.name.clone(),
                error_code: if exists { ErrorCode::TopicAlreadyExists.code() } else { 0 },
                num_partitions: asked.num_partitions,
                replication_factor: 1,
                ..CreatableTopicResult::default()
            });
        }
        CreateTopicsResponse { topics: results, ..CreateTopicsResponse::default() }
    }

    pub(super) fn delete_topics(&self, request: &DeleteTopicsRequest) -> DeleteTopicsResponse {
        let mut topics = self.topics.lock();
        let mut responses = Vec::new();
        for name in &request.topic_names {
            let there = topics.remove(name.as_str()).is_some();
            responses.push(DeletableTopicResult {
                name: Some(name.clone()),
                error_code: if there { 0 } else { ErrorCode::UnknownTopicOrPartition.code() },
                ..DeletableTopicResult::default()
            });
        }
        DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }
    }

    pub(super) fn fetch(&self, request: FetchRequest) -> FetchResponse {
        let wire = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
        let mut left = wire(request.max_bytes).min(FETCH_BYTES_MAX);
        let mut first = true;
        let mut responses = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in topic.partitions {
                let room = wire(asked.partition_max_bytes).min(left);
                let records = self.prepared.batches(asked.fetch_offset.max(0), self.records, room, first);
                let bytes = records.as_ref().map_or(0, Records::len);
                first &= bytes == 0;
                left = left.saturating_sub(bytes);
                partitions.push(PartitionData {
                    partition_index: asked.partition,
                    high_watermark: self.records,
                    last_stable_offset: self.records,
                    log_start_offset: 0,
                    records: Some(records.unwrap_or_default()),
                    ..PartitionData::default()
                });
            }
            responses.push(FetchableTopicResponse {
                topic: topic.topic,
                partitions,
                ..FetchableTopicResponse::default()
            });
        }
        FetchResponse { responses, ..FetchResponse::default() }
    }

    pub(super) fn list_offsets(&self, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| ListOffsetsPartitionResponse {
                partition_index: asked.partition_index,
                offset: if asked.timestamp == LATEST { self.records } else { 0 },
                ..ListOffsetsPartitionResponse::default()
            });
            ListOffsetsTopicResponse { partitions: partitions.collect(), name: topic.name }
        });
        ListOffsetsResponse { topics: topics.collect(), ..ListOffsetsResponse::default() }
    }
}

fn topic(name: String, partitions: u32) -> MetadataResponseTopic {
    let partition = |index| MetadataResponsePartition {
        partition_index: i32::try_from(index).unwrap_or(i32::MAX),
        leader_id: NODE,
        leader_epoch: 0,
        replica_nodes: vec![NODE],
        isr_nodes: vec![NODE],
        ..MetadataResponsePartition::default()
    };
    MetadataResponseTopic {
        name: Some(name.into()),
        partitions: (0..partitions).map(partition).collect(),
        ..MetadataResponseTopic::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_types::BatchView;

    #[test]
    fn prepared_batches_are_sound_and_rise() {
        let prepared = Prepared::new(100, 1000);
        let records = prepared.batches(prepared.records + 1, 1000, 3 * prepared.bytes(), true).unwrap();
        let mut bytes = records.to_bytes();
        let mut bases = Vec::new();
        while !bytes.is_empty() {
            let batch = BatchView::split_from(&mut bytes).unwrap();
            batch.verify_crc().unwrap();
            batch.verify_header().unwrap();
            bases.push(batch.header.base_offset);
        }
        let step = prepared.records;
        assert_eq!(bases, [step, 2 * step, 3 * step], "from the batch that holds the offset on");
        assert!(prepared.batches(1000, 1000, 1 << 20, true).is_none(), "the end");
        assert!(prepared.batches(0, 1000, 10, false).is_none());
        assert!(prepared.batches(0, 1000, 10, true).is_some(), "at least one, so that nobody is stuck");
    }
}
