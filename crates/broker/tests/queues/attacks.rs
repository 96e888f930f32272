//! Attempts to lose, double or wrongly show a message where joint commits, letters, limits and sessions meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrymq_broker::queues::Value;
use ferrymq_broker::queues::{Credit, Event, QueueHandle, QueueSpec, Settle, deliveries};
use ferrymq_runtime::{TaskKind, Tasks};
use ferrymq_storage::ErrorKind;
use futures_util::FutureExt as _;

use crate::letters::dead_lettering;
use crate::rig::{
    Rig, VHOST, arguments, bodies, commit, counts, durable, got, int, pass, quiet, settling, staged, take,
};
use crate::staged::{Fate, StagedLogs};

async fn staged_two() -> (Rig, StagedLogs, QueueHandle, QueueHandle) {
    let (rig, logs) = staged().await;
    let (a, b) = (rig.queue("a").await, rig.queue("b").await);
    (rig, logs, a, b)
}

/// A transaction takes "1" from a and puts "2" into b. Something before it in b fails, so it is tried again; its
/// session ends meanwhile. Either it happens or it does not.
#[tokio::test(start_paused = true)]
async fn session_ends_between_two_attempts() {
    let (mut rig, logs, a, b) = staged_two().await;
    rig.publish("a", &["1"]).await;
    let taken = [got(&rig, "a").await];
    logs.stage.hold();
    let before = rig.queues.publish(rig.messages("b", &["0"], true)).await;
    quiet().await;
    {
        let publishes = rig.messages("b", &["2"], true);
        let mut joint = std::pin::pin!(commit(&rig, publishes, settling(&taken, Settle::Ack)));
        assert!(joint.as_mut().now_or_never().is_none());
        quiet().await;
    }
    assert_eq!(logs.stage.waiting(), 2);
    let session = std::mem::replace(&mut rig.session, rig.queues.session());
    drop(session);
    quiet().await;
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    logs.stage.release();
    quiet().await;
    assert_eq!(before.await.failed.len(), 1);
    let (a, b) = (rig.stat(&a).await.ready, rig.stat(&b).await.ready);
    assert!(matches!((a, b), (0, 1) | (1, 0)), "half of a transaction: a has {a}, b has {b}");
}

/// The same, but its turn had not come when its session ended.
#[tokio::test(start_paused = true)]
async fn session_ends_before_the_part_is_sealed() {
    let (mut rig, logs, _, _) = staged_two().await;
    rig.publish("a", &["1"]).await;
    let taken = [got(&rig, "a").await];
    logs.stage.hold();
    // b is failing until the second publish is decided: the part waits in its shard, and the turn with it.
    let first = rig.queues.publish(rig.messages("b", &["x"], true)).await;
    quiet().await;
    let second = rig.queues.publish(rig.messages("b", &["y"], true)).await;
    quiet().await;
    assert_eq!(logs.stage.waiting(), 2);
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    quiet().await;
    let other = rig.queues.session();
    let (queues, publishes) = (rig.queues.clone(), rig.messages("b", &["z"], true));
    let mut ahead = std::pin::pin!(queues.commit(&other, publishes, Vec::new()));
    assert!(ahead.as_mut().now_or_never().is_none());
    quiet().await;
    {
        let publishes = rig.messages("b", &["2"], true);
        let mut joint = std::pin::pin!(commit(&rig, publishes, settling(&taken, Settle::Ack)));
        assert!(joint.as_mut().now_or_never().is_none());
        quiet().await;
    }
    let session = std::mem::replace(&mut rig.session, rig.queues.session());
    drop(session);
    quiet().await;
    logs.stage.release();
    ahead.await.unwrap();
    quiet().await;
    drop((first, second));
    let (a, b) =
        (rig.get_all("a").await.len(), rig.get_all("b").await.iter().filter(|got| got.0 == "2").count());
    assert!(matches!((a, b), (0, 1) | (1, 0)), "half of a transaction: a has {a}, b has {b}");
}

