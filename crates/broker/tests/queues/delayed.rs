//! Messages that exchanges keep back: when they come, that they come once, and what is there in between.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_broker::queues::{
    DeleteIf, ExchangeKind, ExchangeSpec, Message, Publish, Published, QueueError, QueueHandle, QueueOptions,
    QueueSpec, Routed, Settle, Unfit, Value,
};
use ferrymq_storage::ErrorKind;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;

use crate::rig::{
    Rig, VHOST, arguments, binding, commit, counts, durable, exchange, got, int, message, pass, quiet,
    settling, staged,
};
use crate::staged::Fate;

/// An exchange that routes as `kind` when a message is due.
fn delaying(name: &str, kind: &str) -> ExchangeSpec {
    let list = arguments(&[("x-delayed-type", Value::text(kind))]);
    ExchangeSpec { arguments: list, ..exchange(name, ExchangeKind::Delayed) }
}

async fn later(rig: &Rig) -> QueueHandle {
    assert!(rig.queues.declare_exchange(&rig.session, VHOST, delaying("later", "topic")).await.unwrap());
    let queue = rig.queue("q").await;
    rig.bind("later", "q", "k.#").await;
    queue
}

fn route(rig: &Rig, exchange: &str, keys: &[&[u8]], delay: i64) -> Routed {
    let headers = arguments(&[("x-delay", int(delay))]);
    rig.queues.route_all(VHOST, exchange, keys, &headers).unwrap()
}

fn delayed(rig: &Rig, body: &str, delay: i64) -> Publish {
    let message = Message { exchange: Bytes::from_static(b"later"), ..message("k.1", body, true) };
    Publish { message, to: route(rig, "later", &[b"k.1"], delay) }
}

async fn publish(rig: &Rig, messages: &[(&str, i64)]) -> Published {
    let messages = messages.iter().map(|(body, delay)| delayed(rig, body, *delay)).collect();
    rig.queues.publish(messages).await.await
}

async fn bodies(rig: &Rig, queue: &str) -> Vec<String> {
    rig.get_all(queue).await.into_iter().map(|(body, _)| body).collect()
}

/// Lets time pass, and whatever takes several turns.
async fn wait(ms: u64) {
    pass(ms).await;
    for _ in 0..10 {
        quiet().await;
    }
}

/// Of the queue that was declared first.
async fn ready(rig: &Rig, queue: &str) -> u64 {
    rig.queues.queue(&rig.session, VHOST, queue).await.unwrap().stat.ready
}

/// Ranges of delays lie in different logs; each comes within two milliseconds, and never early.
#[tokio::test(start_paused = true)]
async fn they_come_when_they_are_due_and_not_before() {
    let rig = Rig::new().await;
    let queue = later(&rig).await;
    assert!(publish(&rig, &[("now", 0), ("past", -5), ("too far", 4_294_967_296)]).await.failed.is_empty());
    assert_eq!(bodies(&rig, "q").await, ["now", "past", "too far"], "no delay is none");
    let delays: [i64; 9] =
        [100_000_000, 20_000, 5, 70_000, 300_000, 15_999, 16_000, 2_000_000, 4_294_967_295];
    for delay in delays {
        assert!(publish(&rig, &[(&delay.to_string(), delay)]).await.failed.is_empty());
    }
    let mut sorted = delays;
    sorted.sort_unstable();
    let mut at = 0;
    for (count, delay) in (0..).zip(sorted) {
        // One that comes so soon after the other is looked at with it.
        if delay > at {
            wait((delay - at - 1).unsigned_abs()).await;
            assert_eq!(rig.stat(&queue).await.ready, count, "early: {delay}");
            wait(3).await;
            at = delay + 2;
        }
        assert!(rig.stat(&queue).await.ready > count, "late: {delay}");
    }
    assert_eq!(bodies(&rig, "q").await, sorted.map(|delay| delay.to_string()));
}

