//! Listeners by name: a client is told the address of the one that it came through.

use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use ferrymq_kafka_codec::messages::{DescribeClusterRequest, FindCoordinatorRequest, MetadataRequest};

use super::support::{Client, NODE, Options, Server, name};

/// Every address that a client can be told.
async fn told(client: &mut Client) -> Vec<(i32, StrBytes, i32)> {
    let mut told = Vec::new();
    for version in [1, 9, 13] {
        let metadata = client.call(version, &MetadataRequest::default()).await;
        told.extend(metadata.brokers.into_iter().map(|one| (one.node_id, one.host, one.port)));
    }
    for version in [0, 2] {
        let cluster = client.call(version, &DescribeClusterRequest::default()).await;
        told.extend(cluster.brokers.into_iter().map(|one| (one.broker_id, one.host, one.port)));
    }
    let old = client.call(3, &FindCoordinatorRequest { key: name("g"), ..Default::default() }).await;
    told.push((old.node_id, old.host, old.port));
    let many = FindCoordinatorRequest { coordinator_keys: vec![name("g"), name("h")], ..Default::default() };
    let many = client.call(6, &many).await;
    told.extend(many.coordinators.into_iter().map(|one| (one.node_id, one.host, one.port)));
    told
}

async fn setting(client: &mut Client, key: &str) -> String {
    let resource = DescribeConfigsResource {
        resource_type: 4,
        resource_name: name("1"),
        configuration_keys: Some(vec![name(key)]),
    };
    let request = DescribeConfigsRequest { resources: vec![resource], ..Default::default() };
    let response = client.call(4, &request).await;
    response.results[0].configs[0].value.as_deref().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_client_is_told_the_address_of_its_listener() {
    let listeners = vec![("INTERNAL", "broker"), ("EXTERNAL", "mq.example.org"), ("V6", "::1")];
    let server = Server::start_with(Options { listeners: listeners.clone(), ..Default::default() }).await;
    for (index, (listener, host)) in listeners.iter().enumerate() {
        let port = i32::from(server.context.listeners[index].address.port());
        let told = told(&mut server.client_of(index).await).await;
        assert_eq!(told, vec![(NODE, name(host), port); told.len()], "{listener}");
    }
    let port = |index: usize| server.context.listeners[index].address.port();
    let mut client = server.client_of(1).await;
    assert_eq!(
        setting(&mut client, "advertised.listeners").await,
        format!("INTERNAL://broker:{},EXTERNAL://mq.example.org:{},V6://[::1]:{}", port(0), port(1), port(2))
    );
    assert_eq!(
        setting(&mut client, "listeners").await,
        format!(
            "INTERNAL://127.0.0.1:{},EXTERNAL://127.0.0.1:{},V6://127.0.0.1:{}",
            port(0),
            port(1),
            port(2)
        )
    );
    assert_eq!(
        setting(&mut client, "listener.security.protocol.map").await,
        "INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,V6:PLAINTEXT"
    );
}
