//! DeleteGroups: empty groups go, with their offsets.

use std::collections::HashSet;

use ferrymq_kafka_codec::messages::delete_groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse,
};

use crate::context::Context;
use crate::errors;

pub(crate) async fn handle(context: &Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut answered = HashSet::new();
    let mut results = Vec::new();
    for group_id in request.groups_names {
        if !answered.insert(group_id.clone()) {
            continue;
        }
        let deleted = context.groups.delete_group(group_id.to_string()).await;
        let error_code = deleted.err().map_or(0, |error| errors::group(&error).code());
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse { results, ..Default::default() }
}
