//! Exchanges, queues and bindings: what can be declared, and what is said of what cannot.

use ferrymq_amqp_codec::method::{basic, confirm, exchange, queue};
use ferrymq_amqp_codec::{Method, TableBuilder, ValueRef};

use crate::support::Server;

fn declare(name: &str) -> queue::Declare<'_> {
    queue::Declare { queue: name.as_bytes(), ..queue::Declare::default() }
}

fn exchange<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare { exchange: name.as_bytes(), kind: kind.as_bytes(), ..exchange::Declare::default() }
}

fn ok(name: &str, message_count: u32, consumer_count: u32) -> queue::DeclareOk<'_> {
    queue::DeclareOk { queue: name.as_bytes(), message_count, consumer_count }
}

#[tokio::test]
async fn names_are_made_and_remembered() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let anonymous = queue::Declare { exclusive: true, ..declare("") };
    let mut names = Vec::new();
    for _ in 0..2 {
        client.put(1, &anonymous).send().await;
        let payload = client.reply(1).await;
        let Ok(Method::QueueDeclareOk(made)) = Method::parse(&payload) else { panic!("no declare-ok") };
        names.push(String::from_utf8(made.queue.to_vec()).unwrap());
    }
    assert!(names.iter().all(|name| name.starts_with("amq.gen-")) && names[0] != names[1], "{names:?}");
    // An empty name is the last queue, and an empty key with it is its name.
    let bind = queue::Bind { exchange: b"amq.direct", ..queue::Bind::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    client.confirm_select().await;
    client.put_publish(1, "amq.direct", &names[1], &[0, 0], b"x").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    client.ask(1, &queue::Purge::default(), &queue::PurgeOk { message_count: 1 }).await;
    client.ask(1, &queue::Delete::default(), &queue::DeleteOk { message_count: 0 }).await;
    let mut other = server.channel().await;
    let text = "NOT_FOUND - no previously declared queue";
    other.channel_error(&basic::Get::default(), 404, text).await;
    other.channel_error(&queue::Bind { exchange: b"amq.direct", ..Default::default() }, 404, text).await;
}

#[tokio::test]
async fn nothing_is_answered_that_wants_no_answer() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put(1, &confirm::Select { nowait: true });
    client.put(1, &exchange::Declare { nowait: true, ..exchange("quiet", "fanout") });
    client.put(1, &queue::Declare { nowait: true, exclusive: true, ..declare("q") });
    client.put(1, &queue::Bind { queue: b"q", exchange: b"quiet", nowait: true, ..Default::default() });
    client.put(
        1,
        &exchange::Bind { destination: b"quiet", source: b"amq.fanout", nowait: true, ..Default::default() },
    );
    client.put_publish(1, "amq.fanout", "", &[0, 0], b"through both").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    client.put(1, &basic::Consume { queue: b"q", consumer_tag: b"c", nowait: true, ..Default::default() });
    client.send().await;
    assert_eq!(client.delivery().await.2, "through both");
    client.put(1, &basic::Cancel { consumer_tag: b"c", nowait: true });
    client.put(
        1,
        &exchange::Unbind {
            destination: b"quiet",
            source: b"amq.fanout",
            nowait: true,
            ..Default::default()
        },
    );
    client.put(1, &queue::Purge { queue: b"q", nowait: true, ..Default::default() });
    client.put(1, &queue::Delete { queue: b"q", nowait: true, ..Default::default() });
    client.put(1, &exchange::Delete { exchange: b"quiet", nowait: true, ..Default::default() });
    client
        .channel_error(
            &queue::Declare { passive: true, ..declare("q") },
            404,
            "NOT_FOUND - no queue 'q' in vhost '/'",
        )
        .await;
}

#[tokio::test]
async fn declarations_must_agree() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.ask(1, &declare("q"), &ok("q", 0, 0)).await;
    client.ask(1, &declare("q"), &ok("q", 0, 0)).await;
    let differs = |arg: &str, received: &str, current: &str| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{arg}' for queue 'q' in vhost '/': received '{received}' but \
             current is '{current}'"
        )
    };
    let durable = queue::Declare { durable: true, ..declare("q") };
    client.channel_error(&durable, 406, &differs("durable", "true", "false")).await;
    let auto = queue::Declare { auto_delete: true, ..declare("q") };
    client.channel_error(&auto, 406, &differs("auto_delete", "true", "false")).await;
    let locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be \
                  originally declared on another connection or the exclusive property value does not match that of \
                  the original declaration.";
    client.channel_error(&queue::Declare { exclusive: true, ..declare("q") }, 405, locked).await;
    client.ask(1, &exchange("x", "direct"), &exchange::DeclareOk {}).await;
    let differs = |arg: &str, received: &str, current: &str| {
        format!(
            "PRECONDITION_FAILED - inequivalent arg '{arg}' for exchange 'x' in vhost '/': received '{received}' but \
             current is '{current}'"
        )
    };
    client.channel_error(&exchange("x", "topic"), 406, &differs("type", "topic", "direct")).await;
    let durable = exchange::Declare { durable: true, ..exchange("x", "direct") };
    client.channel_error(&durable, 406, &differs("durable", "true", "false")).await;
    let internal = exchange::Declare { internal: true, ..exchange("x", "direct") };
    client.channel_error(&internal, 406, &differs("internal", "true", "false")).await;
}

