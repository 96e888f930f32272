//! Joint commits: all of it or nothing, whatever the store, other callers and deletions do meanwhile.

use ferrymq_broker::queues::{DeleteIf, Publish, QueueError, QueueHandle, Settle};
use ferrymq_storage::ErrorKind;
use futures_util::FutureExt as _;

use crate::rig::{Rig, VHOST, commit, counts, got, quiet, settling, staged};
use crate::staged::{Fate, StagedLogs};

/// Messages for queues of both shards, in turn.
fn both(rig: &Rig, bodies: &[&str]) -> Vec<Publish> {
    let mut all = rig.messages("a", bodies, true);
    all.extend(rig.messages("b", bodies, true));
    all
}

async fn two_shards() -> (Rig, QueueHandle, QueueHandle) {
    let rig = Rig::new().await;
    let (a, b) = (rig.queue("a").await, rig.queue("b").await);
    assert_ne!(a.log().0 % 2, b.log().0 % 2, "one queue in each shard");
    (rig, a, b)
}

fn texts(list: &[&str], redelivered: bool) -> Vec<(String, bool)> {
    list.iter().map(|text| ((*text).to_owned(), redelivered)).collect()
}

#[tokio::test(start_paused = true)]
async fn publishes_and_acks_of_two_shards_are_one() {
    let (mut rig, a, b) = two_shards().await;
    rig.publish("a", &["1", "2", "3"]).await;
    rig.publish("b", &["4", "5"]).await;
    let taken = [got(&rig, "a").await, got(&rig, "b").await];
    let back = got(&rig, "a").await;
    let mut settles = settling(&taken, Settle::Ack);
    settles.extend(settling(&[back], Settle::Requeue));
    commit(&rig, both(&rig, &["6", "7"]), settles).await.unwrap();
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(4, 0), counts(3, 0)));
    // What the store has now is what a crash leaves.
    rig.start().await;
    assert_eq!(rig.get_all("a").await, texts(&["2", "3", "6", "7"], true));
    assert_eq!(rig.get_all("b").await, texts(&["5", "6", "7"], true));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_holds_is_left_alone() {
    let (rig, a, _) = two_shards().await;
    rig.publish("a", &["1"]).await;
    let other = rig.queues.session();
    let held = rig.queues.get(&other, VHOST, "a", false).await.unwrap().expect("a message");
    commit(&rig, Vec::new(), settling(&[held], Settle::Ack)).await.unwrap();
    assert_eq!(rig.stat(&a).await, counts(0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_leaves_everything_as_it_was() {
    for kind in [ErrorKind::Full, ErrorKind::Unavailable] {
        let (mut rig, a, b) = two_shards().await;
        rig.publish("a", &["1"]).await;
        rig.publish("b", &["2"]).await;
        let taken = [got(&rig, "a").await, got(&rig, "b").await];
        rig.store.fail_next(kind, false);
        let failed = commit(&rig, both(&rig, &["3"]), settling(&taken, Settle::Ack)).await;
        assert!(matches!(failed, Err(QueueError::Storage(ref error)) if error.kind() == kind), "{failed:?}");
        assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 1), counts(0, 1)));
        // The same once more, and all is well.
        commit(&rig, both(&rig, &["4"]), settling(&taken, Settle::Ack)).await.unwrap();
        rig.publish("a", &["5"]).await;
        rig.start().await;
        assert_eq!(rig.get_all("a").await, texts(&["4", "5"], true));
        assert_eq!(rig.get_all("b").await, texts(&["4"], true));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_stops_the_shards() {
    let (mut rig, _, _) = two_shards().await;
    rig.publish("a", &["1"]).await;
    let taken = [got(&rig, "a").await];
    rig.store.fail_next(ErrorKind::Unknown, true);
    let unknown = commit(&rig, both(&rig, &["2"]), settling(&taken, Settle::Ack)).await;
    assert!(matches!(unknown, Err(QueueError::Storage(_))), "{unknown:?}");
    for queue in ["a", "b"] {
        let refused = rig.publish_as(queue, &["3"], true).await;
        assert_eq!(refused.failed.len(), 1, "nobody knows what lies in {queue}");
    }
    let refused = commit(&rig, both(&rig, &["4"]), Vec::new()).await;
    assert!(matches!(refused, Err(QueueError::Storage(_))), "{refused:?}");
    rig.start().await;
    assert_eq!(rig.get_all("a").await, texts(&["2"], true), "it had happened");
    assert_eq!(rig.get_all("b").await, texts(&["2"], true));
}

async fn staged_two() -> (Rig, StagedLogs, QueueHandle, QueueHandle) {
    let (rig, logs) = staged().await;
    let (a, b) = (rig.queue("a").await, rig.queue("b").await);
    (rig, logs, a, b)
}

#[tokio::test(start_paused = true)]
async fn nothing_shows_before_all_is_durable_and_order_holds() {
    let (rig, logs, a, b) = staged_two().await;
    rig.publish("a", &["0"]).await;
    let taken = [got(&rig, "a").await];
    logs.stage.hold();
    let before = rig.queues.publish(rig.messages("a", &["1"], true)).await;
    let mut joint = std::pin::pin!(commit(&rig, both(&rig, &["2"]), settling(&taken, Settle::Ack)));
    assert!(joint.as_mut().now_or_never().is_none());
    quiet().await;
    let after = rig.queues.publish(rig.messages("a", &["3"], true)).await;
    quiet().await;
    assert_eq!(logs.stage.waiting(), 3, "one before, the joint one, one behind");
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(0, 1), counts(0, 0)));
    logs.stage.decide(Fate::Happens);
    quiet().await;
    assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (counts(1, 1), counts(0, 0)));
    logs.stage.release();
    joint.await.unwrap();
    assert!(before.await.failed.is_empty() && after.await.failed.is_empty());
    assert_eq!(rig.get_all("a").await, texts(&["1", "2", "3"], false));
    assert_eq!(rig.get_all("b").await, texts(&["2"], false));
}

