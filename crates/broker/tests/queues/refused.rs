//! `reject-publish-dlx`: what a full queue refuses is refused, and is a dead letter all the same.

use ferrymq_broker::queues::{ExchangeKind, Published, QueueError, QueueHandle, QueueSpec, Value};
use ferrymq_storage::ErrorKind;

use crate::letters::dead_lettering;
use crate::rig::{Rig, counts, durable, int, quiet, staged};
use crate::staged::Fate;

/// A queue that takes `most` messages and whose others go to `b`.
fn burying(name: &str, most: i64) -> QueueSpec {
    let mut spec = dead_lettering(name, "", "b");
    spec.arguments.0.push(("x-max-length".to_owned(), int(most)));
    spec.arguments.0.push(("x-overflow".to_owned(), Value::text("reject-publish-dlx")));
    spec
}

fn refused(published: &Published) -> Vec<usize> {
    let full = |error: &QueueError| assert!(matches!(error, QueueError::Full { .. }), "{error}");
    published.failed.iter().inspect(|(_, error)| full(error)).map(|(index, _)| *index).collect()
}

async fn all(rig: &Rig, queue: &str) -> Vec<String> {
    rig.get_all(queue).await.into_iter().map(|(body, _)| body).collect()
}

#[tokio::test(start_paused = true)]
async fn refused_ones_are_letters() {
    let mut rig = Rig::new().await;
    rig.declare(burying("a", 2)).await;
    rig.queue("b").await;
    rig.queue("c").await;
    // Another queue takes the same message.
    rig.exchange("both", ExchangeKind::Fanout).await;
    rig.bind("both", "a", "").await;
    rig.bind("both", "c", "").await;
    let published = rig.publish_as("a", &["1", "2", "3", "4"], true).await;
    assert_eq!(refused(&published), [2, 3]);
    let mut messages = rig.messages("a", &["5"], true);
    messages[0].to = rig.route("both", "");
    assert_eq!(refused(&rig.queues.publish(messages).await.await), [0]);
    // What the store has is what a crash leaves.
    rig.start().await;
    assert_eq!(all(&rig, "a").await, ["1", "2"]);
    assert_eq!(all(&rig, "b").await, ["3", "4", "5"]);
    assert_eq!(all(&rig, "c").await, ["5"]);
}

#[tokio::test(start_paused = true)]
async fn without_an_exchange_they_are_refused_and_no_more() {
    let rig = Rig::new().await;
    let queue = rig
        .queue_with("a", &[("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish-dlx"))])
        .await;
    assert_eq!(refused(&rig.publish_as("a", &["1", "2"], true).await), [1]);
    assert_eq!(rig.stat(&queue).await, counts(1, 0));
}

async fn is_answered(answer: &mut (impl Future<Output = Published> + Unpin)) -> Option<Published> {
    quiet().await;
    tokio::select! {
        biased;
        published = answer => Some(published),
        () = async {} => None,
    }
}

/// The publisher hears of it once the letter is durable, or certainly is not.
#[tokio::test(start_paused = true)]
async fn the_refusal_follows_the_letter() {
    for (fate, arrived) in [(Fate::Happens, 1), (Fate::Fails(ErrorKind::Full), 0)] {
        let (rig, logs) = staged().await;
        rig.declare(burying("a", 0)).await;
        let b = rig.queue("b").await;
        logs.stage.hold();
        let mut answer = rig.queues.publish(rig.messages("a", &["1"], true)).await;
        assert!(is_answered(&mut answer).await.is_none());
        logs.stage.decide(fate);
        let published = is_answered(&mut answer).await.expect("its fate is known");
        assert_eq!(refused(&published), [0]);
        assert_eq!(rig.stat(&b).await, counts(arrived, 0));
    }
}

/// A target may refuse it too and send it on; one that refuses for good ends it.
#[tokio::test(start_paused = true)]
async fn a_target_may_be_full() {
    let rig = Rig::new().await;
    rig.declare(burying("a", 0)).await;
    let mut spec = dead_lettering("b", "", "c");
    spec.arguments.0.push(("x-max-length".to_owned(), int(1)));
    spec.arguments.0.push(("x-overflow".to_owned(), Value::text("reject-publish-dlx")));
    rig.declare(spec).await;
    rig.queue_with("c", &[("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))]).await;
    assert_eq!(refused(&rig.publish_as("a", &["1", "2", "3"], true).await), [0, 1, 2]);
    assert_eq!(all(&rig, "b").await, ["1"]);
    assert_eq!(all(&rig, "c").await, ["2"]);
}

/// Letters take no room in a mailbox: a flood through one that holds little comes to its end.
#[tokio::test(start_paused = true)]
async fn a_flood_of_them_ends() {
    let rig = Rig::cramped(8 * 1024).await;
    rig.declare(burying("a", 1)).await;
    let b: QueueHandle = rig.declare(durable("b")).await.queue;
    let body = "x".repeat(3000);
    let flood = (0..50).map(|_| async { rig.publish_as("a", &[&*body; 4], true).await });
    let published = futures_util::future::join_all(flood).await;
    let count: usize = published.iter().map(|published| refused(published).len()).sum();
    assert_eq!((count, rig.ready(&b).await), (199, 199));
}
