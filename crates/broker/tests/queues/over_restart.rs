//! Queues over topics after stops and kills: what was acknowledged stays so.

use std::sync::Arc;

use ferrymq_broker::queues::{ApplyTo, NoHeaders, PolicySort, PolicySpec, Publish, Settle, Value};
use ferrymq_storage::ErrorKind;
use ferrymq_types::Offset;

use crate::over_rig::{OverRig, fresh, texts};
use crate::rig::{VHOST, arguments, binding, counts, int, message, pass, quiet};
use crate::staged::{Fate, StagedLogs};

#[tokio::test]
async fn acks_out_of_order_are_kept_over_stops_and_kills() {
    for clean in [true, false] {
        let mut rig = OverRig::new().await;
        rig.topic("t", 2, &[]).await;
        let queue = rig.over("q", "t", &[("x-queue-type", Value::text("quorum"))]).await;
        rig.produce("t", 0, &["a", "b", "c", "d"]).await;
        rig.produce("t", 1, &["x", "y", "z"]).await;
        let mut all = Vec::new();
        while let Some(delivery) = rig.take("q").await {
            all.push(delivery);
        }
        let named = |name: &str| all.iter().find(|one| crate::rig::body(one) == name).unwrap();
        rig.settle(&queue, &[named("b"), named("x"), named("d")], Settle::Ack).await;
        rig.settle(&queue, &[named("y")], Settle::Fail).await;
        rig.acks_are_durable(&queue).await;
        rig.produce("t", 0, &["later"]).await;
        rig = if clean { rig.restart().await } else { rig.crash().await };
        let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
        assert_eq!(rig.stat(&queue).await, counts(5, 0), "clean {clean}");
        let mut found = Vec::new();
        while let Some(delivery) = rig.take("q").await {
            let name = crate::rig::body(&delivery);
            // After a kill nobody knows what was delivered.
            assert_eq!(delivery.redelivered, !clean || name != "later", "clean {clean} {name}");
            // At a clean stop a session ends that had them; a crash counts nothing.
            let failed = name == "y" || clean && name != "later";
            assert_eq!(delivery.failed, Some(u16::from(failed)), "clean {clean} {name}");
            found.push(name);
        }
        found.sort();
        assert_eq!(found, ["a", "c", "later", "y", "z"], "clean {clean}");
        // Declared again it is the same.
        assert!(
            !rig.try_declare("q", "t", &[("x-queue-type", Value::text("quorum"))]).await.unwrap().created
        );
    }
}

/// The floor is told by deltas alone: also after the state log was rewritten, and after a life in which nothing happened.
#[tokio::test]
async fn what_is_done_in_order_stays_done() {
    let mut rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    rig.produce("t", 0, &["not", "these", "done"]).await;
    let mut queue = rig.over("q", "t", &[("x-kafka-start", int(2))]).await;
    rig.queues.purge(&rig.session, VHOST, "q").await.unwrap();
    for round in 0..6 {
        let values: Vec<String> = (0..50).map(|at| format!("{round}-{at}")).collect();
        rig.produce("t", 0, &values.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut taken = Vec::new();
        while let Some(delivery) = rig.take("q").await {
            taken.push(delivery);
        }
        assert_eq!(crate::rig::bodies(&taken), values, "round {round}");
        rig.settle(&queue, &taken.iter().collect::<Vec<_>>(), Settle::Ack).await;
        rig.acks_are_durable(&queue).await;
        match round % 3 {
            0 => rig = rig.crash().await,
            1 => rig = rig.restart().await,
            _ => {
                rig = rig.crash().await;
                rig = rig.crash().await;
            }
        }
        queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
        assert_eq!(rig.stat(&queue).await, counts(0, 0), "round {round}");
        assert_eq!(rig.partition("t", 0).log_start(), Offset(0));
    }
}

#[tokio::test]
async fn a_purge_is_durable_and_bindings_come_back() {
    let mut rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &[]).await;
    rig.queues.bind(&rig.session, VHOST, binding("amq.fanout", "q", "")).await.unwrap();
    rig.produce("t", 0, &["a", "b", "c"]).await;
    let held = rig.take("q").await.unwrap();
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 2);
    assert_eq!(rig.stat(&queue).await, counts(0, 1));
    rig = rig.crash().await;
    assert_eq!(rig.take_all("q").await, [("a".to_owned(), true)]);
    rig.publish("amq.fanout", "", "d").await;
    assert_eq!(rig.take_all("q").await, fresh(&["d"]));
    drop(held);
    // A topic that was deleted, or deleted and made again, while the queue was not there to see it.
    rig.topic("u", 1, &[]).await;
    rig.over("of u", "u", &[]).await;
    let (clock, rng) = (rig.clock.clone(), ferrymq_runtime::Rng::seeded(99));
    let tasks = ferrymq_runtime::Tasks::new();
    let alone = ferrymq_broker::Broker::open(rig.stores.clone(), Default::default(), clock, rng, tasks);
    let alone = alone.await.unwrap();
    alone.delete_topic("t").await.unwrap();
    alone.delete_topic("u").await.unwrap();
    let new = ferrymq_broker::NewTopic { name: "t".into(), partitions: 1, config: Default::default() };
    alone.create_topic(new).await.unwrap();
    rig = rig.crash().await;
    quiet().await;
    for name in ["q", "of u"] {
        assert!(rig.queues.inspect_queue(VHOST, name).await.is_err(), "{name}");
    }
    assert!(rig.queues.route(VHOST, "amq.fanout", b"", &NoHeaders).unwrap().is_empty());
    rig.produce("t", 0, &["new"]).await;
    rig.over("q", "t", &[]).await;
    assert_eq!(rig.take_all("q").await, fresh(&["new"]));
}

