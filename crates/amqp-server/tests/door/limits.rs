//! Time and length in queues, as a client sees them.

use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{BasicProperties, Method, MethodId, TableBuilder, ValueRef, WireMethod as _};

use crate::support::{Client, Server, persistent, properties, within};

/// Declares a durable queue with these arguments.
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

/// How many messages are ready.
async fn ready(client: &mut Client, name: &str) -> u32 {
    let passive = queue::Declare { queue: name.as_bytes(), passive: true, ..queue::Declare::default() };
    client.put(1, &passive).send().await;
    let payload = client.reply(1).await;
    match Method::parse(&payload) {
        Ok(Method::QueueDeclareOk(ok)) => ok.message_count,
        other => panic!("{other:?}"),
    }
}

fn expiring(after: &str) -> bytes::Bytes {
    let expiration = Some(after.as_bytes());
    properties(BasicProperties { expiration, priority: Some(7), ..BasicProperties::default() })
}

#[tokio::test]
async fn messages_expire_by_their_own_time_and_their_queues() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declared(&mut client, "q", &[]).await;
    declared(&mut client, "short", &[("x-message-ttl", ValueRef::I32(30))]).await;
    client.confirm_select().await;
    for (queue, expiration) in [("q", "0"), ("q", "30"), ("short", "3600000"), ("short", "+1")] {
        client.put_publish(1, "", queue, &expiring(expiration), b"gone").send().await;
        assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Ack::ID));
        within(async { while ready(&mut client, queue).await > 0 {} }).await;
        assert_eq!(client.get(queue).await, None);
    }
    // What may stay is delivered with its properties as they were.
    client.put_publish(1, "", "q", &expiring("3600000"), b"stays").send().await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Ack::ID));
    client.put(1, &basic::Get { queue: b"q", ..basic::Get::default() }).send().await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::GetOk::ID));
    assert_eq!(client.content(1).await, (expiring("3600000"), bytes::Bytes::from_static(b"stays")));
}

#[tokio::test]
async fn no_time_at_all_is_enough_for_a_consumer_who_is_there() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declared(&mut client, "q", &[("x-message-ttl", ValueRef::I32(0))]).await;
    client.confirm_select().await;
    client.published("q", &["nobody"]).await;
    client.consume("q", "c").await;
    client.put_publish(1, "", "q", &persistent(), b"somebody").send().await;
    let mut delivered = None;
    for _ in 0..2 {
        let payload = client.reply(1).await;
        match Method::parse(&payload) {
            Ok(Method::BasicAck(_)) => {}
            Ok(Method::BasicDeliver(_)) => delivered = Some(client.content(1).await.1),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(delivered.as_deref(), Some(&b"somebody"[..]));
}

#[tokio::test]
async fn full_queues_drop_or_refuse() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    declared(&mut client, "drops", &[("x-max-length", ValueRef::I32(2))]).await;
    let refuse = ("x-overflow", ValueRef::LongString(b"reject-publish"));
    declared(&mut client, "refuses", &[("x-max-length", ValueRef::I32(2)), refuse]).await;
    let to_dead_letters = ("x-overflow", ValueRef::LongString(b"reject-publish-dlx"));
    declared(&mut client, "bytes", &[("x-max-length-bytes", ValueRef::I32(2)), to_dead_letters]).await;
    client.confirm_select().await;
    client.published("drops", &["a", "b", "c"]).await;
    assert_eq!(ready(&mut client, "drops").await, 2);
    assert_eq!(client.get("drops").await.unwrap().2, "b");
    for queue in ["refuses", "bytes"] {
        client.published(queue, &["a", "b"]).await;
        client.put_publish(1, "", queue, &persistent(), b"c").send().await;
        let payload = client.reply(1).await;
        let Ok(Method::BasicNack(nack)) = Method::parse(&payload) else {
            panic!("{:?}", Method::parse(&payload));
        };
        assert!(!nack.multiple && !nack.requeue);
        assert_eq!(ready(&mut client, queue).await, 2);
        let (tag, _, body) = client.get(queue).await.unwrap();
        assert_eq!(body, "a");
        client.put(1, &basic::Ack { delivery_tag: tag, multiple: false });
        client.published(queue, &["d"]).await;
    }
}

#[tokio::test]
async fn a_queue_that_nobody_uses_is_gone() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.confirm_select().await;
    declared(&mut client, "q", &[("x-expires", ValueRef::I32(50))]).await;
    let publish = basic::Publish { routing_key: b"q", mandatory: true, ..basic::Publish::default() };
    within(async {
        loop {
            client.put(1, &publish).put_bytes(&crate::publishing::header(1, 0)).send().await;
            let payload = client.reply(1).await;
            match Method::parse(&payload) {
                Ok(Method::BasicAck(_)) => {}
                Ok(Method::BasicReturn(_)) => break,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    client.content(1).await;
    client.reply(1).await;
    let passive = queue::Declare { queue: b"q", passive: true, ..queue::Declare::default() };
    client.channel_error(&passive, 404, "NOT_FOUND - no queue 'q' in vhost '/'").await;
}
