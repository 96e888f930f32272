//! Each rule with a history that breaks it and nothing else, and good histories that break none.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::*;

/// Writes a history by hand. Operations end before the next begins unless one is held open.
struct Script(Recorder);

impl Script {
    fn new() -> Script {
        Script(Recorder::new())
    }

    fn begin_send(&self, number: u64) -> Pending {
        let what = What::Send {
            log: "l".to_owned(),
            value: Value::new("w", number),
            offset: None,
            terms: Terms::default(),
        };
        self.0.begin("producer", what)
    }

    /// The writer `w` sends its `number`-th message, which gets this offset.
    fn sent(&self, number: u64, offset: u64) -> &Script {
        self.begin_send(number).sent_at(offset);
        self
    }

    fn poll(&self, from: u64, next: u64, records: &[(u64, u64)], last: bool) -> &Script {
        let record =
            |(offset, number): &(u64, u64)| Polled { offset: *offset, value: Value::new("w", *number) };
        let records = records.iter().map(record).collect();
        self.0.begin("consumer", What::Poll { log: "l".to_owned(), from, next, records, last }).ok();
        self
    }

    fn watermark(&self, offset: u64) -> &Script {
        self.0.begin("admin", What::Watermark { log: "l".to_owned(), offset: Some(offset) }).ok();
        self
    }

    fn begin_commit(&self, offset: u64) -> Pending {
        let what = What::CommitOffset { group: "g".to_owned(), log: "l".to_owned(), offset };
        self.0.begin("consumer", what)
    }

    fn fetched(&self, offset: Option<u64>) -> &Script {
        let what = What::FetchOffset { group: "g".to_owned(), log: "l".to_owned(), offset };
        self.0.begin("consumer", what).ok();
        self
    }

    fn begin_topic(&self, topic: &str, create: bool) -> Pending {
        let topic = topic.to_owned();
        self.0.begin("admin", if create { What::CreateTopic { topic } } else { What::DeleteTopic { topic } })
    }

    fn listed(&self, topics: &[&str]) -> &Script {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.0.begin("admin", What::ListTopics { topics }).ok();
        self
    }

    fn rules_with(&self, expected: &Expectations) -> Vec<Rule> {
        check(&self.0.history(), expected).rules()
    }

    /// The rules broken, whatever the log was read for.
    fn rules(&self) -> Vec<Rule> {
        self.rules_with(&Expectations::default())
    }

    /// The rules broken by what does not need messages.
    fn state_rules(&self) -> Vec<Rule> {
        self.rules_with(&Expectations { sends_min: 0, records_min: 0, ..Expectations::default() })
    }
}

/// Three messages, read once on the way and once in the end.
fn good() -> Script {
    let script = Script::new();
    script.sent(1, 0).sent(2, 1).poll(0, 2, &[(0, 1), (1, 2)], false).watermark(2);
    script.sent(3, 4).watermark(5).poll(0, 5, &[(0, 1), (1, 2), (4, 3)], true);
    script
}

#[test]
fn a_good_history_is_clean() {
    assert_eq!(good().rules(), []);
    assert_eq!(check(&good().0.history(), &Expectations::default()).to_string(), "no rule is broken");
}

#[test]
fn an_acknowledged_record_that_is_not_there_is_lost() {
    let script = Script::new();
    script.sent(1, 0).sent(2, 1).sent(3, 2).poll(0, 1, &[(0, 1)], true).poll(2, 3, &[(2, 3)], true);
    assert_eq!(script.rules(), [Rule::Lost]);
    let report = check(&script.0.history(), &Expectations::default());
    assert!(report.violations[0].what.contains("the middle"), "{report}");
    assert!(std::panic::catch_unwind(|| report.assert_clean()).is_err());

    // Nobody read as far: only the last reading can tell.
    let script = Script::new();
    script.sent(1, 0).sent(2, 1).poll(0, 1, &[(0, 1)], true);
    assert_eq!(script.rules(), [Rule::Lost]);
    let not_to_the_end = Expectations { read_to_the_end: false, ..Expectations::default() };
    assert_eq!(script.rules_with(&not_to_the_end), []);
    script.sent(3, 2).poll(2, 3, &[(2, 3)], false);
    assert_eq!(script.rules_with(&not_to_the_end), [Rule::Lost]);

    // What was trimmed is not missed.
    let trimmed = Expectations { starts: BTreeMap::from([("l".to_owned(), 2)]), ..Expectations::default() };
    let script = Script::new();
    script.sent(1, 0).sent(2, 1).sent(3, 2).poll(0, 3, &[(2, 3)], true);
    assert_eq!(script.rules_with(&trimmed), []);
}

