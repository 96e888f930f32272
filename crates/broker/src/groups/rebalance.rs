//! The rebalance: gathering members, making a generation, giving up on those that do not come.
//!
//! **Invariant.** While a rebalance is being prepared the group's join deadline is set; while an assignment is
//! awaited its sync deadline is. So a rebalance ends whatever its members do.
//!
//! Deliberately absent: the assignment itself; see `sync`.

use std::sync::Arc;

use bytes::Bytes;

use super::coordinator::Context;
use super::group::{Group, InitialDelay};
use super::types::{GroupError, GroupState};

impl Group {
    /// After a member came or changed: begins a rebalance, or goes on with the one there is.
    pub(super) fn rebalance_or_go_on(&mut self, context: &mut Context<'_>) {
        if self.state == GroupState::PreparingRebalance {
            self.maybe_complete_join(context);
        } else {
            self.prepare_rebalance(context);
        }
    }

    /// Begins a rebalance.
    pub(super) fn prepare_rebalance(&mut self, context: &mut Context<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.interrupt_syncs(context);
        }
        self.pending_sync.clear();
        context.timers.cancel(&self.sync_timer());
        let was_empty = self.state == GroupState::Empty;
        self.enter(context, GroupState::PreparingRebalance);
        if was_empty {
            let delay_ms = context.config.initial_rebalance_delay_ms;
            let left_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.initial = Some(InitialDelay { left_ms, joined: false });
            context.set_timer(self.join_timer(), delay_ms);
        } else if self.all_joined() {
            self.complete_join(context);
        } else {
            context.set_timer(self.join_timer(), self.rebalance_timeout_ms());
        }
    }

    /// Ends the gathering if everybody is here. The first one of an empty group always lasts its delay.
    pub(super) fn maybe_complete_join(&mut self, context: &mut Context<'_>) {
        if self.state == GroupState::PreparingRebalance && self.initial.is_none() && self.all_joined() {
            self.complete_join(context);
        }
    }

    /// The join deadline has passed.
    pub(super) fn join_time_is_up(&mut self, context: &mut Context<'_>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        match &mut self.initial {
            Some(initial) if initial.joined && initial.left_ms > 0 => {
                let delay_ms = context.config.initial_rebalance_delay_ms.min(initial.left_ms);
                *initial = InitialDelay { left_ms: initial.left_ms - delay_ms, joined: false };
                context.set_timer(self.join_timer(), delay_ms);
            }
            _ => self.complete_join(context),
        }
    }

    /// Makes a generation of those that joined.
    fn complete_join(&mut self, context: &mut Context<'_>) {
        context.timers.cancel(&self.join_timer());
        self.initial = None;
        let absent = self.members.values().filter(|member| member.join.is_none() && !member.is_static());
        let absent: Vec<Arc<str>> = absent.map(|member| Arc::clone(&member.info.id)).collect();
        for id in absent {
            self.remove_member(context, &id, &GroupError::UnknownMemberId);
        }
        if self.members.is_empty() {
            return self.become_empty(context);
        }
        if !self.elect_leader() {
            // Only static members, and none of them here: wait until they come or their sessions end, and do
            // not look every millisecond because a client asked for no timeout.
            return context.set_timer(self.join_timer(), self.rebalance_timeout_ms().max(1000));
        }
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        self.protocol = self.elect_protocol();
        self.enter(context, GroupState::CompletingRebalance);
        self.announce_generation(context);
        context.set_timer(self.sync_timer(), self.rebalance_timeout_ms());
    }

    fn become_empty(&mut self, context: &mut Context<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        self.protocol = None;
        self.pending_sync.clear();
        self.enter(context, GroupState::Empty);
        self.persist(context);
    }

    /// Keeps the leader if it joined, else takes the first that did.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &Arc<str>| self.members.get(id).is_some_and(|member| member.join.is_some());
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let first = self.members.values().find(|member| member.join.is_some());
        let Some(first) = first.map(|member| Arc::clone(&member.info.id)) else { return false };
        self.leader = Some(first);
        true
    }

    fn announce_generation(&mut self, context: &mut Context<'_>) {
        self.pending_sync = self.members.keys().cloned().collect();
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            let answer = self.generation_for(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
                context.answer_join(member.join.take(), Ok(answer));
            }
            self.renew_session(context, &id);
        }
    }

    /// The assignment will not come: those that wait for it must join again.
    fn interrupt_syncs(&mut self, context: &mut Context<'_>) {
        let mut waited = Vec::new();
        for member in self.members.values_mut() {
            member.info.assignment = Bytes::new();
            if let Some(ticket) = member.sync.take() {
                context.answer_sync(Some(ticket), Err(GroupError::RebalanceInProgress));
                waited.push(Arc::clone(&member.info.id));
            }
        }
        for id in waited {
            self.renew_session(context, &id);
        }
    }

    /// The sync deadline has passed: members that never asked for their assignment are taken for gone.
    pub(super) fn sync_time_is_up(&mut self, context: &mut Context<'_>) {
        let waiting = matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable);
        if !waiting || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.remove_member(context, &id, &GroupError::UnknownMemberId);
        }
        self.prepare_rebalance(context);
    }

    /// A session has ended.
    pub(super) fn expire_member(&mut self, context: &mut Context<'_>, member_id: &Arc<str>) {
        if self.pending.remove(member_id) {
            self.give_back(member_id.len());
            return self.complete_if_all_joined(context);
        }
        if self.members.get(member_id).is_none_or(super::member::Member::is_excused) {
            return;
        }
        self.remove_member(context, member_id, &GroupError::UnknownMemberId);
        self.after_removal(context);
    }

    /// Goes on without a member that was just removed.
    pub(super) fn after_removal(&mut self, context: &mut Context<'_>) {
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(context),
            GroupState::PreparingRebalance => self.complete_if_all_joined(context),
            GroupState::Empty => {}
        }
    }

    /// Unlike [`Group::maybe_complete_join`] also within the first delay: whoever was waited for is gone.
    fn complete_if_all_joined(&mut self, context: &mut Context<'_>) {
        if self.state == GroupState::PreparingRebalance && self.all_joined() {
            self.complete_join(context);
        }
    }
}
