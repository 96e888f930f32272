//! Queues over topics where the topic trims: what was not done is counted, or dead-lettered first.

use std::time::Duration;

use ferrymq_broker::queues::{Settle, Value};
use ferrymq_broker::retention;

use crate::over_rig::{OverRig, fresh, texts};
use crate::rig::{body, counts, quiet};

const HOUR_MS: &str = "3600000";

/// After retention has noted what is there.
async fn pass_two_hours(rig: &OverRig) {
    retention::run_once(&rig.broker).await;
    tokio::time::advance(Duration::from_secs(7_200)).await;
}

fn letters() -> [(&'static str, Value); 2] {
    [("x-dead-letter-exchange", Value::text("")), ("x-dead-letter-routing-key", Value::text("letters"))]
}

#[tokio::test(start_paused = true)]
async fn what_is_trimmed_before_it_was_done_is_counted_once() {
    let mut rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &[]).await;
    rig.produce("t", 0, &["a", "b", "c", "d", "e", "f"]).await;
    let (a, b, c) =
        (rig.take("q").await.unwrap(), rig.take("q").await.unwrap(), rig.take("q").await.unwrap());
    rig.settle(&queue, &[&a], Settle::Ack).await;
    rig.trim("t", 0, 5).await;
    quiet().await;
    assert_eq!((rig.stat(&queue).await, rig.queues.trimmed()), (counts(1, 2), 2), "d and e");
    // What somebody held: done is done, given back is gone.
    rig.settle(&queue, &[&b], Settle::Ack).await;
    rig.settle(&queue, &[&c], Settle::Requeue).await;
    quiet().await;
    assert_eq!((rig.stat(&queue).await, rig.queues.trimmed()), (counts(1, 0), 3));
    assert_eq!(rig.take_all("q").await, fresh(&["f"]));
    // What goes while the queue is not there to see it is counted when it is.
    rig.over("late", "t", &[]).await;
    rig.produce("t", 0, &["g", "h"]).await;
    rig = rig.restart().await;
    assert_eq!(rig.queues.trimmed(), 0);
    let stores = rig.stores.clone();
    let (clock, tasks) = (rig.clock.clone(), ferrymq_runtime::Tasks::new());
    let options = ferrymq_broker::BrokerOptions {
        retention_interval: Duration::from_secs(1 << 30),
        ..Default::default()
    };
    let rng = ferrymq_runtime::Rng::seeded(99);
    let alone = ferrymq_broker::Broker::open(stores, options, clock, rng, tasks).await.unwrap();
    let partition = alone.topics().partition("t", 0).unwrap();
    alone.trim(&partition, ferrymq_types::Offset(7)).await.unwrap();
    rig = rig.crash().await;
    assert_eq!(rig.queues.trimmed(), 4, "f and g of each");
    assert_eq!(texts(&rig.take_all("late").await), ["h"]);
}

#[tokio::test(start_paused = true)]
async fn retention_waits_for_dead_letters() {
    let rig = OverRig::new().await;
    rig.topic("t", 2, &[("retention.ms", HOUR_MS)]).await;
    let queue = rig.over("q", "t", &letters()).await;
    rig.queue("letters").await;
    rig.produce("t", 0, &["a", "b", "c"]).await;
    rig.produce("t", 1, &["x", "y"]).await;
    let held = rig.take("q").await.unwrap();
    rig.settle(&queue, &[&held], Settle::Requeue).await;
    pass_two_hours(&rig).await;
    rig.produce("t", 0, &["young"]).await;
    // Nobody holds anything: it is done as soon as the letters are there.
    let before = rig.clock.wall_ms();
    retention::run_once(&rig.broker).await;
    assert!(rig.clock.wall_ms() - before < 1000, "it did not wait in vain");
    assert_eq!((rig.partition("t", 0).log_start().0, rig.partition("t", 1).log_start().0), (3, 2));
    let mut all: Vec<String> = texts(&rig.take_all("letters").await).into_iter().map(String::from).collect();
    all.sort();
    assert_eq!(all, ["a", "b", "c", "x", "y"]);
    assert_eq!(rig.queues.trimmed(), 0);
    assert_eq!(texts(&rig.take_all("q").await), ["young"]);
}

