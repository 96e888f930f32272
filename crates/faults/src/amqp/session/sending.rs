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

use super::{GATHER_BYTES, PATIENCE, Queue, Session, Style, named};
use crate::amqp::link::Posting;
use crate::value::Value;

/// How much earlier than by our clock a message may come that was kept back: the broker counts whole milliseconds, and
/// over a restart by a clock that somebody may be adjusting. Twenty milliseconds of it are far from a mistake.
const EARLY_US: u64 = 20_000;

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
            None => drop(self.waiting.insert(self.published, copies)),
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

    /// Waits until at most so many publishings wait for a confirm.
    pub(in crate::amqp) fn confirms(&mut self, at_most: usize) -> Result<()> {
        self.flush()?;
        while self.waiting.len() > at_most {
            if !self.hear(PATIENCE)? {
                self.waiting.values_mut().flatten().for_each(|publishing| publishing.stayed = true);
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    pub(super) fn returned(&mut self, body: &[u8]) {
        let value = Value::read(body).map(named);
        let found =
            self.waiting.values_mut().flatten().find(|publishing| Ok(&publishing.value) == value.as_ref());
        match found {
            Some(publishing) => publishing.answers.push(Answer::Returned),
            // It may have been confirmed before, which is wrong too.
            None => match self.answered.iter_mut().find(|publishing| Ok(&publishing.value) == value.as_ref())
            {
                Some(publishing) => publishing.answers.push(Answer::Returned),
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
        for mut publishing in hit.into_values().flatten() {
            publishing.answers.push(answer);
            publishing.ended = now;
            self.answered.push(publishing);
        }
    }

    fn stray(&self, what: String) {
        self.world.queues.lock().stray_answers.push(what);
    }
}

/// What a message is promised to survive in a queue.
fn survives(style: Style, persistent: bool) -> Survives {
    match style {
        Style::Quorum => Survives::PowerCut,
        Style::Durable | Style::Prioritized if persistent => Survives::PowerCut,
        Style::Durable | Style::Prioritized | Style::Exclusive => Survives::Nothing,
    }
}
