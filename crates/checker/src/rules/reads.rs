//! What a reader saw stays, and no reader is taken past what is there.
//!
//! **Invariant.** A poll is evidence for everything between the position it asked for and the one it ended at.
//!
//! Deliberately absent: compaction. A log that is compacted needs a checker of its own.

use std::collections::{BTreeMap, HashSet};

use super::facts::{Log, Poll};
use crate::history::Value;
use crate::report::{Expectations, Report, Rule};

pub(crate) fn check(name: &str, log: &Log<'_>, expected: &Expectations, report: &mut Report) {
    let start = expected.starts.get(name).copied().unwrap_or(0);
    log.polls.iter().for_each(|poll| ascending(name, poll, report));
    missing(name, log, start, report);
    if expected.read_to_the_end {
        vanished(name, log, start, report);
    }
    watermarks(name, log, report);
}

/// A9: inside a poll offsets rise, and none lies before the position asked for.
fn ascending(name: &str, poll: &Poll<'_>, report: &mut Report) {
    let offsets: Vec<u64> = poll.records.iter().map(|record| record.offset).collect();
    if offsets.windows(2).any(|pair| pair[0] >= pair[1])
        || offsets.first().is_some_and(|first| *first < poll.from)
    {
        report.add(Rule::Skipped, format!("{name}: a poll from {} is out of order: {offsets:?}", poll.from));
    }
}

/// A10, A13: what was known to lie in the part that a poll looked at is in the poll.
fn missing(name: &str, log: &Log<'_>, start: u64, report: &mut Report) {
    // Per offset, when it was first known, and whether by a reader.
    let mut known: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
    let told = log.sends.iter().filter_map(|send| Some((send.offset?, send.op.ended, false)));
    let read = log
        .polls
        .iter()
        .flat_map(|poll| poll.records.iter().map(|record| (record.offset, poll.op.ended, true)));
    for (offset, ended, by_reader) in told.chain(read) {
        let first = known.entry(offset).or_insert((ended, by_reader));
        *first = (*first).min((ended, by_reader));
    }
    for poll in log.polls.iter().filter(|poll| poll.from < poll.next) {
        let there: HashSet<u64> = poll.records.iter().map(|record| record.offset).collect();
        for (offset, (ended, by_reader)) in known.range(poll.from.max(start)..poll.next.max(start)) {
            if *ended < poll.op.began && !there.contains(offset) {
                let rule = if *by_reader { Rule::Vanished } else { Rule::Skipped };
                let (from, next) = (poll.from, poll.next);
                report.add(rule, format!("{name}: a poll of {from}..{next} does not show offset {offset}"));
            }
        }
    }
}

/// A13: what anybody ever read is there in the end.
fn vanished(name: &str, log: &Log<'_>, start: u64, report: &mut Report) {
    let last: HashSet<&Value> =
        log.polls.iter().filter(|poll| poll.last).flat_map(|poll| poll.records).map(|r| &r.value).collect();
    let mut gone: Vec<(u64, &Value)> = log
        .seen
        .iter()
        .filter(|(value, _)| !last.contains(**value))
        .filter_map(|(value, offsets)| Some((*offsets.iter().max()?, *value)))
        .filter(|(offset, _)| *offset >= start)
        .collect();
    gone.sort_unstable();
    for (offset, value) in gone {
        report.add(Rule::Vanished, format!("{name}: {value} was read at {offset} and is gone"));
    }
}

/// A13: a high watermark never goes back, and never below what was acknowledged or read.
fn watermarks(name: &str, log: &Log<'_>, report: &mut Report) {
    let told = log.sends.iter().filter_map(|send| Some((send.op.ended, send.offset? + 1)));
    let read = log
        .polls
        .iter()
        .flat_map(|poll| poll.records.iter().map(|record| (poll.op.ended, record.offset + 1)));
    let marks = log.watermarks.iter().map(|(op, offset)| (op.ended, *offset));
    let mut known: Vec<(u64, u64)> = told.chain(read).chain(marks).collect();
    known.sort_unstable();
    for (op, offset) in &log.watermarks {
        let before = known.iter().take_while(|(ended, _)| *ended < op.began).map(|(_, offset)| *offset).max();
        if let Some(before) = before.filter(|before| before > offset) {
            report.add(Rule::WatermarkWentBack, format!("{name}: {offset} after {before}"));
        }
    }
}
