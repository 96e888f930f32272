//! What becomes of a message: it is there until it is settled or removed, and then no more.
//!
//! Deliberately absent: when. Between two readings a message may be anywhere.

use std::collections::BTreeMap;

use super::facts::{Facts, Story};
use super::limits::{is_refused, may_be_dropped};
use super::{
    Answer, Delivery, How, Overflow, Publishing, QueueExpectations, QueueReport, QueueRule, Removal, Removed,
};
use crate::history::{Outcome, Survives};

pub(super) fn check(facts: &Facts<'_>, expected: &QueueExpectations, report: &mut QueueReport) {
    for story in facts.stories.values() {
        origin(facts, story, report);
        came_back(facts, story, report);
        moved_back(facts, story, report);
        removed(facts, story, report);
        let again = |delivery: &Delivery| story.is_letter(delivery) && facts.is_stream(&delivery.queue);
        if story.deliveries.iter().filter(|delivery| delivery.last && !again(delivery)).count() > 1 {
            let Delivery { queue, value, .. } = story.deliveries[0];
            report.add(QueueRule::Duplicated, format!("{queue}: {value} is there twice"));
        }
    }
    if expected.read_to_the_end {
        lost(facts, report);
    }
}

/// Where a message that was seen comes from.
fn origin(facts: &Facts<'_>, story: &Story<'_>, report: &mut QueueReport) {
    for delivery in &story.deliveries {
        let Delivery { queue, value, life, .. } = delivery;
        let Some(publishing) = story.publishing else {
            report.add(
                QueueRule::NeverPublished,
                format!("{queue}: {value} is there, nobody published it there"),
            );
            continue;
        };
        let went = || was_rejected_before(story, delivery) || went_by_limit(facts, story, publishing);
        if story.is_letter(delivery) && !went() {
            let source = &publishing.queue;
            let what = format!("{queue}: {value} is a dead letter of {source}, where nobody rejected it");
            report.add(QueueRule::MovedUnasked, what);
        }
        if publishing.answers.contains(&Answer::Returned) {
            report.add(QueueRule::ReturnedButThere, format!("{queue}: {value} came back and is there"));
        }
        let kept = facts.is_stream(queue);
        if publishing.survives == Survives::Nothing && *life > publishing.life && !kept {
            let of = publishing.life;
            report.add(QueueRule::Outlived, format!("{queue}: {value} of life {of} is there in life {life}"));
        }
    }
}

/// Whether somebody asked for it to be rejected, with dead letters, before it was seen where it goes then.
fn was_rejected_before(story: &Story<'_>, letter: &Delivery) -> bool {
    story.deliveries.iter().any(|delivery| {
        let rejected = delivery.settled.filter(|settled| settled.how == How::Rejected);
        rejected.is_some_and(|settled| settled.sent <= letter.at)
    })
}

/// Whether a limit may have sent it on: it was dropped, or refused without having been there.
fn went_by_limit(facts: &Facts<'_>, story: &Story<'_>, publishing: &Publishing) -> bool {
    let was_there = story.deliveries.iter().any(|delivery| delivery.queue == publishing.queue);
    let refusing = facts.limits.iter().any(|limit| {
        limit.of == publishing.queue && limit.to.overflow == Overflow::Refuse && limit.to.messages.is_some()
    });
    may_be_dropped(facts, publishing) || refusing && !publishing.is_confirmed() && !was_there
}

/// What was seen as a dead letter has left the queue that it was published to: for this life, and for good if it
/// survives.
fn moved_back(facts: &Facts<'_>, story: &Story<'_>, report: &mut QueueReport) {
    let Some(publishing) = story.publishing else { return };
    let Some(seen) = story.deliveries.iter().position(|delivery| story.is_letter(delivery)) else { return };
    let letter = story.deliveries[seen];
    if facts.is_stream(&letter.queue) {
        return;
    }
    for later in story.deliveries[seen + 1..].iter().filter(|later| !story.is_letter(later)) {
        let again = if later.life == letter.life {
            later.at > letter.at && facts.is_in_time(later)
        } else {
            later.life > letter.life && publishing.survives == Survives::PowerCut
        };
        if again {
            let Delivery { queue, value, at, life, .. } = later;
            let (target, seen) = (&letter.queue, letter.at);
            let what =
                format!("{queue}: {value} had gone to {target} by {seen} and came at {at} in life {life}");
            report.add(QueueRule::MovedCameBack, what);
        }
    }
}

/// What was certainly settled for good does not come again: in its life, and later if that is durable. What was
/// rejected may come again in a later life, unless it was seen where it went.
fn came_back(facts: &Facts<'_>, story: &Story<'_>, report: &mut QueueReport) {
    for (index, first) in story.deliveries.iter().enumerate() {
        let Some(done) = first.done().or(first.rejected()) else { continue };
        let Delivery { queue, value, life, .. } = first;
        let is_done = first.done().is_some();
        // A dead letter is expected after a rejection; it comes back by a rule of its own.
        // In a stream it may be from a rejection before.
        let same = |later: &&&Delivery| {
            let elsewhere = is_done && !story.is_letter(first) && !facts.is_stream(&later.queue);
            later.queue == *queue || elsewhere
        };
        // What is there twice in the end was not settled in between.
        let later = story.deliveries[index + 1..].iter().filter(|later| !(first.last && later.last));
        for later in later.filter(same) {
            let again = if later.life == *life {
                later.at > done && facts.is_in_time(later)
            } else {
                is_done && (first.is_in_transaction() || facts.is_durable(first, done))
            };
            if again {
                let (at, now) = (later.at, later.life);
                let what = format!(
                    "{queue}: {value} was settled by {done} in life {life}, and came at {at} in life {now}"
                );
                report.add(QueueRule::AckedCameBack, what);
            }
        }
    }
}

