//! Topics made, grown, described and deleted; the cluster; the log directory; producers.

use ferrymq_kafka_codec::ErrorCode;
use ferrymq_kafka_codec::messages::create_partitions::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use ferrymq_kafka_codec::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use ferrymq_kafka_codec::messages::delete_topics::DeleteTopicState;
use ferrymq_kafka_codec::messages::describe_log_dirs::DescribableLogDirTopic;
use ferrymq_kafka_codec::messages::describe_topic_partitions::{RequestCursor, TopicRequest};
use ferrymq_kafka_codec::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTopicPartitionsRequest, ListPartitionReassignmentsRequest,
    describe_producers,
};

use super::records::{batch, sequenced, write};
use super::support::{Client, NODE, Server, name};

#[tokio::test]
async fn topics_are_created_or_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let topic = |text: &str, num_partitions, replication_factor| CreatableTopic {
        name: name(text),
        num_partitions,
        replication_factor,
        ..Default::default()
    };
    let set = |mut topic: CreatableTopic, key: &str, value: &str| {
        topic.configs = vec![CreatableTopicConfig { name: name(key), value: Some(name(value)) }];
        topic
    };
    let cases = [
        (set(topic("t", 3, 1), "retention.ms", "5"), ErrorCode::None),
        (topic("by-default", -1, -1), ErrorCode::None),
        (topic("replicated", 1, 3), ErrorCode::None),
        (topic("t", 1, 1), ErrorCode::TopicAlreadyExists),
        (topic("none", 0, 1), ErrorCode::InvalidPartitions),
        (topic("none", 1, 0), ErrorCode::InvalidReplicationFactor),
        (topic("no good", 1, 1), ErrorCode::InvalidTopicException),
        (set(topic("none", 1, 1), "retention.ms", "soon"), ErrorCode::InvalidConfig),
        (set(topic("none", 1, 1), "cleanup.policy", "compact"), ErrorCode::InvalidConfig),
    ];
    for (topic, code) in cases {
        let request = CreateTopicsRequest { topics: vec![topic.clone()], ..Default::default() };
        let answer = client.call(7, &request).await.topics.remove(0);
        assert_eq!(answer.error_code, code.code(), "{topic:?}: {:?}", answer.error_message);
        if code == ErrorCode::None {
            assert_eq!(answer.topic_id, server.topic_id(&topic.name));
            assert_eq!((answer.num_partitions, answer.replication_factor), (topic.num_partitions.max(1), 1));
        }
    }
    let twice =
        CreateTopicsRequest { topics: vec![topic("u", 1, 1), topic("u", 1, 1)], ..Default::default() };
    let answers = client.call(7, &twice).await.topics;
    assert_eq!((answers.len(), answers[0].error_code), (1, ErrorCode::InvalidRequest.code()));

    let delete = |state| DeleteTopicsRequest { topics: vec![state], ..Default::default() };
    let by_id = DeleteTopicState { topic_id: server.topic_id("t"), ..Default::default() };
    let deleted = client.call(6, &delete(by_id.clone())).await.responses.remove(0);
    assert_eq!((deleted.error_code, deleted.name), (0, Some(name("t"))));
    let again = client.call(6, &delete(by_id)).await.responses.remove(0);
    assert_eq!(again.error_code, ErrorCode::UnknownTopicId.code());
    let by_name = DeleteTopicState { name: Some(name("t")), ..Default::default() };
    let unknown = client.call(6, &delete(by_name)).await.responses.remove(0);
    assert_eq!(unknown.error_code, ErrorCode::UnknownTopicOrPartition.code());
}

