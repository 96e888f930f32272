//! Streams: declared, published to, consumed from anywhere, and what they refuse.

use bytes::Bytes;
use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{
    BasicProperties, Method, Properties, Table, TableBuilder, ValueRef, WireMethod as _,
};

use crate::support::{Client, Server, properties};

/// A delivery with what is told of it.
pub(crate) struct Told {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) routing_key: Bytes,
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
}

impl Told {
    pub(crate) fn header(&self, name: &str) -> Option<ValueRef<'_>> {
        Properties::parse(&self.properties).unwrap().headers()?.get(name.as_bytes())
    }

    pub(crate) fn offset(&self) -> i64 {
        match self.header("x-stream-offset") {
            Some(ValueRef::I64(offset)) => offset,
            other => panic!("no offset: {other:?}"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn table(entries: &[(&str, ValueRef<'_>)]) -> TableBuilder {
    let mut table = TableBuilder::new();
    for (name, value) in entries {
        table.push(name.as_bytes(), *value).unwrap();
    }
    table
}

pub(crate) fn text(text: &str) -> ValueRef<'_> {
    ValueRef::LongString(text.as_bytes())
}

pub(crate) fn declaration<'a>(name: &'a str, arguments: &'a TableBuilder) -> queue::Declare<'a> {
    queue::Declare {
        queue: name.as_bytes(),
        durable: true,
        arguments: arguments.as_table(),
        ..queue::Declare::default()
    }
}

pub(crate) fn declared(name: &str, message_count: u32) -> queue::DeclareOk<'_> {
    queue::DeclareOk { queue: name.as_bytes(), message_count, consumer_count: 0 }
}

impl Client {
    pub(crate) async fn stream(&mut self, name: &str, more: &[(&str, ValueRef<'_>)]) {
        let all: Vec<_> =
            [("x-queue-type", text("stream"))].into_iter().chain(more.iter().copied()).collect();
        let arguments = table(&all);
        self.ask(1, &declaration(name, &arguments), &declared(name, 0)).await;
    }

    pub(crate) async fn consume_from(&mut self, name: &str, tag: &str, arguments: &[(&str, ValueRef<'_>)]) {
        let arguments = table(arguments);
        let consume = basic::Consume {
            queue: name.as_bytes(),
            consumer_tag: tag.as_bytes(),
            arguments: arguments.as_table(),
            ..basic::Consume::default()
        };
        self.ask(1, &consume, &basic::ConsumeOk { consumer_tag: tag.as_bytes() }).await;
    }

    pub(crate) async fn told(&mut self) -> Told {
        let payload = self.reply(1).await;
        let Ok(Method::BasicDeliver(deliver)) = Method::parse(&payload) else {
            panic!("no delivery: {:?}", Method::parse(&payload));
        };
        let (properties, body) = self.content(1).await;
        let basic::Deliver { delivery_tag, redelivered, routing_key, .. } = deliver;
        let routing_key = Bytes::copy_from_slice(routing_key);
        Told { tag: delivery_tag, redelivered, routing_key, properties, body }
    }

    pub(crate) async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            let told = self.told().await;
            self.put(1, &basic::Ack { delivery_tag: told.tag, multiple: false }).send().await;
            all.push(told.text().to_owned());
        }
        all
    }
}

#[tokio::test]
async fn a_stream_is_read_again_and_again_from_anywhere() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    client.confirm_select().await;
    client.published("s", &["a", "b", "c"]).await;
    client.qos(10, false).await;
    for (tag, from, expected) in [
        ("first", text("first"), vec!["a", "b", "c"]),
        ("offset", ValueRef::I32(1), vec!["b", "c"]),
        ("last", text("last"), vec!["c"]),
        ("negative", ValueRef::I64(-7), vec!["a", "b", "c"]),
        ("hour", text("1h"), vec!["a", "b", "c"]),
        ("epoch", ValueRef::Timestamp(0), vec!["a", "b", "c"]),
    ] {
        client.consume_from("s", tag, &[("x-stream-offset", from)]).await;
        assert_eq!(client.bodies(expected.len()).await, expected, "{tag}");
        let ok = basic::CancelOk { consumer_tag: tag.as_bytes() };
        client.ask(1, &basic::Cancel { consumer_tag: tag.as_bytes(), nowait: false }, &ok).await;
    }
    // From now on, and from beyond the end: what comes next. Nobody asks in between: the append wakes them.
    client.consume_from("s", "next", &[]).await;
    client.consume_from("s", "far", &[("x-stream-offset", ValueRef::I64(1_000))]).await;
    let future = ValueRef::Timestamp(4_000_000_000);
    client.consume_from("s", "future", &[("x-stream-offset", future)]).await;
    let mut other = server.channel().await;
    other.confirm_select().await;
    other.published("s", &["d"]).await;
    for _ in 0..3 {
        let told = client.told().await;
        assert_eq!((told.text(), told.offset(), told.redelivered), ("d", 3, false));
    }
    let passive = queue::Declare { queue: b"s", passive: true, ..Default::default() };
    other.ask(1, &passive, &queue::DeclareOk { queue: b"s", message_count: 4, consumer_count: 3 }).await;
}

#[tokio::test]
async fn credit_is_given_by_settling_however_that_is_done() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    client.confirm_select().await;
    client.published("s", &["a", "b", "c", "d", "e", "f"]).await;
    client.qos(2, false).await;
    client.consume_from("s", "c", &[("x-stream-offset", text("first"))]).await;
    assert_eq!(client.told().await.text(), "a");
    assert_eq!(client.told().await.text(), "b");
    let flow = ferrymq_amqp_codec::method::channel::Flow { active: true };
    client.ask(1, &flow, &ferrymq_amqp_codec::method::channel::FlowOk { active: true }).await;
    client.put(1, &basic::Ack { delivery_tag: 1, multiple: false }).send().await;
    assert_eq!(client.told().await.text(), "c");
    // One for one: two are out, so an answer of the stream is next, and again.
    let passive = queue::Declare { queue: b"s", passive: true, ..Default::default() };
    let six = queue::DeclareOk { queue: b"s", message_count: 6, consumer_count: 1 };
    client.ask(1, &passive, &six).await;
    client.ask(1, &passive, &six).await;
    // To give back is no more than to be done: a stream goes on.
    client.put(1, &basic::Nack { delivery_tag: 3, multiple: true, requeue: true }).send().await;
    assert_eq!(client.told().await.text(), "d");
    assert_eq!(client.told().await.text(), "e");
    client.put(1, &basic::Reject { delivery_tag: 4, requeue: false }).send().await;
    let last = client.told().await;
    assert_eq!((last.text(), last.offset(), last.tag, last.redelivered), ("f", 5, 6, false));
    // Another has a position of its own.
    client.consume_from("s", "second", &[("x-stream-offset", text("first"))]).await;
    assert_eq!(client.told().await.text(), "a");
    assert_eq!(client.told().await.text(), "b");
}

#[tokio::test]
async fn what_a_consumer_lacks_is_told_in_rabbitmqs_words() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    let consume = |arguments: Table<'static>| basic::Consume { queue: b"s", arguments, ..Default::default() };
    let text_of = |what: &str| format!("PRECONDITION_FAILED - {what}");
    let unset = text_of("consumer prefetch count is not set for stream queue 's' in vhost '/'");
    client.channel_error(&consume(Table::EMPTY), 406, &unset).await;
    client.qos(5, false).await;
    for (argument, value, why) in [
        ("x-stream-offset", text("never"), ": {invalid_stream_offset_arg,{longstr,<<\"never\">>}}"),
        ("x-stream-offset", ValueRef::Bool(true), ": {invalid_stream_offset_arg,{bool,true}}"),
        ("x-stream-filter", ValueRef::I32(1), ": {unacceptable_type,signedint}"),
        ("x-stream-match-unfiltered", text("yes"), ": {unacceptable_type,longstr}"),
        ("x-priority", ValueRef::I32(1), " of queue type rabbit_stream_queue"),
    ] {
        let arguments = table(&[(argument, value)]);
        let consume = basic::Consume { queue: b"s", arguments: arguments.as_table(), ..Default::default() };
        let told = text_of(&format!("invalid arg '{argument}' for queue 's' in vhost '/'{why}"));
        client.channel_error(&consume, 406, &told).await;
        client.qos(5, false).await;
    }
    for (method, what) in [
        (basic::Consume::ID, "automatic acknowledgement not supported by stream queue 's' in vhost '/'"),
        (basic::Consume::ID, "queue 's' in vhost '/' does not support global qos"),
        (basic::Get::ID, "basic.get not supported by stream queues queue 's' in vhost '/'"),
        (queue::Purge::ID, "queue.purge not supported by stream queues queue 's' in vhost '/'"),
    ] {
        let mut client = server.channel().await;
        client.qos(5, what.ends_with("global qos")).await;
        if method == basic::Get::ID {
            client.put(1, &basic::Get { queue: b"s", ..Default::default() });
        } else if method == queue::Purge::ID {
            client.put(1, &queue::Purge { queue: b"s", ..Default::default() });
        } else {
            client.put(
                1,
                &basic::Consume { queue: b"s", no_ack: what.starts_with("auto"), ..Default::default() },
            );
        }
        client.send().await;
        client.connection_closes(540, &format!("NOT_IMPLEMENTED - {what}"), method).await;
    }
}

#[tokio::test]
async fn declarations_are_checked_as_rabbitmq_checks_them() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let stream = || table(&[("x-queue-type", text("stream"))]);
    let wrong = |declare: queue::Declare<'static>| declare;
    for (property, declare) in [
        ("auto-delete", wrong(queue::Declare { durable: true, auto_delete: true, ..Default::default() })),
        ("exclusive-owner", wrong(queue::Declare { exclusive: true, ..Default::default() })),
        ("non-durable", wrong(queue::Declare::default())),
    ] {
        let arguments = stream();
        let declare = queue::Declare { queue: b"s", arguments: arguments.as_table(), ..declare };
        let told = format!("PRECONDITION_FAILED - invalid property '{property}' for queue 's' in vhost '/'");
        client.channel_error(&declare, 406, &told).await;
    }
    for (argument, value, told) in [
        ("x-max-age", text("1d"), "invalid arg 'x-max-age' for queue 's' in vhost '/': invalid_max_age"),
        (
            "x-max-length",
            ValueRef::I32(5),
            "invalid arg 'x-max-length' for queue 's' in vhost '/' of queue type rabbit_stream_queue",
        ),
        (
            "x-stream-max-segment-size-bytes",
            ValueRef::I64(3_000_000_001),
            "Exceeded max value for x-stream-max-segment-size-bytes",
        ),
        ("x-stream-filter-size-bytes", ValueRef::I32(15), "Invalid value for x-stream-filter-size-bytes"),
    ] {
        let arguments = table(&[("x-queue-type", text("stream")), (argument, value)]);
        let told = format!("PRECONDITION_FAILED - {told}");
        client.channel_error(&declaration("s", &arguments), 406, &told).await;
    }
    let arguments = stream();
    let told = "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_stream_queue";
    client.channel_error(&declaration("", &arguments), 406, told).await;
    // What was asked is what is compared, and what the topic has.
    client.stream("s", &[("x-max-age", text("1h")), ("x-max-length-bytes", ValueRef::I64(20_000_000))]).await;
    let config = server.broker().topics().get("s").unwrap().config.get();
    assert_eq!((config.retention_ms, config.retention_bytes), (Some(3_600_000), Some(20_000_000)));
    let told = "PRECONDITION_FAILED - inequivalent arg 'x-max-length-bytes' for queue 's' in vhost '/': received \
                none but current is the value '20000000' of type 'long'";
    client.channel_error(&declaration("s", &stream()), 406, told).await;
    let classic = TableBuilder::new();
    let told = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 's' in vhost '/': received 'classic' but \
                current is 'stream'";
    client.channel_error(&declaration("s", &classic), 406, told).await;
}

#[tokio::test]
async fn consumers_get_what_they_filter_by() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("s", &[]).await;
    client.confirm_select().await;
    for (value, body) in
        [(Some("eu"), "a"), (Some("us"), "b"), (None, "c"), (Some("eu"), "d"), (Some("as"), "e")]
    {
        let headers = value.map(|value| table(&[("x-stream-filter-value", text(value))]));
        let with = properties(BasicProperties {
            headers: headers.as_ref().map(TableBuilder::as_table),
            ..BasicProperties::default()
        });
        client.put_publish(1, "", "s", &with, body.as_bytes()).send().await;
        client
            .expect(
                1,
                &basic::Ack { delivery_tag: u64::from(body.as_bytes()[0] - b'a') + 1, multiple: false },
            )
            .await;
    }
    client.qos(1, false).await;
    let mut list = ferrymq_amqp_codec::ArrayBuilder::new();
    list.push(text("us")).unwrap().push(text("as")).unwrap();
    let first = ("x-stream-offset", text("first"));
    for (tag, arguments, expected) in [
        ("one", vec![("x-stream-filter", text("eu"))], vec!["a", "d"]),
        ("two", vec![("x-stream-filter", ValueRef::Array(list.as_array()))], vec!["b", "e"]),
        (
            "or none",
            vec![("x-stream-filter", text("eu")), ("x-stream-match-unfiltered", ValueRef::Bool(true))],
            vec!["a", "c", "d"],
        ),
    ] {
        let arguments: Vec<_> = arguments.into_iter().chain([first]).collect();
        client.consume_from("s", tag, &arguments).await;
        assert_eq!(client.bodies(expected.len()).await, expected, "{tag}");
        let ok = basic::CancelOk { consumer_tag: tag.as_bytes() };
        client.ask(1, &basic::Cancel { consumer_tag: tag.as_bytes(), nowait: false }, &ok).await;
    }
}
