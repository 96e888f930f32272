//! A store without room: who is held back, who goes on, what becomes of what was held back.

use std::sync::atomic::Ordering;

use ferrymq_amqp_codec::method::connection::{Blocked, TuneOk, Unblocked};
use ferrymq_amqp_codec::method::{basic, connection, queue};
use ferrymq_amqp_codec::{Method, PROTOCOL_HEADER, Table};

use crate::support::{Client, Server, persistent, start_ok, within};

const BODY: &[u8] = &[b'x'; 4096];

impl Client {
    fn put_body(&mut self, body: &[u8]) -> &mut Client {
        self.put_publish(1, "", "durable-q", &persistent(), body)
    }

    /// Publishes until a message is refused; how many were not.
    async fn fill(&mut self) -> u64 {
        for taken in 0.. {
            self.put_body(BODY).send().await;
            let reply = self.reply(1).await;
            match Method::parse(&reply).unwrap() {
                Method::BasicAck(_) => {}
                Method::BasicNack(_) => return taken,
                other => panic!("no confirm: {other:?}"),
            }
        }
        unreachable!("the store is small");
    }

    async fn purge(&mut self, count: u32) {
        let purge = queue::Purge { queue: b"durable-q", ..queue::Purge::default() };
        self.ask(1, &purge, &queue::PurgeOk { message_count: count }).await;
    }
}

#[tokio::test]
async fn publishers_are_held_back_until_there_is_room_and_lose_nothing() {
    let server = Server::start_small(256 * 1024).await;
    let mut publisher = server.channel().await;
    publisher.queue("durable-q").await;
    publisher.confirm_select().await;
    let taken = publisher.fill().await;
    assert!(taken > 10, "{taken}");
    assert!(server.context().holds_publishers(), "a refused message raises the alarm");
    publisher.put_body(b"held").put_body(b"held too").send().await;
    publisher.expect(0, &Blocked { reason: b"low on disk" }).await;
    // Others go on: what they take makes room.
    let mut consumer = server.channel().await;
    for _ in 0..3 {
        let (tag, ..) = consumer.get("durable-q").await.unwrap();
        consumer.put(1, &basic::Ack { delivery_tag: tag, multiple: false });
    }
    consumer.purge(u32::try_from(taken).unwrap() - 3).await;
    server.context().store_is_full(true);
    server.context().store_is_full(false);
    publisher.expect(0, &Unblocked {}).await;
    let confirmed = basic::Ack { delivery_tag: taken + 3, multiple: true };
    publisher.expect(1, &confirmed).await;
    assert_eq!(consumer.get("durable-q").await.unwrap().2, "held");
    assert_eq!(consumer.get("durable-q").await.unwrap().2, "held too");
    // It is told again the next time, once for as long as it lasts.
    server.context().store_is_full(true);
    publisher.put_body(b"a").put_body(b"b").send().await;
    publisher.expect(0, &Blocked { reason: b"low on disk" }).await;
    server.context().store_is_full(false);
    publisher.expect(0, &Unblocked {}).await;
    publisher.expect(1, &basic::Ack { delivery_tag: taken + 5, multiple: true }).await;
    publisher.close().await;
}

#[tokio::test]
async fn a_client_that_does_not_understand_is_held_back_and_not_told() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.put_bytes(&PROTOCOL_HEADER).send().await;
    client.reply(0).await;
    client.put(0, &start_ok("PLAIN", b"\0guest\0guest", Table::EMPTY)).send().await;
    client.reply(0).await;
    client.put(0, &TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 });
    let open = connection::Open { virtual_host: b"/", ..connection::Open::default() };
    client.ask(0, &open, &connection::OpenOk::default()).await;
    client.open(1).await;
    client.confirm_select().await;
    client.queue("durable-q").await;
    server.context().store_is_full(true);
    client.queue("still-served").await;
    client.put_body(b"held").send().await;
    let mut other = server.channel().await;
    other.purge(0).await;
    server.context().store_is_full(false);
    client.expect(1, &basic::Ack { delivery_tag: 1, multiple: false }).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_it_is_held_back_is_noticed() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable-q").await;
    server.context().store_is_full(true);
    client.put_body(b"held").send().await;
    client.expect(0, &Blocked { reason: b"low on disk" }).await;
    // What lies unread in the socket does not hide the end.
    client.put_body(BODY).send().await;
    drop(client);
    let open = &server.context().counters.connections_open;
    within(async {
        while open.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
