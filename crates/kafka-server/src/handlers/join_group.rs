//! JoinGroup: becoming a member, and waiting for the generation that has one in it.
//!
//! A join whose client goes away is dropped with its connection; the member it made expires by its session.

use std::net::IpAddr;
use std::sync::Arc;

use ferrymq_broker::groups::{GroupError, JoinRequest, JoinResponse, Protocol};
use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::join_group::{
    JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember,
};

use crate::context::Context;
use crate::errors;

/// First version with a rebalance timeout of its own.
const REBALANCE_TIMEOUT_SINCE: i16 = 1;
/// First version whose new members are given an id and join again with it (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;
/// First version that may lack a protocol in its answer.
const NULL_PROTOCOL_SINCE: i16 = 7;
/// First version whose leader may be told to keep the assignment (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;

pub(crate) async fn handle(
    context: &Context,
    version: i16,
    client: (Option<StrBytes>, IpAddr),
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let asked_as = request.member_id.detach();
    let joined = match neutral(version, client, request) {
        Ok(request) => context.groups.join(request).await,
        Err(error) => Err(error),
    };
    match joined {
        Ok(joined) => answer(version, joined),
        Err(error) => {
            let member_id = match &error {
                GroupError::MemberIdRequired { member_id } => text(member_id),
                _ => asked_as,
            };
            JoinGroupResponse {
                error_code: errors::group(&error).code(),
                generation_id: -1,
                protocol_name: (version < NULL_PROTOCOL_SINCE).then(StrBytes::new),
                member_id,
                ..Default::default()
            }
        }
    }
}

fn neutral(
    version: i16,
    (client_id, host): (Option<StrBytes>, IpAddr),
    request: JoinGroupRequest,
) -> Result<JoinRequest, GroupError> {
    if request.group_id.is_empty() {
        return Err(GroupError::InvalidGroupId);
    }
    let session_timeout_ms =
        u32::try_from(request.session_timeout_ms).map_err(|_| GroupError::InvalidSessionTimeout)?;
    let rebalance_timeout_ms = if version >= REBALANCE_TIMEOUT_SINCE {
        u32::try_from(request.rebalance_timeout_ms).unwrap_or(0)
    } else {
        session_timeout_ms
    };
    let protocols = request.protocols.into_iter().map(|protocol| Protocol {
        name: Arc::from(&*protocol.name),
        // What a group keeps must not keep the request's frame.
        metadata: bytes::Bytes::copy_from_slice(&protocol.metadata),
    });
    Ok(JoinRequest {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.map(String::from),
        client_id: client_id.map(String::from).unwrap_or_default(),
        // As Java prints an address.
        client_host: format!("/{host}"),
        session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.collect(),
        member_id_required: version >= MEMBER_ID_REQUIRED_SINCE,
        can_skip_assignment: version >= SKIP_ASSIGNMENT_SINCE,
    })
}

fn answer(version: i16, joined: JoinResponse) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| JoinGroupResponseMember {
        member_id: text(&member.member_id),
        group_instance_id: member.instance_id.as_ref().map(text),
        metadata: member.metadata,
    });
    let protocol_name = joined.protocol_name.as_ref().map(text);
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.as_ref().map(text),
        protocol_name: protocol_name.or_else(|| (version < NULL_PROTOCOL_SINCE).then(StrBytes::new)),
        leader: text(&joined.leader),
        skip_assignment: joined.skip_assignment,
        member_id: text(&joined.member_id),
        members: members.collect(),
        ..Default::default()
    }
}

fn text(shared: &Arc<str>) -> StrBytes {
    StrBytes::from(shared.to_string())
}
