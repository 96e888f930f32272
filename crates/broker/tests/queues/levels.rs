//! The logs behind priorities: how they are made, when they go, and what becomes of messages if either fails.

use std::sync::Arc;

use ferrymq_broker::queues::{DeleteIf, QueueError, QueueSpec};
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{ErrorKind, LogStore as _, Revision};
use ferrymq_types::LogId;
use futures_util::FutureExt as _;

use crate::priorities::{all, levels, prioritized, publish, with};
use crate::rig::{Rig, VHOST, quiet, staged};
use crate::staged::{Fate, StagedMeta};

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
