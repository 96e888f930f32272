//! Queues with dead letters, a classic and a quorum queue, and their targets, for clients of their own; and one whose
//! dead letters go into a stream.
//!
//! Publishers publish to sources and targets alike, so that what is acknowledged in a target is vouched for: a dead
//! letter's arrival vouches for nothing.
//!
//! Deliberately absent: times to live; limits of length have queues of their own ([`limits`]).

use std::io::Result;
use std::sync::Arc;

use ferrymq_checker::queues::DeadLetters;
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, Style, consumer, limits, publisher};
use crate::world::World;

/// Sources and targets. What is transient stays so on its way, so a target keeps no more than its source.
const PAIRS: [(&str, &str, Style); 2] =
    [("rejecting", "rejected", Style::Durable), ("rejecting-quorum", "rejected-quorum", Style::Quorum)];

/// A queue whose dead letters go into a stream.
const TELLING: (&str, &str) = ("telling", "told");

/// The stream.
pub(super) fn told() -> Queue {
    Queue::new(TELLING.1, Style::Stream)
}

/// Where what leaves a queue goes, if it is kept.
pub(super) fn target_of(queue: &str) -> Option<&'static str> {
    pairs().find(|(source, _)| *source == queue).map(|(_, target)| target)
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    let plain = PAIRS.into_iter().map(|(source, target, _)| (source, target));
    plain.chain([TELLING]).chain(limits::ways())
}

/// All of them.
pub(super) fn queues() -> Vec<Queue> {
    let both = PAIRS.into_iter().flat_map(|(source, target, style)| [(source, style), (target, style)]);
    both.chain([(TELLING.0, Style::Durable)]).map(|(name, style)| Queue::new(name, style)).collect()
}

/// What goes where.
pub(super) fn ways() -> impl Iterator<Item = DeadLetters> {
    pairs().map(|(source, target)| DeadLetters { source: source.to_owned(), target: target.to_owned() })
}

pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    publisher::on(world, rng, session, &queues())
}

pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    consumer::on(world, rng, session, &queues())
}
