//! Queues over topics whose batches are large, compressed or rubbish.

use ferrymq_broker::queues::{Settle, Value};
use ferrymq_types::Compression;

use crate::over_rig::{OverRig, fresh, texts};
use crate::rig::{VHOST, body, counts, quiet};

/// Thousands of records in a compressed batch: read a window at a time, each once and in order, and what comes back comes
/// back to its place wherever that is.
#[tokio::test]
async fn thousands_of_records_in_a_batch() {
    for compression in [Compression::None, Compression::Zstd] {
        let mut rig = OverRig::new().await;
        rig.topic("t", 1, &[]).await;
        let queue = rig.over("q", "t", &[("x-queue-type", Value::text("quorum"))]).await;
        let values: Vec<String> = (0..6000).map(|at| format!("{at:0>150}")).collect();
        for half in values.chunks(3000) {
            let values: Vec<&str> = half.iter().map(String::as_str).collect();
            rig.produce_as("t", 0, &values, compression).await;
        }
        let mut all = Vec::new();
        while let Some(delivery) = rig.take("q").await {
            assert_eq!(rig.stat(&queue).await.ready, 5999 - all.len() as u64);
            all.push(delivery);
        }
        assert_eq!(crate::rig::bodies(&all), values);
        // Every seventh fails, from the last to the first.
        let (back, done): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.offset.0 % 7 == 3);
        let settle = |of: &[&ferrymq_broker::queues::Delivery], how| {
            of.iter().rev().map(|one| (one.offset, how)).collect::<Vec<_>>()
        };
        rig.queues.settle(&rig.session, &queue, settle(&back, Settle::Fail)).await;
        rig.queues.settle(&rig.session, &queue, settle(&done, Settle::Ack)).await;
        assert_eq!(rig.stat(&queue).await, counts(back.len() as u64, 0));
        let expected: Vec<(String, bool)> = back.iter().map(|one| (body(one), true)).collect();
        let again = rig.take("q").await.unwrap();
        assert_eq!((body(&again), again.failed), (expected[0].0.clone(), Some(1)));
        rig.settle(&queue, &[&again], Settle::Requeue).await;
        assert_eq!(rig.take_all("q").await, expected);
        rig = rig.restart().await;
        assert_eq!(rig.take_all("q").await, expected, "{compression:?}");
    }
}

/// What a Kafka client compressed wrongly is passed over, counted no more and done; what lies around it is delivered.
#[tokio::test]
async fn rubbish_is_passed_over_and_counts_stay_right() {
    let mut rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &[]).await;
    rig.produce("t", 0, &["a", "b"]).await;
    rig.produce_rubbish("t", 0, 5).await;
    rig.produce("t", 0, &["c", "d", "e"]).await;
    assert_eq!(rig.stat(&queue).await, counts(10, 0), "nobody has looked at it yet");
    let mut held = Vec::new();
    for (text, left) in [("a", 9), ("b", 8), ("c", 2), ("d", 1)] {
        let delivery = rig.take("q").await.unwrap();
        assert_eq!((body(&delivery).as_str(), rig.stat(&queue).await.ready), (text, left));
        held.push(delivery);
    }
    rig.settle(&queue, &held.iter().collect::<Vec<_>>(), Settle::Ack).await;
    rig.acks_are_durable(&queue).await;
    rig = rig.crash().await;
    assert_eq!(texts(&rig.take_all("q").await), ["e"]);
    rig.produce("t", 0, &["f"]).await;
    assert_eq!(rig.take_all("q").await, fresh(&["f"]));
}

/// Partitions that were added are of the queue in its next life, with what is done of them.
#[tokio::test]
async fn added_partitions_keep_their_acks() {
    let mut rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    rig.produce("t", 0, &["a"]).await;
    rig.over("q", "t", &[("x-kafka-start", Value::text("next"))]).await;
    rig.broker.create_partitions("t", 3).await.unwrap();
    rig.produce("t", 2, &["x", "y", "z"]).await;
    let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap().queue;
    while rig.stat(&queue).await.ready < 3 {
        quiet().await;
    }
    let (x, y) = (rig.take("q").await.unwrap(), rig.take("q").await.unwrap());
    assert_eq!((body(&x), body(&y)), ("x".to_owned(), "y".to_owned()));
    rig.settle(&queue, &[&y], Settle::Ack).await;
    rig.acks_are_durable(&queue).await;
    for _ in 0..2 {
        rig = rig.crash().await;
        assert_eq!(texts(&rig.take_all("q").await), ["x", "z"]);
    }
}
