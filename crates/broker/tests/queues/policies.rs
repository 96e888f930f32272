//! Policies: what they do to queues and exchanges that are there, and to those that come.

use std::sync::Arc;

use ferrymq_broker::queues::{
    ApplyTo, BadPolicy, Credit, Deliveries, Event, ExchangeKind, PolicyError, PolicySort, PolicySpec,
    QueueError, QueueHandle, QueueSpec, Settle, Value, deliveries,
};

use futures_util::FutureExt as _;

use crate::priorities::publish;
use crate::rig::{
    Rig, VHOST, arguments, bodies, durable, exchange, got, int, offsets, pass, quiet, staged, take,
};

const MIB: usize = 1024 * 1024;

pub(crate) fn policy(name: &str, pattern: &str, list: &[(&str, Value)]) -> PolicySpec {
    PolicySpec {
        name: Arc::from(name),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: arguments(list),
    }
}

pub(crate) async fn set(rig: &Rig, spec: PolicySpec) {
    rig.queues.set_policy(PolicySort::Policy, VHOST, spec).await.unwrap();
}

async fn clear(rig: &Rig, name: &str) {
    assert!(rig.queues.clear_policy(PolicySort::Policy, VHOST, name).await.unwrap());
}

async fn all(rig: &Rig, queue: &str) -> Vec<String> {
    rig.get_all(queue).await.into_iter().map(|(body, _)| body).collect()
}

