//! Messages for several queues: what breaks when a copy is lost, doubled or taken for another.

use super::*;

const QUEUES: [&str; 2] = ["left", "right"];

fn name(number: u64) -> Value {
    Value::new("y", number)
}

/// 21 is done in one queue and there in the other; nobody knows whether 22 went anywhere.
pub(super) fn add(history: &mut QueueHistory) {
    let copies = |number, began| {
        QUEUES.map(|queue| Publishing {
            queue: queue.to_owned(),
            value: name(number),
            ..published(number, 0, began)
        })
    };
    history.publishings.extend(copies(21, 40));
    let unknown = copies(22, 42);
    let unknown = unknown.map(|copy| Publishing { answers: Vec::new(), stayed: false, ..copy });
    history.publishings.extend(unknown);
    let left = Delivery { settled: settled(How::Done, 46), ..out(0, 21, 0, 44) };
    let right = Delivery { redelivered: true, last: true, ..out(1, 21, 2, 214) };
    for delivery in [left, right] {
        history.deliveries.insert(4, delivery);
    }
}

fn out(queue: usize, number: u64, life: u32, at: u64) -> Delivery {
    Delivery { queue: QUEUES[queue].to_owned(), value: name(number), ..delivered(number, life, at) }
}

pub(super) const SEEDED: &[(QueueRule, &str, Seed)] = &[
    (QueueRule::ConfirmedLost, "the confirm comes when the first of the queues has it", |it| {
        it.0.deliveries.retain(|copy| copy.queue != QUEUES[1]);
    }),
    (QueueRule::UnackedLost, "an ack of one copy settles the other", |it| {
        it.0.publishings.iter_mut().filter(|copy| copy.value == name(21)).for_each(|copy| {
            copy.answers = vec![Answer::Refused];
        });
        let right = it.0.deliveries.iter_mut().find(|copy| copy.queue == QUEUES[1]).unwrap();
        *right = Delivery { let_go: Some(60), ..out(1, 21, 0, 50) };
    }),
    (QueueRule::Duplicated, "a queue that is bound twice gets two copies", |it| {
        it.0.deliveries.iter_mut().filter(|copy| copy.last).for_each(|copy| copy.no_ack = true);
        it.0.deliveries.push(Delivery { redelivered: true, last: true, no_ack: true, ..out(1, 21, 2, 290) });
    }),
    (QueueRule::AckedCameBack, "an ack of one copy is forgotten for the other's sake", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, let_go: Some(60), ..out(0, 21, 0, 50) });
    }),
    (
        QueueRule::ReturnedButThere,
        "a message that one of its queues refuses is returned and stays in the other",
        |it| {
            it.0.publishings.iter_mut().filter(|copy| copy.value == name(22)).for_each(|copy| {
                (copy.routable, copy.answers) = (false, vec![Answer::Returned]);
            });
            it.0.deliveries.push(Delivery { redelivered: true, last: true, ..out(1, 22, 2, 290) });
        },
    ),
];

pub(super) const ALLOWED: &[(&str, Seed)] = &[
    ("what nobody knows of is in one queue and not in the other", |it| {
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..out(1, 22, 2, 290) });
    }),
    ("one copy outlives its life and the other does not", |it| {
        it.0.publishings.push(Publishing { queue: QUEUES[0].to_owned(), ..published(23, 0, 47) });
        let right =
            Publishing { queue: QUEUES[1].to_owned(), survives: Survives::Nothing, ..published(23, 0, 47) };
        it.0.publishings.push(right);
        let last = Delivery { queue: QUEUES[0].to_owned(), ..delivered(23, 2, 295) };
        it.0.deliveries.push(Delivery { redelivered: true, last: true, ..last });
    }),
];

#[test]
fn messages_for_several_queues_are_counted() {
    let mut expected = QueueExpectations { copied_min: 1, ..QueueExpectations::default() };
    assert_eq!(check(&good().0, &expected).rules(), []);
    expected.copied_min = 2;
    assert_eq!(check(&good().0, &expected).rules(), [QueueRule::TooFew]);
}
