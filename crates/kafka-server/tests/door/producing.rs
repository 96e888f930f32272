//! Produce: what is accepted, what is refused and how.

use bytes::{Bytes, BytesMut};
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::{InitProducerIdRequest, MetadataRequest, ProduceRequest};
use ferrymq_types::batch::set_crc;
use ferrymq_types::{BatchView, Compression};

use super::records::{
    NAMED, batch, batches, compressed, fetch, produce, produce_request, sequenced, values, write,
};
use super::support::{START_MS, Server, name};

#[tokio::test]
async fn records_come_back_in_order_whatever_their_compression() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    assert_eq!(write(&mut client, "t", 0, batch(&["a", "b"])).await, 0);
    let all = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for (at, compression) in (0..).zip(all) {
        assert_eq!(write(&mut client, "t", 0, compressed(&["c", "d"], compression)).await, 2 + 2 * at);
    }
    let data = fetch(&mut client, "t", 0, 0).await;
    let got = values(&data);
    assert_eq!(got.len(), 10);
    assert!(got.iter().zip(0..).all(|((offset, _), expected)| *offset == expected));
    assert_eq!(data.high_watermark, 10);
    let leader_epochs = batches(&data).iter().map(|batch| batch.header.leader_epoch).collect::<Vec<_>>();
    let epoch = server.context.broker.topics().partition("t", 0).unwrap().leader_epoch();
    assert!(leader_epochs.iter().all(|found| *found == epoch), "{leader_epochs:?}");
}

#[tokio::test]
async fn the_broker_stamps_records_where_the_topic_says_so() {
    let server = Server::start().await;
    server.topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    server.clock.step_wall(5_000_000);
    let mut client = server.client().await;
    let answer = produce(&mut client, "t", 0, batch(&["a"])).await;
    assert_eq!(answer.error_code, 0);
    assert!(answer.log_append_time_ms >= START_MS + 5_000_000);
    let stored = batches(&fetch(&mut client, "t", 0, 0).await);
    assert_eq!(stored[0].header.max_timestamp, answer.log_append_time_ms);
    server.topic("own", 1, &[]).await;
    let own = produce(&mut client, "own", 0, batch(&["a"])).await;
    assert_eq!(own.log_append_time_ms, -1);
}

#[tokio::test]
async fn without_acks_nothing_is_answered_and_a_failure_closes() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    client.send(NAMED, &produce_request("t", 0, 0, batch(&["a"]))).await;
    // The next answer is the one to the next request.
    assert_eq!(write(&mut client, "t", 0, batch(&["b"])).await, 1);
    client.send(NAMED, &produce_request("not-there", 0, 0, batch(&["a"]))).await;
    client.closed().await;
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn acks_that_mean_nothing_are_refused() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    for acks in [2, -2, i16::MAX] {
        let response = client.call(NAMED, &produce_request("t", 0, acks, batch(&["a"]))).await;
        let answer = &response.responses[0].partition_responses[0];
        assert_eq!(answer.error_code, ErrorCode::InvalidRequiredAcks.code());
        assert_eq!(answer.base_offset, -1);
    }
    assert_eq!(write(&mut client, "t", 0, batch(&["a"])).await, 0, "nothing was written");
}

