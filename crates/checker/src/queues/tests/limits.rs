//! Limits, policies and streams: what breaks when too much is taken, kept, dropped or refused.

use super::*;

const NEWEST: &str = "newest";
const REFUSING: &str = "refusing";
const REFUSED: &str = "refused";
const TELLING: &str = "telling";
const TOLD: &str = "told";
const POLICY: &str = "policy";

fn name(number: u64) -> Value {
    Value::new("l", number)
}

fn put(queue: &str, number: u64, began: u64) -> Publishing {
    Publishing { queue: queue.to_owned(), value: name(number), ..published(number, 0, began) }
}

fn out(queue: &str, number: u64, life: u32, at: u64) -> Delivery {
    Delivery { queue: queue.to_owned(), value: name(number), ..delivered(number, life, at) }
}

fn at_the_end(queue: &str, number: u64) -> Delivery {
    Delivery { redelivered: true, last: true, ..out(queue, number, 2, 200 + number) }
}

fn change<T>(of: &str, to: T, began: u64) -> Change<T> {
    Change { of: of.to_owned(), to, began, ended: began + 2, outcome: Outcome::Ok }
}

fn limit(queue: &str, overflow: Overflow) -> Change<Limit> {
    change(queue, Limit { messages: Some(2), overflow, unseen: 1 }, 0)
}

/// Of 51 to 53 the newest two stay. 61 and 62 are taken, 63 is refused and its letter kept. 71 is rejected into a stream;
/// of a transaction with 73 for the stream and 74 for a queue nobody knows the end: it did not happen. A policy is set.
pub(super) fn add(history: &mut QueueHistory) {
    history.limits = vec![limit(NEWEST, Overflow::DropHead), limit(REFUSING, Overflow::Refuse)];
    for (source, target) in [(REFUSING, REFUSED), (TELLING, TOLD)] {
        history.letters.push(DeadLetters { source: source.to_owned(), target: target.to_owned() });
    }
    history.streams.push(TOLD.to_owned());
    history.policies.push(change(POLICY, Some("it".to_owned()), 20));
    history.policies_seen.push(change(POLICY, Some("it".to_owned()), 30));
    let plain = [(NEWEST, 51), (NEWEST, 52), (NEWEST, 53), (REFUSING, 61), (REFUSING, 62), (TELLING, 71)];
    history.publishings.extend(plain.map(|(queue, number)| put(queue, number, 4 * (number % 10))));
    history.publishings.push(Publishing { answers: vec![Answer::Refused], ..put(REFUSING, 63, 30) });
    history.transactions.push(Transaction { id: 9, asked: Some(90), outcome: Outcome::Info });
    for (queue, number) in [(TOLD, 73), ("to-1", 74)] {
        let unknown = Publishing { answers: Vec::new(), stayed: false, ..put(queue, number, 88) };
        history.publishings.push(Publishing { part_of: Some(9), ..unknown });
    }
    let last = [(NEWEST, 52), (NEWEST, 53), (REFUSING, 61), (REFUSING, 62), (REFUSED, 63), (TOLD, 71)];
    let last = last.map(|(queue, number)| at_the_end(queue, number));
    let rejected = Delivery { settled: settled(How::Rejected, 40), ..out(TELLING, 71, 0, 35) };
    for delivery in last.into_iter().chain([rejected]) {
        history.deliveries.insert(4, delivery);
    }
}

fn forget(it: &mut Script, number: u64) {
    it.0.deliveries.retain(|delivery| delivery.value != name(number) || !delivery.last);
}

/// 61 is acknowledged before 63 comes.
fn acknowledged(it: &mut Script) {
    forget(it, 61);
    it.0.deliveries.push(Delivery { settled: settled(How::Done, 25), ..out(REFUSING, 61, 0, 24) });
}

