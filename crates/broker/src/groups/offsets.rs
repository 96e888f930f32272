//! Committed offsets: committing, fetching, deleting, expiring.
//!
//! **Invariants.** An offset changes only by an accepted commit, and goes only by deletion, by expiry, or with
//! its group or topic. Whether a partition exists is checked by whoever calls.
//!
//! Deliberately absent: offsets of transactions.

use std::sync::Arc;

use super::coordinator::{Context, Coordinator, Effects, Now};
use super::group::{CONSUMER, Group};
use super::record::{CommittedOffset, GroupRecord};
use super::subscription;
use super::types::{
    CommitOffset, CommitRequest, DeleteOffsetsRequest, FetchGroup, FetchedOffset, GroupError, GroupState,
};

impl Coordinator {
    /// Commits offsets; one result per offset in order.
    ///
    /// # Errors
    /// Why none of them was committed.
    pub fn commit(
        &mut self,
        now: Now,
        request: &CommitRequest,
        effects: &mut Effects,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        // A simple consumer may well have an empty group id; only one that has members may not.
        if request.group.len() > ferrymq_types::limits::NAME_BYTES_MAX {
            return Err(GroupError::InvalidGroupId);
        }
        let id: Arc<str> = Arc::from(&*request.group);
        if !self.groups.contains_key(&id) {
            if request.generation >= 0 {
                return Err(GroupError::GroupIdNotFound);
            }
            self.group_or_new(&id);
        }
        self.with_group(&id, now, effects, |group, context| group.commit(context, request))
            .unwrap_or(Err(GroupError::GroupIdNotFound))
    }

    /// Fetches committed offsets. A group that is not there has none.
    #[must_use]
    pub fn fetch(&self, request: &FetchGroup) -> Vec<FetchedOffset> {
        let offsets = self.groups.get(&*request.group).map(|group| &group.offsets);
        match &request.partitions {
            None => offsets
                .into_iter()
                .flatten()
                .map(|((topic, partition), committed)| FetchedOffset {
                    topic: Arc::clone(topic),
                    partition: *partition,
                    committed: Some(committed.clone()),
                })
                .collect(),
            Some(partitions) => partitions
                .iter()
                .map(|key| FetchedOffset {
                    topic: Arc::clone(&key.0),
                    partition: key.1,
                    committed: offsets.and_then(|offsets| offsets.get(key)).cloned(),
                })
                .collect(),
        }
    }

    /// Deletes committed offsets; one result per partition in order.
    ///
    /// # Errors
    /// Why none of them was deleted.
    pub fn delete_offsets(
        &mut self,
        now: Now,
        request: &DeleteOffsetsRequest,
        effects: &mut Effects,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.with_group(&request.group, now, effects, |group, context| {
            if group.state != GroupState::Empty && group.protocol_type.as_deref() != Some(CONSUMER) {
                return Err(GroupError::NonEmptyGroup);
            }
            let delete = |key: &(Arc<str>, u32)| {
                if group.is_subscribed(&key.0) {
                    return Err(GroupError::GroupSubscribedToTopic);
                }
                group.remove_offset(context, key);
                Ok(())
            };
            Ok(request.partitions.iter().map(delete).collect())
        })
        .unwrap_or(Err(GroupError::GroupIdNotFound))
    }

    /// Removes all offsets of deleted topics.
    pub fn topics_deleted(&mut self, now: Now, topics: &[Arc<str>], effects: &mut Effects) {
        self.remove_offsets_where(now, effects, |_, (topic, _), _| topics.contains(topic));
    }

    /// Removes offsets whose time is over, and empty groups without offsets.
    pub(super) fn expire_offsets(&mut self, now: Now, effects: &mut Effects) {
        let retention_ms = i64::try_from(self.config.offsets_retention_ms).unwrap_or(i64::MAX);
        self.remove_offsets_where(now, effects, |group, (topic, _), value| {
            let Some(expires_ms) = group.expires_ms(value, retention_ms) else { return false };
            now.expiry_ms >= expires_ms && !group.is_subscribed(topic)
        });
        let is_over = |group: &Group| {
            group.state == GroupState::Empty && group.offsets.is_empty() && group.pending.is_empty()
        };
        let over: Vec<Arc<str>> =
            self.groups.values().filter(|group| is_over(group)).map(|group| Arc::clone(&group.id)).collect();
        for id in over {
            self.remove_group(&id, effects);
        }
    }

