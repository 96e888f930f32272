//! What a session publishes and what it is told of it.
//!
//! **Invariant.** A message that goes to several queues is as many publishings with the same value and one answer.
//!
//! Deliberately absent: transactions, which have one answer for many messages.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::sync::atomic::Ordering;

use ferrymq_checker::Survives;
use ferrymq_checker::queues::{Answer, Publishing};

use super::{GATHER_BYTES, Named, PATIENCE, Queue, Session, Style, named};
use crate::amqp::link::Posting;
use crate::history::{Outcome, Sent};
use crate::value::Value;
use crate::world::Log;

/// How much earlier than by our clock a message may come that was kept back: the broker counts whole milliseconds, and
/// over a restart by a clock that somebody may be adjusting. Twenty milliseconds of it are far from a mistake.
const EARLY_US: u64 = 20_000;

/// What waits for its confirm.
#[derive(Debug)]
pub(in crate::amqp) enum Sending {
    /// A message for queues.
    Copies(Vec<Publishing>),
    /// A record of a topic.
    Record(Sent),
}

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
pub(in crate::amqp) struct Way<'a> {
    pub(in crate::amqp) exchange: &'a str,
    pub(in crate::amqp) key: &'a str,
    /// The queues that get it; if it has no way, the one that must not.
    pub(in crate::amqp) to: &'a [Queue],
    /// If not, it is asked to come back.
    pub(in crate::amqp) routable: bool,
    /// How long the exchange is asked to keep it back, in milliseconds.
    pub(in crate::amqp) delay_ms: Option<u32>,
}

impl Session {
    /// Adds a message for a queue to what is sent next; one without a way is asked to come back.
    pub(in crate::amqp) fn publish(
        &mut self,
        to: &Queue,
        size: usize,
        persistent: bool,
        routable: bool,
    ) -> Result<()> {
        let key = if routable { &*to.name } else { "no such queue" };
        let way = Way { exchange: "", key, to: std::slice::from_ref(to), routable, delay_ms: None };
        self.post(way, size, persistent)
    }