/// A reject in a transaction makes room for its consumer, wherever the letter is.
#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_while_a_letter_of_its_transaction_waits() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    let refusing = arguments(&[("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))]);
    rig.declare(QueueSpec { arguments: refusing, ..durable("b") }).await;
    rig.publish("b", &["full"]).await;
    rig.publish("a", &["1", "2"]).await;
    let (sink, mut events) = deliveries(1 << 20);
    rig.consume("a", Credit::Window(1), &sink).await;
    let first = take(&mut events, 1).await;
    let settles = vec![(a.clone(), vec![(first[0].offset, Settle::Reject)])];
    commit(&rig, Vec::new(), settles).await.unwrap();
    pass(10_000).await;
    let next = events.recv().now_or_never();
    assert!(next.is_some(), "nothing for ten seconds: {:?}", rig.stat(&a).await);
}

/// The same without a transaction.
#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_while_a_letter_waits() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    let refusing = arguments(&[("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))]);
    rig.declare(QueueSpec { arguments: refusing, ..durable("b") }).await;
    rig.publish("b", &["full"]).await;
    rig.publish("a", &["1", "2"]).await;
    let (sink, mut events) = deliveries(1 << 20);
    rig.consume("a", Credit::Window(1), &sink).await;
    let first = take(&mut events, 1).await;
    rig.settle(&a, &[first[0].offset.0], Settle::Reject).await;
    pass(10_000).await;
    assert_eq!(bodies(&take(&mut events, 1).await), ["2"]);
}

/// Keeps the shards busy with questions until dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn with(rig: &Rig, queue: &QueueHandle) -> Busy {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..3 {
            let (queues, queue, over) = (rig.queues.clone(), queue.clone(), over.clone());
            Tasks::new().spawn(TaskKind::Background, "busy", async move {
                while !over.load(Ordering::Relaxed) {
                    let asked = (0..300).map(|_| queues.stat(&queue));
                    futures_util::future::join_all(asked).await;
                }
            });
        }
        Busy(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is committed is there for whoever looks next.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_a_commit_the_message_is_there() {
    let rig = Rig::new().await;
    let a = rig.queue("a").await;
    rig.queue("b").await;
    let _busy = Busy::with(&rig, &a);
    let mut empty = 0;
    for _ in 0..5000 {
        commit(&rig, rig.messages("a", &["1"], true), Vec::new()).await.unwrap();
        while rig.get("a").await.is_none() {
            empty += 1;
        }
    }
    assert_eq!(empty, 0, "times that a get found nothing after a commit");
}

/// A commit is refused and tried once more: it settles then.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_second_attempt_settles_too() {
    let mut rig = Rig::new().await;
    let a = rig.queue("a").await;
    rig.queue("b").await;
    let (mut doubled, mut spurious) = (0, 0);
    for _ in 0..3000 {
        rig.publish("a", &["in"]).await;
        let busy = Busy::with(&rig, &a);
        let taken = [got(&rig, "a").await];
        rig.store.fail_next(ErrorKind::Unavailable, false);
        let publishes = rig.messages("b", &["out"], true);
        let mut attempts = 0;
        while let Err(error) = commit(&rig, publishes.clone(), settling(&taken, Settle::Ack)).await {
            attempts += 1;
            if attempts > 1 {
                spurious += 1;
            }
            assert!(attempts < 100, "{error:?}");
        }
        drop(busy);
        std::mem::replace(&mut rig.session, rig.queues.session()).close().await;
        doubled += rig.stat(&a).await.ready;
        rig.queues.purge(&rig.session, VHOST, "a").await.unwrap();
        rig.queues.purge(&rig.session, VHOST, "b").await.unwrap();
    }
    assert_eq!(
        (doubled, spurious),
        (0, 0),
        "settled and published, and came again; refused without a reason"
    );
}

