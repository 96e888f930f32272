//! What is relayed from outside: queues, topics and the note of it are one commit.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_broker::queues::{NoHeaders, Publish, QueueError, Relayed, StreamRecord};
use ferrymq_broker::{AppendError, AppendItem};
use ferrymq_storage::ErrorKind;
use ferrymq_types::{BatchBuilder, BatchHeader, Offset};
use futures_util::FutureExt as _;

use crate::over_rig::{OverRig, fresh};
use crate::rig::{VHOST, message, quiet};
use crate::staged::{Fate, StagedLogs};

/// A record of a topic's partition: without a key they take turns.
fn record(rig: &OverRig, topic: &str, text: &str) -> Relayed {
    let topic = rig.broker.topics().get(topic).unwrap();
    Relayed::Record(
        topic,
        StreamRecord { value: Some(Bytes::from(text.to_owned())), ..StreamRecord::default() },
    )
}

fn to_queue(rig: &OverRig, queue: &str, text: &str) -> Relayed {
    let to = rig.queues.route(VHOST, "", queue.as_bytes(), &NoHeaders).unwrap();
    Relayed::Message(Publish { message: message(queue, text, true), to })
}

/// Values of a topic's partition in order.
async fn values(rig: &OverRig, topic: &str) -> Vec<String> {
    let queue = format!("look-at-{topic}");
    rig.over(&queue, topic, &[("x-kafka-start", ferrymq_broker::queues::Value::text("first"))]).await;
    rig.take_all(&queue).await.into_iter().map(|(text, _)| text).collect()
}

async fn staged() -> (OverRig, StagedLogs) {
    let logs = StagedLogs::default();
    let rig = OverRig::standing_on(Arc::new(logs.clone())).await;
    for topic in ["t", "u"] {
        rig.topic(topic, 1, &[]).await;
    }
    assert_ne!(rig.partition("t", 0).log.0 % 2, rig.partition("u", 0).log.0 % 2, "one in each shard");
    rig.queue("q").await;
    (rig, logs)
}

/// Hands a batch over, as a Kafka client does.
async fn append(rig: &OverRig, topic: &str, text: &str) -> ferrymq_broker::broker::PendingAppends {
    let mut builder = BatchBuilder::new(1);
    builder.push(1, None, Some(text.as_bytes()), &[]);
    let bytes = bytes::BytesMut::from(&builder.build()[..]);
    let header = BatchHeader::decode(&bytes).unwrap();
    rig.broker.append(vec![AppendItem { partition: rig.partition(topic, 0), bytes, header }]).await
}

