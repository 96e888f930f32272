//! Consumers that do not acknowledge in time: what they and their channels are told, and where the messages are.

use ferrymq_amqp_codec::method::{basic, channel, connection, queue, tx};
use ferrymq_amqp_codec::{Method, TableBuilder, ValueRef};

use crate::support::{Client, Server, capable, start_ok};

fn table(list: &[(&str, ValueRef<'_>)]) -> TableBuilder {
    let mut table = TableBuilder::new();
    for (name, value) in list {
        table.push(name.as_bytes(), *value).unwrap();
    }
    table
}

async fn quorum(client: &mut Client, name: &str, timeout_ms: i32) {
    let arguments = table(&[
        ("x-queue-type", ValueRef::LongString(b"quorum")),
        ("x-consumer-timeout", ValueRef::I32(timeout_ms)),
    ]);
    let arguments = arguments.as_table();
    let declare = queue::Declare { queue: name.as_bytes(), durable: true, arguments, ..Default::default() };
    let ok = queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
}

fn too_late(timeout_ms: u32) -> String {
    format!(
        "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: {timeout_ms} ms. \
         This timeout value can be configured, see consumers doc guide to learn more"
    )
}

/// The next method on channel 1 closes it, with these words.
async fn closed(client: &mut Client, text: &str) {
    let payload = client.reply(1).await;
    let Ok(Method::ChannelClose(close)) = Method::parse(&payload) else {
        panic!("{:?}", Method::parse(&payload));
    };
    assert_eq!((close.reply_code, String::from_utf8_lossy(close.reply_text)), (406, text.into()));
    client.put(1, &channel::CloseOk {}).send().await;
}

#[tokio::test]
async fn a_consumer_is_cancelled_and_its_message_is_somebody_elses() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    quorum(&mut client, "q", 100).await;
    client.put_publish(1, "", "q", &[0, 0], b"1").send().await;
    client.consume("q", "slow").await;
    assert_eq!(client.delivery().await, (1, false, "1".to_owned()));
    client.expect(1, &basic::Cancel { consumer_tag: b"slow", nowait: true }).await;
    // On the same connection: what the former acknowledges late is not taken for what this one has.
    client.consume("q", "next").await;
    assert_eq!(client.delivery().await, (2, true, "1".to_owned()));
    client.put(1, &basic::Ack { delivery_tag: 1, multiple: false }).send().await;
    client.put(1, &basic::Nack { delivery_tag: 2, multiple: false, requeue: true }).send().await;
    assert_eq!(client.delivery().await, (3, true, "1".to_owned()));
    client.put(1, &basic::Ack { delivery_tag: 3, multiple: true }).send().await;
    assert_eq!(client.get("q").await, None);
}

#[tokio::test]
async fn what_was_got_ends_its_channel() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.channel().await, server.channel().await);
    quorum(&mut client, "q", 60).await;
    client.put_publish(1, "", "q", &[0, 0], b"1").send().await;
    assert!(client.get("q").await.is_some());
    closed(&mut client, &too_late(60)).await;
    assert!(other.get("q").await.is_some_and(|(_, redelivered, _)| redelivered));
    client.open(1).await;
}

#[tokio::test]
async fn a_client_that_does_not_understand_loses_its_channel() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.put_bytes(&ferrymq_amqp_codec::PROTOCOL_HEADER).send().await;
    client.reply(0).await;
    let properties = capable(&[]);
    client.put(0, &start_ok("PLAIN", b"\0guest\0guest", properties.as_table())).send().await;
    client.reply(0).await;
    client.put(0, &connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 });
    let open = connection::Open { virtual_host: b"/", ..connection::Open::default() };
    client.ask(0, &open, &connection::OpenOk::default()).await;
    client.open(1).await;
    quorum(&mut client, "q", 60).await;
    client.put_publish(1, "", "q", &[0, 0], b"1").send().await;
    client.consume("q", "slow").await;
    client.delivery().await;
    closed(&mut client, &too_late(60)).await;
}

