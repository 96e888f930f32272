//! Queues over topics, frame by frame: Kafka's records worked off with acknowledgements, and what is refused.

use ferrymq_amqp_codec::method::{basic, exchange, queue, tx};
use ferrymq_amqp_codec::{Method, ValueRef};
use ferrymq_types::{Compression, Header};

use crate::across::{produce, records, topic};
use crate::streams::{Told, declaration, declared, table, text};
use crate::support::{Client, Server, persistent};

/// Arguments of a queue over a topic.
fn over<'a>(name: &'a str, more: &[(&'a str, ValueRef<'a>)]) -> Vec<(&'a str, ValueRef<'a>)> {
    [("x-kafka-topic", text(name))].into_iter().chain(more.iter().copied()).collect()
}

impl Client {
    async fn over(&mut self, name: &str, topic: &str, more: &[(&str, ValueRef<'_>)], count: u32) {
        let arguments = table(&over(topic, more));
        self.ask(1, &declaration(name, &arguments), &declared(name, count)).await;
    }

    /// A get with what is told of it.
    async fn got(&mut self, queue: &str) -> Told {
        self.put(1, &basic::Get { queue: queue.as_bytes(), ..basic::Get::default() }).send().await;
        let payload = self.reply(1).await;
        let Ok(Method::BasicGetOk(ok)) = Method::parse(&payload) else { panic!("nothing to get") };
        let (properties, body) = self.content(1).await;
        let routing_key = bytes::Bytes::copy_from_slice(ok.routing_key);
        Told { tag: ok.delivery_tag, redelivered: ok.redelivered, routing_key, properties, body }
    }
}

#[tokio::test]
async fn records_of_kafka_clients_are_worked_off() {
    let server = Server::start().await;
    topic(&server, "jobs", 1).await;
    let header = Header { key: "trace".into(), value: Some("x".into()) };
    produce(&server, "jobs", 0, Compression::Zstd, &[(Some("k"), "one", &[header]), (None, "two", &[])])
        .await;
    let mut client = server.channel().await;
    client.over("work", "jobs", &[("x-queue-type", text("quorum"))], 2).await;
    client.qos(2, false).await;
    client.consume("work", "c").await;
    let first = client.told().await;
    assert_eq!((first.text(), &first.routing_key[..], first.redelivered), ("one", &b"k"[..], false));
    assert_eq!(first.header("trace"), Some(text("x")));
    assert_eq!(first.header("x-kafka-key"), Some(text("k")));
    assert_eq!(first.header("x-kafka-topic"), Some(text("jobs")));
    assert_eq!((first.offset(), first.header("x-delivery-count")), (0, None));
    let second = client.told().await;
    assert_eq!((second.text(), second.offset()), ("two", 1));
    // Back to its place, told how often it failed; then the next.
    client.put(1, &basic::Reject { delivery_tag: first.tag, requeue: true }).send().await;
    let again = client.told().await;
    assert_eq!((again.text(), again.redelivered, again.offset()), ("one", true, 0));
    assert_eq!(again.header("x-delivery-count"), Some(ValueRef::I64(1)));
    client.put(1, &basic::Ack { delivery_tag: again.tag, multiple: true }).send().await;
    produce(&server, "jobs", 0, Compression::None, &[(None, "three", &[])]).await;
    let third = client.told().await;
    assert_eq!(third.text(), "three");
    let passive = queue::Declare { queue: b"work", passive: true, ..Default::default() };
    let counts = queue::DeclareOk { queue: b"work", message_count: 0, consumer_count: 1 };
    client.ask(1, &passive, &counts).await;
    // What was not acknowledged is there after a restart, what was is not.
    client.close().await;
    let server = server.restart().await;
    let mut client = server.channel().await;
    client.over("work", "jobs", &[("x-queue-type", text("quorum"))], 1).await;
    assert_eq!(
        client.get("work").await.map(|(_, redelivered, body)| (redelivered, body)),
        Some((true, "three".into()))
    );
    let partition = server.broker().topics().partition("jobs", 0).unwrap();
    let bounds = (partition.log_start().0, partition.high_watermark().0);
    assert_eq!(bounds, (0, 3), "the topic has all of it");
}

#[tokio::test]
async fn what_is_published_is_a_record_and_confirmed() {
    let server = Server::start().await;
    topic(&server, "t", 1).await;
    let mut client = server.channel().await;
    client.over("q", "t", &[], 0).await;
    client.over("p", "t", &[], 0).await;
    let declare = exchange::Declare { exchange: b"e", kind: b"fanout", ..Default::default() };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    for name in [b"q", b"p"] {
        let bind = queue::Bind { queue: name, exchange: b"e", ..Default::default() };
        client.ask(1, &bind, &queue::BindOk {}).await;
    }
    client.confirm_select().await;
    client.put_publish(1, "e", "key", &persistent(), b"body").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    let all = records(&server, "t", 0).await;
    assert_eq!(all.len(), 1, "one record for both queues");
    assert_eq!((all[0].key.as_deref(), all[0].value.as_deref()), (Some(&b"key"[..]), Some(&b"body"[..])));
    for name in ["q", "p"] {
        let got = client.got(name).await;
        assert_eq!((got.text(), &got.routing_key[..], got.redelivered), ("body", &b"key"[..], false));
        client.put(1, &basic::Ack { delivery_tag: got.tag, multiple: false }).send().await;
        assert!(client.get(name).await.is_none());
    }
    // In a transaction, too.
    let mut other = server.channel().await;
    other.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
    other.put_publish(1, "", "q", &persistent(), b"in tx").send().await;
    other.ask(1, &tx::Commit {}, &tx::CommitOk {}).await;
    assert_eq!(client.got("p").await.text(), "in tx");
    let purge = queue::Purge { queue: b"q", ..Default::default() };
    client.ask(1, &purge, &queue::PurgeOk { message_count: 1 }).await;
    let delete = queue::Delete { queue: b"q", ..Default::default() };
    client.ask(1, &delete, &queue::DeleteOk { message_count: 0 }).await;
    assert_eq!(records(&server, "t", 0).await.len(), 2, "the topic stays, and what is in it");
}

#[tokio::test]
async fn refusals_say_why() {
    let server = Server::start().await;
    topic(&server, "t", 1).await;
    let mut client = server.channel().await;
    let missing = table(&over("nowhere", &[]));
    client.channel_error(&declaration("q", &missing), 404, "NOT_FOUND - no topic 'nowhere'").await;
    let number = ValueRef::I32(5);
    for name in ["x-message-ttl", "x-expires", "x-max-length", "x-max-length-bytes", "x-max-priority"] {
        let arguments = table(&over("t", &[(name, number)]));
        let told = format!(
            "PRECONDITION_FAILED - invalid arg '{name}' for queue 'q' in vhost '/': a queue over a topic does not take it: \
             the topic's settings say what is kept"
        );
        client.channel_error(&declaration("q", &arguments), 406, &told).await;
    }
    let arguments = table(&over("t", &[]));
    for (declare, property) in [
        (queue::Declare { durable: false, ..declaration("q", &arguments) }, "non-durable"),
        (queue::Declare { auto_delete: true, ..declaration("q", &arguments) }, "auto-delete"),
        (queue::Declare { exclusive: true, ..declaration("q", &arguments) }, "exclusive-owner"),
    ] {
        let told = format!("PRECONDITION_FAILED - invalid property '{property}' for queue 'q' in vhost '/'");
        client.channel_error(&declare, 406, &told).await;
    }
    let start = table(&over("t", &[("x-kafka-start", text("sometime"))]));
    let told = "PRECONDITION_FAILED - invalid arg 'x-kafka-start' for queue 'q' in vhost '/': \
                {invalid_stream_offset_arg,{longstr,<<\"sometime\">>}}";
    client.channel_error(&declaration("q", &start), 406, told).await;
    let alone = table(&[("x-kafka-start", text("first"))]);
    let told = "PRECONDITION_FAILED - invalid arg 'x-kafka-start' for queue 'q' in vhost '/': there is no x-kafka-topic";
    client.channel_error(&declaration("q", &alone), 406, told).await;
    client.over("q", "t", &[], 0).await;
    let other = table(&[]);
    let told = "PRECONDITION_FAILED - inequivalent arg 'x-kafka-topic' for queue 'q' in vhost '/': received none but \
                current is the value 't' of type 'longstr'";
    client.channel_error(&declaration("q", &other), 406, told).await;
    client.over("q", "t", &[], 0).await;
}

#[tokio::test]
async fn rejected_records_are_dead_letters_and_a_deleted_topic_cancels() {
    let server = Server::start().await;
    topic(&server, "t", 2).await;
    let mut client = server.channel().await;
    client.queue("durable letters").await;
    let letters =
        [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("durable letters"))];
    client.over("q", "t", &letters, 0).await;
    produce(&server, "t", 1, Compression::Gzip, &[(Some("k"), "bad", &[])]).await;
    client.consume("q", "c").await;
    let bad = client.told().await;
    assert_eq!((bad.text(), bad.header("x-kafka-partition")), ("bad", Some(ValueRef::I64(1))));
    client.put(1, &basic::Nack { delivery_tag: bad.tag, multiple: false, requeue: false }).send().await;
    let mut other = server.channel().await;
    let letter = loop {
        other
            .put(1, &basic::Get { queue: b"durable letters", no_ack: true, ..Default::default() })
            .send()
            .await;
        let payload = other.reply(1).await;
        if let Ok(Method::BasicGetOk(_)) = Method::parse(&payload) {
            let (properties, body) = other.content(1).await;
            let routing_key = bytes::Bytes::new();
            break Told { tag: 0, redelivered: false, routing_key, properties, body };
        }
    };
    assert_eq!((letter.text(), letter.header("x-first-death-queue")), ("bad", Some(text("q"))));
    assert_eq!(letter.header("x-first-death-reason"), Some(text("rejected")));
    server.broker().delete_topic("t").await.unwrap();
    client.expect(1, &basic::Cancel { consumer_tag: b"c", nowait: true }).await;
    let gone = queue::Declare { queue: b"q", passive: true, ..Default::default() };
    client.channel_error(&gone, 404, "NOT_FOUND - no queue 'q' in vhost '/'").await;
}

/// A Kafka client knows no bound of AMQP's: what it writes ends no connection, each time it is delivered.
#[tokio::test]
async fn headers_larger_than_a_frame_are_left_out() {
    let server = Server::start().await;
    topic(&server, "t", 1).await;
    let big = Header { key: "big".into(), value: Some(vec![b'v'; 200_000].into()) };
    produce(&server, "t", 0, Compression::None, &[(None, "large", &[big]), (None, "small", &[])]).await;
    let mut client = server.channel().await;
    client.over("q", "t", &[], 2).await;
    let large = client.got("q").await;
    assert_eq!((large.text(), large.header("x-headers-omitted")), ("large", Some(ValueRef::Bool(true))));
    client.put(1, &basic::Nack { delivery_tag: large.tag, multiple: false, requeue: true }).send().await;
    client.consume("q", "c").await;
    let (large, small) = (client.told().await, client.told().await);
    assert_eq!((large.text(), large.redelivered, small.text()), ("large", true, "small"));
    assert_eq!(large.header("x-headers-omitted"), Some(ValueRef::Bool(true)));
}
