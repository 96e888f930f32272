//! Queues with dead letters, a classic and a quorum queue, and their targets, for clients of their own.
//!
//! Publishers publish to sources and targets alike, so that what is acknowledged in a target is vouched for: a dead
//! letter's arrival vouches for nothing.
//!
//! Deliberately absent: limits of length and age, which would move messages that nobody rejected.

use std::io::Result;
use std::sync::Arc;

use ferrymq_checker::queues::DeadLetters;
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, Style, consumer, publisher};
use crate::world::World;

/// Sources and targets. What is transient stays so on its way, so a target keeps no more than its source.
const PAIRS: [(&str, &str, Style); 2] =
    [("rejecting", "rejected", Style::Durable), ("rejecting-quorum", "rejected-quorum", Style::Quorum)];

/// Where what is rejected in a queue goes, if it is kept.
pub(super) fn target_of(queue: &str) -> Option<&'static str> {
    PAIRS.into_iter().find(|(source, ..)| *source == queue).map(|(_, target, _)| target)
}

/// All of them.
pub(super) fn queues() -> Vec<Queue> {
    let both = PAIRS.into_iter().flat_map(|(source, target, style)| [(source, style), (target, style)]);
    both.map(|(name, style)| Queue::new(name, style)).collect()
}

/// What goes where.
pub(super) fn ways() -> impl Iterator<Item = DeadLetters> {
    PAIRS
        .into_iter()
        .map(|(source, target, _)| DeadLetters { source: source.to_owned(), target: target.to_owned() })
}

pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    publisher::on(world, rng, session, &queues())
}

pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    consumer::on(world, rng, session, &queues())
}
