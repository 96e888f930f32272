//! Leaving: members that say goodbye, or are removed by their instance id (KIP-345).
//!
//! **Invariant.** Members that leave together cause one rebalance.
//!
//! Deliberately absent: reasons given by clients; the door may log them.

use std::sync::Arc;

use super::coordinator::Context;
use super::group::Group;
use super::types::{GroupError, GroupState, LeaveMember, LeaveResult};

impl Group {
    pub(super) fn leave(&mut self, context: &mut Context<'_>, leaving: &[LeaveMember]) -> Vec<LeaveResult> {
        let mut member_left = false;
        let mut pending_left = false;
        let mut results = Vec::with_capacity(leaving.len());
        for member in leaving {
            if let Some(id) = self.pending.take(&*member.member_id) {
                context.timers.cancel(&self.member_timer(&id));
                pending_left = true;
                results.push(Ok(()));
                continue;
            }
            let found = self.find_leaving(member);
            if let Ok(id) = &found {
                self.remove_member(context, id, &GroupError::UnknownMemberId);
                member_left = true;
            }
            results.push(found.map(|_| ()));
        }
        // A pending member that leaves was never part of a generation: that only matters to a group that
        // waits for it. (Kafka begins a rebalance here.)
        if self.state == GroupState::PreparingRebalance && (member_left || pending_left) {
            self.maybe_complete_join(context);
        } else if member_left {
            self.after_removal(context);
        }
        results
    }

    fn find_leaving(&self, member: &LeaveMember) -> Result<Arc<str>, GroupError> {
        let instance_id = member.instance_id.as_deref();
        if member.member_id.is_empty() {
            let found = instance_id.and_then(|instance_id| self.statics.get(instance_id));
            return found.cloned().ok_or(GroupError::UnknownMemberId);
        }
        self.check_member(&member.member_id, instance_id)?;
        Ok(Arc::from(&*member.member_id))
    }
}
