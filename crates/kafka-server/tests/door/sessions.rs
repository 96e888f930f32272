//! Incremental fetch sessions (KIP-227): only what changed is told.

use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::fetch::{FetchRequest, ForgottenTopic};

use super::records::{NAMED, batch, fetch_request, told, write};
use super::support::{Client, Server, name};

/// Opens a session that follows three partitions.
async fn open(client: &mut Client) -> i32 {
    let request = FetchRequest { session_epoch: 0, ..fetch_request("t", &[(0, 0), (1, 0), (2, 0)]) };
    let response = client.call(NAMED, &request).await;
    assert_eq!(response.error_code, 0);
    assert_ne!(response.session_id, 0);
    assert_eq!(told(&response), [(0, 0), (1, 0), (2, 0)], "the first answer is full");
    response.session_id
}

/// The next request of a session, which waits until there is something to tell.
fn waiting(session_id: i32, session_epoch: i32) -> FetchRequest {
    FetchRequest { max_wait_ms: i32::MAX, ..next(session_id, session_epoch, &[]) }
}

fn next(session_id: i32, session_epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let mut request = FetchRequest { session_id, session_epoch, ..fetch_request("t", partitions) };
    if partitions.is_empty() {
        request.topics.clear();
    }
    request
}

#[tokio::test]
async fn a_session_tells_only_what_changed() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let id = open(&mut client).await;
    let quiet = client.call(NAMED, &next(id, 1, &[])).await;
    assert_eq!((quiet.error_code, quiet.session_id), (0, id));
    assert!(told(&quiet).is_empty());
    let size = batch(&["a"]).len();
    write(&mut client, "t", 1, batch(&["a"])).await;
    assert_eq!(told(&client.call(NAMED, &waiting(id, 2)).await), [(1, size)]);
    // The consumer has not moved on: it is told again.
    assert_eq!(told(&client.call(NAMED, &next(id, 3, &[])).await), [(1, size)]);
    assert!(told(&client.call(NAMED, &next(id, 4, &[(1, 1)])).await).is_empty());
    write(&mut client, "t", 2, batch(&["a"])).await;
    let forgetting = FetchRequest {
        forgotten_topics_data: vec![ForgottenTopic {
            topic: name("t"),
            partitions: vec![2],
            ..Default::default()
        }],
        ..next(id, 5, &[])
    };
    assert!(told(&client.call(NAMED, &forgetting).await).is_empty());
    server.context.broker.delete_topic("t").await.unwrap();
    let gone = client.call(NAMED, &waiting(id, 6)).await;
    let codes = gone.responses.iter().flat_map(|topic| &topic.partitions).map(|data| data.error_code);
    assert_eq!(codes.collect::<Vec<_>>(), [ErrorCode::UnknownTopicOrPartition.code(); 2]);
}

#[tokio::test]
async fn what_did_not_fit_comes_first_in_the_next_answer() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let id = open(&mut client).await;
    let size = batch(&["a"]).len();
    for partition in 0..3 {
        write(&mut client, "t", partition, batch(&["a"])).await;
    }
    let tight = |request| FetchRequest { max_bytes: i32::try_from(2 * size).unwrap() - 1, ..request };
    assert_eq!(told(&client.call(NAMED, &tight(next(id, 1, &[]))).await), [(0, size)]);
    assert_eq!(told(&client.call(NAMED, &tight(next(id, 2, &[(0, 1)]))).await), [(1, size)]);
    assert_eq!(told(&client.call(NAMED, &tight(next(id, 3, &[(1, 1)]))).await), [(2, size)]);
}

#[tokio::test]
async fn sessions_that_do_not_fit_are_refused() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let id = open(&mut client).await;
    let code = |response: ferrymq_kafka_codec::messages::FetchResponse| {
        ErrorCode::from_code(response.error_code).unwrap()
    };
    assert_eq!(code(client.call(NAMED, &next(id, 2, &[])).await), ErrorCode::InvalidFetchSessionEpoch);
    assert_eq!(code(client.call(NAMED, &next(id + 1, 1, &[])).await), ErrorCode::FetchSessionIdNotFound);
    let by_id = FetchRequest { topics: Vec::new(), ..next(id, 1, &[]) };
    assert_eq!(code(client.call(13, &by_id).await), ErrorCode::FetchSessionTopicIdError);
    assert_eq!(code(client.call(NAMED, &next(id, 1, &[])).await), ErrorCode::None, "none of it harmed it");
    // A session ends when its consumer says so.
    let closing = client.call(NAMED, &next(id, -1, &[])).await;
    assert_eq!((closing.error_code, closing.session_id), (0, 0));
    assert_eq!(code(client.call(NAMED, &next(id, 2, &[])).await), ErrorCode::FetchSessionIdNotFound);
    // Others cannot go on with it.
    let id = open(&mut client).await;
    let mut other = server.client().await;
    assert_eq!(code(other.call(NAMED, &next(id, 1, &[])).await), ErrorCode::FetchSessionIdNotFound);
}

