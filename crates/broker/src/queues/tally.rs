//! What happened to queues and to messages that left them unconsumed, counted since the start.
//!
//! **Invariants.** All only rise. A dead letter is counted once it is with its targets, or nowhere: what is moved again after
//! a failure counts once. A message that goes because of no dead letter exchange is counted when it goes.
//!
//! Deliberately absent: counts of one queue, and what doors count themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use super::dead_letters::DeathReason;
use super::settings::QueueType;

/// What becomes of messages that leave a queue without having been consumed, as RabbitMQ tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeadLettering {
    /// The queue has no dead letter exchange.
    #[default]
    Disabled,
    /// What a queue asks for that says nothing else. Here letters are not lost then either.
    AtMostOnce,
    /// What a quorum queue asks for by `x-dead-letter-strategy` and `reject-publish`.
    AtLeastOnce,
}

/// Kinds of queues: classic or quorum, and what becomes of what leaves them, which is never `AtLeastOnce` of the former.
const KINDS: [(QueueType, DeadLettering); 5] = [
    (QueueType::Classic, DeadLettering::Disabled),
    (QueueType::Classic, DeadLettering::AtMostOnce),
    (QueueType::Quorum, DeadLettering::Disabled),
    (QueueType::Quorum, DeadLettering::AtMostOnce),
    (QueueType::Quorum, DeadLettering::AtLeastOnce),
];
const REASONS: [DeathReason; 4] =
    [DeathReason::Rejected, DeathReason::Expired, DeathReason::MaxLength, DeathReason::DeliveryLimit];

/// The counters.
#[derive(Debug, Default)]
pub struct Tally {
    /// Declarations of queues, passive ones not.
    pub declared: AtomicU64,
    /// Queues made.
    pub created: AtomicU64,
    /// Queues deleted, also because they expired or with their connection or virtual host.
    pub deleted: AtomicU64,
    deaths: [[AtomicU64; REASONS.len()]; KINDS.len()],
}

impl Tally {
    /// How many messages left queues of a kind for a reason, for each of these.
    pub fn deaths(&self) -> impl Iterator<Item = (QueueType, DeadLettering, DeathReason, u64)> {
        KINDS.into_iter().zip(&self.deaths).flat_map(|((kind, how), counts)| {
            let all = REASONS.into_iter().zip(counts);
            all.map(move |(reason, count)| (kind, how, reason, count.load(Ordering::Relaxed)))
        })
    }

    pub(super) fn died(&self, kind: QueueType, how: DeadLettering, reason: DeathReason) {
        let kind = KINDS.iter().position(|of| *of == (kind, how));
        let reason = REASONS.iter().position(|of| *of == reason);
        if let (Some(kind), Some(reason)) = (kind, reason) {
            self.deaths[kind][reason].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
