//! Fetch without sessions: whole batches, bounds, waiting.

use ferrymq_kafka_codec::messages::FetchRequest;
use ferrymq_kafka_codec::messages::fetch::FetchTopic;
use ferrymq_kafka_codec::{ApiKey, ErrorCode, ResponseKind};
use ferrymq_types::{Compression, Offset};

use super::records::{NAMED, batch, bytes_of, compressed, fetch, fetch_request, told, values, write};
use super::support::{Client, Options, Server, until};

/// The answer to a fetch that was sent before.
async fn fetched(client: &mut Client) -> ferrymq_kafka_codec::messages::FetchResponse {
    match client.receive(ApiKey::Fetch, NAMED).await {
        Some(ResponseKind::Fetch(response)) => response,
        other => panic!("not an answer to a fetch: {other:?}"),
    }
}

/// How many fetches wait for a partition.
fn waiting(server: &Server, topic: &str) -> usize {
    server.context.broker.topics().partition(topic, 0).map_or(0, |partition| partition.watchers.live())
}

#[tokio::test]
async fn a_fetch_from_the_middle_of_a_batch_gets_all_of_it() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    write(&mut client, "t", 0, batch(&["a", "b", "c"])).await;
    write(&mut client, "t", 0, compressed(&["d", "e", "f"], Compression::Lz4)).await;
    let offsets = |data| values(&data).into_iter().map(|(offset, _)| offset).collect::<Vec<_>>();
    assert_eq!(offsets(fetch(&mut client, "t", 0, 1).await), [0, 1, 2, 3, 4, 5]);
    assert_eq!(offsets(fetch(&mut client, "t", 0, 4).await), [3, 4, 5]);
    let at_the_end = fetch(&mut client, "t", 0, 6).await;
    assert_eq!((at_the_end.error_code, bytes_of(&at_the_end).len()), (0, 0));
    for beyond in [7, -1, i64::MAX] {
        let data = fetch(&mut client, "t", 0, beyond).await;
        assert_eq!(data.error_code, ErrorCode::OffsetOutOfRange.code());
    }
}

#[tokio::test]
async fn a_trimmed_partition_starts_later() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        write(&mut client, "t", 0, batch(&["a", "b"])).await;
    }
    let partition = server.context.broker.topics().partition("t", 0).unwrap();
    server.context.broker.trim(&partition, Offset(3)).await.unwrap();
    let below = fetch(&mut client, "t", 0, 1).await;
    assert_eq!((below.error_code, below.log_start_offset), (ErrorCode::OffsetOutOfRange.code(), 3));
    let data = fetch(&mut client, "t", 0, 3).await;
    assert_eq!(data.log_start_offset, 3);
    assert_eq!(values(&data).len(), 4, "the batch that holds the start comes whole");
}

#[tokio::test]
async fn the_first_batch_comes_even_if_too_large_and_no_more() {
    let server = Server::start_with(Options { fetch_bytes_max: Some(3000), ..Default::default() }).await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let large = "x".repeat(1000);
    for partition in 0..3 {
        for _ in 0..4 {
            write(&mut client, "t", partition, batch(&[&large])).await;
        }
    }
    let one = bytes_of(&fetch(&mut client, "t", 0, 3).await).len();
    let mut request = fetch_request("t", &[(0, 0), (1, 0), (2, 0)]);
    request.max_bytes = 10;
    let tight = client.call(NAMED, &request).await;
    assert_eq!(told(&tight), [(0, one), (1, 0), (2, 0)]);
    request.max_bytes = i32::MAX;
    let bounded = client.call(NAMED, &request).await;
    let total: usize = told(&bounded).iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(total, 2 * one, "the server's own bound holds");
    request.topics[0].partitions[0].partition_max_bytes = 10;
    request.topics[0].partitions.truncate(1);
    let small = client.call(NAMED, &request).await;
    assert_eq!(told(&small), [(0, one)]);
}

/// Only the first partition with records may exceed a limit, by its first batch; the others stay within both.
#[tokio::test]
async fn limits_are_kept_by_all_but_the_first_batch() {
    let server = Server::start().await;
    server.topic("t", 4, &[]).await;
    let mut client = server.client().await;
    let (small, large) = (batch(&["x"]), batch(&["x".repeat(1000).as_str()]));
    let (s, l) = (small.len(), large.len());
    for (partition, bytes) in [(1, &large), (2, &large), (3, &small)] {
        for _ in 0..3 {
            write(&mut client, "t", partition, bytes.clone()).await;
        }
    }
    let mut request = fetch_request("t", &[(0, 0), (1, 0), (2, 0), (3, 0)]);
    let limit = |bytes: usize| i32::try_from(bytes).unwrap();
    // The total and each partition's limit, and what is told: 0 is empty, 1 the first that has records.
    let cases = [
        (l - 1, l, [0, l, 0, 0]),
        (l, l, [0, l, 0, 0]),
        (l + s, l, [0, l, 0, s]),
        (l + 2 * s + 1, l, [0, l, 0, 2 * s]),
        (3 * l + s - 1, 2 * l + 1, [0, 2 * l, l, 0]),
        (100 * l, l - 1, [0, l, 0, 3 * s]),
        (100 * l, s - 1, [0, l, 0, 0]),
        (100 * l, 2 * l - 1, [0, l, l, 3 * s]),
    ];
    for (total, each, expected) in cases {
        request.max_bytes = limit(total);
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = limit(each);
        }
        let told: Vec<_> =
            told(&client.call(NAMED, &request).await).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(told, expected, "{total} in all, {each} each; a batch has {s} or {l}");
    }
}

