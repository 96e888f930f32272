//! What must hold when all is over: the rules of an acknowledged record, checked over the whole history.
//!
//! The last reading is the truth that everything else is held against; it must be complete.
//!
//! - lost: acknowledged and not there (unless somebody may have deleted it);
//! - vanished: seen by a reader and not there; moved: seen at another offset; reused: an offset with two values;
//! - twice: a value at two offsets; unsent: a value nobody sent to that log, or whose send certainly failed;
//! - order: a writer's values in another order than it sent them; skipped: a reader was not given a record;
//! - acknowledged while the store was known to be broken; commits and topics that went back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use crate::history::{Commit, History, Outcome, Sent, Span, TopicChange, TopicsSeen};
use crate::value::Value;
use crate::world::{Kind, Log, World};

/// Checks everything; what is wrong is noted in the world. `last` is the last reading.
pub(crate) fn check(world: &World, history: &History, last: &[Span]) {
    let mut sent: BTreeMap<usize, Vec<&Sent>> = BTreeMap::new();
    for batch in &history.sent {
        sent.entry(batch.log).or_default().push(batch);
    }
    let mut spans: BTreeMap<usize, Vec<&Span>> = BTreeMap::new();
    for span in &history.spans {
        spans.entry(span.log).or_default().push(span);
    }
    for log in world.logs() {
        let none = Vec::new();
        let sent = sent.get(&log.index).unwrap_or(&none);
        let none = Vec::new();
        let spans = spans.get(&log.index).unwrap_or(&none);
        match last.iter().find(|span| span.log == log.index) {
            Some(last) => LogCheck::new(world, &log, sent, last).run(spans),
            // A log that may be deleted has no end to be held against.
            None if log.dropped.load(Ordering::SeqCst) => {}
            None => world.violation("not-read", || format!("{log} was not read at the end")),
        }
    }
    while_broken(world, history);
    commits(world, &history.commits);
    topics(world, &history.topics, &history.topics_seen);
}

struct LogCheck<'a> {
    world: &'a World,
    log: &'a Log,
    sent: &'a [&'a Sent],
    last: &'a Span,
    /// Whose batch each value belongs to: (writer, first counter) to its index in `sent`.
    batches: BTreeMap<Value, usize>,
    /// The last reading.
    at: HashMap<i64, Value>,
    place: HashMap<Value, i64>,
    /// Below this, records may be gone.
    kept_from: i64,
}

impl<'a> LogCheck<'a> {
    fn new(world: &'a World, log: &'a Log, sent: &'a [&'a Sent], last: &'a Span) -> LogCheck<'a> {
        let kept_from = match log.kind {
            Kind::Kept | Kind::Churned => 0,
            Kind::Trimmed => log.trim_asked.load(Ordering::SeqCst),
            Kind::Retained => last.from,
        };
        let batches = sent.iter().enumerate().map(|(index, batch)| (batch.first, index)).collect();
        LogCheck { world, log, sent, last, batches, at: HashMap::new(), place: HashMap::new(), kept_from }
    }

    fn run(mut self, spans: &[&Span]) {
        self.last_reading();
        for batch in self.sent {
            if let Outcome::Ok(base) = batch.outcome {
                self.acknowledged(batch, base);
            }
        }
        for span in spans {
            self.seen(span);
        }
    }

    fn violation(&self, rule: &'static str, what: impl FnOnce() -> String) {
        self.world.violation(rule, || format!("{}: {}", self.log, what()));
    }