#[test]
fn what_is_unknown_may_be_there_or_not() {
    let script = good();
    script.begin_send(4).info();
    assert_eq!(script.rules(), []);
    script.poll(5, 6, &[(5, 4)], true);
    assert_eq!(script.rules(), []);
}

#[test]
fn one_offset_with_two_values_diverges() {
    let script = good();
    let (four, five) = (script.begin_send(4), script.begin_send(5));
    four.sent_at(5);
    five.info();
    script.poll(5, 6, &[(5, 5)], true);
    let rules = script.rules();
    assert!(rules.contains(&Rule::Diverged) && rules.contains(&Rule::Lost), "{rules:?}");
}

#[test]
fn an_offset_below_a_known_one_is_reused() {
    let script = Script::new();
    script.sent(1, 7).sent(2, 3).poll(0, 8, &[(3, 2), (7, 1)], true);
    let unordered = Expectations { ordered: false, ..Expectations::default() };
    assert_eq!(script.rules_with(&unordered), [Rule::OffsetReused]);
    // The very same.
    let script = Script::new();
    script.sent(1, 0).sent(2, 0).poll(0, 1, &[(0, 2)], true);
    assert_eq!(script.rules(), [Rule::Lost, Rule::Diverged, Rule::OffsetReused]);
    // Known by a reader only.
    let script = Script::new();
    let first = script.begin_send(1);
    script.poll(0, 8, &[(7, 1)], false).sent(2, 3);
    first.info();
    script.poll(0, 8, &[(3, 2), (7, 1)], true);
    assert_eq!(script.rules_with(&unordered), [Rule::OffsetReused]);
    // At the same time, any order will do.
    let script = Script::new();
    let (first, second) = (script.begin_send(1), script.begin_send(2));
    first.sent_at(7);
    second.sent_at(3);
    script.poll(0, 8, &[(3, 2), (7, 1)], true);
    assert_eq!(script.rules_with(&unordered), []);
}

#[test]
fn one_value_at_two_offsets_is_a_duplicate_if_producers_are_idempotent() {
    let script = good();
    script.poll(5, 6, &[(5, 3)], true);
    assert_eq!(script.rules(), [Rule::Duplicated]);
    assert_eq!(script.rules_with(&Expectations { idempotent: false, ..Expectations::default() }), []);
    // Acknowledged here, read there.
    let script = Script::new();
    script.sent(1, 0).poll(0, 2, &[(1, 1)], true);
    assert!(script.rules().contains(&Rule::Duplicated));
}

#[test]
fn a_refused_record_must_not_be_there() {
    let script = good();
    script.begin_send(4).fail();
    assert_eq!(script.rules(), []);
    script.poll(5, 6, &[(5, 4)], true);
    assert_eq!(script.rules(), [Rule::FailedButVisible]);
}

#[test]
fn a_record_that_nobody_sent_must_not_be_there() {
    let script = good();
    script.poll(5, 6, &[(5, 99)], true);
    assert_eq!(script.rules(), [Rule::NeverSent]);
}

#[test]
fn what_was_read_must_stay() {
    // The last reading ends before it.
    let script = Script::new();
    script.sent(1, 0);
    script.begin_send(2).info();
    script.poll(0, 2, &[(0, 1), (1, 2)], false).poll(0, 1, &[(0, 1)], true);
    assert_eq!(script.rules(), [Rule::Vanished]);
    // Any later reading passes over it.
    let script = Script::new();
    script.sent(1, 0);
    script.begin_send(2).info();
    script.poll(0, 2, &[(0, 1), (1, 2)], false).poll(0, 2, &[(0, 1)], false).poll(
        0,
        2,
        &[(0, 1), (1, 2)],
        true,
    );
    assert_eq!(script.rules(), [Rule::Vanished]);
}