/// Over clean and unclean ends; due while nothing ran, it comes at once.
#[tokio::test(start_paused = true)]
async fn restarts_lose_nothing_and_double_nothing() {
    for clean in [true, false] {
        let mut rig = Rig::new().await;
        later(&rig).await;
        for round in 0..20 {
            publish(&rig, &[(&format!("{round:02}"), 500 + round * 100), ("far", 40_000)]).await;
        }
        wait(1203).await;
        if clean {
            rig.restart().await
        } else {
            rig.start().await
        }
        wait(0).await;
        assert_eq!(ready(&rig, "q").await, 8, "clean {clean}");
        if clean {
            rig.restart().await;
            tokio::time::advance(std::time::Duration::from_millis(700)).await;
        }
        rig.start().await;
        for _ in 0..30 {
            wait(100).await;
        }
        let expected: Vec<String> = (0..20).map(|round| format!("{round:02}")).collect();
        assert_eq!(bodies(&rig, "q").await, expected, "clean {clean}: each once, in order");
        for _ in 0..40 {
            wait(1000).await;
        }
        assert_eq!(ready(&rig, "q").await, 20, "the far ones");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_confirmed_when_it_is_durable() {
    let (rig, logs) = staged().await;
    later(&rig).await;
    logs.stage.hold();
    let mut answer = rig.queues.publish(vec![delayed(&rig, "a", 1000)]).await;
    quiet().await;
    assert!(futures_util::poll!(&mut answer).is_pending());
    logs.stage.decide(Fate::Fails(ErrorKind::Full));
    quiet().await;
    assert_eq!(answer.await.failed.len(), 1, "and refused if it is not");
    logs.stage.release();
    wait(5000).await;
    assert_eq!(ready(&rig, "q").await, 0);
}

/// The move is one commit: refused, it is tried again; at no time is the message in both places.
#[tokio::test(start_paused = true)]
async fn a_move_that_fails_is_tried_again() {
    let (rig, logs) = staged().await;
    let queue = later(&rig).await;
    publish(&rig, &[("a", 1000)]).await;
    logs.stage.hold();
    wait(1002).await;
    assert_eq!(rig.stat(&queue).await.ready, 0);
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    wait(100).await;
    logs.stage.release();
    wait(600).await;
    assert_eq!(bodies(&rig, "q").await, ["a"]);
    wait(5000).await;
    assert_eq!(rig.stat(&queue).await.ready, 0);
}

/// One that a queue refuses does not keep the others, and comes when there is room.
#[tokio::test(start_paused = true)]
async fn a_full_queue_delays_its_own_only() {
    let rig = Rig::new().await;
    later(&rig).await;
    let refusing = arguments(&[("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))]);
    let full = rig.declare(QueueSpec { arguments: refusing, ..durable("full") }).await.queue;
    rig.bind("later", "full", "full").await;
    let to_full = |body: &str| {
        let message = Message { exchange: Bytes::from_static(b"later"), ..message("full", body, true) };
        Publish { message, to: route(&rig, "later", &[b"full"], 1000) }
    };
    let mut messages: Vec<Publish> = ["x", "y", "z"].into_iter().map(to_full).collect();
    messages.extend((0..10).map(|number| delayed(&rig, &number.to_string(), 1000)));
    assert!(rig.queues.publish(messages).await.await.failed.is_empty());
    wait(1003).await;
    assert_eq!(bodies(&rig, "q").await.len(), 10);
    for body in ["x", "y", "z"] {
        assert_eq!(rig.stat(&full).await.ready, 1);
        assert_eq!(rig.get("full").await.as_deref(), Some(body));
        wait(1100).await;
    }
    assert_eq!(rig.stat(&full).await, counts(0, 0));
}

/// What it is routed by is found when it is due: queues and exchanges that come and go in between.
#[tokio::test(start_paused = true)]
async fn it_is_routed_when_it_is_due() {
    let rig = Rig::new().await;
    later(&rig).await;
    publish(&rig, &[("a", 1000)]).await;
    rig.queue("new").await;
    rig.bind("later", "new", "#").await;
    rig.queues.unbind(&rig.session, VHOST, binding("later", "q", "k.#")).await.unwrap();
    wait(1003).await;
    assert_eq!((ready(&rig, "q").await, bodies(&rig, "new").await), (0, vec!["a".to_owned()]));
    publish(&rig, &[("b", 1000)]).await;
    rig.queues.delete_exchange(&rig.session, VHOST, "later", DeleteIf::default()).await.unwrap();
    wait(2000).await;
    assert_eq!(ready(&rig, "new").await, 0, "nowhere");
}

/// Carbon copies are routed with it, and an exchange in the middle keeps back what reaches it.
#[tokio::test(start_paused = true)]
async fn copies_and_exchanges_behind_exchanges() {
    let rig = Rig::new().await;
    later(&rig).await;
    rig.queue("cc").await;
    rig.bind("later", "cc", "other").await;
    let mut publish = delayed(&rig, "a", 1000);
    publish.to = route(&rig, "later", &[b"k.1", b"other"], 1000);
    rig.exchange("first", ExchangeKind::Fanout).await;
    rig.queue("at once").await;
    rig.bind("first", "at once", "").await;
    rig.queues.bind_exchange(&rig.session, VHOST, binding("first", "later", "")).await.unwrap();
    let message = Message { exchange: Bytes::from_static(b"first"), ..message("k.1", "b", true) };
    let second = Publish { message, to: route(&rig, "first", &[b"k.1"], 1000) };
    assert!(rig.queues.publish(vec![publish, second]).await.await.failed.is_empty());
    assert_eq!(bodies(&rig, "at once").await, ["b"]);
    wait(1003).await;
    assert_eq!((ready(&rig, "q").await, bodies(&rig, "cc").await), (2, vec!["a".to_owned()]));
    let varies = ["first", "later"].map(|name| rig.queues.routes_by_headers(VHOST, name));
    assert_eq!(varies, [true, true]);
}

/// Published by a joint commit, it waits as any.
#[tokio::test(start_paused = true)]
async fn in_a_joint_commit() {
    let rig = Rig::new().await;
    let queue = later(&rig).await;
    rig.publish("q", &["old"]).await;
    let held = got(&rig, "q").await;
    commit(&rig, vec![delayed(&rig, "new", 1000)], settling(&[held], Settle::Ack)).await.unwrap();
    assert_eq!(rig.stat(&queue).await, counts(0, 0));
    wait(1003).await;
    assert_eq!(bodies(&rig, "q").await, ["new"]);
}

/// Far more than may be known in memory, in one range of delays, in any order, with restarts in between.
#[tokio::test(start_paused = true)]
async fn many_with_little_memory() {
    for seed in 0..4u64 {
        let options = QueueOptions { delays_in_memory: 50, shards: 2, ..QueueOptions::default() };
        let mut rig = Rig::with_options(MemoryStore::new(), Arc::new(MemoryMeta::new()), options).await;
        later(&rig).await;
        let rng = ferrymq_runtime::Rng::seeded(seed);
        let mut due: Vec<(u64, String)> = Vec::new();
        for round in 0..40u64 {
            let delays: Vec<u64> = (0..50).map(|_| 17_000 + rng.next_u64() % 20_000).collect();
            let texts: Vec<String> = delays
                .iter()
                .zip(0..)
                .map(|(delay, at)| format!("{:08}-{at}", round * 100 + delay))
                .collect();
            let messages: Vec<(&str, i64)> =
                texts.iter().zip(&delays).map(|(text, delay)| (&**text, delay.cast_signed())).collect();
            assert!(publish(&rig, &messages).await.failed.is_empty());
            due.extend(delays.iter().zip(&texts).map(|(delay, text)| (round * 100 + delay, text.clone())));
            pass(100).await;
        }
        due.sort_unstable();
        for step in 0..400u64 {
            wait(100).await;
            if step % 130 == 129 {
                match seed % 2 {
                    0 => rig.restart().await,
                    _ => rig.start().await,
                }
                continue;
            }
            let now = 4000 + (step + 1) * 100;
            let sure = due.iter().filter(|(at, _)| at + 10 <= now).count() as u64;
            let most = due.iter().filter(|(at, _)| *at <= now).count() as u64;
            let is = ready(&rig, "q").await;
            assert!((sure..=most).contains(&is), "seed {seed} step {step}: {is} of {sure} to {most}");
        }
        let mut found = bodies(&rig, "q").await;
        found.sort_unstable();
        let mut expected: Vec<String> = due.into_iter().map(|(_, text)| text).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "seed {seed}: each once");
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_routes_as_is_checked() {
    let rig = Rig::new().await;
    let declare = async |spec: ExchangeSpec| rig.queues.declare_exchange(&rig.session, VHOST, spec).await;
    for (kind, unfit) in [
        ("x-delayed-message", Unfit::DelayedTwice),
        ("unheard of", Unfit::UnknownKind("unheard of".to_owned())),
    ] {
        let refused = declare(delaying("x", kind)).await;
        assert!(matches!(&refused, Err(QueueError::Unfit(why)) if *why == unfit), "{refused:?}");
    }
    let bare = exchange("x", ExchangeKind::Delayed);
    assert!(matches!(declare(bare).await, Err(QueueError::Unfit(Unfit::NoDelayedType))));
    let mut hashing = delaying("x", "x-consistent-hash");
    hashing.arguments.0.push(("hash-property".to_owned(), Value::text("colour")));
    assert!(matches!(declare(hashing).await, Err(QueueError::Unfit(Unfit::Hash(_)))));
    assert!(declare(delaying("x", "direct")).await.unwrap());
    assert!(!declare(delaying("x", "direct")).await.unwrap());
    assert!(matches!(declare(delaying("x", "fanout")).await, Err(QueueError::Inequivalent { .. })));
    // Nobody can name where messages wait.
    let held = route(&rig, "x", &[b"k"], 1000);
    assert!(held.queues().is_empty() && !held.is_empty());
}

/// What waits goes with its virtual host, also if its deletion is cut short; one of that name again has nothing of it.
#[tokio::test(start_paused = true)]
async fn it_goes_with_its_virtual_host() {
    let mut rig = Rig::new().await;
    for round in 0..2 {
        assert!(rig.queues.create_vhost("v").await.unwrap());
        let declare = rig.queues.declare_exchange(&rig.session, "v", delaying("later", "fanout"));
        assert!(declare.await.unwrap());
        rig.queues.declare_queue(&rig.session, "v", durable("q")).await.unwrap();
        rig.queues.bind(&rig.session, "v", binding("later", "q", "")).await.unwrap();
        let headers = arguments(&[("x-delay", int(1000))]);
        let to = rig.queues.route_all("v", "later", &[b"k"], &headers).unwrap();
        let message = message("k", "x", true);
        assert!(rig.queues.publish(vec![Publish { message, to }]).await.await.failed.is_empty());
        if round == 1 {
            wait(1003).await;
            let queue = rig.queues.queue(&rig.session, "v", "q").await.unwrap();
            assert_eq!(queue.stat.ready, 1, "once");
        }
        assert!(rig.queues.delete_vhost("v").await.unwrap());
        rig.restart().await;
        wait(5000).await;
    }
    assert!(rig.queues.create_vhost("v").await.unwrap());
}
