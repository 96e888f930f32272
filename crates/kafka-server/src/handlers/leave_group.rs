//! LeaveGroup: one member goes, or from version 3 on several are taken out (KIP-345).

use ferrymq_broker::groups::{GroupError, LeaveMember, LeaveRequest};
use ferrymq_kafka_codec::messages::leave_group::{
    LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse,
};

use crate::context::Context;
use crate::errors;

/// First version that names several members.
const BATCHED_SINCE: i16 = 3;

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let failed = |error: &GroupError| LeaveGroupResponse {
        error_code: errors::group(error).code(),
        ..Default::default()
    };
    if request.group_id.is_empty() {
        return failed(&GroupError::InvalidGroupId);
    }
    let identities = if version >= BATCHED_SINCE {
        request.members
    } else {
        vec![MemberIdentity { member_id: request.member_id, ..Default::default() }]
    };
    let members = identities.iter().map(|member| LeaveMember {
        member_id: member.member_id.to_string(),
        instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
    });
    let wanted = LeaveRequest { group: request.group_id.to_string(), members: members.collect() };
    let results = match context.groups.leave(wanted).await {
        Ok(results) => results,
        // A group that is not there has none of these members.
        Err(GroupError::UnknownMemberId | GroupError::GroupIdNotFound) => {
            identities.iter().map(|_| Err(GroupError::UnknownMemberId)).collect()
        }
        Err(error) => return failed(&error),
    };
    let code = |result: &Result<(), GroupError>| {
        result.as_ref().err().map_or(0, |error| errors::group(error).code())
    };
    if version < BATCHED_SINCE {
        return LeaveGroupResponse { error_code: results.first().map_or(0, code), ..Default::default() };
    }
    let members = identities.into_iter().zip(&results).map(|(member, result)| MemberResponse {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        error_code: code(result),
    });
    LeaveGroupResponse { members: members.collect(), ..Default::default() }
}
