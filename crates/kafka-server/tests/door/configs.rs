//! Settings of topics and of the broker: told in full, changed or refused, never ignored.

use ferrymq_broker::settings::{TOPIC_SETTINGS, TopicDefaults};
use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::alter_configs::{self, AlterConfigsRequest};
use ferrymq_kafka_codec::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult,
};
use ferrymq_kafka_codec::messages::incremental_alter_configs::{self, IncrementalAlterConfigsRequest};

use super::support::{Client, Options, Server, name};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Type and name.
type Resource<'a> = (i8, &'a str);
/// Name, operation and value.
type Change<'a> = (&'a str, i8, Option<&'a str>);

async fn describe(client: &mut Client, kind: i8, of: &str, keys: Option<&[&str]>) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name(of),
        configuration_keys: keys.map(|keys| keys.iter().copied().map(name).collect()),
    };
    let request = DescribeConfigsRequest {
        resources: vec![resource],
        include_synonyms: true,
        include_documentation: true,
    };
    client.call(4, &request).await.results.remove(0)
}

async fn one(client: &mut Client, kind: i8, of: &str, key: &str) -> DescribeConfigsResourceResult {
    let mut result = describe(client, kind, of, Some(&[key])).await;
    assert_eq!((result.error_code, result.configs.len()), (0, 1), "{key}: {:?}", result.error_message);
    result.configs.remove(0)
}

/// Value and source of a topic's setting.
async fn value(client: &mut Client, key: &str) -> (String, i8) {
    let entry = one(client, TOPIC, "t", key).await;
    (entry.value.map(String::from).unwrap_or_default(), entry.config_source)
}

/// Changes settings of one resource; the error and its text.
async fn alter(
    client: &mut Client,
    (kind, of): Resource<'_>,
    changes: &[Change<'_>],
    validate_only: bool,
) -> (Option<ErrorCode>, String) {
    let configs = changes.iter().map(|(key, operation, value)| incremental_alter_configs::AlterableConfig {
        name: name(key),
        config_operation: *operation,
        value: value.map(name),
    });
    let resource = incremental_alter_configs::AlterConfigsResource {
        resource_type: kind,
        resource_name: name(of),
        configs: configs.collect(),
    };
    let request = IncrementalAlterConfigsRequest { resources: vec![resource], validate_only };
    let answer = client.call(1, &request).await.responses.remove(0);
    (ErrorCode::from_code(answer.error_code), answer.error_message.map(String::from).unwrap_or_default())
}

#[tokio::test]
async fn every_topic_setting_is_told_with_where_it_comes_from() {
    let mut topic_defaults = TopicDefaults::default();
    topic_defaults.values.insert("segment.bytes", "5000".to_owned());
    let server = Server::start_with(Options { topic_defaults, ..Default::default() }).await;
    server.topic("t", 1, &[("retention.ms", "1000")]).await;
    let mut client = server.client().await;
    let all = describe(&mut client, TOPIC, "t", None).await;
    let names: Vec<_> = all.configs.iter().map(|config| config.name.to_string()).collect();
    assert_eq!(names, TOPIC_SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>());
    assert!(all.configs.iter().all(|config| config.config_type > 0 && !config.read_only));
    assert!(
        all.configs.iter().all(|config| config.documentation.as_ref().is_some_and(|text| text.len() > 9))
    );

    let synonyms = |entry: &DescribeConfigsResourceResult| -> Vec<(String, String, i8)> {
        let text = |synonym: &ferrymq_kafka_codec::messages::describe_configs::DescribeConfigsSynonym| {
            let value = synonym.value.clone().map(String::from).unwrap_or_default();
            (synonym.name.to_string(), value, synonym.source)
        };
        entry.synonyms.iter().map(text).collect()
    };
    let own = |name: &str, value: &str, source| (name.to_owned(), value.to_owned(), source);
    let retention = one(&mut client, TOPIC, "t", "retention.ms").await;
    assert_eq!((retention.value.as_deref(), retention.config_source), (Some("1000"), 1));
    assert_eq!(synonyms(&retention), [own("retention.ms", "1000", 1), own("log.retention.hours", "168", 5)]);
    let segment = one(&mut client, TOPIC, "t", "segment.bytes").await;
    assert_eq!((segment.value.as_deref(), segment.config_source), (Some("5000"), 4));
    let expected = [own("log.segment.bytes", "5000", 4), own("log.segment.bytes", "1073741824", 5)];
    assert_eq!(synonyms(&segment), expected);
    let policy = one(&mut client, TOPIC, "t", "cleanup.policy").await;
    assert_eq!((policy.value.as_deref(), policy.config_source, policy.config_type), (Some("delete"), 5, 7));
}

#[tokio::test]
async fn only_what_is_asked_for_is_told() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let resource = DescribeConfigsResource {
        resource_type: TOPIC,
        resource_name: name("t"),
        configuration_keys: Some(vec![name("retention.ms"), name("no.such")]),
    };
    // Twice the same resource is one answer.
    let resources = vec![resource.clone(), resource];
    let request = DescribeConfigsRequest { resources, ..Default::default() };
    let response = client.call(4, &request).await;
    assert_eq!(response.results.len(), 1);
    let [config] = &response.results[0].configs[..] else { panic!("one setting was asked for") };
    assert_eq!((config.synonyms.len(), config.documentation.clone()), (0, None));
    let all = describe(&mut client, TOPIC, "t", Some(&[])).await;
    assert_eq!(all.configs.len(), TOPIC_SETTINGS.len(), "no keys are all keys");
}

