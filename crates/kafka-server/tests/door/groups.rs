//! Consumer groups: membership, rebalances, and their administration.

use bytes::Bytes;
use ferrymq_kafka_codec::messages::join_group::JoinGroupRequestProtocol;
use ferrymq_kafka_codec::messages::leave_group::MemberIdentity;
use ferrymq_kafka_codec::messages::sync_group::SyncGroupRequestAssignment;
use ferrymq_kafka_codec::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, SyncGroupRequest,
};
use ferrymq_kafka_codec::{ApiKey, ErrorCode, ResponseKind, StrBytes};

use super::committing::{COMMIT, commit, commit_request, committed};
use super::support::{Client, NODE, Server, name, until};

pub(crate) fn join_request(group: &str, member: &StrBytes) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: name(group),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.clone(),
        protocol_type: name("consumer"),
        // A consumer's subscription to the topic "t".
        protocols: vec![JoinGroupRequestProtocol {
            name: name("range"),
            metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"),
        }],
        ..Default::default()
    }
}

/// Joins as a new member of a group without others.
pub(crate) async fn join(client: &mut Client, group: &str) -> JoinGroupResponse {
    let asked = client.call(9, &join_request(group, &name(""))).await;
    assert_eq!(asked.error_code, ErrorCode::MemberIdRequired.code());
    assert!(asked.member_id.starts_with("door-test-"), "it begins with the client's id: {}", asked.member_id);
    let joined = client.call(9, &join_request(group, &asked.member_id)).await;
    assert_eq!((joined.error_code, &joined.member_id), (0, &asked.member_id));
    joined
}

pub(crate) fn sync_request(
    group: &str,
    joined: &JoinGroupResponse,
    assigned: &[(&StrBytes, &'static str)],
) -> SyncGroupRequest {
    let assignments = assigned.iter().map(|(member, text)| SyncGroupRequestAssignment {
        member_id: (*member).clone(),
        assignment: Bytes::from_static(text.as_bytes()),
    });
    SyncGroupRequest {
        group_id: name(group),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: joined.protocol_type.clone(),
        protocol_name: joined.protocol_name.clone(),
        assignments: assignments.collect(),
        ..Default::default()
    }
}

async fn heartbeat(client: &mut Client, group: &str, joined: &JoinGroupResponse) -> Option<ErrorCode> {
    let request = HeartbeatRequest {
        group_id: name(group),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..Default::default()
    };
    ErrorCode::from_code(client.call(4, &request).await.error_code)
}

#[tokio::test]
async fn this_broker_coordinates_every_group_and_no_transaction() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let port = i32::from(server.context.listeners[0].advertised.port);
    let old = client.call(2, &FindCoordinatorRequest { key: name("g"), ..Default::default() }).await;
    assert_eq!((old.error_code, old.node_id, old.port), (0, NODE, port));
    let keys = |key_type| FindCoordinatorRequest {
        key_type,
        coordinator_keys: vec![name("a"), name("b"), name("a")],
        ..Default::default()
    };
    let many = client.call(6, &keys(0)).await.coordinators;
    let told: Vec<_> =
        many.iter().map(|one| (one.key.as_str(), one.error_code, one.node_id, one.port)).collect();
    assert_eq!(told, [("a", 0, NODE, port), ("b", 0, NODE, port)]);
    let (later, invalid) = (ErrorCode::CoordinatorNotAvailable, ErrorCode::InvalidRequest);
    for (key_type, code) in [(1, later), (2, invalid), (9, invalid)] {
        let refused = client.call(6, &keys(key_type)).await.coordinators;
        assert_eq!((refused[0].error_code, refused[0].node_id, refused[0].port), (code.code(), -1, -1));
        let request = FindCoordinatorRequest { key: name("a"), key_type, ..Default::default() };
        let old = client.call(3, &request).await;
        assert_eq!((old.error_code, old.error_message.as_deref()), (code.code(), Some(code.message())));
    }
}

#[tokio::test]
async fn a_second_member_makes_a_new_generation() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    let first = join(&mut one, "g").await;
    assert_eq!((&first.leader, first.members.len()), (&first.member_id, 1));
    assert_eq!(first.protocol_name, Some(name("range")));
    let synced = one.call(5, &sync_request("g", &first, &[(&first.member_id, "all")])).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    assert_eq!(heartbeat(&mut one, "g", &first).await, Some(ErrorCode::None));

    let asked = two.call(9, &join_request("g", &name(""))).await;
    two.send(9, &join_request("g", &asked.member_id)).await;
    // The first member is asked to join again; until it does, the second waits.
    let mut code = Some(ErrorCode::None);
    while code == Some(ErrorCode::None) {
        code = heartbeat(&mut one, "g", &first).await;
    }
    assert_eq!(code, Some(ErrorCode::RebalanceInProgress));
    let again = one.call(9, &join_request("g", &first.member_id)).await;
    let Some(ResponseKind::JoinGroup(second)) = two.receive(ApiKey::JoinGroup, 9).await else {
        panic!("the join of the second member is answered");
    };
    assert_eq!((again.error_code, second.error_code), (0, 0));
    assert_eq!(
        (again.generation_id, second.generation_id),
        (first.generation_id + 1, first.generation_id + 1)
    );
    assert_eq!((again.members.len(), second.members.len()), (2, 0), "only the leader sees the others");
    // The follower waits for the leader's assignment.
    two.send(5, &sync_request("g", &second, &[])).await;
    let assigned = [(&first.member_id, "left"), (&second.member_id, "right")];
    let left = one.call(5, &sync_request("g", &again, &assigned)).await;
    assert_eq!((left.error_code, &left.assignment[..]), (0, &b"left"[..]));
    let Some(ResponseKind::SyncGroup(right)) = two.receive(ApiKey::SyncGroup, 5).await else {
        panic!("the sync of the second member is answered");
    };
    assert_eq!((right.error_code, &right.assignment[..]), (0, &b"right"[..]));
    assert_eq!(heartbeat(&mut one, "g", &first).await, Some(ErrorCode::IllegalGeneration));

    let request = DescribeGroupsRequest { groups: vec![name("g")], include_authorized_operations: true };
    let described = one.call(6, &request).await.groups.remove(0);
    assert_eq!((described.error_code, described.group_state.as_str()), (0, "Stable"));
    assert_eq!((described.protocol_type.as_str(), described.protocol_data.as_str()), ("consumer", "range"));
    assert_eq!(described.authorized_operations, 0b1101_0100_1000);
    assert_eq!(described.members.len(), 2);
    assert!(
        described.members.iter().all(|one| one.client_id == "door-test" && one.client_host == "/127.0.0.1")
    );
}

