//! Limits of length, and what was set while clients worked: what is taken, refused and dropped.
//!
//! What is refused is in no queue, and where its letter is kept it is there. What is dropped is the oldest: nothing goes
//! while fewer than the limit may have come later. What is ready is counted from below (what nobody can have) to show that
//! a message was taken beyond a limit, and from above (what somebody may have left) to show that one was refused although
//! there was room.
//!
//! Deliberately absent: limits in bytes, and refusals while the store fails, which say nothing of a limit.

use std::collections::BTreeMap;

use super::facts::{Facts, Story};
use super::{
    Answer, Change, Limit, Overflow, Publishing, QueueExpectations, QueueHistory, QueueReport, QueueRule,
};
use crate::history::{Outcome, Survives};

/// What may have been in force in a time, by who asked for one thing after the other.
pub(super) fn possible<'a, T>(changes: &'a [Change<T>], of: &str, from: u64, to: u64) -> Vec<&'a T> {
    let mine = || changes.iter().filter(|change| change.of == of && change.outcome != Outcome::Fail);
    let sure = mine().filter(|change| change.outcome == Outcome::Ok && change.ended <= from);
    let sure = sure.max_by_key(|change| change.ended);
    let since = sure.map_or(0, |change| change.ended);
    let open = mine().filter(|change| change.began <= to && change.began >= since);
    sure.into_iter().chain(open).map(|change| &change.to).collect()
}

pub(super) fn check(
    history: &QueueHistory,
    facts: &Facts<'_>,
    expected: &QueueExpectations,
    report: &mut QueueReport,
) {
    let mut queues: BTreeMap<&str, Vec<&Story<'_>>> = BTreeMap::new();
    for story in facts.stories.values() {
        if let Some(publishing) = story.publishing.filter(|publishing| publishing.routable)
            && facts.has_limit(&publishing.queue)
        {
            queues.entry(&publishing.queue).or_default().push(story);
        }
    }
    for (queue, stories) in &queues {
        refused(facts, stories, expected, report);
        let mut lives: Vec<u32> = publishings(stories).map(|publishing| publishing.life).collect();
        lives.sort_unstable();
        lives.dedup();
        for life in lives {
            room(facts, queue, stories, life, report);
            taken(facts, queue, stories, life, report);
        }
    }
    over(facts, report);
    policies(history, report);
}

fn publishings<'a>(stories: &[&Story<'a>]) -> impl Iterator<Item = &'a Publishing> {
    stories.iter().filter_map(|story| story.publishing)
}

/// Whether a queue itself refused it: the store did not fail, and the broker was not about to end.
pub(super) fn is_refused(facts: &Facts<'_>, publishing: &Publishing) -> bool {
    publishing.answers.contains(&Answer::Refused)
        && facts.has_limit(&publishing.queue)
        && publishing.ended < facts.end_of(publishing.life)
        && !facts.is_doubtful(publishing)
}

/// What was refused is not there, and where its letter is kept, that is.
fn refused(
    facts: &Facts<'_>,
    stories: &[&Story<'_>],
    expected: &QueueExpectations,
    report: &mut QueueReport,
) {
    for story in stories {
        let Some(publishing) = story.publishing.filter(|publishing| is_refused(facts, publishing)) else {
            continue;
        };
        let Publishing { queue, value, ended, .. } = publishing;
        if let Some(there) = story.deliveries.iter().find(|delivery| delivery.queue == *queue) {
            let what = format!("{queue}: {value} was refused at {ended} and came at {}", there.at);
            report.add(QueueRule::RefusedButThere, what);
        }
        let kept = facts.has_letters(queue) && publishing.survives == Survives::PowerCut;
        let gone = story.deliveries.iter().all(|delivery| !delivery.last && !delivery.may_be_done());
        if expected.read_to_the_end && kept && gone {
            let what = format!("{queue}: {value} was refused at {ended}, and its letter is nowhere");
            report.add(QueueRule::RefusedLost, what);
        }
    }
}

/// The smallest and the largest limit that may have been in force; `None`: there may have been none.
fn bounds(facts: &Facts<'_>, queue: &str, from: u64, to: u64) -> (Option<u64>, Option<u64>, u64) {
    let limits = possible(facts.limits, queue, from, to);
    let refuses = |limit: &&&Limit| limit.overflow == Overflow::Refuse;
    let least = limits.iter().filter(refuses).filter_map(|limit| limit.messages).min();
    let all = limits.iter().map(|limit| limit.messages.filter(|_| refuses(&limit)));
    let most = all.collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
    (least, most, limits.iter().map(|limit| limit.unseen).max().unwrap_or(0))
}

/// How many of sorted times are up to one.
fn until(times: &[u64], to: u64) -> u64 {
    times.partition_point(|time| *time <= to) as u64
}

/// Nothing is refused while, of all that may be there, there is less than the limit.
fn room(facts: &Facts<'_>, queue: &str, stories: &[&Story<'_>], life: u32, report: &mut QueueReport) {
    let (mut came, mut gone) = (Vec::new(), Vec::new());
    for story in stories {
        let Some(publishing) = story.publishing else { continue };
        let before = publishing.life < life;
        let transient = publishing.survives == Survives::Nothing;
        if publishing.life > life || before && (transient || is_refused(facts, publishing)) {
            continue;
        }
        let here =
            story.deliveries.iter().filter(|delivery| delivery.queue == queue && delivery.life <= life);
        let done = here.filter_map(|delivery| {
            let done = delivery.done()?;
            let kept = delivery.is_in_transaction() || facts.is_durable(delivery, done);
            if delivery.life == life { Some(done) } else { kept.then_some(0) }
        });
        let refused = is_refused(facts, publishing).then_some(publishing.ended);
        came.push(publishing.began);
        gone.extend(done.chain(refused).min());
    }
    came.sort_unstable();
    gone.sort_unstable();
    let of_life = publishings(stories).filter(|publishing| publishing.life == life);
    for publishing in of_life.filter(|publishing| is_refused(facts, publishing)) {
        let Publishing { value, began, ended, .. } = publishing;
        let (least, ..) = bounds(facts, queue, *began, *ended);
        // Itself it does not count.
        let there = until(&came, *ended).saturating_sub(until(&gone, *began)).saturating_sub(1);
        if least.is_none_or(|least| there < least) {
            let what =
                format!("{queue}: {value} was refused at {ended}; {there} may have been there, of {least:?}");
            report.add(QueueRule::RefusedWithRoom, what);
        }
    }
}

