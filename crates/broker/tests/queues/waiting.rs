//! Delayed retries: what comes back waits, as long as it should, also over restarts.

use ferrymq_broker::queues::{Credit, DeleteIf, QueueError, QueueHandle, Settle, Value, deliveries};

use crate::policies::{policy, set};
use crate::priorities::publish;
use crate::rig::{Rig, VHOST, bodies, commit, counts, got, int, offsets, pass, quiet, settling, take};

const MIB: usize = 1024 * 1024;

async fn retrying(rig: &Rig, kind: &str, more: &[(&str, Value)]) -> QueueHandle {
    let mut list = vec![
        ("x-queue-type", Value::text("quorum")),
        ("x-delayed-retry-type", Value::text(kind)),
        ("x-delayed-retry-min", int(1000)),
    ];
    list.extend_from_slice(more);
    rig.queue_with("q", &list).await
}

/// Whether the message comes back after `ms`, and no earlier.
async fn comes_back_after(rig: &Rig, queue: &QueueHandle, ms: u64) {
    quiet().await;
    assert_eq!(rig.stat(queue).await, counts(0, 0), "neither ready nor unacked");
    pass(ms).await;
    assert_eq!(rig.stat(queue).await, counts(0, 0), "never early");
    pass(3).await;
    assert_eq!(rig.stat(queue).await, counts(1, 0));
}

