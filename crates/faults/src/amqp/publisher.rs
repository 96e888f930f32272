//! A publisher: bursts of persistent and transient messages to shared queues, confirmed within a window.
//!
//! Some have no way to any queue and must come back. Now and then it waits for all its confirms and closes its
//! channel, or is gone at once.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, shared, size};
use crate::world::World;

/// Publishings that wait for a confirm at most.
const WINDOW: usize = 400;

pub(super) fn work(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    on(world, rng, session, &shared())
}

/// The same on other queues.
pub(super) fn on(world: &Arc<World>, rng: &Rng, session: &mut Session, queues: &[Queue]) -> Result<End> {
    in_bursts(world, rng, session, Duration::from_millis(4), |session| {
        let queue = &queues[usize::try_from(rng.below(queues.len() as u64)).unwrap_or(0)];
        for _ in 0..1 + rng.below(40) {
            session.publish(queue, size(rng), rng.below(4) > 0, rng.below(40) > 0)?;
        }
        Ok(())
    })
}

/// Does something again and again, with so long a pause at least, and confirms within a window.
pub(super) fn in_bursts(
    world: &Arc<World>,
    rng: &Rng,
    session: &mut Session,
    pause: Duration,
    burst: impl Fn(&mut Session) -> Result<()>,
) -> Result<End> {
    let window = usize::try_from(1 + rng.below(WINDOW as u64)).unwrap_or(1);
    while !world.stopping() {
        burst(session)?;
        session.confirms(window)?;
        match rng.below(300) {
            0 => return Ok(End::Cut),
            1 => return Ok(End::Closed),
            2 | 3 => session.renew()?,
            _ => world.pause(pause + Duration::from_millis(rng.below(16))),
        }
    }
    Ok(End::Closed)
}
