//! Who holds a log: an owner that lost it is not obeyed any more.
//!
//! Deliberately absent: how an owner learns that it lost a log.

use super::facts::Log;
use crate::report::{Report, Rule};

/// A17: a send in an epoch below one that was given out before it began is refused, and epochs rise.
pub(crate) fn check(name: &str, log: &Log<'_>, report: &mut Report) {
    let mut given: Vec<(u64, u32)> = log.claims.iter().map(|(op, epoch)| (op.ended, *epoch)).collect();
    given.sort_unstable();
    // The highest epoch given out at each moment.
    let mut highest = 0;
    for (_, epoch) in &mut given {
        highest = highest.max(*epoch);
        *epoch = highest;
    }
    let before = |began: u64| {
        let count = given.partition_point(|(ended, _)| *ended < began);
        count.checked_sub(1).and_then(|place| given.get(place)).map(|(_, epoch)| *epoch)
    };
    for (op, epoch) in &log.claims {
        if let Some(newest) = before(op.began).filter(|newest| newest >= epoch) {
            report.add(Rule::StaleOwner, format!("{name}: epoch {epoch} was given out after {newest}"));
        }
    }
    for send in log.sends.iter().filter(|send| send.op.is_ok()) {
        let Some(epoch) = send.terms.epoch else { continue };
        if let Some(newest) = before(send.op.began).filter(|newest| *newest > epoch) {
            let what = format!("{name}: {} of epoch {epoch} was taken in epoch {newest}", send.value);
            report.add(Rule::StaleOwner, what);
        }
    }
}
