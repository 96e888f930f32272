//! The end of a run: the history is handed to the checker, which states the rules; a few more only make sense here.
//!
//! The last reading is what everything else is held against; it must be complete.
//!
//! **Invariant.** Where somebody may have deleted the beginning of a log, nothing is missed below that point, and
//! the log starts nowhere else.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;

use ferrymq_checker::{self as checker, Expectations, Op, Polled, Rule, Terms, What};

use crate::history::{Commit, During, History, Outcome, Sent, Span, TopicChange, TopicsSeen};
use crate::value::Value;
use crate::world::{Kind, Log, World};

/// Longest description of a violation.
const WORDS_MAX: usize = 400;

/// Checks everything; what is wrong is noted in the world. `last` is the last reading.
pub(crate) fn check(world: &World, history: &History, last: &[Span]) {
    let mut sent: BTreeMap<usize, Vec<&Sent>> = BTreeMap::new();
    for batch in &history.sent {
        sent.entry(batch.log).or_default().push(batch);
    }
    let mut spans: BTreeMap<usize, Vec<&Span>> = BTreeMap::new();
    for span in &history.spans {
        spans.entry(span.log).or_default().push(span);
    }
    for log in world.logs() {
        let sent = sent.remove(&log.index).unwrap_or_default();
        let spans = spans.remove(&log.index).unwrap_or_default();
        let last = last.iter().find(|span| span.log == log.index);
        if let Some(last) = last {
            beginning(world, &log, last);
            skipped(world, &log, &spans, last);
        } else if !log.dropped.load(Ordering::SeqCst) {
            world.violation("not-read", || format!("{log} was not read at the end"));
        }
        one_log(world, &log, &sent, &spans, last);
    }
    while_broken(world, history);
    states(world, history);
}

/// Hands everything about one log to the checker.
fn one_log(world: &World, log: &Log, sent: &[&Sent], spans: &[&Span], last: Option<&Span>) {
    let name = log.to_string();
    let sends = sent.iter().flat_map(|batch| sends(&name, batch));
    let polls = spans.iter().map(|span| poll(&name, span, false));
    let last_poll = last.map(|span| poll(&name, span, true));
    let history = checker::History { ops: sends.chain(polls).chain(last_poll).collect() };
    let start = match (log.kind, last) {
        (Kind::Trimmed, _) => log.trim_asked.load(Ordering::SeqCst),
        (Kind::Retained, Some(last)) => last.from,
        _ => 0,
    };
    let expected = Expectations {
        read_to_the_end: last.is_some(),
        starts: BTreeMap::from([(name, unsigned(start))]),
        sends_min: 0,
        records_min: 0,
        ..Expectations::default()
    };
    judge(world, &history, &expected);
}

fn judge(world: &World, history: &checker::History, expected: &Expectations) {
    for violation in checker::check(history, expected).violations {
        world.violation(name(violation.rule), || violation.what.chars().take(WORDS_MAX).collect());
    }
}

fn name(rule: Rule) -> &'static str {
    match rule {
        Rule::Lost => "lost",
        Rule::Diverged => "diverged",
        Rule::OffsetReused => "offset-reused",
        Rule::Duplicated => "duplicated",
        Rule::FailedButVisible => "failed-but-visible",
        Rule::NeverSent => "never-sent",
        Rule::Vanished => "vanished",
        Rule::Skipped => "skipped",
        Rule::Reordered => "reordered",
        Rule::WatermarkWentBack => "end-of-log-went-back",
        Rule::OffsetWentBack => "committed-offset-went-back",
        Rule::TopicWentBack => "topic-went-back",
        Rule::Torn => "torn",
        Rule::CameBack => "came-back",
        Rule::StaleOwner => "stale-owner",
        Rule::FalseDamage => "false-damage",
        Rule::Unusable => "unusable",
        Rule::AckedBeforeSync => "acked-before-sync",
        Rule::TooFew => "too-few",
        Rule::BadHistory => "bad-history",
    }
}

fn unsigned(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}

fn value(value: Value) -> checker::Value {
    checker::Value { writer: format!("w{}", value.writer), number: u64::from(value.counter) }
}

fn op(during: During, outcome: Outcome, what: What) -> Op {
    let outcome = match outcome {
        Outcome::Ok(_) => checker::Outcome::Ok,
        Outcome::Fail(_) => checker::Outcome::Fail,
        Outcome::Info => checker::Outcome::Info,
    };
    Op { process: String::new(), began: during.began, ended: during.ended, outcome, what }
}