#[tokio::test(start_paused = true)]
async fn each_failure_waits_longer() {
    let rig = Rig::new().await;
    let queue = retrying(&rig, "all", &[("x-delayed-retry-max", int(2500))]).await;
    rig.publish("q", &["x"]).await;
    for (failed, returned, how, ms) in [
        (0, 0, Settle::Requeue, 1000),
        (0, 1, Settle::Fail, 1000),
        (1, 2, Settle::Fail, 2000),
        (2, 3, Settle::Fail, 2500),
        (3, 4, Settle::Requeue, 2500),
    ] {
        let held = got(&rig, "q").await.delivery;
        assert_eq!((held.failed, held.returned), (Some(failed), returned));
        rig.settle(&queue, &[held.offset.0], how).await;
        comes_back_after(&rig, &queue, ms).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_it_says_waits() {
    for (kind, waits, stays) in
        [("failed", Settle::Fail, Settle::Requeue), ("returned", Settle::Requeue, Settle::Fail)]
    {
        let rig = Rig::new().await;
        let queue = retrying(&rig, kind, &[]).await;
        rig.publish("q", &["x"]).await;
        let offset = got(&rig, "q").await.delivery.offset.0;
        rig.settle(&queue, &[offset], stays).await;
        assert_eq!(rig.ready(&queue).await, 1, "{kind}");
        got(&rig, "q").await;
        rig.settle(&queue, &[offset], waits).await;
        comes_back_after(&rig, &queue, 1000).await;
    }
    let rig = Rig::new().await;
    let queue = retrying(&rig, "disabled", &[]).await;
    rig.publish("q", &["x"]).await;
    let offset = got(&rig, "q").await.delivery.offset.0;
    rig.settle(&queue, &[offset], Settle::Fail).await;
    assert_eq!(rig.ready(&queue).await, 1);
}

/// Others are delivered meanwhile; what comes back goes to its old place.
#[tokio::test(start_paused = true)]
async fn it_waits_by_itself_and_keeps_its_place() {
    let rig = Rig::new().await;
    let queue = retrying(&rig, "all", &[]).await;
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(2), &sink).await;
    rig.publish("q", &["0", "1", "2", "3", "4"]).await;
    take(&mut from, 2).await;
    rig.settle(&queue, &[1, 0], Settle::Fail).await;
    assert_eq!(bodies(&take(&mut from, 2).await), ["2", "3"]);
    pass(1003).await;
    rig.settle(&queue, &[2, 3], Settle::Ack).await;
    let again = take(&mut from, 2).await;
    assert_eq!(bodies(&again), ["0", "1"]);
    assert!(again.iter().all(|delivery| delivery.redelivered && delivery.failed == Some(1)));
    rig.settle(&queue, &[0], Settle::Ack).await;
    assert_eq!(bodies(&take(&mut from, 1).await), ["4"]);
    // A session that ends gives back what it has as failed.
    let ended = rig.queues.session();
    assert_ne!(ended.id(), rig.session.id());
    drop(ended);
    let Rig { session, queues, .. } = rig;
    session.close().await;
    pass(999).await;
    assert_eq!(queues.stat(&queue).await.unwrap().ready, 0);
    pass(1010).await;
    assert_eq!(queues.stat(&queue).await.unwrap().ready, 2, "one after a second, one after two");
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_failures_comes_first() {
    let rig = Rig::new().await;
    let limit = ("x-delivery-limit", int(1));
    let dead = [
        ("x-dead-letter-exchange", Value::text("")),
        ("x-dead-letter-routing-key", Value::text("dead")),
        limit,
    ];
    let queue = retrying(&rig, "all", &dead).await;
    rig.queue("dead").await;
    rig.publish("q", &["x"]).await;
    rig.settle(&queue, &[got(&rig, "q").await.delivery.offset.0], Settle::Fail).await;
    comes_back_after(&rig, &queue, 1000).await;
    rig.settle(&queue, &[got(&rig, "q").await.delivery.offset.0], Settle::Fail).await;
    quiet().await;
    assert_eq!(rig.get("dead").await.as_deref(), Some("x"), "at once");
    pass(10_000).await;
    assert_eq!(rig.stat(&queue).await, counts(0, 0));
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_count_and_are_purged() {
    let rig = Rig::new().await;
    let limits = [("x-max-length", int(2)), ("x-overflow", Value::text("reject-publish"))];
    let queue = retrying(&rig, "all", &limits).await;
    rig.publish("q", &["0", "1"]).await;
    let held = [got(&rig, "q").await.delivery.offset.0, got(&rig, "q").await.delivery.offset.0];
    rig.settle(&queue, &held, Settle::Fail).await;
    assert_eq!(rig.publish_as("q", &["2"], true).await.failed.len(), 1);
    let only_if = DeleteIf { empty: true, unused: false };
    let refused = rig.queues.delete_queue(&rig.session, VHOST, "q", only_if).await;
    assert!(matches!(refused, Err(QueueError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 2);
    pass(5000).await;
    assert_eq!(rig.stat(&queue).await, counts(0, 0));
    rig.publish("q", &["3"]).await;
    assert_eq!(rig.get("q").await.as_deref(), Some("3"));
}

/// Counts are kept; who came back before waits anew, as long as they say.
#[tokio::test(start_paused = true)]
async fn a_restart_makes_nothing_early() {
    for clean in [true, false] {
        let mut rig = Rig::new().await;
        let queue = retrying(&rig, "failed", &[("x-delayed-retry-max", int(5000))]).await;
        rig.publish("q", &["fails", "returns", "fresh"]).await;
        for round in 0..2 {
            let held = got(&rig, "q").await.delivery.offset.0;
            rig.settle(&queue, &[held], Settle::Fail).await;
            quiet().await;
            pass(if round == 0 { 1003 } else { 1500 }).await;
        }
        let held = got(&rig, "q").await.delivery;
        assert_eq!(held.message.body, "returns");
        rig.settle(&queue, &[held.offset.0], Settle::Requeue).await;
        quiet().await;
        if clean {
            rig.restart().await
        } else {
            rig.start().await
        }
        let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
        assert_eq!(rig.ready(&queue).await, 2, "clean {clean}");
        pass(1999).await;
        assert_eq!(rig.ready(&queue).await, 2);
        pass(4).await;
        assert_eq!(rig.ready(&queue).await, 3);
        let held = got(&rig, "q").await.delivery;
        assert_eq!((&held.message.body[..], held.failed), (&b"fails"[..], Some(2)));
    }
}

/// Requeued by a joint commit it waits as well.
#[tokio::test(start_paused = true)]
async fn also_when_a_joint_commit_gives_it_back() {
    let rig = Rig::new().await;
    let queue = retrying(&rig, "all", &[]).await;
    rig.publish("q", &["x"]).await;
    let held = got(&rig, "q").await;
    commit(&rig, Vec::new(), settling(&[held], Settle::Requeue)).await.unwrap();
    comes_back_after(&rig, &queue, 1000).await;
    let held = offsets(&[got(&rig, "q").await.delivery]);
    rig.settle(&queue, &held, Settle::Ack).await;
    assert_eq!(rig.ready(&queue).await, 0);
}

/// Messages of several priorities lie in several logs; each waits by itself, and over a restart.
#[tokio::test(start_paused = true)]
async fn priorities_wait_as_well() {
    use ferrymq_broker::queues::{Message, Publish};
    let mut rig = Rig::new().await;
    let queue = retrying(&rig, "all", &[]).await;
    let with = |priority: u8| {
        let message =
            Message { priority: Some(priority), ..crate::rig::message("q", &priority.to_string(), true) };
        Publish { message, to: rig.route("", "q") }
    };
    let published = rig.queues.publish([1, 9, 5].map(with).into()).await.await;
    assert!(published.failed.is_empty(), "{published:?}");
    for _ in 0..3 {
        let held = got(&rig, "q").await.delivery.offset.0;
        rig.settle(&queue, &[held], Settle::Fail).await;
    }
    quiet().await;
    assert_eq!(rig.stat(&queue).await, counts(0, 0));
    pass(1003).await;
    assert_eq!(rig.stat(&queue).await, counts(3, 0));
    let held = got(&rig, "q").await.delivery;
    assert_eq!((&held.message.body[..], held.failed), (&b"9"[..], Some(1)));
    rig.settle(&queue, &[held.offset.0], Settle::Fail).await;
    quiet().await;
    rig.start().await;
    let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
    assert_eq!(rig.stat(&queue).await, counts(0, 0), "all of them were returned");
    pass(1003).await;
    assert_eq!(rig.stat(&queue).await, counts(3, 0));
    let all: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(all, ["9", "5", "1"]);
}

/// Bytes of what waits count as well, whatever becomes of others of its priority.
#[tokio::test(start_paused = true)]
async fn bytes_of_those_that_wait_count() {
    let rig = Rig::new().await;
    let limits = [("x-max-length-bytes", int(10)), ("x-overflow", Value::text("reject-publish"))];
    let queue = retrying(&rig, "all", &limits).await;
    publish(&rig, "q", &[("waits", Some(5))]).await;
    let held = got(&rig, "q").await.delivery.offset.0;
    rig.settle(&queue, &[held], Settle::Fail).await;
    publish(&rig, "q", &[("goes", Some(5))]).await;
    assert_eq!(rig.get("q").await.as_deref(), Some("goes"));
    assert_eq!(rig.publish_as("q", &["eleven"], true).await.failed.len(), 1, "five wait");
    rig.publish("q", &["fits!"]).await;
}

/// Also where a limit of bytes comes later, and they are measured.
#[tokio::test(start_paused = true)]
async fn bytes_of_those_that_wait_are_measured() {
    for with_another in [false, true] {
        let rig = Rig::new().await;
        let queue = retrying(&rig, "all", &[]).await;
        rig.publish("q", &["waits"]).await;
        let held = got(&rig, "q").await.delivery.offset.0;
        rig.settle(&queue, &[held], Settle::Fail).await;
        if with_another {
            rig.publish("q", &["x"]).await;
        }
        let limit = [("max-length-bytes", int(10)), ("overflow", Value::text("reject-publish"))];
        set(&rig, policy("p", "^q$", &limit)).await;
        assert_eq!(rig.publish_as("q", &["eleven"], true).await.failed.len(), 1, "{with_another}");
        rig.publish("q", &["fits"]).await;
    }
}
