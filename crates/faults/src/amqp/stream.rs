//! A topic that Kafka's producers write and its readers read, as a stream: AMQP clients publish to it and read it.
//!
//! What is confirmed there is acknowledged: the rules are those of topics. A reader begins at `first`, or goes on where
//! the last one was.

use std::io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, publisher, size};
use crate::world::{Kind, Log, World};

/// The least pause between bursts.
const PAUSE: Duration = Duration::from_millis(20);
/// What tells readings apart from those of other readers.
const READER: u32 = 100;

/// The topic: of one partition, so that a publisher knows where a record goes.
fn topic(world: &World) -> Result<Arc<Log>> {
    let logs = world.logs();
    let alone = |log: &&Arc<Log>| {
        log.kind == Kind::Kept && logs.iter().filter(|other| other.topic == log.topic).count() == 1
    };
    logs.iter().find(alone).cloned().ok_or_else(|| Error::other("no topic has one partition"))
}

pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let log = topic(world)?;
    publisher::in_bursts(world, rng, session, PAUSE, |session| {
        (0..1 + rng.below(30)).try_for_each(|_| session.post_record(&log, size(rng)))
    })
}

pub(super) fn read(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let log = topic(world)?;
    let from = (rng.below(3) > 0).then(|| log.streamed.load(Ordering::Relaxed));
    session.follow(&log, from, READER)?;
    while !world.stopping() {
        session.hear(Duration::from_millis(20))?;
        if rng.below(20_000) == 0 {
            return Ok(if rng.below(2) == 0 { End::Cut } else { End::Closed });
        }
    }
    Ok(End::Cut)
}
