//! All groups of one shard as a pure state machine: operations in, records and answers out.
//!
//! **Invariants.**
//! - No I/O, no clock, no random numbers: time and the random part of member ids are passed in.
//! - What an operation changes of the durable state is exactly what the records it emits say:
//!   [`Coordinator::live_records`] after [`Coordinator::apply`] of a log equals that of the live coordinator.
//! - Every parked join and sync is answered once: all of them have a deadline, or their member has.
//!
//! Deliberately absent: waiting for durability; that is the shard's.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use ferrymq_runtime::ByteBudget;

use super::config::GroupsConfig;
use super::group::Group;
use super::record::GroupRecord;
use super::timers::{TimerKey, Timers};
use super::types::{
    GroupError, HeartbeatRequest, JoinRequest, JoinResponse, LeaveRequest, LeaveResult, SyncRequest,
    SyncResponse,
};

/// Names a parked join or sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The time, as an operation sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds, for deadlines.
    pub mono_ms: u64,
    /// Milliseconds since 1970, for what is stored.
    pub wall_ms: i64,
    /// Wall time to expire by ([`ferrymq_runtime::Clock::expiry_ms`]).
    pub expiry_ms: i64,
}

/// What operations bring about besides their own answers. Valid once the records are durable.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be appended, in order.
    pub records: Vec<GroupRecord>,
    /// Answers to joins, parked or not.
    pub joins: Vec<(Ticket, Result<JoinResponse, GroupError>)>,
    /// Answers to syncs, parked or not.
    pub syncs: Vec<(Ticket, Result<SyncResponse, GroupError>)>,
}

/// What a group's operation may use besides the group.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) config: &'a GroupsConfig,
    /// Room for the members of all groups of all shards.
    pub(super) room: &'a ByteBudget,
    pub(super) timers: &'a mut Timers,
    pub(super) effects: &'a mut Effects,
}

impl Context<'_> {
    pub(super) fn set_timer(&mut self, key: TimerKey, after_ms: u64) {
        self.timers.set(key, self.now.mono_ms.saturating_add(after_ms));
    }

    pub(super) fn answer_join(&mut self, ticket: Option<Ticket>, answer: Result<JoinResponse, GroupError>) {
        if let Some(ticket) = ticket {
            self.effects.joins.push((ticket, answer));
        }
    }

    pub(super) fn answer_sync(&mut self, ticket: Option<Ticket>, answer: Result<SyncResponse, GroupError>) {
        if let Some(ticket) = ticket {
            self.effects.syncs.push((ticket, answer));
        }
    }
}

/// Where a walk over the live state stands: behind this entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    group: Arc<str>,
    /// The last offset seen; `None`: only the group's metadata was seen.
    offset: Option<(Arc<str>, u32)>,
}

/// The groups of one shard.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) config: Arc<GroupsConfig>,
    pub(super) groups: BTreeMap<Arc<str>, Group>,
    pub(super) timers: Timers,
    room: ByteBudget,
}

impl Coordinator {
    /// A shard without groups.
    #[must_use]
    pub fn new(config: Arc<GroupsConfig>) -> Coordinator {
        let room = ByteBudget::new(config.all_groups_bytes_max);
        Coordinator::sharing(config, room)
    }

    /// A shard without groups whose members take their room from what other shards also take it from.
    #[must_use]
    pub fn sharing(config: Arc<GroupsConfig>, room: ByteBudget) -> Coordinator {
        Coordinator { config, groups: BTreeMap::new(), timers: Timers::default(), room }
    }

