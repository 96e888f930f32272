//! Across the doors: topics of Kafka clients as streams, streams as their topics.

use bytes::BytesMut;
use ferrymq_amqp_codec::method::{basic, exchange, queue};
use ferrymq_amqp_codec::{BasicProperties, Method, Properties, ValueRef};
use ferrymq_broker::{AppendItem, NewTopic};
use ferrymq_types::{BatchBuilder, BatchHeader, Compression, Header, Offset, Records};

use crate::streams::{declaration, declared, table, text};
use crate::support::{Server, persistent, properties};

/// Appends records as a Kafka client does.
pub(crate) async fn produce(
    server: &Server,
    topic: &str,
    partition: i32,
    compression: Compression,
    records: &[(Option<&str>, &str, &[Header])],
) {
    let partition = server.broker().topics().partition(topic, partition).unwrap();
    let now = server.broker().clock().wall_ms();
    let mut builder = BatchBuilder::new(now);
    for (key, value, headers) in records {
        builder.push(now, key.map(str::as_bytes), Some(value.as_bytes()), headers);
    }
    let bytes = match compression {
        Compression::None => builder.build(),
        _ => {
            builder.build_compressed(compression, |raw| ferrymq_compress::compress(compression, raw)).unwrap()
        }
    };
    let bytes = BytesMut::from(&bytes[..]);
    let header = BatchHeader::decode(&bytes).unwrap();
    let pending = server.broker().append(vec![AppendItem { partition, bytes, header }]).await;
    pending.wait().await.pop().unwrap().unwrap();
}

pub(crate) async fn topic(server: &Server, name: &str, partitions: u32) {
    let new = NewTopic { name: name.to_owned(), partitions, config: std::collections::BTreeMap::default() };
    server.broker().create_topic(new).await.unwrap();
}

/// The records of a partition, as a Kafka client reads them.
pub(crate) async fn records(server: &Server, topic: &str, partition: i32) -> Vec<ferrymq_types::Record> {
    let partition = server.broker().topics().partition(topic, partition).unwrap();
    let read = partition.read(Offset(0), partition.high_watermark(), 1 << 20).await.unwrap();
    let mut all = Vec::new();
    for run in read.runs {
        let mut bytes = run.bytes;
        while !bytes.is_empty() {
            let batch = ferrymq_types::BatchView::split_from(&mut bytes).unwrap();
            batch.verify_crc().unwrap();
            all.extend(Records::new(batch.payload(), batch.header.record_count).map(Result::unwrap));
        }
    }
    all
}

#[tokio::test]
async fn exchanges_lead_to_topics_and_kafka_clients_read_headers_by_name() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    let declare = exchange::Declare { exchange: b"e", kind: b"topic", ..Default::default() };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    let bind = queue::Bind { queue: b"s", exchange: b"e", routing_key: b"eu.#", ..Default::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    client.confirm_select().await;
    let headers = table(&[("trace", text("t-1")), ("count", ValueRef::I32(3))]);
    let with = properties(BasicProperties {
        content_type: Some(b"text/plain"),
        headers: Some(headers.as_table()),
        delivery_mode: Some(1),
        ..BasicProperties::default()
    });
    client.put_publish(1, "e", "eu.new", &with, b"body").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    // What fits nothing comes back before its confirm.
    client.put_publish(1, "e", "us.new", &with, b"body").send().await;
    let returned = client.reply(1).await;
    assert!(matches!(Method::parse(&returned), Ok(Method::BasicReturn(_))));
    client.content(1).await;
    client.expect(1, &basic::Ack { delivery_tag: 2, multiple: false }).await;
    let records = records(&server, "s", 0).await;
    let [record] = &records[..] else { panic!("one record: {records:?}") };
    assert_eq!(record.key.as_deref(), Some(&b"eu.new"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"body"[..]));
    let value = |name: &str| {
        let found = record.headers.iter().find(|header| header.key == name.as_bytes());
        found.and_then(|header| header.value.clone())
    };
    assert_eq!(value("trace").as_deref(), Some(&b"t-1"[..]));
    assert_eq!(value("count").as_deref(), Some(&b"3"[..]));
    assert_eq!(value("amqp.content_type").as_deref(), Some(&b"text/plain"[..]));
    // And back: the same, with its place.
    client.qos(1, false).await;
    client.consume_from("s", "c", &[("x-stream-offset", text("first"))]).await;
    let told = client.told().await;
    assert_eq!((&told.routing_key[..], told.text()), (&b"eu.new"[..], "body"));
    assert_eq!(told.header("x-kafka-topic"), None, "it is called as the stream");
    assert_eq!(told.header("count"), Some(ValueRef::I32(3)));
    let stored = Properties::parse(&told.properties).unwrap();
    assert_eq!((stored.content_type(), stored.delivery_mode()), (Some(&b"text/plain"[..]), Some(1)));
}

