//! Logs whose append ended with an unknown outcome: they are claimed again, all that wait in one call.
//!
//! A claim fences whatever may still be under way, and says where the log ends. What happened is then read from
//! the log itself, as at a start: there is one way to learn it.
//!
//! **Invariants.** At most one claim is under way for each shard. Pauses between claims grow up to
//! [`PAUSE_MAX`] until an append is durable again. A store that has stopped for good is not asked again.
//!
//! Deliberately absent: what becomes of a partition (`owned`); giving up a store that may come back.

use std::collections::BTreeSet;
use std::time::Duration;

use ferrymq_storage::{Claim, Pending, StorageError};
use ferrymq_types::LogId;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::ShardContext;

/// The pause before the second claim in a row; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a claim of many logs came to.
pub(super) type Claimed = Result<Vec<Claim>, StorageError>;

/// The logs of one shard that are to be claimed again.
#[derive(Default)]
pub(super) struct Reclaims {
    waiting: BTreeSet<LogId>,
    /// None or one.
    running: FuturesUnordered<Pending<Claimed>>,
    /// Claims since the last durable append.
    claims: u32,
}

impl Reclaims {
    /// Notes that a log is to be claimed; [`Reclaims::start`] begins.
    pub(super) fn want(&mut self, log: LogId) {
        self.waiting.insert(log);
    }

    /// A log that is no longer ours needs no claim.
    pub(super) fn forget(&mut self, log: LogId) {
        self.waiting.remove(&log);
    }

    /// Nothing is claimed any more; what was to be.
    pub(super) fn give_up(&mut self) -> BTreeSet<LogId> {
        std::mem::take(&mut self.waiting)
    }

    /// An append is durable: the store works.
    pub(super) fn calm(&mut self) {
        self.claims = 0;
    }

    /// Claims what waits, unless a claim is under way already.
    pub(super) fn start(&mut self, context: &ShardContext) {
        if self.waiting.is_empty() || !self.running.is_empty() {
            return;
        }
        let pause = pause(self.claims);
        self.claims = self.claims.saturating_add(1);
        let logs: Vec<LogId> = self.waiting.iter().copied().collect();
        let context = context.clone();
        self.running.push(Box::pin(async move {
            context.clock.sleep(pause).await;
            context.store.claim(logs, context.owner).await
        }));
    }

    /// Waits for the claim under way; `None` at once if there is none. Cancel safety: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Claimed> {
        self.running.next().await
    }
}

fn pause(claims: u32) -> Duration {
    match claims {
        0 => Duration::ZERO,
        claims => PAUSE.saturating_mul(1 << (claims - 1).min(16)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        let pauses = [0, 1, 2, 3, 6, 7, u32::MAX].map(|claims| pause(claims).as_millis());
        assert_eq!(pauses, [0, 100, 200, 400, 3200, 5000, 5000]);
    }
}