#[tokio::test]
async fn topics_grow_and_never_shrink() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    let mut client = server.client().await;
    let topic = |count, brokers: Option<&[&[i32]]>| CreatePartitionsTopic {
        name: name("t"),
        count,
        assignments: brokers.map(|lists| {
            let assignment = |ids: &&[i32]| CreatePartitionsAssignment { broker_ids: ids.to_vec() };
            lists.iter().map(assignment).collect()
        }),
    };
    let (count, assignment) = (ErrorCode::InvalidPartitions, ErrorCode::InvalidReplicaAssignment);
    let cases = [
        (topic(2, None), count, "Topic already has 2 partition(s)."),
        (topic(1, None), count, "The topic t currently has 2 partition(s); 1 would not be an increase."),
        (topic(-1, None), count, "The topic t currently has 2 partition(s); -1 would not be an increase."),
        (topic(i32::MAX, None), count, "Too many partitions"),
        (
            topic(4, Some(&[&[1]])),
            assignment,
            "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.",
        ),
        (
            topic(3, Some(&[&[]])),
            assignment,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            topic(3, Some(&[&[9]])),
            assignment,
            "The manual partition assignment includes broker 9, but no such broker is registered.",
        ),
        (
            topic(3, Some(&[&[1, 1]])),
            assignment,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
    ];
    for (topic, code, text) in cases {
        for validate_only in [true, false] {
            let topics = vec![topic.clone()];
            let request = CreatePartitionsRequest { topics, validate_only, ..Default::default() };
            let answer = client.call(3, &request).await.results.remove(0);
            assert_eq!(answer.error_code, code.code(), "{text}");
            assert!(answer.error_message.as_deref().unwrap_or_default().starts_with(text), "{answer:?}");
        }
    }
    for (validate_only, partitions) in [(true, 2), (false, 3)] {
        let topics = vec![topic(3, Some(&[&[1]]))];
        let request = CreatePartitionsRequest { topics, validate_only, ..Default::default() };
        assert_eq!(client.call(3, &request).await.results[0].error_code, 0);
        assert_eq!(server.context.broker.topics().get("t").unwrap().partitions.len(), partitions);
    }
    assert_eq!(write(&mut client, "t", 2, batch(&["a"])).await, 0);
    let unknown = CreatePartitionsTopic { name: name("u"), ..topic(3, None) };
    let topics = vec![topic(5, None), topic(6, None), unknown];
    let answers = client.call(3, &CreatePartitionsRequest { topics, ..Default::default() }).await.results;
    let codes: Vec<_> = answers.iter().map(|answer| (answer.name.to_string(), answer.error_code)).collect();
    let (request, nowhere) = (ErrorCode::InvalidRequest.code(), ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(codes, [("t".to_owned(), request), ("u".to_owned(), nowhere)]);
}

/// Names, first partition and number of partitions of a page, and where the next begins.
async fn page(
    client: &mut Client,
    topics: &[&str],
    limit: i32,
    cursor: Option<(String, i32)>,
) -> (Vec<(String, i32, usize)>, Option<(String, i32)>) {
    let request = DescribeTopicPartitionsRequest {
        topics: topics.iter().map(|topic| TopicRequest { name: name(topic) }).collect(),
        response_partition_limit: limit,
        cursor: cursor
            .map(|(topic, partition_index)| RequestCursor { topic_name: name(&topic), partition_index }),
    };
    let response = client.call(0, &request).await;
    let told = response.topics.iter().map(|topic| {
        let first = topic.partitions.first().map_or(i32::from(-topic.error_code), |one| one.partition_index);
        (topic.name.as_ref().map(ToString::to_string).unwrap_or_default(), first, topic.partitions.len())
    });
    let next = response.next_cursor.map(|cursor| (cursor.topic_name.to_string(), cursor.partition_index));
    (told.collect(), next)
}

#[tokio::test]
async fn topics_are_described_page_by_page() {
    let server = Server::start().await;
    for (topic, partitions) in [("b", 3), ("a", 2), ("c", 1)] {
        server.topic(topic, partitions, &[]).await;
    }
    let mut client = server.client().await;
    let own = |text: &str, first, count| (text.to_owned(), first, count);
    let all = page(&mut client, &[], 2000, None).await;
    assert_eq!(all, (vec![own("a", 0, 2), own("b", 0, 3), own("c", 0, 1)], None));
    let first = page(&mut client, &[], 3, None).await;
    assert_eq!(first, (vec![own("a", 0, 2), own("b", 0, 1)], Some(("b".to_owned(), 1))));
    let second = page(&mut client, &[], 2, first.1).await;
    assert_eq!(second, (vec![own("b", 1, 2)], Some(("c".to_owned(), 0))));
    assert_eq!(page(&mut client, &[], 2, second.1).await, (vec![own("c", 0, 1)], None));
    // A limit that makes no sense is one partition; topics come sorted and once; an unknown one is told.
    let odd = page(&mut client, &["c", "x", "a", "a"], -5, None).await;
    assert_eq!(odd, (vec![own("a", 0, 1)], Some(("a".to_owned(), 1))));
    let named = page(&mut client, &["c", "x", "no good"], 9, None).await;
    let nowhere = i32::from(-ErrorCode::UnknownTopicOrPartition.code());
    let illegal = i32::from(-ErrorCode::InvalidTopicException.code());
    assert_eq!(named.0, [own("c", 0, 1), own("no good", illegal, 0), own("x", nowhere, 0)]);
    let refused = i32::from(-ErrorCode::InvalidRequest.code());
    for cursor in [("b".to_owned(), 0), ("a".to_owned(), -1)] {
        assert_eq!(page(&mut client, &["a"], 9, Some(cursor)).await.0, [own("a", refused, 0)]);
    }
}

#[tokio::test]
async fn the_cluster_is_one_broker() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let request =
        DescribeClusterRequest { include_cluster_authorized_operations: true, ..Default::default() };
    let response = client.call(2, &request).await;
    assert_eq!((response.error_code, response.controller_id, response.endpoint_type), (0, NODE, 1));
    assert_eq!(response.cluster_id.as_str(), server.context.broker.cluster_id());
    assert_eq!(response.cluster_authorized_operations, 0b1_1111_1010_0000);
    assert_eq!(response.brokers.len(), 1);
    assert_eq!(response.brokers[0].port, i32::from(server.context.listeners[0].advertised.port));
    let plain = client.call(1, &DescribeClusterRequest::default()).await;
    assert_eq!(plain.cluster_authorized_operations, i32::MIN);
    let codes = [(2, ErrorCode::MismatchedEndpointType), (3, ErrorCode::UnsupportedEndpointType)];
    for (endpoint_type, code) in codes {
        let response = client.call(1, &DescribeClusterRequest { endpoint_type, ..Default::default() }).await;
        assert_eq!(response.error_code, code.code());
        assert!(response.error_message.is_some() && response.brokers.is_empty());
    }
    let moving = client.call(0, &ListPartitionReassignmentsRequest::default()).await;
    assert_eq!((moving.error_code, moving.topics.len()), (0, 0));
}