/// What was confirmed before a removal, and certainly hit by it, does not come after it.
fn removed(facts: &Facts<'_>, story: &Story<'_>, report: &mut QueueReport) {
    let Some(publishing) = story.publishing.filter(|publishing| publishing.is_confirmed()) else { return };
    let queue = &publishing.queue;
    let removals = facts.removals.iter().filter(|removal| removal.queue == *queue);
    for removal in removals.filter(|removal| removal.outcome == Outcome::Ok) {
        if publishing.ended >= removal.began || !is_hit(facts, story, publishing, removal) {
            continue;
        }
        let here = story.deliveries.iter().filter(|delivery| delivery.queue == *queue);
        let after = here.filter(|delivery| delivery.at > removal.ended);
        for delivery in after.filter(|delivery| !was_on_its_way(facts, removal, delivery)) {
            let (value, what, at) = (&delivery.value, removal.what, delivery.at);
            let ended = removal.ended;
            let what = format!("{queue}: {value} went with {what:?} by {ended}, and came at {at}");
            report.add(QueueRule::RemovedCameBack, what);
        }
    }
}

/// When a queue is deleted a consumer may have been sent something that it takes later.
fn was_on_its_way(facts: &Facts<'_>, removal: &Removal, delivery: &Delivery) -> bool {
    facts.holders.iter().any(|holder| {
        let ended = holder.ended.unwrap_or_else(|| facts.end_of(holder.life));
        holder.queue == removal.queue && holder.began < removal.ended && delivery.at < ended
    })
}

/// A purge takes what is ready: not what somebody has, seen or unseen.
fn is_hit(facts: &Facts<'_>, story: &Story<'_>, publishing: &Publishing, removal: &Removal) -> bool {
    if removal.what == Removed::Queue {
        return true;
    }
    let mut holders = facts.holders.iter().filter(|holder| holder.queue == removal.queue);
    if holders.any(|holder| {
        let ended = holder.ended.unwrap_or_else(|| facts.end_of(holder.life));
        holder.began < removal.ended && publishing.began < ended
    }) {
        return false;
    }
    let mut earlier = story.deliveries.iter().filter(|delivery| delivery.at < removal.ended);
    earlier.all(|delivery| {
        let returned = delivery.settled.filter(|settled| settled.how == How::Returned);
        let returned = returned.and_then(|settled| settled.vouched).unwrap_or(u64::MAX);
        returned.min(facts.end_of(delivery.life)) < removal.began
    })
}

/// What was confirmed, or seen, is there in the end unless somebody took or removed it.
fn lost(facts: &Facts<'_>, report: &mut QueueReport) {
    let mut missing: BTreeMap<&str, Vec<(&Publishing, bool)>> = BTreeMap::new();
    for story in facts.stories.values() {
        let Some(publishing) = story.publishing else { continue };
        let is_confirmed = publishing.is_confirmed() && publishing.routable;
        let must_be_there = is_confirmed || !story.deliveries.is_empty();
        if must_be_there && !may_be_gone(facts, story, publishing) {
            missing.entry(&publishing.queue).or_default().push((publishing, is_confirmed));
        }
    }
    for (queue, mut missing) in missing {
        let holders = facts.holders.iter();
        let holders = holders.filter(|holder| holder.queue == queue || facts.may_go(queue, &holder.queue));
        let excused: usize = holders.map(|holder| holder.loses).sum();
        if missing.len() <= excused {
            continue;
        }
        missing.sort_by_key(|(publishing, _)| &publishing.value);
        for (publishing, is_confirmed) in missing {
            let rule = if is_confirmed { QueueRule::ConfirmedLost } else { QueueRule::UnackedLost };
            let Publishing { value, life, began, .. } = publishing;
            report.add(
                rule,
                format!("{queue}: {value}, published at {began} in life {life}, is gone ({excused} excused)"),
            );
        }
    }
}

fn may_be_gone(facts: &Facts<'_>, story: &Story<'_>, publishing: &Publishing) -> bool {
    let taken = story.deliveries.iter().any(|delivery| delivery.last || delivery.may_be_done());
    let mut removals = facts.removals.iter().filter(|removal| removal.queue == publishing.queue);
    let dropped = !facts.has_letters(&publishing.queue) && may_be_dropped(facts, publishing);
    taken
        || dropped
        || is_refused(facts, publishing)
        || publishing.survives != Survives::PowerCut && facts.ended_since(publishing.life)
        || removals.any(|removal| removal.may_take(publishing.began))
}