/// What went before it in one queue fails and takes the joint commit along, which is then made anew.
#[tokio::test(start_paused = true)]
async fn a_failure_before_it_is_not_its_own() {
    let (rig, logs, _, _) = staged_two().await;
    logs.stage.hold();
    let before = rig.queues.publish(rig.messages("a", &["1"], true)).await;
    quiet().await;
    let mut joint = std::pin::pin!(commit(&rig, both(&rig, &["2"]), Vec::new()));
    assert!(joint.as_mut().now_or_never().is_none());
    quiet().await;
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    logs.stage.release();
    joint.await.unwrap();
    assert_eq!(before.await.failed.len(), 1);
    assert_eq!(rig.get_all("a").await, texts(&["2"], false));
    assert_eq!(rig.get_all("b").await, texts(&["2"], false));
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_without_its_caller_and_its_session() {
    for happens in [true, false] {
        let (mut rig, logs, a, b) = staged_two().await;
        rig.publish("a", &["1"]).await;
        let taken = [got(&rig, "a").await];
        logs.stage.hold();
        {
            let mut joint = std::pin::pin!(commit(&rig, both(&rig, &["2"]), settling(&taken, Settle::Ack)));
            assert!(joint.as_mut().now_or_never().is_none());
            quiet().await;
        }
        let session = std::mem::replace(&mut rig.session, rig.queues.session());
        let mut close = std::pin::pin!(session.close());
        assert!(close.as_mut().now_or_never().is_none(), "its end waits for what it has begun");
        quiet().await;
        assert_eq!(rig.stat(&a).await, counts(0, 1), "it is decided by the store, not by the session");
        logs.stage.decide(if happens { Fate::Happens } else { Fate::Fails(ErrorKind::Unavailable) });
        logs.stage.release();
        close.await;
        quiet().await;
        let (ready, published) = if happens { (counts(1, 0), 1) } else { (counts(1, 0), 0) };
        assert_eq!((rig.stat(&a).await, rig.stat(&b).await), (ready, counts(published, 0)));
        let body = if happens { texts(&["2"], false) } else { texts(&["1"], true) };
        assert_eq!(rig.get_all("a").await, body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_meanwhile_takes_nothing_along() {
    for happens in [true, false] {
        let (rig, logs, _, _) = staged_two().await;
        rig.publish("b", &["1"]).await;
        let taken = [got(&rig, "b").await];
        let messages = both(&rig, &["2"]);
        logs.stage.hold();
        let mut joint = std::pin::pin!(commit(&rig, messages, settling(&taken, Settle::Ack)));
        assert!(joint.as_mut().now_or_never().is_none());
        quiet().await;
        let mut delete =
            std::pin::pin!(rig.queues.delete_queue(&rig.session, VHOST, "b", DeleteIf::default()));
        assert!(delete.as_mut().now_or_never().is_none(), "its log is in use");
        quiet().await;
        logs.stage.decide(if happens { Fate::Happens } else { Fate::Fails(ErrorKind::Full) });
        logs.stage.release();
        delete.await.unwrap();
        assert_eq!(joint.await.is_ok(), happens);
        let left = if happens { texts(&["2"], false) } else { Vec::new() };
        assert_eq!(rig.get_all("a").await, left);
        rig.publish("a", &["3"]).await;
        assert_eq!(rig.get_all("a").await, texts(&["3"], false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_before_is_passed_over() {
    let (rig, _, _) = two_shards().await;
    rig.publish("b", &["1"]).await;
    let taken = [got(&rig, "b").await];
    let messages = both(&rig, &["2"]);
    rig.queues.delete_queue(&rig.session, VHOST, "b", DeleteIf::default()).await.unwrap();
    commit(&rig, messages, settling(&taken, Settle::Ack)).await.unwrap();
    assert_eq!(rig.get_all("a").await, texts(&["2"], false));
}

/// Transient messages in between keep their place, and do not come back.
#[tokio::test(start_paused = true)]
async fn classes_mix() {
    let (rig, _, _) = two_shards().await;
    rig.publish_as("a", &["0"], false).await;
    let taken = [got(&rig, "a").await];
    let mut messages = rig.messages("a", &["1"], true);
    messages.extend(rig.messages("a", &["2"], false));
    messages.extend(both(&rig, &["3"]));
    commit(&rig, messages, settling(&taken, Settle::Ack)).await.unwrap();
    assert_eq!(rig.get_all("a").await, texts(&["1", "2", "3"], false));
    assert_eq!(rig.get_all("b").await, texts(&["3"], false));
}

/// The state log is rewritten in between, again and again, however many joint commits there are.
#[tokio::test(start_paused = true)]
async fn rewrites_of_the_state_log_find_their_moment() {
    let (mut rig, a, _) = two_shards().await;
    let bodies: Vec<String> = (0..3000).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    rig.publish("a", &bodies).await;
    let mut taken = Vec::new();
    for _ in 0..3000 {
        taken.push(got(&rig, "a").await);
    }
    // Every other one, so that each leaves a range: counts of 1,500 ranges, 300 times over, are more than 1 MiB.
    let odd: crate::rig::Settles = vec![(
        a.clone(),
        taken.iter().skip(1).step_by(2).map(|got| (got.delivery.offset, Settle::Requeue)).collect(),
    )];
    for round in 0..300 {
        commit(&rig, Vec::new(), odd.clone()).await.unwrap();
        let one = [taken[round * 2].clone()];
        commit(&rig, both(&rig, &["x"]), settling(&one, Settle::Ack)).await.unwrap();
        for _ in 0..1500 {
            got(&rig, "a").await;
        }
    }
    rig.start().await;
    let left = rig.get_all("a").await;
    assert_eq!(left.len(), 3000, "300 were acknowledged, 300 published");
    assert!((0..300).all(|round| !left.contains(&((round * 2).to_string(), true))));
}
