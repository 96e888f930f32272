//! Of a transaction all happens or nothing.
//!
//! What was answered is judged as anything else: confirmed, or never there. Of one whose end nobody knows each part
//! says in the end whether it happened, as far as that can be told, and all must say the same.
//!
//! Deliberately absent: parts that cannot tell: transient messages, and settlements of messages that others may
//! have settled or removed.

use std::collections::BTreeMap;

use super::facts::{Facts, Story};
use super::{
    Delivery, How, Publishing, QueueExpectations, QueueHistory, QueueReport, QueueRule, Transaction,
};
use crate::history::{Outcome, Survives};

/// What belongs to a transaction.
#[derive(Default)]
struct Parts<'a> {
    published: Vec<(&'a Publishing, &'a Story<'a>)>,
    /// Settlements for good: the message and which delivery.
    settled: Vec<(&'a Story<'a>, usize)>,
}

pub(super) fn check(
    history: &QueueHistory,
    facts: &Facts<'_>,
    expected: &QueueExpectations,
    report: &mut QueueReport,
) {
    let mut all: BTreeMap<u64, Parts<'_>> = BTreeMap::new();
    for story in facts.stories.values() {
        if let Some((publishing, id)) = story.publishing.and_then(|it| Some((it, it.part_of?))) {
            all.entry(id).or_default().published.push((publishing, story));
        }
        for (index, delivery) in story.deliveries.iter().enumerate() {
            let settled = delivery.settled.filter(|settled| settled.how == How::Done);
            if let Some(id) = settled.and_then(|settled| settled.part_of) {
                all.entry(id).or_default().settled.push((story, index));
            }
        }
    }
    for transaction in &history.transactions {
        let Some(parts) = all.remove(&transaction.id) else { continue };
        uncommitted(transaction, &parts, report);
        if transaction.outcome == Outcome::Info && expected.read_to_the_end {
            whole(facts, transaction, &parts, report);
        }
    }
    for id in all.keys() {
        report.add(QueueRule::BadHistory, format!("the end of transaction {id} is not noted"));
    }
}

/// Nothing is there before it is asked for, or if it was rolled back.
fn uncommitted(transaction: &Transaction, parts: &Parts<'_>, report: &mut QueueReport) {
    let from = transaction.asked.filter(|_| transaction.outcome != Outcome::Fail).unwrap_or(u64::MAX);
    let seen = parts.published.iter().flat_map(|(_, story)| &story.deliveries);
    for Delivery { queue, value, at, .. } in seen.filter(|delivery| delivery.at < from) {
        let Transaction { id, outcome, .. } = transaction;
        let what = format!("{queue}: {value} of transaction {id} ({outcome:?}) was there at {at}");
        report.add(QueueRule::Uncommitted, what);
    }
}

/// All parts that can tell say the same.
fn whole(facts: &Facts<'_>, transaction: &Transaction, parts: &Parts<'_>, report: &mut QueueReport) {
    let (mut did, mut did_not) = (Vec::new(), Vec::new());
    for (publishing, story) in &parts.published {
        let Publishing { queue, value, .. } = publishing;
        if !story.deliveries.is_empty() {
            if facts.is_stream(queue) {
                // It has it before the rest is done.
                continue;
            }
            did.push(format!("{queue}: {value} is there"));
        } else if publishing.survives == Survives::PowerCut && facts.keeps(publishing) {
            did_not.push(format!("{queue}: {value} is not there"));
        }
    }
    for (story, index) in &parts.settled {
        let Delivery { queue, value, .. } = story.deliveries[*index];
        match is_settled(facts, story, *index) {
            Some(true) => did.push(format!("{queue}: {value} is settled")),
            Some(false) => did_not.push(format!("{queue}: {value} came again")),
            None => {}
        }
    }
    if let (Some(one), Some(other)) = (did.first(), did_not.first()) {
        let (id, yes, no) = (transaction.id, did.len(), did_not.len());
        let what = format!("{yes} parts of transaction {id} happened and {no} did not: {one}, {other}");
        report.add(QueueRule::HalfCommitted, what);
    }
}

/// Whether a settlement happened, if that can be told.
fn is_settled(facts: &Facts<'_>, story: &Story<'_>, index: usize) -> Option<bool> {
    let publishing = story.publishing.filter(|publishing| publishing.survives == Survives::PowerCut)?;
    let this = story.deliveries[index];
    let later = &story.deliveries[index + 1..];
    let sent = this.settled.map_or(u64::MAX, |settled| settled.sent);
    let again = |later: &&Delivery| {
        later.life > this.life || later.life == this.life && later.at > sent && facts.is_in_time(later)
    };
    if later.iter().any(again) {
        return Some(false);
    }
    let others = story.deliveries[..index].iter().chain(later).any(|delivery| delivery.may_be_done());
    (later.is_empty() && !others && facts.keeps(publishing)).then_some(true)
}