pub(super) const SEEDED: &[(QueueRule, &str, Seed)] = &[
    (QueueRule::OverLimit, "a limit is forgotten by a restart", |it| {
        it.0.deliveries.push(at_the_end(NEWEST, 51));
    }),
    (QueueRule::ConfirmedLost, "a limit drops the newest", |it| {
        forget(it, 53);
        it.0.deliveries.push(at_the_end(NEWEST, 51));
    }),
    (QueueRule::ConfirmedLost, "a limit drops more than is too much", |it| forget(it, 52)),
    (QueueRule::RefusedButThere, "a message is refused and enqueued", |it| {
        forget(it, 63);
        it.0.deliveries.push(at_the_end(REFUSING, 63));
    }),
    (QueueRule::RefusedLost, "the publisher hears of it before the letter is durable", |it| forget(it, 63)),
    (QueueRule::RefusedWithRoom, "an acknowledged message is still counted", acknowledged),
    (QueueRule::RefusedWithRoom, "a limit is in force that was taken away", |it| {
        let mut none = limit(REFUSING, Overflow::Refuse);
        (none.to.messages, none.began, none.ended) = (None, 20, 22);
        it.0.limits.push(none);
    }),
    (QueueRule::TakenBeyondLimit, "a limit is not kept", |it| {
        for number in [64, 65] {
            it.0.publishings.push(put(REFUSING, number, 10 * (number - 59)));
            it.0.deliveries.push(at_the_end(REFUSING, number));
        }
    }),
    (QueueRule::MovedUnasked, "a message that was taken goes where refused ones go", |it| {
        forget(it, 62);
        it.0.deliveries.push(at_the_end(REFUSED, 62));
    }),
    (QueueRule::PolicyWentBack, "a policy is forgotten", |it| it.0.policies_seen[0].to = None),
    (QueueRule::PolicyWentBack, "a policy that was taken away is there", |it| {
        it.0.policies.push(change(POLICY, None, 24));
    }),
    (QueueRule::ConfirmedLost, "a letter leaves its queue and does not get into the stream", |it| {
        forget(it, 71);
    }),
    (QueueRule::HalfCommitted, "a queue has its part of a transaction and a stream has not", |it| {
        it.0.deliveries.push(at_the_end("to-1", 74));
    }),
];

pub(super) const ALLOWED: &[(&str, Seed)] = &[
    ("what a full disk refuses says nothing of a limit", |it| {
        acknowledged(it);
        it.0.full.push(28..40);
    }),
    ("a policy that is being set is there or not", |it| {
        let mut change = change(POLICY, None, 24);
        change.outcome = Outcome::Info;
        it.0.policies.push(change);
    }),
    ("while a limit is being taken away it is there or not", |it| {
        let mut none = limit(REFUSING, Overflow::Refuse);
        (none.to.messages, none.began, none.ended) = (None, 29, 40);
        it.0.limits.push(none);
    }),
    ("what clients may have, unseen, is not ready", |it| {
        it.0.publishings.push(put(REFUSING, 64, 64));
        it.0.deliveries.push(at_the_end(REFUSING, 64));
    }),
    ("a refusal that nobody heard of leaves a letter or nothing", |it| {
        let unknown = it.0.publishings.iter_mut().find(|it| it.value == name(63)).unwrap();
        (unknown.answers, unknown.stayed) = (Vec::new(), false);
    }),
    ("a letter may be in a stream twice, and still where it was", |it| {
        it.0.deliveries.iter_mut().filter(|one| one.last).for_each(|one| one.no_ack = true);
        let [again, there] = [TOLD, TELLING].map(|queue| Delivery { no_ack: true, ..at_the_end(queue, 71) });
        it.0.deliveries.extend([again, there]);
    }),
    ("what was rejected before a crash is in the stream although it was done after it", |it| {
        let again =
            Delivery { redelivered: true, settled: settled(How::Done, 130), ..out(TELLING, 71, 1, 120) };
        it.0.deliveries.push(again);
    }),
    ("a stream has its part of a transaction before the rest is done", |it| {
        it.0.deliveries.push(at_the_end(TOLD, 73));
    }),
];

#[test]
fn what_is_refused_set_and_streamed_is_counted() {
    let enough = QueueExpectations { refused_min: 1, policies_min: 1, streamed_min: 1, ..Default::default() };
    assert_eq!(check(&good().0, &enough).rules(), []);
    for more in [
        QueueExpectations { refused_min: 2, ..enough },
        QueueExpectations { policies_min: 2, ..enough },
        QueueExpectations { streamed_min: 2, ..enough },
    ] {
        assert_eq!(check(&good().0, &more).rules(), [QueueRule::TooFew]);
    }
}