#[tokio::test]
async fn the_broker_tells_what_it_goes_by() {
    let mut topic_defaults = TopicDefaults::default();
    topic_defaults.values.insert("retention.ms", "4000".to_owned());
    let server = Server::start_with(Options { topic_defaults, ..Default::default() }).await;
    let mut client = server.client().await;
    let all = describe(&mut client, BROKER, "1", None).await;
    assert!(all.configs.iter().all(|config| config.read_only && !config.is_sensitive));
    assert!(all.configs.is_sorted_by(|a, b| a.name < b.name), "sorted, and none twice");
    let port = server.context.listeners[0].advertised.port;
    let listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let cases = [
        ("advertised.listeners", Some(listeners.as_str()), 4),
        ("auto.create.topics.enable", Some("true"), 5),
        ("group.initial.rebalance.delay.ms", Some("0"), 4),
        ("log.dirs", Some("data"), 4),
        ("log.retention.hours", Some("168"), 5),
        ("log.retention.ms", Some("4000"), 4),
        ("log.roll.ms", None, 5),
        ("message.max.bytes", Some("1048588"), 5),
        ("node.id", Some("1"), 4),
        ("num.partitions", Some("1"), 5),
        ("offsets.retention.minutes", Some("10080"), 5),
    ];
    for (key, value, source) in cases {
        let entry = one(&mut client, BROKER, "1", key).await;
        assert_eq!((entry.value.as_deref(), entry.config_source), (value, source), "{key}");
        assert!(entry.documentation.is_some_and(|text| text.len() > 9), "{key}");
    }
    assert!(
        describe(&mut client, BROKER, "", None).await.configs.is_empty(),
        "nothing is set for all brokers"
    );
    assert!(describe(&mut client, BROKER_LOGGER, "1", None).await.configs.is_empty());
}

#[tokio::test]
async fn what_cannot_be_described_is_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let invalid = ErrorCode::InvalidRequest;
    let cases = [
        (TOPIC, "not-there", ErrorCode::UnknownTopicOrPartition, ""),
        (TOPIC, "not legal", ErrorCode::InvalidTopicException, "Topic name is invalid"),
        (BROKER, "2", invalid, "Unexpected broker id, expected 1 or empty string, but received 2"),
        (BROKER, "x", invalid, "Broker id must be an integer, but it is: x"),
        (BROKER_LOGGER, "", invalid, "Broker id must not be empty"),
        (BROKER_LOGGER, "2", invalid, "Unexpected broker id, expected 1 but received 2"),
        (16, "", invalid, "Client metrics subscription name must not be empty"),
        (32, "", invalid, "Group name must not be empty"),
        (77, "x", invalid, "Unexpected resource type 77"),
    ];
    for (kind, of, code, text) in cases {
        let result = describe(&mut client, kind, of, None).await;
        assert_eq!(result.error_code, code.code(), "{kind} {of}");
        assert!(
            result.error_message.as_deref().unwrap_or_default().starts_with(text),
            "{kind} {of}: {result:?}"
        );
        assert!(result.configs.is_empty());
    }
}

