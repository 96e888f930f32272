//! Priorities of messages: what order they come in, what becomes of what does not fit, and the logs behind it.

use std::sync::Arc;

use ferrymq_broker::queues::{
    Credit, DeleteIf, Message, NewConsumer, Publish, QueueError, QueueSpec, Settle, Value, deliveries,
};
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{ErrorKind, LogStore as _, Revision};
use ferrymq_types::{LogId, Offset};
use futures_util::FutureExt as _;

use crate::letters::dead_lettering;
use crate::rig::{
    Rig, VHOST, arguments, bodies, body, commit, counts, durable, got, int, message, offsets, pass, quiet,
    settling, staged, take,
};
use crate::staged::{Fate, StagedMeta};

const MIB: usize = 1024 * 1024;

fn prioritized(name: &str, max: i64) -> QueueSpec {
    QueueSpec { arguments: arguments(&[("x-max-priority", int(max))]), ..durable(name) }
}

fn quorum(name: &str) -> QueueSpec {
    QueueSpec { arguments: arguments(&[("x-queue-type", Value::text("quorum"))]), ..durable(name) }
}

fn with(rig: &Rig, queue: &str, body: &str, priority: Option<u8>) -> Publish {
    Publish { message: Message { priority, ..message(queue, body, true) }, to: rig.route("", queue) }
}

/// Publishes messages with these priorities and waits.
async fn publish(rig: &Rig, queue: &str, all: &[(&str, Option<u8>)]) {
    let all = all.iter().map(|(body, priority)| with(rig, queue, body, *priority)).collect();
    let published = rig.queues.publish(all).await.await;
    assert!(published.failed.is_empty(), "{:?}", published.failed);
}

async fn all(rig: &Rig, queue: &str) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(body) = rig.get(queue).await {
        all.push(body);
    }
    all
}

