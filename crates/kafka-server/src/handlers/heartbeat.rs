//! Heartbeat: a member lives.

use ferrymq_broker::groups::{self, GroupError};
use ferrymq_kafka_codec::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};

use crate::context::Context;
use crate::errors;

pub(crate) async fn handle(context: &Context, request: HeartbeatRequest) -> HeartbeatResponse {
    let beaten = if request.group_id.is_empty() {
        Err(GroupError::InvalidGroupId)
    } else {
        let request = groups::HeartbeatRequest {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: request.group_instance_id.map(String::from),
            generation: request.generation_id,
        };
        context.groups.heartbeat(request).await
    };
    let error_code = beaten.err().map_or(0, |error| errors::group(&error).code());
    HeartbeatResponse { error_code, ..Default::default() }
}