fn sends<'a>(log: &'a str, batch: &'a Sent) -> impl Iterator<Item = Op> + 'a {
    let base = if let Outcome::Ok(base) = batch.outcome { base } else { None };
    (0..batch.count).map(move |index| {
        let offset = base.map(|base| unsigned(base) + u64::from(index));
        let what = What::Send {
            log: log.to_owned(),
            value: value(batch.first.plus(index)),
            offset,
            terms: Terms::default(),
        };
        op(batch.during, batch.outcome, what)
    })
}

fn poll(log: &str, span: &Span, last: bool) -> Op {
    let records =
        span.records().map(|(offset, found)| Polled { offset: unsigned(offset), value: value(found) });
    let what = What::Poll {
        log: log.to_owned(),
        from: unsigned(span.from),
        next: unsigned(span.to),
        records: records.collect(),
        last,
    };
    op(span.during, Outcome::Ok(None), what)
}

/// Committed offsets and topics.
fn states(world: &World, history: &History) {
    let logs = world.logs();
    let commits = history.commits.iter().map(|commit| commit_op(&logs[commit.log].to_string(), commit));
    let changes = history.topics.iter().map(change_op);
    let seen = history.topics_seen.iter().map(|seen| list_op(world, history, seen));
    let history = checker::History { ops: commits.chain(changes).chain(seen).collect() };
    let expected = Expectations { sends_min: 0, records_min: 0, ..Expectations::default() };
    judge(world, &history, &expected);
}

fn commit_op(log: &str, commit: &Commit) -> Op {
    let (group, log) = (commit.group.clone(), log.to_owned());
    match commit.written {
        Some(outcome) => {
            op(commit.during, outcome, What::CommitOffset { group, log, offset: unsigned(commit.offset) })
        }
        None => {
            let offset = u64::try_from(commit.offset).ok();
            op(commit.during, Outcome::Ok(None), What::FetchOffset { group, log, offset })
        }
    }
}

fn change_op(change: &TopicChange) -> Op {
    let topic = change.name.clone();
    let what = if change.made { What::CreateTopic { topic } } else { What::DeleteTopic { topic } };
    op(change.during, change.outcome, what)
}

/// A list of topics without those the harness made before it began to take notes.
fn list_op(world: &World, history: &History, seen: &TopicsSeen) -> Op {
    let noted = |name: &String| history.topics.iter().any(|change| change.name == **name);
    let logs = world.logs();
    let there: HashSet<&str> = seen.names.iter().map(String::as_str).collect();
    for log in logs.iter().filter(|log| log.kind != Kind::Churned && !there.contains(&*log.topic)) {
        world.violation("topic-went-back", || format!("topic {} is gone", log.topic));
    }
    let topics = seen.names.iter().filter(|name| noted(name)).cloned().collect();
    op(seen.during, Outcome::Ok(None), What::ListTopics { topics })
}

fn beginning(world: &World, log: &Log, last: &Span) {
    let asked = log.trim_asked.load(Ordering::SeqCst);
    let done = log.trim_done.load(Ordering::SeqCst);
    let from = last.from;
    if log.kind != Kind::Retained && from > asked {
        let what = || format!("{log}: starts at {from}, nobody deleted beyond {asked}");
        world.violation("beginning-lost", what);
    }
    if from < done {
        world.violation("deleted-came-back", || format!("{log}: starts at {from}, deleted up to {done}"));
    }
}

/// Whatever is there in the end was given to every reader that came by.
fn skipped(world: &World, log: &Log, spans: &[&Span], last: &Span) {
    for span in spans {
        let given: HashSet<i64> = span.records().map(|(offset, _)| offset).collect();
        let (from, to) = (span.from, span.to);
        let start = last.runs.partition_point(|run| run.offset + i64::from(run.count) <= from);
        let passed =
            last.runs[start..].iter().take_while(|run| run.offset < to).flat_map(|run| run.records());
        for (offset, value) in passed.filter(|(offset, _)| (from..to).contains(offset)) {
            if !given.contains(&offset) {
                let reader = span.reader;
                let what = || format!("{log}: reader {reader} read {from}..{to} without {value} at {offset}");
                world.violation("skipped", what);
            }
        }
    }
}

