//! ListGroups: all groups, or those in some states (KIP-518) and of some types (KIP-848).

use ferrymq_broker::groups::{GroupState, GroupType, ListRequest};
use ferrymq_kafka_codec::StrBytes;
use ferrymq_kafka_codec::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

use crate::context::Context;
use crate::errors;

pub(crate) async fn handle(context: &Context, request: ListGroupsRequest) -> ListGroupsResponse {
    // No filter lists all; a filter of names that nobody knows lists none.
    let states = request.states_filter;
    let types = request.types_filter;
    let wanted = ListRequest {
        states: (!states.is_empty())
            .then(|| states.iter().filter_map(|text| GroupState::parse(text)).collect()),
        types: (!types.is_empty()).then(|| types.iter().filter_map(|text| GroupType::parse(text)).collect()),
    };
    match context.groups.list(wanted).await {
        Err(error) => ListGroupsResponse { error_code: errors::group(&error).code(), ..Default::default() },
        Ok(listed) => {
            let groups = listed.into_iter().map(|group| ListedGroup {
                group_id: StrBytes::from(group.group.to_string()),
                protocol_type: StrBytes::from(group.protocol_type.to_string()),
                group_state: StrBytes::from_static(group.state.name()),
                group_type: StrBytes::from_static(group.group_type.name()),
            });
            ListGroupsResponse { groups: groups.collect(), ..Default::default() }
        }
    }
}