#[tokio::test]
async fn a_consumer_may_ask_for_its_own() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    quorum(&mut client, "q", 600_000).await;
    client.put_publish(1, "", "q", &[0, 0], b"1").send().await;
    let arguments = table(&[("x-consumer-timeout", ValueRef::I64(50))]);
    let arguments = arguments.as_table();
    let consume = basic::Consume { queue: b"q", consumer_tag: b"c", arguments, ..Default::default() };
    client.ask(1, &consume, &basic::ConsumeOk { consumer_tag: b"c" }).await;
    client.delivery().await;
    client.expect(1, &basic::Cancel { consumer_tag: b"c", nowait: true }).await;
    let wrong = [
        (ValueRef::I32(-1), ": {value_negative,-1}"),
        (ValueRef::LongString(b"never"), ": \"expected integer, got longstr\""),
    ];
    for (value, why) in wrong {
        let arguments = table(&[("x-consumer-timeout", value)]);
        let arguments = arguments.as_table();
        let consume = basic::Consume { queue: b"q", arguments, ..Default::default() };
        let text =
            format!("PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue 'q' in vhost '/'{why}");
        client.channel_error(&consume, 406, &text).await;
    }
}

/// Acknowledged in a transaction that is not committed is not acknowledged.
#[tokio::test]
async fn in_a_transaction_it_is_too_late_as_well() {
    let server = Server::start().await;
    let (mut client, mut other) = (server.channel().await, server.channel().await);
    quorum(&mut client, "q", 60).await;
    client.put_publish(1, "", "q", &[0, 0], b"1").send().await;
    client.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
    client.consume("q", "c").await;
    let (delivery_tag, ..) = client.delivery().await;
    client.put(1, &basic::Ack { delivery_tag, multiple: false }).send().await;
    client.expect(1, &basic::Cancel { consumer_tag: b"c", nowait: true }).await;
    let held = other.get("q").await;
    assert!(held.is_some_and(|(tag, redelivered, _)| tag == 1 && redelivered));
    client.ask(1, &tx::Commit {}, &tx::CommitOk {}).await;
    other.put(1, &basic::Reject { delivery_tag: 1, requeue: true }).send().await;
    let mut left = other.get("q").await;
    while left.is_none() {
        left = other.get("q").await;
    }
}

/// A message that was returned is there again after its delay, and tells how often it was.
#[tokio::test]
async fn what_is_returned_may_have_to_wait() {
    const RETURNS: u64 = 14;
    let server = Server::start().await;
    let clock = ferrymq_runtime::Clock::system();
    let mut client = server.channel().await;
    let arguments = table(&[
        ("x-queue-type", ValueRef::LongString(b"quorum")),
        ("x-delayed-retry-type", ValueRef::LongString(b"all")),
        ("x-delayed-retry-min", ValueRef::I32(80)),
        ("x-delayed-retry-max", ValueRef::I32(120)),
    ]);
    let arguments = arguments.as_table();
    let declare = queue::Declare { queue: b"q", durable: true, arguments, ..Default::default() };
    let ok = queue::DeclareOk { queue: b"q", message_count: 0, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
    client.put_publish(1, "", "q", &[0, 0], b"1").send().await;
    client.consume("q", "c").await;
    client.delivery().await;
    let began = clock.uptime();
    for tag in 1..=RETURNS {
        let least_ms = if tag == 1 { 80 } else { 120 };
        let before = clock.uptime();
        client.put(1, &basic::Reject { delivery_tag: tag, requeue: true }).send().await;
        assert_eq!(client.delivery().await, (tag + 1, true, "1".to_owned()));
        let waited_ms = (clock.uptime() - before).as_millis();
        assert!(waited_ms >= least_ms, "{waited_ms} of {least_ms} ms");
    }
    // Eight seconds if there were no longest wait, less than two with it.
    let all_ms = (clock.uptime() - began).as_millis();
    assert!(all_ms < 5_000, "{all_ms} ms");
    let wrong: [(&str, ValueRef<'_>, &str); 3] = [
        (
            "x-delayed-retry-type",
            ValueRef::LongString(b"some"),
            ": \"some is not a valid delayed retry type. Must be one of: all, failed, returned, disabled\"",
        ),
        ("x-delayed-retry-min", ValueRef::I32(0), ": {value_zero,0}"),
        ("x-delayed-retry-max", ValueRef::Bool(true), ": \"expected integer, got bool\""),
    ];
    for (name, value, why) in wrong {
        let arguments = table(&[("x-queue-type", ValueRef::LongString(b"quorum")), (name, value)]);
        let arguments = arguments.as_table();
        let declare = queue::Declare { queue: b"wrong", durable: true, arguments, ..Default::default() };
        let text = format!("PRECONDITION_FAILED - invalid arg '{name}' for queue 'wrong' in vhost '/'{why}");
        client.channel_error(&declare, 406, &text).await;
    }
}
