//! Queues over topics: declared, worked off, published to, deleted.

use ferrymq_broker::queues::{
    Credit, DeleteIf, Entity, Event, ExchangeKind, NewConsumer, QueueError, QueueSpec, Settle, Value, Wrong,
    deliveries,
};
use ferrymq_types::{Compression, Offset};

use crate::over_rig::{OverRig, fresh, texts};
use crate::rig::{VHOST, arguments, binding, bodies, body, counts, durable, exchange, int, quiet, take};

fn quorum() -> (&'static str, Value) {
    ("x-queue-type", Value::text("quorum"))
}

#[tokio::test]
async fn a_topic_must_be_there_and_its_records_are() {
    let rig = OverRig::new().await;
    let missing = rig.try_declare("q", "t", &[]).await.unwrap_err();
    assert!(matches!(missing, QueueError::NotFound { entity: Entity::Topic, .. }), "{missing:?}");
    rig.topic("t", 1, &[]).await;
    rig.produce("t", 0, &["a", "b", "c"]).await;
    let declared = rig.try_declare("q", "t", &[]).await.unwrap();
    assert!(declared.created);
    assert_eq!(declared.stat, counts(3, 0));
    let again = rig.try_declare("q", "t", &[]).await.unwrap();
    assert!(!again.created && again.queue == declared.queue);
    // What a Kafka client was told is durable is counted at once.
    rig.produce("t", 0, &["d"]).await;
    assert_eq!(rig.stat(&declared.queue).await, counts(4, 0));
    assert_eq!(rig.take_all("q").await, fresh(&["a", "b", "c", "d"]));
    assert_eq!(rig.stat(&declared.queue).await, counts(0, 4));
    rig.has_no_log(&declared.queue).await;
    // Another queue over the topic has all of it for itself.
    rig.over("other", "t", &[quorum()]).await;
    assert_eq!(rig.take_all("other").await, fresh(&["a", "b", "c", "d"]));
}

#[tokio::test]
async fn what_is_the_topics_to_say_is_refused() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let refused = [
        ("x-message-ttl", int(5)),
        ("x-expires", int(5)),
        ("x-max-length", int(5)),
        ("x-max-length-bytes", int(5)),
        ("x-max-priority", int(5)),
        ("x-overflow", Value::text("drop-head")),
    ];
    for (name, value) in refused {
        let error = rig.try_declare("q", "t", &[(name, value)]).await.unwrap_err();
        let QueueError::WrongArgument { argument, wrong: Wrong::OverTopic, .. } = error else {
            panic!("{name}: {error:?}")
        };
        assert_eq!(argument, name);
    }
    for spec in [
        QueueSpec { durable: false, ..durable("q") },
        QueueSpec { exclusive: true, ..durable("q") },
        QueueSpec { auto_delete: true, ..durable("q") },
    ] {
        let spec = QueueSpec { arguments: arguments(&[("x-kafka-topic", Value::text("t"))]), ..spec };
        let error = rig.queues.declare_queue(&rig.session, VHOST, spec).await.unwrap_err();
        assert!(matches!(error, QueueError::WrongProperty { .. }), "{error:?}");
    }
    for (start, wrong) in
        [(Value::text("never"), Wrong::StreamOffset), (Value::Bool(true), Wrong::StreamOffset)]
    {
        let error = rig.try_declare("q", "t", &[("x-kafka-start", start)]).await.unwrap_err();
        assert!(matches!(&error, QueueError::WrongArgument { wrong: is, .. } if *is == wrong), "{error:?}");
    }
    let spec = QueueSpec { arguments: arguments(&[("x-kafka-start", Value::text("next"))]), ..durable("q") };
    let error = rig.queues.declare_queue(&rig.session, VHOST, spec).await.unwrap_err();
    assert!(matches!(error, QueueError::WrongArgument { wrong: Wrong::NoTopic, .. }), "{error:?}");
    // What is there must be asked for as it is.
    rig.topic("u", 1, &[]).await;
    rig.over("q", "t", &[]).await;
    for (topic, list) in
        [("u", vec![]), ("t", vec![quorum()]), ("t", vec![("x-kafka-start", Value::text("next"))])]
    {
        let error = rig.try_declare("q", topic, &list).await.unwrap_err();
        assert!(matches!(error, QueueError::Inequivalent { .. }), "{error:?}");
    }
    rig.topic("wide", 257, &[]).await;
    let error = rig.try_declare("w", "wide", &[]).await.unwrap_err();
    assert!(matches!(error, QueueError::InvalidArgument { .. }), "{error:?}");
    rig.topic("widest", 256, &[]).await;
    rig.over("widest", "widest", &[]).await;
    rig.produce("widest", 255, &["last"]).await;
    assert_eq!(rig.take_all("widest").await, fresh(&["last"]));
}