fn while_broken(world: &World, history: &History) {
    for broken in &history.broken {
        for batch in &history.sent {
            let inside = broken.from < batch.during.began && batch.during.ended < broken.to;
            if inside && matches!(batch.outcome, Outcome::Ok(_)) {
                let late = batch.during.began - broken.from;
                let what = || format!("{} was sent {late} us after a sync had failed", batch.first);
                world.violation("acknowledged-after-a-failed-sync", what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world with one log of three records, written by w1 and read at the end.
    struct Sample {
        world: std::sync::Arc<World>,
        history: History,
        last: Span,
    }

    fn sample(kind: Kind) -> Sample {
        let world = World::new();
        world.add_log("t", 0, kind);
        let first = Value { writer: 1, counter: 0 };
        let sent = |first: Value, count, offset, began| Sent {
            log: 0,
            first,
            count,
            outcome: Outcome::Ok(Some(offset)),
            during: During { began, ended: began + 5 },
        };
        let history = History {
            sent: vec![sent(first, 2, 0, 10), sent(first.plus(2), 1, 2, 20)],
            ..History::default()
        };
        let mut last = Span::starting_at(0, 0, 0, 100);
        (0..3).for_each(|offset| last.push(i64::from(offset), first.plus(offset)));
        last.to = 3;
        Sample { world, history, last }
    }

    impl Sample {
        #[track_caller]
        fn breaks(self, rules: &[&str]) {
            check(&self.world, &self.history, &[self.last]);
            let found: Vec<&str> = self.world.violations().iter().map(|violation| violation.rule).collect();
            assert_eq!(found, rules, "{:?}", self.world.violations());
        }
    }

    #[test]
    fn a_good_run_breaks_nothing() {
        sample(Kind::Kept).breaks(&[]);
    }

    #[test]
    fn a_lost_record_is_noticed_unless_it_was_deleted() {
        let mut lost = sample(Kind::Kept);
        lost.last.runs[0].count = 2;
        lost.breaks(&["lost", "skipped"]);
        let mut deleted = sample(Kind::Trimmed);
        deleted.last.runs[0] =
            crate::history::Run { offset: 2, first: Value { writer: 1, counter: 2 }, count: 1 };
        deleted.last.from = 2;
        deleted.world.logs()[0].trim_asked.store(2, Ordering::SeqCst);
        deleted.breaks(&[]);
    }

    #[test]
    fn a_beginning_is_only_where_it_was_asked_for() {
        let mut early = sample(Kind::Trimmed);
        early.world.logs()[0].trim_asked.store(1, Ordering::SeqCst);
        early.world.logs()[0].trim_done.store(1, Ordering::SeqCst);
        early.last.from = 0;
        early.breaks(&["deleted-came-back"]);
        let mut late = sample(Kind::Kept);
        late.last.from = 3;
        late.last.runs.clear();
        late.breaks(&["beginning-lost", "lost"]);
    }

    #[test]
    fn a_reader_that_was_led_past_a_record_is_noticed() {
        let mut skipped = sample(Kind::Kept);
        let mut span = Span::starting_at(1, 0, 0, 30);
        span.to = 3;
        span.push(0, Value { writer: 1, counter: 0 });
        skipped.history.spans.push(span);
        skipped.breaks(&["skipped"]);
    }

    #[test]
    fn nothing_is_acknowledged_after_a_failed_sync() {
        let mut late = sample(Kind::Kept);
        late.history.broken.push(crate::history::Broken { from: 15, to: 90 });
        late.breaks(&["acknowledged-after-a-failed-sync"]);
    }

    #[test]
    fn topics_and_offsets_do_not_go_back() {
        let mut back = sample(Kind::Kept);
        let during = |began| During { began, ended: began + 1 };
        let made = |name: &str, made, began| TopicChange {
            name: name.to_owned(),
            made,
            outcome: Outcome::Ok(None),
            during: during(began),
        };
        back.history.topics = vec![made("a", true, 1), made("b", true, 3), made("b", false, 5)];
        let seen = |names: &[&str], began| TopicsSeen {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            during: during(began),
        };
        back.history.topics_seen = vec![seen(&["t", "a"], 10), seen(&["t", "b"], 20), seen(&["a"], 30)];
        let commit = |offset, written, began| Commit {
            group: "g".to_owned(),
            log: 0,
            offset,
            written,
            during: during(began),
        };
        let ok = Some(Outcome::Ok(None));
        back.history.commits = vec![commit(1, ok, 1), commit(2, ok, 4), commit(1, None, 8)];
        back.breaks(&["committed-offset-went-back", "topic-went-back"]);
    }
}