async fn queue_of(rig: &Rig, name: &str) -> QueueHandle {
    rig.queues.queue(&rig.session, VHOST, name).await.unwrap().queue
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_at_once_for_what_is_there_and_what_comes() {
    let mut rig = Rig::new().await;
    let (queue, other) = (rig.queue("q").await, rig.queue("other").await);
    let names = ["a", "b", "c", "d", "e"];
    rig.publish("q", &names).await;
    rig.publish("other", &names).await;
    set(&rig, policy("p", "^q", &[("max-length", int(3))])).await;
    assert_eq!(rig.ready(&queue).await, 3);
    assert_eq!(rig.ready(&other).await, 5);
    rig.publish("q", &["f"]).await;
    assert_eq!(rig.ready(&queue).await, 3);
    // One that is declared later, and after a restart.
    let late = rig.queue("q late").await;
    rig.publish("q late", &names).await;
    assert_eq!(rig.ready(&late).await, 3);
    rig.restart().await;
    rig.publish("q", &["g"]).await;
    assert_eq!(rig.ready(&queue_of(&rig, "q").await).await, 3);
    // Another value takes its place; cleared, there is no limit.
    set(&rig, policy("p", "^q", &[("max-length", int(2))])).await;
    assert_eq!(rig.ready(&queue_of(&rig, "q").await).await, 2);
    clear(&rig, "p").await;
    rig.publish("q", &names).await;
    assert_eq!(all(&rig, "q").await, ["f", "g", "a", "b", "c", "d", "e"]);
    rig.restart().await;
    rig.publish("q", &names).await;
    assert_eq!(rig.ready(&queue_of(&rig, "q").await).await, 12);
}

#[tokio::test(start_paused = true)]
async fn an_operator_limits_what_a_user_may_say() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-length", int(4))]).await;
    rig.publish("q", &["a", "b", "c", "d", "e"]).await;
    assert_eq!(rig.ready(&queue).await, 4);
    let operator =
        |list: &[(&str, Value)]| rig.queues.set_policy(PolicySort::Operator, VHOST, policy("op", "", list));
    assert!(operator(&[("max-length", int(3))]).await.unwrap());
    assert_eq!(rig.ready(&queue).await, 3);
    set(&rig, policy("p", "q", &[("max-length", int(100))])).await;
    rig.publish("q", &["f"]).await;
    assert_eq!(rig.ready(&queue).await, 3);
    assert!(!operator(&[("max-length", int(1)), ("overflow", Value::text("reject-publish"))]).await.unwrap());
    // A refusing limit takes nothing away that is there.
    assert_eq!(rig.ready(&queue).await, 3);
    let published = rig.publish_as("q", &["g"], true).await;
    assert!(matches!(published.failed[0].1, QueueError::Full { .. }));
    // An argument wins over that of a policy.
    let own = rig.queue_with("own", &[("x-overflow", Value::text("drop-head"))]).await;
    rig.publish("own", &["a", "b"]).await;
    assert_eq!(rig.ready(&own).await, 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_of_what_is_there() {
    for held_first in [false, true] {
        let rig = Rig::new().await;
        let queue = rig.queue("q").await;
        rig.publish("q", &["aaaa", "bbbb", "cccc", "dddd"]).await;
        let held = if held_first { Some(got(&rig, "q").await) } else { None };
        set(&rig, policy("p", "q", &[("max-length-bytes", int(9))])).await;
        assert_eq!(rig.ready(&queue).await, 2, "held {held_first}");
        if let Some(held) = held {
            // It counts again, and is the oldest.
            rig.settle(&queue, &[held.delivery.offset.0], Settle::Requeue).await;
            assert_eq!(rig.ready(&queue).await, 2);
        }
        rig.publish("q", &["e"]).await;
        assert_eq!(rig.ready(&queue).await, 3);
        // A changed limit goes on with what was counted.
        set(&rig, policy("p", "q", &[("max-length-bytes", int(5))])).await;
        assert_eq!(rig.ready(&queue).await, 2);
        rig.publish("q", &["ff"]).await;
        assert_eq!(all(&rig, "q").await, ["e", "ff"]);
    }
}

/// Each priority's messages lie in a log of their own; a limit is of them all.
#[tokio::test(start_paused = true)]
async fn a_limit_is_of_all_priorities() {
    let mut rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-max-priority", int(9))]).await;
    let some = [("a1", Some(1)), ("b9", Some(9)), ("c1", Some(1)), ("d5", Some(5)), ("e0", None)];
    publish(&rig, "q", &some).await;
    let held = got(&rig, "q").await;
    assert_eq!(held.delivery.message.body, "b9");
    // What is held does not count; the head goes, and that is the one of the highest priority.
    set(&rig, policy("p", "q", &[("max-length-bytes", int(6))])).await;
    assert_eq!(rig.ready(&queue).await, 3);
    // Given back it counts again, and is the head.
    rig.settle(&queue, &[held.delivery.offset.0], Settle::Requeue).await;
    assert_eq!(rig.ready(&queue).await, 3);
    set(&rig, policy("p", "q", &[("max-length", int(4)), ("message-ttl", int(1000))])).await;
    publish(&rig, "q", &[("f5", Some(5)), ("g7", Some(7))]).await;
    assert_eq!(rig.ready(&queue).await, 4);
    rig.restart().await;
    let queue = queue_of(&rig, "q").await;
    assert_eq!(rig.ready(&queue).await, 4);
    pass(1001).await;
    assert_eq!(rig.ready(&queue).await, 0);
}

/// What a queue refuses by policy is dead-lettered by policy, from the moment on that it says so.
#[tokio::test(start_paused = true)]
async fn what_is_refused_becomes_a_letter() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    rig.queue("dead").await;
    let limits = [("max-length", int(1)), ("overflow", Value::text("reject-publish-dlx"))];
    let to = [("dead-letter-exchange", Value::text("")), ("dead-letter-routing-key", Value::text("dead"))];
    set(&rig, policy("p", "^q$", &[&limits[..], &to[..]].concat())).await;
    let published = rig.publish_as("q", &["a", "b"], true).await;
    assert_eq!(published.failed.len(), 1, "{published:?}");
    assert_eq!((all(&rig, "q").await, all(&rig, "dead").await), (vec!["a".to_owned()], vec!["b".to_owned()]));
    clear(&rig, "p").await;
    assert!(rig.publish_as("q", &["c", "d"], true).await.failed.is_empty());
    assert_eq!(all(&rig, "dead").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn while_bytes_are_counted_nothing_leaves_and_everything_may_come() {
    let (rig, logs) = staged().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["aaaa", "bbbb", "cccc"]).await;
    let held = [got(&rig, "q").await, got(&rig, "q").await];
    logs.reads.hold();
    let queues = rig.queues.clone();
    let spec = policy("p", "q", &[("max-length-bytes", int(9))]);
    let mut setting = Box::pin(queues.set_policy(PolicySort::Policy, VHOST, spec));
    assert!((&mut setting).now_or_never().is_none());
    quiet().await;
    let (sink, mut from) = deliveries(MIB);
    rig.consume("q", Credit::Window(1), &sink).await;
    rig.settle(&queue, &[held[0].delivery.offset.0], Settle::Requeue).await;
    rig.settle(&queue, &[held[1].delivery.offset.0], Settle::Ack).await;
    rig.publish("q", &["dd"]).await;
    quiet().await;
    assert!(from.try_recv().is_none(), "nothing is delivered meanwhile");
    logs.reads.release();
    assert!(setting.await.unwrap());
    // aaaa + cccc + dd are 10: the consumer takes one, and what is left is within the limit.
    let first = take(&mut from, 1).await;
    assert_eq!(bodies(&first), ["aaaa"]);
    assert_eq!(rig.ready(&queue).await, 2);
    rig.publish("q", &["eeee"]).await;
    assert_eq!(rig.ready(&queue).await, 2, "cccc was too many");
    rig.settle(&queue, &offsets(&first), Settle::Ack).await;
    assert_eq!(bodies(&take(&mut from, 1).await), ["dd"]);
}

#[tokio::test(start_paused = true)]
async fn a_purge_while_bytes_are_counted_leaves_nothing_to_count() {
    let (rig, logs) = staged().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["held", "aaaa", "bbbb"]).await;
    // As long as somebody has the first, the log keeps those behind it.
    let _held = got(&rig, "q").await;
    logs.reads.hold();
    let queues = rig.queues.clone();
    let spec = policy("p", "q", &[("max-length-bytes", int(9))]);
    let mut setting = Box::pin(queues.set_policy(PolicySort::Policy, VHOST, spec));
    assert!((&mut setting).now_or_never().is_none());
    quiet().await;
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 2);
    logs.reads.release();
    assert!(setting.await.unwrap());
    rig.publish("q", &["cccc", "dddd"]).await;
    assert_eq!(rig.ready(&queue).await, 2);
}