#[tokio::test]
async fn a_topic_of_kafka_clients_is_a_stream() {
    let server = Server::start().await;
    topic(&server, "events", 1).await;
    let mut client = server.channel().await;
    let passive = queue::Declare { queue: b"events", passive: true, ..Default::default() };
    client.ask(1, &passive, &declared("events", 0)).await;
    client.qos(100, false).await;
    client.consume_from("events", "c", &[("x-stream-offset", text("first"))]).await;
    let header =
        |key: &'static str, value: &'static str| Header { key: key.into(), value: Some(value.into()) };
    let headers = [header("trace", "x"), header("x-stream-filter-value", "eu")];
    for compression in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        let name = compression.name();
        let both = [(Some("user-1"), name, &headers[..]), (None, "second", &[])];
        produce(&server, "events", 0, compression, &both).await;
        let told = client.told().await;
        assert_eq!((told.text(), &told.routing_key[..]), (name, &b"user-1"[..]));
        assert_eq!(told.header("trace"), Some(text("x")));
        assert_eq!(told.header("x-kafka-key"), Some(text("user-1")));
        let second = client.told().await;
        assert_eq!((second.text(), second.offset()), ("second", told.offset() + 1));
    }
    // Published by name, although nobody declared it; a Kafka client reads it behind its own.
    client.put_publish(1, "", "events", &persistent(), b"from amqp");
    client.send().await;
    assert_eq!(client.told().await.text(), "from amqp");
    client
        .ask(1, &passive, &queue::DeclareOk { queue: b"events", message_count: 11, consumer_count: 1 })
        .await;
    // It is not a queue's to delete, until it is declared; then the declaration goes and the topic stays.
    let delete = queue::Delete { queue: b"events", ..Default::default() };
    let told = "PRECONDITION_FAILED - queue 'events' in vhost '/' is a topic that was not declared here";
    let mut other = server.channel().await;
    other.channel_error(&delete, 406, told).await;
    let arguments = table(&[("x-queue-type", text("stream"))]);
    let ok = queue::DeclareOk { queue: b"events", message_count: 11, consumer_count: 1 };
    other.ask(1, &declaration("events", &arguments), &ok).await;
    other.ask(1, &delete, &queue::DeleteOk { message_count: 11 }).await;
    client.expect(1, &basic::Cancel { consumer_tag: b"c", nowait: true }).await;
    assert!(server.broker().topics().get("events").is_some());
}

