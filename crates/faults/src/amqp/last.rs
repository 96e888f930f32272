//! The last reading of all queues, and the judgement.
//!
//! **Invariant.** Nothing else works on the broker, so queues hold what they say, and in order.

use std::collections::BTreeSet;
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_checker::queues::{QueueExpectations, QueueRule, check};

use super::delayed::missing;
use super::limits::RULED;
use super::policies::look;
use super::session::Session;
use super::{Queue, Style, count, letters, told};
use crate::world::World;

/// How long what was kept back may take to come: it is due within a second, and nothing else is done.
const DUE_PATIENCE: Duration = Duration::from_secs(20);

/// How much there was of what.
pub(crate) type Counts = Vec<(&'static str, usize)>;

/// Longest description of a violation.
const WORDS_MAX: usize = 400;

/// Reads every queue that was ever declared, then holds all notes to the rules. So many messages must have been
/// confirmed. Says how much there was of what.
pub(crate) fn read_and_check(world: &Arc<World>, confirmed_min: u64) -> Counts {
    if world.amqp_server().is_none() {
        return Counts::new();
    }
    if let Some(address) = world.api() {
        for (name, _) in RULED {
            if let Err(error) = look(world, address, name) {
                world.violation("not-read", || format!("policy {name}: {error}"));
            }
        }
    }
    let declared: BTreeSet<String> =
        world.queues.lock().declarations.iter().map(|declared| declared.queue.clone()).collect();
    for name in declared {
        if let Err(error) = read(world, &name) {
            told(world, &error);
            world.violation("not-read", || format!("queue {name}: {error}"));
        }
    }
    let notes = world.queues.lock();
    let min = |part: u64| usize::try_from(confirmed_min / part).unwrap_or(usize::MAX);
    let expected = QueueExpectations {
        read_to_the_end: true,
        confirmed_min: min(1),
        delivered_min: min(2),
        done_min: min(4),
        letters_min: min(100),
        copied_min: min(50),
        transactions_min: min(200),
        delayed_min: min(100),
        // Queues fill in long lives. Those that end at their next sync have a few, or none.
        refused_min: min(10_000),
        policies_min: min(1_000),
        streamed_min: min(500),
    };
    let records =
        [("confirmed over AMQP", &world.counts.streamed), ("read as a stream", &world.counts.stream_read)];
    for (what, count) in records {
        let (found, wanted) = (count.load(Ordering::Relaxed), confirmed_min / 100);
        if found < wanted {
            let what = || format!("{found} records {what}, {wanted} wanted");
            world.violation(QueueRule::TooFew.name(), what);
        }
    }
    let (finished, wanted) = (super::over::finished(&notes), min(200));
    if finished < wanted {
        let what = || format!("{finished} done in transactions over a topic, {wanted} wanted");
        world.violation(QueueRule::TooFew.name(), what);
    }
    let report = check(&notes, &expected);
    for violation in report.violations {
        world.violation(violation.rule.name(), || violation.what.chars().take(WORDS_MAX).collect());
    }
    report.counts
}

fn read(world: &Arc<World>, name: &str) -> Result<()> {
    let Some(mut session) = Session::open(world)? else {
        return Err(std::io::ErrorKind::NotConnected.into());
    };
    if *name == letters::told().name {
        return read_stream(&mut session);
    }
    let queue = Queue::new(name, Style::Durable);
    let mut missing = missing(&world.queues.lock(), name);
    // What nobody knows of may be due between the count and the reading.
    if count(world, &mut session, &queue, name != super::delayed::queue().name)?.is_none() {
        return Ok(());
    }
    let deadline = world.clock.now() + DUE_PATIENCE;
    loop {
        while session.get(&queue, false)? {
            session.last_value().map(|value| missing.remove(value));
        }
        if missing.is_empty() || world.clock.now() >= deadline {
            break;
        }
        world.wait(Duration::from_millis(5));
    }
    session.is_last();
    session.renew()
}

/// Reads the stream of dead letters and transactions.
fn read_stream(session: &mut Session) -> Result<()> {
    let stream = letters::told();
    // What is published last ends it.
    session.publish(&stream, 0, true, true)?;
    let last = session.last_published();
    session.confirms(0)?;
    session.read_to(&stream, &last, DUE_PATIENCE)?;
    session.is_last();
    session.renew()
}
