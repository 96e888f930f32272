//! The AMQP load: what works on queues while faults happen, and what is there in the end.
//!
//! In reading order: [`link`] (bytes), [`session`] (a channel that takes notes), [`publisher`], [`consumer`],
//! [`alone`], [`churn`], [`letters`], [`copies`], [`mover`], [`delayed`], [`over`],
//! [`stream`], [`limits`] and [`policies`] (who does what), [`last`] (the last reading). The rules are the checker's.
//!
//! **Invariant.** A queue that is purged or deleted is used by one client, so that what was in it is known.

mod alone;
mod churn;
mod consumer;
mod copies;
mod delayed;
mod last;
mod letters;
mod limits;
pub(crate) mod link;
mod mover;
mod over;
mod policies;
mod publisher;
mod session;
mod stream;

use std::io::{Error, Result};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ferrymq_checker::Outcome;
use ferrymq_checker::queues::{Count, Declaration};
use ferrymq_runtime::{Rng, spawn_thread};

pub(crate) use last::read_and_check;
use session::{Session, code_of};

use crate::world::World;

/// How a queue keeps what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// What is persistent, over everything.
    Durable,
    /// The same, the highest priority first.
    Prioritized,
    /// Everything, over everything.
    Quorum,
    /// Nothing, and for one connection.
    Exclusive,
    /// Everything: its messages are records of a topic.
    Over,
    /// Everything: it is a topic.
    Stream,
}

/// A queue.
#[derive(Debug, Clone)]
struct Queue {
    /// What the broker calls it.
    name: String,
    /// What notes call it: another for each that comes under the name, if no message may get from one to the next.
    label: String,
    style: Style,
}

impl Queue {
    fn new(name: &str, style: Style) -> Queue {
        Queue { name: name.to_owned(), label: name.to_owned(), style }
    }
}

/// The queues that publishers and consumers share.
fn shared() -> Vec<Queue> {
    let durable = |name| Queue::new(name, Style::Durable);
    let (prioritized, quorum) =
        (Queue::new("priorities", Style::Prioritized), Queue::new("quorum", Style::Quorum));
    vec![durable("work-1"), durable("work-2"), prioritized, quorum]
}

/// Starts all clients; none if the server has no AMQP door.
pub(crate) fn start(world: &Arc<World>, rng: &Rng) -> anyhow::Result<Vec<JoinHandle<()>>> {
    if world.amqp_server().is_none() {
        return Ok(Vec::new());
    }
    let mut session = Session::open(world)?.ok_or_else(|| anyhow::anyhow!("there is no server"))?;
    session.declare(&over::topic(), false)?;
    let queues = shared().into_iter().chain(letters::queues()).chain(copies::queues());
    let queues = queues.chain(mover::queues()).chain([delayed::queue(), letters::told(), over::queue()]);
    for queue in queues.chain(limits::queues()) {
        make(world, &mut session, &queue)?;
    }
    limits::begin(world);
    world.queues.lock().streams.push(letters::told().name);
    copies::bind(&mut session)?;
    delayed::bind(&mut session)?;
    world.queues.lock().letters.extend(letters::ways());
    session.cut();
    let loads: [(&str, Load); 24] = [
        ("limited publisher", limits::publish),
        ("limited consumer", limits::consume),
        ("limited getter", limits::get),
        ("stream publisher", stream::publish),
        ("stream reader", stream::read),
        ("publisher over a topic", over::publish),
        ("consumer over a topic", over::consume),
        ("finisher over a topic", over::finish),
        ("delaying publisher", delayed::publish),
        ("delayed consumer", delayed::consume),
        ("mover", mover::work),
        ("mover", mover::work),
        ("copy publisher", copies::publish),
        ("copy consumer", copies::consume),
        ("letter publisher", letters::publish),
        ("letter consumer", letters::consume),
        ("publisher", publisher::work),
        ("publisher", publisher::work),
        ("consumer", consumer::work),
        ("consumer", consumer::work),
        ("consumer", consumer::work),
        ("alone", alone::consume),
        ("purger", alone::purge),
        ("queue churn", churn::work),
    ];
    let mut threads = Vec::new();
    for (name, load) in loads {
        let (world, rng) = (world.clone(), Rng::seeded(rng.next_u64()));
        threads.push(spawn_thread(name, move || run(&world, &rng, load))?);
    }
    let (world, rng) = (world.clone(), Rng::seeded(rng.next_u64()));
    threads.push(spawn_thread("policies", move || policies::work(&world, &rng))?);
    Ok(threads)
}

/// How a session is to end.
enum End {
    /// As a client that waits for its confirms and closes its channel.
    Closed,
    /// As a client that is gone.
    Cut,
}

/// What a client does until it ends.
type Load = fn(&Arc<World>, &Rng, &mut Session) -> Result<End>;

/// One client after the other until the run stops.
fn run(world: &Arc<World>, rng: &Rng, load: Load) {
    while !world.stopping() {
        let worked = Session::open(world).and_then(|session| {
            let Some(mut session) = session else { return Ok(()) };
            match load(world, rng, &mut session)? {
                End::Closed => session.renew(),
                End::Cut => {
                    session.cut();
                    Ok(())
                }
            }
        });
        if let Err(error) = worked {
            told(world, &error);
            world.wait(Duration::from_millis(10 + rng.below(30)));
        }
    }
}

/// Notes what went wrong for a client.
fn told(world: &World, error: &Error) {
    if code_of(error).is_some() {
        world.refused("amqp", &error.to_string());
    } else {
        world.broke("amqp", error);
    }
}

/// Declares a queue that outlives the broker, and notes it.
fn make(world: &World, session: &mut Session, queue: &Queue) -> Result<()> {
    let began = world.now();
    let told = session.declare(queue, false);
    let outcome = if told.is_ok() { Outcome::Ok } else { Outcome::Info };
    let (queue, ended) = (queue.label.clone(), world.now());
    world.queues.lock().declarations.push(Declaration { queue, began, ended, outcome });
    told.map(drop)
}

/// Asks for a queue that outlives the broker, and notes what it says. An error if that cannot be known; a queue that
/// is not there costs the session its channel.
fn count(world: &World, session: &mut Session, queue: &Queue, last: bool) -> Result<Option<(u64, u64)>> {
    let began = world.now();
    let found = match session.declare(queue, true) {
        Ok(told) => Some((told.messages, told.consumers)),
        Err(error) if code_of(&error) == Some(404) => None,
        Err(error) => return Err(error),
    };
    let (queue, ended) = (queue.label.clone(), world.now());
    world.queues.lock().counts.push(Count { queue, began, ended, found, last });
    Ok(found)
}

/// A number of messages of mixed sizes.
fn size(rng: &Rng) -> usize {
    let size = match rng.below(100) {
        0 => 20_000 + rng.below(150_000),
        1..=10 => rng.below(5_000),
        _ => rng.below(300),
    };
    usize::try_from(size).unwrap_or(0)
}
