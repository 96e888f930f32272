//! Priorities of messages: what order they come in, what becomes of what does not fit.

use ferrymq_broker::queues::{
    Credit, Message, NewConsumer, Publish, QueueError, QueueSpec, Settle, Value, deliveries,
};
use ferrymq_storage::ErrorKind;
use ferrymq_types::{LogId, Offset};
use futures_util::FutureExt as _;

use crate::letters::dead_lettering;
use crate::rig::{
    Rig, arguments, bodies, body, commit, counts, durable, got, int, message, offsets, pass, quiet, settling,
    staged, take,
};
use crate::staged::Fate;

const MIB: usize = 1024 * 1024;

pub(crate) fn prioritized(name: &str, max: i64) -> QueueSpec {
    QueueSpec { arguments: arguments(&[("x-max-priority", int(max))]), ..durable(name) }
}

fn quorum(name: &str) -> QueueSpec {
    QueueSpec { arguments: arguments(&[("x-queue-type", Value::text("quorum"))]), ..durable(name) }
}

pub(crate) fn with(rig: &Rig, queue: &str, body: &str, priority: Option<u8>) -> Publish {
    Publish { message: Message { priority, ..message(queue, body, true) }, to: rig.route("", queue) }
}

/// Publishes messages with these priorities and waits.
pub(crate) async fn publish(rig: &Rig, queue: &str, all: &[(&str, Option<u8>)]) {
    let all = all.iter().map(|(body, priority)| with(rig, queue, body, *priority)).collect();
    let published = rig.queues.publish(all).await.await;
    assert!(published.failed.is_empty(), "{:?}", published.failed);
}

pub(crate) async fn all(rig: &Rig, queue: &str) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(body) = rig.get(queue).await {
        all.push(body);
    }
    all
}

/// The logs that a durable queue's record names, but for its own.
pub(crate) async fn levels(rig: &Rig, queue: &str) -> Vec<(u64, LogId)> {
    let entry = rig.meta.get(&format!("queues/%2F/{queue}")).await.unwrap().expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    let levels = record["levels"].as_array().cloned().unwrap_or_default();
    levels.iter().map(|level| (level[0].as_u64().unwrap(), LogId(level[1].as_u64().unwrap()))).collect()
}

#[tokio::test(start_paused = true)]
async fn the_highest_goes_first_and_equals_in_turn() {
    let mut rig = Rig::new().await;
    rig.declare(prioritized("classic", 5)).await;
    rig.declare(prioritized("two", 0)).await;
    rig.declare(quorum("quorum")).await;
    rig.queue("none").await;
    let sent = [
        ("none", None),
        ("0", Some(0)),
        ("1", Some(1)),
        ("5", Some(5)),
        ("200", Some(200)),
        ("4", Some(4)),
        ("3", Some(3)),
        ("5 again", Some(5)),
        ("none again", None),
    ];
    for queue in ["classic", "two", "quorum", "none"] {
        publish(&rig, queue, &sent).await;
    }
    // After a restart, too.
    rig.start().await;
    // What is above the highest counts as that, and none as 0.
    let classic = ["5", "200", "5 again", "4", "3", "1", "none", "0", "none again"];
    assert_eq!(all(&rig, "classic").await, classic);
    // As in RabbitMQ, a queue with a highest priority of 0 has two.
    let two = ["1", "5", "200", "4", "3", "5 again", "none", "0", "none again"];
    assert_eq!(all(&rig, "two").await, two);
    // In quorum queues, none counts as 4.
    let quorum = ["200", "5", "5 again", "none", "4", "none again", "3", "1", "0"];
    assert_eq!(all(&rig, "quorum").await, quorum);
    assert_eq!(all(&rig, "none").await, sent.map(|(body, _)| body));
    assert!(levels(&rig, "none").await.is_empty(), "a queue without priorities has one log");
    let mut used: Vec<u64> = levels(&rig, "quorum").await.iter().map(|(priority, _)| *priority).collect();
    used.sort_unstable();
    assert_eq!(used, [0, 1, 3, 5, 31], "only priorities that were used have a log");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_sent_the_highest_that_is_there() {
    let rig = Rig::new().await;
    let queue = rig.declare(prioritized("q", 9)).await.queue;
    publish(&rig, "q", &[("low 1", None), ("mid", Some(4)), ("low 2", Some(0)), ("high", Some(9))]).await;
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(2), &sink).await;
    let first = take(&mut from, 2).await;
    assert_eq!(bodies(&first), ["high", "mid"]);
    assert_eq!(rig.stat(&queue).await.ready, 2);
    publish(&rig, "q", &[("late", Some(1))]).await;
    // Given back, each is at its old place again.
    rig.settle(&queue, &offsets(&first), Settle::Requeue).await;
    let second = take(&mut from, 2).await;
    assert_eq!(bodies(&second), ["high", "mid"]);
    assert!(second.iter().all(|delivery| delivery.redelivered && delivery.returned == 1));
    rig.settle(&queue, &offsets(&second), Settle::Ack).await;
    let third = take(&mut from, 2).await;
    assert_eq!(bodies(&third), ["late", "low 1"]);
    assert!(third.iter().all(|delivery| !delivery.redelivered));
}