#[tokio::test]
async fn repeated_and_reordered_batches_of_an_idempotent_producer() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let asking = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let given = client.call(4, &asking).await;
    assert_eq!((given.error_code, given.producer_epoch), (0, 0));
    let id = given.producer_id;
    let unnamed = client.call(4, &InitProducerIdRequest::default()).await;
    assert_eq!(unnamed.error_code, ErrorCode::InvalidRequest.code(), "an empty id is no id");
    assert_eq!(write(&mut client, "t", 0, sequenced(id, 0, 0, &["a", "b"])).await, 0);
    assert_eq!(write(&mut client, "t", 0, sequenced(id, 0, 2, &["c"])).await, 2);
    assert_eq!(write(&mut client, "t", 0, sequenced(id, 0, 0, &["a", "b"])).await, 0, "a duplicate");
    let gap = produce(&mut client, "t", 0, sequenced(id, 0, 7, &["d"])).await;
    assert_eq!(gap.error_code, ErrorCode::OutOfOrderSequenceNumber.code());
    assert_eq!(write(&mut client, "t", 0, sequenced(id, 1, 0, &["d"])).await, 3, "a new epoch starts over");
    let stale = produce(&mut client, "t", 0, sequenced(id, 0, 3, &["e"])).await;
    assert_eq!(stale.error_code, ErrorCode::InvalidProducerEpoch.code());
    let got: Vec<String> =
        values(&fetch(&mut client, "t", 0, 0).await).into_iter().map(|one| one.1).collect();
    assert_eq!(got, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn bad_batches_are_refused_with_kafkas_codes() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    server.topic("small", 1, &[("max.message.bytes", "100")]).await;
    let mut client = server.client().await;
    let good = batch(&["one", "two", "three"]);
    let with = |change: &dyn Fn(&mut BytesMut)| {
        let mut bytes = BytesMut::from(&good[..]);
        change(&mut bytes);
        bytes.freeze()
    };
    let two: Bytes = [&good[..], &good[..]].concat().into();
    let cases: Vec<(&str, Bytes, ErrorCode)> = vec![
        ("a flipped bit", with(&|b| b[70] ^= 1), ErrorCode::CorruptMessage),
        ("cut short", good.slice(..good.len() - 1), ErrorCode::CorruptMessage),
        ("magic 0", with(&|b| b[16] = 0), ErrorCode::InvalidRecord),
        ("magic 1", with(&|b| b[16] = 1), ErrorCode::InvalidRecord),
        ("no batch", Bytes::new(), ErrorCode::InvalidRecord),
        ("two batches", two, ErrorCode::InvalidRecord),
        (
            "a wrong count",
            with(&|b| {
                b[60] = 2;
                set_crc(b)
            }),
            ErrorCode::InvalidRecord,
        ),
        (
            "a wrong last offset",
            with(&|b| {
                b[26] = 9;
                set_crc(b)
            }),
            ErrorCode::InvalidRecord,
        ),
        (
            "a control batch",
            with(&|b| {
                b[22] |= 0x20;
                set_crc(b)
            }),
            ErrorCode::InvalidRecord,
        ),
        (
            "no such compression",
            with(&|b| {
                b[22] |= 7;
                set_crc(b)
            }),
            ErrorCode::InvalidRecord,
        ),
    ];
    for (what, bytes, code) in cases {
        let answer = produce(&mut client, "t", 0, bytes).await;
        let got = ErrorCode::from_code(answer.error_code);
        assert_eq!(got, Some(code), "{what}: {:?}", answer.error_message);
        assert_eq!((answer.base_offset, answer.log_append_time_ms), (-1, -1), "{what}");
    }
    let large = produce(&mut client, "small", 0, batch(&["x".repeat(200).as_str()])).await;
    assert_eq!(large.error_code, ErrorCode::MessageTooLarge.code());
    assert_eq!(write(&mut client, "t", 0, good).await, 0, "nothing of it was written");
    server.clock.step_wall(-7_200_000);
    let early = produce(&mut client, "t", 0, batch(&["from the future"])).await;
    assert_eq!(early.error_code, ErrorCode::InvalidTimestamp.code());
}

/// Whose clock a timestamp is and which is the largest is the broker's to say: Kafka corrects both, and refuses a
/// claim of the broker's clock only where there is no timestamp or the topic's clock is the broker's.
#[tokio::test]
async fn the_header_of_a_batch_is_made_true() {
    const ATTRIBUTES: usize = 22;
    const MAX_TIMESTAMP: usize = 35;
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    server.topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut client = server.client().await;
    let good = batch(&["a", "b"]);
    let largest = BatchView::split_from(&mut good.clone()).unwrap().header.max_timestamp;
    let with = |edit: &dyn Fn(&mut BytesMut)| {
        let mut bytes = BytesMut::from(&good[..]);
        edit(&mut bytes);
        set_crc(&mut bytes);
        bytes.freeze()
    };
    let lying = |timestamp: i64| {
        with(&|bytes| bytes[MAX_TIMESTAMP..MAX_TIMESTAMP + 8].copy_from_slice(&timestamp.to_be_bytes()))
    };
    let claiming = with(&|bytes| bytes[ATTRIBUTES] |= 8);
    let wrong = [lying(largest - 8 * 86_400_000), lying(largest + 86_400_000), lying(-1), claiming.clone()];
    for (bytes, at) in wrong.into_iter().zip(0..) {
        assert_eq!(write(&mut client, "t", 0, bytes).await, at * 2);
    }
    for stored in batches(&fetch(&mut client, "t", 0, 0).await) {
        stored.verify_crc().unwrap();
        let header = stored.header;
        assert_eq!((header.max_timestamp, header.attributes), (largest, 0), "at {}", header.base_offset);
    }
    let nothing = with(&|bytes| {
        bytes[ATTRIBUTES] |= 8;
        bytes[MAX_TIMESTAMP..MAX_TIMESTAMP + 8].copy_from_slice(&(-1_i64).to_be_bytes());
    });
    for (topic, bytes) in [("t", nothing), ("stamped", claiming)] {
        let refused = produce(&mut client, topic, 0, bytes).await;
        assert_eq!(refused.error_code, ErrorCode::InvalidTimestamp.code(), "{topic}");
    }
}