    /// Adds a message to what is sent next.
    pub(in crate::amqp) fn post(&mut self, way: Way<'_>, size: usize, persistent: bool) -> Result<()> {
        let value = Value { writer: self.writer, counter: self.counter };
        self.counter += 1;
        self.published += 1;
        let began = self.world.now();
        let copies = way.to.iter().map(|to| Publishing {
            queue: to.label.clone(),
            value: named(value),
            survives: survives(to.style, persistent),
            routable: way.routable,
            life: self.life,
            began,
            ended: began,
            answers: Vec::new(),
            stayed: false,
            part_of: self.tx.as_ref().map(|open| open.id),
            due: way.delay_ms.map(|ms| began + (u64::from(ms) * 1000).saturating_sub(EARLY_US)),
        });
        let copies: Vec<Publishing> = copies.collect();
        match &mut self.tx {
            Some(open) => open.published.extend(copies),
            None => drop(self.waiting.insert(self.published, Sending::Copies(copies))),
        }
        let mut body = Vec::with_capacity(size);
        value.write(size, &mut body);
        // One for each writer: what one publishes comes in its order, whatever the queue.
        let priority = u8::try_from(self.writer / 2 % 4).unwrap_or(0);
        let Way { exchange, key, routable, delay_ms, .. } = way;
        let posting = Posting { exchange, key, mandatory: !routable, persistent, priority, delay_ms };
        self.link.put_publish(&posting, &body)?;
        if self.link.gathered() > GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Adds a record of a topic to what is sent next: there is always a way to it.
    pub(in crate::amqp) fn post_record(&mut self, log: &Log, size: usize) -> Result<()> {
        let value = Value { writer: self.writer, counter: self.counter };
        self.counter += 1;
        self.published += 1;
        let during = self.world.since(self.world.now());
        let sent = Sent { log: log.index, first: value, count: 1, outcome: Outcome::Info, during };
        self.waiting.insert(self.published, Sending::Record(sent));
        let mut body = Vec::with_capacity(size);
        value.write(size, &mut body);
        let (exchange, key) = ("", &*log.topic);
        let posting =
            Posting { exchange, key, mandatory: true, persistent: true, priority: 0, delay_ms: None };
        self.link.put_publish(&posting, &body)?;
        if self.link.gathered() > GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    /// What was published last.
    pub(in crate::amqp) fn last_published(&self) -> Named {
        named(Value { writer: self.writer, counter: self.counter.saturating_sub(1) })
    }

    /// What waits for its confirm, but for records of topics.
    fn copies(&mut self) -> impl Iterator<Item = &mut Publishing> {
        self.waiting.values_mut().flat_map(|sending| match sending {
            Sending::Copies(copies) => copies.iter_mut(),
            Sending::Record(_) => Default::default(),
        })
    }

    /// Hands over what was answered, and what will not be.
    pub(super) fn hand_over_sent(&mut self) {
        let (mut copies, mut records) =
            (std::mem::take(&mut self.answered), std::mem::take(&mut self.records));
        for sending in std::mem::take(&mut self.waiting).into_values() {
            match sending {
                Sending::Copies(unknown) => copies.extend(unknown),
                Sending::Record(unknown) => {
                    records.push(Sent { during: self.world.since(unknown.during.began), ..unknown });
                }
            }
        }
        self.world.queues.lock().publishings.append(&mut copies);
        self.world.history.lock().sent.append(&mut records);
    }

    /// Waits until at most so many publishings wait for a confirm.
    pub(in crate::amqp) fn confirms(&mut self, at_most: usize) -> Result<()> {
        self.flush()?;
        while self.waiting.len() > at_most {
            if !self.hear(PATIENCE)? {
                self.copies().for_each(|publishing| publishing.stayed = true);
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    pub(super) fn returned(&mut self, body: &[u8]) {
        let value = Value::read(body).map(named);
        let found = self.copies().find(|publishing| Ok(&publishing.value) == value.as_ref());
        match found {
            Some(publishing) => publishing.answers.push(Answer::Returned),
            // It may have been confirmed before, which is wrong too.
            None => match self.answered.iter_mut().find(|publishing| Ok(&publishing.value) == value.as_ref())
            {
                Some(publishing) => publishing.answers.push(Answer::Returned),
                // Nor does a record of a topic come back.
                None => self.stray(format!("a return of {value:?}")),
            },
        }
    }

    pub(super) fn confirmed(&mut self, tag: u64, multiple: bool, ok: bool) {
        let answer = if ok { Answer::Confirmed } else { Answer::Refused };
        let count = if ok { &self.world.counts.confirmed } else { &self.world.counts.refused };
        let now = self.world.now();
        let rest = if multiple { self.waiting.split_off(&(tag + 1)) } else { BTreeMap::new() };
        let hit = if multiple {
            std::mem::replace(&mut self.waiting, rest)
        } else {
            self.waiting.remove(&tag).map(|copies| (tag, copies)).into_iter().collect()
        };
        if hit.is_empty() || tag > self.published {
            self.stray(format!(
                "{answer:?} of {tag}, multiple {multiple}; {} were published",
                self.published
            ));
            return;
        }
        count.fetch_add(hit.len() as u64, Ordering::Relaxed);
        for sending in hit.into_values() {
            match sending {
                Sending::Copies(copies) => self.answered.extend(copies.into_iter().map(|mut copy| {
                    copy.answers.push(answer);
                    Publishing { ended: now, ..copy }
                })),
                Sending::Record(sent) => {
                    // What is refused may have happened all the same.
                    let outcome = if ok { Outcome::Ok(None) } else { Outcome::Info };
                    let during = self.world.since(sent.during.began);
                    self.world.counts.streamed.fetch_add(u64::from(ok), Ordering::Relaxed);
                    self.records.push(Sent { outcome, during, ..sent });
                }
            }
        }
    }

    fn stray(&self, what: String) {
        self.world.queues.lock().stray_answers.push(what);
    }
}

/// What a message is promised to survive in a queue.
fn survives(style: Style, persistent: bool) -> Survives {
    match style {
        Style::Quorum | Style::Over | Style::Stream => Survives::PowerCut,
        Style::Durable | Style::Prioritized if persistent => Survives::PowerCut,
        Style::Durable | Style::Prioritized | Style::Exclusive => Survives::Nothing,
    }
}
