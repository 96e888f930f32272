//! Messages and queues whose time is over: when they go, when they stay, and what a restart makes of it.

use ferrymq_broker::queues::{Credit, QueueError, QueueHandle, Settle, deliveries};
use ferrymq_storage::LogStore as _;

use crate::rig::{Rig, VHOST, bodies, durable, int, offsets, pass, quiet, take};
use crate::staged::StagedLogs;

const MIB: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn messages_go_at_their_time_though_nobody_looks() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-message-ttl", int(100))]).await;
    rig.publish("q", &["a"]).await;
    pass(50).await;
    rig.publish("q", &["b"]).await;
    rig.publish_for("q", "c", 20).await;
    pass(50).await;
    assert_eq!(rig.ready(&queue).await, 3, "never early");
    pass(5).await;
    assert_eq!(rig.ready(&queue).await, 2, "what is behind the head waits for it");
    pass(50).await;
    assert_eq!(rig.ready(&queue).await, 0);
    assert_eq!(rig.get("q").await, None);
    let stat = rig.store.stat(queue.log()).await.unwrap();
    assert_eq!(stat.start, stat.next, "they are gone from the log");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_may_stay_keeps_those_behind_it() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["stays"]).await;
    rig.publish_for("q", "goes", 10).await;
    rig.publish("q", &["stays too"]).await;
    pass(1000).await;
    assert_eq!(rig.ready(&queue).await, 3);
    assert_eq!(rig.get("q").await.as_deref(), Some("stays"));
    assert_eq!(rig.ready(&queue).await, 1);
    assert_eq!(rig.get("q").await.as_deref(), Some("stays too"));
}

