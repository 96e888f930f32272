//! What publishers are told: one confirm each, after the message itself if that comes back.
//!
//! Deliberately absent: whether what was confirmed is there; see [`fate`](super::fate).

use super::facts::Facts;
use super::{Answer, Publishing, QueueHistory, QueueReport, QueueRule};
use crate::history::Survives;

pub(super) fn check(history: &QueueHistory, facts: &Facts<'_>, report: &mut QueueReport) {
    for stray in &history.stray_answers {
        report.add(QueueRule::ConfirmedTwice, stray);
    }
    let published = facts.stories.values().filter_map(|story| story.publishing);
    for publishing in published {
        answers(publishing, report);
        returns(publishing, report);
        after_failure(history, publishing, report);
    }
}

fn answers(publishing: &Publishing, report: &mut QueueReport) {
    let Publishing { queue, value, answers, .. } = publishing;
    match answers.iter().filter(|answer| **answer != Answer::Returned).count() {
        1 => {}
        0 if publishing.stayed => {
            let what = format!("{queue}: {value} got {answers:?} on a connection that is still open");
            report.add(QueueRule::Unanswered, what);
        }
        0 => {}
        _ => report.add(QueueRule::ConfirmedTwice, format!("{queue}: {value} got {answers:?}")),
    }
}

/// A message without a way comes back once, before its confirm.
fn returns(publishing: &Publishing, report: &mut QueueReport) {
    let Publishing { queue, value, answers, routable, .. } = publishing;
    let right = match (routable, answers.as_slice()) {
        (true, answers) => !answers.contains(&Answer::Returned),
        // Until the confirm has come the return may be on its way.
        (false, answers) => !answers.contains(&Answer::Confirmed) || answers[0] == Answer::Returned,
    };
    if !right {
        let way = if *routable { "a way" } else { "no way" };
        let what = format!("{queue}: {value} has {way} and got {answers:?}");
        report.add(QueueRule::WronglyReturned, what);
    }
}

fn after_failure(history: &QueueHistory, publishing: &Publishing, report: &mut QueueReport) {
    let Publishing { queue, value, routable, survives, began, ended, .. } = publishing;
    if !routable || *survives != Survives::PowerCut || !publishing.is_confirmed() {
        return;
    }
    for broken in history.broken.iter().filter(|broken| broken.start < *began && *ended < broken.end) {
        let what = format!("{queue}: {value} was published {} after a sync had failed", began - broken.start);
        report.add(QueueRule::ConfirmedAfterFailure, what);
    }
}
