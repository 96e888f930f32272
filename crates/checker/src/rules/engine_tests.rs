//! The rules for what only an engine's owner does or is told: each with a history that breaks it and nothing else.

use crate::*;

/// Writes a history by hand; an operation ends before the next begins.
struct Script(Recorder);

fn send(log: &str, number: u64, terms: &Terms) -> What {
    What::Send { log: log.to_owned(), value: Value::new("w", number), offset: None, terms: terms.clone() }
}

fn plain() -> Terms {
    Terms::default()
}

fn of_group(group: u64) -> Terms {
    Terms { group: Some(group), ..plain() }
}

fn survives(survives: Survives) -> Terms {
    Terms { survives, ..plain() }
}

impl Script {
    /// One record at offset 0 that nothing happens to.
    fn new() -> Script {
        let script = Script(Recorder::new());
        script.sent(0, 0, &plain());
        script
    }

    fn sent(&self, number: u64, offset: u64, terms: &Terms) {
        self.0.begin("p", send("l", number, terms)).sent_at(offset);
    }

    fn remove(&self, from: u64, to: u64) -> Pending {
        self.0.begin("p", What::Remove { log: "l".to_owned(), from, to })
    }

    fn restart(&self, power_cut: bool) -> Pending {
        self.0.begin("p", What::Restart { power_cut })
    }

    fn claimed(&self, epoch: u32) {
        self.0.begin("p", What::Claim { log: "l".to_owned(), epoch: Some(epoch) }).ok();
    }

    fn damage(&self, from: u64, to: u64) {
        let what = What::Damage { log: Some("l".to_owned()), from, to, text: "a checksum".to_owned() };
        self.0.begin("p", what).ok();
    }

    fn poll(&self, log: &str, next: u64, records: &[(u64, u64)], last: bool) {
        let records = records
            .iter()
            .map(|(offset, number)| Polled { offset: *offset, value: Value::new("w", *number) });
        let records = records.collect();
        self.0.begin("c", What::Poll { log: log.to_owned(), from: 0, next, records, last }).ok();
    }

    /// The rules broken if this is all that is there in the end.
    fn ends(&self, next: u64, records: &[(u64, u64)]) -> Vec<Rule> {
        self.poll("l", next, records, true);
        self.rules(None)
    }

    fn rules(&self, damaged_max: Option<usize>) -> Vec<Rule> {
        check(&self.0.history(), &Expectations { damaged_max, ..Expectations::default() }).rules()
    }
}

#[test]
fn what_was_removed_is_not_missed() {
    for unknown in [false, true] {
        let script = Script::new();
        script.sent(1, 1, &Terms { span: 2, ..plain() });
        script.sent(2, 3, &plain());
        script.poll("l", 4, &[(0, 0), (1, 1), (3, 2)], false);
        let remove = script.remove(1, 3);
        if unknown {
            remove.info()
        } else {
            remove.ok()
        }
        assert_eq!(script.ends(4, &[(0, 0), (3, 2)]), []);
    }
}

#[test]
fn what_was_not_wholly_or_certainly_not_removed_is_missed() {
    for (to, refused) in [(2, false), (3, true)] {
        let script = Script::new();
        script.sent(1, 1, &Terms { span: 2, ..plain() });
        let remove = script.remove(1, to);
        if refused {
            remove.fail()
        } else {
            remove.ok()
        }
        assert_eq!(script.ends(3, &[(0, 0)]), [Rule::Lost, Rule::Skipped]);
    }
    // Removed before it was sent.
    let script = Script::new();
    script.remove(1, 9).ok();
    script.sent(1, 1, &plain());
    assert_eq!(script.ends(1, &[(0, 0)]), [Rule::Lost]);
}

#[test]
fn what_was_removed_does_not_come_back() {
    let script = Script::new();
    script.sent(1, 1, &plain());
    script.remove(1, 2).ok();
    assert_eq!(script.ends(2, &[(0, 0), (1, 1)]), [Rule::CameBack]);
    // Nobody knows whether it was removed.
    let script = Script::new();
    script.sent(1, 1, &plain());
    script.remove(1, 2).info();
    assert_eq!(script.ends(2, &[(0, 0), (1, 1)]), []);
    // Nobody knew whether it was sent; it lies where everything was removed.
    let script = Script::new();
    script.0.begin("p", send("l", 1, &plain())).info();
    script.remove(1, 2).ok();
    assert_eq!(script.ends(2, &[(0, 0), (1, 1)]), [Rule::CameBack]);
}