/// The logs that a durable queue's record names, but for its own.
async fn levels(rig: &Rig, queue: &str) -> Vec<(u64, LogId)> {
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
async fn purging_and_deleting_take_all_levels() {
    let mut rig = Rig::new().await;
    let queue = rig.declare(prioritized("q", 255)).await.queue;
    let sent = [("a", None), ("b", Some(255)), ("c", Some(7))];
    publish(&rig, "q", &sent).await;
    let if_empty = DeleteIf { empty: true, ..DeleteIf::default() };
    let refused = rig.queues.delete_queue(&rig.session, VHOST, "q", if_empty).await;
    assert!(matches!(refused, Err(QueueError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 3);
    rig.start().await;
    assert!(all(&rig, "q").await.is_empty());
    publish(&rig, "q", &sent).await;
    let logs = levels(&rig, "q").await;
    assert_eq!(logs.iter().map(|(priority, _)| *priority).collect::<Vec<_>>(), [255, 7]);
    let left = rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    assert_eq!(left, 3);
    quiet().await;
    for log in logs.iter().map(|(_, log)| *log).chain([queue.log()]) {
        let gone = rig.store.stat(log).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{log}");
    }
    let deleting = rig.meta.list("queues-deleting/", Revision(0)).await.unwrap();
    assert!(deleting.entries.is_empty(), "{deleting:?}");
    assert!(rig.declare(prioritized("q", 255)).await.created);
    assert!(all(&rig, "q").await.is_empty());
}

/// Queues that do not outlive the process take the logs of their levels from the pool, and leave them there.
#[tokio::test(start_paused = true)]
async fn levels_of_short_lived_queues_take_logs_from_the_pool() {
    let rig = Rig::new().await;
    for _ in 0..100 {
        let spec = QueueSpec { exclusive: true, ..prioritized("q", 5) };
        let queue = rig.declare(spec).await.queue;
        publish(&rig, "q", &[("low", None), ("high", Some(5)), ("mid", Some(2))]).await;
        assert_eq!(rig.get("q").await.as_deref(), Some("high"));
        assert_eq!(rig.stat(&queue).await.ready, 2);
        rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    }
    let pool = rig.meta.get("counters/queue-pool").await.unwrap().unwrap();
    assert_eq!(&*pool.value, b"64");
}

/// A message whose level cannot be recorded, or whose log cannot be claimed, is refused; the next one tries again.
#[tokio::test(start_paused = true)]
async fn a_level_that_cannot_be_made_refuses_its_messages() {
    let meta = Arc::new(StagedMeta::default());
    let mut rig = Rig::with(Default::default(), meta.clone()).await;
    rig.declare(prioritized("q", 5)).await;
    meta.stage.hold();
    {
        let mixed = vec![with(&rig, "q", "low", None), with(&rig, "q", "high", Some(5))];
        let mut publish = std::pin::pin!(async { rig.queues.publish(mixed).await.await });
        assert!(publish.as_mut().now_or_never().is_none());
        quiet().await;
        meta.stage.decide(Fate::Fails(ErrorKind::Unavailable));
        let published = publish.await;
        assert!(matches!(published.failed[..], [(1, QueueError::Storage(_))]), "{published:?}");
    }
    meta.stage.release();
    publish(&rig, "q", &[("high", Some(5))]).await;
    rig.start().await;
    assert_eq!(all(&rig, "q").await, ["high", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_level_that_was_recorded_and_not_claimed_is_claimed_later() {
    let (mut rig, logs) = staged().await;
    rig.declare(prioritized("q", 5)).await;
    rig.declare(prioritized("restarted", 5)).await;
    for queue in ["q", "restarted"] {
        logs.claims.hold();
        let high = vec![with(&rig, queue, "high", Some(5))];
        let mut publish = std::pin::pin!(async { rig.queues.publish(high).await.await });
        assert!(publish.as_mut().now_or_never().is_none());
        quiet().await;
        logs.claims.decide(Fate::Fails(ErrorKind::Unavailable));
        let published = publish.await;
        assert!(matches!(published.failed[..], [(0, QueueError::Storage(_))]), "{published:?}");
        logs.claims.release();
    }
    let before = levels(&rig, "q").await;
    publish(&rig, "q", &[("low", None), ("high", Some(5))]).await;
    assert_eq!(levels(&rig, "q").await, before, "the log that was recorded is the one that is used");
    rig.start().await;
    publish(&rig, "restarted", &[("low", None), ("high", Some(5))]).await;
    for queue in ["q", "restarted"] {
        assert_eq!(all(&rig, queue).await, ["high", "low"]);
    }
    // One that was never claimed goes with its queue, at the next start.
    rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    rig.start().await;
    assert!(rig.meta.list("queues-deleting/", Revision(0)).await.unwrap().entries.is_empty());
}

/// Publishers that need the same level at the same time make it once; one that goes away does not keep it from being made.
#[tokio::test(start_paused = true)]
async fn a_level_is_made_once() {
    let meta = Arc::new(StagedMeta::default());
    let rig = Rig::with(Default::default(), meta.clone()).await;
    rig.declare(prioritized("q", 5)).await;
    meta.stage.hold();
    {
        let gone = rig.queues.publish(vec![with(&rig, "q", "gone", Some(5))]);
        assert!(std::pin::pin!(gone).now_or_never().is_none());
        quiet().await;
    }
    let publishers = (0..5).map(|_| rig.queues.publish(vec![with(&rig, "q", "x", Some(5))]));
    let publishers = futures_util::future::join_all(publishers);
    let mut publishers = std::pin::pin!(publishers);
    assert!(publishers.as_mut().now_or_never().is_none());
    meta.stage.release();
    for pending in publishers.await {
        assert!(pending.await.failed.is_empty());
    }
    assert_eq!(levels(&rig, "q").await.len(), 1);
    assert_eq!(all(&rig, "q").await.len(), 5);
}

/// A queue that is deleted while a level of it is wanted takes nothing, and leaves nothing.
#[tokio::test(start_paused = true)]
async fn a_level_of_a_queue_that_is_gone_is_not_made() {
    let meta = Arc::new(StagedMeta::default());
    let rig = Rig::with(Default::default(), meta.clone()).await;
    rig.declare(prioritized("q", 5)).await;
    let late = vec![with(&rig, "q", "late", Some(5))];
    meta.stage.hold();
    let delete = rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default());
    let mut delete = std::pin::pin!(delete);
    assert!(delete.as_mut().now_or_never().is_none());
    let mut publish = std::pin::pin!(async { rig.queues.publish(late).await.await });
    assert!(publish.as_mut().now_or_never().is_none());
    quiet().await;
    meta.stage.release();
    delete.await.unwrap();
    assert!(publish.await.failed.is_empty(), "it goes nowhere");
    assert!(rig.meta.get("queues/%2F/q").await.unwrap().is_none());
    rig.declare(prioritized("q", 5)).await;
    assert!(all(&rig, "q").await.is_empty());
}

/// An append that fails concerns its level; what is confirmed on others is there, and the next one is behind nothing.
#[tokio::test(start_paused = true)]
async fn a_failed_append_is_one_levels() {
    let (mut rig, logs) = staged().await;
    rig.declare(prioritized("q", 5)).await;
    publish(&rig, "q", &[("low 1", None), ("high 1", Some(5))]).await;
    logs.stage.hold();
    let high = rig.queues.publish(vec![with(&rig, "q", "lost", Some(5))]).await;
    quiet().await;
    let low = rig.queues.publish(vec![with(&rig, "q", "low 2", None)]).await;
    quiet().await;
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    assert_eq!(high.await.failed.len(), 1);
    logs.stage.release();
    assert!(low.await.failed.is_empty());
    publish(&rig, "q", &[("high 2", Some(5))]).await;
    rig.start().await;
    assert_eq!(all(&rig, "q").await, ["high 1", "high 2", "low 1", "low 2"]);
}

/// After a write of which nobody knows the fate, the shard says so on all levels; a restart reads what is there.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_on_one_level_stops_the_queue() {
    let (mut rig, logs) = staged().await;
    rig.declare(prioritized("q", 5)).await;
    publish(&rig, "q", &[("low", None), ("high", Some(5))]).await;
    logs.stage.hold();
    let unknown = rig.queues.publish(vec![with(&rig, "q", "unknown", Some(5))]).await;
    quiet().await;
    logs.stage.decide(Fate::Fails(ErrorKind::Unknown));
    assert_eq!(unknown.await.failed.len(), 1);
    logs.stage.release();
    let refused = rig.queues.publish(vec![with(&rig, "q", "refused", None)]).await.await;
    assert_eq!(refused.failed.len(), 1);
    rig.start().await;
    assert_eq!(all(&rig, "q").await, ["high", "low"]);
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

/// Levels that are not in memory are read when it is their turn.
#[tokio::test(start_paused = true)]
async fn long_levels_are_read_from_their_logs() {
    let rig = Rig::tight(1).await;
    rig.declare(prioritized("q", 2)).await;
    let body = "x".repeat(5000);
    for number in 0..90 {
        let (text, priority) = (format!("{number} {body}"), Some(u8::try_from(number % 3).unwrap()));
        publish(&rig, "q", &[(&text, priority)]).await;
    }
    let found = all(&rig, "q").await.into_iter().map(|text| {
        let number: u64 = text.split_once(' ').unwrap().0.parse().unwrap();
        number
    });
    let expected = (0..3).rev().flat_map(|priority| (0..30).map(move |at| at * 3 + priority));
    assert_eq!(found.collect::<Vec<u64>>(), expected.collect::<Vec<u64>>());
}

/// A record with levels is refused by a program that would not see them.
#[tokio::test(start_paused = true)]
async fn a_record_with_levels_is_of_another_version() {
    let rig = Rig::with(Default::default(), Arc::new(MemoryMeta::new())).await;
    rig.declare(prioritized("q", 5)).await;
    for (priority, version) in [(None, 1), (Some(0), 1), (Some(5), 2)] {
        publish(&rig, "q", &[("x", priority)]).await;
        let entry = rig.meta.get("queues/%2F/q").await.unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
        assert_eq!(record["v"], version, "{priority:?}");
    }
}

/// A kill before the logs of a deleted queue are gone: the next start deletes those of all levels.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_cut_short_takes_all_levels_later() {
    let (mut rig, logs) = staged().await;
    let queue = rig.declare(prioritized("q", 5)).await.queue;
    publish(&rig, "q", &[("low", None), ("high", Some(5)), ("mid", Some(3))]).await;
    let mut all: Vec<LogId> = levels(&rig, "q").await.into_iter().map(|(_, log)| log).collect();
    all.push(queue.log());
    logs.stage.hold();
    rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    quiet().await;
    for log in &all {
        assert!(rig.store.stat(*log).await.is_ok(), "{log} is to be deleted");
    }
    rig.start().await;
    for log in &all {
        assert_eq!(rig.store.stat(*log).await.unwrap_err().kind(), ErrorKind::NotFound, "{log}");
    }
}

/// A queue's logs are let go of once nothing is on its way to any of them.
#[tokio::test(start_paused = true)]
async fn a_deletion_waits_for_what_is_in_flight_on_any_level() {
    let (rig, logs) = staged().await;
    rig.declare(prioritized("q", 5)).await;
    publish(&rig, "q", &[("low", None), ("high", Some(5))]).await;
    logs.stage.hold();
    let high = rig.queues.publish(vec![with(&rig, "q", "on its way", Some(5))]).await;
    quiet().await;
    let mut delete = std::pin::pin!(rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()));
    assert!(delete.as_mut().now_or_never().is_none());
    quiet().await;
    assert!(delete.as_mut().now_or_never().is_none(), "an append is in flight");
    logs.stage.release();
    delete.await.unwrap();
    assert!(high.await.failed.is_empty());
}