#[tokio::test]
async fn all_partitions_are_read_and_keys_choose_among_them() {
    let server = Server::start().await;
    topic(&server, "wide", 4).await;
    let mut client = server.channel().await;
    let arguments = table(&[("x-queue-type", text("stream"))]);
    client.ask(1, &declaration("wide", &arguments), &declared("wide", 0)).await;
    let declare = exchange::Declare { exchange: b"e", kind: b"fanout", ..Default::default() };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    let bind = queue::Bind { queue: b"wide", exchange: b"e", ..Default::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    client.qos(100, false).await;
    client.consume_from("wide", "c", &[("x-stream-offset", text("first"))]).await;
    for key in 0..12 {
        client.put_publish(1, "e", &format!("key-{key}"), &[0, 0], format!("{key}").as_bytes());
    }
    client.send().await;
    let mut seen = Vec::new();
    for _ in 0..12 {
        let told = client.told().await;
        let expected = ferrymq_types::partitioner::key_partition(&told.routing_key, 4);
        assert_eq!(told.header("x-kafka-partition"), Some(ValueRef::I64(expected.into())));
        seen.push(told.text().parse::<u32>().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
    // Partitions that are added are read from their start.
    server.broker().create_partitions("wide", 5).await.unwrap();
    produce(&server, "wide", 4, Compression::None, &[(None, "new", &[])]).await;
    let told = client.told().await;
    assert_eq!((told.text(), told.header("x-kafka-partition")), ("new", Some(ValueRef::I64(4))));
}

#[tokio::test]
async fn topics_choose_what_is_the_key() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let declare = exchange::Declare { exchange: b"e", kind: b"fanout", ..Default::default() };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    let rules = ["header:user", "routing_key", "correlation_id", "none"];
    for name in rules.map(|rule| rule.replace(':', "-")) {
        let rule = name.replacen('-', ":", 1);
        let config = [("ferrymq.record.key".to_owned(), rule)].into();
        server.broker().create_topic(NewTopic { name: name.clone(), partitions: 1, config }).await.unwrap();
        let arguments = table(&[("x-queue-type", text("stream"))]);
        client.ask(1, &declaration(&name, &arguments), &declared(&name, 0)).await;
        let bind = queue::Bind { queue: name.as_bytes(), exchange: b"e", ..Default::default() };
        client.ask(1, &bind, &queue::BindOk {}).await;
    }
    client.confirm_select().await;
    let headers = table(&[("user", ValueRef::I32(7))]);
    let with = properties(BasicProperties {
        headers: Some(headers.as_table()),
        correlation_id: Some(b"id"),
        ..BasicProperties::default()
    });
    client.put_publish(1, "e", "rk", &with, b"body").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    for (name, key) in
        rules.map(|rule| rule.replace(':', "-")).iter().zip([Some("7"), Some("rk"), Some("id"), None])
    {
        let records = records(&server, name, 0).await;
        let [record] = &records[..] else { panic!("one record: {records:?}") };
        assert_eq!(record.key.as_deref(), key.map(str::as_bytes), "{name}");
    }
    // Whatever the key is, the message is what it was.
    client.qos(1, false).await;
    client.consume_from("header-user", "c", &[("x-stream-offset", text("first"))]).await;
    let told = client.told().await;
    assert_eq!((&told.routing_key[..], told.text()), (&b"rk"[..], "body"));
    assert_eq!(told.header("user"), Some(ValueRef::I32(7)));
}

#[tokio::test]
async fn streams_outlive_a_restart_and_go_with_their_topics() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    client.stream("named", &[("x-kafka-topic", text("other.name"))]).await;
    let bind = |queue: &'static [u8]| queue::Bind { queue, exchange: b"amq.fanout", ..Default::default() };
    client.ask(1, &bind(b"s"), &queue::BindOk {}).await;
    client.ask(1, &bind(b"named"), &queue::BindOk {}).await;
    client.confirm_select().await;
    client.put_publish(1, "amq.fanout", "k", &[0, 0], b"kept").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    client.close().await;
    let server = server.restart().await;
    let mut client = server.channel().await;
    let arguments = table(&[("x-queue-type", text("stream"))]);
    client.ask(1, &declaration("s", &arguments), &declared("s", 1)).await;
    client.qos(10, false).await;
    for name in ["s", "named"] {
        client.consume_from(name, name, &[("x-stream-offset", text("first"))]).await;
        let kept = client.told().await;
        let named = (name == "named").then(|| text("other.name"));
        assert_eq!((kept.text(), kept.header("x-kafka-topic")), ("kept", named));
    }
    assert_eq!(records(&server, "other.name", 0).await.len(), 1);
    // A Kafka client deletes the topic: the stream goes, with its consumers and bindings.
    server.broker().delete_topic("other.name").await.unwrap();
    client.expect(1, &basic::Cancel { consumer_tag: b"named", nowait: true }).await;
    let gone = queue::Declare { queue: b"named", passive: true, ..Default::default() };
    client.channel_error(&gone, 404, "NOT_FOUND - no queue 'named' in vhost '/'").await;
    // An AMQP client deletes the stream: the topic goes.
    let unless_empty = queue::Delete { queue: b"s", if_empty: true, ..Default::default() };
    let told = "PRECONDITION_FAILED - queue 's' in vhost '/' not empty";
    client.channel_error(&unless_empty, 406, told).await;
    let delete = queue::Delete { queue: b"s", ..Default::default() };
    client.ask(1, &delete, &queue::DeleteOk { message_count: 1 }).await;
    assert!(server.broker().topics().get("s").is_none());
    client.confirm_select().await;
    client.put_publish(1, "amq.fanout", "k", &[0, 0], b"lost").send().await;
    let returned = client.reply(1).await;
    assert!(matches!(Method::parse(&returned), Ok(Method::BasicReturn(_))), "no binding is left");
}

#[tokio::test]
async fn transactions_and_dead_letters_reach_streams() {
    use ferrymq_amqp_codec::method::tx;
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    let letters = table(&[("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("s"))]);
    client.ask(1, &declaration("source", &letters), &declared("source", 0)).await;
    client.put_publish(1, "", "source", &persistent(), b"letter").send().await;
    client.qos(10, false).await;
    client.consume_from("s", "reader", &[("x-stream-offset", text("first"))]).await;
    let (tag, ..) = loop {
        if let Some(got) = client.get("source").await {
            break got;
        }
    };
    client.put(1, &basic::Reject { delivery_tag: tag, requeue: false }).send().await;
    let told = client.told().await;
    assert_eq!((told.text(), told.header("x-first-death-queue")), ("letter", Some(text("source"))));
    client.put(1, &basic::Ack { delivery_tag: told.tag, multiple: false });
    // A letter that is larger than its topic ever takes holds up nobody.
    let config = [("max.message.bytes".to_owned(), "1000".to_owned())].into_iter().collect();
    server.broker().set_config("s", config).await.unwrap();
    for body in [&[b'x'; 5000][..], b"small"] {
        client.put_publish(1, "", "source", &persistent(), body).send().await;
        let (tag, ..) = loop {
            if let Some(got) = client.get("source").await {
                break got;
            }
        };
        client.put(1, &basic::Reject { delivery_tag: tag, requeue: false }).send().await;
    }
    let told = client.told().await;
    assert_eq!(told.text(), "small");
    client.put(1, &basic::Ack { delivery_tag: told.tag, multiple: false });
    client.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
    client.put_publish(1, "", "s", &persistent(), b"in tx");
    client.put_publish(1, "", "source", &persistent(), b"too");
    client.put(1, &tx::Commit {}).send().await;
    // The delivery and the answer are under way side by side.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let payload = client.reply(1).await;
        match Method::parse(&payload).unwrap() {
            Method::TxCommitOk(_) => seen.push("committed".to_owned()),
            Method::BasicDeliver(_) => {
                seen.push(String::from_utf8_lossy(&client.content(1).await.1).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["committed", "in tx"]);
    assert_eq!(client.get("source").await.map(|got| got.2).as_deref(), Some("too"));
}
