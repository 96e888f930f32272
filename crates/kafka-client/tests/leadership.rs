//! Partitions change their leader: a producer that nothing else wakes up, questions that go to leaders.
//!
//! Deliberately absent: real brokers that are killed; `crates/ferrymq/tests/several.rs` and `scripts/three-brokers` do that.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferrymq_kafka_client::connection::FrameReader;
use ferrymq_kafka_client::{Client, ClientConfig, OffsetSpec, Producer, ProducerConfig, ProducerRecord};
use ferrymq_kafka_codec::messages::api_versions::ApiVersion;
use ferrymq_kafka_codec::messages::list_offsets::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use ferrymq_kafka_codec::messages::metadata::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use ferrymq_kafka_codec::messages::produce::{PartitionProduceResponse, TopicProduceResponse};
use ferrymq_kafka_codec::messages::{
    ApiVersionsResponse, ListOffsetsResponse, MetadataResponse, ProduceResponse,
};
use ferrymq_kafka_codec::{ApiKey, Decoder, Frame, RequestHeader, StrBytes};
use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

/// Nobody listens there.
const DEAD: (&str, i32) = ("127.0.0.1", 1);
const DEAD_ID: i32 = 2;

fn versions() -> ApiVersionsResponse {
    let known =
        [(ApiKey::ApiVersions, 3), (ApiKey::Metadata, 9), (ApiKey::Produce, 9), (ApiKey::ListOffsets, 5)];
    let api =
        |(key, max_version): (ApiKey, i16)| ApiVersion { api_key: key.id(), min_version: 0, max_version };
    ApiVersionsResponse { api_keys: known.map(api).to_vec(), ..ApiVersionsResponse::default() }
}

fn metadata(alive: (i32, i32), leader_id: i32) -> MetadataResponse {
    let broker = |node_id, (host, port): (&'static str, i32)| MetadataResponseBroker {
        node_id,
        host: StrBytes::from_static(host),
        port,
        ..MetadataResponseBroker::default()
    };
    let partition = MetadataResponsePartition { leader_id, ..MetadataResponsePartition::default() };
    let topic = MetadataResponseTopic {
        name: Some(StrBytes::from_static("t")),
        partitions: vec![partition],
        ..MetadataResponseTopic::default()
    };
    MetadataResponse {
        brokers: vec![broker(alive.0, ("127.0.0.1", alive.1)), broker(DEAD_ID, DEAD)],
        topics: vec![topic],
        ..MetadataResponse::default()
    }
}

fn produced() -> ProduceResponse {
    let partition = PartitionProduceResponse { base_offset: 7, ..PartitionProduceResponse::default() };
    let topic = TopicProduceResponse {
        name: StrBytes::from_static("t"),
        partition_responses: vec![partition],
        ..Default::default()
    };
    ProduceResponse { responses: vec![topic], ..ProduceResponse::default() }
}

fn looked_up() -> ListOffsetsResponse {
    let partitions = vec![ListOffsetsPartitionResponse { offset: 9, ..Default::default() }];
    let topic = ListOffsetsTopicResponse { name: StrBytes::from_static("t"), partitions };
    ListOffsetsResponse { topics: vec![topic], ..ListOffsetsResponse::default() }
}

/// Serves one connection of the broker that lives; the dead one leads in the first `dead_for` answers about who leads.
async fn serve(mut stream: TcpStream, alive: (i32, i32), told: Arc<AtomicUsize>, dead_for: usize) {
    let mut frames = FrameReader::default();
    while let Ok(Some(frame)) = frames.next(&mut stream).await {
        let header = RequestHeader::decode(&mut Decoder::new(&frame)).unwrap();
        let (id, version) = (header.correlation_id, header.api_version);
        let answer = match header.api().unwrap() {
            ApiKey::ApiVersions => Frame::response(id, version, &versions()),
            ApiKey::Metadata => {
                let dead = told.fetch_add(1, Ordering::Relaxed) < dead_for;
                Frame::response(id, version, &metadata(alive, if dead { DEAD_ID } else { alive.0 }))
            }
            ApiKey::Produce => Frame::response(id, version, &produced()),
            ApiKey::ListOffsets => Frame::response(id, version, &looked_up()),
            other => panic!("{other:?} was not to be asked"),
        };
        stream.write_all(&answer.unwrap().to_bytes()).await.unwrap();
    }
}

/// A client of one broker that lives, beside one that does not.
async fn client(tasks: &Tasks, alive_id: i32, dead_for: usize) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, serving) = (Arc::new(AtomicUsize::new(0)), tasks.clone());
    tasks.spawn(TaskKind::Background, "broker", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = serve(stream, (alive_id, address.port().into()), told.clone(), dead_for);
            serving.spawn(TaskKind::Connection, "connection", served);
        }
    });
    let config = ClientConfig { patience: Duration::from_secs(5), ..ClientConfig::new(&address.to_string()) };
    Client::connect(config, Clock::system(), Rng::seeded(1), tasks.clone()).await.unwrap()
}

async fn produces_although_the_leader_moves_to(alive_id: i32, dead_for: usize) {
    let tasks = Tasks::new();
    let client = client(&tasks, alive_id, dead_for).await;
    let mut producer = Producer::new(&client, "t", ProducerConfig::default(), None).await.unwrap();
    producer.send(&ProducerRecord { value: Some(b"v"), ..ProducerRecord::default() }).await.unwrap();
    // The sender has seen the record and waits for its linger: from here on `flush` alone wakes it, once.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let report = tokio::time::timeout(Duration::from_secs(20), producer.flush()).await;
    let report = report.expect("what was sent went nowhere, and nobody said so");
    assert_eq!((report.acked_records, report.failed_records), (1, 0), "{report:?}");
    tasks.stop();
}

#[tokio::test]
async fn a_leader_that_nobody_had_led_before_is_sent_to() {
    produces_although_the_leader_moves_to(3, 1).await;
    produces_although_the_leader_moves_to(3, 3).await;
}

#[tokio::test]
async fn a_leader_whose_turn_was_before_is_sent_to() {
    produces_although_the_leader_moves_to(1, 2).await;
}

#[tokio::test]
async fn offsets_are_asked_of_the_next_leader() {
    let tasks = Tasks::new();
    let client = client(&tasks, 1, 3).await;
    let found = client.offsets("t", &[0], OffsetSpec::Latest).await.unwrap();
    assert_eq!(found[&0].offset, Some(9));
    tasks.stop();
}