#[tokio::test]
async fn records_come_back_to_their_place_and_are_counted() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    let queue = rig.over("q", "t", &[quorum(), ("x-delivery-limit", int(1))]).await;
    rig.produce("t", 0, &["a", "b", "c", "d"]).await;
    let (sink, mut from) = deliveries(64 * 1024);
    let new = NewConsumer::new(7, Credit::Window(3));
    rig.queues.consume(&rig.session, VHOST, "q", new, &sink).await.unwrap();
    let first = take(&mut from, 3).await;
    assert_eq!(bodies(&first), ["a", "b", "c"]);
    assert_eq!(first[1].message.properties, "-/1");
    rig.settle(&queue, &[&first[1]], Settle::Requeue).await;
    rig.settle(&queue, &[&first[0]], Settle::Fail).await;
    let back = take(&mut from, 2).await;
    assert_eq!(bodies(&back), ["a", "b"], "before what was never delivered");
    let told: Vec<_> = back.iter().map(|back| (back.redelivered, back.returned, back.failed)).collect();
    assert_eq!(told, [(true, 1, Some(1)), (true, 1, Some(0))]);
    // Once too often.
    rig.settle(&queue, &[&back[0]], Settle::Fail).await;
    rig.settle(&queue, &[&first[2], &back[1]], Settle::Ack).await;
    let last = take(&mut from, 1).await;
    assert_eq!((body(&last[0]), last[0].redelivered), ("d".to_owned(), false));
    rig.settle(&queue, &[&last[0]], Settle::Ack).await;
    quiet().await;
    let stat = rig.stat(&queue).await;
    assert_eq!((stat.ready, stat.unacked, stat.consumers), (0, 0, 1));
    // Prefetch is kept, and what a Kafka client writes is pushed.
    rig.produce("t", 0, &["e", "f", "g", "h"]).await;
    assert_eq!(bodies(&take(&mut from, 3).await), ["e", "f", "g"]);
    assert_eq!(rig.stat(&queue).await.ready, 1);
    assert_eq!(rig.partition("t", 0).log_start(), Offset(0), "nothing is taken from others");
}

#[tokio::test]
async fn partitions_take_turns_and_keep_their_order() {
    let rig = OverRig::new().await;
    rig.topic("t", 3, &[]).await;
    let queue = rig.over("q", "t", &[]).await;
    let values: Vec<String> = (0..200).map(|at| format!("{at:03}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    for (partition, compression) in [(0, Compression::None), (1, Compression::Zstd), (2, Compression::Gzip)] {
        rig.produce_as("t", partition, &values, compression).await;
    }
    assert_eq!(rig.stat(&queue).await, counts(600, 0));
    let mut seen = vec![Vec::new(); 3];
    for _ in 0..300 {
        let delivery = rig.take("q").await.unwrap();
        let at = String::from_utf8(delivery.message.properties.to_vec()).unwrap();
        let (partition, offset) = at.split_once('/').unwrap();
        assert_eq!(offset.parse::<u64>().unwrap(), body(&delivery).parse::<u64>().unwrap());
        seen[partition.parse::<usize>().unwrap()].push(body(&delivery));
    }
    for of_one in &seen {
        assert!(of_one.len() >= 90, "each has its turns: {}", of_one.len());
        assert_eq!(of_one[..], values[..of_one.len()]);
    }
    // One that is added is worked off from its start.
    rig.broker.create_partitions("t", 4).await.unwrap();
    rig.produce("t", 3, &["new"]).await;
    let purged = loop {
        quiet().await;
        if rig.stat(&queue).await.ready == 301 {
            break rig.queues.purge(&rig.session, VHOST, "q").await.unwrap();
        }
    };
    assert_eq!((purged, rig.stat(&queue).await.ready), (301, 0));
    rig.produce("t", 3, &["newer"]).await;
    assert_eq!(rig.take_all("q").await, fresh(&["newer"]));
}

#[tokio::test]
async fn it_begins_where_it_is_told() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    rig.produce("t", 0, &["a", "b"]).await;
    rig.produce("t", 0, &["c", "d"]).await;
    let cases = [
        ("none", None, vec!["a", "b", "c", "d"]),
        ("first", Some(Value::text("first")), vec!["a", "b", "c", "d"]),
        ("last", Some(Value::text("last")), vec!["c", "d"]),
        ("next", Some(Value::text("next")), vec![]),
        ("one", Some(int(1)), vec!["b", "c", "d"]),
        ("far", Some(int(100)), vec![]),
        ("age", Some(Value::text("1h")), vec!["a", "b", "c", "d"]),
        ("time", Some(Value::Timestamp(1 << 40)), vec![]),
    ];
    for (name, start, expected) in cases {
        let list: Vec<_> = start.into_iter().map(|start| ("x-kafka-start", start)).collect();
        let queue = rig.over(name, "t", &list).await;
        assert_eq!(rig.stat(&queue).await.ready, expected.len() as u64, "{name}");
        assert_eq!(rig.take_all(name).await, fresh(&expected), "{name}");
    }
}

