//! Dead letters: where they go, what they are counted as, and that nothing is lost or doubled on the way.

use ferrymq_broker::queues::{
    Credit, DeleteIf, ExchangeKind, QueueError, QueueHandle, QueueSpec, Settle, Value, Width, deliveries,
};
use ferrymq_storage::ErrorKind;
use ferrymq_storage::memory::MemoryStore;

use crate::rig::{Rig, VHOST, arguments, counts, durable, offsets, quiet, staged, take};
use crate::staged::{Fate, StagedLogs};

/// A queue whose dead letters go to an exchange, with this key if it is not empty.
pub(crate) fn dead_lettering(name: &str, exchange: &str, key: &str) -> QueueSpec {
    let mut list = vec![("x-dead-letter-exchange", Value::text(exchange))];
    if !key.is_empty() {
        list.push(("x-dead-letter-routing-key", Value::text(key)));
    }
    QueueSpec { arguments: arguments(&list), ..durable(name) }
}

fn texts(list: &[&str]) -> Vec<(String, bool)> {
    list.iter().map(|text| ((*text).to_owned(), false)).collect()
}

/// Gets `count` messages and rejects them in this order.
async fn reject(rig: &Rig, queue: &QueueHandle, count: usize, order: impl Fn(&mut Vec<u64>)) {
    let mut offsets = Vec::new();
    for _ in 0..count {
        let got = rig.queues.get(&rig.session, VHOST, queue.name(), false).await.unwrap().expect("a message");
        offsets.push(got.delivery.offset.0);
    }
    order(&mut offsets);
    rig.settle(queue, &offsets, Settle::Reject).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_rejected_goes_to_the_exchange() {
    let mut rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "dlx", "")).await.queue;
    rig.exchange("dlx", ExchangeKind::Topic).await;
    for name in ["b", "c"] {
        rig.queue(name).await;
    }
    rig.bind("dlx", "b", "a").await;
    rig.bind("dlx", "c", "#").await;
    let bodies: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    rig.publish("a", &bodies).await;
    reject(&rig, &a, 1500, |_| {}).await;
    quiet().await;
    assert_eq!(rig.stat(&a).await, counts(500, 0));
    // What the store has now is what a crash leaves: each is in one place.
    rig.start().await;
    let in_order = |found: Vec<(String, bool)>| found.into_iter().map(|(body, _)| body).collect::<Vec<_>>();
    assert_eq!(in_order(rig.get_all("b").await), bodies[..1500]);
    assert_eq!(in_order(rig.get_all("c").await), bodies[..1500]);
    assert_eq!(in_order(rig.get_all("a").await), bodies[1500..]);
}

#[tokio::test(start_paused = true)]
async fn they_go_in_the_order_in_which_they_were_rejected() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    rig.queue("b").await;
    rig.publish_as("a", &["1", "2"], false).await;
    rig.publish("a", &["3", "4"]).await;
    reject(&rig, &a, 4, |offsets| offsets.reverse()).await;
    quiet().await;
    assert_eq!(rig.get_all("b").await, texts(&["4", "3", "2", "1"]));
}

#[tokio::test(start_paused = true)]
async fn what_goes_nowhere_is_dropped() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "not there", "")).await.queue;
    let b = rig.declare(dead_lettering("b", "", "no queue")).await.queue;
    for queue in [&a, &b] {
        rig.publish(queue.name(), &["1"]).await;
        reject(&rig, queue, 1, |_| {}).await;
        quiet().await;
        assert_eq!(rig.stat(queue).await, counts(0, 0));
    }
}

/// A queue can be its own target; what is rejected comes to its end.
#[tokio::test(start_paused = true)]
async fn a_queue_may_take_its_own_dead_letters() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "", "a")).await.queue;
    rig.publish("a", &["1", "2"]).await;
    reject(&rig, &a, 1, |_| {}).await;
    quiet().await;
    assert_eq!(rig.get_all("a").await, texts(&["2", "1"]));
}

