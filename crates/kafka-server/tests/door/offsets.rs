//! Where partitions begin and end: ListOffsets, DeleteRecords, OffsetForLeaderEpoch.

use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use ferrymq_kafka_codec::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use ferrymq_kafka_codec::messages::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use ferrymq_types::{BatchBuilder, Compression};

use super::records::{batch, compressed, fetch, write};
use super::support::{Client, START_MS, Server, name};

/// What ListOffsets answers: error, offset, timestamp.
async fn list(client: &mut Client, topic: &str, partition: i32, timestamp: i64) -> (i16, i64, i64) {
    let wanted = ListOffsetsPartition { partition_index: partition, timestamp, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: name(topic), partitions: vec![wanted] }];
    let response = client.call(9, &ListOffsetsRequest { topics, ..Default::default() }).await;
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.offset, answer.timestamp)
}

/// The leader epoch that ListOffsets answers.
async fn epoch_at(client: &mut Client, version: i16, timestamp: i64) -> i32 {
    let wanted = ListOffsetsPartition { timestamp, current_leader_epoch: -1, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: name("t"), partitions: vec![wanted] }];
    let response = client.call(version, &ListOffsetsRequest { topics, ..Default::default() }).await;
    response.topics[0].partitions[0].leader_epoch
}

/// What DeleteRecords answers: error, low watermark.
async fn delete(client: &mut Client, topic: &str, offset: i64) -> (i16, i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
    let topics = vec![DeleteRecordsTopic { name: name(topic), partitions }];
    let response = client.call(2, &DeleteRecordsRequest { topics, ..Default::default() }).await;
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.low_watermark)
}

/// What OffsetForLeaderEpoch answers: error, epoch, end.
async fn end_of(client: &mut Client, topic: &str, current: i32, epoch: i32) -> (i16, i32, i64) {
    let wanted =
        OffsetForLeaderPartition { partition: 0, current_leader_epoch: current, leader_epoch: epoch };
    let topics = vec![OffsetForLeaderTopic { topic: name(topic), partitions: vec![wanted] }];
    let response = client.call(4, &OffsetForLeaderEpochRequest { topics, ..Default::default() }).await;
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.leader_epoch, answer.end_offset)
}

#[tokio::test]
async fn both_ends_and_unknown_partitions() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    assert_eq!(list(&mut client, "t", 0, -1).await, (0, 0, -1));
    assert_eq!(list(&mut client, "t", 0, -3).await, (0, -1, -1), "nothing has a timestamp");
    write(&mut client, "t", 0, batch(&["a", "b", "c"])).await;
    assert_eq!(list(&mut client, "t", 0, -1).await, (0, 3, -1));
    assert_eq!(list(&mut client, "t", 0, -2).await, (0, 0, -1));
    assert_eq!(list(&mut client, "t", 0, -4).await, (0, 0, -1));
    assert_eq!(list(&mut client, "t", 0, -5).await, (0, -1, -1));
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(list(&mut client, "t", 1, -1).await, (unknown, -1, -1));
    assert_eq!(list(&mut client, "u", 0, -1).await, (unknown, -1, -1));
}

#[tokio::test]
async fn an_offset_comes_with_the_epoch_it_was_written_in() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    assert_eq!(epoch_at(&mut client, 9, -2).await, 0, "the next record's");
    write(&mut client, "t", 0, batch(&["a"])).await;
    let server = server.restart().await;
    let mut client = server.client().await;
    let now = server.context.broker.topics().partition("t", 0).unwrap().leader_epoch();
    let mut later = BatchBuilder::new(START_MS + 1000);
    later.push(START_MS + 1000, None, Some(b"b"), &[]);
    write(&mut client, "t", 0, later.build()).await;
    assert!(now > 0, "a new start is a new epoch");
    // The end, the start, a time in the first batch, one in the second, the largest, one behind all.
    let cases = [(-1, now), (-2, 0), (START_MS, 0), (START_MS + 1, now), (-3, now), (START_MS + 1001, -1)];
    for (timestamp, epoch) in cases {
        assert_eq!(epoch_at(&mut client, 9, timestamp).await, epoch, "{timestamp}");
        assert_eq!(epoch_at(&mut client, 3, timestamp.max(-2)).await, -1, "no place for it before version 4");
    }
    assert_eq!(delete(&mut client, "t", 1).await, (0, 1));
    assert_eq!(epoch_at(&mut client, 9, -2).await, now);
    assert_eq!(delete(&mut client, "t", 2).await, (0, 2));
    assert_eq!(epoch_at(&mut client, 9, -2).await, now, "nothing is left");
}