#[tokio::test]
async fn what_is_anothers_is_locked() {
    let server = Server::start().await;
    let mut owner = server.channel().await;
    owner.queue("mine").await;
    let mut other = server.channel().await;
    let locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It could be \
                  originally declared on another connection or the exclusive property value does not match that of \
                  the original declaration.";
    other.channel_error(&queue::Declare { passive: true, ..declare("mine") }, 405, locked).await;
    other.channel_error(&basic::Get { queue: b"mine", ..Default::default() }, 405, locked).await;
    other.channel_error(&basic::Consume { queue: b"mine", ..Default::default() }, 405, locked).await;
    other.channel_error(&queue::Purge { queue: b"mine", ..Default::default() }, 405, locked).await;
    other.channel_error(&queue::Delete { queue: b"mine", ..Default::default() }, 405, locked).await;
}

#[tokio::test]
async fn missing_things_are_told_or_do_not_matter() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    let no_queue = "NOT_FOUND - no queue 'no' in vhost '/'";
    client.channel_error(&queue::Declare { passive: true, ..declare("no") }, 404, no_queue).await;
    client.channel_error(&basic::Get { queue: b"no", ..Default::default() }, 404, no_queue).await;
    client.channel_error(&basic::Consume { queue: b"no", ..Default::default() }, 404, no_queue).await;
    client.channel_error(&queue::Purge { queue: b"no", ..Default::default() }, 404, no_queue).await;
    let bind = queue::Bind { queue: b"no", exchange: b"amq.direct", ..Default::default() };
    client.channel_error(&bind, 404, no_queue).await;
    let no_exchange = "NOT_FOUND - no exchange 'no' in vhost '/'";
    client.channel_error(&exchange::Declare { passive: true, ..exchange("no", "") }, 404, no_exchange).await;
    let bind = queue::Bind { queue: b"q", exchange: b"no", ..Default::default() };
    client.channel_error(&bind, 404, no_exchange).await;
    let bind = exchange::Bind { destination: b"amq.fanout", source: b"no", ..Default::default() };
    client.channel_error(&bind, 404, no_exchange).await;
    client
        .ask(1, &queue::Delete { queue: b"no", ..Default::default() }, &queue::DeleteOk { message_count: 0 })
        .await;
    client.ask(1, &exchange::Delete { exchange: b"no", ..Default::default() }, &exchange::DeleteOk {}).await;
    let unbind =
        queue::Unbind { queue: b"q", exchange: b"amq.direct", routing_key: b"k", ..Default::default() };
    client.ask(1, &unbind, &queue::UnbindOk {}).await;
}

#[tokio::test]
async fn reserved_names_are_refused() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    let default = "ACCESS_REFUSED - operation not permitted on the default exchange";
    client.channel_error(&exchange("", "direct"), 403, default).await;
    client.channel_error(&exchange::Declare { passive: true, ..exchange("", "direct") }, 403, default).await;
    client.channel_error(&exchange::Delete::default(), 403, default).await;
    let bind = queue::Bind { queue: b"q", routing_key: b"k", ..Default::default() };
    client.channel_error(&bind, 403, default).await;
    let bind = exchange::Bind { source: b"amq.fanout", ..Default::default() };
    client.channel_error(&bind, 403, default).await;
    let text = "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'";
    client.channel_error(&declare("amq.q"), 403, text).await;
    let text = "ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix 'amq.*'";
    client.channel_error(&exchange("amq.x", "direct"), 403, text).await;
    let text = "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed";
    client.channel_error(&exchange::Delete { exchange: b"amq.topic", ..Default::default() }, 403, text).await;
    // What is there under such a name may be declared again.
    let there = exchange::Declare { durable: true, ..exchange("amq.topic", "topic") };
    client.ask(1, &there, &exchange::DeclareOk {}).await;
}