#[tokio::test]
async fn a_full_answer_goes_on_with_the_partitions_it_left_out() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let size = batch(&["a"]).len();
    for partition in 0..3 {
        write(&mut client, "t", partition, batch(&["a"])).await;
    }
    let mut request = FetchRequest { session_epoch: 0, ..fetch_request("t", &[(0, 0), (1, 0), (2, 0)]) };
    request.max_bytes = 1;
    let first = client.call(NAMED, &request).await;
    assert_eq!(told(&first), [(0, size), (1, 0), (2, 0)]);
    let mut seen = Vec::new();
    for epoch in 1..3 {
        let moved = if epoch == 1 { 0 } else { 1 };
        let request = FetchRequest { max_bytes: 1, ..next(first.session_id, epoch, &[(moved, 1)]) };
        let response = client.call(NAMED, &request).await;
        seen.extend(told(&response).into_iter().filter(|(_, bytes)| *bytes > 0));
    }
    assert_eq!(seen, [(1, size), (2, size)], "nobody starves");
}

/// A full answer does not look at all the others in vain, and they are told all the same.
#[tokio::test]
async fn of_many_partitions_that_do_not_fit_none_is_forgotten() {
    const PARTITIONS: u8 = 100;
    let server = Server::start().await;
    server.topic("t", PARTITIONS.into(), &[]).await;
    let mut client = server.client().await;
    let size = batch(&["a"]).len();
    for partition in 0..i32::from(PARTITIONS) {
        write(&mut client, "t", partition, batch(&["a"])).await;
    }
    let all: Vec<_> = (0..i32::from(PARTITIONS)).map(|partition| (partition, 0)).collect();
    let tight = |request| FetchRequest { max_bytes: i32::try_from(2 * size).unwrap() - 1, ..request };
    let first = FetchRequest { session_epoch: 0, ..fetch_request("t", &all) };
    let mut response = client.call(NAMED, &tight(first)).await;
    for partition in 0..i32::from(PARTITIONS) {
        let with_records: Vec<_> = told(&response).into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        assert_eq!(with_records, [(partition, size)]);
        let request = next(response.session_id, partition + 1, &[(partition, 1)]);
        response = client.call(NAMED, &tight(request)).await;
    }
    assert!(told(&response).is_empty());
}

/// A partition whose batch never fits beside others is the first in its turn.
#[tokio::test]
async fn a_batch_that_never_fits_beside_others_gets_its_turn() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let (small, large) = (batch(&["a"]), batch(&["x".repeat(1000).as_str()]));
    for (partition, bytes) in [(0, &small), (1, &large), (2, &small)] {
        write(&mut client, "t", partition, bytes.clone()).await;
    }
    let mut request = FetchRequest { session_epoch: 0, ..fetch_request("t", &[(0, 0), (1, 0), (2, 0)]) };
    for partition in &mut request.topics[0].partitions {
        partition.partition_max_bytes = 500;
    }
    let first = client.call(NAMED, &request).await;
    assert_eq!(told(&first), [(0, small.len()), (1, 0), (2, small.len())]);
    let second = client.call(NAMED, &next(first.session_id, 1, &[])).await;
    assert_eq!(told(&second), [(0, small.len()), (1, large.len()), (2, small.len())]);
}

/// What a session remembers is bounded: of partitions that are not there, of all, and over all sessions.
#[tokio::test]
async fn sessions_that_would_remember_too_much_are_not_made() {
    let server = Server::start().await;
    server.topic("t", 20_000, &[]).await;
    let mut client = server.client().await;
    let of = |from: i32, count: i32| (from..from + count).map(|at| (at, 0)).collect::<Vec<_>>();
    let first =
        |partitions: &[(i32, i64)]| FetchRequest { session_epoch: 0, ..fetch_request("t", partitions) };
    let unknown = client.call(NAMED, &first(&of(20_000, 1001))).await;
    assert_eq!((unknown.error_code, unknown.session_id), (0, 0));
    assert_eq!(told(&unknown).len(), 1001, "it is answered all the same");
    assert_eq!(server.context.sessions.in_use(), 0);
    let small = client.call(NAMED, &first(&of(19_999, 2))).await;
    assert_ne!(small.session_id, 0, "a partition that is not there yet may be waited for");
    // A session that grows too large is over, and the client is told.
    let grown = client.call(NAMED, &next(small.session_id, 1, &of(30_000, 1000))).await;
    assert_eq!(grown.error_code, ErrorCode::FetchSessionIdNotFound.code());
    assert_eq!(server.context.sessions.in_use(), 0);
    // Many sessions share what there is: who comes later fetches without one.
    let mut clients = Vec::new();
    let mut sessions = 0;
    for _ in 0..15 {
        let mut client = server.client().await;
        let response = client.call(NAMED, &first(&of(0, 20_000))).await;
        assert_eq!((response.error_code, told(&response).len()), (0, 20_000));
        sessions += usize::from(response.session_id != 0);
        clients.push(client);
    }
    assert_eq!(sessions, 13, "262,144 partitions in all");
    assert!(server.context.sessions.free() < 20_000 * 512);
    drop((client, clients));
    server.check_alive_and_clean().await;
    assert_eq!(server.context.sessions.in_use(), 0);
}
