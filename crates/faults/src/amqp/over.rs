//! A queue over a topic: what is published to it are records of the topic, and its acknowledgements stand beside the
//! topic, not in it.
//!
//! A confirm says that a record is durable and nothing of acknowledgements before it. So a part of its consumers acknowledge
//! in transactions, of which the end is told: what they are done with is done for good, whatever comes next.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::queues::{How, QueueHistory};
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, Style, consumer, publisher};
use crate::world::World;

/// The topic; declared as a stream, which makes it.
pub(super) const TOPIC: &str = "over-topic";
/// The least pause between bursts.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn queue() -> Queue {
    Queue::new("over", Style::Over)
}

/// What makes the topic; nobody reads it by this name, so it is in no notes.
pub(super) fn topic() -> Queue {
    Queue::new(TOPIC, Style::Stream)
}

/// Small messages: nothing ever trims the topic.
pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let queue = queue();
    publisher::in_bursts(world, rng, session, PAUSE, |session| {
        (0..1 + rng.below(30)).try_for_each(|_| {
            let size = usize::try_from(rng.below(200)).unwrap_or(0);
            session.publish(&queue, size, rng.below(2) > 0, true)
        })
    })
}

/// As of any queue.
pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    consumer::on(world, rng, session, &[queue()])
}

/// In transactions.
pub(super) fn finish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    session.transact()?;
    begin(session)?;
    while !world.stopping() {
        for _ in 0..1 + rng.below(40) {
            if !session.hear(Duration::from_millis(5))? {
                break;
            }
        }
        let tags: Vec<u64> = session.held.keys().copied().collect();
        for tag in tags.into_iter().filter(|_| rng.below(6) > 0) {
            session.settle(tag, How::Done)?;
        }
        match rng.below(80) {
            0 => return Ok(End::Cut),
            1 => return Ok(End::Closed),
            2 => {
                session.ask_to_commit()?;
                return Ok(End::Cut);
            }
            3..=6 => session.roll_back()?,
            7 => {
                session.renew()?;
                begin(session)?;
            }
            _ => session.commit()?,
        }
    }
    Ok(End::Closed)
}

fn begin(session: &mut Session) -> Result<()> {
    session.prefetch(60)?;
    session.consume(&queue())
}

/// How many were done in transactions.
pub(super) fn finished(notes: &QueueHistory) -> usize {
    let name = queue().label;
    let of = notes.deliveries.iter().filter(|delivery| delivery.queue == name);
    of.filter(|delivery| {
        delivery.settled.is_some_and(|settled| settled.part_of.is_some() && settled.vouched.is_some())
    })
    .count()
}