#[test]
fn a_reader_must_not_be_taken_past_a_record() {
    let script = Script::new();
    script.sent(1, 0).sent(2, 1).sent(3, 2).poll(0, 3, &[(0, 1), (2, 3)], false);
    script.poll(0, 3, &[(0, 1), (1, 2), (2, 3)], true);
    assert_eq!(script.rules(), [Rule::Skipped]);
    // While it is being sent it need not be seen.
    let script = Script::new();
    let second = script.begin_send(2);
    script.poll(0, 2, &[], false);
    second.sent_at(1);
    script.poll(0, 2, &[(1, 2)], true);
    assert_eq!(script.rules(), []);
}

#[test]
fn a_poll_is_in_order_and_begins_where_it_was_asked_to() {
    let backwards = good();
    backwards.poll(0, 5, &[(1, 2), (0, 1), (4, 3)], false);
    assert_eq!(backwards.rules(), [Rule::Skipped]);
    let too_early = good();
    too_early.poll(4, 5, &[(1, 2), (4, 3)], false);
    assert_eq!(too_early.rules(), [Rule::Skipped]);
}

#[test]
fn a_writers_messages_stay_in_order() {
    let script = Script::new();
    let (first, second) = (script.begin_send(1), script.begin_send(2));
    first.sent_at(1);
    second.sent_at(0);
    script.poll(0, 2, &[(0, 2), (1, 1)], true);
    assert_eq!(script.rules(), [Rule::Reordered]);
    assert_eq!(script.rules_with(&Expectations { ordered: false, ..Expectations::default() }), []);
}

#[test]
fn a_watermark_does_not_go_back() {
    let script = good();
    script.watermark(5);
    assert_eq!(script.rules(), []);
    script.watermark(4);
    assert_eq!(script.rules(), [Rule::WatermarkWentBack]);
}

#[test]
fn a_committed_offset_is_the_last_one() {
    let script = Script::new();
    script.fetched(None);
    script.begin_commit(5).ok();
    script.fetched(Some(5));
    script.begin_commit(9).ok();
    script.fetched(Some(9));
    // Going back is allowed to who commits it.
    script.begin_commit(2).ok();
    script.fetched(Some(2));
    script.begin_commit(3).fail();
    script.begin_commit(4).info();
    script.fetched(Some(2)).fetched(Some(4));
    assert_eq!(script.state_rules(), []);
    for wrong in [None, Some(0), Some(9), Some(3)] {
        let script = Script::new();
        script.begin_commit(9).ok();
        script.begin_commit(5).ok();
        script.begin_commit(3).fail();
        script.fetched(wrong);
        assert_eq!(script.state_rules(), [Rule::OffsetWentBack], "{wrong:?}");
    }
    // Two at once: either may be the last.
    for either in [7, 8] {
        let script = Script::new();
        let (first, second) = (script.begin_commit(7), script.begin_commit(8));
        second.ok();
        first.ok();
        script.fetched(Some(either));
        assert_eq!(script.state_rules(), []);
    }
}

#[test]
fn a_topic_stays_created_and_deleted() {
    let script = Script::new();
    script.listed(&[]);
    script.begin_topic("a", true).ok();
    script.listed(&["a"]);
    script.begin_topic("b", true).info();
    script.listed(&["a"]).listed(&["a", "b"]);
    script.begin_topic("a", false).ok();
    script.listed(&["b"]);
    assert_eq!(script.state_rules(), []);

    let gone = Script::new();
    gone.begin_topic("a", true).ok();
    gone.listed(&[]);
    assert_eq!(gone.state_rules(), [Rule::TopicWentBack]);
    let back = Script::new();
    back.begin_topic("a", true).ok();
    back.begin_topic("a", false).ok();
    back.listed(&["a"]);
    assert_eq!(back.state_rules(), [Rule::TopicWentBack]);
    let unknown = Script::new();
    unknown.listed(&["a"]);
    assert_eq!(unknown.state_rules(), [Rule::TopicWentBack]);
    let refused = Script::new();
    refused.begin_topic("a", true).fail();
    refused.listed(&["a"]);
    assert_eq!(refused.state_rules(), [Rule::TopicWentBack]);
}