    /// The batch a value was sent in.
    fn batch_of(&self, value: Value) -> Option<&'a Sent> {
        let (first, index) = self.batches.range(..=value).next_back()?;
        let batch = self.sent[*index];
        (first.writer == value.writer && value.counter - first.counter < batch.count).then_some(batch)
    }

    fn was_sent(&self, offset: i64, value: Value) {
        match self.batch_of(value) {
            None => self.violation("unsent", || format!("{value} at {offset}: nobody sent it here")),
            Some(batch) => {
                if let Outcome::Fail(code) = batch.outcome {
                    self.violation("unsent", || format!("{value} at {offset} was refused with error {code}"));
                }
            }
        }
    }

    fn last_reading(&mut self) {
        let asked = self.log.trim_asked.load(Ordering::SeqCst);
        let done = self.log.trim_done.load(Ordering::SeqCst);
        let from = self.last.from;
        if self.log.kind != Kind::Retained && from > asked {
            self.violation("beginning-lost", || format!("starts at {from}, nobody deleted beyond {asked}"));
        }
        if from < done {
            self.violation("deleted-came-back", || format!("starts at {from}, deleted up to {done}"));
        }
        let mut newest: HashMap<u32, u32> = HashMap::new();
        for (offset, value) in self.last.records() {
            self.was_sent(offset, value);
            self.at.insert(offset, value);
            if let Some(other) = self.place.insert(value, offset) {
                self.violation("twice", || format!("{value} at {other} and at {offset}"));
            } else if let Some(before) = newest.insert(value.writer, value.counter)
                && before > value.counter
            {
                self.violation("order", || format!("{value} at {offset} after counter {before}"));
            }
        }
    }

    fn acknowledged(&self, batch: &Sent, base: Option<i64>) {
        for index in 0..batch.count {
            let value = batch.first.plus(index);
            let promised = base.map(|base| base + i64::from(index));
            match (self.place.get(&value), promised) {
                (Some(found), Some(promised)) if *found != promised => {
                    self.violation("moved", || format!("{value} acknowledged at {promised}, is at {found}"));
                }
                (Some(_), _) => {}
                // Without an offset nothing can be said where something may have been deleted.
                (None, None) if self.kept_from > 0 => {}
                (None, Some(promised)) if promised < self.kept_from => {}
                (None, promised) => {
                    let during = batch.during;
                    let what = || {
                        let at = promised.map_or_else(|| "?".to_owned(), |offset| offset.to_string());
                        let last = self.last.to;
                        format!("{value} acknowledged at {at} ({} us), the log ends at {last}", during.ended)
                    };
                    self.violation("lost", what);
                }
            }
        }
    }

    fn seen(&mut self, span: &Span) {
        let mut given = HashSet::new();
        let mut before = span.from - 1;
        for (offset, value) in span.records() {
            given.insert(offset);
            if offset <= before {
                self.violation("read-backwards", || format!("{offset} after {before}"));
            }
            before = offset;
            match self.at.get(&offset) {
                Some(found) if *found == value => {}
                Some(found) => {
                    self.violation("reused", || format!("{offset} was {value}, is {found}"));
                }
                None => {
                    self.was_sent(offset, value);
                    if let Some(now) = self.place.get(&value) {
                        self.violation("moved", || format!("{value} seen at {offset}, is at {now}"));
                    } else if offset >= self.kept_from {
                        self.violation("vanished", || format!("{value} was seen at {offset}"));
                    }
                }
            }
        }
        for (offset, value) in self.last.records().filter(|(offset, _)| (span.from..span.to).contains(offset))
        {
            if !given.contains(&offset) {
                let (from, to) = (span.from, span.to);
                self.violation("skipped", || format!("{value} at {offset} was not given in {from}..{to}"));
            }
        }
    }
}

fn while_broken(world: &World, history: &History) {
    for broken in &history.broken {
        for batch in &history.sent {
            let inside = broken.from < batch.during.began && batch.during.ended < broken.to;
            if inside && matches!(batch.outcome, Outcome::Ok(_)) {
                let late = batch.during.began - broken.from;
                let what = || format!("{} was sent {late} us after a sync had failed", batch.first);
                world.violation("acknowledged-after-a-failed-sync", what);
            }
        }
    }
}

fn commits(world: &World, commits: &[Commit]) {
    let mut each: BTreeMap<(&str, usize), Vec<&Commit>> = BTreeMap::new();
    for commit in commits {
        each.entry((&commit.group, commit.log)).or_default().push(commit);
    }
    for ((group, log), ops) in each {
        // One thread wrote and read them in this order, and what it wrote only rose.
        let (mut at_least, mut at_most) = (-1, -1);
        for op in ops {
            match op.written {
                Some(outcome) => {
                    at_most = at_most.max(op.offset);
                    if matches!(outcome, Outcome::Ok(_)) {
                        at_least = op.offset;
                    }
                }
                None => {
                    if !(at_least..=at_most).contains(&op.offset) {
                        let found = op.offset;
                        let what =
                            || format!("{group} log {log}: {found}, must be in {at_least}..={at_most}");
                        world.violation("committed-offset-went-back", what);
                    }
                    at_least = at_least.max(op.offset);
                }
            }
        }
    }
}

fn topics(world: &World, changes: &[TopicChange], seen: &[TopicsSeen]) {
    let mut names: BTreeMap<&str, Vec<&TopicChange>> = BTreeMap::new();
    for change in changes {
        names.entry(&change.name).or_default().push(change);
    }
    for list in seen {
        let there: HashSet<&str> = list.names.iter().map(String::as_str).collect();
        for (name, changes) in &names {
            let over = changes.iter().filter(|change| change.during.ended < list.during.began);
            let open = changes.iter().any(|change| {
                change.during.ended >= list.during.began && change.during.began <= list.during.ended
            });
            // A change of unknown result may happen later, but not against a later certain one.
            let (mut certain, mut unknown) = (None, false);
            for change in over {
                match change.outcome {
                    Outcome::Ok(_) => (certain, unknown) = (Some(change.made), false),
                    Outcome::Info => unknown = true,
                    Outcome::Fail(_) => {}
                }
            }
            if open || unknown {
                continue;
            }
            match (certain, there.contains(name)) {
                (Some(true), false) => {
                    world.violation("topic-lost", || format!("{name} was made and is not listed"));
                }
                (Some(false), true) => {
                    world.violation("topic-came-back", || format!("{name} was deleted and is listed"));
                }
                _ => {}
            }
        }
    }
}
