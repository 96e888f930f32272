//! Who gets which message: priorities of consumers, one consumer at a time, failures and their limit.

use ferrymq_broker::queues::{
    Credit, DeleteIf, NewConsumer, QueueError, QueueHandle, QueueSpec, Settle, Value, Width, deliveries,
};
use ferrymq_types::Offset;

use crate::rig::{Rig, VHOST, arguments, bodies, body, durable, offsets, quiet, take};

const MIB: usize = 1024 * 1024;

/// A queue with arguments.
async fn queue(rig: &Rig, list: &[(&str, Value)]) -> QueueHandle {
    rig.declare(QueueSpec { arguments: arguments(list), ..durable("q") }).await.queue
}

fn quorum() -> (&'static str, Value) {
    ("x-queue-type", Value::text("quorum"))
}

fn single() -> (&'static str, Value) {
    ("x-single-active-consumer", Value::Bool(true))
}

fn limit(limit: i64) -> (&'static str, Value) {
    ("x-delivery-limit", Value::Int(limit, Width::I32))
}

fn with_priority(token: u64, priority: i64, window: u32) -> NewConsumer {
    NewConsumer { priority, ..NewConsumer::new(token, Credit::Window(window)) }
}

/// Takes the first message and does this with it; its body and how often it was returned and failed.
async fn get_and(rig: &Rig, queue: &QueueHandle, how: Settle) -> Option<(String, u16, Option<u16>)> {
    let got = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap()?;
    rig.settle(queue, &[got.delivery.offset.0], how).await;
    Some((body(&got.delivery), got.delivery.returned, got.delivery.failed))
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_come_first_and_hold_up_nobody() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut all) = deliveries(MIB);
    for (token, priority) in [(1, 0), (2, 5), (3, 5), (4, -3)] {
        rig.consume_as("q", with_priority(token, priority, 2), &sink).await;
    }
    rig.publish("q", &["a", "b", "c", "d", "e", "f", "g", "h", "i"]).await;
    let got = take(&mut all, 8).await;
    let of = |token: u64| -> Vec<u64> {
        got.iter().filter(|delivery| delivery.token == token).map(|delivery| delivery.offset.0).collect()
    };
    // Equals take turns; who has no room left is passed over.
    assert_eq!([of(2), of(3), of(1), of(4)], [[0, 2], [1, 3], [4, 5], [6, 7]]);
    rig.settle(&queue, &[7], Settle::Ack).await;
    assert_eq!(take(&mut all, 1).await[0].token, 4, "the only one that can take it");
    rig.publish("q", &["j"]).await;
    rig.settle(&queue, &[4, 0], Settle::Ack).await;
    assert_eq!(take(&mut all, 1).await[0].token, 2, "both have room, one is preferred");
}

/// A consumer whose client does not read has no room; lower ones go on.
#[tokio::test(start_paused = true)]
async fn a_full_sink_holds_up_nobody_either() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let (narrow, mut first) = deliveries(1);
    let (wide, mut second) = deliveries(MIB);
    rig.consume_as("q", NewConsumer { priority: 9, ..NewConsumer::new(1, Credit::Unlimited) }, &narrow).await;
    rig.consume_as("q", with_priority(2, 0, 10), &wide).await;
    rig.publish("q", &["a", "b", "c"]).await;
    assert_eq!(bodies(&take(&mut second, 2).await), ["b", "c"]);
    assert_eq!(bodies(&take(&mut first, 1).await), ["a"]);
    rig.publish("q", &["d"]).await;
    assert_eq!(bodies(&take(&mut first, 1).await), ["d"], "there is room again, and it comes first");
}