/// Nothing is taken while as much as the limit is certainly ready.
fn taken(facts: &Facts<'_>, queue: &str, stories: &[&Story<'_>], life: u32, report: &mut QueueReport) {
    let (mut came, mut left) = (Vec::new(), Vec::new());
    let of_life = |story: &&&Story<'_>| {
        story.publishing.is_some_and(|publishing| publishing.life == life && publishing.is_confirmed())
    };
    for story in stories.iter().filter(of_life) {
        let Some(publishing) = story.publishing else { continue };
        let first = story.deliveries.iter().map(|delivery| delivery.at).min();
        if first.is_none_or(|first| first > publishing.ended) {
            came.push(publishing.ended);
            left.extend(first);
        }
    }
    came.sort_unstable();
    left.sort_unstable();
    for story in stories.iter().filter(of_life) {
        let Some(Publishing { value, began, ended, .. }) = story.publishing else { continue };
        let (_, most, unseen) = bounds(facts, queue, *began, *ended);
        let Some(most) = most else { continue };
        let ready = until(&came, began.saturating_sub(1)).saturating_sub(until(&left, *ended));
        if ready >= most + unseen {
            let what = format!(
                "{queue}: {value} was taken at {ended} with {ready} there, of {most} and {unseen} unseen"
            );
            report.add(QueueRule::TakenBeyondLimit, what);
        }
    }
}

/// Where the oldest goes there are no more than the limit in the end.
fn over(facts: &Facts<'_>, report: &mut QueueReport) {
    let mut there: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for delivery in facts.deliveries.iter().filter(|delivery| delivery.last) {
        let (count, at) = there.entry(&delivery.queue).or_default();
        (*count, *at) = (*count + 1, delivery.at);
    }
    for (queue, (count, at)) in there {
        let limits = possible(facts.limits, queue, at, at);
        let dropping =
            limits.iter().map(|limit| limit.messages.filter(|_| limit.overflow == Overflow::DropHead));
        let most = dropping.collect::<Option<Vec<u64>>>().and_then(|all| all.into_iter().max());
        if most.is_some_and(|most| count > most) {
            report.add(QueueRule::OverLimit, format!("{queue}: {count} are there, of {most:?}"));
        }
    }
}

/// What is set is what was asked for.
fn policies(history: &QueueHistory, report: &mut QueueReport) {
    for seen in &history.policies_seen {
        let policies = possible(&history.policies, &seen.of, seen.began, seen.ended);
        if !policies.contains(&&seen.to) {
            let what =
                format!("policy {} was {:?} at {}, and may be {policies:?}", seen.of, seen.to, seen.ended);
            report.add(QueueRule::PolicyWentBack, what);
        }
    }
}

/// Whether a message may have been dropped: so many may have come later as a limit allows.
pub(super) fn may_be_dropped(facts: &Facts<'_>, publishing: &Publishing) -> bool {
    let limits = possible(facts.limits, &publishing.queue, publishing.began, u64::MAX);
    let dropping = limits.iter().filter(|limit| limit.overflow == Overflow::DropHead);
    let least = dropping.filter_map(|limit| limit.messages).min();
    least.is_some_and(|least| facts.later(publishing) >= least)
}
