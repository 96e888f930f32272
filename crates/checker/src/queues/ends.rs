//! What queues say of themselves, and whether enough happened.
//!
//! Deliberately absent: counts while clients work; nobody could say what they should be.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::limits::is_refused;
use super::{Count, QueueExpectations, QueueHistory, QueueReport, QueueRule, Removed};
use crate::history::{Outcome, Value};
use crate::rules::facts::Map;

pub(super) fn check(
    history: &QueueHistory,
    facts: &Facts<'_>,
    expected: &QueueExpectations,
    report: &mut QueueReport,
) {
    let mut there: BTreeMap<&str, u64> = BTreeMap::new();
    for delivery in facts.deliveries.iter().filter(|delivery| delivery.last) {
        *there.entry(&delivery.queue).or_default() += 1;
    }
    for count in &history.counts {
        if let Some(found) = count.found.filter(|_| count.last) {
            let right = (there.get(&*count.queue).copied().unwrap_or(0), 0);
            if found != right {
                let what =
                    format!("{}: messages and consumers are {right:?}, it counts {found:?}", count.queue);
                report.add(QueueRule::Miscounted, what);
            }
        }
        queue_is_right(history, count, report);
    }
    too_few(history, facts, expected, report);
}

fn queue_is_right(history: &QueueHistory, count: &Count, report: &mut QueueReport) {
    let declared = || history.declarations.iter().filter(|it| it.queue == count.queue);
    let deleted = || {
        let queues = history.removals.iter().filter(|it| it.what == Removed::Queue);
        queues.filter(|it| it.queue == count.queue)
    };
    let wrong = if count.found.is_none() {
        // Declared, and nothing that may be later deleted it.
        declared().any(|declared| {
            let counts = declared.outcome == Outcome::Ok && declared.ended < count.began;
            counts && !deleted().any(|deleted| deleted.may_take(declared.began))
        })
    } else {
        deleted().any(|deleted| {
            let counts = deleted.outcome == Outcome::Ok && deleted.ended < count.began;
            let mut again = declared().filter(|declared| declared.began < count.ended);
            counts
                && !again.any(|again| match again.outcome {
                    Outcome::Ok => again.ended >= deleted.began,
                    Outcome::Fail => false,
                    Outcome::Info => true,
                })
        })
    };
    if wrong {
        let what = if count.found.is_none() { "is gone" } else { "was deleted and is there" };
        report.add(QueueRule::QueueWentBack, format!("{} {what} at {}", count.queue, count.began));
    }
}

fn too_few(
    history: &QueueHistory,
    facts: &Facts<'_>,
    expected: &QueueExpectations,
    report: &mut QueueReport,
) {
    let published = || facts.stories.values().filter_map(|story| story.publishing);
    let confirmed = || published().filter(|publishing| publishing.routable && publishing.is_confirmed());
    let done = facts.deliveries.iter().filter(|delivery| delivery.done().is_some()).count();
    let stories = facts.stories.values();
    let letters = stories.filter(|story| story.deliveries.iter().any(|delivery| story.is_letter(delivery)));
    let mut copies: Map<&Value, usize> = Map::default();
    confirmed().for_each(|publishing| *copies.entry(&publishing.value).or_default() += 1);
    let transactions = history.transactions.iter();
    let committed = transactions.filter(|transaction| transaction.outcome == Outcome::Ok).count();
    let seen = facts.stories.values().filter(|story| !story.deliveries.is_empty());
    let delayed = seen.filter(|story| story.publishing.is_some_and(|publishing| publishing.due.is_some()));
    let refused = published().filter(|publishing| is_refused(facts, publishing));
    let changes = history.policies.iter().filter(|change| change.outcome == Outcome::Ok);
    let streamed =
        facts.deliveries.iter().filter(|delivery| delivery.last && facts.is_stream(&delivery.queue));
    let each = [
        ("messages refused by full queues", refused.count(), expected.refused_min),
        ("policies set and cleared", changes.count(), expected.policies_min),
        ("letters and parts of transactions in streams", streamed.count(), expected.streamed_min),
        ("messages kept back and seen", delayed.count(), expected.delayed_min),
        ("transactions committed", committed, expected.transactions_min),
        ("messages with a way confirmed", confirmed().count(), expected.confirmed_min),
        ("deliveries", facts.deliveries.len(), expected.delivered_min),
        ("deliveries settled for good", done, expected.done_min),
        ("messages seen as dead letters", letters.count(), expected.letters_min),
        (
            "messages confirmed for several queues",
            copies.values().filter(|count| **count > 1).count(),
            expected.copied_min,
        ),
    ];
    for (what, found, wanted) in each {
        report.counts.push((what, found));
        if found < wanted {
            report.add(QueueRule::TooFew, format!("{found} {what}, {wanted} wanted"));
        }
    }
}