#[tokio::test]
async fn a_partition_named_twice_is_not_looked_up() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    let mut client = server.client().await;
    let wanted =
        |partition_index| ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() };
    let partitions = vec![wanted(0), wanted(1), wanted(0)];
    let topics = vec![ListOffsetsTopic { name: name("t"), partitions }];
    let response = client.call(9, &ListOffsetsRequest { topics, ..Default::default() }).await;
    let codes = response.topics[0].partitions.iter().map(|one| one.error_code);
    let invalid = ErrorCode::InvalidRequest.code();
    assert_eq!(codes.collect::<Vec<_>>(), [invalid, 0, invalid]);
}

/// The store finds the batch over the start by a record that is gone; the one that is there lies further on.
#[tokio::test]
async fn a_time_is_found_behind_a_batch_that_was_cut() {
    let at = |times: &[i64]| {
        let mut builder = BatchBuilder::new(START_MS);
        for time in times {
            builder.push(START_MS + time, None, Some(b"x"), &[]);
        }
        builder.build()
    };
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    for times in [[1000, 0], [100, 200], [900, 300], [900, 950]] {
        write(&mut client, "t", 0, at(&times)).await;
    }
    assert_eq!(delete(&mut client, "t", 1).await, (0, 1));
    for (wanted, offset, time) in [(0, 1, 0), (150, 3, 200), (800, 4, 900), (901, 7, 950)] {
        let found = list(&mut client, "t", 0, START_MS + wanted).await;
        assert_eq!(found, (0, offset, START_MS + time), "{wanted}");
    }
    assert_eq!(list(&mut client, "t", 0, START_MS + 951).await, (0, -1, -1), "there is none any more");
    assert_eq!(list(&mut client, "t", 0, -3).await, (0, 7, START_MS + 950));
    assert_eq!(delete(&mut client, "t", 8).await, (0, 8));
    write(&mut client, "t", 0, at(&[700, 600])).await;
    assert_eq!(delete(&mut client, "t", 9).await, (0, 9));
    assert_eq!(list(&mut client, "t", 0, -3).await, (0, 9, START_MS + 600), "all that is left");
}

#[tokio::test]
async fn a_time_finds_the_very_record_in_compressed_batches_too() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let all =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    for compression in all {
        let topic = compression.name();
        server.topic(topic, 1, &[]).await;
        for base in [0, 1000] {
            // Times do not rise within the batch: 10, 5, 40.
            let mut builder = BatchBuilder::new(START_MS + base);
            for time in [10, 5, 40] {
                builder.push(START_MS + base + time, None, Some(b"x"), &[]);
            }
            let compress = |bytes: &[u8]| ferrymq_compress::compress(compression, bytes);
            let bytes = match compression {
                Compression::None => builder.build(),
                other => builder.build_compressed(other, compress).unwrap(),
            };
            write(&mut client, topic, 0, bytes).await;
        }
        let cases = [(0, 0, 10), (5, 0, 10), (11, 2, 40), (40, 2, 40), (41, 3, 1010), (1011, 5, 1040)];
        for (time, offset, found) in cases {
            let got = list(&mut client, topic, 0, START_MS + time).await;
            assert_eq!(got, (0, offset, START_MS + found), "{topic} at {time}");
        }
        assert_eq!(list(&mut client, topic, 0, START_MS + 1041).await, (0, -1, -1), "{topic}");
        assert_eq!(list(&mut client, topic, 0, -3).await, (0, 5, START_MS + 1040), "{topic}");
        assert_eq!(delete(&mut client, topic, 1).await, (0, 1));
        let got = list(&mut client, topic, 0, START_MS).await;
        assert_eq!(got, (0, 1, START_MS + 5), "{topic}: deleted records are not found");
    }
}

