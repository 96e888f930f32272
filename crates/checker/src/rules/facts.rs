//! What a history says of each log, gathered once for all rules.
//!
//! **Invariant.** Only acknowledged polls are evidence of what is there; only acknowledged sends of what must be.
//!
//! Deliberately absent: judgement, except of histories that break the rules of recording.

use std::collections::{BTreeMap, HashMap};

use crate::history::{History, Op, Outcome, Polled, Value, What};
use crate::report::{Report, Rule};

/// One send.
pub(crate) struct Send<'a> {
    pub(crate) op: &'a Op,
    pub(crate) value: &'a Value,
    /// The offset it was told, if it was acknowledged with one.
    pub(crate) offset: Option<u64>,
}

/// One acknowledged poll.
pub(crate) struct Poll<'a> {
    pub(crate) op: &'a Op,
    pub(crate) from: u64,
    pub(crate) next: u64,
    pub(crate) records: &'a [Polled],
    pub(crate) last: bool,
}

/// Everything about one log.
#[derive(Default)]
pub(crate) struct Log<'a> {
    pub(crate) sends: Vec<Send<'a>>,
    pub(crate) polls: Vec<Poll<'a>>,
    pub(crate) watermarks: Vec<(&'a Op, u64)>,
    /// Every value that was seen, with the offsets it was seen at.
    pub(crate) seen: HashMap<&'a Value, Vec<u64>>,
    /// Every offset that is known, by a read or an acknowledgement, with what lies there.
    pub(crate) known: BTreeMap<u64, Vec<&'a Value>>,
}

impl<'a> Log<'a> {
    fn know(&mut self, offset: u64, value: &'a Value) {
        let values = self.known.entry(offset).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn see(&mut self, record: &'a Polled) {
        self.know(record.offset, &record.value);
        let offsets = self.seen.entry(&record.value).or_default();
        if !offsets.contains(&record.offset) {
            offsets.push(record.offset);
        }
    }
}

/// Sorts a history by logs.
pub(crate) fn collect<'a>(history: &'a History, report: &mut Report) -> BTreeMap<&'a str, Log<'a>> {
    let mut logs: BTreeMap<&str, Log<'a>> = BTreeMap::new();
    let mut sent = HashMap::new();
    for op in &history.ops {
        if op.ended < op.began {
            report.add(Rule::BadHistory, format!("an operation ended before it began: {op:?}"));
        }
        match &op.what {
            What::Send { log, value, offset } => {
                if sent.insert((log, value), op).is_some() {
                    report.add(Rule::BadHistory, format!("{log}: {value} was sent by two operations"));
                }
                let offset = offset.filter(|_| op.is_ok());
                let facts = logs.entry(log).or_default();
                if let Some(offset) = offset {
                    facts.know(offset, value);
                }
                facts.sends.push(Send { op, value, offset });
            }
            What::Poll { log, from, next, records, last } if op.is_ok() => {
                let facts = logs.entry(log).or_default();
                records.iter().for_each(|record| facts.see(record));
                if records.iter().any(|record| record.offset >= *next) {
                    report.add(Rule::BadHistory, format!("{log}: a poll read beyond its own end: {op:?}"));
                }
                facts.polls.push(Poll { op, from: *from, next: *next, records, last: *last });
            }
            What::Watermark { log, offset: Some(offset) } if op.is_ok() => {
                logs.entry(log).or_default().watermarks.push((op, *offset));
            }
            _ => {}
        }
    }
    logs
}

/// Values by how their sending ended.
pub(crate) fn outcomes<'a>(log: &Log<'a>) -> HashMap<&'a Value, Outcome> {
    log.sends.iter().map(|send| (send.value, send.op.outcome)).collect()
}
