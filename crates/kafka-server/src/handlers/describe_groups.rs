//! DescribeGroups: groups with their members.

use std::collections::HashSet;

use ferrymq_broker::groups::{GroupDescription, GroupError, MemberDescription};
use ferrymq_kafka_codec::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use crate::context::Context;
use crate::errors;

/// All operations on a group, as bits: nobody is restricted yet.
const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;
/// First version that tells a group that is not there from one that is dead (KIP-1043).
const NOT_FOUND_SINCE: i16 = 6;
/// The state of a group that is not there.
const DEAD: &str = "Dead";

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut answered = HashSet::new();
    let mut groups = Vec::new();
    for group_id in request.groups {
        if !answered.insert(group_id.clone()) {
            continue;
        }
        let mut described = match context.groups.describe(group_id.to_string()).await {
            Ok(description) => describe(group_id, description),
            Err(error) => failed(version, group_id, &error),
        };
        if request.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = GROUP_OPERATIONS;
        }
        groups.push(described);
    }
    DescribeGroupsResponse { groups, ..Default::default() }
}

fn describe(group_id: StrBytes, description: GroupDescription) -> DescribedGroup {
    DescribedGroup {
        group_id,
        group_state: StrBytes::from_static(description.state.name()),
        protocol_type: StrBytes::from(description.protocol_type.to_string()),
        protocol_data: StrBytes::from(description.protocol_name.to_string()),
        members: description.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(member: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: StrBytes::from(member.member_id.to_string()),
        group_instance_id: member.instance_id.map(|id| StrBytes::from(id.to_string())),
        client_id: StrBytes::from(member.client_id.to_string()),
        client_host: StrBytes::from(member.client_host.to_string()),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    }
}

fn failed(version: i16, group_id: StrBytes, error: &GroupError) -> DescribedGroup {
    let code = errors::group(error);
    if code != ErrorCode::GroupIdNotFound {
        return DescribedGroup { group_id, error_code: code.code(), ..Default::default() };
    }
    let mut described = DescribedGroup { group_state: StrBytes::from(DEAD), ..Default::default() };
    if version >= NOT_FOUND_SINCE {
        described.error_code = code.code();
        described.error_message = Some(StrBytes::from(format!("Group {group_id} not found.")));
    }
    described.group_id = group_id;
    described
}
