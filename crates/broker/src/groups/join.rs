//! Joining: who may come in, under which id, and whether that begins a rebalance.
//!
//! Decisions per state are those of Kafka's group coordinator; KIP-394 (a new member is first given an id),
//! KIP-345 (static members), KIP-389 (group size), KIP-814 (a static leader that returns skips assigning).
//!
//! **Invariant.** A join that is parked leaves a member with a deadline behind.
//!
//! Deliberately absent: how a rebalance goes on; see `rebalance`.

use std::sync::Arc;

use uuid::Builder;

use super::coordinator::{Context, Ticket};
use super::group::Group;
use super::member::Member;
use super::record::{MEMBER_BYTES, MemberMetadata, copied, protocol_bytes};
use super::types::{GroupError, GroupState, JoinRequest, Protocol};

impl Group {
    pub(super) fn join(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        request: JoinRequest,
        fresh: u128,
    ) {
        if let Err(error) = self.admit(context, &request) {
            return context.answer_join(Some(ticket), Err(error));
        }
        if request.member_id.is_empty() {
            self.join_as_new(context, ticket, request, fresh);
        } else if self.pending.contains(&*request.member_id) {
            let id: Arc<str> = Arc::from(&*request.member_id);
            if request.instance_id.is_some() {
                let error = GroupError::InvalidRequest("a pending member cannot become static");
                return context.answer_join(Some(ticket), Err(error));
            }
            self.add_member(context, ticket, id, request);
        } else {
            self.join_again(context, ticket, request);
        }
    }

    /// Whether there is room, and a protocol in common.
    fn admit(&mut self, context: &mut Context<'_>, request: &JoinRequest) -> Result<(), GroupError> {
        let size_max = context.config.group_size_max;
        let known = self.known(request);
        let has_room = match self.state {
            GroupState::Empty => true,
            // Those that wait count, not the members: so the last to return to a group that has become too
            // large are turned away.
            GroupState::PreparingRebalance => {
                known.is_some_and(|member| member.join.is_some()) || self.waiting_joins() < size_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || self.members.len() < size_max
            }
        };
        if !has_room || (known.is_none() && self.pending.len() >= size_max.max(1)) {
            if let Some(id) = self.pending.take(&*request.member_id) {
                context.timers.cancel(&self.member_timer(&id));
            }
            self.remove_member(context, &request.member_id, &GroupError::GroupMaxSizeReached);
            self.maybe_complete_join(context);
            return Err(GroupError::GroupMaxSizeReached);
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        let replaced = known.map_or(0, |member| member.info.subscribed_bytes());
        let subscribed = self.subscribed_bytes() - replaced + joining_bytes(request);
        // The other half is for assignments.
        if subscribed > context.config.group_bytes_max / 2 {
            return Err(GroupError::GroupTooLarge);
        }
        if !self.make_room(context.room, subscribed + self.assigned_bytes() + self.pending_bytes()) {
            return Err(GroupError::NoRoom);
        }
        Ok(())
    }

    /// The member that this request is from: by its id, or a static one that comes back without it.
    fn known(&self, request: &JoinRequest) -> Option<&Member> {
        let by_instance = request.instance_id.as_deref().filter(|_| request.member_id.is_empty());
        let by_instance = by_instance.and_then(|instance_id| self.statics.get(instance_id));
        self.members.get(by_instance.map_or(&*request.member_id, |id| &**id))
    }

    fn join_as_new(&mut self, context: &mut Context<'_>, ticket: Ticket, request: JoinRequest, fresh: u128) {
        let prefix = request.instance_id.as_deref().unwrap_or(&request.client_id);
        let id: Arc<str> =
            Arc::from(format!("{prefix}-{}", Builder::from_random_bytes(fresh.to_be_bytes()).into_uuid()));
        let existing = request.instance_id.as_deref().and_then(|instance_id| self.statics.get(instance_id));
        if let Some(existing) = existing.cloned() {
            self.replace_static(context, ticket, &existing, id, request);
        } else if request.member_id_required && request.instance_id.is_none() {
            self.pending.insert(Arc::clone(&id));
            // What it brought is not kept; it brings it again.
            let kept = self.subscribed_bytes() + self.assigned_bytes() + self.pending_bytes();
            let _smaller = self.make_room(context.room, kept);
            context.set_timer(self.member_timer(&id), request.session_timeout_ms.into());
            context.answer_join(Some(ticket), Err(GroupError::MemberIdRequired { member_id: id }));
        } else {
            self.add_member(context, ticket, id, request);
        }
    }

    fn add_member(&mut self, context: &mut Context<'_>, ticket: Ticket, id: Arc<str>, request: JoinRequest) {
        if let Some(initial) = &mut self.initial {
            initial.joined = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::from(request.protocol_type));
        }
        let info = MemberMetadata {
            id: Arc::clone(&id),
            instance_id: request.instance_id.map(Arc::from),
            client_id: Arc::from(request.client_id),
            client_host: Arc::from(request.client_host),
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocols: own(&request.protocols),
            assignment: bytes::Bytes::new(),
        };
        if let Some(instance_id) = &info.instance_id {
            self.statics.insert(Arc::clone(instance_id), Arc::clone(&id));
        }
        self.leader.get_or_insert_with(|| Arc::clone(&id));
        self.pending.remove(&id);
        let member = Member { is_new: true, join: Some(ticket), ..Member::new(info) };
        // A new member sends no heartbeats while it waits and its connection may be gone without our knowing,
        // so it does not wait for ever.
        context.set_timer(self.member_timer(&id), context.config.new_member_join_timeout_ms);
        self.members.insert(id, member);
        self.rebalance_or_go_on(context);
    }

