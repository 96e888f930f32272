//! Reading ahead: a consumer that is behind gets the same records as one whose every fetch is its first.

use ferrymq_kafka_codec::messages::FetchResponse;
use ferrymq_types::Offset;

use super::records::{NAMED, batch, bytes_of, fetch, fetch_request, told, values, write};
use super::support::{Client, Server, until};

/// Batches of some 10 KiB in each partition.
const BATCHES: usize = 150;

async fn filled(server: &Server) -> Client {
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    for number in 0..BATCHES {
        for partition in 0..3 {
            let value = format!("{partition} {number} {}", "x".repeat(10_000));
            write(&mut client, "t", partition, batch(&[&value])).await;
        }
    }
    client
}

/// Bytes that wait in the server for clients to take or ask for.
fn held(server: &Server) -> usize {
    server.context.answers.capacity() - server.context.answers.free()
}

/// The next fetch of a consumer that asks first for what it got nothing of.
async fn next(client: &mut Client, positions: &[(i32, i64)], bytes_max: i32) -> FetchResponse {
    let mut request = fetch_request("t", positions);
    request.max_bytes = bytes_max;
    client.call(NAMED, &request).await
}

#[tokio::test]
async fn a_consumer_that_is_behind_gets_every_record_once() {
    let server = Server::start().await;
    filled(&server).await;
    let mut client = server.client().await;
    let mut positions = vec![(0, 0), (1, 0), (2, 0)];
    let mut seen = [0usize; 3];
    let mut ahead = 0;
    while positions.iter().any(|(_, at)| *at < BATCHES as i64) {
        let response = next(&mut client, &positions, 400_000).await;
        for data in &response.responses[0].partitions {
            assert_eq!(data.error_code, 0);
            let at = positions.iter().position(|(partition, _)| *partition == data.partition_index).unwrap();
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
        let bytes: usize = told(&response).iter().map(|(_, bytes)| bytes).sum();
        if bytes > 256 * 1024 && positions.iter().all(|(_, at)| *at < BATCHES as i64) {
            until("more was read ahead", || held(&server) > 0).await;
            ahead += 1;
        }
    }
    assert_eq!(seen, [BATCHES; 3]);
    assert!(ahead >= 3, "nothing was read ahead");
    until("the room is free again", || held(&server) == 0).await;
}

#[tokio::test]
async fn a_consumer_that_goes_elsewhere_gets_what_is_there() {
    let server = Server::start().await;
    let mut writer = filled(&server).await;
    let mut client = server.client().await;
    let one = bytes_of(&fetch(&mut client, "t", 0, 0).await).len();
    assert!(one > 900_000);
    until("more was read ahead", || held(&server) > 0).await;
    // It goes back, to another partition, and on where that ends.
    for (partition, offset) in [(0, 3), (2, 100), (0, 92), (0, 93)] {
        let data = fetch(&mut client, "t", partition, offset).await;
        let first = values(&data).remove(0);
        assert_eq!(first.0, offset);
        assert!(first.1.starts_with(&format!("{partition} {offset} ")));
    }
    // What is trimmed meanwhile is not answered, read ahead or not.
    let expected = fetch(&mut client, "t", 1, 0).await;
    let end = values(&expected).last().unwrap().0 + 1;
    until("more was read ahead", || held(&server) > 0).await;
    let partition = server.context.broker.topics().partition("t", 1).unwrap();
    server.context.broker.trim(&partition, Offset(BATCHES as u64)).await.unwrap();
    assert_ne!(fetch(&mut client, "t", 1, end).await.error_code, 0);
    // A topic made anew under the same name is another one.
    fetch(&mut client, "t", 0, 0).await;
    until("more was read ahead", || held(&server) > 0).await;
    server.context.broker.delete_topic("t").await.unwrap();
    server.topic("t", 3, &[]).await;
    for number in 0..BATCHES {
        write(&mut writer, "t", 0, batch(&[&format!("new {number}")])).await;
    }
    let data = fetch(&mut client, "t", 0, one as i64 / 10_000).await;
    assert!(values(&data).iter().all(|(_, value)| value.starts_with("new ")));
}

/// Nothing is read ahead for a consumer that has what there is, and nothing is kept for one that stops asking.
#[tokio::test]
async fn what_nobody_asks_for_is_forgotten() {
    let server = Server::start().await;
    filled(&server).await;
    let mut client = server.client().await;
    let request = fetch_request("t", &[(0, 100), (1, 100), (2, 100)]);
    let response = client.call(NAMED, &request).await;
    assert!(told(&response).iter().all(|(_, bytes)| *bytes > 400_000));
    fetch(&mut client, "t", 0, BATCHES as i64).await;
    until("nothing is held for one that has everything", || held(&server) == 0).await;
    fetch(&mut client, "t", 0, 0).await;
    until("more was read ahead", || held(&server) > 0).await;
    until("it is forgotten", || held(&server) == 0).await;
}
