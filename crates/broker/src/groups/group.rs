//! One classic group: its members, its state and its offsets.
//!
//! ```text
//!            join                all joined or time is up        assignment from the leader
//!   Empty ───────▶ Preparing ──────────────────────────▶ Completing ─────────────▶ Stable
//!     ▲            │   ▲  ▲                                    │                    │
//!     └────────────┘   │  └── member added, gone or changed ───┴────────────────────┘
//!      nobody left     └── nobody but absent static members: wait again
//! ```
//! **Invariants.** The leader is a member, and there is one if there are members. An instance id belongs to
//! one member. Pending members (who were given an id and have not yet come back with it) are no members.
//! `persisted` is what the last emitted metadata record says.
//!
//! Deliberately absent: a Dead state. A group that is deleted is gone from the map at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferrymq_runtime::{ByteBudget, BytePermit};

use super::coordinator::Context;
use super::member::Member;
use super::record::{CommittedOffset, GroupMetadata, GroupRecord};
use super::timers::TimerKey;
use super::types::{GroupError, GroupState, JoinMember, JoinResponse, Protocol};

/// The group's protocol type that the broker looks into (topics of subscriptions).
pub(super) const CONSUMER: &str = "consumer";

/// A classic group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: Arc<str>,
    pub(super) state: GroupState,
    /// In `PreparingRebalance`: the group was empty, more members are waited for.
    pub(super) initial: Option<InitialDelay>,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Member ids by instance id.
    pub(super) statics: BTreeMap<Arc<str>, Arc<str>>,
    pub(super) pending: BTreeSet<Arc<str>>,
    /// Members of this generation that have not asked for their assignment.
    pub(super) pending_sync: BTreeSet<Arc<str>>,
    /// Since when it is in this state, in milliseconds since 1970.
    pub(super) since_ms: i64,
    pub(super) persisted: Option<Arc<GroupMetadata>>,
    pub(super) offsets: BTreeMap<(Arc<str>, u32), CommittedOffset>,
    /// Room for its members.
    room: Option<BytePermit>,
}

/// The wait of an empty group for its first members.
#[derive(Debug, Clone, Copy)]
pub(super) struct InitialDelay {
    /// How much longer it may still be extended.
    pub(super) left_ms: u64,
    /// Whether somebody joined since the last extension.
    pub(super) joined: bool,
}

impl Group {
    pub(super) fn new(id: Arc<str>) -> Group {
        Group {
            id,
            state: GroupState::Empty,
            initial: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            since_ms: 0,
            persisted: None,
            offsets: BTreeMap::new(),
            room: None,
        }
    }

    /// Takes the state that a replayed record describes.
    pub(super) fn restore(&mut self, metadata: Arc<GroupMetadata>) {
        self.state = if metadata.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        self.generation = metadata.generation;
        self.protocol_type = metadata.protocol_type.clone();
        self.protocol = metadata.protocol.clone();
        self.leader = metadata.leader.clone();
        self.since_ms = metadata.since_ms;
        let members = metadata.members.iter();
        self.members =
            members.clone().map(|info| (Arc::clone(&info.id), Member::new(info.clone()))).collect();
        self.statics = members
            .filter_map(|info| Some((Arc::clone(info.instance_id.as_ref()?), Arc::clone(&info.id))))
            .collect();
        self.persisted = Some(metadata);
    }

    /// Starts the sessions of a group that was just replayed.
    pub(super) fn resume(&mut self, context: &mut Context<'_>) {
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in &ids {
            self.renew_session(context, id);
        }
        // They were let in before; if there is no room for them now, nobody else is let in.
        let _counted = self.make_room(context.room, self.subscribed_bytes() + self.assigned_bytes());
        if self.members.len() > context.config.group_size_max {
            self.prepare_rebalance(context);
        }
    }

    /// Whether nothing is left of it that anybody could ask for.
    pub(super) fn is_vacant(&self) -> bool {
        self.members.is_empty()
            && self.pending.is_empty()
            && self.persisted.is_none()
            && self.offsets.is_empty()
            && self.state == GroupState::Empty
    }

