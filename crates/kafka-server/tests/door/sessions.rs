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