#[tokio::test]
async fn transactions_and_dead_letters_hold_records() {
    let mut rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let letters =
        [("x-dead-letter-exchange", Value::text("")), ("x-dead-letter-routing-key", Value::text("letters"))];
    let queue = rig.over("q", "t", &letters).await;
    rig.queue("letters").await;
    rig.queue("target").await;
    rig.produce("t", 0, &["a", "b", "c"]).await;
    let (a, b) = (rig.take("q").await.unwrap(), rig.take("q").await.unwrap());
    let to = rig.queues.route(VHOST, "", b"target", &NoHeaders).unwrap();
    let publishes = vec![Publish { message: message("target", "of a", true), to }];
    let settles = vec![(queue.clone(), vec![(a.offset, Settle::Ack), (b.offset, Settle::Reject)])];
    rig.queues.commit(&rig.session, publishes, settles).await.unwrap();
    let letter = loop {
        if let Some(letter) = rig.take("letters").await {
            break letter;
        }
        quiet().await;
    };
    assert_eq!(crate::rig::body(&letter), "b");
    assert_eq!(rig.stat(&queue).await, counts(1, 0));
    rig = rig.crash().await;
    assert_eq!(texts(&rig.take_all("q").await), ["c"], "a and b are done for good");
    assert_eq!(texts(&rig.take_all("letters").await), ["b"]);
    assert_eq!(texts(&rig.take_all("target").await), ["of a"]);
}

/// What a declaration could not ask for no policy brings in.
#[tokio::test(start_paused = true)]
async fn policies_do_not_say_what_the_topic_says() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &[]).await;
    rig.produce("t", 0, &["a", "b", "c"]).await;
    let definition = arguments(&[
        ("message-ttl", int(1)),
        ("max-length", int(1)),
        ("expires", int(1)),
        ("dead-letter-exchange", Value::text("")),
        ("dead-letter-routing-key", Value::text("letters")),
    ]);
    let spec = PolicySpec {
        name: "p".into(),
        pattern: "^q$".to_owned(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition,
    };
    rig.queues.set_policy(PolicySort::Policy, VHOST, spec).await.unwrap();
    rig.queue("letters").await;
    pass(1000).await;
    assert_eq!(rig.stat(&queue).await, counts(3, 0));
    // What it says besides holds.
    let a = rig.take("q").await.unwrap();
    rig.settle(&queue, &[&a], Settle::Reject).await;
    pass(1000).await;
    assert_eq!(texts(&rig.take_all("letters").await), ["a"]);
}

/// A state log that is rewritten tells of every queue over a topic how far it is done: nothing else does.
#[tokio::test]
async fn a_rewritten_state_log_tells_how_far_it_is_done() {
    let logs = StagedLogs::default();
    let mut rig = OverRig::standing_on(Arc::new(logs.clone())).await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &[]).await;
    rig.produce("t", 0, &["a", "b", "c"]).await;
    let (a, b) = (rig.take("q").await.unwrap(), rig.take("q").await.unwrap());
    rig.settle(&queue, &[&a], Settle::Ack).await;
    rig.acks_are_durable(&queue).await;
    // A write of acks that is refused: what it told is made up for by telling everything again.
    logs.stage.hold();
    rig.settle(&queue, &[&b], Settle::Ack).await;
    quiet().await;
    assert_eq!(logs.stage.waiting(), 1);
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    logs.stage.release();
    rig.acks_are_durable(&queue).await;
    quiet().await;
    for _ in 0..2 {
        rig = rig.crash().await;
        assert_eq!(rig.take_all("q").await, [("c".to_owned(), true)]);
    }
}
