//! Each rule with a seeded history that breaks it and nothing else, and good histories that break none.

mod copies;
mod delayed;
mod letters;
mod limits;
mod transactions;

use super::*;

/// Life 0 ends with a kill at 100, life 1 with a clean stop at 200; life 2 is the last reading. All in one queue,
/// and what is rejected there in another.
struct Script(QueueHistory);

const QUEUE: &str = "q";

fn value(number: u64) -> Value {
    Value::new("w", number)
}

/// A message that is confirmed at once.
fn published(number: u64, life: u32, began: u64) -> Publishing {
    Publishing {
        queue: QUEUE.to_owned(),
        value: value(number),
        survives: Survives::PowerCut,
        routable: true,
        life,
        began,
        ended: began + 1,
        answers: vec![Answer::Confirmed],
        stayed: true,
        part_of: None,
        due: None,
    }
}

/// A delivery on the life's channel, for the first time, which nobody settles.
fn delivered(number: u64, life: u32, at: u64) -> Delivery {
    Delivery {
        queue: QUEUE.to_owned(),
        value: value(number),
        redelivered: false,
        life,
        channel: u64::from(life),
        at,
        stretch: None,
        no_ack: false,
        settled: None,
        let_go: None,
        unsure: false,
        last: false,
    }
}

fn settled(how: How, sent: u64) -> Option<Settled> {
    Some(Settled { how, sent, vouched: Some(sent + 1), part_of: None })
}

/// A get whose answer nobody heard.
fn unseen() -> Holder {
    Holder { queue: QUEUE.to_owned(), life: 0, began: 80, ended: None, loses: 1 }
}

impl Script {
    fn publishing(&mut self, number: u64) -> &mut Publishing {
        self.0.publishings.iter_mut().find(|it| it.value.number == number).unwrap()
    }

    fn delivery(&mut self, number: u64) -> &mut Delivery {
        self.0.deliveries.iter_mut().find(|it| it.value.number == number).unwrap()
    }

    fn remove(&mut self, what: Removed, began: u64, outcome: Outcome) {
        let (queue, ended) = (QUEUE.to_owned(), began + 1);
        self.0.removals.push(Removal { queue, what, began, ended, outcome });
    }

    fn rules(&self) -> Vec<QueueRule> {
        check(&self.0, &QueueExpectations::default()).rules()
    }
}

/// 1 is acknowledged in life 0, durably because 2 is confirmed later; 2 is returned, taken, and there in the end;
/// 3 is transient and goes with its life; 4 has no way; nobody knows of 5; 6 is held as life 0 ends and is there.
fn good() -> Script {
    let mut history = QueueHistory {
        publishings: (1..=6).map(|number| published(number, 0, number * 10)).collect(),
        stops: vec![Stop { life: 0, began: 100, clean: false }, Stop { life: 1, began: 200, clean: true }],
        ..QueueHistory::default()
    };
    let one = Delivery { settled: settled(How::Done, 15), ..delivered(1, 0, 12) };
    let two = Delivery { settled: settled(How::Returned, 24), ..delivered(2, 0, 22) };
    let again = Delivery { redelivered: true, let_go: Some(90), ..delivered(2, 0, 26) };
    let six = Delivery { let_go: Some(99), ..delivered(6, 0, 62) };
    history.deliveries = vec![one, two, again, six];
    for number in [2, 6] {
        let at = 200 + number * 10;
        history.deliveries.push(Delivery { redelivered: true, last: true, ..delivered(number, 2, at) });
    }
    let ask = |began, found, last| Count { queue: QUEUE.to_owned(), began, ended: began + 1, found, last };
    letters::add(&mut history);
    copies::add(&mut history);
    delayed::add(&mut history);
    transactions::add(&mut history);
    limits::add(&mut history);
    history.counts = vec![ask(50, Some((9, 3)), false), ask(210, Some((3, 0)), true)];
    history.declarations =
        vec![Declaration { queue: QUEUE.to_owned(), began: 1, ended: 2, outcome: Outcome::Ok }];
    let mut script = Script(history);
    script.publishing(3).survives = Survives::Nothing;
    let four = script.publishing(4);
    (four.routable, four.answers) = (false, vec![Answer::Returned, Answer::Confirmed]);
    let five = script.publishing(5);
    (five.stayed, five.answers) = (false, Vec::new());
    script
}