#[tokio::test(start_paused = true)]
async fn no_time_at_all_means_now_or_never() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.publish_for("q", "nobody", 0).await;
    assert_eq!(rig.get("q").await, None, "who gets was not there before it");
    assert_eq!(rig.ready(&queue).await, 0);
    let (sink, mut all) = deliveries(MIB);
    rig.consume("q", Credit::Window(1), &sink).await;
    rig.publish_for("q", "somebody", 0).await;
    rig.publish_for("q", "too many", 0).await;
    let got = take(&mut all, 1).await;
    assert_eq!(bodies(&got), ["somebody"]);
    assert_eq!(rig.ready(&queue).await, 0);
    rig.settle(&queue, &offsets(&got), Settle::Ack).await;
    rig.publish("q", &["after"]).await;
    assert_eq!(bodies(&take(&mut all, 1).await), ["after"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_too_late_is_gone() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-message-ttl", int(100))]).await;
    let (sink, mut all) = deliveries(MIB);
    rig.consume("q", Credit::Window(10), &sink).await;
    rig.publish("q", &["a", "b"]).await;
    let got = offsets(&take(&mut all, 2).await);
    pass(60).await;
    rig.settle(&queue, &got[..1], Settle::Requeue).await;
    assert_eq!(bodies(&take(&mut all, 1).await), ["a"], "in time");
    pass(60).await;
    assert_eq!(rig.stat(&queue).await.unacked, 2, "what somebody has does not expire");
    rig.settle(&queue, &got, Settle::Requeue).await;
    quiet().await;
    assert!(all.try_recv().is_none());
    let stat = rig.stat(&queue).await;
    assert_eq!((stat.ready, stat.unacked), (0, 0));
}

/// A long queue is read from its log to be emptied, and a little of it at a time.
#[tokio::test(start_paused = true)]
async fn a_long_queue_expires_from_its_log() {
    let rig = Rig::tight(100_000).await;
    let queue = rig.queue_with("q", &[("x-message-ttl", int(100))]).await;
    let body = "x".repeat(1000);
    for _ in 0..50 {
        rig.publish("q", &vec![&*body; 100]).await;
    }
    assert_eq!(rig.ready(&queue).await, 5000);
    pass(105).await;
    for _ in 0..20 {
        quiet().await;
    }
    assert_eq!(rig.ready(&queue).await, 0);
    rig.publish("q", &["new"]).await;
    assert_eq!(rig.get("q").await.as_deref(), Some("new"));
}

/// More queues than may read their heads at a time, none of them in memory.
#[tokio::test(start_paused = true)]
async fn many_crowded_queues_expire_without_anybody() {
    let rig = Rig::tight(1).await;
    let mut queues: Vec<QueueHandle> = Vec::new();
    for number in 0..100 {
        let name = format!("q{number}");
        queues.push(rig.queue(&name).await);
        rig.publish_for(&name, "first", 100).await;
        rig.publish_for(&name, "second", 200).await;
    }
    for (passed, left) in [(105, 1), (100, 0)] {
        pass(passed).await;
        for _ in 0..10 {
            quiet().await;
        }
        for queue in &queues {
            assert_eq!(rig.ready(queue).await, left, "{queue:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn time_goes_on_while_nothing_runs() {
    for clean in [true, false] {
        let mut rig = Rig::new().await;
        rig.queue_with("all", &[("x-message-ttl", int(1000))]).await;
        rig.queue("own").await;
        for (name, again) in [("all", "own"), ("own", "all")] {
            rig.publish_for(name, "short", 500).await;
            rig.publish_for(name, "long", 1000).await;
            assert_ne!(name, again);
        }
        pass(400).await;
        if clean {
            rig.restart().await
        } else {
            rig.start().await
        }
        for (wait, left) in [(50, 2), (60, 1), (500, 0)] {
            pass(wait).await;
            for name in ["all", "own"] {
                let queue = rig.queues.queue(&rig.session, VHOST, name).await.unwrap();
                assert_eq!(queue.stat.ready, left, "clean {clean} {name}");
            }
        }
        // All of it while nothing runs: nobody is given what is too old.
        rig.publish_for("own", "old", 100).await;
        rig.publish("own", &["fresh"]).await;
        quiet().await;
        rig.restart().await;
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        rig.start().await;
        let (sink, mut all) = deliveries(MIB);
        rig.consume("own", Credit::Window(10), &sink).await;
        assert_eq!(bodies(&take(&mut all, 1).await), ["fresh"]);
    }
}

#[tokio::test(start_paused = true)]
async fn steps_of_the_clock_make_nothing_expire_early() {
    for step_ms in [-3_600_000, 3_600_000] {
        let mut rig = Rig::new().await;
        let queue = rig.queue_with("q", &[("x-message-ttl", int(1000))]).await;
        rig.publish("q", &["before"]).await;
        rig.clock.step_wall(step_ms);
        rig.publish("q", &["after"]).await;
        pass(990).await;
        assert_eq!(rig.ready(&queue).await, 2, "{step_ms}");
        pass(15).await;
        assert_eq!(rig.ready(&queue).await, 0, "{step_ms}");
        // Set back between two lives: later, but by no more than was passed before.
        rig.publish("q", &["a"]).await;
        pass(900).await;
        rig.clock.step_wall(-7_200_000);
        rig.restart().await;
        let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
        pass(900).await;
        assert_eq!(rig.ready(&queue).await, 1);
        pass(200).await;
        assert_eq!(rig.ready(&queue).await, 0);
    }
}

async fn is_there(rig: &Rig, name: &str) -> bool {
    quiet().await;
    let session = rig.queues.session();
    match rig.queues.get(&session, VHOST, name, true).await {
        Ok(_) => true,
        Err(QueueError::NotFound { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_uses_goes() {
    let mut rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-expires", int(1000))]).await;
    rig.publish("q", &["a"]).await;
    pass(900).await;
    assert_eq!(rig.get("q").await.as_deref(), Some("a"), "a use");
    pass(900).await;
    rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
    pass(900).await;
    assert!(rig.queues.stat(&queue).await.is_ok(), "a declaration is a use, to be asked is none");
    rig.publish("q", &["publishing is none"]).await;
    pass(105).await;
    assert!(!is_there(&rig, "q").await);
    // The same name again is another queue.
    let queue = rig.queue_with("q", &[("x-expires", int(1000))]).await;
    assert_eq!(rig.ready(&queue).await, 0);
    let (sink, mut all) = deliveries(MIB);
    let consumer = rig.consume("q", Credit::Window(10), &sink).await;
    pass(5000).await;
    rig.publish("q", &["b"]).await;
    assert_eq!(bodies(&take(&mut all, 1).await), ["b"], "consumed is used");
    rig.queues.cancel(&rig.session, &consumer).await.unwrap();
    pass(990).await;
    assert!(rig.queues.stat(&queue).await.is_ok(), "time begins when the last consumer goes");
    pass(20).await;
    assert!(!is_there(&rig, "q").await);
    let queue = rig.queue_with("q", &[("x-expires", int(1000))]).await;
    rig.consume("q", Credit::Window(10), &sink).await;
    pass(5000).await;
    let ended = std::mem::replace(&mut rig.session, rig.queues.session());
    ended.close().await;
    pass(990).await;
    assert!(rig.queues.stat(&queue).await.is_ok(), "also if its session went");
    pass(20).await;
    assert!(!is_there(&rig, "q").await);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_a_use() {
    let mut rig = Rig::new().await;
    rig.queue_with("q", &[("x-expires", int(1000))]).await;
    pass(900).await;
    rig.restart().await;
    pass(900).await;
    let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
    assert_eq!(rig.ready(&queue).await, 0);
    pass(1100).await;
    assert!(!is_there(&rig, "q").await);
    rig.restart().await;
    assert!(!is_there(&rig, "q").await, "and stays away");
}

/// Whoever comes at the last moment finds a queue: the old one, which then stays, or a new one.
#[tokio::test(start_paused = true)]
async fn who_comes_at_the_last_moment_has_a_queue() {
    let rig = Rig::new().await;
    for round in 0..40u64 {
        rig.queue_with("q", &[("x-expires", int(50))]).await;
        tokio::time::advance(std::time::Duration::from_millis(50)).await;
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        let queue = rig.queue_with("q", &[("x-expires", int(50))]).await;
        pass(40).await;
        assert!(rig.queues.stat(&queue).await.is_ok(), "round {round}");
        pass(60).await;
        assert!(!is_there(&rig, "q").await, "round {round}");
    }
    assert_eq!(rig.queue("other").await, rig.queues.queue(&rig.session, VHOST, "other").await.unwrap().queue);
    rig.declare(durable("q")).await;
}

/// After a start many queues wait to look at their heads; some get consumers meanwhile. The others are not forgotten.
#[tokio::test(start_paused = true)]
async fn no_queue_waits_for_ever_to_look_at_its_head() {
    let mut rig = Rig::new().await;
    let names: Vec<String> = (0..200).map(|number| format!("q{number:03}")).collect();
    for name in &names {
        rig.queue_with(name, &[("x-message-ttl", int(1000))]).await;
        rig.publish(name, &["1"]).await;
    }
    let logs = StagedLogs { memory: rig.store.clone(), ..StagedLogs::default() };
    logs.reads.hold();
    rig.reopen_over(&logs).await;
    quiet().await;
    let (sink, _events) = deliveries(1 << 20);
    for name in &names[64..132] {
        rig.consume(name, Credit::Window(1), &sink).await;
    }
    quiet().await;
    logs.reads.release();
    for _ in 0..60 {
        pass(1000).await;
    }
    let mut stuck = Vec::new();
    for name in &names {
        let queue = rig.route("", name).queues()[0].clone();
        if rig.stat(&queue).await.ready > 0 {
            stuck.push(name.clone());
        }
    }
    assert!(stuck.is_empty(), "older than a minute, with a time to live of a second: {stuck:?}");
}
