//! Queues with limits, some of them by policy, for clients of their own: what is too many is dropped or refused, with dead
//! letters and without.
//!
//! Queues that refuse are only got from, one message at a time, so that what is ready in them is nearly known.
//!
//! Deliberately absent: limits in bytes.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_checker::Outcome;
use ferrymq_checker::queues::{Change, Limit, Overflow};
use ferrymq_runtime::Rng;

use super::session::Session;
use super::{End, Queue, Style, alone, consumer, publisher};
use crate::world::World;

/// Messages that may be out of a queue that is only got from: one that was asked for on each of a few connections that
/// are not gone yet.
const UNSEEN: u64 = 4;

/// A queue that is declared with a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limited {
    name: &'static str,
    pub(super) messages: i32,
    pub(super) overflow: &'static str,
    pub(super) target: Option<&'static str>,
}

/// A queue that nobody takes from.
const FULL: &str = "newest";

const LIMITED: [Limited; 4] = [
    Limited { name: FULL, messages: 40, overflow: "drop-head", target: None },
    Limited { name: "newest-letters", messages: 30, overflow: "drop-head", target: Some("dropped") },
    Limited { name: "refusing", messages: 60, overflow: "reject-publish", target: None },
    Limited {
        name: "refusing-letters",
        messages: 60,
        overflow: "reject-publish-dlx",
        target: Some("refused"),
    },
];
/// Queues whose limit is a policy's, and what it says besides.
pub(super) const RULED: [(&str, Option<&str>); 2] =
    [("ruled", Some("reject-publish")), ("ruled-newest", None)];

/// The limit that a queue is declared with.
pub(super) fn of(queue: &str) -> Option<Limited> {
    LIMITED.into_iter().find(|limited| limited.name == queue)
}

/// Where messages of queues with limits go.
pub(super) fn ways() -> impl Iterator<Item = (&'static str, &'static str)> {
    LIMITED.into_iter().filter_map(|limited| Some((limited.name, limited.target?)))
}

/// What a limit is in notes.
pub(super) fn noted(messages: Option<u64>, refuses: bool) -> Limit {
    let overflow = if refuses { Overflow::Refuse } else { Overflow::DropHead };
    Limit { messages, overflow, unseen: UNSEEN }
}

/// What is set before anything else.
pub(super) fn begin(world: &World) {
    let declared = LIMITED.into_iter().map(|limited| {
        let messages = u64::try_from(limited.messages).ok();
        (limited.name, noted(messages, limited.overflow != "drop-head"))
    });
    let ruled = RULED.into_iter().map(|(name, overflow)| (name, noted(None, overflow.is_some())));
    let mut notes = world.queues.lock();
    for (name, _) in RULED {
        let none = Change { of: name.to_owned(), to: None, began: 0, ended: 0, outcome: Outcome::Ok };
        notes.policies.push(none);
    }
    for (name, to) in declared.chain(ruled) {
        notes.limits.push(Change { of: name.to_owned(), to, began: 0, ended: 0, outcome: Outcome::Ok });
    }
}

fn named(refusing: bool) -> impl Iterator<Item = &'static str> {
    let declared = LIMITED.into_iter().map(|limited| (limited.name, limited.overflow != "drop-head"));
    let ruled = RULED.into_iter().map(|(name, overflow)| (name, overflow.is_some()));
    declared.chain(ruled).filter(move |(_, refuses)| *refuses == refusing).map(|(name, _)| name)
}

/// All of them, and where their letters go.
pub(super) fn queues() -> Vec<Queue> {
    let names = named(true).chain(named(false)).chain(ways().map(|(_, target)| target));
    names.map(|name| Queue::new(name, Style::Durable)).collect()
}

pub(super) fn publish(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    publisher::on(world, rng, session, &queues())
}

/// The consumer of those that drop, but for one that is always full, and of letters.
pub(super) fn consume(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let names = named(false).filter(|name| *name != FULL).chain(ways().map(|(_, target)| target));
    let queues: Vec<Queue> = names.map(|name| Queue::new(name, Style::Durable)).collect();
    consumer::on(world, rng, session, &queues)
}

/// The one that gets from those that refuse.
pub(super) fn get(world: &Arc<World>, rng: &Rng, session: &mut Session) -> Result<End> {
    let queues: Vec<Queue> = named(true).map(|name| Queue::new(name, Style::Durable)).collect();
    while !world.stopping() {
        let queue = &queues[usize::try_from(rng.below(queues.len() as u64)).unwrap_or(0)];
        for _ in 0..rng.below(15) {
            alone::get(rng, session, queue)?;
        }
        match rng.below(60) {
            0 => return Ok(End::Cut),
            1 => session.renew()?,
            _ => session.prefetch(1)?,
        }
        world.pause(Duration::from_millis(rng.below(20)));
    }
    Ok(End::Closed)
}