/// Publishes this many, acknowledges every other one, and gives the rest back once: much to tell in a snapshot.
async fn fill(rig: &Rig, queue: &QueueHandle, count: u64) {
    let name = queue.name().to_string();
    let empty = vec![""; 2000];
    for _ in 0..count / 2000 {
        rig.publish(&name, &empty).await;
    }
    let (sink, mut events) = deliveries(1 << 30);
    rig.consume(&name, Credit::Unlimited, &sink).await;
    let mut left = count;
    while left > 0 {
        let Event::Deliver(more) = events.recv().await else { panic!("cancelled") };
        left -= more.len() as u64;
    }
    let stat = rig.stat(queue).await;
    assert_eq!((stat.ready, stat.unacked), (0, count));
    for start in (0..count).step_by(2000) {
        let acked: Vec<u64> = (start..start + 2000).filter(|offset| offset % 2 == 0).collect();
        let back: Vec<u64> = (start..start + 2000).filter(|offset| offset % 2 == 1).collect();
        rig.settle(queue, &acked, Settle::Ack).await;
        rig.settle(queue, &back, Settle::Requeue).await;
    }
    let mut left = count / 2;
    while left > 0 {
        let Event::Deliver(more) = events.recv().await else { panic!("cancelled") };
        left -= more.len() as u64;
    }
    quiet().await;
    std::mem::forget((sink, events));
}

/// A rewrite of the state log is durable and its trim on the way; acks behind it fail; the rewrite that makes up for
/// them begins; then the trim arrives.
#[tokio::test(start_paused = true)]
async fn a_trim_does_not_end_the_rewrite_after_it() {
    const COUNT: u64 = 120_000;
    let (mut rig, logs, a, b) = staged_two().await;
    let c = rig.queue("c").await;
    let d = rig.queue("d").await;
    assert_eq!(a.log().0 % 2, c.log().0 % 2);
    fill(&rig, &a, COUNT).await;
    fill(&rig, &c, COUNT).await;
    let _ = (b, d);
    // Something fails, so everything is to be written again.
    logs.stage.hold();
    rig.settle(&a, &[1001], Settle::Ack).await;
    quiet().await;
    assert_eq!(logs.stage.waiting(), 1);
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    quiet().await;
    assert_eq!(logs.stage.waiting(), 0);
    rig.settle(&a, &[1003], Settle::Ack).await;
    quiet().await;
    while logs.stage.waiting() < 2 {
        rig.stat(&a).await;
        quiet().await;
    }
    assert_eq!(logs.stage.waiting(), 2, "the rewrite, in two parts");
    rig.settle(&a, &[50_001], Settle::Ack).await;
    rig.settle(&c, &[50_001], Settle::Ack).await;
    quiet().await;
    assert_eq!(logs.stage.waiting(), 3, "and acks");
    logs.stage.decide(Fate::Happens);
    quiet().await;
    logs.stage.decide(Fate::Happens);
    quiet().await;
    assert_eq!(logs.stage.waiting(), 2, "acks and a trim");
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    quiet().await;
    rig.settle(&a, &[1005], Settle::Ack).await;
    quiet().await;
    logs.stage.decide(Fate::Happens);
    quiet().await;
    logs.stage.release();
    for _ in 0..20 {
        rig.settle(&a, &[1007], Settle::Ack).await;
        rig.settle(&c, &[1007], Settle::Ack).await;
        rig.publish("a", &["x"]).await;
        rig.publish("c", &["x"]).await;
        quiet().await;
    }
    // What the store has now is what a crash leaves.
    rig.start().await;
    let expected = (COUNT / 2 - 5 + 20, COUNT / 2 - 2 + 20);
    let (a, c) = (rig.route("", "a").queues()[0].clone(), rig.route("", "c").queues()[0].clone());
    assert_eq!((rig.stat(&a).await.ready, rig.stat(&c).await.ready), expected, "acks are forgotten");
}