#[tokio::test(start_paused = true)]
async fn one_consumer_at_a_time_and_the_next_goes_on_in_order() {
    let rig = Rig::new().await;
    let queue = queue(&rig, &[single()]).await;
    let (sink, mut all) = deliveries(MIB);
    let sessions = [rig.queues.session(), rig.queues.session(), rig.queues.session()];
    let mut consumers = Vec::new();
    for (token, session) in (1..).zip(&sessions) {
        let new = with_priority(token, i64::try_from(token).unwrap() % 2, 3);
        consumers.push(rig.queues.consume(session, VHOST, "q", new, &sink).await.unwrap());
    }
    rig.publish("q", &["a", "b", "c", "d", "e"]).await;
    let got = take(&mut all, 3).await;
    assert!(got.iter().all(|delivery| delivery.token == 1), "the first, though it is slow");
    quiet().await;
    assert!(all.try_recv().is_none(), "nobody else gets anything");
    rig.queues.settle(&sessions[0], &queue, vec![(Offset(1), Settle::Ack)]).await;
    assert_eq!(offsets(&take(&mut all, 1).await), [3]);
    let [first, second, third] = sessions;
    first.close().await;
    // The third has a higher priority than the second. What comes back comes first, and is marked.
    let got = take(&mut all, 3).await;
    assert!(got.iter().all(|delivery| delivery.token == 3));
    assert_eq!(offsets(&got), [0, 2, 3]);
    assert!(got.iter().all(|delivery| delivery.redelivered));
    rig.queues.cancel(&third, &consumers[2]).await.unwrap();
    // A cancelled one keeps what it has.
    let got = take(&mut all, 1).await;
    assert_eq!((got[0].token, got[0].offset.0, got[0].redelivered), (2, 4, false));
    assert_eq!(rig.stat(&queue).await.unacked, 4);
    second.close().await;
}

#[tokio::test(start_paused = true)]
async fn in_a_quorum_queue_a_higher_priority_takes_over_when_everything_is_settled() {
    let rig = Rig::new().await;
    let queue = queue(&rig, &[single(), quorum()]).await;
    let (sink, mut all) = deliveries(MIB);
    rig.consume_as("q", with_priority(1, 0, 2), &sink).await;
    rig.publish("q", &["a", "b", "c", "d"]).await;
    assert_eq!(offsets(&take(&mut all, 2).await), [0, 1]);
    let second = rig.consume_as("q", with_priority(2, 7, 10), &sink).await;
    rig.settle(&queue, &[0], Settle::Ack).await;
    quiet().await;
    assert!(all.try_recv().is_none(), "the old one gets nothing more, the new one nothing yet");
    rig.settle(&queue, &[1], Settle::Requeue).await;
    let got = take(&mut all, 3).await;
    assert!(got.iter().all(|delivery| delivery.token == 2));
    assert_eq!(offsets(&got), [1, 2, 3]);
    // It waits again and has its turn when the other is gone.
    rig.queues.cancel(&rig.session, &second).await.unwrap();
    rig.publish("q", &["e"]).await;
    assert_eq!(take(&mut all, 1).await[0].token, 1);
}

/// RabbitMQ's classic queues leave the first in place.
#[tokio::test(start_paused = true)]
async fn in_a_classic_queue_the_one_that_has_it_keeps_it() {
    let rig = Rig::new().await;
    queue(&rig, &[single()]).await;
    let (sink, mut all) = deliveries(MIB);
    rig.consume_as("q", with_priority(1, 0, 20), &sink).await;
    rig.consume_as("q", with_priority(2, 7, 20), &sink).await;
    rig.publish("q", &["a", "b"]).await;
    assert!(take(&mut all, 2).await.iter().all(|delivery| delivery.token == 1));
}

