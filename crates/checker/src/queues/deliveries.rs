//! How messages go out: to one at a time, marked when they were out of their queue before, each publisher's in order.
//!
//! Deliberately absent: which consumer gets what; fairness.

use std::collections::BTreeMap;

use super::facts::{Facts, Story};
use super::{Delivery, QueueReport, QueueRule};

pub(super) fn check(facts: &Facts<'_>, report: &mut QueueReport) {
    for story in facts.stories.values() {
        held(facts, story, report);
        marks(facts, story, report);
        early(story, report);
    }
    let in_order = || facts.deliveries.iter().filter(|delivery| facts.is_in_order(delivery));
    let first = in_order().filter(|delivery| !delivery.redelivered);
    order(first.map(|delivery| ((delivery.channel, true), *delivery)), "first", report);
    let stretches = in_order().filter_map(|delivery| Some(((delivery.stretch?, false), *delivery)));
    order(stretches, "undisturbed", report);
    let last = in_order().filter(|delivery| delivery.last);
    order(last.map(|delivery| ((0, false), *delivery)), "the last", report);
}

/// While a channel has a message nobody else gets it.
fn held(facts: &Facts<'_>, story: &Story<'_>, report: &mut QueueReport) {
    for (index, first) in story.deliveries.iter().enumerate() {
        let later = story.deliveries[index + 1..].iter().filter(|later| later.life == first.life);
        for later in later.filter(|later| later.at < first.held_until() && facts.is_in_time(later)) {
            let Delivery { queue, value, .. } = first;
            let what = format!(
                "{queue}: {value} went to channel {} at {} while channel {} had it since {}",
                later.channel, later.at, first.channel, first.at
            );
            report.add(QueueRule::DeliveredWhileHeld, what);
        }
    }
}

/// What is kept back does not come before it is due.
fn early(story: &Story<'_>, report: &mut QueueReport) {
    let Some(due) = story.publishing.and_then(|publishing| publishing.due) else { return };
    for Delivery { queue, value, at, .. } in story.deliveries.iter().filter(|delivery| delivery.at < due) {
        report.add(QueueRule::TooEarly, format!("{queue}: {value} came at {at} and is due at {due}"));
    }
}

/// What was delivered before out of the same queue is marked.
fn marks(facts: &Facts<'_>, story: &Story<'_>, report: &mut QueueReport) {
    let (letters, others): (Vec<&Delivery>, Vec<&Delivery>) =
        story.deliveries.iter().copied().partition(|delivery| story.is_letter(delivery));
    // A stream marks nothing, and a letter may be there again.
    let letters: Vec<&Delivery> =
        letters.into_iter().filter(|letter| !facts.is_stream(&letter.queue)).collect();
    for deliveries in [&letters, &others] {
        marks_in_one(facts, deliveries, report);
    }
}

fn marks_in_one(facts: &Facts<'_>, deliveries: &[&Delivery], report: &mut QueueReport) {
    let mut unmarked = 0;
    for (index, delivery) in deliveries.iter().enumerate().filter(|(_, one)| !one.redelivered) {
        unmarked += 1;
        let before = &deliveries[..index];
        let of_earlier_life = before.iter().any(|earlier| earlier.life < delivery.life);
        let again = !before.is_empty() && facts.is_in_time(delivery);
        if unmarked > 1 || of_earlier_life || again {
            let Delivery { queue, value, at, channel, .. } = delivery;
            let earlier = before.len();
            let what = format!("{queue}: {value} at {at} on channel {channel}, after {earlier} deliveries");
            report.add(QueueRule::Unmarked, what);
        }
    }
}

/// Within what belongs together the numbers of a publisher rise.
fn order<'a, K: Ord>(
    deliveries: impl Iterator<Item = (K, &'a Delivery)>,
    which: &str,
    report: &mut QueueReport,
) {
    let mut latest: BTreeMap<(K, &str, &str), &Delivery> = BTreeMap::new();
    for (key, delivery) in deliveries {
        let Some(before) = latest.insert((key, &delivery.queue, &delivery.value.writer), delivery) else {
            continue;
        };
        if before.value.number > delivery.value.number {
            let (queue, value, before) = (&delivery.queue, &delivery.value, &before.value);
            report.add(
                QueueRule::OutOfOrder,
                format!("{queue}: {value} came after {before} in {which} deliveries"),
            );
        }
    }
}
