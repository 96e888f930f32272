//! What the door does not keep yet: each of these fails.

use ferrymq_kafka_codec::messages::MetadataRequest;
use ferrymq_kafka_codec::messages::fetch::FetchRequest;

use super::records::{NAMED, batch, fetch_request, produce_request, told, write};
use super::support::{Server, encode, until};

/// A partition that was quiet when the session began is never looked at while others have enough.
#[tokio::test]
async fn no_partition_of_a_session_starves() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    let mut client = server.client().await;
    write(&mut client, "t", 0, batch(&["always"])).await;
    let request = FetchRequest { session_epoch: 0, ..fetch_request("t", &[(0, 0), (1, 0)]) };
    let id = client.call(NAMED, &request).await.session_id;
    write(&mut client, "t", 1, batch(&["new"])).await;
    let mut seen = false;
    for epoch in 1..10 {
        // The consumer stays where it is on partition 0, as one that is busy or paused does.
        let mut next = FetchRequest { session_id: id, session_epoch: epoch, ..fetch_request("t", &[]) };
        next.topics.clear();
        next.max_wait_ms = 500;
        seen |= told(&client.call(NAMED, &next).await).iter().any(|(index, bytes)| *index == 1 && *bytes > 0);
    }
    assert!(seen, "the record in partition 1 was never told");
}

/// More requests than the queue holds behind a waiting fetch hide that the client has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_ends_with_its_client() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let waiting = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("t", &[(0, 0)]) };
    client.send(NAMED, &waiting).await;
    let frame = encode(2, 1, &MetadataRequest::default());
    client.raw(&frame.repeat(2000)).await;
    let requests = || server.context.counters.requests_total.load(std::sync::atomic::Ordering::Relaxed);
    until("the queue is full", || requests() > 1024).await;
    client.stream.set_zero_linger().expect("a TCP stream has this option");
    drop(client);
    until("the connection is gone", || server.open() == 0).await;
}

/// Four connections with a waiting fetch and 32 MiB of produce requests behind it take all the room there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_connections_cannot_hold_all_the_room() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    server.topic("quiet", 1, &[]).await;
    let waiting = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("quiet", &[(0, 0)]) };
    let large = encode(2, NAMED, &produce_request("t", 0, -1, batch(&["x".repeat(1_000_000).as_str()])));
    let mut held = Vec::new();
    let tasks = ferrymq_runtime::Tasks::new();
    for _ in 0..5 {
        let mut client = server.client().await;
        client.send(NAMED, &waiting).await;
        let large = large.clone();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(ferrymq_runtime::TaskKind::Background, "greedy client", async move {
            let sending = async {
                for _ in 0..40 {
                    client.raw(&large).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! { () = sending => {}, _ = ended => {} }
        });
        held.push(end);
    }
    until("the room is taken", || server.context.budget.in_use() > 120 * 1024 * 1024).await;
    let mut other = server.client().await;
    let request = MetadataRequest::default();
    let asked = other.call(1, &request);
    let answered = tokio::time::timeout(std::time::Duration::from_secs(5), asked).await;
    drop(held);
    assert!(answered.is_ok(), "nobody else is served");
}
