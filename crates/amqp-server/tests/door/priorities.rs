//! Priorities of messages, as a client sees them.

use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{BasicProperties, MethodId, TableBuilder, ValueRef, WireMethod as _};

use crate::support::{Client, Server, properties};

async fn declared(client: &mut Client, name: &str, given: &[(&str, ValueRef<'_>)]) {
    let mut arguments = TableBuilder::new();
    for (name, value) in given {
        arguments.push(name.as_bytes(), *value).unwrap();
    }
    let arguments = arguments.as_table();
    let declare =
        queue::Declare { queue: name.as_bytes(), durable: true, arguments, ..queue::Declare::default() };
    let ok = queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
}

/// Publishes persistent messages with these priorities and waits for their confirms.
async fn send(client: &mut Client, queue: &str, all: &[(&str, Option<u8>)]) {
    for (body, priority) in all {
        let given =
            BasicProperties { delivery_mode: Some(2), priority: *priority, ..BasicProperties::default() };
        client.put_publish(1, "", queue, &properties(given), body.as_bytes()).send().await;
        assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Ack::ID));
    }
}

/// Takes everything without acknowledging.
async fn all(client: &mut Client, queue: &str) -> Vec<(u64, bool, String)> {
    let mut all = Vec::new();
    while let Some(got) = client.get(queue).await {
        all.push(got);
    }
    all
}

fn bodies(all: &[(u64, bool, String)]) -> Vec<&str> {
    all.iter().map(|(_, _, body)| body.as_str()).collect()
}

const SENT: [(&str, Option<u8>); 6] =
    [("none", None), ("0", Some(0)), ("5", Some(5)), ("9", Some(9)), ("3", Some(3)), ("5 again", Some(5))];

#[tokio::test]
async fn the_highest_comes_first_also_after_a_restart() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.confirm_select().await;
    declared(&mut client, "classic", &[("x-max-priority", ValueRef::U8(5))]).await;
    declared(&mut client, "quorum", &[("x-queue-type", ValueRef::LongString(b"quorum"))]).await;
    for queue in ["classic", "quorum"] {
        send(&mut client, queue, &SENT).await;
    }
    let expected = [
        ("classic", ["5", "9", "5 again", "3", "none", "0"]),
        ("quorum", ["9", "5", "5 again", "none", "3", "0"]),
    ];
    for (queue, expected) in expected {
        let got = all(&mut client, queue).await;
        assert_eq!(bodies(&got), expected);
        // All of them go back to their places.
        let (last, ..) = got.last().unwrap();
        let nack = basic::Nack { delivery_tag: *last, multiple: true, requeue: true };
        client.put(1, &nack).send().await;
        let again = all(&mut client, queue).await;
        assert_eq!(bodies(&again), expected);
        assert!(again.iter().all(|(_, redelivered, _)| *redelivered));
        // One of the middle is done with, by its tag alone.
        client.put(1, &basic::Ack { delivery_tag: again[2].0, multiple: false }).send().await;
        let (last, ..) = again.last().unwrap();
        client.put(1, &basic::Nack { delivery_tag: *last, multiple: true, requeue: true }).send().await;
        assert_eq!(client.get(queue).await.map(|(_, _, body)| body).as_deref(), Some(expected[0]));
    }
    client.close().await;
    let server = server.restart().await;
    let mut client = server.channel().await;
    for (queue, expected) in expected {
        let left: Vec<&str> = expected.iter().copied().filter(|body| *body != "5 again").collect();
        // The third of both is the same one.
        assert_eq!(expected[2], "5 again");
        assert_eq!(bodies(&all(&mut client, queue).await), left);
    }
}

/// A prefetched message is not taken back for one that is higher; the next one is the highest.
#[tokio::test]
async fn a_consumer_gets_the_highest_that_waits() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.confirm_select().await;
    declared(&mut client, "q", &[("x-max-priority", ValueRef::U8(9))]).await;
    client.qos(1, false).await;
    client.consume("q", "c").await;
    client.put_publish(1, "", "q", &properties(BasicProperties::default()), b"low").send().await;
    let mut held = None;
    let mut confirmed = false;
    while held.is_none() || !confirmed {
        let payload = client.reply(1).await;
        match MethodId::peek(&payload) {
            Some(basic::Ack::ID) => confirmed = true,
            Some(basic::Deliver::ID) => held = Some(client.content(1).await.1),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(held.as_deref(), Some(&b"low"[..]));
    send(&mut client, "q", &[("1", Some(1)), ("9", Some(9)), ("4", Some(4))]).await;
    for (tag, expected) in (1..).zip(["9", "4", "1"]) {
        client.put(1, &basic::Ack { delivery_tag: tag, multiple: false }).send().await;
        let (next, redelivered, body) = client.delivery().await;
        assert_eq!((next, redelivered, body.as_str()), (tag + 1, false, expected));
    }
}

#[tokio::test]
async fn what_a_priority_may_be_is_told_in_rabbitmqs_words() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declared(&mut client, "q", &[("x-max-priority", ValueRef::I32(5))]).await;
    for (value, why) in [
        (ValueRef::I32(256), "{max_value_exceeded,256}"),
        (ValueRef::I32(-1), "{value_negative,-1}"),
        (ValueRef::LongString(b"5"), "\"expected integer, got longstr\""),
    ] {
        let mut arguments = TableBuilder::new();
        arguments.push(b"x-max-priority", value).unwrap();
        let arguments = arguments.as_table();
        let with = queue::Declare { queue: b"wrong", arguments, durable: true, ..Default::default() };
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'wrong' in vhost '/': {why}"
        );
        client.channel_error(&with, 406, &text).await;
    }
    // Any width of number is the same, another number is not.
    declared(&mut client, "q", &[("x-max-priority", ValueRef::I64(5))]).await;
    let mut arguments = TableBuilder::new();
    arguments.push(b"x-max-priority", ValueRef::I32(6)).unwrap();
    let with =
        queue::Declare { queue: b"q", durable: true, arguments: arguments.as_table(), ..Default::default() };
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'q' in vhost '/': received '6' \
                but current is '5'";
    client.channel_error(&with, 406, text).await;
}
