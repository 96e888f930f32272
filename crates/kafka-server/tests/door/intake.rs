//! Requests that arrive slowly, in part or not at all, and what they must not hold up.

use std::time::Duration;

use bytes::Bytes;
use ferrymq_kafka_codec::messages::MetadataRequest;
use futures_util::future::join_all;

use super::records::{NAMED, batch, produce_request, write};
use super::support::{Client, Options, Server, encode, until};

/// Half of what a client waits for an answer, and more than any of these takes.
const PROMPT: Duration = Duration::from_secs(15);

async fn prompt<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PROMPT, work).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// A produce request of about `bytes`, in batches of at most 900 kB.
fn large(bytes: usize) -> Bytes {
    let value = "x".repeat(bytes.min(900_000));
    let mut request = produce_request("t", 0, -1, batch(&[&value]));
    let one = request.topic_data[0].partition_data[0].clone();
    request.topic_data[0].partition_data.resize(bytes.div_ceil(900_000), one);
    encode(1, NAMED, &request)
}

/// Connections that have each sent `bytes` of a request that never comes whole.
async fn half(server: &Server, count: usize, frame: &Bytes, bytes: usize) -> Vec<Client> {
    let connect = (0..count).map(|_| async {
        let mut client = server.client().await;
        client.raw(&frame[..bytes]).await;
        client
    });
    join_all(connect).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_announced_takes_no_room() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut writer = server.client().await;
    write(&mut writer, "t", 0, batch(&["before"])).await;
    let announced = Bytes::copy_from_slice(&(64 * 1024 * 1024i32).to_be_bytes());
    let announcing = half(&server, 64, &announced, 4).await;
    until("all are connected", || server.open() == 65).await;
    assert_eq!(server.context.budget.in_use(), 0);
    let other = async { server.client().await.call(1, &MetadataRequest::default()).await };
    prompt("another client", other).await;
    prompt("the client that was there", write(&mut writer, "t", 0, batch(&["x"]))).await;
    let frame = large(3_000_000);
    writer.raw(&frame).await;
    assert!(prompt("a large request", writer.answer()).await.is_some());
    // They are not waited for longer than the connection's patience.
    prompt("they are closed", join_all(announcing.into_iter().map(Client::closed))).await;
    drop(writer);
    server.check_alive_and_clean().await;
}

/// More bytes are here, in halves of large requests, than there is room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_leave_room_for_small_ones_and_do_not_block_each_other() {
    let patience = Some(Duration::from_secs(60));
    let server = Server::start_with(Options { patience, ..Default::default() }).await;
    server.topic("t", 1, &[]).await;
    let frame = large(10_000_000);
    // Eight of them take all the room there is for their like, and each needs more.
    let halves = half(&server, 8, &frame, 8_000_000).await;
    let full = server.context.budget.capacity() / 2;
    until("the lane for long requests is full", || server.context.budget.in_use() >= full).await;
    // Small and short ones have room of their own.
    let mut other = server.client().await;
    prompt("a small request", other.call(1, &MetadataRequest::default())).await;
    prompt("a short one", write(&mut other, "t", 0, batch(&["y".repeat(900_000).as_str()]))).await;
    assert!(server.context.budget.in_use() <= full, "only the long ones hold room");
    // Others come while all of them go on: one after the other can finish.
    let late = half(&server, 6, &frame, 4).await;
    let finish = halves.into_iter().map(|client| (client, 8_000_000));
    let finish = finish.chain(late.into_iter().map(|client| (client, 4))).map(|(mut client, sent)| {
        let rest = frame.slice(sent..);
        async move {
            client.raw(&rest).await;
            client.answer().await.is_some()
        }
    });
    let answered = prompt("all of them", join_all(finish)).await;
    assert_eq!(answered, vec![true; 14]);
    drop(other);
    server.check_alive_and_clean().await;
}
