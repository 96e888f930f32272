//! Priorities of consumers, single active consumers, and the counts that deliveries tell.

use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{
    BasicProperties, Method, Properties, Table, TableBuilder, ValueRef, WireMethod as _,
};

use crate::support::{Client, Server, properties};

fn table(entries: &[(&str, ValueRef<'_>)]) -> TableBuilder {
    let mut table = TableBuilder::new();
    for (name, value) in entries {
        table.push(name.as_bytes(), *value).expect("a short name");
    }
    table
}

const QUORUM: (&str, ValueRef<'static>) = ("x-queue-type", ValueRef::LongString(b"quorum"));
const SINGLE: (&str, ValueRef<'static>) = ("x-single-active-consumer", ValueRef::Bool(true));

async fn declare(client: &mut Client, arguments: &[(&str, ValueRef<'_>)]) {
    let arguments = table(arguments);
    let declare =
        queue::Declare { queue: b"q", durable: true, arguments: arguments.as_table(), ..Default::default() };
    client.ask(1, &declare, &queue::DeclareOk { queue: b"q", ..Default::default() }).await;
}

async fn consume(client: &mut Client, tag: &str, arguments: &[(&str, ValueRef<'_>)]) {
    let arguments = table(arguments);
    let consume = basic::Consume {
        queue: b"q",
        consumer_tag: tag.as_bytes(),
        arguments: arguments.as_table(),
        ..Default::default()
    };
    client.ask(1, &consume, &basic::ConsumeOk { consumer_tag: tag.as_bytes() }).await;
}

/// The next delivery on channel 1: its consumer, body and headers.
async fn delivered(client: &mut Client) -> (String, String, Vec<(String, String)>) {
    let payload = client.reply(1).await;
    let Ok(Method::BasicDeliver(deliver)) = Method::parse(&payload) else { panic!("no delivery") };
    let tag = String::from_utf8_lossy(deliver.consumer_tag).into_owned();
    let (properties, body) = client.content(1).await;
    (tag, String::from_utf8_lossy(&body).into_owned(), headers(&properties))
}

fn headers(properties: &[u8]) -> Vec<(String, String)> {
    let table = Properties::parse(properties).expect("properties").headers().unwrap_or(Table::EMPTY);
    let told = |value: ValueRef<'_>| format!("{value:?}");
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    table.iter().map(|entry| (name(entry.name()), told(entry.value()))).collect()
}

#[tokio::test]
async fn priorities_of_consumers_are_kept() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declare(&mut client, &[]).await;
    client.qos(1, false).await;
    consume(&mut client, "low", &[("x-priority", ValueRef::I32(-1))]).await;
    consume(&mut client, "middle", &[]).await;
    consume(&mut client, "high", &[("x-priority", ValueRef::I64(10))]).await;
    client.confirm_select().await;
    client.put_publish(1, "", "q", &[0, 0], b"a").send().await;
    // The confirm of a transient message may come before or after its delivery.
    let mut payload = client.reply(1).await;
    if matches!(Method::parse(&payload), Ok(Method::BasicAck(_))) {
        payload = client.reply(1).await;
    }
    let Ok(Method::BasicDeliver(deliver)) = Method::parse(&payload) else { panic!("no delivery") };
    assert_eq!(deliver.consumer_tag, b"high");
}

#[tokio::test]
async fn arguments_of_a_consumer_are_checked_in_rabbitmqs_words() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declare(&mut client, &[]).await;
    let of_classic = |argument: &str| {
        format!(
            "PRECONDITION_FAILED - invalid arg '{argument}' for queue 'q' in vhost '/' of queue type \
             rabbit_classic_queue"
        )
    };
    let cases = [
        (
            ("x-priority", ValueRef::LongString(b"9")),
            "PRECONDITION_FAILED - invalid arg 'x-priority' for queue 'q' in vhost '/': \"expected integer, got \
             longstr\""
                .to_owned(),
        ),
        (("x-stream-offset", ValueRef::LongString(b"first")), of_classic("x-stream-offset")),
        (("x-consumer-timeout", ValueRef::I32(1000)), of_classic("x-consumer-timeout")),
    ];
    for (argument, text) in cases {
        let arguments = table(&[argument]);
        let consume = basic::Consume { queue: b"q", arguments: arguments.as_table(), ..Default::default() };
        client.channel_error(&consume, 406, &text).await;
    }
    consume(&mut client, "c", &[("x-cancel-on-ha-failover", ValueRef::Bool(true))]).await;
}

#[tokio::test]
async fn one_consumer_at_a_time() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declare(&mut client, &[SINGLE, QUORUM]).await;
    let exclusive = basic::Consume { queue: b"q", exclusive: true, ..Default::default() };
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    client.channel_error(&exclusive, 403, text).await;
    let text = "RESOURCE_LOCKED - cannot obtain access to locked queue 'q' in vhost '/'. basic.get operations are \
                not supported by <<\"quorum\">> queues with single active consumer";
    client.channel_error(&basic::Get { queue: b"q", ..Default::default() }, 405, text).await;
    consume(&mut client, "first", &[]).await;
    consume(&mut client, "second", &[]).await;
    client.put_publish(1, "", "q", &[0, 0], b"a").put_publish(1, "", "q", &[0, 0], b"b").send().await;
    assert_eq!(delivered(&mut client).await.0, "first");
    assert_eq!(delivered(&mut client).await.0, "first");
    let cancel = basic::Cancel { consumer_tag: b"first", nowait: false };
    client.ask(1, &cancel, &basic::CancelOk { consumer_tag: b"first" }).await;
    client.put_publish(1, "", "q", &[0, 0], b"c").send().await;
    let (tag, body, _) = delivered(&mut client).await;
    assert_eq!((&*tag, &*body), ("second", "c"));
}

#[tokio::test]
async fn a_quorum_queue_tells_how_often_a_message_came_back() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declare(&mut client, &[QUORUM, ("x-delivery-limit", ValueRef::I32(2))]).await;
    let own = table(&[("x-delivery-count", ValueRef::I32(99)), ("mine", ValueRef::Bool(true))]);
    let published = BasicProperties { headers: Some(own.as_table()), ..BasicProperties::default() };
    client.put_publish(1, "", "q", &properties(published), b"a").send().await;
    consume(&mut client, "c", &[]).await;
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let (own, mine) = (text("x-delivery-count", "I32(99)"), text("mine", "Bool(true)"));
    let acquired = |count: u32| text("x-acquired-count", &format!("I64({count})"));
    let failed = |count: u32| text("x-delivery-count", &format!("I64({count})"));
    assert_eq!(delivered(&mut client).await.2, [own, mine.clone()], "as it was published");
    // To nack is no failure, to reject is one.
    client.put(1, &basic::Nack { delivery_tag: 1, requeue: true, multiple: false }).send().await;
    assert_eq!(delivered(&mut client).await.2, [acquired(1), mine.clone()]);
    client.put(1, &basic::Reject { delivery_tag: 2, requeue: true }).send().await;
    assert_eq!(delivered(&mut client).await.2, [acquired(2), failed(1), mine.clone()]);
    client.put(1, &basic::Recover { requeue: true }).send().await;
    client.expect(1, &basic::RecoverOk {}).await;
    assert_eq!(delivered(&mut client).await.2, [acquired(3), failed(1), mine.clone()]);
    // A channel that ends failed on what it had.
    let close = ferrymq_amqp_codec::method::channel::Close { reply_code: 200, ..Default::default() };
    client.ask(1, &close, &ferrymq_amqp_codec::method::channel::CloseOk {}).await;
    client.open(1).await;
    client.put(1, &basic::Get { queue: b"q", ..Default::default() }).send().await;
    let payload = client.reply(1).await;
    assert!(matches!(Method::parse(&payload), Ok(Method::BasicGetOk(ok)) if ok.redelivered));
    assert_eq!(headers(&client.content(1).await.0), [acquired(4), failed(2), mine]);
    client.put(1, &basic::Reject { delivery_tag: 1, requeue: true }).send().await;
    assert_eq!(client.get("q").await, None, "that was once too often");
}

#[tokio::test]
async fn a_quorum_queue_knows_no_global_prefetch() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declare(&mut client, &[QUORUM]).await;
    client.qos(1, true).await;
    client.put(1, &basic::Consume { queue: b"q", ..Default::default() }).send().await;
    let text = "NOT_IMPLEMENTED - queue 'q' in vhost '/' does not support global qos";
    client.connection_closes(540, text, basic::Consume::ID).await;
    // One that is set later is none for its consumers.
    let mut client = server.channel().await;
    consume(&mut client, "c", &[]).await;
    client.qos(1, true).await;
    for body in ["a", "b", "c"] {
        client.put_publish(1, "", "q", &[0, 0], body.as_bytes()).send().await;
        assert_eq!(delivered(&mut client).await.1, body);
    }
}

/// Also what fails in a transaction has failed, and what failed too often is a dead letter.
#[tokio::test]
async fn what_failed_too_often_becomes_a_dead_letter() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("dead").await;
    let limit = ("x-delivery-limit", ValueRef::I32(1));
    let to = ("x-dead-letter-exchange", ValueRef::LongString(b""));
    let key = ("x-dead-letter-routing-key", ValueRef::LongString(b"dead"));
    declare(&mut client, &[QUORUM, limit, to, key]).await;
    client.put_publish(1, "", "q", &[0, 0], b"a").send().await;
    let tx = ferrymq_amqp_codec::method::tx::Select {};
    client.ask(1, &tx, &ferrymq_amqp_codec::method::tx::SelectOk {}).await;
    for tag in 1..=2 {
        assert_eq!(client.get("q").await, Some((tag, tag > 1, "a".to_owned())));
        client.put(1, &basic::Reject { delivery_tag: tag, requeue: true }).send().await;
        let commit = ferrymq_amqp_codec::method::tx::Commit {};
        client.ask(1, &commit, &ferrymq_amqp_codec::method::tx::CommitOk {}).await;
    }
    assert_eq!(client.get("q").await, None);
    client.consume("dead", "c").await;
    let headers = delivered(&mut client).await.2;
    let reason = format!("{:?}", ValueRef::LongString(b"delivery_limit"));
    let reason = ("x-first-death-reason".to_owned(), reason);
    assert!(headers.contains(&reason), "{headers:?}");
}