#[tokio::test(start_paused = true)]
async fn what_one_at_a_time_excludes() {
    let rig = Rig::new().await;
    queue(&rig, &[single(), quorum()]).await;
    let (sink, _all) = deliveries(MIB);
    let exclusive = NewConsumer { exclusive: true, ..with_priority(1, 0, 1) };
    let refused = rig.queues.consume(&rig.session, VHOST, "q", exclusive, &sink).await;
    assert!(matches!(refused, Err(QueueError::ExclusiveConsumer { .. })), "even as the first");
    let refused = rig.queues.get(&rig.session, VHOST, "q", true).await;
    assert!(matches!(refused, Err(QueueError::SingleActive { .. })));
    rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    queue(&rig, &[single()]).await;
    assert!(
        rig.queues.get(&rig.session, VHOST, "q", true).await.unwrap().is_none(),
        "a classic queue lets one"
    );
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_and_limited() {
    let rig = Rig::new().await;
    let queue = queue(&rig, &[quorum(), limit(2)]).await;
    rig.publish("q", &["a", "b"]).await;
    let got = |body: &str, returned, failed| Some((body.to_owned(), returned, Some(failed)));
    assert_eq!(get_and(&rig, &queue, Settle::Fail).await, got("a", 0, 0));
    for returned in 1..30 {
        assert_eq!(get_and(&rig, &queue, Settle::Requeue).await, got("a", returned, 1), "that is no failure");
    }
    assert_eq!(get_and(&rig, &queue, Settle::Fail).await, got("a", 30, 1));
    assert_eq!(get_and(&rig, &queue, Settle::Fail).await, got("a", 31, 2));
    assert_eq!(get_and(&rig, &queue, Settle::Ack).await, got("b", 0, 0), "the third was once too often");
    assert_eq!(rig.stat(&queue).await.ready + rig.stat(&queue).await.unacked, 0);
    quiet().await;
    assert_eq!(rig.get_all("q").await, []);
}

/// What a session had and did not settle failed, however it ended.
#[tokio::test(start_paused = true)]
async fn a_session_that_ends_failed_on_what_it_had() {
    let mut rig = Rig::new().await;
    queue(&rig, &[quorum(), limit(1)]).await;
    rig.publish("q", &["a", "b"]).await;
    for round in 0..2 {
        let session = rig.queues.session();
        let got = rig.queues.get(&session, VHOST, "q", false).await.unwrap().unwrap();
        assert_eq!((body(&got.delivery).as_str(), got.delivery.failed), ("a", Some(round)));
        session.close().await;
    }
    let session = rig.queues.session();
    let got = rig.queues.get(&session, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!(body(&got.delivery), "b");
    session.close().await;
    // Counts survive a crash as acks do; the crash itself counts nothing.
    quiet().await;
    rig.start().await;
    let got = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!((body(&got.delivery).as_str(), got.delivery.returned, got.delivery.failed), ("b", 1, Some(1)));
    rig.restart().await;
    let got = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!((body(&got.delivery).as_str(), got.delivery.failed), ("b", Some(1)));
    rig.settle(&got.queue, &[got.delivery.offset.0], Settle::Fail).await;
    quiet().await;
    rig.start().await;
    assert_eq!(rig.get_all("q").await, [], "it was discarded, durably");
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_twenty_and_can_be_taken_away() {
    for (given, deliveries) in [(None, 21), (Some(-1), 100)] {
        let rig = Rig::new().await;
        let list: Vec<_> = std::iter::once(quorum()).chain(given.map(limit)).collect();
        let queue = queue(&rig, &list).await;
        rig.publish("q", &["a"]).await;
        let mut times = 0;
        while times < 100 && get_and(&rig, &queue, Settle::Fail).await.is_some() {
            times += 1;
        }
        assert_eq!(times, deliveries);
    }
    // Classic queues neither count nor limit.
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["a"]).await;
    for returned in 0..100 {
        assert_eq!(get_and(&rig, &queue, Settle::Fail).await, Some(("a".to_owned(), returned, None)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_declaration_must_say_the_same_again() {
    let rig = Rig::new().await;
    queue(&rig, &[quorum(), single(), limit(3)]).await;
    for other in [&[quorum(), single()][..], &[quorum(), limit(3)], &[quorum(), single(), limit(4)]] {
        let spec = QueueSpec { arguments: arguments(other), ..durable("q") };
        let refused = rig.queues.declare_queue(&rig.session, VHOST, spec).await;
        assert!(matches!(refused, Err(QueueError::Inequivalent { .. })), "{refused:?}");
    }
}