#[test]
fn what_takes_the_place_of_another_neither_diverges_nor_reuses() {
    let script = Script::new();
    script.sent(1, 1, &plain());
    script.sent(2, 2, &plain());
    script.poll("l", 3, &[(0, 0), (1, 1), (2, 2)], false);
    script.remove(1, 2).ok();
    script.sent(3, 1, &Terms { replaces: true, ..plain() });
    assert_eq!(script.ends(3, &[(0, 0), (1, 3), (2, 2)]), []);
    let without_a_word = Script::new();
    without_a_word.sent(1, 1, &plain());
    without_a_word.remove(1, 2).ok();
    without_a_word.sent(3, 1, &plain());
    let rules = without_a_word.ends(3, &[(0, 0), (1, 3)]);
    assert_eq!(rules, [Rule::Diverged, Rule::OffsetReused]);
}

#[test]
fn an_offset_inside_a_batch_is_taken() {
    let script = Script::new();
    script.sent(1, 1, &Terms { span: 3, ..plain() });
    script.sent(2, 3, &plain());
    assert_eq!(script.ends(4, &[(0, 0), (1, 1), (3, 2)]), [Rule::OffsetReused]);
}

#[test]
fn what_need_not_survive_may_be_gone_after_that_and_not_before() {
    let cases = [
        (Survives::Nothing, Some(false), true),
        (Survives::Nothing, Some(true), true),
        (Survives::Kill, Some(true), true),
        (Survives::Kill, Some(false), false),
        (Survives::PowerCut, Some(true), false),
        (Survives::Nothing, None, false),
    ];
    for (promise, restart, may_go) in cases {
        let script = Script::new();
        script.sent(1, 1, &survives(promise));
        script.poll("l", 2, &[(0, 0), (1, 1)], false);
        if let Some(power_cut) = restart {
            script.restart(power_cut).ok();
        }
        let expected = if may_go { vec![] } else { vec![Rule::Lost, Rule::Vanished, Rule::Skipped] };
        assert_eq!(script.ends(2, &[(0, 0)]), expected, "{promise:?} {restart:?}");
    }
    // It was sent after that.
    let script = Script::new();
    script.restart(true).ok();
    script.sent(1, 1, &survives(Survives::Nothing));
    assert_eq!(script.ends(1, &[(0, 0)]), [Rule::Lost]);
    // Its offset is not given out again all the same.
    let script = Script::new();
    script.sent(1, 1, &survives(Survives::Nothing));
    script.restart(true).ok();
    script.sent(2, 1, &plain());
    assert_eq!(script.ends(2, &[(0, 0), (1, 2)]), [Rule::Diverged, Rule::OffsetReused]);
}

#[test]
fn a_group_is_there_as_a_whole_or_not_at_all() {
    for (first, second) in [(true, true), (false, false), (true, false), (false, true)] {
        let script = Script::new();
        script.0.begin("p", send("l", 1, &of_group(7))).info();
        script.0.begin("p", send("m", 2, &of_group(7))).info();
        script.poll("m", u64::from(second), if second { &[(0, 2)] } else { &[] }, true);
        let torn = script.ends(2, if first { &[(0, 0), (1, 1)] } else { &[(0, 0)] });
        assert_eq!(torn, if first == second { vec![] } else { vec![Rule::Torn] });
    }
    // Which part may be gone proves nothing.
    let script = Script::new();
    script.0.begin("p", send("l", 1, &of_group(7))).info();
    script.0.begin("p", send("m", 2, &Terms { survives: Survives::Nothing, ..of_group(7) })).info();
    script.restart(false).ok();
    assert_eq!(script.ends(2, &[(0, 0), (1, 1)]), []);
}

#[test]
fn an_owner_that_lost_its_log_is_not_obeyed() {
    let in_epoch = |epoch| Terms { epoch: Some(epoch), ..plain() };
    let script = Script::new();
    script.claimed(1);
    script.sent(1, 1, &in_epoch(1));
    script.claimed(2);
    script.0.begin("p", send("l", 9, &in_epoch(1))).fail();
    script.sent(2, 2, &in_epoch(2));
    assert_eq!(script.ends(3, &[(0, 0), (1, 1), (2, 2)]), []);
    script.sent(3, 3, &in_epoch(1));
    assert_eq!(script.ends(4, &[(0, 0), (1, 1), (2, 2), (3, 3)]), [Rule::StaleOwner]);
    // Handed over before the takeover was answered, it may have been first.
    let script = Script::new();
    script.claimed(1);
    let pending = script.0.begin("p", send("l", 1, &in_epoch(1)));
    script.claimed(2);
    pending.sent_at(1);
    assert_eq!(script.ends(2, &[(0, 0), (1, 1)]), []);
}

