//! SyncGroup: the leader hands in the assignment, everybody gets theirs.

use bytes::Bytes;
use ferrymq_broker::groups::{GroupError, SyncRequest};
use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};

use crate::context::Context;
use crate::errors;

pub(crate) async fn handle(context: &Context, request: SyncGroupRequest) -> SyncGroupResponse {
    let synced = if request.group_id.is_empty() {
        Err(GroupError::InvalidGroupId)
    } else {
        // What a group keeps must not keep the request's frame.
        let assignments = request
            .assignments
            .into_iter()
            .map(|entry| (entry.member_id.to_string(), Bytes::copy_from_slice(&entry.assignment)));
        let request = SyncRequest {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: request.group_instance_id.map(String::from),
            generation: request.generation_id,
            protocol_type: request.protocol_type.map(String::from),
            protocol_name: request.protocol_name.map(String::from),
            assignments: assignments.collect(),
        };
        context.groups.sync(request).await
    };
    match synced {
        Ok(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type.map(|text| StrBytes::from(text.to_string())),
            protocol_name: synced.protocol_name.map(|text| StrBytes::from(text.to_string())),
            assignment: synced.assignment,
            ..Default::default()
        },
        Err(error) => SyncGroupResponse { error_code: errors::group(&error).code(), ..Default::default() },
    }
}
