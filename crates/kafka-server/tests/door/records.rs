//! Batches, and the short way to produce and fetch them.

use bytes::Bytes;
use ferrymq_kafka_codec::Records;
use ferrymq_kafka_codec::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use ferrymq_kafka_codec::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use ferrymq_types::record::BatchBuilder;
use ferrymq_types::{BatchView, Compression};

use super::support::{Client, START_MS, name};

/// The version tests produce and fetch with where it does not matter: the last with topic names.
pub(crate) const NAMED: i16 = 12;

/// A batch of values, a millisecond apart.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    builder(values).build()
}

/// A builder that holds values, a millisecond apart.
pub(crate) fn builder(values: &[&str]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(START_MS);
    for (at, value) in values.iter().enumerate() {
        let timestamp = START_MS + i64::try_from(at).expect("few values");
        builder.push(timestamp, None, Some(value.as_bytes()), &[]);
    }
    builder
}

/// A compressed batch of values, a millisecond apart.
pub(crate) fn compressed(values: &[&str], compression: Compression) -> Bytes {
    let compress = |bytes: &[u8]| ferrymq_compress::compress(compression, bytes);
    builder(values).build_compressed(compression, compress).expect("it compresses")
}

/// An idempotent producer's batch.
pub(crate) fn sequenced(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = builder(values);
    builder.producer(producer, epoch, sequence);
    builder.build()
}

/// A request for one partition.
pub(crate) fn produce_request(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let records = Some(Records::from(records));
    let partition_data = vec![PartitionProduceData { index: partition, records }];
    let topic_data = vec![TopicProduceData { name: name(topic), partition_data, ..Default::default() }];
    ProduceRequest { acks, timeout_ms: 1000, topic_data, ..Default::default() }
}

/// Produces to one partition.
pub(crate) async fn produce(
    client: &mut Client,
    topic: &str,
    partition: i32,
    records: Bytes,
) -> PartitionProduceResponse {
    let response = client.call(NAMED, &produce_request(topic, partition, -1, records)).await;
    response.responses[0].partition_responses[0].clone()
}

/// Produces what must be accepted; the base offset.
pub(crate) async fn write(client: &mut Client, topic: &str, partition: i32, records: Bytes) -> i64 {
    let answer = produce(client, topic, partition, records).await;
    assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
    answer.base_offset
}

/// A fetch of some partitions of a topic, without waiting.
pub(crate) fn fetch_request(topic: &str, partitions: &[(i32, i64)]) -> FetchRequest {
    let partitions = partitions.iter().map(|(partition, fetch_offset)| FetchPartition {
        partition: *partition,
        fetch_offset: *fetch_offset,
        partition_max_bytes: 1024 * 1024,
        ..Default::default()
    });
    FetchRequest {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 50 * 1024 * 1024,
        topics: vec![FetchTopic {
            topic: name(topic),
            partitions: partitions.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Fetches one partition.
pub(crate) async fn fetch(client: &mut Client, topic: &str, partition: i32, offset: i64) -> PartitionData {
    let response = client.call(NAMED, &fetch_request(topic, &[(partition, offset)])).await;
    assert_eq!(response.error_code, 0);
    response.responses[0].partitions[0].clone()
}

/// The partitions an answer tells of, with how many bytes of records each has.
pub(crate) fn told(response: &FetchResponse) -> Vec<(i32, usize)> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|data| (data.partition_index, bytes_of(data).len())).collect()
}

/// The records of an answer in one piece.
pub(crate) fn bytes_of(data: &PartitionData) -> Bytes {
    data.records.as_ref().map(Records::to_bytes).unwrap_or_default()
}

/// The batches of an answer.
pub(crate) fn batches(data: &PartitionData) -> Vec<BatchView> {
    let mut rest = bytes_of(data);
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let batch = BatchView::split_from(&mut rest).expect("whole batches are answered");
        batch.verify_crc().expect("a batch is answered as it was stored");
        batches.push(batch);
    }
    batches
}

/// All values of an answer with their offsets.
pub(crate) fn values(data: &PartitionData) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for batch in batches(data) {
        let payload = batch.payload();
        let compression = batch.header.compression().expect("a known compression");
        let payload = ferrymq_compress::decompress(compression, &payload, 1 << 24).expect("it decompresses");
        for record in ferrymq_types::Records::new(payload, batch.header.record_count) {
            let record = record.expect("a record decodes");
            let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
            values.push((batch.header.base_offset + i64::from(record.offset_delta), value));
        }
    }
    values
}
