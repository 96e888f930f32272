//! Queues that come and go: durable ones that are deleted and made again under their names, and exclusive ones.
//!
//! **Invariant.** Nothing that was in a queue before it was deleted may be in one that comes after it under its name;
//! of an exclusive one not even a message of any other queue, whose log it may have got.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::queues::Removed;
use ferrymq_runtime::Rng;

use super::alone::{get, removal};
use super::session::{Session, code_of};
use super::{End, Queue, Style, count, make, size};
use crate::world::World;

/// Durable names.
const NAMES: u64 = 4;

pub(super) fn work(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    while !world.stopping() {
        if rng.below(3) == 0 {
            // It goes with its connection.
            return exclusive(world, rng, session);
        }
        durable(world, rng, session)?;
        world.pause(Duration::from_millis(rng.below(20)));
    }
    Ok(End::Closed)
}

fn durable(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<()> {
    let queue = Queue::new(&format!("churn-queue-{}", rng.below(NAMES)), Style::Durable);
    make(world, session, &queue)?;
    use_it(rng, session, &queue)?;
    if rng.below(3) > 0 {
        removal(world, &queue, Removed::Queue, || session.delete(&queue).map(drop))?;
    }
    if rng.below(3) == 0 && count(world, session, &queue, false)?.is_none() {
        // The question cost the channel.
        return Err(std::io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

fn exclusive(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let name = format!("mine-{}", rng.below(2));
    let label = format!("{name}#{}", world.new_writer());
    let queue = Queue { name, label, style: Style::Exclusive };
    match session.declare(&queue, false) {
        Ok(_) => {}
        // The connection that had it before is not gone yet for the broker.
        Err(error) if code_of(&error) == Some(405) => return Ok(End::Cut),
        Err(error) => return Err(error),
    }
    use_it(rng, session, &queue)?;
    // What is left goes with the queue, which goes with the connection.
    removal(world, &queue, Removed::Queue, || Err(std::io::ErrorKind::Interrupted.into())).ok();
    Ok(End::Cut)
}

fn use_it(rng: &Rng, session: &mut Session, queue: &Queue) -> Result<()> {
    for _ in 0..rng.below(30) {
        session.publish(queue, size(rng), rng.below(3) > 0, true)?;
    }
    session.confirms(0)?;
    for _ in 0..rng.below(20) {
        get(rng, session, queue)?;
    }
    Ok(())
}
