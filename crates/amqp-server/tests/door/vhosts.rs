//! Virtual hosts, as a client sees them: apart from each other, and what becomes of one that is deleted.

use ferrymq_amqp_codec::method::{basic, connection, exchange, queue};
use ferrymq_amqp_codec::{Method, MethodId, TableBuilder, ValueRef, WireMethod as _};
use ferrymq_broker::queues::{QueueType, VhostSpec};

use crate::support::{Client, Server, within};

async fn queues(client: &mut Client, names: &[&str]) {
    for name in names {
        client.queue(name).await;
    }
}

#[tokio::test]
async fn each_has_its_own_queues_and_exchanges() {
    let server = Server::start().await;
    let broker = &server.context().queues;
    assert!(broker.create_vhost("team a/b").await.unwrap());
    let (mut one, mut other) = (server.channel().await, server.client_of("team a/b").await);
    other.open(1).await;
    queues(&mut one, &["durable"]).await;
    queues(&mut other, &["durable", "durable of it"]).await;
    one.confirm_select().await;
    one.published("durable", &["for one"]).await;
    assert_eq!(other.get("durable").await, None);
    assert_eq!(one.get("durable").await.unwrap().2, "for one");
    let passive = queue::Declare { queue: b"durable of it", passive: true, ..queue::Declare::default() };
    one.channel_error(&passive, 404, "NOT_FOUND - no queue 'durable of it' in vhost '/'").await;
    // Predeclared exchanges are there.
    for name in ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"] {
        let passive =
            exchange::Declare { exchange: name.as_bytes(), passive: true, ..exchange::Declare::default() };
        other.ask(1, &passive, &exchange::DeclareOk {}).await;
    }
    let declare = exchange::Declare { exchange: b"x", kind: b"fanout", ..exchange::Declare::default() };
    other.ask(1, &declare, &exchange::DeclareOk {}).await;
    let passive = exchange::Declare { passive: true, ..declare };
    one.channel_error(&passive, 404, "NOT_FOUND - no exchange 'x' in vhost '/'").await;
    // And it is all there after a restart.
    other.close().await;
    let server = server.restart().await;
    let mut other = server.client_of("team a/b").await;
    other.open(1).await;
    queues(&mut other, &["durable", "durable of it"]).await;
}

#[tokio::test]
async fn who_is_connected_to_one_that_is_deleted_is_told() {
    let server = Server::start().await;
    let broker = server.context().queues.clone();
    broker.create_vhost("v").await.unwrap();
    let (mut idle, mut consuming) = (server.client_of("v").await, server.client_of("v").await);
    let mut other = server.channel().await;
    consuming.open(1).await;
    queues(&mut consuming, &["durable", "exclusive"]).await;
    consuming.consume("durable", "tag").await;
    let text = "CONNECTION_FORCED - vhost 'v' is deleted";
    assert!(within(broker.delete_vhost("v")).await.unwrap());
    assert!(!broker.delete_vhost("v").await.unwrap());
    let closed = |payload: &[u8]| match Method::parse(payload) {
        Ok(Method::ConnectionClose(close)) => {
            assert_eq!((close.reply_code, close.reply_text), (320, text.as_bytes()));
            true
        }
        Ok(Method::BasicCancel(_)) => false,
        other => panic!("{other:?}"),
    };
    assert!(closed(&idle.reply(0).await));
    // Its consumer may be cancelled before.
    loop {
        let frame = consuming.frame().await.unwrap();
        if closed(&frame.payload) {
            break;
        }
    }
    queues(&mut other, &["still here"]).await;
    let open = connection::Open { virtual_host: b"v", ..connection::Open::default() };
    let mut late = server.connect().await;
    late.tune(connection::TuneOk { channel_max: 7, frame_max: 131_072, heartbeat: 0 }).await;
    late.put(0, &open).send().await;
    late.connection_closes(530, "NOT_ALLOWED - vhost v not found", connection::Open::ID).await;
    // One of the same name begins anew, also for who is quick.
    broker.create_vhost("v").await.unwrap();
    let mut anew = server.client_of("v").await;
    anew.open(1).await;
    let passive = queue::Declare { queue: b"durable", passive: true, ..queue::Declare::default() };
    anew.channel_error(&passive, 404, "NOT_FOUND - no queue 'durable' in vhost 'v'").await;
    queues(&mut anew, &["durable"]).await;
    anew.confirm_select().await;
    anew.put_publish(1, "", "durable", &crate::support::persistent(), b"new").send().await;
    assert_eq!(MethodId::peek(&anew.reply(1).await), Some(basic::Ack::ID));
    assert_eq!(anew.get("durable").await.unwrap().2, "new");
}