    /// Emits the present state: stable with its members, or empty.
    pub(super) fn persist(&mut self, context: &mut Context<'_>) {
        let metadata = Arc::new(GroupMetadata {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            since_ms: self.since_ms,
            members: self.members.values().map(|member| member.info.clone()).collect(),
        });
        self.persisted = Some(Arc::clone(&metadata));
        let record = GroupRecord::Classic { group: Arc::clone(&self.id), value: Some(metadata) };
        context.effects.records.push(record);
    }

    pub(super) fn enter(&mut self, context: &Context<'_>, state: GroupState) {
        self.state = state;
        self.since_ms = context.now.wall_ms;
    }

    pub(super) fn renew_session(&self, context: &mut Context<'_>, member_id: &str) {
        if let Some(member) = self.members.get(member_id) {
            let after_ms = u64::from(member.info.session_timeout_ms);
            context.set_timer(self.member_timer(&member.info.id), after_ms);
        }
    }

    pub(super) fn member_timer(&self, member_id: &Arc<str>) -> TimerKey {
        TimerKey::Member(Arc::clone(&self.id), Arc::clone(member_id))
    }

    pub(super) fn join_timer(&self) -> TimerKey {
        TimerKey::Join(Arc::clone(&self.id))
    }

    pub(super) fn sync_timer(&self) -> TimerKey {
        TimerKey::Sync(Arc::clone(&self.id))
    }