#[tokio::test]
async fn a_batch_behind_the_first_comes_only_if_it_fits() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let large = "x".repeat(1000);
    for partition in 0..3 {
        write(&mut client, "t", partition, batch(&[&large])).await;
    }
    let one = bytes_of(&fetch(&mut client, "t", 0, 0).await).len();
    let mut request = fetch_request("t", &[(0, 0), (1, 0), (2, 0)]);
    request.max_bytes = i32::try_from(2 * one).unwrap() - 1;
    assert_eq!(told(&client.call(NAMED, &request).await), [(0, one), (1, 0), (2, 0)]);
    // There is more, only not in this answer: nothing to wait for.
    (request.min_bytes, request.max_wait_ms) = (request.max_bytes, i32::MAX);
    assert_eq!(told(&client.call(NAMED, &request).await), [(0, one), (1, 0), (2, 0)]);
    request.max_bytes = i32::MAX;
    request.topics[0].partitions[1].partition_max_bytes = 10;
    assert_eq!(told(&client.call(NAMED, &request).await), [(0, one), (1, 0), (2, one)]);
}

#[tokio::test]
async fn a_waiting_fetch_is_woken_by_what_it_waits_for() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let (mut reader, mut writer) = (server.client().await, server.client().await);
    let size = i32::try_from(batch(&["a"]).len()).unwrap();
    let request =
        FetchRequest { max_wait_ms: i32::MAX, min_bytes: size + 1, ..fetch_request("t", &[(0, 0)]) };
    reader.send(NAMED, &request).await;
    until("the fetch waits", || waiting(&server, "t") == 1).await;
    write(&mut writer, "t", 0, batch(&["a"])).await;
    // One batch is less than it wants; the second is enough.
    write(&mut writer, "t", 0, batch(&["b"])).await;
    let got = values(&fetched(&mut reader).await.responses[0].partitions[0]);
    assert_eq!(got.into_iter().map(|one| one.1).collect::<Vec<_>>(), ["a", "b"]);
    until("the watch has ended", || waiting(&server, "t") == 0).await;
}

#[tokio::test]
async fn a_fetch_that_waited_long_enough_answers_empty() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let before = server.clock.uptime();
    let request = FetchRequest { max_wait_ms: 20, ..fetch_request("t", &[(0, 0)]) };
    let response = client.call(NAMED, &request).await;
    assert_eq!(told(&response), [(0, 0)]);
    assert!((server.clock.uptime() - before).as_millis() >= 20);
}

#[tokio::test]
async fn a_waiting_fetch_learns_that_its_topic_is_gone() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut reader = server.client().await;
    let request = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("t", &[(0, 0)]) };
    reader.send(NAMED, &request).await;
    until("the fetch waits", || waiting(&server, "t") == 1).await;
    server.context.broker.delete_topic("t").await.unwrap();
    let data = &fetched(&mut reader).await.responses[0].partitions[0];
    assert_eq!(data.error_code, ErrorCode::UnknownTopicOrPartition.code());
}

#[tokio::test]
async fn unknown_topics_and_epochs_are_told() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    assert_eq!(fetch(&mut client, "u", 0, 0).await.error_code, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(fetch(&mut client, "t", 9, 0).await.error_code, ErrorCode::UnknownTopicOrPartition.code());
    // Epoch 0 has none before it.
    let server = server.restart().await;
    let mut client = server.client().await;
    let epoch = server.context.broker.topics().partition("t", 0).unwrap().leader_epoch();
    let mut request = fetch_request("t", &[(0, 0)]);
    let cases = [(epoch - 1, ErrorCode::FencedLeaderEpoch), (epoch, ErrorCode::None)];
    for (believed, code) in cases.into_iter().chain([(epoch + 1, ErrorCode::UnknownLeaderEpoch)]) {
        request.topics[0].partitions[0].current_leader_epoch = believed;
        let response = client.call(NAMED, &request).await;
        assert_eq!(response.responses[0].partitions[0].error_code, code.code(), "{believed}");
    }
    let mut by_id = fetch_request("", &[(0, 0)]);
    by_id.topics[0].topic_id = ferrymq_kafka_codec::Uuid([7; 16]);
    let stranger = client.call(13, &by_id).await;
    assert_eq!(stranger.responses[0].partitions[0].error_code, ErrorCode::UnknownTopicId.code());
    by_id.topics = vec![FetchTopic { topic_id: server.topic_id("t"), ..by_id.topics[0].clone() }];
    assert_eq!(client.call(13, &by_id).await.responses[0].partitions[0].error_code, 0);
}
