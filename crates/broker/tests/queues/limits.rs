//! How many messages a queue may have: what goes, what is refused, and that it is counted right.

use ferrymq_broker::queues::{Credit, Published, QueueError, Settle, Value, deliveries};

use crate::rig::{Rig, VHOST, bodies, durable, int, offsets, quiet, take};

const MIB: usize = 1024 * 1024;

fn refusing() -> (&'static str, Value) {
    ("x-overflow", Value::text("reject-publish"))
}

fn refused(published: &Published) -> Vec<usize> {
    published
        .failed
        .iter()
        .map(|(index, error)| {
            assert!(matches!(error, QueueError::Full { .. }), "{error}");
            *index
        })
        .collect()
}

async fn all(rig: &Rig, queue: &str) -> Vec<String> {
    rig.get_all(queue).await.into_iter().map(|(body, _)| body).collect()
}

#[tokio::test(start_paused = true)]
async fn the_oldest_go() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-length", int(3))]).await;
    rig.publish("q", &["a", "b", "c", "d", "e"]).await;
    assert_eq!(rig.stat(&queue).await.ready, 3);
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(2), &sink).await;
    let held = offsets(&take(&mut from, 2).await);
    rig.publish("q", &["f", "g", "h"]).await;
    let stat = rig.stat(&queue).await;
    assert_eq!((stat.ready, stat.unacked), (3, 2), "what somebody has does not count");
    // Given back, they are the oldest.
    let ended = rig.queues.session();
    assert_ne!(ended.id(), rig.session.id());
    rig.settle(&queue, &held[..1], Settle::Requeue).await;
    quiet().await;
    assert_eq!(bodies(&take(&mut from, 1).await), ["c"], "a consumer comes first");
    rig.settle(&queue, &held[1..], Settle::Ack).await;
    assert_eq!(bodies(&take(&mut from, 1).await), ["f"]);
    assert_eq!(all(&rig, "q").await, ["g", "h"]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_is_the_oldest() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-length", int(2))]).await;
    rig.publish("q", &["a"]).await;
    let held = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap();
    rig.publish("q", &["b", "c"]).await;
    rig.settle(&queue, &[held.delivery.offset.0], Settle::Requeue).await;
    assert_eq!(rig.ready(&queue).await, 2);
    assert_eq!(all(&rig, "q").await, ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn no_room_at_all_still_serves_who_is_there() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-length", int(0))]).await;
    rig.publish("q", &["a"]).await;
    assert_eq!(rig.ready(&queue).await, 0);
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(1), &sink).await;
    rig.publish("q", &["b", "c"]).await;
    assert_eq!(bodies(&take(&mut from, 1).await), ["b"]);
    assert_eq!(rig.ready(&queue).await, 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_those_of_bodies() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-length-bytes", int(10))]).await;
    rig.publish("q", &["aaaa", "bbbb", "cc"]).await;
    assert_eq!(rig.ready(&queue).await, 3);
    rig.publish("q", &["d"]).await;
    assert_eq!(all(&rig, "q").await, ["bbbb", "cc", "d"]);
    rig.publish("q", &["eeeeeeeeee"]).await;
    assert_eq!(rig.stat(&queue).await.ready, 1);
    rig.publish("q", &["too large for the queue"]).await;
    assert_eq!(rig.stat(&queue).await.ready, 0);
}

/// The oldest are not in memory: they are read to be dropped.
#[tokio::test(start_paused = true)]
async fn the_oldest_go_also_from_the_log() {
    let mut rig = Rig::tight(1).await;
    let limits = [("x-max-length", int(100))];
    let queue = rig.queue_with("q", &limits).await;
    let body = "x".repeat(5000);
    for _ in 0..20 {
        rig.publish("q", &vec![&*body; 20]).await;
        assert!(rig.ready(&queue).await <= 100);
    }
    rig.restart().await;
    let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
    assert_eq!(queue.stat.ready, 100);
    rig.publish("q", &["a", "b"]).await;
    assert_eq!(rig.ready(&queue.queue).await, 100);
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 100);
}

#[tokio::test(start_paused = true)]
async fn new_ones_are_refused_to_the_message() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-length", int(3)), refusing()]).await;
    rig.queue("other").await;
    // All of them before any is durable.
    let first = rig.queues.publish(rig.messages("q", &["a", "b"], true)).await;
    let second = rig.queues.publish(rig.messages("q", &["c", "d", "e"], false)).await;
    assert_eq!(refused(&first.await), [0usize; 0]);
    assert_eq!(refused(&second.await), [1, 2]);
    assert_eq!(rig.ready(&queue).await, 3);
    // One queue refuses and another takes it: the publisher is told that it is not everywhere.
    rig.exchange("both", ferrymq_broker::queues::ExchangeKind::Fanout).await;
    rig.bind("both", "q", "").await;
    rig.bind("both", "other", "").await;
    let mut messages = rig.messages("q", &["f"], true);
    messages[0].to = rig.route("both", "");
    assert_eq!(refused(&rig.queues.publish(messages).await.await), [0]);
    assert_eq!(all(&rig, "other").await, ["f"]);
    // What consumers hold makes room, and may come back.
    let held = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap().delivery.offset.0;
    assert_eq!(refused(&rig.publish_as("q", &["g", "h"], true).await), [1]);
    rig.settle(&queue, &[held], Settle::Requeue).await;
    assert_eq!(rig.ready(&queue).await, 4);
    assert_eq!(refused(&rig.publish_as("q", &["i"], true).await), [0]);
    assert_eq!(all(&rig, "q").await, ["a", "b", "c", "g"]);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_over_restarts() {
    for clean in [true, false] {
        let mut rig = Rig::new().await;
        let limits = [("x-max-length-bytes", int(100)), refusing()];
        let queue = rig.queue_with("q", &limits).await;
        let ten = "x".repeat(10);
        rig.publish("q", &[&*ten; 9]).await;
        rig.publish_as("q", &[&*ten], false).await;
        assert_eq!(refused(&rig.publish_as("q", &["y"], true).await), [0]);
        // Two in the middle are done, the first stays.
        for _ in 0..3 {
            rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap();
        }
        rig.settle(&queue, &[1, 2], Settle::Ack).await;
        quiet().await;
        if clean {
            rig.restart().await
        } else {
            rig.start().await
        }
        let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
        let bytes = queue.stat.ready * 10;
        let left = usize::try_from(100 - bytes).unwrap();
        assert_eq!(
            refused(&rig.publish_as("q", &[&*"z".repeat(left + 1)], true).await),
            [0],
            "clean {clean}"
        );
        assert_eq!(refused(&rig.publish_as("q", &[&*"z".repeat(left)], true).await), [0usize; 0]);
        assert_eq!(refused(&rig.publish_as("q", &["z"], true).await), [0]);
        assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), queue.stat.ready + 1);
        assert_eq!(refused(&rig.publish_as("q", &[&*"z".repeat(100)], true).await), [0usize; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_are_part_of_what_a_queue_is() {
    let rig = Rig::new().await;
    rig.queue_with("q", &[("x-max-length", int(3))]).await;
    // The default type is a type.
    let classic = ("x-queue-type", Value::text("classic"));
    rig.queue_with("q", &[("x-max-length", int(3)), classic]).await;
    let error = rig.queues.declare_queue(&rig.session, VHOST, durable("q")).await.unwrap_err();
    assert!(
        matches!(&error, QueueError::Inequivalent { property, .. } if property == "x-max-length"),
        "{error}"
    );
}