/// With a virtual host go its streams and their topics, and nobody else's.
#[tokio::test]
async fn its_streams_go_with_it() {
    let server = Server::start().await;
    let broker = &server.context().queues;
    broker.create_vhost("v").await.unwrap();
    let (mut here, mut there) = (server.channel().await, server.client_of("v").await);
    there.open(1).await;
    for client in [&mut here, &mut there] {
        client.stream("s", &[]).await;
        client.confirm_select().await;
        client.published("s", &["a"]).await;
    }
    let topic = |name: &str| server.broker().topics().get(name).is_some();
    assert!(topic("s") && topic("v.s"));
    assert!(within(broker.delete_vhost("v")).await.unwrap());
    assert!(topic("s") && !topic("v.s"));
    broker.create_vhost("v").await.unwrap();
    let mut anew = server.client_of("v").await;
    anew.open(1).await;
    anew.stream("s", &[]).await;
    assert!(topic("v.s"));
    anew.close().await;
    here.close().await;
    let server = server.restart().await;
    assert!(server.broker().topics().get("v.s").is_some());
}

#[tokio::test]
async fn a_default_type_is_that_of_queues_that_name_none() {
    let server = Server::start().await;
    let broker = &server.context().queues;
    let vhost = |kind| VhostSpec { default_queue_type: kind, ..VhostSpec::named("v") };
    broker.put_vhost(vhost(QueueType::Quorum)).await.unwrap();
    let mut client = server.client_of("v").await;
    client.open(1).await;
    let none = TableBuilder::new();
    let declare = |name: &'static str| queue::Declare {
        queue: name.as_bytes(),
        durable: true,
        arguments: none.as_table(),
        ..queue::Declare::default()
    };
    let ok =
        |name: &'static str| queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 0 };
    client.ask(1, &declare("q"), &ok("q")).await;
    client.ask(1, &declare("q"), &ok("q")).await;
    let own = queue::Declare { exclusive: true, ..declare("own") };
    client.ask(1, &own, &ok("own")).await;
    assert_eq!(broker.inspect_queue("v", "q").await.unwrap().kind, QueueType::Quorum);
    assert_eq!(broker.inspect_queue("v", "own").await.unwrap().kind, QueueType::Classic);
    // What classic queues alone take is refused, as if the type had been named.
    let mut priorities = TableBuilder::new();
    priorities.push(b"x-max-priority", ValueRef::I32(5)).unwrap();
    let text = "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'p' in vhost 'v' of queue type \
                rabbit_quorum_queue";
    let wrong = queue::Declare { arguments: priorities.as_table(), ..declare("p") };
    client.channel_error(&wrong, 406, text).await;
    // A default that changes is none of what is there.
    broker.put_vhost(vhost(QueueType::Classic)).await.unwrap();
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost 'v': received 'classic' but \
                current is 'quorum'";
    client.channel_error(&declare("q"), 406, text).await;
    // A stream cannot be named by the broker.
    broker.put_vhost(vhost(QueueType::Stream)).await.unwrap();
    let text = "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_stream_queue";
    client.channel_error(&declare(""), 406, text).await;
}