    /// The longest rebalance timeout of its members.
    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        let timeouts = self.members.values().map(|member| member.info.rebalance_timeout_ms);
        timeouts.max().unwrap_or(0).into()
    }

    /// Checks that the member is one, and that no other has taken its instance id.
    pub(super) fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance_id) = instance_id {
            match self.statics.get(instance_id) {
                None => return Err(GroupError::UnknownMemberId),
                Some(owner) if &**owner != member_id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    pub(super) fn all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.join.is_some())
    }

    pub(super) fn waiting_joins(&self) -> usize {
        self.members.values().filter(|member| member.join.is_some()).count()
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// Whether a member with these protocols fits in.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == GroupState::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| self.all_support(&protocol.name))
    }

    fn all_support(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.supports(protocol))
    }

    /// The protocol that most members prefer among those that all support; of several, the first by name.
    pub(super) fn elect_protocol(&self) -> Option<Arc<str>> {
        let first = self.members.values().next()?;
        let candidates: BTreeSet<&Arc<str>> = first
            .info
            .protocols
            .iter()
            .map(|protocol| &protocol.name)
            .filter(|name| self.all_support(name))
            .collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let mut names = member.info.protocols.iter().map(|protocol| &protocol.name);
            if let Some(vote) = names.find(|name| candidates.contains(name)) {
                *votes.entry(vote).or_default() += 1;
            }
        }
        let most = votes.values().max().copied()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| Arc::clone(name))
    }

    /// Takes a member out, answering whatever it waits for.
    pub(super) fn remove_member(&mut self, context: &mut Context<'_>, member_id: &str, why: &GroupError) {
        let Some((id, member)) = self.members.remove_entry(member_id) else { return };
        context.answer_join(member.join, Err(why.clone()));
        context.answer_sync(member.sync, Err(why.clone()));
        context.timers.cancel(&self.member_timer(&id));
        if let Some(instance_id) = &member.info.instance_id {
            self.statics.remove(instance_id);
        }
        self.pending_sync.remove(&id);
        self.give_back(member.info.subscribed_bytes() + member.info.assignment.len());
        if self.is_leader(&id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// The answer to a member's join: this generation.
    pub(super) fn generation_for(&self, member_id: &Arc<str>) -> JoinResponse {
        let members = if self.is_leader(member_id) { self.members_for_leader() } else { Vec::new() };
        JoinResponse {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: Arc::clone(member_id),
            members,
            skip_assignment: false,
        }
    }

    fn members_for_leader(&self) -> Vec<JoinMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| JoinMember {
            member_id: Arc::clone(&member.info.id),
            instance_id: member.info.instance_id.clone(),
            metadata: member.info.metadata(protocol),
        });
        members.collect()
    }

    /// Bytes of its members but for their assignments.
    pub(super) fn subscribed_bytes(&self) -> usize {
        self.members.values().map(|member| member.info.subscribed_bytes()).sum()
    }

    /// Bytes of its members' assignments.
    pub(super) fn assigned_bytes(&self) -> usize {
        self.members.values().map(|member| member.info.assignment.len()).sum()
    }

    /// Bytes of the ids of those that have not come back with theirs.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|id| id.len()).sum()
    }

    /// Sees to it that the group has room for members of `bytes`, and for no more.
    pub(super) fn make_room(&mut self, budget: &ByteBudget, bytes: usize) -> bool {
        match &mut self.room {
            Some(held) if bytes <= held.bytes() => held.shrink_to(bytes),
            held => {
                let missing = bytes - held.as_ref().map_or(0, BytePermit::bytes);
                let Some(more) = budget.try_take(missing) else { return false };
                match held {
                    Some(held) => held.merge(more),
                    None => *held = Some(more),
                }
            }
        }
        true
    }

    /// A member of `bytes` is gone.
    pub(super) fn give_back(&mut self, bytes: usize) {
        if self.members.is_empty() {
            self.room = None;
        } else if let Some(held) = &mut self.room {
            held.shrink_to(held.bytes().saturating_sub(bytes));
        }
    }

    pub(super) fn live_bytes(&self) -> usize {
        let metadata = self.persisted.as_ref().map_or(0, |metadata| metadata.size() + self.id.len() + 32);
        let offsets = self.offsets.iter();
        let offsets: usize =
            offsets.map(|((topic, _), value)| 80 + self.id.len() + topic.len() + value.metadata.len()).sum();
        metadata + offsets
    }

    /// Checks what must hold between operations.
    #[cfg(test)]
    pub(super) fn check(&self, timers: &super::timers::Timers) {
        let id = &self.id;
        let leads = self.leader.as_ref().map(|leader| self.members.contains_key(leader));
        assert_eq!(leads, (!self.members.is_empty()).then_some(true), "{id}: leader {:?}", self.leader);
        for (instance_id, member_id) in &self.statics {
            let owner = self.members.get(member_id).and_then(|member| member.info.instance_id.as_ref());
            assert_eq!(owner, Some(instance_id), "{id}");
        }
        let statics = self.members.values().filter(|member| member.is_static()).count();
        assert_eq!(statics, self.statics.len(), "{id}");
        assert!(self.pending.iter().all(|member_id| !self.members.contains_key(member_id)), "{id}");
        assert!(self.pending_sync.iter().all(|member_id| self.members.contains_key(member_id)), "{id}");
        for member in self.members.values() {
            let has_timer = timers.is_set(&self.member_timer(&member.info.id));
            assert!(has_timer || member.is_excused(), "{id}: {} may stay for ever", member.info.id);
            assert!(member.join.is_none() || self.state == GroupState::PreparingRebalance, "{id}");
            assert!(member.sync.is_none() || self.state == GroupState::CompletingRebalance, "{id}");
        }
        for member_id in &self.pending {
            assert!(timers.is_set(&self.member_timer(member_id)), "{id}: pending {member_id}");
        }
        let preparing = self.state == GroupState::PreparingRebalance;
        assert_eq!(preparing, timers.is_set(&self.join_timer()), "{id}: {:?}", self.state);
        let syncing = !self.pending_sync.is_empty();
        assert_eq!(syncing, timers.is_set(&self.sync_timer()), "{id}: {:?}", self.state);
        assert!(syncing || self.state != GroupState::CompletingRebalance, "{id}");
        assert_eq!(self.state == GroupState::Empty, self.members.is_empty() && !preparing, "{id}");
    }
}
