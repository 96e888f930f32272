//! Committed offsets: kept with all that belongs to them, fetched, checked, deleted.

use ferrymq_kafka_codec::messages::delete_topics::DeleteTopicState;
use ferrymq_kafka_codec::messages::{
    DeleteTopicsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, offset_commit,
    offset_delete, offset_fetch,
};
use ferrymq_kafka_codec::{ErrorCode, Uuid};

use super::groups::{join, sync_request};
use super::support::{Client, Server, name};

/// The last versions that name topics by name.
pub(crate) const COMMIT: i16 = 9;
const FETCH: i16 = 9;

pub(crate) fn commit_request(group: &str, topic: &str, partitions: &[i32]) -> OffsetCommitRequest {
    let partitions = partitions.iter().map(|index| offset_commit::OffsetCommitRequestPartition {
        partition_index: *index,
        committed_offset: 40 + i64::from(*index),
        committed_leader_epoch: 3,
        committed_metadata: Some(name("a note")),
    });
    let topics = vec![offset_commit::OffsetCommitRequestTopic {
        name: name(topic),
        partitions: partitions.collect(),
        ..Default::default()
    }];
    OffsetCommitRequest {
        group_id: name(group),
        generation_id_or_member_epoch: -1,
        topics,
        ..Default::default()
    }
}

pub(crate) async fn commit(
    client: &mut Client,
    version: i16,
    request: &OffsetCommitRequest,
) -> Vec<Option<ErrorCode>> {
    let response = client.call(version, request).await;
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|one| ErrorCode::from_code(one.error_code)).collect()
}

/// Committed offset, leader epoch, note and error of partitions of "t".
pub(crate) async fn committed(
    client: &mut Client,
    group: &str,
    partitions: &[i32],
) -> Vec<(i64, i32, String, i16)> {
    let topics = vec![offset_fetch::OffsetFetchRequestTopics {
        name: name("t"),
        partition_indexes: partitions.to_vec(),
        ..Default::default()
    }];
    let groups = vec![offset_fetch::OffsetFetchRequestGroup {
        group_id: name(group),
        topics: Some(topics),
        ..Default::default()
    }];
    let response = client.call(FETCH, &OffsetFetchRequest { groups, ..Default::default() }).await;
    let partitions = response.groups[0].topics[0].partitions.iter();
    let told = partitions.map(|one| {
        let note = one.metadata.as_ref().map(ToString::to_string).unwrap_or_default();
        (one.committed_offset, one.committed_leader_epoch, note, one.error_code)
    });
    told.collect()
}

#[tokio::test]
async fn offsets_are_kept_with_all_that_belongs_to_them() {
    let server = Server::start().await;
    server.topic("t", 3, &[]).await;
    let mut client = server.client().await;
    let unknown = Some(ErrorCode::UnknownTopicOrPartition);
    let done = Some(ErrorCode::None);
    let request = commit_request("g", "t", &[0, 2, 3, -1]);
    assert_eq!(commit(&mut client, COMMIT, &request).await, [done, done, unknown, unknown]);
    assert_eq!(commit(&mut client, COMMIT, &commit_request("g", "u", &[0])).await, [unknown]);
    let (note, none) = ("a note".to_owned(), (-1, -1, String::new(), 0));
    let got = committed(&mut client, "g", &[2, 1, 0, 9]).await;
    assert_eq!(got, [(42, 3, note.clone(), 0), none.clone(), (40, 3, note.clone(), 0), none.clone()]);
    assert_eq!(committed(&mut client, "h", &[0]).await[0], none, "another group");

    let all = OffsetFetchRequest { group_id: name("g"), topics: None, ..Default::default() };
    let old = client.call(7, &all).await;
    let told: Vec<_> =
        old.topics[0].partitions.iter().map(|one| (one.partition_index, one.committed_offset)).collect();
    assert_eq!((old.error_code, old.topics.len(), told), (0, 1, vec![(0, 40), (2, 42)]));

    let mut long = commit_request("g", "t", &[0]);
    long.topics[0].partitions[0].committed_metadata = Some(name(&"x".repeat(4097)));
    assert_eq!(commit(&mut client, COMMIT, &long).await, [Some(ErrorCode::OffsetMetadataTooLarge)]);
    long.topics[0].partitions[0].committed_metadata = None;
    assert_eq!(commit(&mut client, COMMIT, &long).await, [done]);
    assert_eq!(committed(&mut client, "g", &[0]).await, [(40, 3, String::new(), 0)]);

    let deleting = DeleteTopicState { name: Some(name("t")), ..Default::default() };
    client.call(6, &DeleteTopicsRequest { topics: vec![deleting], ..Default::default() }).await;
    server.topic("t", 3, &[]).await;
    assert_eq!(committed(&mut client, "g", &[0, 2]).await, [none.clone(), none], "they were the old topic's");
}