#[tokio::test]
async fn joins_that_make_no_sense_are_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let good = join_request("g", &name(""));
    let inconsistent = ErrorCode::InconsistentGroupProtocol;
    let cases = [
        (JoinGroupRequest { group_id: name(""), ..good.clone() }, ErrorCode::InvalidGroupId),
        (JoinGroupRequest { session_timeout_ms: 1, ..good.clone() }, ErrorCode::InvalidSessionTimeout),
        (JoinGroupRequest { session_timeout_ms: -1, ..good.clone() }, ErrorCode::InvalidSessionTimeout),
        (JoinGroupRequest { session_timeout_ms: i32::MAX, ..good.clone() }, ErrorCode::InvalidSessionTimeout),
        (JoinGroupRequest { protocols: Vec::new(), ..good.clone() }, inconsistent),
        (JoinGroupRequest { member_id: name("stranger"), ..good.clone() }, ErrorCode::UnknownMemberId),
    ];
    for (request, code) in cases {
        for version in [5, 9] {
            let answer = client.call(version, &request).await;
            assert_eq!(answer.error_code, code.code(), "{request:?}");
            assert_eq!((answer.generation_id, &answer.member_id), (-1, &request.member_id));
        }
    }
    let stranger = JoinGroupResponse { generation_id: 1, member_id: name("stranger"), ..Default::default() };
    assert_eq!(heartbeat(&mut client, "g", &stranger).await, Some(ErrorCode::UnknownMemberId));
    assert_eq!(heartbeat(&mut client, "", &stranger).await, Some(ErrorCode::InvalidGroupId));
    let synced = client.call(5, &sync_request("g", &stranger, &[])).await;
    assert_eq!(synced.error_code, ErrorCode::UnknownMemberId.code());
    let old = client.call(3, &JoinGroupRequest { group_id: name("old"), ..good }).await;
    assert_eq!((old.error_code, old.generation_id), (0, 1), "before version 4 nobody joins twice");
}