#[tokio::test(start_paused = true)]
async fn retention_waits_for_a_minute_at_most() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[("retention.ms", HOUR_MS)]).await;
    let queue = rig.over("q", "t", &letters()).await;
    // One without dead letters holds up nothing.
    let plain = rig.over("plain", "t", &[]).await;
    rig.queue("letters").await;
    rig.produce("t", 0, &["held", "b", "c"]).await;
    let held = rig.take("q").await.unwrap();
    assert_eq!(body(&held), "held");
    pass_two_hours(&rig).await;
    let before = rig.clock.wall_ms();
    retention::run_once(&rig.broker).await;
    let waited = rig.clock.wall_ms() - before;
    assert!((60_000..61_000).contains(&waited), "{waited}");
    assert_eq!(rig.partition("t", 0).log_start().0, 3);
    assert_eq!(texts(&rig.take_all("letters").await), ["b", "c"]);
    assert_eq!((rig.stat(&queue).await, rig.stat(&plain).await), (counts(0, 1), counts(0, 0)));
    assert_eq!(rig.queues.trimmed(), 3, "of the plain one");
    rig.settle(&queue, &[&held], Settle::Requeue).await;
    quiet().await;
    assert_eq!((rig.stat(&queue).await, rig.queues.trimmed()), (counts(0, 0), 4));
}

/// A letter whose target takes nothing is trimmed, counted and gone; nothing stands still for it.
#[tokio::test(start_paused = true)]
async fn letters_that_are_not_taken_are_trimmed() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[("retention.ms", HOUR_MS)]).await;
    let queue = rig.over("q", "t", &letters()).await;
    let full = [("x-max-length", crate::rig::int(1)), ("x-overflow", Value::text("reject-publish"))];
    let spec = ferrymq_broker::queues::QueueSpec {
        arguments: crate::rig::arguments(&full),
        ..crate::rig::durable("letters")
    };
    rig.queues.declare_queue(&rig.session, crate::rig::VHOST, spec).await.unwrap();
    rig.publish("", "letters", "in the way").await;
    rig.produce("t", 0, &["a", "b"]).await;
    pass_two_hours(&rig).await;
    rig.produce("t", 0, &["young"]).await;
    retention::run_once(&rig.broker).await;
    assert_eq!(rig.partition("t", 0).log_start().0, 2);
    // The mover finds out when it tries again.
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(1)).await;
        quiet().await;
    }
    assert_eq!(rig.queues.trimmed(), 2);
    assert_eq!(texts(&rig.take_all("q").await), ["young"]);
    assert_eq!(rig.stat(&queue).await, counts(0, 1));
}

/// However much retention is about to trim, and however long its letters take: a part of it is under way.
#[tokio::test(start_paused = true)]
async fn what_is_taken_out_for_retention_is_bounded() {
    const TAKEN: u64 = 65_536;
    let rig = OverRig::new().await;
    rig.topic("t", 2, &[("retention.ms", HOUR_MS)]).await;
    let queue = rig.over("q", "t", &letters()).await;
    let full = [("x-max-length", crate::rig::int(1)), ("x-overflow", Value::text("reject-publish"))];
    let spec = ferrymq_broker::queues::QueueSpec {
        arguments: crate::rig::arguments(&full),
        ..crate::rig::durable("letters")
    };
    rig.queues.declare_queue(&rig.session, crate::rig::VHOST, spec).await.unwrap();
    rig.publish("", "letters", "in the way").await;
    for at in 0..80 {
        rig.produce("t", at % 2, &["x"; 1000]).await;
    }
    pass_two_hours(&rig).await;
    let looked = async {
        for _ in 0..20 {
            quiet().await;
            let ready = rig.stat(&queue).await.ready;
            assert!(ready >= 80_000 - TAKEN, "{ready}");
        }
        assert_eq!(rig.stat(&queue).await, counts(80_000 - TAKEN, 0));
    };
    tokio::join!(retention::run_once(&rig.broker), looked);
    assert_eq!(rig.stat(&queue).await, counts(0, 0));
}

/// Letters that wait for their target end with the topic, and let go of it.
#[tokio::test(start_paused = true)]
async fn letters_end_with_their_topic() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &letters()).await;
    let full = [("x-max-length", crate::rig::int(1)), ("x-overflow", Value::text("reject-publish"))];
    let spec = ferrymq_broker::queues::QueueSpec {
        arguments: crate::rig::arguments(&full),
        ..crate::rig::durable("letters")
    };
    rig.queues.declare_queue(&rig.session, crate::rig::VHOST, spec).await.unwrap();
    rig.publish("", "letters", "in the way").await;
    rig.produce("t", 0, &["a"]).await;
    let a = rig.take("q").await.unwrap();
    rig.settle(&queue, &[&a], Settle::Reject).await;
    quiet().await;
    let partition = std::sync::Arc::downgrade(&rig.partition("t", 0));
    rig.broker.delete_topic("t").await.unwrap();
    drop(queue);
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(1)).await;
        quiet().await;
    }
    assert_eq!(partition.strong_count(), 0, "somebody still reads it");
}
