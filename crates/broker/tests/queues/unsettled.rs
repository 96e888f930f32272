//! Deliveries that nobody settles in time: who is told, when, and how often.

use std::sync::Arc;

use ferrymq_broker::queues::{
    Credit, Deliveries, Event, NewConsumer, QueueHandle, QueueOptions, Settle, Value, deliveries,
};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;

use crate::rig::{Rig, commit, got, int, offsets, pass, quiet, settling, staged, take};

const MIB: usize = 1024 * 1024;

async fn quorum(rig: &Rig, timeout_ms: Option<i64>) -> QueueHandle {
    let mut list = vec![("x-queue-type", Value::text("quorum"))];
    list.extend(timeout_ms.map(|timeout_ms| ("x-consumer-timeout", int(timeout_ms))));
    rig.queue_with("q", &list).await
}

/// What a session is told: token, offsets and the timeout.
fn told(from: &mut Deliveries) -> Vec<(u64, Vec<u64>, u64)> {
    let all = std::iter::from_fn(|| from.try_recv());
    all.filter_map(|event| match event {
        Event::Overdue { token, offsets, timeout_ms, .. } => {
            Some((token, offsets.into_iter().map(|offset| offset.0).collect(), timeout_ms))
        }
        Event::Deliver(_) => None,
        other @ Event::Cancelled { .. } => panic!("{other:?}"),
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn who_does_not_settle_in_time_is_told_once() {
    let rig = Rig::new().await;
    let queue = quorum(&rig, Some(1000)).await;
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(10), &sink).await;
    rig.publish("q", &["0", "1", "2"]).await;
    take(&mut from, 3).await;
    pass(600).await;
    rig.settle(&queue, &[1], Settle::Ack).await;
    rig.publish("q", &["3"]).await;
    quiet().await;
    pass(399).await;
    assert_eq!(told(&mut from), [], "never early");
    // A 32nd of the timeout, and a little.
    pass(34).await;
    assert_eq!(told(&mut from), [(7, vec![0, 2], 1000)]);
    assert_eq!(rig.stat(&queue).await.unacked, 3, "they are whose they were");
    pass(600).await;
    assert_eq!(told(&mut from), [(7, vec![3], 1000)]);
    pass(5000).await;
    assert_eq!(told(&mut from), [], "once");
    // Settled late is settled: whoever was told answers for it.
    rig.settle(&queue, &[0, 2, 3], Settle::Requeue).await;
    assert_eq!(offsets(&take(&mut from, 3).await), [0, 2, 3]);
    pass(1050).await;
    assert_eq!(told(&mut from), [(7, vec![0, 2, 3], 1000)]);
}

#[tokio::test(start_paused = true)]
async fn who_settles_in_time_is_never_told() {
    let rig = Rig::new().await;
    let queue = quorum(&rig, Some(100)).await;
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(3), &sink).await;
    for round in 0..100 {
        rig.publish("q", &["x", "y", "z"]).await;
        let held = offsets(&take(&mut from, 3).await);
        pass(round % 99).await;
        rig.settle(&queue, &held, Settle::Ack).await;
        quiet().await;
    }
    pass(1000).await;
    assert_eq!(told(&mut from), []);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_asks_for_its_own_and_a_queue_before_the_server() {
    let options = QueueOptions { consumer_timeout_ms: Some(3000), ..QueueOptions::default() };
    let rig = Rig::with_options(MemoryStore::new(), Arc::new(MemoryMeta::new()), options).await;
    let queue = quorum(&rig, None).await;
    let (sink, mut from) = deliveries(MIB);
    let own = NewConsumer { timeout_ms: Some(500), ..NewConsumer::new(1, Credit::Window(1)) };
    rig.consume_as("q", own, &sink).await;
    rig.consume_as("q", NewConsumer::new(2, Credit::Window(1)), &sink).await;
    let no_ack = NewConsumer { no_ack: true, ..NewConsumer::new(3, Credit::Window(1)) };
    rig.publish("q", &["0", "1"]).await;
    take(&mut from, 2).await;
    rig.consume_as("q", no_ack, &sink).await;
    rig.publish("q", &["2"]).await;
    take(&mut from, 1).await;
    pass(520).await;
    assert_eq!(told(&mut from), [(1, vec![0], 500)]);
    pass(2600).await;
    assert_eq!(told(&mut from), [(2, vec![1], 3000)]);
    pass(10_000).await;
    assert_eq!(told(&mut from), []);
    assert_eq!(rig.stat(&queue).await.unacked, 2);
    // Classic queues know no such thing.
    rig.queue("classic").await;
    rig.publish("classic", &["0"]).await;
    rig.consume_as("classic", NewConsumer::new(4, Credit::Window(1)), &sink).await;
    take(&mut from, 1).await;
    pass(10_000).await;
    assert_eq!(told(&mut from), []);
}

/// Cancelled by itself, a consumer still has what it has; the same for what was got.
#[tokio::test(start_paused = true)]
async fn what_was_got_and_what_a_cancelled_consumer_has_counts() {
    let rig = Rig::new().await;
    let queue = quorum(&rig, Some(200)).await;
    let (sink, mut from) = deliveries(MIB);
    rig.session.tell(&sink);
    rig.publish("q", &["0", "1"]).await;
    let consumer = rig.consume("q", Credit::Window(1), &sink).await;
    take(&mut from, 1).await;
    rig.queues.cancel(&rig.session, &consumer).await.unwrap();
    got(&rig, "q").await;
    pass(210).await;
    let mut both = told(&mut from);
    both.sort_unstable();
    assert_eq!(both, [(0, vec![1], 200), (7, vec![0], 200)]);
    rig.settle(&queue, &[0, 1], Settle::Requeue).await;
    // A session that is told nowhere has all the time it wants.
    let other = rig.queues.session();
    assert!(rig.queues.get(&other, "/", "q", false).await.unwrap().is_some());
    pass(1000).await;
    assert_eq!(told(&mut from), []);
    assert_eq!(rig.stat(&queue).await.unacked, 1);
}

/// What is being settled by a joint commit is nobody's; if it comes back, its time goes on.
#[tokio::test(start_paused = true)]
async fn on_its_way_in_a_joint_commit_it_is_not_overdue() {
    let (rig, logs) = staged().await;
    let queue = quorum(&rig, Some(200)).await;
    let (sink, mut from) = deliveries(MIB);
    rig.session.tell(&sink);
    rig.publish("q", &["0"]).await;
    let held = got(&rig, "q").await;
    logs.stage.hold();
    let (settles, queues) = (settling(&[held], Settle::Ack), rig.queues.clone());
    let commit = commit(&rig, Vec::new(), settles);
    tokio::pin!(commit);
    assert!(futures_util::poll!(commit.as_mut()).is_pending());
    quiet().await;
    pass(300).await;
    assert_eq!(told(&mut from), []);
    logs.stage.decide(crate::staged::Fate::Fails(ferrymq_storage::ErrorKind::Full));
    logs.stage.release();
    assert!(commit.await.is_err());
    assert_eq!(queues.stat(&queue).await.unwrap().unacked, 1);
    pass(210).await;
    assert_eq!(told(&mut from), [(0, vec![0], 200)]);
}
