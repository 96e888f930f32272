//! What a history says of each log, gathered once for all rules.
//!
//! **Invariant.** Only acknowledged polls are evidence of what is there; only acknowledged sends of what must be.
//! From the moment at which a record may be gone for a good reason, no rule misses it.
//!
//! Deliberately absent: judgement, except of histories that break the rules of recording.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::history::{Op, Outcome, Polled, Survives, Terms, Value, What};
use crate::report::{Report, Rule};

/// A map that is filled and asked millions of times in a campaign; its keys are the test's own.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Quick>>;
/// Likewise.
pub(crate) type Set<K> = std::collections::HashSet<K, BuildHasherDefault<Quick>>;

/// A hash that is quick, not strong.
#[derive(Default)]
pub(crate) struct Quick(u64);

impl Quick {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| self.add(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// One send.
pub(crate) struct Send<'a> {
    pub(crate) op: &'a Op,
    pub(crate) value: &'a Value,
    pub(crate) terms: &'a Terms,
    /// The offset it was told, if it was acknowledged with one.
    pub(crate) offset: Option<u64>,
    /// The offset it was told or asked for.
    asked: Option<u64>,
    /// From when on it may be gone: something may have removed it, or ended what it was promised to survive.
    pub(crate) may_go: u64,
    /// When it was certainly removed.
    pub(crate) gone: u64,
}

impl Send<'_> {
    /// Whether it may be missing in something that ended then.
    pub(crate) fn may_be_gone(&self, ended: u64) -> bool {
        self.may_go < ended
    }
}

/// One acknowledged poll.
pub(crate) struct Poll<'a> {
    pub(crate) op: &'a Op,
    pub(crate) from: u64,
    pub(crate) next: u64,
    pub(crate) records: &'a [Polled],
}

/// Something that removes a range of offsets and did not certainly fail.
struct Removal<'a> {
    op: &'a Op,
    from: u64,
    to: u64,
}

/// Everything about one log.
#[derive(Default)]
pub(crate) struct Log<'a> {
    pub(crate) sends: Vec<Send<'a>>,
    /// Where in `sends` a value is.
    pub(crate) by_value: Map<&'a Value, usize>,
    pub(crate) polls: Vec<Poll<'a>>,
    pub(crate) watermarks: Vec<(&'a Op, u64)>,
    /// Acknowledged takeovers and the epochs they gave.
    pub(crate) claims: Vec<(&'a Op, u32)>,
    /// What the broker says cannot be read.
    pub(crate) damage: Vec<(u64, u64)>,
    /// Every value that was seen, with the offsets it was seen at and when it was first.
    pub(crate) seen: Map<&'a Value, Vec<(u64, u64)>>,
    /// The values of the last reading.
    pub(crate) last: Set<&'a Value>,
    /// Every offset that is known, by a read or an acknowledgement, with what lies there.
    pub(crate) known: BTreeMap<u64, Vec<&'a Value>>,
    removals: Vec<Removal<'a>>,
}

impl<'a> Log<'a> {
    fn know(&mut self, offset: u64, value: &'a Value) {
        let values = self.known.entry(offset).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn see(&mut self, record: &'a Polled, ended: u64) {
        let places = self.seen.entry(&record.value).or_default();
        if let Some((_, first)) = places.iter_mut().find(|(offset, _)| *offset == record.offset) {
            *first = ended.min(*first);
        } else {
            places.push((record.offset, ended));
            self.know(record.offset, &record.value);
        }
    }

    pub(crate) fn send(&self, value: &Value) -> Option<&Send<'a>> {
        self.sends.get(*self.by_value.get(value)?)
    }

    /// Whether a value was not sent to be appended but to take the place of another.
    pub(crate) fn replaces(&self, value: &Value) -> bool {
        self.send(value).is_some_and(|send| send.terms.replaces)
    }

    /// Whether the broker says that nothing can be read there.
    pub(crate) fn is_damaged(&self, offset: u64) -> bool {
        self.damage.iter().any(|(from, to)| (*from..*to).contains(&offset))
    }

    /// Notes for each send what may have removed it, and when.
    fn settle(&mut self, restarts: &[(&Op, bool)]) {
        for send in &mut self.sends {
            for (op, power_cut) in restarts {
                let ends = match send.terms.survives {
                    Survives::PowerCut => false,
                    Survives::Kill => *power_cut,
                    Survives::Nothing => true,
                };
                if ends && op.ended > send.op.began {
                    send.may_go = send.may_go.min(op.began);
                }
            }
            let seen = self.seen.get(send.value).and_then(|places| places.first());
            let Some(first) = send.asked.or(seen.map(|(offset, _)| *offset)) else { continue };
            let end = first + u64::from(send.terms.span);
            for removal in self.removals.iter().filter(|it| it.from <= first && end <= it.to) {
                if removal.op.is_before(send.op) {
                    continue;
                }
                send.may_go = send.may_go.min(removal.op.began);
                // Also if nobody knows how the send ended: it lies where everything was removed later.
                if removal.op.is_ok() && send.op.ended < removal.op.began {
                    send.gone = send.gone.min(removal.op.ended);
                }
            }
        }
    }
}

/// Sorts operations by logs.
pub(crate) fn collect<'a>(ops: &[&'a Op], report: &mut Report) -> BTreeMap<&'a str, Log<'a>> {
    let mut logs: BTreeMap<&str, Log<'a>> = BTreeMap::new();
    let (mut restarts, mut anywhere) = (Vec::new(), false);
    for op in ops {
        if op.ended < op.began {
            report.add(Rule::BadHistory, format!("an operation ended before it began: {op:?}"));
        }
        match &op.what {
            What::Send { log, value, offset, terms } => {
                let (asked, offset) = (*offset, offset.filter(|_| op.is_ok()));
                let facts = logs.entry(log).or_default();
                if let Some(offset) = offset {
                    facts.know(offset, value);
                }
                if facts.by_value.insert(value, facts.sends.len()).is_some() {
                    report.add(Rule::BadHistory, format!("{log}: {value} was sent by two operations"));
                }
                let (may_go, gone) = (u64::MAX, u64::MAX);
                facts.sends.push(Send { op, value, terms, offset, asked, may_go, gone });
            }
            What::Poll { log, from, next, records, last } if op.is_ok() => {
                let facts = logs.entry(log).or_default();
                records.iter().for_each(|record| facts.see(record, op.ended));
                if *last {
                    facts.last.extend(records.iter().map(|record| &record.value));
                }
                if records.iter().any(|record| record.offset >= *next) {
                    report.add(Rule::BadHistory, format!("{log}: a poll read beyond its own end: {op:?}"));
                }
                facts.polls.push(Poll { op, from: *from, next: *next, records });
            }
            What::Watermark { log, offset: Some(offset) } if op.is_ok() => {
                logs.entry(log).or_default().watermarks.push((op, *offset));
            }
            What::Remove { log, from, to } if op.outcome != Outcome::Fail => {
                logs.entry(log).or_default().removals.push(Removal { op, from: *from, to: *to });
            }
            What::Claim { log, epoch: Some(epoch) } if op.is_ok() => {
                logs.entry(log).or_default().claims.push((op, *epoch));
            }
            What::Damage { log: Some(log), from, to, .. } => {
                logs.entry(log).or_default().damage.push((*from, *to));
            }
            What::Damage { log: None, .. } => anywhere = true,
            What::Restart { power_cut } => restarts.push((*op, *power_cut)),
            _ => {}
        }
    }
    for log in logs.values_mut() {
        log.settle(&restarts);
        log.damage.extend(anywhere.then_some((0, u64::MAX)));
    }
    logs
}