type Seed = fn(&mut Script);

/// Which rule catches which bug of a broker: each breaks its rule and no other.
const SEEDED: &[(QueueRule, &str, Seed)] = &[
    (QueueRule::ConfirmedLost, "a confirm before the sync, then a power cut", |it| {
        it.0.publishings.push(published(7, 0, 70));
    }),
    (QueueRule::ConfirmedLost, "a purge takes what is published after it", |it| {
        it.0.publishings.push(published(7, 0, 70));
        it.remove(Removed::Ready, 60, Outcome::Ok);
    }),
    (QueueRule::UnackedLost, "what a dead consumer had is forgotten", |it| {
        it.0.deliveries.push(Delivery { let_go: Some(80), ..delivered(5, 0, 52) });
    }),
    (QueueRule::NeverPublished, "a queue gets another's log with something in it", |it| {
        let unsure = Publishing { stayed: false, answers: Vec::new(), ..published(7, 0, 70) };
        it.0.publishings.push(Publishing { queue: "other".to_owned(), ..unsure });
        it.0.deliveries.push(Delivery { no_ack: true, ..delivered(7, 0, 75) });
    }),
    (QueueRule::NeverPublished, "bytes that nobody sent", |it| {
        it.0.deliveries.push(Delivery { no_ack: true, ..delivered(99, 0, 80) });
    }),
    (QueueRule::ReturnedButThere, "a message is returned and routed", |it| {
        it.0.deliveries.push(Delivery { no_ack: true, ..delivered(4, 0, 45) });
    }),
    (QueueRule::Duplicated, "a batch is written twice", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..delivered(6, 2, 290) });
        it.0.deliveries.last_mut().unwrap().channel = 9;
        let six = it.0.deliveries.iter_mut().filter(|six| six.value.number == 6 && six.last);
        six.for_each(|six| six.let_go = Some(six.at));
        it.0.counts[1].found = Some((4, 0));
    }),
    (QueueRule::ConfirmedTwice, "two confirms for one message", |it| {
        it.publishing(6).answers = vec![Answer::Confirmed, Answer::Refused];
    }),
    (QueueRule::ConfirmedTwice, "a confirm with a number that was not given", |it| {
        it.0.stray_answers.push("ack of 17".to_owned());
    }),
    (QueueRule::Unanswered, "a confirm that never comes", |it| it.publishing(5).stayed = true),
    (QueueRule::WronglyReturned, "no way, and not returned", |it| {
        it.publishing(4).answers = vec![Answer::Confirmed];
    }),
    (QueueRule::WronglyReturned, "returned after its confirm", |it| {
        it.publishing(4).answers = vec![Answer::Confirmed, Answer::Returned];
    }),
    (QueueRule::WronglyReturned, "returned in spite of its queue", |it| {
        let three = it.publishing(3);
        three.answers = vec![Answer::Returned, Answer::Confirmed];
    }),
    (QueueRule::AckedCameBack, "an ack is lost, and something was answered after it", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, no_ack: true, ..delivered(1, 1, 150) });
    }),
    (QueueRule::AckedCameBack, "an ack is not obeyed", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, let_go: Some(20), ..delivered(1, 0, 18) });
    }),
    (QueueRule::AckedCameBack, "an ack is lost over a clean stop", |it| {
        it.0.publishings.push(published(7, 1, 110));
        it.0.deliveries.push(Delivery { settled: settled(How::Done, 125), ..delivered(7, 1, 120) });
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..delivered(7, 2, 290) });
        it.0.counts[1].found = Some((4, 0));
    }),
    (QueueRule::DeliveredWhileHeld, "two consumers get one message", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, channel: 7, ..delivered(6, 0, 65) });
    }),
    (QueueRule::Unmarked, "a returned message comes without the mark", |it| {
        it.0.deliveries[2].redelivered = false;
    }),
    (QueueRule::Unmarked, "the mark is forgotten by a crash", |it| {
        it.0.deliveries.last_mut().unwrap().redelivered = false;
    }),
    (QueueRule::OutOfOrder, "first deliveries cross", |it| {
        it.0.publishings.push(published(0, 0, 5));
        it.0.deliveries.push(Delivery { settled: settled(How::Done, 85), ..delivered(0, 0, 80) });
    }),
    (QueueRule::OutOfOrder, "what was returned does not go to its old place", |it| {
        let count = it.0.deliveries.len();
        it.0.deliveries[count - 2].at = 280;
    }),
    (QueueRule::OutOfOrder, "a dead consumer's messages come back in another order", |it| {
        let back = |number: u64, at| Delivery {
            redelivered: true,
            stretch: Some(1),
            let_go: Some(180),
            ..delivered(number, 1, at)
        };
        it.0.deliveries.extend([back(6, 150), back(2, 160)]);
    }),
    (QueueRule::Outlived, "a transient message is stored", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, no_ack: true, ..delivered(3, 1, 150) });
    }),
    (QueueRule::RemovedCameBack, "a purge is forgotten by a crash", |it| {
        it.0.publishings.push(published(7, 0, 70));
        it.remove(Removed::Ready, 80, Outcome::Ok);
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..delivered(7, 2, 290) });
        it.0.counts[1].found = Some((4, 0));
    }),
    (QueueRule::RemovedCameBack, "a queue's log is found again under its name", |it| {
        it.0.publishings = vec![published(7, 0, 10), published(8, 0, 12)];
        it.remove(Removed::Queue, 60, Outcome::Ok);
        it.0.deliveries = vec![
            Delivery { settled: settled(How::Done, 52), ..delivered(8, 0, 50) },
            Delivery { redelivered: true, last: true, ..delivered(7, 2, 290) },
        ];
        it.0.declarations.push(Declaration { began: 70, ended: 71, ..it.0.declarations[0].clone() });
        it.0.counts[1].found = Some((1, 0));
    }),
    (QueueRule::Miscounted, "a message counts twice", |it| it.0.counts[1].found = Some((4, 0))),
    (QueueRule::Miscounted, "a consumer that is gone counts", |it| it.0.counts[1].found = Some((3, 1))),
    (QueueRule::QueueWentBack, "a queue is forgotten", |it| it.0.counts[0].found = None),
    (QueueRule::QueueWentBack, "a deleted queue is there again", |it| {
        it.0.removals.push(Removal {
            queue: "gone".to_owned(),
            what: Removed::Queue,
            began: 20,
            ended: 30,
            outcome: Outcome::Ok,
        });
        it.0.counts.push(Count { queue: "gone".to_owned(), last: false, ..it.0.counts[0].clone() });
    }),
    (QueueRule::ConfirmedAfterFailure, "a failed sync is ignored", |it| it.0.broken.push(15..90)),
    (QueueRule::TooFew, "nothing works", |it| {
        it.0.publishings.clear();
        it.0.deliveries.clear();
        it.0.counts.clear();
    }),
    (QueueRule::BadHistory, "none: the test notes a value twice", |it| {
        it.0.publishings.push(published(6, 0, 60));
    }),
    (QueueRule::BadHistory, "none: the test takes a message off a dead channel", |it| {
        it.delivery(6).let_go = Some(61);
    }),
];