async fn staged_letters() -> (Rig, StagedLogs, QueueHandle, QueueHandle) {
    let (rig, logs) = staged().await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    let b = rig.queue("b").await;
    (rig, logs, a, b)
}

#[tokio::test(start_paused = true)]
async fn on_the_way_they_are_neither_ready_nor_unacked() {
    let (rig, logs, a, b) = staged_letters().await;
    rig.publish("a", &["1", "2"]).await;
    logs.stage.hold();
    reject(&rig, &a, 1, |_| {}).await;
    quiet().await;
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(1, 0), counts(0, 0)));
    // Purging takes what is ready, and nothing else.
    let purge = rig.queues.purge(&rig.session, VHOST, "a");
    logs.stage.release();
    assert_eq!(purge.await.unwrap(), 1);
    quiet().await;
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 0), counts(1, 0)));
}

#[tokio::test(start_paused = true)]
async fn what_the_store_refuses_is_tried_again() {
    let (rig, logs, a, b) = staged_letters().await;
    rig.publish("a", &["1"]).await;
    logs.stage.hold();
    reject(&rig, &a, 1, |_| {}).await;
    for kind in [ErrorKind::Full, ErrorKind::Unavailable, ErrorKind::Full] {
        quiet().await;
        while logs.stage.waiting() == 0 {
            tokio::time::advance(std::time::Duration::from_millis(100)).await;
            quiet().await;
        }
        logs.stage.decide(Fate::Fails(kind));
        quiet().await;
        assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 0), counts(0, 0)), "{kind:?}");
    }
    logs.stage.release();
    while rig.stat(&b).await.ready == 0 {
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        quiet().await;
    }
    assert_eq!(rig.get_all("b").await, texts(&["1"]));
    assert_eq!(rig.stat(&a).await, counts(0, 0));
}

/// A store that is full keeps them where they are, until there is room.
#[tokio::test(start_paused = true)]
async fn a_full_store_keeps_them() {
    let rig = Rig::over(MemoryStore::with_capacity(60_000, 10_000)).await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    let (b, _) = (rig.queue("b").await, rig.queue("other").await);
    let large = "x".repeat(9_000);
    rig.publish("a", &[&large]).await;
    while rig.publish_as("other", &[&large], true).await.failed.is_empty() {}
    reject(&rig, &a, 1, |_| {}).await;
    for _ in 0..20 {
        tokio::time::advance(std::time::Duration::from_millis(500)).await;
        quiet().await;
    }
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 0), counts(0, 0)), "it waits");
    rig.queues.purge(&rig.session, VHOST, "other").await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    quiet().await;
    assert_eq!(rig.get_all("b").await, texts(&[&large]));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_takes_its_letters_along() {
    let (rig, logs, a, b) = staged_letters().await;
    rig.publish("a", &["1"]).await;
    logs.stage.hold();
    reject(&rig, &a, 1, |_| {}).await;
    quiet().await;
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    quiet().await;
    logs.stage.release();
    rig.queues.delete_queue(&rig.session, VHOST, "a", DeleteIf::default()).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    quiet().await;
    assert_eq!(rig.stat(&b).await, counts(0, 0), "as in RabbitMQ, they went with it");
}

/// A reject in a joint commit becomes a letter once the commit is done.
#[tokio::test(start_paused = true)]
async fn rejected_in_a_joint_commit() {
    let rig = Rig::new().await;
    let a = rig.declare(dead_lettering("a", "", "b")).await.queue;
    rig.queue("b").await;
    rig.publish("a", &["1", "2"]).await;
    let got = rig.queues.get(&rig.session, VHOST, "a", false).await.unwrap().expect("a message");
    let settles = vec![(a.clone(), vec![(got.delivery.offset, Settle::Reject)])];
    rig.queues.commit(&rig.session, rig.messages("b", &["0"], true), settles).await.unwrap();
    quiet().await;
    assert_eq!(rig.get_all("b").await, texts(&["0", "1"]));
    assert_eq!(rig.stat(&a).await, counts(1, 0));
}

