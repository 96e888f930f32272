//! An exchange that keeps messages back for up to a second, and its queue, to which others publish at once.
//!
//! What is kept back is persistent: all of it is stored, and the promise for the rest ends when it goes on.

use std::collections::BTreeSet;
use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::Value;
use ferrymq_checker::queues::{Answer, QueueHistory};
use ferrymq_runtime::Rng;

use super::session::{Session, Way};
use super::{End, Queue, Style, consumer, publisher, size};
use crate::world::World;

const EXCHANGE: &str = "later";
/// The longest delay.
const LONGEST_MS: u64 = 1_000;
/// The least pause between bursts.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn queue() -> Queue {
    Queue::new("delayed", Style::Durable)
}

/// Declares the exchange and binds the queue, which is there.
pub(super) fn bind(session: &mut Session) -> Result<()> {
    session.exchange(EXCHANGE, "x-delayed-message", Some("fanout"))?;
    session.bind(&queue(), EXCHANGE)
}

pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let queue = queue();
    publisher::in_bursts(world, rng, session, PAUSE, |session| {
        for _ in 0..1 + rng.below(30) {
            if rng.below(5) == 0 {
                session.publish(&queue, size(rng), rng.below(4) > 0, true)?;
                continue;
            }
            let delay_ms = u32::try_from(1 + rng.below(LONGEST_MS)).ok();
            let to = std::slice::from_ref(&queue);
            let way = Way { exchange: EXCHANGE, key: "", to, routable: true, delay_ms };
            session.post(way, size(rng), true)?;
        }
        Ok(())
    })
}

pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    consumer::on(world, rng, session, &[queue()])
}

/// What was confirmed, was kept back for this queue, and was never seen in it: it must come.
pub(super) fn missing(notes: &QueueHistory, queue: &str) -> BTreeSet<Value> {
    let due = notes.publishings.iter().filter(|publishing| publishing.queue == queue);
    let due = due.filter(|publishing| publishing.due.is_some());
    let due = due.filter(|publishing| publishing.answers.contains(&Answer::Confirmed));
    let mut missing: BTreeSet<Value> = due.map(|publishing| publishing.value.clone()).collect();
    for delivery in notes.deliveries.iter().filter(|delivery| delivery.queue == queue) {
        missing.remove(&delivery.value);
    }
    missing
}