#[tokio::test]
async fn members_leave_one_by_one_or_together() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let joined = join(&mut client, "g").await;
    let identity = |member: &StrBytes| MemberIdentity { member_id: member.clone(), ..Default::default() };
    let members = vec![identity(&joined.member_id), identity(&name("stranger"))];
    let request = LeaveGroupRequest { group_id: name("g"), members, ..Default::default() };
    let left = client.call(5, &request).await;
    let codes: Vec<_> = left.members.iter().map(|member| member.error_code).collect();
    assert_eq!((left.error_code, codes), (0, vec![0, ErrorCode::UnknownMemberId.code()]));
    let absent = LeaveGroupRequest { group_id: name("absent"), ..request };
    let codes: Vec<_> = client.call(5, &absent).await.members.into_iter().map(|one| one.error_code).collect();
    assert_eq!(codes, [ErrorCode::UnknownMemberId.code(); 2]);
    let joined = join(&mut client, "g").await;
    let alone = LeaveGroupRequest { group_id: name("g"), member_id: joined.member_id, ..Default::default() };
    assert_eq!(client.call(1, &alone).await.error_code, 0);
    assert_eq!(client.call(1, &alone).await.error_code, ErrorCode::UnknownMemberId.code());
}

#[tokio::test]
async fn a_waiting_join_ends_with_its_client() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    let first = join(&mut one, "g").await;
    let asked = two.call(9, &join_request("g", &name(""))).await;
    two.send(9, &join_request("g", &asked.member_id)).await;
    while heartbeat(&mut one, "g", &first).await == Some(ErrorCode::None) {}
    drop(two);
    until("the connection of the waiting join is gone", || server.open() == 1).await;
    drop(one);
    server.check_alive_and_clean().await;
}

#[tokio::test]
async fn groups_are_listed_described_and_deleted() {
    let server = Server::start().await;
    server.topic("t", 1, &[]).await;
    server.topic("u", 1, &[]).await;
    let mut client = server.client().await;
    commit(&mut client, COMMIT, &commit_request("simple", "t", &[0])).await;
    let joined = join(&mut client, "members").await;
    client.call(5, &sync_request("members", &joined, &[(&joined.member_id, "all")])).await;
    let filter = |states: &[&str], types: &[&str]| ListGroupsRequest {
        states_filter: states.iter().copied().map(name).collect(),
        types_filter: types.iter().copied().map(name).collect(),
    };
    let cases: [(&[&str], &[&str], &[&str]); 6] = [
        (&[], &[], &["members", "simple"]),
        (&["Stable"], &[], &["members"]),
        (&["empty", "STABLE"], &[], &["members", "simple"]),
        (&["NoSuchState"], &[], &[]),
        (&[], &["Classic"], &["members", "simple"]),
        (&[], &["consumer"], &[]),
    ];
    for (states, types, expected) in cases {
        let listed = client.call(5, &filter(states, types)).await;
        let names: Vec<_> = listed.groups.iter().map(|group| group.group_id.as_str()).collect();
        assert_eq!((listed.error_code, &names[..]), (0, expected), "{states:?} {types:?}");
    }
    let listed = client.call(5, &filter(&["Stable"], &[])).await.groups.remove(0);
    assert_eq!((listed.protocol_type.as_str(), listed.group_state.as_str()), ("consumer", "Stable"));
    assert_eq!(listed.group_type.as_str(), "classic");

    let absent = DescribeGroupsRequest { groups: vec![name("absent")], ..Default::default() };
    let new = client.call(6, &absent).await.groups.remove(0);
    assert_eq!((new.error_code, new.group_state.as_str()), (ErrorCode::GroupIdNotFound.code(), "Dead"));
    assert_eq!(new.error_message.as_deref(), Some("Group absent not found."));
    let old = client.call(5, &absent).await.groups.remove(0);
    assert_eq!((old.error_code, old.group_state.as_str()), (0, "Dead"));
    assert_eq!(old.authorized_operations, i32::MIN);

    let groups_names = ["members", "absent", "simple", "simple"].map(name).to_vec();
    let deleted = client.call(2, &DeleteGroupsRequest { groups_names }).await.results;
    let codes: Vec<_> = deleted.iter().map(|one| ErrorCode::from_code(one.error_code).unwrap()).collect();
    assert_eq!(codes, [ErrorCode::NonEmptyGroup, ErrorCode::GroupIdNotFound, ErrorCode::None]);
    assert_eq!(committed(&mut client, "simple", &[0]).await[0].0, -1, "its offsets went with it");
}