    /// Replays one durable record. Only before [`Coordinator::loaded`].
    pub fn apply(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::Offset { group, topic, partition, value } => match value {
                Some(value) => {
                    self.group_or_new(&group).offsets.insert((topic, partition), value);
                }
                None => {
                    if let Some(found) = self.groups.get_mut(&group) {
                        found.offsets.remove(&(topic, partition));
                    }
                    self.drop_if_vacant(&group);
                }
            },
            GroupRecord::Classic { group, value } => match value {
                Some(value) => self.group_or_new(&group).restore(value),
                None => {
                    self.groups.remove(&group);
                }
            },
        }
    }

    /// Ends the replay: every member gets a full session from now on.
    pub fn loaded(&mut self, now: Now, effects: &mut Effects) {
        let config = Arc::clone(&self.config);
        let timers = &mut self.timers;
        for group in self.groups.values_mut() {
            group.resume(&mut Context { now, config: &config, room: &self.room, timers, effects });
        }
        let next = now.mono_ms.saturating_add(config.retention_check_interval_ms);
        self.timers.set(TimerKey::Retention, next);
    }

    /// When [`Coordinator::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now, effects: &mut Effects) {
        while let Some(key) = self.timers.pop_due(now.mono_ms) {
            match key {
                TimerKey::Member(group, member) => {
                    self.with_group(&group, now, effects, |group, context| {
                        group.expire_member(context, &member);
                    });
                }
                TimerKey::Join(group) => {
                    self.with_group(&group, now, effects, |group, context| group.join_time_is_up(context));
                }
                TimerKey::Sync(group) => {
                    self.with_group(&group, now, effects, |group, context| group.sync_time_is_up(context));
                }
                TimerKey::Retention => {
                    self.expire_offsets(now, effects);
                    let next = now.mono_ms.saturating_add(self.config.retention_check_interval_ms.max(1));
                    self.timers.set(TimerKey::Retention, next);
                }
            }
        }
    }

    /// Joins a group, perhaps a new one. The answer comes through `effects`, now or later. `fresh` is random
    /// and becomes part of a new member's id.
    pub fn join(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: JoinRequest,
        fresh: u128,
        effects: &mut Effects,
    ) {
        let bounds = self.config.session_timeout_ms_min..=self.config.session_timeout_ms_max;
        let refusal = if !is_group_id(&request.group) {
            GroupError::InvalidGroupId
        } else if !bounds.contains(&request.session_timeout_ms) {
            GroupError::InvalidSessionTimeout
        } else if !request.member_id.is_empty() && !self.groups.contains_key(&*request.group) {
            GroupError::UnknownMemberId
        } else {
            let id: Arc<str> = Arc::from(&*request.group);
            self.group_or_new(&id);
            self.with_group(&id, now, effects, |group, context| group.join(context, ticket, request, fresh));
            return;
        };
        effects.joins.push((ticket, Err(refusal)));
    }

    /// Hands in (leader) and asks for the assignment. The answer comes through `effects`, now or later.
    pub fn sync(&mut self, now: Now, ticket: Ticket, request: SyncRequest, effects: &mut Effects) {
        let refusal = if !is_group_id(&request.group) {
            GroupError::InvalidGroupId
        } else if !self.groups.contains_key(&*request.group) {
            GroupError::UnknownMemberId
        } else {
            let id: Arc<str> = Arc::from(&*request.group);
            self.with_group(&id, now, effects, |group, context| group.sync(context, ticket, request));
            return;
        };
        effects.syncs.push((ticket, Err(refusal)));
    }

    /// Keeps a member's session.
    ///
    /// # Errors
    /// As a member of another generation or group state must be told.
    pub fn heartbeat(
        &mut self,
        now: Now,
        request: &HeartbeatRequest,
        effects: &mut Effects,
    ) -> Result<(), GroupError> {
        if !is_group_id(&request.group) {
            return Err(GroupError::InvalidGroupId);
        }
        self.with_group(&request.group, now, effects, |group, context| group.heartbeat(context, request))
            .unwrap_or(Err(GroupError::UnknownMemberId))
    }

    /// Takes members out of a group; one result per member in order.
    ///
    /// # Errors
    /// [`GroupError::InvalidGroupId`].
    pub fn leave(
        &mut self,
        now: Now,
        request: &LeaveRequest,
        effects: &mut Effects,
    ) -> Result<Vec<LeaveResult>, GroupError> {
        if !is_group_id(&request.group) {
            return Err(GroupError::InvalidGroupId);
        }
        let left = self.with_group(&request.group, now, effects, |group, context| {
            group.leave(context, &request.members)
        });
        Ok(left.unwrap_or_else(|| vec![Err(GroupError::UnknownMemberId); request.members.len()]))
    }

    /// Walks the live state from behind `cursor`: about `bytes_max` of records that, appended to the log, make
    /// everything before them superfluous once the walk is through. `None` at the end.
    pub fn live_records(
        &self,
        cursor: Option<Cursor>,
        bytes_max: usize,
        into: &mut Vec<GroupRecord>,
    ) -> Option<Cursor> {
        let mut bytes = 0;
        let mut at = cursor;
        let from = at.as_ref().map_or(Bound::Unbounded, |cursor| Bound::Included(Arc::clone(&cursor.group)));
        for (id, group) in self.groups.range::<Arc<str>, _>((from, Bound::Unbounded)) {
            let resumed = at.as_ref().filter(|cursor| cursor.group == *id);
            let behind = resumed.and_then(|cursor| cursor.offset.clone());
            if resumed.is_none() {
                if let Some(metadata) = &group.persisted {
                    let value = Some(Arc::clone(metadata));
                    push(GroupRecord::Classic { group: Arc::clone(id), value }, &mut bytes, into);
                }
                at = Some(Cursor { group: Arc::clone(id), offset: None });
            }
            let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
            for ((topic, partition), value) in group.offsets.range((from, Bound::Unbounded)) {
                if bytes >= bytes_max {
                    return at;
                }
                let (topic, partition) = (Arc::clone(topic), *partition);
                at = Some(Cursor { group: Arc::clone(id), offset: Some((Arc::clone(&topic), partition)) });
                let record = GroupRecord::Offset {
                    group: Arc::clone(id),
                    topic,
                    partition,
                    value: Some(value.clone()),
                };
                push(record, &mut bytes, into);
            }
            if bytes >= bytes_max {
                return at;
            }
        }
        None
    }

    /// About how many bytes the live state takes in the log.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let bytes: usize = self.groups.values().map(Group::live_bytes).sum();
        bytes as u64
    }

    /// Runs `operation` on a group if it is there, and drops the group if nothing is left of it.
    pub(super) fn with_group<T>(
        &mut self,
        id: &str,
        now: Now,
        effects: &mut Effects,
        operation: impl FnOnce(&mut Group, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let (config, room) = (&*self.config, &self.room);
        let mut context = Context { now, config, room, timers: &mut self.timers, effects };
        let result = operation(group, &mut context);
        self.drop_if_vacant(id);
        Some(result)
    }

    pub(super) fn group_or_new(&mut self, id: &Arc<str>) -> &mut Group {
        self.groups.entry(Arc::clone(id)).or_insert_with(|| Group::new(Arc::clone(id)))
    }

    pub(super) fn drop_if_vacant(&mut self, id: &str) {
        if self.groups.get(id).is_some_and(Group::is_vacant) {
            self.groups.remove(id);
        }
    }
}

fn push(record: GroupRecord, bytes: &mut usize, into: &mut Vec<GroupRecord>) {
    *bytes += record.size();
    into.push(record);
}

/// Whether a group with members may have this id.
pub(super) fn is_group_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= ferrymq_types::limits::NAME_BYTES_MAX
}
