//! What only the whole shows: atomic groups, and what faults did to the broker itself.
//!
//! Deliberately absent: whether a group that nobody knows the end of should be there. All of it or nothing.

use std::collections::BTreeMap;

use super::facts::{Log, Map, Send};
use super::sends::damaged;
use crate::history::{Op, Outcome, Survives, What};
use crate::report::{Expectations, Report, Rule};

pub(crate) fn check(
    ops: &[&Op],
    logs: &BTreeMap<&str, Log<'_>>,
    expected: &Expectations,
    report: &mut Report,
) {
    if expected.read_to_the_end {
        torn(logs, report);
    }
    for op in ops {
        match &op.what {
            What::Restart { .. } if op.outcome == Outcome::Fail => {
                report.add(Rule::Unusable, format!("after event {} it did not come back", op.began));
            }
            What::Damage { text, .. } if expected.damaged_max.is_none() => {
                report.add(Rule::FalseDamage, format!("nothing was damaged, and it says: {text}"));
            }
            _ => {}
        }
    }
    let (cost, may) = (logs.values().map(damaged).sum::<usize>(), expected.damaged_max.unwrap_or(0));
    if cost > may {
        report.add(Rule::Lost, format!("the damage cost {cost} records and may cost {may}"));
    }
}

/// A7: one send of a group in the last reading proves all of it.
fn torn(logs: &BTreeMap<&str, Log<'_>>, report: &mut Report) {
    // What is there and what is not, one of each.
    let mut groups: Map<u64, (Option<&Send<'_>>, Option<&Send<'_>>)> = Map::default();
    for log in logs.values() {
        let counts = |send: &&Send<'_>| {
            send.op.outcome != Outcome::Fail
                && send.terms.survives == Survives::PowerCut
                && !send.may_be_gone(u64::MAX)
                && !send.offset.is_some_and(|offset| log.is_damaged(offset))
        };
        for send in log.sends.iter().filter(counts) {
            let Some(group) = send.terms.group else { continue };
            let (there, not) = groups.entry(group).or_default();
            *(if log.last.contains(send.value) { there } else { not }) = Some(send);
        }
    }
    for (group, parts) in groups {
        if let (Some(there), Some(not)) = parts {
            let (there, not) = (there.value, not.value);
            report.add(Rule::Torn, format!("group {group}: {there} is there and {not} is not"));
        }
    }
}