#[tokio::test(start_paused = true)]
async fn topics_queues_and_the_note_are_one_and_the_last_note_is_found_again() {
    let (rig, _) = staged().await;
    let (mut log, note) = rig.queues.claim_relay().await.unwrap();
    assert_eq!(note, None);
    for round in ["1", "2"] {
        let relayed = vec![record(&rig, "t", round), to_queue(&rig, "q", round), record(&rig, "u", round)];
        rig.queues.relay(&mut log, relayed, Bytes::from(round)).await.unwrap();
    }
    let rig = rig.crash().await;
    let (_, note) = rig.queues.claim_relay().await.unwrap();
    assert_eq!(note, Some(Bytes::from("2")));
    assert_eq!(
        (values(&rig, "t").await, values(&rig, "u").await),
        (vec!["1".into(), "2".into()], vec!["1".into(), "2".into()])
    );
    let queued: Vec<String> = rig.take_all("q").await.into_iter().map(|(text, _)| text).collect();
    assert_eq!(queued, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_commit_gives_the_offsets_back() {
    let (rig, logs) = staged().await;
    let (mut log, _) = rig.queues.claim_relay().await.unwrap();
    logs.stage.hold();
    let before = append(&rig, "t", "before").await;
    quiet().await;
    let relayed = vec![record(&rig, "t", "never"), to_queue(&rig, "q", "never"), record(&rig, "u", "never")];
    let mut relay = std::pin::pin!(rig.queues.relay(&mut log, relayed, Bytes::from("1")));
    assert!(relay.as_mut().now_or_never().is_none());
    quiet().await;
    let behind = append(&rig, "t", "behind").await;
    quiet().await;
    assert_eq!(logs.stage.waiting(), 3, "one before, the joint one, one behind");
    logs.stage.decide(Fate::Happens);
    assert_eq!(before.wait().await.pop().unwrap().unwrap().base, Offset(0));
    logs.stage.decide(Fate::Fails(ErrorKind::Full));
    let refused = relay.await.unwrap_err();
    assert!(
        matches!(refused, QueueError::Storage(ref error) if error.kind() == ErrorKind::Full),
        "{refused}"
    );
    // What lies behind an append that failed fails with it.
    logs.stage.release();
    assert!(matches!(behind.wait().await.pop().unwrap(), Err(AppendError::Retry)));
    assert_eq!(append(&rig, "t", "again").await.wait().await.pop().unwrap().unwrap().base, Offset(1));
    assert_eq!(append(&rig, "u", "first").await.wait().await.pop().unwrap().unwrap().base, Offset(0));
    let (mut log, note) = rig.queues.claim_relay().await.unwrap();
    assert_eq!(note, None);
    rig.queues.relay(&mut log, vec![record(&rig, "t", "last")], Bytes::from("2")).await.unwrap();
    assert_eq!(values(&rig, "t").await, ["before", "again", "last"]);
    assert_eq!(rig.take_all("q").await, fresh(&[]));
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_a_joint_commit_lies_behind_it() {
    let (rig, logs) = staged().await;
    let (mut log, _) = rig.queues.claim_relay().await.unwrap();
    logs.stage.hold();
    let mut relay = std::pin::pin!(rig.queues.relay(
        &mut log,
        vec![record(&rig, "t", "1"), record(&rig, "t", "2")],
        Bytes::from("n")
    ));
    assert!(relay.as_mut().now_or_never().is_none());
    quiet().await;
    let behind = append(&rig, "t", "3").await;
    quiet().await;
    assert_eq!(rig.partition("t", 0).high_watermark(), Offset(0), "nothing shows before it is durable");
    logs.stage.release();
    relay.await.unwrap();
    assert_eq!(behind.wait().await.pop().unwrap().unwrap().base, Offset(2));
    assert_eq!(values(&rig, "t").await, ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_refuses_frees_the_others() {
    let (rig, _) = staged().await;
    let (mut log, _) = rig.queues.claim_relay().await.unwrap();
    for (gone, stays) in [("t", "u"), ("u", "v")] {
        if stays == "v" {
            // In the shard of the one that has gone before.
            rig.topic("v", 1, &[]).await;
        }
        let relayed = vec![record(&rig, gone, "x"), record(&rig, stays, "x"), to_queue(&rig, "q", "x")];
        rig.broker.delete_topic(gone).await.unwrap();
        let refused = rig.queues.relay(&mut log, relayed, Bytes::from("n")).await.unwrap_err();
        assert!(matches!(refused, QueueError::Retry), "{refused}");
        let base = append(&rig, stays, "goes on").await.wait().await.pop().unwrap().unwrap().base;
        assert_eq!(base, Offset(0), "{stays}");
    }
    assert_eq!(rig.take_all("q").await, fresh(&[]));
    assert_eq!(rig.queues.claim_relay().await.unwrap().1, None);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_another_followed_writes_nothing() {
    let (rig, _) = staged().await;
    let (mut old, _) = rig.queues.claim_relay().await.unwrap();
    let (mut new, _) = rig.queues.claim_relay().await.unwrap();
    let relayed = |text: &str| vec![record(&rig, "t", text), to_queue(&rig, "q", text)];
    let fenced = rig.queues.relay(&mut old, relayed("old"), Bytes::from("old")).await.unwrap_err();
    assert!(
        matches!(fenced, QueueError::Storage(ref error) if error.kind() == ErrorKind::Fenced),
        "{fenced}"
    );
    rig.queues.relay(&mut new, relayed("new"), Bytes::from("new")).await.unwrap();
    assert_eq!(values(&rig, "t").await, ["new"]);
    assert_eq!(rig.take_all("q").await, fresh(&["new"]));
}

#[tokio::test(start_paused = true)]
async fn old_notes_are_trimmed_and_the_last_one_stays() {
    let (rig, _) = staged().await;
    let (mut log, _) = rig.queues.claim_relay().await.unwrap();
    for number in 1..=1_005 {
        rig.queues.relay(&mut log, Vec::new(), Bytes::from(number.to_string())).await.unwrap();
    }
    quiet().await;
    let stat = rig.stores.logs.stat(ferrymq_types::LogId(48)).await.unwrap();
    assert_eq!((stat.start, stat.next), (Offset(999), Offset(1_005)));
    assert_eq!(rig.queues.claim_relay().await.unwrap().1, Some(Bytes::from("1005")));
}