#[test]
fn an_epoch_is_given_out_once() {
    for (second, is_right) in [(6, true), (5, false), (4, false)] {
        let script = Script::new();
        script.claimed(5);
        script.claimed(second);
        let expected = if is_right { vec![] } else { vec![Rule::StaleOwner] };
        assert_eq!(script.ends(1, &[(0, 0)]), expected);
    }
}

#[test]
fn damage_is_reported_where_something_was_damaged() {
    let script = Script::new();
    script.sent(1, 1, &plain());
    script.sent(2, 2, &plain());
    script.damage(1, 2);
    script.poll("l", 1, &[(0, 0)], true);
    let what = What::Poll {
        log: "l".to_owned(),
        from: 2,
        next: 3,
        records: vec![Polled { offset: 2, value: Value::new("w", 2) }],
        last: true,
    };
    script.0.begin("c", what).ok();
    assert_eq!(script.rules(Some(1)), []);
    assert_eq!(script.rules(Some(0)), [Rule::Lost]);
    assert!(script.rules(None).contains(&Rule::FalseDamage));
    // What can be read in spite of the damage costs nothing.
    let script = Script::new();
    script.damage(0, 1);
    script.poll("l", 1, &[(0, 0)], true);
    assert_eq!(script.rules(Some(0)), []);
    assert_eq!(script.rules(None), [Rule::FalseDamage]);
}

#[test]
fn damage_in_nobody_knows_which_log_costs_as_much() {
    for (records, damaged_max, rules) in [(2, 1, vec![]), (1, 1, vec![Rule::Lost])] {
        let script = Script::new();
        script.sent(1, 1, &plain());
        script.sent(2, 2, &plain());
        let what = What::Damage { log: None, from: 0, to: 0, text: "a group".to_owned() };
        script.0.begin("p", what).ok();
        script.poll("l", 3, &[(0, 0), (1, 1), (2, 2)][..records], true);
        assert_eq!(script.rules(Some(damaged_max)), rules);
    }
}

#[test]
fn what_was_removed_before_anybody_knew_of_it_tears_no_group() {
    let script = Script::new();
    let asked = |log: &str, number, offset| {
        let mut what = send(log, number, &of_group(7));
        if let What::Send { offset: asked, .. } = &mut what {
            *asked = Some(offset);
        }
        script.0.begin("p", what).info();
    };
    asked("l", 1, 1);
    asked("m", 2, 0);
    script.remove(1, 2).info();
    script.poll("m", 1, &[(0, 2)], true);
    assert_eq!(script.ends(2, &[(0, 0)]), []);
}

#[test]
fn an_end_that_was_cut_off_for_damage_may_go_back() {
    for reported in [true, false] {
        let script = Script::new();
        script.sent(1, 1, &plain());
        if reported {
            script.damage(1, u64::MAX);
        }
        script.0.begin("c", What::Watermark { log: "l".to_owned(), offset: Some(1) }).ok();
        script.poll("l", 1, &[(0, 0)], true);
        let expected = if reported { vec![] } else { vec![Rule::Lost, Rule::WatermarkWentBack] };
        assert_eq!(script.rules(Some(1)), expected);
    }
}

#[test]
fn a_broker_comes_back() {
    let script = Script::new();
    script.restart(true).ok();
    assert_eq!(script.ends(1, &[(0, 0)]), []);
    script.restart(true).fail();
    assert_eq!(script.rules(None), [Rule::Unusable]);
}

#[test]
fn a_future_is_judged_with_its_past() {
    let past = Script::new();
    past.sent(1, 1, &plain());
    let past = past.0.history();
    for lost in [false, true] {
        let future = Script(Recorder::after(&past));
        future.restart(true).ok();
        future.poll("l", if lost { 1 } else { 2 }, if lost { &[(0, 0)] } else { &[(0, 0), (1, 1)] }, true);
        let report = check_future(&past, &future.0.history(), &Expectations::default());
        assert_eq!(report.rules(), if lost { vec![Rule::Lost] } else { vec![] });
    }
    // Its clock goes on.
    let future = Script(Recorder::after(&past));
    future.sent(2, 1, &plain());
    let report = check_future(&past, &future.0.history(), &Expectations::default());
    assert!(report.rules().contains(&Rule::OffsetReused), "{report}");
}

#[test]
fn the_terms_of_a_send_survive_the_file() {
    let script = Script::new();
    script.sent(1, 1, &Terms { span: 3, epoch: Some(4), survives: Survives::Kill, ..of_group(5) });
    script.remove(0, 1).ok();
    script.claimed(7);
    script.damage(0, 1);
    script.restart(true).fail();
    let mut file = Vec::new();
    script.0.history().write_to(&mut file).unwrap();
    assert_eq!(History::read_from(&file[..]).unwrap(), script.0.history());
}
