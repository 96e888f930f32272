//! What is advertised is answered: every API in every version, and nothing else.

use ferrymq_kafka_codec::messages::{ApiVersionsRequest, ApiVersionsResponse};
use ferrymq_kafka_codec::{ApiKey, Decoder, ErrorCode, Message as _, ResponseHeader, ResponseKind};
use ferrymq_kafka_server::dispatch::SERVED;

use super::requests::{TOPIC, empty, full};
use super::support::{Server, framed, name};

#[tokio::test]
async fn empty_requests_are_answered_in_every_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for api in SERVED {
        for version in api.decodable().iter() {
            client.send(version, &empty(*api)).await;
            let answer = client.receive(*api, version).await;
            let answer = answer.unwrap_or_else(|| panic!("{api} version {version} closed the connection"));
            assert_eq!(answer.api(), *api);
        }
    }
    drop(client);
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn requests_that_say_something_are_answered_in_every_version() {
    let server = Server::start().await;
    server.topic(TOPIC, 2, &[]).await;
    let id = server.topic_id(TOPIC);
    let mut client = server.client().await;
    for api in SERVED {
        for version in api.decodable().iter() {
            client.send(version, &full(*api, version, id)).await;
            let answer = client.receive(*api, version).await;
            let answer = answer.unwrap_or_else(|| panic!("{api} version {version} closed the connection"));
            let text = format!("{answer:?}");
            let unexpected = ErrorCode::UnknownServerError.code();
            assert!(!text.contains(&format!("error_code: {unexpected},")), "{api} {version}: {text}");
        }
    }
    drop(client);
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn what_is_served_is_advertised_with_its_versions() {
    assert!(SERVED.is_sorted(), "clients expect rising numbers");
    let server = Server::start().await;
    let mut client = server.client().await;
    let request =
        ApiVersionsRequest { client_software_name: name("door-test"), client_software_version: name("1.0") };
    let response = client.call(4, &request).await;
    assert_eq!(response.error_code, 0);
    let told: Vec<_> =
        response.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
    let range = |api: &ApiKey| (api.id(), api.advertised().min, api.advertised().max);
    assert_eq!(told, SERVED.iter().map(range).collect::<Vec<_>>());
    assert_eq!(told.first(), Some(&(0, 0, 13)), "librdkafka compresses only if it sees the old versions");

    let nameless = client.call(3, &ApiVersionsRequest::default()).await;
    assert_eq!(nameless.error_code, ErrorCode::InvalidRequest.code());
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // Key 18, version 99, correlation id 5, no client id, no tags, and a body that nobody knows.
    client.raw(&framed(&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 1, 2, 3])).await;
    let body = client.answer().await.expect("KIP-511 wants an answer");
    let mut decoder = Decoder::new(&body);
    let header = ResponseHeader::decode(&mut decoder, ApiKey::ApiVersions, 0).unwrap();
    assert_eq!(header.correlation_id, 5);
    let response = ApiVersionsResponse::decode(&mut decoder, 0).unwrap();
    assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
    assert_eq!(response.api_keys.len(), 1);
    assert_eq!((response.api_keys[0].api_key, response.api_keys[0].max_version), (18, 4));
    client.send(0, &ApiVersionsRequest::default()).await;
    let again = client.receive(ApiKey::ApiVersions, 0).await;
    assert!(matches!(again, Some(ResponseKind::ApiVersions(_))), "the connection goes on");
}