#[tokio::test]
async fn line_ends_are_dropped_from_names() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let lines = queue::Declare { exclusive: true, ..declare("a\r\nb\n") };
    client.ask(1, &lines, &ok("ab", 0, 0)).await;
    client.ask(1, &exchange("x\r\ny", "fanout"), &exchange::DeclareOk {}).await;
    client.ask(1, &exchange::Declare { passive: true, ..exchange("xy", "") }, &exchange::DeclareOk {}).await;
    let delete = queue::Delete { queue: b"\na\nb", ..Default::default() };
    client.ask(1, &delete, &queue::DeleteOk { message_count: 0 }).await;
}

#[tokio::test]
async fn deletions_can_have_conditions() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.confirm_select().await;
    client.queue("q").await;
    client.published("q", &["a"]).await;
    let if_empty = queue::Delete { queue: b"q", if_empty: true, ..Default::default() };
    client.channel_error(&if_empty, 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty").await;
    client.consume("q", "c").await;
    assert_eq!(client.delivery().await.2, "a");
    let if_unused = queue::Delete { queue: b"q", if_unused: true, ..Default::default() };
    client.channel_error(&if_unused, 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use").await;
    // Of both reasons RabbitMQ tells the messages.
    client.confirm_select().await;
    client.qos(1, false).await;
    client.consume("q", "c").await;
    assert_eq!(client.delivery().await.2, "a");
    client.published("q", &["b"]).await;
    let if_neither = queue::Delete { if_empty: true, ..if_unused };
    client.channel_error(&if_neither, 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty").await;
    client.ask(1, &if_unused, &queue::DeleteOk { message_count: 2 }).await;
    client.queue("q").await;
    client.ask(1, &exchange("x", "direct"), &exchange::DeclareOk {}).await;
    let bind = queue::Bind { queue: b"q", exchange: b"x", ..Default::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    let if_unused = exchange::Delete { exchange: b"x", if_unused: true, ..Default::default() };
    client.channel_error(&if_unused, 406, "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use").await;
}

#[tokio::test]
async fn unserved_arguments_are_refused_and_dead_ones_ignored() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    for (name, value, told) in [("x-message-deduplication", ValueRef::U8(3), "'3' of type 'unsignedbyte'")] {
        let mut arguments = TableBuilder::new();
        arguments.push(name.as_bytes(), value).unwrap();
        let with = queue::Declare { arguments: arguments.as_table(), ..declare("args") };
        let text =
            format!("PRECONDITION_FAILED - invalid arg '{name}' for queue: {told} is not supported yet");
        client.channel_error(&with, 406, &text).await;
    }
    let mut arguments = TableBuilder::new();
    arguments.push(b"x-queue-mode", ValueRef::LongString(b"lazy")).unwrap();
    arguments.push(b"x-queue-type", ValueRef::LongString(b"classic")).unwrap();
    let with = queue::Declare { exclusive: true, arguments: arguments.as_table(), ..declare("dead-ones") };
    client.ask(1, &with, &ok("dead-ones", 0, 0)).await;
    let text = "PRECONDITION_FAILED - unknown exchange type 'x-odd'";
    client.channel_error(&exchange("x", "x-odd"), 406, text).await;
}

#[tokio::test]
async fn wrong_arguments_are_told_in_rabbitmqs_words() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let quorum = ("x-queue-type", ValueRef::LongString(b"quorum"));
    let letters = ("x-dead-letter-exchange", ValueRef::LongString(b"x"));
    for (given, name, why) in [
        (
            &[("x-message-ttl", ValueRef::LongString(b"5"))][..],
            "x-message-ttl",
            ": \"expected integer, got longstr\"",
        ),
        (&[("x-message-ttl", ValueRef::I32(-1))], "x-message-ttl", ": {value_negative,-1}"),
        (&[("x-expires", ValueRef::U8(0))], "x-expires", ": {value_zero,0}"),
        (&[("x-expires", ValueRef::I64(315_360_000_001))], "x-expires", ": {value_too_large,315360000001}"),
        (&[("x-max-length", ValueRef::F64(5.0))], "x-max-length", ": \"expected integer, got double\""),
        (&[("x-overflow", ValueRef::Bool(true))], "x-overflow", ": {unacceptable_type,bool}"),
        (&[("x-overflow", ValueRef::LongString(b"burst"))], "x-overflow", ": invalid_overflow"),
        (
            &[("x-queue-type", ValueRef::LongString(b"odd"))],
            "x-queue-type",
            ": \"unsupported queue type 'odd'\"",
        ),
        (
            &[("x-max-priority", ValueRef::U8(3)), quorum],
            "x-max-priority",
            " of queue type rabbit_quorum_queue",
        ),
        (&[("x-delivery-limit", ValueRef::U8(3))], "x-delivery-limit", " of queue type rabbit_classic_queue"),
        (
            &[quorum, letters, ("x-dead-letter-strategy", ValueRef::LongString(b"never"))],
            "x-dead-letter-strategy",
            ": invalid_dlx_strategy",
        ),
        (
            &[quorum, letters, ("x-dead-letter-strategy", ValueRef::U8(1))],
            "x-dead-letter-strategy",
            ": {unacceptable_type,unsignedbyte}",
        ),
        (
            &[letters, ("x-dead-letter-strategy", ValueRef::LongString(b"at-least-once"))],
            "x-dead-letter-strategy",
            " of queue type rabbit_classic_queue",
        ),
    ] {
        let mut arguments = TableBuilder::new();
        for (name, value) in given {
            arguments.push(name.as_bytes(), *value).unwrap();
        }
        let with = queue::Declare { arguments: arguments.as_table(), durable: true, ..declare("args") };
        let text = format!("PRECONDITION_FAILED - invalid arg '{name}' for queue 'args' in vhost '/'{why}");
        client.channel_error(&with, 406, &text).await;
    }
    let mut arguments = TableBuilder::new();
    arguments.push(b"x-queue-type", ValueRef::LongString(b"quorum")).unwrap();
    let with = queue::Declare { arguments: arguments.as_table(), ..declare("args") };
    let text = "PRECONDITION_FAILED - invalid property 'non-durable' for queue 'args' in vhost '/'";
    client.channel_error(&with, 406, text).await;
    for (name, strategy) in [("safe", &b"at-least-once"[..]), ("not so", b"at-most-once")] {
        let mut arguments = TableBuilder::new();
        for (name, value) in [quorum, letters, ("x-dead-letter-strategy", ValueRef::LongString(strategy))] {
            arguments.push(name.as_bytes(), value).unwrap();
        }
        let with = queue::Declare { arguments: arguments.as_table(), durable: true, ..declare(name) };
        client.ask(1, &with, &ok(name, 0, 0)).await;
    }
    // A bound is part of what a queue is, whatever the width of its number.
    let bounded = |ttl| {
        let mut arguments = TableBuilder::new();
        arguments.push(b"x-message-ttl", ttl).unwrap();
        arguments
    };
    for ttl in [ValueRef::I32(1000), ValueRef::I64(1000)] {
        let arguments = bounded(ttl);
        let with = queue::Declare { arguments: arguments.as_table(), ..declare("args") };
        client.ask(1, &with, &ok("args", 0, 0)).await;
    }
    let arguments = bounded(ValueRef::I32(2000));
    let with = queue::Declare { arguments: arguments.as_table(), ..declare("args") };
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'args' in vhost '/': received \
                '2000' but current is '1000'";
    client.channel_error(&with, 406, text).await;
}

#[tokio::test]
async fn what_is_durable_is_there_after_a_restart() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable-q").await;
    client.ask(1, &declare("transient-q"), &ok("transient-q", 0, 0)).await;
    client
        .ask(
            1,
            &exchange::Declare { durable: true, ..exchange("durable-x", "topic") },
            &exchange::DeclareOk {},
        )
        .await;
    client.ask(1, &exchange("transient-x", "topic"), &exchange::DeclareOk {}).await;
    let bind =
        queue::Bind { queue: b"durable-q", exchange: b"durable-x", routing_key: b"#", ..Default::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    client.confirm_select().await;
    client.published("durable-q", &["a", "b"]).await;
    drop(client);
    let server = server.restart().await;
    let mut client = server.channel().await;
    client.ask(1, &queue::Declare { passive: true, ..declare("durable-q") }, &ok("durable-q", 2, 0)).await;
    client.confirm_select().await;
    client.put_publish(1, "durable-x", "any", &[0, 0], b"c").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
    for body in ["a", "b", "c"] {
        assert_eq!(client.get("durable-q").await.unwrap().2, body);
    }
    let text = "NOT_FOUND - no queue 'transient-q' in vhost '/'";
    client.channel_error(&queue::Declare { passive: true, ..declare("transient-q") }, 404, text).await;
    let text = "NOT_FOUND - no exchange 'transient-x' in vhost '/'";
    client
        .channel_error(&exchange::Declare { passive: true, ..exchange("transient-x", "") }, 404, text)
        .await;
}