/// What came back goes before everything else in a quorum queue, as in RabbitMQ; of that, the highest first.
#[tokio::test(start_paused = true)]
async fn what_came_back_goes_first_in_quorum_queues() {
    let rig = Rig::new().await;
    let queue = rig.declare(quorum("q")).await.queue;
    publish(&rig, "q", &[("low", Some(0)), ("default", None)]).await;
    let held = [got(&rig, "q").await, got(&rig, "q").await];
    assert_eq!(held.each_ref().map(|got| body(&got.delivery)), ["default", "low"]);
    publish(&rig, "q", &[("high", Some(31))]).await;
    let held = held.map(|got| got.delivery.offset.0);
    rig.settle(&queue, &held, Settle::Requeue).await;
    assert_eq!(all(&rig, "q").await, ["default", "low", "high"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_on_each_level() {
    let rig = Rig::new().await;
    let list = [("x-queue-type", Value::text("quorum")), ("x-delivery-limit", int(1))];
    let queue = rig.queue_with("q", &list).await;
    publish(&rig, "q", &[("high", Some(9)), ("low", Some(1))]).await;
    for failed in 0..2 {
        let held = [got(&rig, "q").await, got(&rig, "q").await];
        assert!(held.iter().all(|got| got.delivery.failed == Some(failed)), "{held:?}");
        for got in &held {
            rig.settle(&queue, &[got.delivery.offset.0], Settle::Fail).await;
        }
    }
    quiet().await;
    assert_eq!(rig.stat(&queue).await, counts(0, 0));
}

/// The head goes where there are too many: that is the highest, as in RabbitMQ.
#[tokio::test(start_paused = true)]
async fn limits_count_all_levels() {
    let rig = Rig::new().await;
    let limited = |name: &str, more: &[(&'static str, Value)]| {
        let list = [&[("x-max-priority", int(5))], more].concat();
        QueueSpec { arguments: arguments(&list), ..durable(name) }
    };
    rig.declare(limited("heads", &[("x-max-length", int(2))])).await;
    publish(&rig, "heads", &[("low", None), ("high 1", Some(5)), ("high 2", Some(5))]).await;
    publish(&rig, "heads", &[("mid", Some(2))]).await;
    quiet().await;
    assert_eq!(all(&rig, "heads").await, ["mid", "low"]);
    let refuses = [("x-max-length", int(2)), ("x-overflow", Value::text("reject-publish"))];
    rig.declare(limited("refuses", &refuses)).await;
    publish(&rig, "refuses", &[("low", None), ("high", Some(5))]).await;
    let more = vec![with(&rig, "refuses", "more", Some(3))];
    let published = rig.queues.publish(more.clone()).await.await;
    assert!(matches!(published.failed[..], [(0, QueueError::Full { .. })]), "{published:?}");
    let refused = commit(&rig, more, Vec::new()).await;
    assert!(matches!(refused, Err(QueueError::Full { .. })), "{refused:?}");
    rig.declare(limited("bytes", &[("x-max-length-bytes", int(10))])).await;
    publish(&rig, "bytes", &[("low low", None), ("high", Some(5)), ("mid", Some(2))]).await;
    quiet().await;
    assert_eq!(all(&rig, "bytes").await, ["mid", "low low"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_goes_from_the_head_of_the_queue_or_of_each_level() {
    let rig = Rig::new().await;
    let classic = rig.declare(prioritized("classic", 5)).await.queue;
    let quorum = rig.declare(quorum("quorum")).await.queue;
    for queue in ["classic", "quorum"] {
        let mut short = with(&rig, queue, "short", Some(1));
        short.message.ttl_ms = Some(10);
        let stays = with(&rig, queue, "stays", Some(5));
        let published = rig.queues.publish(vec![short, stays]).await.await;
        assert!(published.failed.is_empty(), "{published:?}");
    }
    pass(12).await;
    assert_eq!(rig.stat(&classic).await.ready, 2, "behind one that may stay it waits");
    assert_eq!(rig.stat(&quorum).await.ready, 1, "each priority has a head");
    for queue in ["classic", "quorum"] {
        assert_eq!(all(&rig, queue).await, ["stays"]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_consumer_at_a_time_gets_the_highest_first() {
    let rig = Rig::new().await;
    let list = [("x-max-priority", int(5)), ("x-single-active-consumer", Value::Bool(true))];
    let queue = rig.queue_with("q", &list).await;
    let (sink, mut from) = deliveries(MIB);
    let one = |token| NewConsumer::new(token, Credit::Window(1));
    rig.consume_as("q", one(1), &sink).await;
    rig.consume_as("q", one(2), &sink).await;
    publish(&rig, "q", &[("low", None), ("high", Some(5)), ("mid", Some(3))]).await;
    for expected in ["high", "mid", "low"] {
        let got = take(&mut from, 1).await;
        assert_eq!((got[0].token, body(&got[0])), (1, expected.to_owned()));
        rig.settle(&queue, &offsets(&got), Settle::Ack).await;
    }
    assert_eq!(rig.stat(&queue).await.unacked, 0);
}

#[tokio::test(start_paused = true)]
async fn transactions_and_dead_letters_know_levels() {
    let mut rig = Rig::new().await;
    let list =
        [&dead_lettering("a", "", "b").arguments.0[..], &[("x-max-priority".to_owned(), int(9))]].concat();
    let spec = QueueSpec { arguments: ferrymq_broker::queues::Arguments(list), ..durable("a") };
    let a = rig.declare(spec).await.queue;
    let b = rig.declare(prioritized("b", 5)).await.queue;
    let publishes = ["1", "9", "5"].map(|n| with(&rig, "a", n, n.parse().ok()));
    commit(&rig, publishes.to_vec(), Vec::new()).await.unwrap();
    let held = [got(&rig, "a").await, got(&rig, "a").await, got(&rig, "a").await];
    assert_eq!(held.each_ref().map(|got| body(&got.delivery)), ["9", "5", "1"]);
    // One is acknowledged by what is published, the others are rejected.
    commit(&rig, vec![with(&rig, "b", "new", Some(4))], settling(&held[..1], Settle::Ack)).await.unwrap();
    let rejected = [held[2].delivery.offset.0, held[1].delivery.offset.0];
    rig.settle(&a, &rejected, Settle::Reject).await;
    for _ in 0..4 {
        quiet().await;
    }
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 0), counts(3, 0)));
    rig.start().await;
    assert_eq!(all(&rig, "a").await, Vec::<String>::new());
    assert_eq!(all(&rig, "b").await, ["5", "new", "1"]);
}

/// A joint commit that fails gives everything back to its level.
#[tokio::test(start_paused = true)]
async fn a_joint_commit_that_fails_leaves_levels_as_they_were() {
    let (rig, logs) = staged().await;
    let queue = rig.declare(prioritized("q", 5)).await.queue;
    publish(&rig, "q", &[("low", None), ("high", Some(5)), ("mid", Some(3))]).await;
    let held = [got(&rig, "q").await, got(&rig, "q").await];
    logs.stage.hold();
    let publishes = vec![with(&rig, "q", "never", Some(5))];
    let mut failed = std::pin::pin!(commit(&rig, publishes, settling(&held, Settle::Ack)));
    assert!(failed.as_mut().now_or_never().is_none());
    quiet().await;
    logs.stage.decide(Fate::Fails(ErrorKind::Full));
    assert!(failed.await.is_err());
    logs.stage.release();
    assert_eq!(rig.stat(&queue).await, counts(1, 2));
    rig.queues.settle(&rig.session, &queue, vec![(Offset(held[0].delivery.offset.0), Settle::Requeue)]).await;
    assert_eq!(all(&rig, "q").await, ["high", "low"]);
}

/// After a clean stop only what was delivered is marked, on each level; and the counts of returns are there.
#[tokio::test(start_paused = true)]
async fn marks_and_counts_of_levels_outlive_a_clean_stop() {
    let mut rig = Rig::new().await;
    let queue = rig.declare(prioritized("q", 5)).await.queue;
    publish(&rig, "q", &[("low 1", None), ("high 1", Some(5)), ("high 2", Some(5)), ("low 2", None)]).await;
    let held = [got(&rig, "q").await, got(&rig, "q").await, got(&rig, "q").await];
    rig.settle(&queue, &[held[0].delivery.offset.0, held[2].delivery.offset.0], Settle::Requeue).await;
    rig.settle(&queue, &[held[1].delivery.offset.0], Settle::Ack).await;
    quiet().await;
    rig.restart().await;
    let mut found = Vec::new();
    for _ in 0..3 {
        let got = got(&rig, "q").await.delivery;
        found.push((body(&got), got.redelivered, got.returned));
    }
    let expected = [("high 1", true, 1), ("low 1", true, 1), ("low 2", false, 0)];
    assert_eq!(found, expected.map(|(body, redelivered, returned)| (body.to_owned(), redelivered, returned)));
}
