//! Listing, describing and deleting groups.
//!
//! **Invariant.** Only an empty group is deleted, in one record that takes its offsets along.
//!
//! Deliberately absent: authorisation; the doors ask for it.

use std::sync::Arc;

use super::coordinator::{Coordinator, Effects};
use super::group::Group;
use super::record::GroupRecord;
use super::timers::TimerKey;
use super::types::{
    GroupDescription, GroupError, GroupState, GroupType, ListRequest, ListedGroup, MemberDescription,
};

impl Coordinator {
    /// Lists groups by id.
    #[must_use]
    pub fn list(&self, request: &ListRequest) -> Vec<ListedGroup> {
        let types = request.types.as_ref();
        if types.is_some_and(|types| !types.contains(&GroupType::Classic)) {
            return Vec::new();
        }
        let wanted = |group: &&Group| request.states.as_ref().is_none_or(|s| s.contains(&group.state));
        let list = |group: &Group| ListedGroup {
            group: Arc::clone(&group.id),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            state: group.state,
            group_type: GroupType::Classic,
        };
        self.groups.values().filter(wanted).map(list).collect()
    }

    /// Describes a group.
    ///
    /// # Errors
    /// [`GroupError::GroupIdNotFound`].
    pub fn describe(&self, group: &str) -> Result<GroupDescription, GroupError> {
        let group = self.groups.get(group).ok_or(GroupError::GroupIdNotFound)?;
        // Between generations the members' metadata means nothing.
        let protocol = group.protocol.as_ref().filter(|_| group.state == GroupState::Stable);
        let members = group.members.values().map(|member| MemberDescription {
            member_id: Arc::clone(&member.info.id),
            instance_id: member.info.instance_id.clone(),
            client_id: Arc::clone(&member.info.client_id),
            client_host: Arc::clone(&member.info.client_host),
            metadata: protocol.map(|protocol| member.info.metadata(protocol)).unwrap_or_default(),
            assignment: member.info.assignment.clone(),
        });
        Ok(GroupDescription {
            group: Arc::clone(&group.id),
            state: group.state,
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            protocol_name: protocol.cloned().unwrap_or_default(),
            generation: group.generation,
            members: members.collect(),
        })
    }

    /// Deletes an empty group with its offsets.
    ///
    /// # Errors
    /// [`GroupError::GroupIdNotFound`], [`GroupError::NonEmptyGroup`].
    pub fn delete_group(&mut self, group: &str, effects: &mut Effects) -> Result<(), GroupError> {
        let found = self.groups.get(group).ok_or(GroupError::GroupIdNotFound)?;
        if found.state != GroupState::Empty {
            return Err(GroupError::NonEmptyGroup);
        }
        let id = Arc::clone(&found.id);
        self.remove_group(&id, effects);
        Ok(())
    }

    /// Removes an empty group and whatever is durable of it.
    pub(super) fn remove_group(&mut self, id: &Arc<str>, effects: &mut Effects) {
        let Some(group) = self.groups.remove(id) else { return };
        for member_id in &group.pending {
            self.timers.cancel(&group.member_timer(member_id));
        }
        self.timers.cancel(&TimerKey::Join(Arc::clone(id)));
        self.timers.cancel(&TimerKey::Sync(Arc::clone(id)));
        if group.persisted.is_some() || !group.offsets.is_empty() {
            effects.records.push(GroupRecord::Classic { group: Arc::clone(id), value: None });
        }
    }
}