#[tokio::test]
async fn what_is_published_to_it_is_in_the_topic_once() {
    let rig = OverRig::new().await;
    rig.topic("t", 1, &[]).await;
    for name in ["q", "p"] {
        rig.over(name, "t", &[]).await;
    }
    let stream = [("x-queue-type", Value::text("stream")), ("x-kafka-topic", Value::text("t"))];
    let spec = QueueSpec { arguments: arguments(&stream), ..durable("s") };
    rig.queues.declare_queue(&rig.session, VHOST, spec).await.unwrap();
    rig.queue("plain").await;
    rig.queues.declare_exchange(&rig.session, VHOST, exchange("e", ExchangeKind::Fanout)).await.unwrap();
    for name in ["q", "p", "s", "plain"] {
        rig.queues.bind(&rig.session, VHOST, binding("e", name, "")).await.unwrap();
    }
    rig.publish("e", "", "to all").await;
    rig.publish("", "q", "to q").await;
    assert_eq!(rig.partition("t", 0).high_watermark(), Offset(2), "each once");
    for name in ["q", "p"] {
        assert_eq!(texts(&rig.take_all(name).await), ["to all", "to q"]);
    }
    assert_eq!(texts(&rig.take_all("plain").await), ["to all"]);
    // The queue goes, the topic and what else is over it stay.
    let deleted = rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    assert_eq!(deleted, 0, "nothing was ready");
    assert!(rig.broker.topics().get("t").is_some());
    assert!(rig.queues.queue(&rig.session, VHOST, "q").await.is_err());
    rig.publish("e", "", "again").await;
    assert_eq!(texts(&rig.take_all("p").await), ["again"]);
    rig.over("q", "t", &[]).await;
    assert_eq!(texts(&rig.take_all("q").await), ["to all", "to q", "again"], "it begins anew");
}

#[tokio::test]
async fn a_queue_goes_with_its_topic() {
    let rig = OverRig::new().await;
    rig.topic("t", 2, &[]).await;
    rig.over("q", "t", &[]).await;
    rig.queues.bind(&rig.session, VHOST, binding("amq.fanout", "q", "")).await.unwrap();
    rig.produce("t", 1, &["a"]).await;
    let (sink, mut from) = deliveries(64 * 1024);
    let new = NewConsumer::new(7, Credit::Window(3));
    rig.queues.consume(&rig.session, VHOST, "q", new, &sink).await.unwrap();
    assert_eq!(bodies(&take(&mut from, 1).await), ["a"]);
    rig.broker.delete_topic("t").await.unwrap();
    assert!(matches!(from.recv().await, Event::Cancelled { token: 7 }));
    quiet().await;
    let gone = rig.queues.queue(&rig.session, VHOST, "q").await;
    assert!(matches!(gone, Err(QueueError::NotFound { entity: Entity::Queue, .. })), "{gone:?}");
    let routed = rig.queues.route(VHOST, "amq.fanout", b"", &ferrymq_broker::queues::NoHeaders).unwrap();
    assert!(routed.is_empty(), "its bindings went too");
}