#[tokio::test]
async fn the_log_directory_tells_sizes_and_room() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    server.topic("u", 1, &[]).await;
    let mut client = server.client().await;
    let bytes = batch(&["a", "b"]);
    write(&mut client, "t", 1, bytes.clone()).await;
    let all = client.call(4, &DescribeLogDirsRequest { topics: None }).await.results.remove(0);
    assert_eq!((all.log_dir.as_str(), all.total_bytes, all.usable_bytes), ("data", 1000, 600));
    assert_eq!(all.topics.len(), 2);
    let sizes = all.topics[0].partitions.iter().map(|one| (one.partition_index, one.partition_size));
    assert_eq!(sizes.collect::<Vec<_>>(), [(0, 0), (1, i64::try_from(bytes.len()).unwrap())]);
    let wanted = |topic: &str, partitions| DescribableLogDirTopic { topic: name(topic), partitions };
    let topics = Some(vec![wanted("t", vec![1, 1, 9]), wanted("nowhere", vec![0])]);
    let some = client.call(4, &DescribeLogDirsRequest { topics }).await.results.remove(0);
    assert_eq!((some.topics.len(), some.topics[0].partitions.len()), (1, 1));
    let none = client.call(4, &DescribeLogDirsRequest { topics: Some(Vec::new()) }).await.results.remove(0);
    assert!(none.topics.is_empty());
}

#[tokio::test]
async fn producers_are_told_by_partition() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    let mut client = server.client().await;
    write(&mut client, "t", 0, sequenced(500, 3, 0, &["a", "b"])).await;
    write(&mut client, "t", 0, sequenced(500, 3, 2, &["c", "d"])).await;
    write(&mut client, "t", 0, sequenced(7, 0, 0, &["d"])).await;
    let topic = |text: &str, partition_indexes| describe_producers::TopicRequest {
        name: name(text),
        partition_indexes,
    };
    let topics = vec![topic("t", vec![0, 1, 0, 2]), topic("u", vec![0]), topic("no good", vec![0])];
    let response = client.call(0, &DescribeProducersRequest { topics }).await;
    let of = |text: &str| &response.topics.iter().find(|topic| topic.name == text).unwrap().partitions;
    let told = &of("t")[0].active_producers;
    let told: Vec<_> =
        told.iter().map(|one| (one.producer_id, one.producer_epoch, one.last_sequence)).collect();
    assert_eq!(told, [(7, 0, 0), (500, 3, 3)]);
    assert_eq!((of("t").len(), of("t")[1].error_code, of("t")[1].active_producers.len()), (3, 0, 0));
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!((of("t")[2].error_code, of("u")[0].error_code), (unknown, unknown));
    assert_eq!(of("no good")[0].error_code, ErrorCode::InvalidTopicException.code());
    assert!(of("t")[0].active_producers.iter().all(|one| one.current_txn_start_offset == -1));

    // Nobody has written since this start; they are told all the same, and a retry is still known as one.
    let server = server.restart().await;
    let mut client = server.client().await;
    let request = DescribeProducersRequest { topics: vec![topic("t", vec![0, 1])] };
    let after = client.call(0, &request).await.topics.remove(0).partitions;
    let told: Vec<_> =
        after[0].active_producers.iter().map(|one| (one.producer_id, one.last_sequence)).collect();
    assert_eq!((told, after[1].active_producers.len()), (vec![(7, 0), (500, 3)], 0));
    write(&mut client, "t", 0, sequenced(7, 0, 0, &["d"])).await;
    assert_eq!(server.context.broker.topics().partition("t", 0).unwrap().high_watermark().0, 5);
}