/// A fan-out of a transaction and of letters to many full and free targets leaves the counts as they are.
#[tokio::test(start_paused = true)]
async fn counts_hold_after_a_storm() {
    let rig = Rig::new().await;
    let mut spec = dead_lettering("a", "", "b");
    spec.arguments.0.extend(
        [("x-max-length-bytes", int(40)), ("x-message-ttl", int(500)), ("x-max-length", int(7))]
            .map(|(name, value)| (name.to_owned(), value)),
    );
    let a = rig.declare(spec).await.queue;
    let limited =
        arguments(&[("x-max-length-bytes", int(60)), ("x-overflow", Value::text("reject-publish"))]);
    let b = rig.declare(QueueSpec { arguments: limited, ..durable("b") }).await.queue;
    let rng = ferrymq_runtime::Rng::seeded(7);
    let (mut published, mut seen) = (0u64, 0u64);
    for round in 0..3000u64 {
        match rng.below(7) {
            0 | 1 => {
                let text = "x".repeat(usize::try_from(rng.below(9)).unwrap());
                published += u64::from(rig.publish_as("a", &[&text], true).await.failed.is_empty());
            }
            2 => {
                let got = rig.queues.get(&rig.session, VHOST, "a", false).await.unwrap();
                if let Some(got) = got {
                    let how = [Settle::Reject, Settle::Requeue, Settle::Fail]
                        [usize::try_from(rng.below(3)).unwrap()];
                    if rng.below(2) == 0 {
                        if rng.below(2) == 0 {
                            rig.store.fail_next(ErrorKind::Unavailable, false);
                        }
                        while commit(&rig, Vec::new(), settling(std::slice::from_ref(&got), how))
                            .await
                            .is_err()
                        {}
                    } else {
                        rig.settle(&a, &[got.delivery.offset.0], how).await;
                    }
                }
            }
            3 => seen += u64::from(rig.get("b").await.is_some()),
            4 => pass(rng.below(300)).await,
            5 if round % 5 == 0 => rig.store.fail_next(ErrorKind::Full, false),
            _ => quiet().await,
        }
    }
    for _ in 0..2000 {
        pass(600).await;
        while rig.get("b").await.is_some() {
            seen += 1;
        }
    }
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 0), counts(0, 0)));
    assert_eq!(seen, published);
}

/// A letter whose target in another shard is full waits, and costs the store nothing meanwhile.
#[tokio::test(start_paused = true)]
async fn a_letter_that_waits_writes_nothing() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    let refusing = arguments(&[("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))]);
    let b = rig.declare(QueueSpec { arguments: refusing, ..durable("b") }).await.queue;
    assert_ne!(a.log().0 % 2, b.log().0 % 2);
    rig.publish("b", &["full"]).await;
    rig.publish("a", &["1", "2"]).await;
    let taken = got(&rig, "a").await;
    rig.settle(&a, &[taken.delivery.offset.0], Settle::Reject).await;
    pass(1000).await;
    let before = rig.store.commits();
    for _ in 0..600 {
        pass(100).await;
    }
    let commits = rig.store.commits() - before;
    assert!(commits < 10, "{commits} commits in a minute");
}

/// A transaction that is tried again by itself, because something before it in its target failed, settles as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_is_tried_again_settles_too() {
    let (mut rig, logs, a, _) = staged_two().await;
    let mut doubled = 0;
    for _ in 0..2500 {
        rig.publish("a", &["in"]).await;
        let taken = [got(&rig, "a").await];
        logs.stage.hold();
        let before = rig.queues.publish(rig.messages("b", &["0"], true)).await;
        while logs.stage.waiting() < 1 {
            tokio::task::yield_now().await;
        }
        let busy = Busy::with(&rig, &a);
        let publishes = rig.messages("b", &["out"], true);
        let mut joint = Box::pin(commit(&rig, publishes, settling(&taken, Settle::Ack)));
        assert!(joint.as_mut().now_or_never().is_none());
        while logs.stage.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
        logs.stage.release();
        let committed = joint.as_mut().await;
        drop(joint);
        drop(busy);
        drop(before);
        std::mem::replace(&mut rig.session, rig.queues.session()).close().await;
        if committed.is_ok() {
            doubled += rig.stat(&a).await.ready;
        }
        rig.queues.purge(&rig.session, VHOST, "a").await.unwrap();
        rig.queues.purge(&rig.session, VHOST, "b").await.unwrap();
    }
    assert_eq!(doubled, 0, "settled and published by one transaction, and came again");
}
