//! A fanout exchange and its queues: each message is several, with one confirm for all.
//!
//! What is transient is kept by some of the queues and not by others.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::Rng;

use super::session::{Session, Way};
use super::{End, Queue, Style, consumer, publisher, size};
use crate::world::World;

pub(super) const EXCHANGE: &str = "copies";
/// The least pause between bursts: what is published here is written several times.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn queues() -> Vec<Queue> {
    let each =
        [("copy-1", Style::Durable), ("copy-2", Style::Quorum), ("copy-3", Style::Durable)].into_iter();
    each.map(|(name, style)| Queue::new(name, style)).collect()
}

/// Declares the exchange and binds the queues, which are there.
pub(super) fn bind(session: &mut Session) -> Result<()> {
    session.exchange(EXCHANGE, "fanout", None)?;
    queues().iter().try_for_each(|queue| session.bind(queue, EXCHANGE))
}

pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let queues = queues();
    let way = Way { exchange: EXCHANGE, key: "", to: &queues, routable: true, delay_ms: None };
    publisher::in_bursts(world, rng, session, PAUSE, |session| {
        (0..1 + rng.below(30)).try_for_each(|_| session.post(way, size(rng), rng.below(4) > 0))
    })
}

pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    consumer::on(world, rng, session, &queues())
}
