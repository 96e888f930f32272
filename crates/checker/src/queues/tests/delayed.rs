//! Messages that an exchange keeps back: what breaks when one comes early, twice or never.

use super::*;

const LATE: &str = "late";

fn named(mut publishing: Publishing) -> Publishing {
    LATE.clone_into(&mut publishing.queue);
    "d".clone_into(&mut publishing.value.writer);
    publishing
}

fn out(number: u64, life: u32, at: u64) -> Delivery {
    let value = Value::new("d", number);
    Delivery { queue: LATE.to_owned(), value, ..delivered(number, life, at) }
}

/// 51 is due at 60 and done then, 52 is due in the next life and there in the end; 53 is published to the queue itself.
pub(super) fn add(history: &mut QueueHistory) {
    let due = |number, due| named(Publishing { due: Some(due), ..published(number, 0, 20 + number - 50) });
    history.publishings.extend([due(51, 60), due(52, 120), named(published(53, 0, 23))]);
    let done = Delivery { settled: settled(How::Done, 64), ..out(51, 0, 62) };
    let last = |number| Delivery { redelivered: true, last: true, ..out(number, 2, 300 - number) };
    for delivery in [done, last(52), last(53)] {
        history.deliveries.insert(4, delivery);
    }
}

pub(super) const SEEDED: &[(QueueRule, &str, Seed)] = &[
    (QueueRule::TooEarly, "a restart takes a message for due", |it| {
        it.0.deliveries.push(Delivery { let_go: Some(112), ..out(52, 1, 110) });
    }),
    (QueueRule::ConfirmedLost, "a restart forgets what is not due", |it| {
        it.0.deliveries.retain(|delivery| delivery.value != Value::new("d", 52));
    }),
    (QueueRule::Duplicated, "a message goes on and is due again", |it| {
        it.0.deliveries.iter_mut().filter(|it| it.last).for_each(|it| it.no_ack = true);
        it.0.deliveries.push(Delivery { redelivered: true, last: true, no_ack: true, ..out(52, 2, 290) });
    }),
    (QueueRule::Unmarked, "a message goes on twice in one life", |it| {
        let first = |at, channel| Delivery { channel, let_go: Some(at + 1), ..out(52, 1, at) };
        it.0.deliveries.extend([first(130, 1), first(140, 7)]);
    }),
];

pub(super) const ALLOWED: &[(&str, Seed)] = &[("what is due later comes first", |it| {
    it.0.publishings.push(named(Publishing { due: Some(65), ..published(50, 0, 19) }));
    it.0.deliveries.push(Delivery { settled: settled(How::Done, 80), ..out(50, 0, 75) });
})];

#[test]
fn what_is_kept_back_is_counted() {
    let mut expected = QueueExpectations { delayed_min: 2, ..QueueExpectations::default() };
    assert_eq!(check(&good().0, &expected).rules(), []);
    expected.delayed_min = 3;
    assert_eq!(check(&good().0, &expected).rules(), [QueueRule::TooFew]);
}
