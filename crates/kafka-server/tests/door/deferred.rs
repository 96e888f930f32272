//! Answers whose records are read while they go out: every record comes once, memory stays small, and what goes away
//! meanwhile is a batch that was cut off.

use std::sync::atomic::Ordering;

use bytes::{Buf as _, Bytes};
use ferrymq_kafka_codec::messages::FetchResponse;
use ferrymq_kafka_codec::messages::fetch::PartitionData;
use ferrymq_kafka_codec::{ApiKey, ErrorCode, ResponseKind};
use ferrymq_types::{BatchView, Offset};

use super::records::{NAMED, batch, bytes_of, fetch, fetch_request, told, values, write};
use super::support::{Client, Server, until};

const BATCHES: usize = 150;

/// Three partitions of batches of some `bytes` each.
async fn filled(server: &Server, batches: usize, bytes: usize) -> Client {
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    for number in 0..batches {
        for partition in 0..3 {
            let value = format!("{partition} {number} {}", "x".repeat(bytes));
            write(&mut client, "t", partition, batch(&[&value])).await;
        }
    }
    client
}

/// Room that answers hold.
fn held(server: &Server) -> usize {
    server.context.answers.in_use()
}

#[tokio::test]
async fn a_consumer_that_is_behind_gets_every_record_once() {
    let server = Server::start().await;
    filled(&server, BATCHES, 10_000).await;
    // Below what is deferred, about it, and all of it.
    for bytes_max in [100_000, 190_000, 200_000, 400_000, 1_300_000, 10_000_000] {
        let mut client = server.client().await;
        let mut positions = vec![(0, 0), (1, 0), (2, 0)];
        let mut seen = [0usize; 3];
        while positions.iter().any(|(_, at)| *at < BATCHES as i64) {
            let mut request = fetch_request("t", &positions);
            request.max_bytes = bytes_max;
            let response = client.call(NAMED, &request).await;
            let bytes: usize = told(&response).iter().map(|(_, bytes)| bytes).sum();
            assert!(bytes > 0 && bytes <= usize::try_from(bytes_max).unwrap());
            for data in &response.responses[0].partitions {
                assert_eq!(data.error_code, 0);
                let at = positions.iter().position(|(index, _)| *index == data.partition_index).unwrap();
                for (offset, value) in values(data) {
                    let number = &mut seen[usize::try_from(data.partition_index).unwrap()];
                    assert!(value.starts_with(&format!("{} {number} ", data.partition_index)));
                    assert_eq!(offset, *number as i64);
                    *number += 1;
                    positions[at].1 = offset + 1;
                }
                if !bytes_of(data).is_empty() {
                    let moved = positions.remove(at);
                    positions.push(moved);
                }
            }
        }
        assert_eq!(seen, [BATCHES; 3], "{bytes_max}");
    }
    until("the room is free again", || held(&server) == 0).await;
}

/// A request for all there is, whose answer of 24 MiB is on its way and not taken.
async fn asked(server: &Server) -> Client {
    let mut client = server.client().await;
    let mut request = fetch_request("t", &[(0, 0), (1, 0), (2, 0)]);
    request.topics[0].partitions.iter_mut().for_each(|wanted| wanted.partition_max_bytes = 50 << 20);
    let before = server.context.counters.bytes_out_total.load(Ordering::Relaxed);
    client.send(NAMED, &request).await;
    let sent = || server.context.counters.bytes_out_total.load(Ordering::Relaxed) - before;
    until("the answer goes out", || sent() > 10_000_000).await;
    client
}

async fn answered(client: &mut Client) -> FetchResponse {
    match client.receive(ApiKey::Fetch, NAMED).await {
        Some(ResponseKind::Fetch(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_takes_little_memory() {
    let server = Server::start().await;
    filled(&server, 80, 100_000).await;
    let mut client = asked(&server).await;
    assert!((100_000..1 << 20).contains(&held(&server)), "{} bytes are held", held(&server));
    let response = answered(&mut client).await;
    assert!(response.responses[0].partitions.iter().all(|data| values(data).len() == 80));
    until("the room is free again", || held(&server) == 0).await;
}

/// The whole batches at the front, and whether they are all.
fn whole(data: &PartitionData) -> (Vec<i64>, bool) {
    let mut rest: Bytes = bytes_of(data);
    let mut offsets = Vec::new();
    while rest.len() >= 17 {
        let length = usize::try_from((&rest[8..12]).get_i32()).expect("a length");
        if length > rest.len() - 12 {
            assert_eq!(rest[16], 2, "a cut batch names the format that clients know");
            assert_eq!((&rest[..8]).get_i64(), offsets.last().expect("whole batches come first") + 1);
            assert!(rest[17..].iter().all(|byte| *byte == 0), "nothing of what went is sent");
            return (offsets, false);
        }
        let batch = BatchView::split_from(&mut rest).expect("a batch");
        batch.verify_crc().expect("as it was stored");
        offsets.push(batch.header.base_offset);
    }
    assert!(rest.is_empty());
    (offsets, true)
}

#[tokio::test]
async fn what_goes_away_meanwhile_is_a_batch_that_was_cut_off() {
    let server = Server::start().await;
    filled(&server, 80, 100_000).await;
    let mut client = asked(&server).await;
    let partition = server.context.broker.topics().partition("t", 2).unwrap();
    server.context.broker.trim(&partition, Offset(80)).await.unwrap();
    let response = answered(&mut client).await;
    let partitions = &response.responses[0].partitions;
    assert_eq!(whole(&partitions[0]), ((0..80).collect(), true));
    let (offsets, is_whole) = whole(&partitions[2]);
    assert!(!is_whole && !offsets.is_empty() && offsets.len() < 80, "{offsets:?}");
    assert_eq!(offsets, (0..offsets.len() as i64).collect::<Vec<_>>());
    // It asks again from where it was cut off, and is told.
    let data = fetch(&mut client, "t", 2, offsets.len() as i64).await;
    assert_eq!(data.error_code, ErrorCode::OffsetOutOfRange.code());

    // So it is when the topic goes.
    let mut client = asked(&server).await;
    server.context.broker.delete_topic("t").await.unwrap();
    let response = answered(&mut client).await;
    assert!(response.responses[0].partitions.iter().any(|data| !whole(data).1));
    until("the room is free again", || held(&server) == 0).await;
}
