//! What a reader saw stays, and no reader is taken past what is there.
//!
//! **Invariant.** A poll is evidence for everything between the position it asked for and the one it ended at.
//!
//! Deliberately absent: compaction. A log that is compacted needs a checker of its own.

use super::facts::{Log, Poll};
use crate::history::Value;
use crate::report::{Expectations, Report, Rule};

pub(crate) fn check(name: &str, log: &Log<'_>, expected: &Expectations, report: &mut Report) {
    let start = expected.starts.get(name).copied().unwrap_or(0);
    log.polls.iter().for_each(|poll| ascending(name, poll, report));
    missing(name, log, start, report);
    came_back(name, log, report);
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

/// A value that is known to lie at an offset.
struct Known<'a> {
    offset: u64,
    value: &'a Value,
    /// Its place among the sends.
    send: Option<usize>,
    /// Since when.
    since: u64,
    by_reader: bool,
    /// From when on it may be gone.
    may_go: u64,
}

/// What is known to lie where, each once, with how it was first known, in the order of offsets.
fn known<'a>(log: &Log<'a>) -> Vec<Known<'a>> {
    let told = log.sends.iter().enumerate().filter_map(|(place, send)| {
        let (offset, since, may_go) = (send.offset?, send.op.ended, send.may_go);
        Some(Known { offset, value: send.value, send: Some(place), since, by_reader: false, may_go })
    });
    let read = log.seen.iter().flat_map(|(value, places)| {
        let send = log.by_value.get(value).copied();
        let may_go = send.map_or(u64::MAX, |place| log.sends[place].may_go);
        places.iter().map(move |(offset, since)| {
            let (offset, since) = (*offset, *since);
            Known { offset, value, send, since, by_reader: true, may_go }
        })
    });
    let mut all: Vec<Known<'a>> = told.chain(read).collect();
    all.sort_unstable_by_key(|known| (known.offset, known.send, known.since, known.by_reader));
    all.dedup_by(|next, known| {
        known.offset == next.offset && known.send == next.send && known.value == next.value
    });
    all
}

/// A10, A13: what was known to lie in the part that a poll looked at is in the poll.
fn missing(name: &str, log: &Log<'_>, start: u64, report: &mut Report) {
    let known = known(log);
    for poll in log.polls.iter().filter(|poll| poll.from < poll.next) {
        let mut there: Vec<u64> = poll.records.iter().map(|record| record.offset).collect();
        there.sort_unstable();
        let from = known.partition_point(|known| known.offset < poll.from.max(start));
        let in_it = known[from..].iter().take_while(|known| known.offset < poll.next);
        for known in in_it.filter(|known| known.since < poll.op.began && known.may_go >= poll.op.ended) {
            if there.binary_search(&known.offset).is_err() && !log.is_damaged(known.offset) {
                let rule = if known.by_reader { Rule::Vanished } else { Rule::Skipped };
                let (from, next, offset, value) = (poll.from, poll.next, known.offset, known.value);
                let what = format!("{name}: a poll of {from}..{next} does not show {value} at {offset}");
                report.add(rule, what);
            }
        }
    }
}

/// A28: what was removed is not there.
fn came_back(name: &str, log: &Log<'_>, report: &mut Report) {
    for poll in &log.polls {
        for record in poll.records {
            if log.send(&record.value).is_some_and(|send| send.gone < poll.op.began) {
                let (value, offset) = (&record.value, record.offset);
                report.add(Rule::CameBack, format!("{name}: {value} was removed and lies at {offset}"));
            }
        }
    }
}

/// A13: what anybody ever read is there in the end.
fn vanished(name: &str, log: &Log<'_>, start: u64, report: &mut Report) {
    let mut gone: Vec<(u64, &Value)> = log
        .seen
        .iter()
        .filter(|(value, _)| !log.last.contains(**value))
        .filter(|(value, _)| log.send(value).is_none_or(|send| !send.may_be_gone(u64::MAX)))
        .filter_map(|(value, places)| Some((places.iter().map(|(offset, _)| *offset).max()?, *value)))
        .filter(|(offset, _)| *offset >= start && !log.is_damaged(*offset))
        .collect();
    gone.sort_unstable();
    for (offset, value) in gone {
        report.add(Rule::Vanished, format!("{name}: {value} was read at {offset} and is gone"));
    }
}

/// A13: a high watermark never goes back, and never below what was acknowledged or read.
fn watermarks(name: &str, log: &Log<'_>, report: &mut Report) {
    let told =
        log.sends.iter().filter_map(|send| Some((send.op.ended, send.offset? + u64::from(send.terms.span))));
    let read = log
        .polls
        .iter()
        .flat_map(|poll| poll.records.iter().map(|record| (poll.op.ended, record.offset + 1)));
    let marks = log.watermarks.iter().map(|(op, offset)| (op.ended, *offset));
    let mut known: Vec<(u64, u64)> = told.chain(read).chain(marks).collect();
    known.sort_unstable();
    // The highest offset known at each moment.
    let mut highest = 0;
    for (_, offset) in &mut known {
        highest = highest.max(*offset);
        *offset = highest;
    }
    for (op, offset) in &log.watermarks {
        let before = known.partition_point(|(ended, _)| *ended < op.began);
        let before = before.checked_sub(1).and_then(|place| known.get(place)).map(|(_, offset)| *offset);
        // What was cut off because of damage, and reported, ended somewhere.
        let is_cut = |before: u64| log.is_damaged(*offset) && log.is_damaged(before - 1);
        if let Some(before) = before.filter(|before| before > offset && !is_cut(*before)) {
            report.add(Rule::WatermarkWentBack, format!("{name}: {offset} after {before}"));
        }
    }
}