#[tokio::test(start_paused = true)]
async fn times_to_live_are_those_of_the_policy_from_then_on() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-message-ttl", int(60_000))]).await;
    rig.publish("q", &["a"]).await;
    pass(1000).await;
    assert_eq!(rig.ready(&queue).await, 1);
    set(&rig, policy("p", "q", &[("message-ttl", int(2000))])).await;
    assert_eq!(rig.ready(&queue).await, 1);
    rig.publish("q", &["b"]).await;
    pass(1100).await;
    assert_eq!(rig.ready(&queue).await, 1);
    // Longer again: what is there stays.
    clear(&rig, "p").await;
    pass(5000).await;
    assert_eq!(all(&rig, "q").await, ["b"]);
    // One that is over already.
    rig.publish("q", &["c"]).await;
    pass(5000).await;
    set(&rig, policy("p", "q", &[("message-ttl", int(4000))])).await;
    assert_eq!(rig.ready(&queue).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_not_in_memory_goes_by_the_new_time_too() {
    let rig = Rig::tight(1).await;
    let queue = rig.queue_with("q", &[("x-message-ttl", int(60_000))]).await;
    rig.publish("q", &["a", "b"]).await;
    pass(1000).await;
    set(&rig, policy("p", "q", &[("message-ttl", int(2000))])).await;
    pass(1100).await;
    // Nobody looks at the queue until then.
    let stat = rig.queues.list_queues(Some(VHOST)).await.unwrap()[0].stat.unwrap();
    assert_eq!((stat.ready, rig.ready(&queue).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_uses_goes_when_a_policy_says_so() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    rig.queue("stays").await;
    pass(10_000).await;
    set(&rig, policy("p", "^q", &[("expires", int(5000))])).await;
    pass(4000).await;
    assert_eq!(rig.routed("", "q"), ["q"], "its time begins with the policy");
    // Shorter.
    set(&rig, policy("p", "^q", &[("expires", int(3000))])).await;
    pass(3100).await;
    assert!(rig.routed("", "q").is_empty());
    // Cleared in time, it stays.
    rig.queue("q").await;
    pass(2000).await;
    clear(&rig, "p").await;
    pass(20_000).await;
    assert_eq!(rig.routed("", "q"), ["q"]);
    assert_eq!(rig.routed("", "stays"), ["stays"]);
}

#[tokio::test(start_paused = true)]
async fn letters_go_where_the_policy_says_when_they_leave() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.queue("one").await;
    rig.queue("two").await;
    let to = |key: &str| {
        [("dead-letter-exchange", Value::text("")), ("dead-letter-routing-key", Value::text(key))]
    };
    rig.publish("q", &["a", "b", "c", "d"]).await;
    let reject = async || {
        let offset = got(&rig, "q").await.delivery.offset.0;
        rig.settle(&queue, &[offset], Settle::Reject).await;
        quiet().await;
    };
    reject().await;
    set(&rig, policy("p", "^q", &to("one"))).await;
    reject().await;
    set(&rig, policy("p", "^q", &to("two"))).await;
    reject().await;
    clear(&rig, "p").await;
    reject().await;
    assert_eq!(rig.ready(&queue).await, 0);
    assert_eq!(all(&rig, "one").await, ["b"]);
    assert_eq!(all(&rig, "two").await, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_limited_by_policy_in_quorum_queues_only() {
    let rig = Rig::new().await;
    let quorum = [("x-queue-type", Value::text("quorum"))];
    let (queue, classic) = (rig.queue_with("q", &quorum).await, rig.queue("q classic").await);
    set(&rig, policy("p", "^q", &[("delivery-limit", int(1)), ("max-length", int(1))])).await;
    rig.publish("q", &["a"]).await;
    rig.publish("q classic", &["a", "b"]).await;
    assert_eq!(rig.ready(&classic).await, 2, "it knows no such key, so nothing of the policy applies");
    for ready in [1, 0] {
        let offset = got(&rig, "q").await.delivery.offset.0;
        rig.settle(&queue, &[offset], Settle::Fail).await;
        assert_eq!(rig.ready(&queue).await, ready);
    }
}

#[tokio::test(start_paused = true)]
async fn exchanges_lead_elsewhere_when_a_policy_says_so() {
    let mut rig = Rig::new().await;
    rig.exchange("e", ExchangeKind::Direct).await;
    rig.queue("q").await;
    rig.bind("amq.fanout", "q", "").await;
    assert!(rig.routed("e", "k").is_empty());
    let generation = rig.queues.generation();
    let lead = |to: &str| policy("p", "^e", &[("alternate-exchange", Value::text(to))]);
    set(&rig, lead("amq.fanout")).await;
    assert!(rig.queues.generation() > generation, "kept routes are stale");
    assert_eq!(rig.routed("e", "k"), ["q"]);
    rig.restart().await;
    assert_eq!(rig.routed("e", "k"), ["q"]);
    rig.queues.declare_exchange(&rig.session, VHOST, exchange("e late", ExchangeKind::Topic)).await.unwrap();
    assert_eq!(rig.routed("e late", "k"), ["q"]);
    set(&rig, lead("nowhere")).await;
    assert!(rig.routed("e", "k").is_empty());
    clear(&rig, "p").await;
    assert!(rig.routed("e", "k").is_empty());
    assert!(!rig.queues.clear_policy(PolicySort::Policy, VHOST, "p").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_changes_nothing() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let try_set = |spec: PolicySpec| rig.queues.set_policy(PolicySort::Policy, VHOST, spec);
    let bad = try_set(policy("p", "q", &[("max-length", int(-1))])).await.unwrap_err();
    assert!(matches!(bad, PolicyError::Bad(BadPolicy::Value("max-length", _))), "{bad}");
    let bad = try_set(policy("", "q", &[("max-length", int(1))])).await.unwrap_err();
    assert!(matches!(bad, PolicyError::Queue(QueueError::BadName { .. })), "{bad}");
    let set = rig.queues.set_policy(PolicySort::Policy, "no", policy("p", "q", &[("max-length", int(1))]));
    assert!(matches!(set.await.unwrap_err(), PolicyError::Queue(QueueError::NoVhost(_))));
    rig.publish("q", &["a", "b"]).await;
    assert_eq!(rig.ready(&queue).await, 2);
    assert!(rig.queues.policies(PolicySort::Policy, VHOST).unwrap().is_empty());
    for number in 0..1000 {
        let spec = policy(&number.to_string(), "^none", &[("max-length", int(1))]);
        assert!(try_set(spec).await.unwrap());
    }
    let one_more = || policy("more", "q", &[("max-length", int(1))]);
    let bad = try_set(one_more()).await.unwrap_err();
    assert!(matches!(bad, PolicyError::Queue(QueueError::Limit { limit: 1000, .. })), "{bad}");
    // One that is there may change, and the same again is no change.
    let spec = PolicySpec { name: "7".into(), ..one_more() };
    assert!(!try_set(spec.clone()).await.unwrap());
    assert!(!try_set(spec).await.unwrap());
    assert_eq!(rig.ready(&queue).await, 1);
}

#[tokio::test(start_paused = true)]
async fn transient_and_exclusive_queues_go_by_policies_too() {
    let rig = Rig::new().await;
    let own = QueueSpec { durable: false, exclusive: true, ..durable("q own") };
    let queue = rig.declare(own).await.queue;
    rig.publish_as("q own", &["aa", "bb", "cc"], false).await;
    set(&rig, policy("p", "^q", &[("max-length-bytes", int(4))])).await;
    assert_eq!(rig.ready(&queue).await, 2);
    let error = rig.queues.queue(&rig.queues.session(), VHOST, "q own").await.unwrap_err();
    assert!(matches!(error, QueueError::ExclusiveLocked { .. }), "{error}");
    assert_eq!(all(&rig, "q own").await, ["bb", "cc"]);
}

/// Waits and timeouts of quorum queues: from the next failure and the next consumer on.
#[tokio::test(start_paused = true)]
async fn what_comes_back_waits_and_who_is_slow_is_told() {
    let rig = Rig::new().await;
    let queue = rig.queue_with("q", &[("x-queue-type", Value::text("quorum"))]).await;
    rig.publish("q", &["a", "b"]).await;
    let all = Value::text("all");
    let retry =
        [("delayed-retry-type", all), ("delayed-retry-min", int(1000)), ("delayed-retry-max", int(1500))];
    set(&rig, policy("p", "^q$", &retry)).await;
    let held = got(&rig, "q").await.delivery;
    rig.settle(&queue, &[held.offset.0], Settle::Fail).await;
    assert_eq!(rig.ready(&queue).await, 1, "one waits");
    pass(999).await;
    assert_eq!(rig.ready(&queue).await, 1);
    pass(3).await;
    assert_eq!(rig.ready(&queue).await, 2);
    // The second failure would wait for twice as long.
    let held = got(&rig, "q").await.delivery;
    rig.settle(&queue, &[held.offset.0], Settle::Fail).await;
    quiet().await;
    pass(1490).await;
    assert_eq!(rig.ready(&queue).await, 1);
    pass(13).await;
    assert_eq!(rig.ready(&queue).await, 2);
    // What waits goes on waiting when nothing is to wait any more.
    let held = got(&rig, "q").await.delivery;
    rig.settle(&queue, &[held.offset.0], Settle::Fail).await;
    clear(&rig, "p").await;
    assert_eq!(rig.ready(&queue).await, 1);
    pass(1503).await;
    assert_eq!(rig.ready(&queue).await, 2);
    let held = got(&rig, "q").await.delivery;
    rig.settle(&queue, &[held.offset.0], Settle::Fail).await;
    assert_eq!(rig.ready(&queue).await, 2, "nothing waits");

    let (sink, mut from) = deliveries(MIB);
    let overdue = |from: &mut Deliveries| {
        let is_overdue = |event: &Event| matches!(event, Event::Overdue { timeout_ms: 1000, .. });
        std::iter::from_fn(|| from.try_recv()).filter(is_overdue).count()
    };
    rig.consume("q", Credit::Window(1), &sink).await;
    set(&rig, policy("p", "^q$", &[("consumer-timeout", int(1000))])).await;
    take(&mut from, 1).await;
    pass(2000).await;
    assert_eq!(overdue(&mut from), 0, "who was there before goes by what was said then");
    rig.consume("q", Credit::Window(1), &sink).await;
    take(&mut from, 1).await;
    pass(1100).await;
    assert_eq!(overdue(&mut from), 1);
}
