//! Requests that are legal and much work: others are served while it is done.
//!
//! All of this runs on one thread, so that whoever does not let others get on holds up everybody: the test too.

use bytes::Bytes;
use ferrymq_kafka_codec::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use ferrymq_kafka_codec::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use ferrymq_kafka_codec::messages::{FetchRequest, MetadataRequest};
use ferrymq_types::{BatchBuilder, Compression};

use super::records::{NAMED, batch, fetch_request, write};
use super::support::{Client, START_MS, Server, name};

/// Whether the answer to a request that was sent has begun to come.
fn answered(client: &Client) -> bool {
    client.stream.try_read(&mut [0]).is_ok()
}

/// Others are answered while `busy` is not: what it asked is being worked on.
async fn others_get_on(server: &Server, busy: &Client, what: &str) {
    let mut other = server.client().await;
    for _ in 0..3 {
        other.call(1, &MetadataRequest { topics: Some(Vec::new()), ..Default::default() }).await;
        assert!(!answered(busy), "{what} held up another client, or was no work");
    }
}

/// A batch of a few kilobytes that decompresses to 60 MiB.
fn bomb() -> Bytes {
    let mut builder = BatchBuilder::new(START_MS);
    let value = vec![0; 20 << 20];
    for at in 0..3 {
        builder.push(START_MS + at, None, Some(&value), &[]);
    }
    let compress = |bytes: &[u8]| ferrymq_compress::compress(Compression::Gzip, bytes);
    builder.build_compressed(Compression::Gzip, compress).expect("it compresses")
}

#[tokio::test]
async fn batches_are_opened_aside() {
    let server = Server::start().await;
    server.topic("t", 8, &[]).await;
    let mut client = server.client().await;
    let bomb = bomb();
    for partition in 0..8 {
        write(&mut client, "t", partition, bomb.clone()).await;
    }
    let request = |timestamp| {
        let wanted =
            |partition_index| ListOffsetsPartition { partition_index, timestamp, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: name("t"), partitions: (0..8).map(wanted).collect() }];
        ListOffsetsRequest { topics, ..Default::default() }
    };
    // The newest record is the last.
    client.send(9, &request(-3)).await;
    others_get_on(&server, &client, "opening batches").await;
    assert!(client.answer().await.is_some());
    let found = client.call(9, &request(START_MS + 1)).await;
    let offsets: Vec<i64> = found.topics[0].partitions.iter().map(|one| one.offset).collect();
    assert_eq!(offsets, [1; 8]);
}

#[tokio::test]
async fn a_hundred_thousand_look_ups_take_turns() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let server = server.restart().await.restart().await;
    let mut client = server.client().await;
    for _ in 0..100 {
        write(&mut client, "t", 0, batch(&["x"])).await;
    }
    let one = OffsetForLeaderPartition { partition: 0, current_leader_epoch: -1, leader_epoch: 1 };
    let topics = vec![OffsetForLeaderTopic { topic: name("t"), partitions: vec![one; 100_000] }];
    client.send(4, &OffsetForLeaderEpochRequest { topics, ..Default::default() }).await;
    others_get_on(&server, &client, "looking up epochs").await;
    assert!(client.answer().await.is_some());
}

#[tokio::test]
async fn a_fetch_of_many_partitions_takes_turns() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let partitions: Vec<_> = (0..60_000).map(|at| (at, 0)).collect();
    let request = FetchRequest { session_epoch: 0, ..fetch_request("t", &partitions) };
    client.send(NAMED, &request).await;
    others_get_on(&server, &client, "a fetch").await;
    assert!(client.answer().await.is_some());
}
