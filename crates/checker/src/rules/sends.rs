//! What was acknowledged is there, once, at its offset, in order; what was refused is not.
//!
//! Deliberately absent: what a reader saw on the way; see [`reads`](super::reads).

use std::collections::BTreeMap;

use super::facts::{Log, Map, Send, Set};
use crate::history::{Outcome, Value};
use crate::report::{Expectations, Report, Rule};

pub(crate) fn check(name: &str, log: &Log<'_>, expected: &Expectations, report: &mut Report) {
    let start = expected.starts.get(name).copied().unwrap_or(0);
    lost(name, log, start, expected.read_to_the_end, report);
    diverged(name, log, report);
    reused(name, log, report);
    visible(name, log, report);
    if expected.idempotent {
        duplicated(name, log, report);
    }
    if expected.ordered {
        reordered(name, log, report);
    }
}

/// A1, A2. Without a last reading only what lies below the highest offset read is missed.
fn lost(name: &str, log: &Log<'_>, start: u64, read_to_the_end: bool, report: &mut Report) {
    let highest_read = log.polls.iter().flat_map(|poll| poll.records).map(|record| record.offset).max();
    let acked = || log.sends.iter().filter(|send| send.op.is_ok());
    let is_lost = |send: &Send<'_>| {
        let is_excused = send.offset.is_some_and(|offset| offset < start || log.is_damaged(offset));
        if is_excused || send.may_be_gone(u64::MAX) {
            return false;
        }
        match (read_to_the_end, send.offset) {
            (true, _) => !log.last.contains(send.value),
            (false, Some(offset)) => Some(offset) <= highest_read && !log.seen.contains_key(send.value),
            (false, None) => false,
        }
    };
    if !acked().any(is_lost) {
        return;
    }
    let mut of_writer: BTreeMap<&str, Vec<(u64, bool)>> = BTreeMap::new();
    for send in acked() {
        let fates = of_writer.entry(&send.value.writer).or_default();
        fates.push((send.value.number, is_lost(send)));
    }
    for (writer, mut fates) in of_writer {
        fates.sort_unstable();
        let lost: Vec<u64> = fates.iter().filter(|(_, lost)| *lost).map(|(number, _)| *number).collect();
        if lost.is_empty() {
            continue;
        }
        let survives_before = fates.iter().take_while(|(_, lost)| !lost).count();
        let survives_behind = fates.iter().rev().take_while(|(_, lost)| !lost).count();
        let place = match (survives_before, survives_behind) {
            (0, 0) => "all",
            (0, _) => "the beginning",
            (_, 0) => "the end",
            _ => "the middle",
        };
        report.add(Rule::Lost, format!("{name}: {place} of what {writer} was promised: {lost:?}"));
    }
}

/// Acknowledged sends that lie where the broker reports damage, and are not there.
pub(crate) fn damaged(log: &Log<'_>) -> usize {
    let is_hit = |send: &&Send<'_>| {
        send.offset.is_some_and(|offset| log.is_damaged(offset)) && !log.last.contains(send.value)
    };
    log.sends.iter().filter(|send| send.op.is_ok() && !send.may_be_gone(u64::MAX)).filter(is_hit).count()
}

/// A3, by what is there. What took the place of another value does not count beside it.
fn diverged(name: &str, log: &Log<'_>, report: &mut Report) {
    for (offset, values) in log.known.iter().filter(|(_, values)| values.len() > 1) {
        let replaced = |value: &Value| {
            let before = log.send(value).map(|send| send.op);
            let successors = values.iter().filter(|other| ***other != *value && log.replaces(other));
            let mut successors = successors.filter_map(|other| log.send(other));
            successors.any(|other| before.is_some_and(|before| !other.op.is_before(before)))
        };
        let values: Vec<&Value> = values.iter().copied().filter(|value| !replaced(value)).collect();
        if values.len() > 1 {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            report.add(Rule::Diverged, format!("{name}: offset {offset} holds {}", values.join(" and ")));
        }
    }
}

/// A3, by what was known when the send began: offsets rise.
fn reused(name: &str, log: &Log<'_>, report: &mut Report) {
    let told = log.sends.iter().filter_map(|send| {
        let taken = u64::from(send.terms.span).saturating_sub(1);
        Some((send.op.ended, send.offset? + taken))
    });
    let read =
        log.polls.iter().flat_map(|poll| poll.records.iter().map(|record| (poll.op.ended, record.offset)));
    let mut known: Vec<(u64, u64)> = told.chain(read).collect();
    known.sort_unstable();
    // The highest offset known at each moment.
    let mut highest = 0;
    for (_, offset) in &mut known {
        highest = highest.max(*offset);
        *offset = highest;
    }
    for send in log.sends.iter().filter(|send| !send.terms.replaces) {
        let Some(offset) = send.offset else { continue };
        let before = known.partition_point(|(ended, _)| *ended < send.op.began);
        if let Some((_, taken)) = before.checked_sub(1).and_then(|place| known.get(place))
            && offset <= *taken
        {
            let what = format!("{name}: {} got offset {offset} when {taken} was taken already", send.value);
            report.add(Rule::OffsetReused, what);
        }
    }
}

/// A5 and A22.
fn visible(name: &str, log: &Log<'_>, report: &mut Report) {
    for (value, places) in &log.seen {
        let offsets = || places.iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
        match log.send(value).map(|send| send.op.outcome) {
            Some(Outcome::Ok | Outcome::Info) => {}
            Some(Outcome::Fail) => {
                report.add(
                    Rule::FailedButVisible,
                    format!("{name}: {value} was refused and lies at {:?}", offsets()),
                );
            }
            None => report.add(Rule::NeverSent, format!("{name}: nobody sent {value} at {:?}", offsets())),
        }
    }
}

/// A4.
fn duplicated(name: &str, log: &Log<'_>, report: &mut Report) {
    let mut places: Map<&Value, u64> = Map::default();
    let mut twice: BTreeMap<&Value, Vec<u64>> = BTreeMap::new();
    for (offset, values) in &log.known {
        for value in values {
            if let Some(first) = places.insert(value, *offset) {
                twice.entry(value).or_insert_with(|| vec![first]).push(*offset);
            }
        }
    }
    for (value, offsets) in twice {
        report.add(Rule::Duplicated, format!("{name}: {value} lies at {offsets:?}"));
    }
}

/// A11: in the order of offsets each writer's numbers rise. What takes the place of another lies anywhere.
fn reordered(name: &str, log: &Log<'_>, report: &mut Report) {
    let mut latest: BTreeMap<&str, &Value> = BTreeMap::new();
    let mut counted: Set<&Value> = Set::default();
    for (offset, values) in &log.known {
        for value in values {
            if !counted.insert(value) || log.replaces(value) {
                continue;
            }
            match latest.get(&*value.writer) {
                Some(before) if before.number > value.number => {
                    report.add(Rule::Reordered, format!("{name}: {value} at {offset} lies behind {before}"));
                }
                _ => {
                    latest.insert(&value.writer, value);
                }
            }
        }
    }
}