/// Other queues of the shard go on while a target cannot take letters.
#[tokio::test(start_paused = true)]
async fn consumers_of_the_source_go_on() {
    let (rig, logs, a, _) = staged_letters().await;
    rig.publish("a", &["1", "2", "3"]).await;
    let (sink, mut events) = deliveries(1 << 20);
    rig.consume("a", Credit::Window(1), &sink).await;
    logs.stage.hold();
    for offset in 0..3 {
        let got = take(&mut events, 1).await;
        assert_eq!(offsets(&got), [offset], "the next comes at once");
        rig.settle(&a, &[offset], Settle::Reject).await;
    }
    logs.stage.release();
    quiet().await;
    assert_eq!(rig.get_all("b").await, texts(&["1", "2", "3"]));
}

#[tokio::test(start_paused = true)]
async fn arguments_are_checked() {
    let rig = Rig::new().await;
    let declare = async |list: &[(&str, Value)]| {
        let spec = QueueSpec { arguments: arguments(list), ..durable("q") };
        rig.queues.declare_queue(&rig.session, VHOST, spec).await
    };
    let exchange = ("x-dead-letter-exchange", Value::text("x"));
    let no_name = declare(&[("x-dead-letter-exchange", Value::Bool(true))]).await;
    assert!(matches!(no_name, Err(QueueError::ArgumentType { .. })), "{no_name:?}");
    for wrong in [
        &[("x-dead-letter-routing-key", Value::text("k"))][..],
        &[exchange.clone(), ("x-dead-letter-strategy", Value::text("at-least-once"))],
        &[
            exchange.clone(),
            ("x-queue-type", Value::text("quorum")),
            ("x-dead-letter-strategy", Value::text("never")),
        ],
    ] {
        let refused = declare(wrong).await;
        assert!(matches!(refused, Err(QueueError::WrongArgument { .. })), "{wrong:?}: {refused:?}");
    }
    let quorum = [
        exchange.clone(),
        ("x-queue-type", Value::text("quorum")),
        ("x-dead-letter-strategy", Value::text("at-least-once")),
    ];
    assert!(declare(&quorum).await.unwrap().created);
    assert!(matches!(declare(&[exchange]).await, Err(QueueError::Inequivalent { .. })));
}

/// What expires and what is too many goes the same way; a target that refuses makes it wait.
#[tokio::test(start_paused = true)]
async fn all_that_leaves_goes_there() {
    let rig = Rig::new().await;
    let with = |name: &str, more: (&str, Value)| {
        let mut spec = dead_lettering(name, "", "b");
        spec.arguments.0.push((more.0.to_owned(), more.1));
        spec
    };
    let short = rig.declare(with("short", ("x-message-ttl", Value::Int(20, Width::I32)))).await.queue;
    let small = rig.declare(with("small", ("x-max-length", Value::Int(2, Width::I32)))).await.queue;
    let refusing = arguments(&[
        ("x-max-length", Value::Int(3, Width::I32)),
        ("x-overflow", Value::text("reject-publish")),
    ]);
    let b = rig.declare(QueueSpec { arguments: refusing, ..durable("b") }).await.queue;
    rig.publish("small", &["1", "2", "3"]).await;
    quiet().await;
    assert_eq!((rig.stat(&small).await, rig.stat(&b).await), (counts(2, 0), counts(1, 0)));
    rig.publish("short", &["4", "5", "6", "7"]).await;
    for _ in 0..20 {
        tokio::time::advance(std::time::Duration::from_millis(500)).await;
        quiet().await;
    }
    assert_eq!((rig.stat(&short).await, rig.stat(&b).await), (counts(0, 0), counts(3, 0)), "the others wait");
    assert_eq!(rig.get_all("b").await, texts(&["1", "4", "5"]));
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    quiet().await;
    assert_eq!(rig.get_all("b").await, texts(&["6", "7"]));
}