#[tokio::test]
async fn offsets_by_topic_id() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let mut request = commit_request("g", "", &[0]);
    request.topics[0].topic_id = Uuid([9; 16]);
    assert_eq!(commit(&mut client, 10, &request).await, [Some(ErrorCode::UnknownTopicId)]);
    request.topics[0].topic_id = server.topic_id("t");
    assert_eq!(commit(&mut client, 10, &request).await, [Some(ErrorCode::None)]);
    let topic = |topic_id| offset_fetch::OffsetFetchRequestTopics {
        topic_id,
        partition_indexes: vec![0],
        ..Default::default()
    };
    let group =
        |topics| offset_fetch::OffsetFetchRequestGroup { group_id: name("g"), topics, ..Default::default() };
    let groups = vec![group(Some(vec![topic(server.topic_id("t")), topic(Uuid([9; 16]))]))];
    let response = client.call(10, &OffsetFetchRequest { groups, ..Default::default() }).await;
    let told = response.groups[0]
        .topics
        .iter()
        .map(|topic| (topic.topic_id, topic.partitions[0].committed_offset, topic.partitions[0].error_code));
    let unknown = ErrorCode::UnknownTopicId.code();
    let expected = [(server.topic_id("t"), 40, 0), (Uuid([9; 16]), -1, unknown)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let all = OffsetFetchRequest { groups: vec![group(None), group(None)], ..Default::default() };
    let response = client.call(10, &all).await;
    assert_eq!((response.groups.len(), response.groups[0].topics[0].topic_id), (1, server.topic_id("t")));
}

#[tokio::test]
async fn commits_of_members_are_checked() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    let mut client = server.client().await;
    let mut request = commit_request("g", "t", &[0]);
    request.generation_id_or_member_epoch = 1;
    request.member_id = name("stranger");
    assert_eq!(commit(&mut client, 9, &request).await, [Some(ErrorCode::GroupIdNotFound)]);
    assert_eq!(commit(&mut client, 8, &request).await, [Some(ErrorCode::IllegalGeneration)]);
    let joined = join(&mut client, "g").await;
    client.call(5, &sync_request("g", &joined, &[(&joined.member_id, "all")])).await;
    assert_eq!(commit(&mut client, 9, &request).await, [Some(ErrorCode::UnknownMemberId)]);
    request.member_id = joined.member_id.clone();
    request.generation_id_or_member_epoch = joined.generation_id + 1;
    assert_eq!(commit(&mut client, 9, &request).await, [Some(ErrorCode::IllegalGeneration)]);
    request.generation_id_or_member_epoch = joined.generation_id;
    assert_eq!(commit(&mut client, 9, &request).await, [Some(ErrorCode::None)]);
}

#[tokio::test]
async fn single_offsets_are_deleted() {
    let server = Server::start().await;
    server.topic("t", 2, &[]).await;
    server.topic("u", 1, &[]).await;
    let mut client = server.client().await;
    commit(&mut client, COMMIT, &commit_request("g", "t", &[0, 1])).await;
    let topic = |topic: &str, partitions: &[i32]| offset_delete::OffsetDeleteRequestTopic {
        name: name(topic),
        partitions: partitions
            .iter()
            .map(|index| offset_delete::OffsetDeleteRequestPartition { partition_index: *index })
            .collect(),
    };
    let request = |group: &str, topics| OffsetDeleteRequest { group_id: name(group), topics };
    let response = client.call(0, &request("g", vec![topic("t", &[0, 7]), topic("nowhere", &[0])])).await;
    let codes = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code);
    let unknown = ErrorCode::UnknownTopicOrPartition.code();
    assert_eq!((response.error_code, codes.collect::<Vec<_>>()), (0, vec![0, unknown, unknown]));
    let got: Vec<_> = committed(&mut client, "g", &[0, 1]).await.into_iter().map(|one| one.0).collect();
    assert_eq!(got, [-1, 41]);
    let absent = client.call(0, &request("absent", vec![topic("t", &[0])])).await;
    assert_eq!((absent.error_code, absent.topics.len()), (ErrorCode::GroupIdNotFound.code(), 0));
    let empty = client.call(0, &request("", vec![])).await;
    assert_eq!(empty.error_code, ErrorCode::InvalidGroupId.code());
    let joined = join(&mut client, "g").await;
    client.call(5, &sync_request("g", &joined, &[(&joined.member_id, "all")])).await;
    let response = client.call(0, &request("g", vec![topic("t", &[1]), topic("u", &[0])])).await;
    let codes = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code);
    let subscribed = ErrorCode::GroupSubscribedToTopic.code();
    assert_eq!(codes.collect::<Vec<_>>(), [subscribed, 0]);
}
