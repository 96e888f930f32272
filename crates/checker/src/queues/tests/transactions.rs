//! Transactions: what breaks when one happens in part, too early, or after it was rolled back.

use super::*;

const FROM: &str = "from";
const TO: [&str; 2] = ["to-1", "to-2"];

fn name(number: u64) -> Value {
    Value::new("t", number)
}

fn put(queue: &str, number: u64, began: u64, part_of: Option<u64>) -> Publishing {
    Publishing { queue: queue.to_owned(), value: name(number), part_of, ..published(number, 0, began) }
}

fn out(queue: &str, number: u64, life: u32, at: u64) -> Delivery {
    Delivery { queue: queue.to_owned(), value: name(number), ..delivered(number, life, at) }
}

fn at_the_end(queue: &str, number: u64) -> Delivery {
    Delivery { redelivered: true, last: true, ..out(queue, number, 2, 250 + number) }
}

fn acked(number: u64, at: u64, part_of: u64, vouched: Option<u64>) -> Delivery {
    let settled = Some(Settled { how: How::Done, sent: at + 1, vouched, part_of: Some(part_of) });
    Delivery { settled, ..out(FROM, number, 0, at) }
}

/// 31, 32 and 33 are acknowledged in transactions that publish 41 and 42, 43 and 44, 45 and 46: 1 is committed, 2 rolled
/// back, and of 3 nobody knows the end; it did not happen.
pub(super) fn add(history: &mut QueueHistory) {
    // What a transaction acknowledges is durable over a topic, too.
    history.publishings.extend((31..=33).map(|number| put(FROM, number, number - 20, None)));
    for (id, outcome) in (1..).zip([Outcome::Ok, Outcome::Fail, Outcome::Info]) {
        let ended = id * 10 + 28;
        history.transactions.push(Transaction { id, asked: Some(ended - 2), outcome });
        for (index, queue) in (0..).zip(TO) {
            let mut copy = put(queue, 39 + 2 * id + index, ended - 4, Some(id));
            copy.ended = ended;
            if id != 1 {
                (copy.answers, copy.stayed) = (Vec::new(), false);
            }
            history.publishings.push(copy);
        }
    }
    let mine = [
        acked(31, 20, 1, Some(38)),
        Delivery { let_go: Some(60), ..out(FROM, 32, 0, 21) },
        Delivery { let_go: Some(70), ..acked(33, 22, 3, None) },
        at_the_end(FROM, 32),
        at_the_end(FROM, 33),
        at_the_end(TO[0], 41),
        at_the_end(TO[1], 42),
    ];
    for delivery in mine {
        history.deliveries.insert(4, delivery);
    }
}

fn forget(it: &mut Script, number: u64) {
    it.0.deliveries.retain(|delivery| delivery.value != name(number) || !delivery.last);
}

/// All that was asked for in the third happened.
fn happened(it: &mut Script) {
    forget(it, 33);
    it.0.deliveries.extend([at_the_end(TO[0], 45), at_the_end(TO[1], 46)]);
}

pub(super) const SEEDED: &[(QueueRule, &str, Seed)] = &[
    (QueueRule::HalfCommitted, "one queue has its message and the other has not", |it| {
        happened(it);
        forget(it, 46);
    }),
    (QueueRule::HalfCommitted, "messages are written before what is settled", |it| {
        happened(it);
        it.0.deliveries.push(at_the_end(FROM, 33));
    }),
    (QueueRule::HalfCommitted, "what is settled is written before the messages", |it| forget(it, 33)),
    (QueueRule::ConfirmedLost, "half of what was committed is gone after a crash", |it| forget(it, 42)),
    (QueueRule::AckedCameBack, "an ack of a transaction waits for another commit", |it| {
        it.0.deliveries.push(at_the_end(FROM, 31));
    }),
    (QueueRule::Uncommitted, "what was rolled back is there", |it| {
        it.0.deliveries.push(at_the_end(TO[0], 43));
    }),
    (QueueRule::Uncommitted, "a message does not wait for its transaction", |it| {
        it.0.deliveries.push(Delivery { let_go: Some(60), ..out(TO[0], 41, 0, 35) });
    }),
    (QueueRule::ConfirmedLost, "a rollback forgets what was settled", |it| forget(it, 32)),
    (QueueRule::DeliveredWhileHeld, "a rollback gives back what was settled", |it| {
        it.0.deliveries.push(Delivery {
            redelivered: true,
            channel: 7,
            let_go: Some(59),
            ..out(FROM, 32, 0, 52)
        });
    }),
    (QueueRule::BadHistory, "none: the test does not say how a transaction ended", |it| {
        it.0.transactions.pop();
    }),
];

pub(super) const ALLOWED: &[(&str, Seed)] = &[
    ("a transaction of which nobody knows the end happened", happened),
    ("a transient message of one says nothing", |it| {
        happened(it);
        forget(it, 46);
        it.0.publishings.iter_mut().find(|it| it.value == name(46)).unwrap().survives = Survives::Nothing;
    }),
    ("what was taken while its life ended says nothing", |it| {
        happened(it);
        let late = Delivery { redelivered: true, channel: 7, let_go: Some(102), ..out(FROM, 33, 0, 101) };
        it.0.deliveries.push(late);
    }),
];

#[test]
fn transactions_are_counted() {
    let mut expected = QueueExpectations { transactions_min: 1, ..QueueExpectations::default() };
    assert_eq!(check(&good().0, &expected).rules(), []);
    expected.transactions_min = 2;
    assert_eq!(check(&good().0, &expected).rules(), [QueueRule::TooFew]);
}
