//! A consumer of all shared queues: settles in random order, returns and rejects some, keeps some, and ends in every
//! way.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::queues::How;
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, shared};
use crate::world::World;

pub(super) fn work(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    on(world, rng, session, &shared())
}

/// The same on other queues.
pub(super) fn on(world: &Arc<World>, rng: &Rng, session: &mut Session, queues: &[Queue]) -> Result<End> {
    begin(rng, session, queues)?;
    while !world.stopping() {
        // A little at a time, so that there is something to choose from.
        for _ in 0..1 + rng.below(60) {
            if !session.hear(Duration::from_millis(15))? {
                break;
            }
        }
        some(rng, session)?;
        match rng.below(250) {
            0..=2 => return Ok(End::Cut),
            3 => return Ok(End::Closed),
            4..=7 => {
                session.renew()?;
                begin(rng, session, queues)?;
            }
            8..=80 => session.prefetch(prefetch(rng))?,
            _ => session.flush()?,
        }
    }
    // The last question: what was settled is vouched for, and what is held goes back.
    session.prefetch(1)?;
    Ok(if rng.below(2) == 0 { End::Closed } else { End::Cut })
}

fn prefetch(rng: &Rng) -> u16 {
    u16::try_from(1 + rng.below(150)).unwrap_or(1)
}

fn begin(rng: &Rng, session: &mut Session, queues: &[Queue]) -> Result<()> {
    for queue in queues {
        session.prefetch(prefetch(rng))?;
        session.consume(queue)?;
    }
    Ok(())
}

/// Settles most of what is held, in no order.
pub(super) fn some(rng: &Rng, session: &mut Session) -> Result<()> {
    let mut tags: Vec<u64> = session.held.keys().copied().collect();
    if let Some(last) = tags.last().copied()
        && rng.below(12) == 0
    {
        let how = match rng.below(5) {
            0 => How::Returned,
            1 => How::Rejected,
            _ => How::Done,
        };
        return session.settle_up_to(last, how);
    }
    while !tags.is_empty() {
        let place = usize::try_from(rng.below(tags.len() as u64)).unwrap_or(0);
        let tag = tags.swap_remove(place);
        match rng.below(20) {
            0 => session.settle(tag, How::Returned)?,
            // Kept for a while; a few are kept until the channel ends.
            1..=3 => {}
            4..=7 => session.settle(tag, How::Rejected)?,
            _ => session.settle(tag, How::Done)?,
        }
    }
    Ok(())
}
