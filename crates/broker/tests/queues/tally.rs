//! What is counted of queues and of messages that left them unconsumed.

use std::sync::atomic::{AtomicU64, Ordering};

use ferrymq_broker::queues::{
    DeadLettering, DeathReason, DeleteIf, Publish, QueueSpec, QueueType, Settle, Value,
};

use crate::letters::dead_lettering;
use crate::rig::{Rig, VHOST, arguments, commit, durable, got, int, message, pass, quiet, settling};

/// What was counted, of that which is not nothing.
fn deaths(rig: &Rig) -> Vec<(QueueType, DeadLettering, DeathReason, u64)> {
    rig.queues.tally().deaths().filter(|(.., count)| *count > 0).collect()
}

fn with(mut spec: QueueSpec, list: &[(&str, Value)]) -> QueueSpec {
    spec.arguments.0.extend(arguments(list).0);
    spec
}

#[tokio::test(start_paused = true)]
async fn deaths_are_counted_by_kind_and_reason_and_once() {
    let rig = Rig::new().await;
    rig.queue("b").await;
    let quorum = ("x-queue-type", Value::text("quorum"));
    let plain = rig.queue("plain").await;
    let short = with(dead_lettering("short", "", "b"), &[("x-message-ttl", int(20))]);
    let refusing = [("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish-dlx"))];
    let refusing = with(dead_lettering("refusing", "", "b"), &refusing);
    let once = with(dead_lettering("once", "nowhere", ""), &[quorum.clone(), ("x-max-length", int(1))]);
    let safe = [
        quorum,
        ("x-dead-letter-strategy", Value::text("at-least-once")),
        ("x-overflow", Value::text("reject-publish")),
        ("x-delivery-limit", int(0)),
    ];
    for spec in [short, refusing, once, with(dead_lettering("safe", "", "b"), &safe)] {
        rig.declare(spec).await;
    }
    rig.publish("plain", &["rejected", "rejected in a transaction", "consumed"]).await;
    rig.settle(&plain, &[got(&rig, "plain").await.delivery.offset.0], Settle::Reject).await;
    let second = [got(&rig, "plain").await];
    commit(&rig, Vec::new(), settling(&second, Settle::Reject)).await.unwrap();
    assert_eq!(rig.get("plain").await.as_deref(), Some("consumed"));
    let rejected = (QueueType::Classic, DeadLettering::Disabled, DeathReason::Rejected, 2);
    assert_eq!(deaths(&rig), [rejected]);
    rig.publish("short", &["expires", "expires"]).await;
    pass(25).await;
    rig.publish("refusing", &["stays"]).await;
    assert_eq!(rig.publish_as("refusing", &["refused"], true).await.failed.len(), 1);
    rig.publish("once", &["dropped", "dropped", "stays"]).await;
    rig.publish("safe", &["fails"]).await;
    let fails = [got(&rig, "safe").await];
    rig.settle(&fails[0].queue, &[fails[0].delivery.offset.0], Settle::Fail).await;
    quiet().await;
    let (classic, of) = (QueueType::Classic, QueueType::Quorum);
    let expected = [
        rejected,
        (classic, DeadLettering::AtMostOnce, DeathReason::Expired, 2),
        (classic, DeadLettering::AtMostOnce, DeathReason::MaxLength, 1),
        (of, DeadLettering::AtMostOnce, DeathReason::MaxLength, 2),
        (of, DeadLettering::AtLeastOnce, DeathReason::DeliveryLimit, 1),
    ];
    assert_eq!(deaths(&rig), expected);
    assert_eq!(rig.get_all("b").await.len(), 4);
}

/// A letter that its target refuses is none yet.
#[tokio::test(start_paused = true)]
async fn a_letter_that_waits_is_not_counted_before_it_is_there() {
    let rig = Rig::new().await;
    let full = [("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))];
    rig.declare(with(durable("b"), &full)).await;
    rig.publish("b", &["in the way"]).await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    let publish = Publish { message: message("a", "letter", true), to: rig.route("", "a") };
    assert!(rig.queues.publish(vec![publish]).await.await.failed.is_empty());
    rig.settle(&a, &[got(&rig, "a").await.delivery.offset.0], Settle::Reject).await;
    pass(2000).await;
    assert_eq!(deaths(&rig), []);
    assert!(rig.get("b").await.is_some());
    pass(2000).await;
    let one = (QueueType::Classic, DeadLettering::AtMostOnce, DeathReason::Rejected, 1);
    assert_eq!(deaths(&rig), [one]);
}

#[tokio::test(start_paused = true)]
async fn queues_are_counted_however_they_come_and_go() {
    let mut rig = Rig::new().await;
    let counts = |rig: &Rig| {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tally = rig.queues.tally();
        (read(&tally.declared), read(&tally.created), read(&tally.deleted))
    };
    rig.queue("q").await;
    rig.queue("q").await;
    let wrong = QueueSpec { auto_delete: true, ..durable("q") };
    rig.queues.declare_queue(&rig.session, VHOST, wrong).await.unwrap_err();
    assert_eq!(counts(&rig), (3, 1, 0));
    rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
    rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    assert_eq!(counts(&rig), (3, 1, 1));
    rig.queue_with("unused", &[("x-expires", int(20))]).await;
    pass(50).await;
    assert_eq!(counts(&rig), (4, 2, 2));
    rig.declare(QueueSpec { exclusive: true, durable: false, ..durable("own") }).await;
    rig.session = rig.queues.session();
    quiet().await;
    assert_eq!(counts(&rig), (5, 3, 3));
    rig.queues.create_vhost("v").await.unwrap();
    for name in ["a", "b"] {
        rig.queues.declare_queue(&rig.session, "v", durable(name)).await.unwrap();
    }
    rig.queues.delete_vhost("v").await.unwrap();
    rig.queue("kept").await;
    assert_eq!(counts(&rig), (8, 6, 5));
    rig.restart().await;
    assert_eq!(counts(&rig), (0, 0, 0), "what was there is not made again");
}