    /// A member that the group knows, or claims to.
    fn join_again(&mut self, context: &mut Context<'_>, ticket: Ticket, request: JoinRequest) {
        if let Err(error) = self.check_member(&request.member_id, request.instance_id.as_deref()) {
            return context.answer_join(Some(ticket), Err(error));
        }
        let Some(member) = self.members.get(&*request.member_id) else { return };
        let id = Arc::clone(&member.info.id);
        let unchanged = member.matches(&request.protocols);
        let rebalance = match self.state {
            GroupState::PreparingRebalance => true,
            // It lost the answer to its first join.
            GroupState::CompletingRebalance => !unchanged,
            // The leader asks for a rebalance this way, say when topics have changed.
            GroupState::Stable => !unchanged || self.is_leader(&id),
            GroupState::Empty => {
                return context.answer_join(Some(ticket), Err(GroupError::UnknownMemberId));
            }
        };
        if rebalance {
            self.update_member(context, ticket, &id, &request);
            self.rebalance_or_go_on(context);
        } else {
            let answer = self.generation_for(&id);
            context.answer_join(Some(ticket), Ok(answer));
        }
    }

    fn update_member(&mut self, context: &mut Context<'_>, ticket: Ticket, id: &str, request: &JoinRequest) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.info.protocols = own(&request.protocols);
        member.info.session_timeout_ms = request.session_timeout_ms;
        member.info.rebalance_timeout_ms = request.rebalance_timeout_ms;
        let old = member.join.replace(ticket);
        context.answer_join(old, Err(GroupError::RebalanceInProgress));
    }

    /// A static member came back without its member id: it gets a new one, and whoever uses the old one is
    /// fenced. In a stable group it takes its assignment over without a rebalance, if it can.
    fn replace_static(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        old_id: &str,
        id: Arc<str>,
        request: JoinRequest,
    ) {
        let Some((old_id, mut member)) = self.members.remove_entry(old_id) else { return };
        let old_leader = self.leader.clone();
        context.answer_join(member.join.take(), Err(GroupError::FencedInstanceId));
        context.answer_sync(member.sync.take(), Err(GroupError::FencedInstanceId));
        context.timers.cancel(&self.member_timer(&old_id));
        member.info.id = Arc::clone(&id);
        member.info.client_id = Arc::from(&*request.client_id);
        member.info.client_host = Arc::from(&*request.client_host);
        if let Some(instance_id) = &member.info.instance_id {
            self.statics.insert(Arc::clone(instance_id), Arc::clone(&id));
        }
        if self.is_leader(&old_id) {
            self.leader = Some(Arc::clone(&id));
        }
        if self.pending_sync.remove(&old_id) {
            self.pending_sync.insert(Arc::clone(&id));
        }
        self.members.insert(Arc::clone(&id), member);
        self.renew_session(context, &id);
        self.update_member(context, ticket, &id, &request);
        match self.state {
            GroupState::Stable if self.protocol == self.elect_protocol() => {
                self.take_over(context, ticket, &id, old_leader, request.can_skip_assignment);
            }
            // The leader may already be assigning to the old id.
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(context),
            GroupState::PreparingRebalance | GroupState::Empty => self.maybe_complete_join(context),
        }
    }

    fn take_over(
        &mut self,
        context: &mut Context<'_>,
        ticket: Ticket,
        id: &Arc<str>,
        old_leader: Option<Arc<str>>,
        can_skip_assignment: bool,
    ) {
        if let Some(member) = self.members.get_mut(id) {
            member.join = None;
        }
        self.persist(context);
        let mut answer = self.generation_for(id);
        if can_skip_assignment {
            answer.skip_assignment = self.is_leader(id);
        } else {
            // An older client must not take itself for the leader, or it would assign anew.
            answer.leader = old_leader.unwrap_or_default();
            answer.members.clear();
        }
        context.answer_join(Some(ticket), Ok(answer));
    }
}

/// What the member will count for in [`Group::subscribed_bytes`].
fn joining_bytes(request: &JoinRequest) -> usize {
    const UUID: usize = 37;
    let instance = request.instance_id.as_deref().map_or(0, str::len);
    let prefix = if instance > 0 { instance } else { request.client_id.len() };
    let names = prefix + UUID + instance + request.client_id.len() + request.client_host.len();
    names + protocol_bytes(&request.protocols) + MEMBER_BYTES
}

/// Protocols that keep no request in memory.
fn own(protocols: &[Protocol]) -> Vec<Protocol> {
    let own = |protocol: &Protocol| Protocol {
        name: Arc::clone(&protocol.name),
        metadata: copied(&protocol.metadata),
    };
    protocols.iter().map(own).collect()
}