    fn remove_offsets_where(
        &mut self,
        now: Now,
        effects: &mut Effects,
        is_over: impl Fn(&Group, &(Arc<str>, u32), &CommittedOffset) -> bool,
    ) {
        let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for id in ids {
            self.with_group(&id, now, effects, |group, context| {
                let over = group.offsets.iter().filter(|(key, value)| is_over(group, key, value));
                let over: Vec<(Arc<str>, u32)> = over.map(|(key, _)| key.clone()).collect();
                for key in over {
                    group.remove_offset(context, &key);
                }
            });
        }
    }
}

impl Group {
    fn commit(
        &mut self,
        context: &mut Context<'_>,
        request: &CommitRequest,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        self.check_commit(request)?;
        if matches!(self.state, GroupState::Stable | GroupState::PreparingRebalance) {
            self.renew_session(context, &request.member_id);
        }
        let commit = |offset: &CommitOffset| self.commit_one(context, request.retention_ms, offset);
        Ok(request.offsets.iter().map(commit).collect())
    }

    fn check_commit(&self, request: &CommitRequest) -> Result<(), GroupError> {
        let is_empty = self.state == GroupState::Empty;
        if request.generation < 0 && is_empty {
            // An administrator, or a consumer that does without membership.
            return Ok(());
        }
        if request.generation >= 0 || !request.member_id.is_empty() || request.instance_id.is_some() {
            self.check_member(&request.member_id, request.instance_id.as_deref())?;
            if request.generation != self.generation {
                return Err(GroupError::IllegalGeneration);
            }
        } else if !is_empty {
            return Err(GroupError::UnknownMemberId);
        }
        // It has been told of a generation whose assignment it does not know yet: it must sync or rejoin.
        if self.state == GroupState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    fn commit_one(
        &mut self,
        context: &mut Context<'_>,
        retention_ms: Option<u64>,
        offset: &CommitOffset,
    ) -> Result<(), GroupError> {
        let metadata_max = context.config.offset_metadata_max;
        // Counted as Kafka does, in UTF-16 units; there are never more of them than bytes.
        if offset.metadata.len() > metadata_max && offset.metadata.encode_utf16().count() > metadata_max {
            return Err(GroupError::OffsetMetadataTooLarge);
        }
        let commit_ms = context.now.wall_ms;
        let expire_ms = retention_ms
            .map(|retention_ms| commit_ms.saturating_add(i64::try_from(retention_ms).unwrap_or(i64::MAX)));
        let value = CommittedOffset {
            offset: offset.offset,
            leader_epoch: offset.leader_epoch,
            metadata: Arc::from(&*offset.metadata),
            commit_ms,
            expire_ms,
            topic_id: offset.topic_id,
        };
        let key = (Arc::clone(&offset.topic), offset.partition);
        context.effects.records.push(GroupRecord::Offset {
            group: Arc::clone(&self.id),
            topic: Arc::clone(&key.0),
            partition: key.1,
            value: Some(value.clone()),
        });
        self.offsets.insert(key, value);
        Ok(())
    }

    fn remove_offset(&mut self, context: &mut Context<'_>, key: &(Arc<str>, u32)) {
        if self.offsets.remove(key).is_some() {
            context.effects.records.push(GroupRecord::Offset {
                group: Arc::clone(&self.id),
                topic: Arc::clone(&key.0),
                partition: key.1,
                value: None,
            });
        }
    }

    /// When an offset's time is over; `None`: not while the group is in this state.
    fn expires_ms(&self, value: &CommittedOffset, retention_ms: i64) -> Option<i64> {
        let since_ms = match (&self.protocol_type, self.state) {
            // Never had members: offsets live from their commit.
            (None, _) => value.commit_ms,
            // All members have gone: offsets live from then on.
            (Some(_), GroupState::Empty) => self.since_ms,
            // Consumers have moved on to other topics.
            (Some(kind), GroupState::Stable) if **kind == *CONSUMER => value.commit_ms,
            (Some(_), _) => return None,
        };
        Some(value.expire_ms.unwrap_or_else(|| since_ms.saturating_add(retention_ms)))
    }

    /// Whether a member subscribes to the topic. If a consumer's subscription cannot be read, it may.
    fn is_subscribed(&self, topic: &str) -> bool {
        if self.protocol_type.as_deref() != Some(CONSUMER) || self.members.is_empty() {
            return false;
        }
        let Some(protocol) = self.protocol.as_deref() else { return true };
        self.members.values().any(|member| {
            let found = member.info.protocols.iter().find(|supported| &*supported.name == protocol);
            found
                .and_then(|supported| subscription::topics(&supported.metadata))
                .is_none_or(|topics| topics.contains(topic))
        })
    }
}
