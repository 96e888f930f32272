//! Dead letters: what breaks when a message that was rejected is lost, doubled or comes back on its way.

use super::*;

/// Where what is rejected in [`QUEUE`] goes.
const DEAD: &str = "dead";

fn letter(number: u64, life: u32, at: u64) -> Delivery {
    Delivery { queue: DEAD.to_owned(), ..delivered(number, life, at) }
}

/// 11 is rejected, and there as a dead letter in the end; 12 is rejected as life 0 ends and is still where it was.
pub(super) fn add(history: &mut QueueHistory) {
    history.letters.push(DeadLetters { source: QUEUE.to_owned(), target: DEAD.to_owned() });
    let of_another = |mut publishing: Publishing| {
        publishing.value.writer = "x".to_owned();
        publishing
    };
    history.publishings.extend([published(11, 0, 30), published(12, 0, 32)].map(of_another));
    let rejected =
        |number, at, sent| Delivery { settled: settled(How::Rejected, sent), ..delivered(number, 0, at) };
    let dead = Delivery { let_go: Some(99), ..letter(11, 0, 45) };
    let last = |delivery| Delivery { redelivered: true, last: true, ..delivery };
    let mine = [
        rejected(11, 35, 37),
        rejected(12, 36, 97),
        dead,
        last(letter(11, 2, 211)),
        last(delivered(12, 2, 212)),
    ];
    for mut delivery in mine {
        delivery.value.writer = "x".to_owned();
        history.deliveries.insert(4, delivery);
    }
}

/// The deliveries of a message, without those in its last reading.
fn forget(it: &mut Script, number: u64) {
    it.0.deliveries.retain(|delivery| delivery.value.number != number || !delivery.last);
}

fn push(it: &mut Script, mut delivery: Delivery) {
    delivery.value.writer = "x".to_owned();
    it.0.deliveries.push(delivery);
}

pub(super) const SEEDED: &[(QueueRule, &str, Seed)] = &[
    (QueueRule::ConfirmedLost, "a letter is done at its source before it is at its target", |it| {
        forget(it, 12);
        it.0.counts[1].found = Some((2, 0));
    }),
    (QueueRule::ConfirmedLost, "the target forgets a letter that was held there", |it| forget(it, 11)),
    (QueueRule::Duplicated, "a letter is at its target before it is done at its source", |it| {
        it.0.deliveries.iter_mut().filter(|one| one.last).for_each(|one| one.no_ack = true);
        push(it, Delivery { redelivered: true, last: true, no_ack: true, ..letter(12, 2, 290) });
    }),
    (QueueRule::Duplicated, "a letter is moved twice", |it| {
        let mut again = Delivery { redelivered: true, last: true, channel: 9, ..letter(11, 2, 290) };
        again.let_go = Some(290);
        it.0.deliveries.iter_mut().filter(|one| one.last).for_each(|one| one.let_go = Some(one.at));
        push(it, again);
    }),
    (QueueRule::MovedUnasked, "what a dead consumer held is taken for rejected", |it| {
        let six = it.0.deliveries.iter_mut().find(|six| six.value.number == 6 && six.last).unwrap();
        DEAD.clone_into(&mut six.queue);
        it.0.counts[1].found = Some((2, 0));
    }),
    (QueueRule::MovedCameBack, "a crash forgets that a letter left its source", |it| {
        let no_ack = Delivery { redelivered: true, let_go: Some(150), ..delivered(11, 1, 150) };
        push(it, no_ack);
    }),
    (QueueRule::MovedCameBack, "a rejection is put back though its copy went on", |it| {
        it.0.deliveries.iter_mut().filter(|it| it.value.number == 11).for_each(|it| {
            if let Some(settled) = &mut it.settled {
                settled.vouched = None;
            }
            it.let_go = it.let_go.map(|_| 46);
        });
        push(it, Delivery { redelivered: true, let_go: Some(60), ..delivered(11, 0, 50) });
    }),
    (QueueRule::AckedCameBack, "a rejection is not obeyed", |it| {
        let again = Delivery { redelivered: true, let_go: Some(41), ..delivered(11, 0, 40) };
        push(it, again);
    }),
    (QueueRule::AckedCameBack, "what was acknowledged is made a letter", |it| {
        push(it, Delivery { redelivered: true, let_go: Some(34), ..delivered(13, 0, 33) });
        let mut thirteen = published(13, 0, 31);
        thirteen.value.writer = "x".to_owned();
        it.0.publishings.push(thirteen);
        // Rejected by one whose channel was lost, then acknowledged by the next, and a letter all the same.
        it.0.deliveries.last_mut().unwrap().settled =
            Some(Settled { how: How::Rejected, sent: 34, vouched: None, part_of: None });
        let acked = Delivery { redelivered: true, settled: settled(How::Done, 50), ..delivered(13, 0, 48) };
        push(it, acked);
        push(it, Delivery { let_go: Some(61), ..letter(13, 0, 60) });
    }),
    (QueueRule::DeliveredWhileHeld, "a letter goes to two consumers", |it| {
        push(it, Delivery { redelivered: true, let_go: Some(49), channel: 7, ..letter(11, 0, 48) });
    }),
    (QueueRule::Unmarked, "the mark of a letter is forgotten by a crash", |it| {
        let last = it.0.deliveries.iter_mut().find(|it| it.queue == DEAD && it.last).unwrap();
        last.redelivered = false;
    }),
    (QueueRule::Outlived, "a transient letter is stored", |it| {
        it.publishing(11).survives = Survives::Nothing
    }),
];

pub(super) const ALLOWED: &[(&str, Seed)] = &[
    ("what was rejected when a life ended is a letter in the next", |it| {
        forget(it, 12);
        it.0.counts[1].found = Some((2, 0));
        push(it, Delivery { redelivered: true, last: true, ..letter(12, 2, 290) });
    }),
    ("what is rejected is back in its queue after a crash, and then goes on", |it| {
        forget(it, 12);
        it.0.counts[1].found = Some((2, 0));
        push(
            it,
            Delivery { redelivered: true, settled: settled(How::Rejected, 155), ..delivered(12, 1, 150) },
        );
        push(it, Delivery { redelivered: true, last: true, ..letter(12, 2, 290) });
    }),
    ("letters come in another order", |it| {
        let mut early = published(10, 0, 29);
        early.value.writer = "x".to_owned();
        it.0.publishings.push(early);
        push(it, Delivery { settled: settled(How::Rejected, 50), ..delivered(10, 0, 34) });
        push(it, Delivery { settled: settled(How::Done, 70), ..letter(10, 0, 60) });
    }),
    ("a letter that is done is gone", |it| {
        forget(it, 11);
        let dead = it.0.deliveries.iter_mut().find(|it| it.queue == DEAD).unwrap();
        (dead.settled, dead.let_go) = (settled(How::Done, 46), None);
    }),
];

#[test]
fn letters_are_counted() {
    let mut expected = QueueExpectations { letters_min: 3, ..QueueExpectations::default() };
    assert_eq!(check(&good().0, &expected).rules(), []);
    expected.letters_min = 4;
    assert_eq!(check(&good().0, &expected).rules(), [QueueRule::TooFew]);
}
