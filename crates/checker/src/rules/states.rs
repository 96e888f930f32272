//! What is overwritten rather than appended: committed offsets and topics.
//!
//! Deliberately absent: generations. A commit that was acknowledged counts, whoever made it.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Op, What};
use crate::register::{Write, legal};
use crate::report::{Report, Rule};

pub(crate) fn check(ops: &[&Op], report: &mut Report) {
    offsets(ops, report);
    topics(ops, report);
}

/// A14.
fn offsets(ops: &[&Op], report: &mut Report) {
    let mut commits: BTreeMap<(&str, &str), Vec<Write<'_, Option<u64>>>> = BTreeMap::new();
    for op in ops {
        if let What::CommitOffset { group, log, offset } = &op.what {
            commits.entry((group, log)).or_default().push(Write { op, value: Some(*offset) });
        }
    }
    for op in ops.iter().copied().filter(|op| op.is_ok()) {
        let What::FetchOffset { group, log, offset } = &op.what else { continue };
        let writes = commits.get(&(&**group, &**log)).map_or(&[][..], |writes| writes);
        let may_be = legal(writes, op, None);
        if !may_be.contains(offset) {
            let what = format!("{group} in {log}: {offset:?} was answered, and it may be {may_be:?}");
            report.add(Rule::OffsetWentBack, what);
        }
    }
}

/// A30.
fn topics(ops: &[&Op], report: &mut Report) {
    let mut changes: BTreeMap<&str, Vec<Write<'_, bool>>> = BTreeMap::new();
    for op in ops {
        let (topic, there) = match &op.what {
            What::CreateTopic { topic } => (topic, true),
            What::DeleteTopic { topic } => (topic, false),
            _ => continue,
        };
        changes.entry(topic).or_default().push(Write { op, value: there });
    }
    let lists = ops.iter().copied().filter(|op| op.is_ok()).filter_map(|op| match &op.what {
        What::ListTopics { topics } => {
            Some((op, topics.iter().map(|topic| &**topic).collect::<BTreeSet<_>>()))
        }
        _ => None,
    });
    for (op, listed) in lists {
        let named: BTreeSet<&str> = listed.iter().copied().chain(changes.keys().copied()).collect();
        for topic in named {
            let writes = changes.get(topic).map_or(&[][..], |writes| writes);
            one_topic(topic, writes, op, listed.contains(topic), report);
        }
    }
}

fn one_topic(topic: &str, writes: &[Write<'_, bool>], list: &Op, there: bool, report: &mut Report) {
    if !legal(writes, list, false).contains(&there) {
        let what = if there { "is there and should not be" } else { "is gone" };
        report.add(Rule::TopicWentBack, format!("topic {topic} {what}, listed at {}", list.began));
    }
}
