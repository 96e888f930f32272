//! A member of a classic group.
//!
//! **Invariant.** At most one join and one sync of a member wait at a time; a newer one takes the place of the
//! older, whose caller is told to join again.
//!
//! Deliberately absent: its deadlines (`timers`), who answers the waiting (`coordinator::Effects`).

use super::coordinator::Ticket;
use super::record::MemberMetadata;
use super::types::Protocol;

/// A member and what it waits for.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// What is durable about it.
    pub(super) info: MemberMetadata,
    /// It has not yet been told a generation, so it cannot send heartbeats.
    pub(super) is_new: bool,
    /// Its join that waits for the generation.
    pub(super) join: Option<Ticket>,
    /// Its sync that waits for the assignment.
    pub(super) sync: Option<Ticket>,
}

impl Member {
    pub(super) fn new(info: MemberMetadata) -> Member {
        Member { info, is_new: false, join: None, sync: None }
    }

    pub(super) fn is_static(&self) -> bool {
        self.info.instance_id.is_some()
    }

    /// Whether a missed heartbeat is no sign of death: it waits for us. A new member is not trusted to still
    /// be there: nothing but its request tells, and the connection may be gone.
    pub(super) fn is_excused(&self) -> bool {
        !self.is_new && (self.join.is_some() || self.sync.is_some())
    }

    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.info.protocols.iter().any(|supported| &*supported.name == protocol)
    }

    /// Whether it would join again just as it did.
    pub(super) fn matches(&self, protocols: &[Protocol]) -> bool {
        self.info.protocols == protocols
    }
}