/// A batch must fit into a segment, although there are none here: clients see what Kafka would answer.
#[tokio::test]
async fn a_batch_larger_than_a_segment_is_refused() {
    let server = Server::start().await;
    server.topic("t", 1, &[("segment.bytes", "1048576"), ("max.message.bytes", "3000000")]).await;
    let mut client = server.client().await;
    let large = produce(&mut client, "t", 0, batch(&["x".repeat(1_048_576).as_str()])).await;
    assert_eq!(large.error_code, ErrorCode::RecordListTooLarge.code(), "{:?}", large.error_message);
    assert_eq!(write(&mut client, "t", 0, batch(&["x".repeat(1_048_000).as_str()])).await, 0);
}

/// What a wrong clock has seen does not count once it is right: producers are judged by the time it is.
#[tokio::test]
async fn a_corrected_clock_refuses_nothing() {
    let server = Server::start().await;
    server.topic("t", 1, &[("message.timestamp.before.max.ms", "60000")]).await;
    let mut client = server.client().await;
    assert_eq!(write(&mut client, "t", 0, batch(&["a"])).await, 0);
    for by in [-7_200_000, 7_200_000] {
        server.clock.step_wall(by);
        let refused = produce(&mut client, "t", 0, batch(&["wrong"])).await;
        assert_eq!(refused.error_code, ErrorCode::InvalidTimestamp.code(), "{by}");
        server.clock.step_wall(-by);
        assert_eq!(produce(&mut client, "t", 0, batch(&["right"])).await.error_code, 0, "{by}");
    }
}

#[tokio::test]
async fn every_partition_of_a_request_has_its_own_answer() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    let mut client = server.client().await;
    let mut request = produce_request("t", 1, -1, batch(&["a"]));
    for (topic, partition) in [("t", 0), ("t", 2), ("t", -1), ("nowhere", 0)] {
        request.topic_data.extend(produce_request(topic, partition, -1, batch(&["b"])).topic_data);
    }
    let response = client.call(NAMED, &request).await;
    let codes = response.responses.iter().map(|topic| topic.partition_responses[0].error_code);
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(codes.collect::<Vec<_>>(), [0, 0, unknown, unknown, unknown]);

    let mut by_id = ProduceRequest { topic_data: request.topic_data[..1].to_vec(), ..request };
    by_id.topic_data[0].name = name("");
    let stranger = client.call(13, &by_id).await;
    assert_eq!(stranger.responses[0].partition_responses[0].error_code, ErrorCode::UnknownTopicId.code());
    by_id.topic_data[0].topic_id = server.topic_id("t");
    let known = client.call(13, &by_id).await;
    assert_eq!(known.responses[0].partition_responses[0].base_offset, 1);
}

#[tokio::test]
async fn metadata_makes_topics_only_if_it_may() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let wanted = |name: &str| ferrymq_kafka_codec::messages::metadata::MetadataRequestTopic {
        name: Some(super::support::name(name)),
        ..Default::default()
    };
    let asking = |name: &str, allow| MetadataRequest {
        topics: Some(vec![wanted(name)]),
        allow_auto_topic_creation: allow,
        ..Default::default()
    };
    let refused = client.call(9, &asking("new", false)).await;
    assert_eq!(refused.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
    let made = client.call(9, &asking("new", true)).await;
    assert_eq!((made.topics[0].error_code, made.topics[0].partitions.len()), (0, 1));
    let named_badly = client.call(9, &asking("no good", true)).await;
    assert_eq!(named_badly.topics[0].error_code, ErrorCode::InvalidTopicException.code());
    let many = MetadataRequest { topics: Some(vec![wanted("new"); 1000]), ..Default::default() };
    assert_eq!(client.call(9, &many).await.topics.len(), 1, "each topic is told once");
    let all = client.call(9, &MetadataRequest { topics: None, ..Default::default() }).await;
    assert_eq!(all.topics.len(), 1);
    let none = client.call(9, &MetadataRequest { topics: Some(Vec::new()), ..Default::default() }).await;
    assert!(none.topics.is_empty());
}