#[test]
fn too_little_is_not_enough() {
    assert_eq!(Script::new().rules(), [Rule::TooFew]);
    assert_eq!(good().rules_with(&Expectations { sends_min: 4, ..Expectations::default() }), [Rule::TooFew]);
    assert_eq!(
        good().rules_with(&Expectations { records_min: 6, ..Expectations::default() }),
        [Rule::TooFew]
    );
}

#[test]
fn a_history_that_breaks_the_rules_of_recording_is_refused() {
    let twice = good();
    twice.begin_send(3).info();
    assert_eq!(twice.rules(), [Rule::BadHistory]);
    let beyond = good();
    beyond.poll(0, 4, &[(0, 1), (1, 2), (4, 3)], false);
    assert_eq!(beyond.rules(), [Rule::BadHistory]);
    let mut reversed = good().0.history();
    reversed.ops[0].began = reversed.ops[0].ended + 1;
    assert!(check(&reversed, &Expectations::default()).rules().contains(&Rule::BadHistory));
}

/// What becomes of a send in a random run.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Acked,
    Refused,
    UnknownAndDone,
    UnknownAndNotDone,
}

/// A run of a broker that does everything right: writers send, readers follow, everything is read in the end.
fn right(steps: &[(u8, Fate, bool)]) -> History {
    let recorder = Recorder::new();
    let mut log: Vec<Polled> = Vec::new();
    let mut numbers = [0; 3];
    let mut position = 0;
    let poll = |from: u64, log: &[Polled], last: bool| {
        let next = log.last().map_or(from, |record| record.offset + 1).max(from);
        let records = log.iter().filter(|record| record.offset >= from).cloned().collect();
        recorder.begin("reader", What::Poll { log: "l".to_owned(), from, next, records, last }).ok();
        next
    };
    for (writer, fate, read) in steps {
        let writer = usize::from(*writer % 3);
        numbers[writer] += 1;
        let value = Value::new(&format!("w{writer}"), numbers[writer]);
        let what =
            What::Send { log: "l".to_owned(), value: value.clone(), offset: None, terms: Terms::default() };
        let send = recorder.begin(&format!("w{writer}"), what);
        // A gap now and then, as control records leave them.
        let offset = log.last().map_or(0, |record| record.offset + 1 + u64::from(numbers[writer] % 5 == 0));
        if matches!(fate, Fate::Acked | Fate::UnknownAndDone) {
            log.push(Polled { offset, value });
        }
        match fate {
            Fate::Acked => send.sent_at(offset),
            Fate::Refused => send.fail(),
            Fate::UnknownAndDone | Fate::UnknownAndNotDone => send.info(),
        }
        if *read {
            position = poll(position, &log, false);
        }
    }
    poll(0, &log, true);
    recorder.history()
}

fn steps() -> impl Strategy<Value = Vec<(u8, Fate, bool)>> {
    let fate = prop_oneof![
        6 => Just(Fate::Acked),
        1 => Just(Fate::Refused),
        1 => Just(Fate::UnknownAndDone),
        1 => Just(Fate::UnknownAndNotDone),
    ];
    vec((any::<u8>(), fate, any::<bool>()), 4..40)
}

/// Acknowledged sends: place in the history, value, offset.
fn acked(history: &History) -> Vec<(usize, Value, u64)> {
    let acked = history.ops.iter().enumerate().filter_map(|(place, op)| match &op.what {
        What::Send { value, offset: Some(offset), .. } => Some((place, value.clone(), *offset)),
        _ => None,
    });
    acked.collect()
}

fn polls(history: &mut History, mut change: impl FnMut(&mut Vec<Polled>, &mut u64, bool)) {
    for op in &mut history.ops {
        if let What::Poll { records, next, last, .. } = &mut op.what {
            change(records, next, *last);
        }
    }
}

