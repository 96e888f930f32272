//! A client that takes messages from some queues and puts others into them and into a stream, in transactions: what it acknowledges and
//! what it publishes happens together or not at all.
//!
//! Some are rolled back, some end with the channel or the connection before or while they are committed.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::queues::How;
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, Style, letters, size};
use crate::world::World;

pub(super) fn queues() -> Vec<Queue> {
    let each = [("moved-1", Style::Durable), ("moved-2", Style::Quorum), ("moved-3", Style::Durable)];
    each.into_iter().map(|(name, style)| Queue::new(name, style)).collect()
}

pub(super) fn work(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let (queues, stream) = (queues(), letters::told());
    session.transact()?;
    begin(session, &queues)?;
    while !world.stopping() {
        for _ in 0..1 + rng.below(20) {
            if !session.hear(Duration::from_millis(5))? {
                break;
            }
        }
        let tags: Vec<u64> = session.held.keys().copied().collect();
        for tag in tags.into_iter().filter(|_| rng.below(4) > 0) {
            session.settle(tag, How::Done)?;
        }
        for _ in 0..2 + rng.below(12) {
            let to = queues.get(usize::try_from(rng.below(1 + queues.len() as u64)).unwrap_or(0));
            session.publish(to.unwrap_or(&stream), size(rng), rng.below(6) > 0, true)?;
        }
        match rng.below(60) {
            0 => return Ok(End::Cut),
            1 => return Ok(End::Closed),
            2 => {
                // Gone while it is committed.
                session.ask_to_commit()?;
                return Ok(End::Cut);
            }
            3..=10 => session.roll_back()?,
            11 => {
                session.renew()?;
                begin(session, &queues)?;
            }
            _ => session.commit()?,
        }
    }
    Ok(if rng.below(2) == 0 { End::Closed } else { End::Cut })
}

fn begin(session: &mut Session, queues: &[Queue]) -> Result<()> {
    session.prefetch(40)?;
    queues.iter().try_for_each(|queue| session.consume(queue))
}
