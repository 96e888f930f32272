//! Connections against a broker that misbehaves on purpose.
//!
//! Deliberately absent: a broker that behaves; that is what the real ones are for.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::time::Duration;

use ferrymq_kafka_client::connection::{Connection, FrameReader};
use ferrymq_kafka_client::{Client, ClientConfig, ClientError};
use ferrymq_kafka_codec::messages::api_versions::ApiVersion;
use ferrymq_kafka_codec::messages::{ApiVersionsResponse, MetadataRequest};
use ferrymq_kafka_codec::{ApiKey, Decoder, ErrorCode, Frame, RequestHeader};
use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

/// What the broker does with the first Metadata request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Stall,
    WrongCorrelation,
    Garbage,
    HugeFrame,
}

fn api_versions(error_code: i16) -> ApiVersionsResponse {
    let api_keys = vec![ApiVersion { api_key: ApiKey::Metadata.id(), min_version: 0, max_version: 9 }];
    ApiVersionsResponse { error_code, api_keys, ..ApiVersionsResponse::default() }
}

/// A broker that knows ApiVersions up to `newest`, answers it, and then misbehaves. Its address.
async fn broker(tasks: &Tasks, newest: i16, then: Then) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(TaskKind::Background, "broker", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut frames = FrameReader::default();
        while let Ok(Some(frame)) = frames.next(&mut stream).await {
            let header = RequestHeader::decode(&mut Decoder::new(&frame)).unwrap();
            let (id, version) = (header.correlation_id, header.api_version);
            let answer = match (header.api().unwrap(), then) {
                (ApiKey::ApiVersions, _) if version > newest => {
                    Frame::response(id, 0, &api_versions(ErrorCode::UnsupportedVersion.code()))
                        .unwrap()
                        .to_bytes()
                }
                (ApiKey::ApiVersions, _) => {
                    Frame::response(id, version, &api_versions(0)).unwrap().to_bytes()
                }
                (_, Then::Close) => return,
                (_, Then::Stall) => continue,
                (_, Then::WrongCorrelation) => vec![0, 0, 0, 4, 0, 0, 0, 99].into(),
                (_, Then::Garbage) => [&[0, 0, 0, 6][..], &id.to_be_bytes(), &[0xff, 0xff]].concat().into(),
                (_, Then::HugeFrame) => b"HTTP/1.1 400 Bad Request".to_vec().into(),
            };
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

async fn ask(then: Then) -> ClientError {
    let tasks = Tasks::new();
    let address = broker(&tasks, 4, then).await;
    let patience = Duration::from_millis(200);
    let connection = Connection::open(&address, "test", patience, &tasks).await.unwrap();
    let answer = connection.call(&MetadataRequest::default()).await;
    answer.expect_err("the broker misbehaves")
}

#[tokio::test]
async fn misbehaviour_is_an_error_in_time() {
    let check = |error: ClientError, expected: &str| {
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(ask(Then::Close).await, "the broker ended it");
    check(ask(Then::Stall).await, "no answer from");
    check(ask(Then::WrongCorrelation).await, "out of order");
    check(ask(Then::Garbage).await, "cannot read the answer to Metadata");
    check(ask(Then::HugeFrame).await, "not Kafka's protocol");
}

#[tokio::test]
async fn an_older_broker_is_asked_again_in_version_0() {
    let tasks = Tasks::new();
    let address = broker(&tasks, 2, Then::Stall).await;
    let connection = Connection::open(&address, "test", Duration::from_secs(5), &tasks).await.unwrap();
    assert_eq!(connection.version(ApiKey::Metadata).unwrap(), 9);
    assert!(matches!(connection.version(ApiKey::Produce), Err(ClientError::Unsupported { .. })));
}

#[tokio::test]
async fn the_first_bootstrap_address_that_answers_is_taken() {
    let tasks = Tasks::new();
    let alive = broker(&tasks, 4, Then::Stall).await;
    let connect = |bootstrap: String| {
        let config = ClientConfig { patience: Duration::from_secs(5), ..ClientConfig::new(&bootstrap) };
        Client::connect(config, Clock::system(), Rng::seeded(1), tasks.clone())
    };
    assert!(connect(format!("127.0.0.1:1, {alive}")).await.is_ok());
    assert!(matches!(connect("127.0.0.1:1".to_owned()).await, Err(ClientError::Connect { .. })));
    assert!(matches!(connect(String::new()).await, Err(ClientError::Invalid(_))));
}