#[tokio::test]
async fn records_are_deleted_up_to_an_offset() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        write(&mut client, "t", 0, batch(&["a", "b"])).await;
    }
    assert_eq!(delete(&mut client, "t", 3).await, (0, 3));
    assert_eq!(list(&mut client, "t", 0, -2).await.1, 3);
    assert_eq!(delete(&mut client, "t", 1).await, (0, 3), "it never goes back");
    let out = ErrorCode::OffsetOutOfRange.code();
    for offset in [7, -2, i64::MIN, i64::MAX] {
        assert_eq!(delete(&mut client, "t", offset).await, (out, -1), "{offset}");
    }
    assert_eq!(delete(&mut client, "t", -1).await, (0, 6), "all of it");
    assert_eq!(fetch(&mut client, "t", 0, 5).await.error_code, out);
    assert_eq!(write(&mut client, "t", 0, batch(&["c"])).await, 6, "offsets go on");
    assert_eq!(delete(&mut client, "u", 0).await, (ErrorCode::UnknownTopicOrPartition.code(), -1));
}

#[tokio::test]
async fn the_end_of_an_epoch_is_found_in_the_log() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    // Epoch 0 has none before it.
    let server = server.restart().await;
    let mut client = server.client().await;
    let partition = server.context.broker.topics().partition("t", 0).unwrap();
    let first = partition.leader_epoch();
    write(&mut client, "t", 0, batch(&["a", "b"])).await;
    assert_eq!(
        end_of(&mut client, "t", -1, first).await,
        (0, first, 2),
        "the present one ends where the log does"
    );
    assert_eq!(end_of(&mut client, "t", -1, first + 1).await, (0, -1, -1), "not there yet");
    assert_eq!(end_of(&mut client, "t", -1, -1).await, (0, -1, -1));
    let fenced = ErrorCode::FencedLeaderEpoch.code();
    assert_eq!(end_of(&mut client, "t", first - 1, first).await, (fenced, -1, -1));
    let unknown = ErrorCode::UnknownLeaderEpoch.code();
    assert_eq!(end_of(&mut client, "t", first + 1, first).await, (unknown, -1, -1));
    assert_eq!(end_of(&mut client, "t", first, first).await, (0, first, 2));
    let nowhere = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!(end_of(&mut client, "u", -1, 0).await, (nowhere, -1, -1));

    let server = server.restart().await.restart().await;
    let mut client = server.client().await;
    let third = server.context.broker.topics().partition("t", 0).unwrap().leader_epoch();
    assert!(third > first + 1, "each start takes the log anew: {first} {third}");
    for _ in 0..3 {
        write(&mut client, "t", 0, compressed(&["c", "d"], Compression::Lz4)).await;
    }
    assert_eq!(end_of(&mut client, "t", -1, first).await, (0, first, 2));
    assert_eq!(end_of(&mut client, "t", -1, first + 1).await, (0, first, 2), "nothing was written in it");
    assert_eq!(end_of(&mut client, "t", -1, third).await, (0, third, 8));
    let server = server.restart().await;
    let mut client = server.client().await;
    assert_eq!(end_of(&mut client, "t", -1, third).await, (0, third, 8));
    assert_eq!(end_of(&mut client, "t", -1, 0).await, (0, 0, 0), "before all of it");
    assert_eq!(delete(&mut client, "t", 5).await, (0, 5));
    assert_eq!(end_of(&mut client, "t", -1, first).await, (0, first, 5), "it is deleted");
}
