//! Clients that wait, and what must not wait for them.

use std::time::Duration;

use ferrymq_kafka_codec::messages::fetch::FetchRequest;
use ferrymq_kafka_codec::messages::join_group::JoinGroupRequestProtocol;
use ferrymq_kafka_codec::messages::{JoinGroupRequest, MetadataRequest};
use futures_util::FutureExt as _;

use super::records::{NAMED, batch, fetch_request, produce_request, told, write};
use super::support::{Options, Server, encode, name, until, within};

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

/// More requests than may wait behind a waiting fetch hide that the client has gone.
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
    until("no more may wait", || requests() >= 256).await;
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
    // More than all the room there is, behind fetches that wait for ever.
    let batches = || server.context.counters.batches_in_total.load(std::sync::atomic::Ordering::Relaxed);
    until("much waits to be answered", || batches() >= 150).await;
    let mut other = server.client().await;
    let request = MetadataRequest::default();
    let asked = other.call(1, &request);
    let answered = tokio::time::timeout(Duration::from_secs(5), asked).await;
    drop(held);
    assert!(answered.is_ok(), "nobody else is served");
}

/// A connection that does nothing is closed; one whose fetch waits is not, nor one that asks now and then.
#[tokio::test]
async fn idle_connections_are_closed_and_waiting_ones_are_not() {
    let idle = Duration::from_millis(200);
    let server = Server::start_with(Options { idle: Some(idle), ..Default::default() }).await;
    server.topic("t", 1, &[]).await;
    let (mut waiting, mut busy) = (server.client().await, server.client().await);
    let fetch = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("t", &[(0, 0)]) };
    waiting.send(NAMED, &fetch).await;
    let (silent, mut asked, mut begun) =
        (server.client().await, server.client().await, server.client().await);
    asked.call(1, &MetadataRequest::default()).await;
    begun.raw(&[0, 0]).await;
    // One of them has never asked anything, one has, one began to.
    let closed = async { tokio::join!(silent.closed(), asked.closed(), begun.closed()) };
    tokio::pin!(closed);
    while closed.as_mut().now_or_never().is_none() {
        busy.call(1, &MetadataRequest::default()).await;
    }
    assert_eq!(server.open(), 2);
    write(&mut busy, "t", 0, batch(&["what it waits for"])).await;
    assert!(waiting.answer().await.is_some());
    within(async { tokio::join!(waiting.closed(), busy.closed()) }).await;
    server.check_alive_and_clean().await;
}

/// Nine connections with a waiting fetch and a join of 16 MiB behind it would take more than all the room there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_behind_a_fetch_takes_no_room_from_others() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    server.topic("quiet", 1, &[]).await;
    let waiting = FetchRequest { max_wait_ms: i32::MAX, ..fetch_request("quiet", &[(0, 0)]) };
    let protocol = JoinGroupRequestProtocol { name: name("range"), metadata: vec![7; 16 << 20].into() };
    let join = JoinGroupRequest {
        group_id: name("g"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: name("consumer"),
        protocols: vec![protocol],
        ..Default::default()
    };
    let join = encode(2, 5, &join);
    let tasks = ferrymq_runtime::Tasks::new();
    for _ in 0..9 {
        let mut client = server.client().await;
        client.send(NAMED, &waiting).await;
        let join = join.clone();
        tasks.spawn(ferrymq_runtime::TaskKind::Background, "greedy client", async move {
            client.raw(&join).await;
            client.closed().await;
        });
    }
    // The door loses its patience with them; until then, and then, others are served.
    let mut other = server.client().await;
    until("all are connected", || server.open() == 10).await;
    let writing = async {
        while server.open() > 1 {
            write(&mut other, "t", 0, batch(&["x"])).await;
        }
    };
    within(writing).await;
}