fn seeded() -> impl Iterator<Item = &'static (QueueRule, &'static str, Seed)> {
    SEEDED
        .iter()
        .chain(letters::SEEDED)
        .chain(copies::SEEDED)
        .chain(delayed::SEEDED)
        .chain(transactions::SEEDED)
        .chain(limits::SEEDED)
}

#[test]
fn a_good_history_is_clean() {
    let report = check(&good().0, &QueueExpectations::default());
    assert_eq!(report.rules(), [], "{report}");
}

#[test]
fn each_seeded_bug_is_caught_by_its_rule_alone() {
    let mut wrong = Vec::new();
    for (rule, bug, seed) in seeded() {
        let mut script = good();
        seed(&mut script);
        let report = check(&script.0, &QueueExpectations::default());
        if report.rules() != [*rule] {
            wrong.push(format!("{rule:?}, {bug}: {report}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_rule_has_a_seeded_bug_and_a_name_of_its_own() {
    let mut names = std::collections::BTreeSet::new();
    for rule in QueueRule::ALL {
        assert!(seeded().any(|(seeded, ..)| *seeded == rule), "{rule:?}");
        assert!(names.insert(rule.name()), "{rule:?}");
    }
}

/// What nobody knows, and what is not promised, is no violation.
const ALLOWED: &[(&str, Seed)] = &[
    ("an ack without a later answer may be lost or not", |it| {
        it.0.deliveries[3].settled = Some(Settled { how: How::Done, sent: 80, vouched: None, part_of: None });
    }),
    ("an ack that is answered while its life ends comes back after a crash", |it| {
        it.0.deliveries[3].settled = settled(How::Done, 100);
    }),
    ("what was sent without acknowledgements comes back after a crash", |it| {
        it.0.deliveries[3].no_ack = true;
    }),
    ("a message may be there without a confirm", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..delivered(5, 2, 250) });
        it.0.counts[1].found = Some((4, 0));
    }),
    ("a get that is not answered may take a message with it", |it| {
        it.0.publishings.push(published(7, 0, 70));
        it.0.holders.push(unseen());
    }),
    ("a purge that nobody knows the end of may take what comes later", |it| {
        it.0.publishings.push(published(7, 0, 70));
        it.remove(Removed::Ready, 60, Outcome::Info);
    }),
    ("a purge leaves what somebody has", |it| it.remove(Removed::Ready, 70, Outcome::Ok)),
    ("while its life ends a channel's messages go to others unseen", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, channel: 7, ..delivered(6, 0, 101) });
    }),
    ("a channel that the broker ended is read to its end while others have its messages", |it| {
        it.0.deliveries.push(Delivery { channel: 7, unsure: true, no_ack: true, ..delivered(5, 0, 53) });
        it.0.deliveries.push(Delivery { channel: 8, redelivered: true, no_ack: true, ..delivered(5, 0, 52) });
    }),
    ("what a consumer was sent it takes after its queue was deleted", |it| {
        it.0.holders.push(Holder { loses: 0, began: 60, ..unseen() });
        it.remove(Removed::Queue, 70, Outcome::Ok);
        it.0.publishings.push(published(7, 0, 65));
        it.0.deliveries.push(delivered(7, 0, 75));
        it.0.declarations.push(Declaration { began: 80, ended: 81, ..it.0.declarations[0].clone() });
        it.0.deliveries.retain(|it| !it.last || it.queue != QUEUE);
        it.0.counts[1].found = Some((0, 0));
    }),
    ("what a consumer has, unseen, is not purged", |it| {
        it.0.publishings.push(published(7, 0, 70));
        it.0.holders.push(Holder { loses: 0, began: 60, ..unseen() });
        it.remove(Removed::Ready, 80, Outcome::Ok);
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..delivered(7, 2, 290) });
        it.0.counts[1].found = Some((4, 0));
    }),
    ("a queue that is being deleted is there or not", |it| {
        it.0.counts[0].found = None;
        it.remove(Removed::Queue, 45, Outcome::Info);
        it.0.declarations.push(Declaration { began: 70, ended: 71, ..it.0.declarations[0].clone() });
    }),
];

#[test]
fn what_is_not_promised_is_allowed() {
    for (what, seed) in ALLOWED
        .iter()
        .chain(letters::ALLOWED)
        .chain(copies::ALLOWED)
        .chain(delayed::ALLOWED)
        .chain(transactions::ALLOWED)
        .chain(limits::ALLOWED)
    {
        let mut script = good();
        seed(&mut script);
        let report = check(&script.0, &QueueExpectations::default());
        assert_eq!(report.rules(), [], "{what}: {report}");
    }
}

#[test]
fn one_lost_message_too_many_is_not_excused() {
    let mut script = good();
    script.0.publishings.extend([published(7, 0, 70), published(8, 0, 72)]);
    script.0.holders.push(unseen());
    assert_eq!(script.rules(), [QueueRule::ConfirmedLost]);
}