#[tokio::test]
async fn single_settings_are_set_and_taken_back() {
    let server = Server::start().await;
    server.topic("t", 1, &[("segment.bytes", "7000")]).await;
    let mut client = server.client().await;
    let t = (TOPIC, "t");
    let done = (Some(ErrorCode::None), String::new());
    assert_eq!(alter(&mut client, t, &[("retention.ms", SET, Some("5"))], true).await, done);
    assert_eq!(value(&mut client, "retention.ms").await.1, 5, "it was only to be checked");
    assert_eq!(alter(&mut client, t, &[("retention.ms", SET, Some("5"))], false).await, done);
    assert_eq!(value(&mut client, "retention.ms").await, ("5".to_owned(), 1));
    assert_eq!(value(&mut client, "segment.bytes").await, ("7000".to_owned(), 1), "the others stay");
    let live = server.context.broker.topics().get("t").unwrap().config.get();
    assert_eq!(live.retention_ms, Some(5), "it is in force");
    assert_eq!(alter(&mut client, t, &[("retention.ms", DELETE, None)], false).await, done);
    assert_eq!(value(&mut client, "retention.ms").await, ("604800000".to_owned(), 5));
    assert_eq!(alter(&mut client, t, &[("cleanup.policy", APPEND, Some("delete"))], false).await, done);
    assert_eq!(value(&mut client, "cleanup.policy").await, ("delete".to_owned(), 1), "it is there once");
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let (config, request) = (ErrorCode::InvalidConfig, ErrorCode::InvalidRequest);
    let t = (TOPIC, "t");
    let cases: Vec<(Resource<'_>, Vec<Change<'_>>, ErrorCode, &str)> = vec![
        (
            t,
            vec![("retention.ms", SET, Some("soon"))],
            config,
            "Invalid value soon for configuration retention.ms",
        ),
        (t, vec![("no.such", SET, Some("1"))], config, "Unknown topic config name: no.such"),
        (t, vec![("cleanup.policy", APPEND, Some("compact"))], config, "Invalid value delete,compact"),
        (
            t,
            vec![("retention.ms", APPEND, Some("1"))],
            config,
            "Can't APPEND to key retention.ms because its type is not LIST.",
        ),
        (t, vec![("retention.ms", SUBTRACT, Some("1"))], config, "Can't SUBTRACT to key"),
        (t, vec![("retention.ms", SET, None)], request, "Null value not supported for : retention.ms"),
        (t, vec![("retention.ms", 9, Some("1"))], request, "Unknown operations type 9"),
        (
            t,
            vec![("retention.ms", SET, Some("1")), ("retention.ms", SET, Some("2"))],
            request,
            "Error due to duplicate config keys",
        ),
        (
            t,
            vec![("segment.bytes", SET, Some("9000")), ("retention.ms", SET, Some("x"))],
            config,
            "Invalid value x",
        ),
        ((TOPIC, "u"), vec![], ErrorCode::UnknownTopicOrPartition, "The topic 'u' does not exist."),
        ((TOPIC, ""), vec![], request, "Default topic resources are not allowed."),
        (
            (BROKER, "1"),
            vec![("log.retention.ms", SET, Some("1"))],
            request,
            "Dynamic broker configs are not supported yet",
        ),
        (
            (BROKER, ""),
            vec![("log.retention.ms", SET, Some("1"))],
            request,
            "Dynamic broker configs are not supported yet",
        ),
        ((BROKER, "2"), vec![], request, "Unexpected broker id, expected 1, but received 2"),
        ((BROKER, "x"), vec![], request, "Node id must be an integer, but it is: x"),
        ((77, "x"), vec![], request, "Unknown resource type 77"),
    ];
    for (resource, changes, code, text) in cases {
        let (got, said) = alter(&mut client, resource, &changes, false).await;
        assert_eq!(got, Some(code), "{resource:?} {changes:?}: {said}");
        assert!(said.starts_with(text), "{resource:?} {changes:?}: {said}");
    }
    let changed = describe(&mut client, TOPIC, "t", None).await;
    assert!(changed.configs.iter().all(|config| config.config_source == 5), "{changed:?}");
}

#[tokio::test]
async fn the_old_way_replaces_all() {
    let server = Server::start().await;
    server.topic("t", 1, &[("segment.bytes", "7000")]).await;
    let mut client = server.client().await;
    let resource = |of: &str, pairs: &[(&str, Option<&str>)]| alter_configs::AlterConfigsResource {
        resource_type: TOPIC,
        resource_name: name(of),
        configs: pairs
            .iter()
            .map(|(key, value)| alter_configs::AlterableConfig { name: name(key), value: value.map(name) })
            .collect(),
    };
    let new = resource("t", &[("retention.ms", Some("5"))]);
    for (validate_only, source) in [(true, 5), (false, 1)] {
        let request = AlterConfigsRequest { resources: vec![new.clone()], validate_only };
        assert_eq!(client.call(2, &request).await.responses[0].error_code, 0);
        assert_eq!(value(&mut client, "retention.ms").await.1, source);
    }
    assert_eq!(value(&mut client, "segment.bytes").await.1, 5, "it was not named, so it is gone");
    let twice =
        AlterConfigsRequest { resources: vec![new.clone(), resource("u", &[]), new], validate_only: false };
    let codes = client.call(2, &twice).await.responses.into_iter().map(|one| one.error_code);
    let (request, unknown) = (ErrorCode::InvalidRequest.code(), ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(codes.collect::<Vec<_>>(), [request, unknown, request]);
    let null = AlterConfigsRequest {
        resources: vec![resource("t", &[("retention.ms", None)])],
        validate_only: false,
    };
    assert_eq!(client.call(2, &null).await.responses[0].error_code, request);
}