fn expected() -> Expectations {
    Expectations { sends_min: 0, records_min: 0, ..Expectations::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_run_is_clean(steps in steps()) {
        let report = check(&right(&steps), &expected());
        prop_assert!(report.is_clean(), "{report}");
    }

    #[test]
    fn a_lost_value_is_always_noticed(steps in steps(), pick in any::<prop::sample::Index>(), everywhere in any::<bool>()) {
        let mut history = right(&steps);
        let acked = acked(&history);
        prop_assume!(!acked.is_empty());
        let (_, value, _) = &acked[pick.index(acked.len())];
        polls(&mut history, |records, _, last| {
            if everywhere || last {
                records.retain(|record| record.value != *value);
            }
        });
        prop_assert!(check(&history, &expected()).rules().contains(&Rule::Lost));
    }

    #[test]
    fn swapped_values_are_always_noticed(steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut history = right(&steps);
        let acked = acked(&history);
        let pairs: Vec<_> = acked.iter().flat_map(|a| acked.iter().map(move |b| (a, b)))
            .filter(|((at, a, _), (behind, b, _))| at < behind && a.writer == b.writer)
            .collect();
        prop_assume!(!pairs.is_empty());
        let (a, b) = pairs[pick.index(pairs.len())];
        for (place, offset) in [(a.0, b.2), (b.0, a.2)] {
            if let What::Send { offset: told, .. } = &mut history.ops[place].what {
                *told = Some(offset);
            }
        }
        polls(&mut history, |records, _, _| {
            for record in records {
                if record.value == a.1 {
                    record.value = b.1.clone();
                } else if record.value == b.1 {
                    record.value = a.1.clone();
                }
            }
        });
        prop_assert!(check(&history, &expected()).rules().contains(&Rule::Reordered));
    }

    #[test]
    fn a_duplicate_is_always_noticed(steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut history = right(&steps);
        let acked = acked(&history);
        prop_assume!(!acked.is_empty());
        let (_, value, _) = &acked[pick.index(acked.len())];
        polls(&mut history, |records, next, last| {
            if last {
                records.push(Polled { offset: *next, value: value.clone() });
                *next += 1;
            }
        });
        prop_assert!(check(&history, &expected()).rules().contains(&Rule::Duplicated));
    }

    #[test]
    fn a_reused_offset_is_always_noticed(steps in steps(), pick in any::<[prop::sample::Index; 2]>()) {
        let mut history = right(&steps);
        let acked = acked(&history);
        prop_assume!(acked.len() > 1);
        let (one, other) = (&acked[pick[0].index(acked.len())], &acked[pick[1].index(acked.len())]);
        prop_assume!(one.2 != other.2);
        if let What::Send { offset, .. } = &mut history.ops[one.0].what {
            *offset = Some(other.2);
        }
        prop_assert!(check(&history, &expected()).rules().contains(&Rule::Diverged));
    }

    #[test]
    fn a_visible_refusal_is_always_noticed(steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut history = right(&steps);
        let acked = acked(&history);
        prop_assume!(!acked.is_empty());
        history.ops[acked[pick.index(acked.len())].0].outcome = Outcome::Fail;
        prop_assert!(check(&history, &expected()).rules().contains(&Rule::FailedButVisible));
    }

    #[test]
    fn a_skipped_value_is_always_noticed(steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut history = right(&steps);
        // Out of one poll that is not the last, a value that was acknowledged by then.
        let places: Vec<(usize, usize)> = history.ops.iter().enumerate().flat_map(|(place, op)| match &op.what {
            What::Poll { records, last: false, .. } => (0..records.len()).map(|i| (place, i)).collect::<Vec<_>>(),
            _ => Vec::new(),
        }).collect();
        prop_assume!(!places.is_empty());
        let (place, i) = places[pick.index(places.len())];
        let What::Poll { records, .. } = &mut history.ops[place].what else { unreachable!() };
        let gone = records.remove(i);
        let was_acked = acked(&history).iter().any(|(_, value, _)| *value == gone.value);
        let rules = check(&history, &expected()).rules();
        prop_assert_eq!(rules, if was_acked { vec![Rule::Skipped] } else { vec![] });
    }
}
