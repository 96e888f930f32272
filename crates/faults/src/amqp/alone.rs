//! Clients that have a queue for themselves, so that all that happens to it is known: one consumes, one purges.
//!
//! The consumer leaves with messages it did not settle and comes back: then they must come first, in order. While
//! nobody returns anything what it gets belongs to one stretch.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::Outcome;
use ferrymq_checker::queues::{How, Removal, Removed};
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, Style, count, make, size};
use crate::world::World;

fn publish(rng: &Rng, session: &mut Session, queue: &Queue) -> Result<()> {
    for _ in 0..1 + rng.below(60) {
        session.publish(queue, size(rng), rng.below(4) > 0, true)?;
    }
    session.confirms(0)
}

/// The one that consumes.
pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let queue = Queue::new("alone", Style::Durable);
    make(world, session, &queue)?;
    while !world.stopping() {
        // Another client of ours may not be gone yet for the broker, and still have something.
        if count(world, session, &queue, false)?.is_some_and(|(_, consumers)| consumers > 0) {
            world.pause(Duration::from_millis(5));
            continue;
        }
        publish(rng, session, &queue)?;
        session.prefetch(u16::try_from(1 + rng.below(80)).unwrap_or(1))?;
        session.stretch = Some(u64::from(world.new_writer()));
        session.consume(&queue)?;
        for _ in 0..rng.below(12) {
            for _ in 0..rng.below(30) {
                if !session.hear(Duration::from_millis(5))? {
                    break;
                }
            }
            let tags: Vec<u64> = session.held.keys().copied().collect();
            for tag in tags.into_iter().filter(|_| rng.below(3) > 0) {
                session.settle(tag, How::Done)?;
            }
            session.flush()?;
            if rng.below(3) == 0 {
                publish(rng, session, &queue)?;
            }
        }
        match rng.below(4) {
            0 => return Ok(End::Cut),
            1 => return Ok(End::Closed),
            _ => session.renew()?,
        }
    }
    Ok(End::Closed)
}

/// The one that purges, and gets.
pub(super) fn purge(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let queue = Queue::new("purged", Style::Durable);
    make(world, session, &queue)?;
    while !world.stopping() {
        publish(rng, session, &queue)?;
        for _ in 0..rng.below(20) {
            get(rng, session, &queue)?;
        }
        match rng.below(6) {
            0..=1 => {
                removal(world, &queue, Removed::Ready, || session.purge(&queue).map(drop))?;
            }
            2 if rng.below(4) == 0 => return Ok(End::Cut),
            3 => session.renew()?,
            _ => session.prefetch(1)?,
        }
        world.pause(Duration::from_millis(rng.below(30)));
    }
    Ok(End::Closed)
}

/// Gets a message and settles it in some way, or not.
pub(super) fn get(rng: &Rng, session: &mut Session, queue: &Queue) -> Result<()> {
    let settle = rng.below(4) > 0;
    if !session.get(queue, settle)? || !settle {
        return Ok(());
    }
    let tag = session.held.last_key_value().map_or(0, |(tag, _)| *tag);
    match rng.below(8) {
        0 => Ok(()),
        1 => session.settle(tag, How::Returned),
        _ => session.settle(tag, How::Done),
    }
}

/// Removes messages and notes it.
pub(super) fn removal(
    world: &World,
    queue: &Queue,
    what: Removed,
    remove: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let began = world.now();
    let removed = remove();
    let outcome = if removed.is_ok() { Outcome::Ok } else { Outcome::Info };
    let (queue, ended) = (queue.label.clone(), world.now());
    world.queues.lock().removals.push(Removal { queue, what, began, ended, outcome });
    removed
}
