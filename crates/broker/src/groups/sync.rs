//! Sync and heartbeat: what members of a generation ask.
//!
//! **Invariant.** The record of a stable group is emitted in the same step that answers its members' syncs, so
//! an assignment is durable before anybody is told of it.
//!
//! Deliberately absent: looking into assignments.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::coordinator::{Context, Ticket};
use super::group::Group;
use super::record::copied;
use super::types::{GroupError, GroupState, HeartbeatRequest, SyncRequest, SyncResponse};

impl Group {
    pub(super) fn sync(&mut self, context: &mut Context<'_>, ticket: Ticket, request: SyncRequest) {
        if let Err(error) = self.check_sync(&request) {
            return context.answer_sync(Some(ticket), Err(error));
        }
        match self.state {
            GroupState::Empty => context.answer_sync(Some(ticket), Err(GroupError::UnknownMemberId)),
            GroupState::PreparingRebalance => {
                context.answer_sync(Some(ticket), Err(GroupError::RebalanceInProgress));
            }
            GroupState::CompletingRebalance => self.sync_in_completing(context, ticket, request),
            GroupState::Stable => {
                self.has_synced(context, &request.member_id);
                let answer = self.assignment_of(&request.member_id);
                context.answer_sync(Some(ticket), Ok(answer));
            }
        }
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |asked: &Option<String>, ours: &Option<Arc<str>>| match (asked, ours) {
            (Some(asked), Some(ours)) => **asked != **ours,
            _ => false,
        };
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn sync_in_completing(&mut self, context: &mut Context<'_>, ticket: Ticket, request: SyncRequest) {
        let is_leader = self.is_leader(&request.member_id);
        let assigned: usize = request.assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        if is_leader && self.subscribed_bytes() + assigned > context.config.group_bytes_max {
            return context.answer_sync(Some(ticket), Err(GroupError::GroupTooLarge));
        }
        if is_leader && !self.make_room(context.room, self.subscribed_bytes() + assigned) {
            return context.answer_sync(Some(ticket), Err(GroupError::NoRoom));
        }
        if let Some(member) = self.members.get_mut(&*request.member_id) {
            let old = member.sync.replace(ticket);
            context.answer_sync(old, Err(GroupError::RebalanceInProgress));
        }
        self.has_synced(context, &request.member_id);
        if is_leader {
            self.assign(context, request.assignments);
        }
    }

    /// Takes the leader's assignment: the group is stable.
    fn assign(&mut self, context: &mut Context<'_>, assignments: Vec<(String, Bytes)>) {
        let mut assignments: HashMap<String, Bytes> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.info.assignment =
                assignments.remove(&**id).map(|bytes| copied(&bytes)).unwrap_or_default();
        }
        self.enter(context, GroupState::Stable);
        self.persist(context);
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.assignment_of(&id);
            if let Some(ticket) = self.members.get_mut(&id).and_then(|member| member.sync.take()) {
                context.answer_sync(Some(ticket), Ok(answer));
                // Its session was not watched while it waited.
                self.renew_session(context, &id);
            }
        }
    }

    fn has_synced(&mut self, context: &mut Context<'_>, member_id: &str) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            context.timers.cancel(&self.sync_timer());
        }
    }

    fn assignment_of(&self, member_id: &str) -> SyncResponse {
        let member = self.members.get(member_id);
        SyncResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment: member.map(|member| member.info.assignment.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        context: &mut Context<'_>,
        request: &HeartbeatRequest,
    ) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        match self.state {
            GroupState::Empty => Err(GroupError::UnknownMemberId),
            GroupState::PreparingRebalance => {
                self.renew_session(context, &request.member_id);
                Err(GroupError::RebalanceInProgress)
            }
            // Clients begin their heartbeats with the answer to the join.
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.renew_session(context, &request.member_id);
                Ok(())
            }
        }
    }
}
