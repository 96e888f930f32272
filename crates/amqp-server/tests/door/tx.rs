//! Transactions: nothing before the commit, everything with it, RabbitMQ's words for mixing them up.

use ferrymq_amqp_codec::method::{basic, confirm, tx};
use ferrymq_amqp_codec::{Method, MethodId, WireMethod as _};

use crate::support::{Client, Server, persistent};

async fn select(client: &mut Client) {
    client.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
}

async fn commit(client: &mut Client) {
    client.ask(1, &tx::Commit {}, &tx::CommitOk {}).await;
}

async fn rollback(client: &mut Client) {
    client.ask(1, &tx::Rollback {}, &tx::RollbackOk {}).await;
}

fn ack(delivery_tag: u64, multiple: bool) -> basic::Ack {
    basic::Ack { delivery_tag, multiple }
}

/// What another channel finds in a queue, without keeping it.
async fn ready(server: &Server, queue: &str) -> Vec<String> {
    let mut other = server.channel().await;
    let mut all = Vec::new();
    while let Some((_, _, body)) = other.get(queue).await {
        all.push(body);
    }
    other.close().await;
    all
}

#[tokio::test]
async fn nothing_happens_before_the_commit() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable q").await;
    client.confirm_select().await;
    client.published("durable q", &["1", "2"]).await;
    client.close().await;
    let mut client = server.channel().await;
    select(&mut client).await;
    select(&mut client).await;
    let (tag, _, _) = client.get("durable q").await.unwrap();
    client.put(1, &ack(tag, false));
    client.put_publish(1, "", "durable q", &persistent(), b"3");
    client.put_publish(1, "", "durable q", &[0, 0], b"4").send().await;
    assert_eq!(ready(&server, "durable q").await, ["2"]);
    commit(&mut client).await;
    assert_eq!(ready(&server, "durable q").await, ["2", "3", "4"]);
    // An empty one is no different.
    commit(&mut client).await;
    client.close().await;
    let server = server.restart().await;
    assert_eq!(ready(&server, "durable q").await, ["2", "3", "4"], "what was committed is stored");
}

#[tokio::test]
async fn a_rollback_withdraws_what_was_held() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable q").await;
    select(&mut client).await;
    for body in ["1", "2", "3", "4"] {
        client.put_publish(1, "", "durable q", &[0, 0], body.as_bytes());
    }
    commit(&mut client).await;
    for _ in 0..4 {
        client.get("durable q").await.unwrap();
    }
    client.put(1, &ack(3, false)).put(1, &ack(2, true));
    client.put_publish(1, "", "durable q", &[0, 0], b"5");
    rollback(&mut client).await;
    assert!(ready(&server, "durable q").await.is_empty(), "they stay with the channel");
    // The tags are good again, each once.
    client.put(1, &ack(2, true));
    client.put(1, &basic::Reject { delivery_tag: 4, requeue: false });
    commit(&mut client).await;
    client.put(1, &ack(3, false));
    commit(&mut client).await;
    assert!(ready(&server, "durable q").await.is_empty());
    client.channel_error(&ack(3, false), 406, "PRECONDITION_FAILED - unknown delivery tag 3").await;
    client.close().await;
    assert!(ready(&server, "durable q").await.is_empty(), "all were settled");
}

#[tokio::test]
async fn an_open_transaction_ends_with_its_channel() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable q").await;
    select(&mut client).await;
    client.put_publish(1, "", "durable q", &[0, 0], b"1");
    commit(&mut client).await;
    let (tag, _, _) = client.get("durable q").await.unwrap();
    client.put(1, &ack(tag, false));
    client.put_publish(1, "", "durable q", &[0, 0], b"2");
    let text = "PRECONDITION_FAILED - unknown delivery tag 1";
    client.channel_error(&ack(tag, false), 406, text).await;
    assert_eq!(ready(&server, "durable q").await, ["1"]);
}

#[tokio::test]
async fn requeued_and_rejected_with_the_commit() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable q").await;
    select(&mut client).await;
    for body in ["1", "2", "3"] {
        client.put_publish(1, "", "durable q", &[0, 0], body.as_bytes());
    }
    commit(&mut client).await;
    for _ in 0..3 {
        client.get("durable q").await.unwrap();
    }
    client.put(1, &basic::Nack { delivery_tag: 1, multiple: false, requeue: true });
    client.put(1, &basic::Nack { delivery_tag: 2, multiple: false, requeue: false }).send().await;
    assert!(ready(&server, "durable q").await.is_empty());
    commit(&mut client).await;
    assert_eq!(ready(&server, "durable q").await, ["1"]);
}

#[tokio::test]
async fn mandatory_messages_come_back_before_the_answer() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    select(&mut client).await;
    client.put_publish(1, "", "nowhere", &[0, 0], b"lost").send().await;
    client.put(1, &tx::Commit {}).send().await;
    let payload = client.reply(1).await;
    let Ok(Method::BasicReturn(returned)) = Method::parse(&payload) else { panic!("no return") };
    assert_eq!((returned.reply_code, returned.routing_key), (312, &b"nowhere"[..]));
    assert_eq!(client.content(1).await.1, "lost");
    client.expect(1, &tx::CommitOk {}).await;
    client.put_publish(1, "", "nowhere", &[0, 0], b"withdrawn");
    rollback(&mut client).await;
    commit(&mut client).await;
    client.put_publish(1, "no such exchange", "k", &[0, 0], b"x").send().await;
    let text = "NOT_FOUND - no exchange 'no such exchange' in vhost '/'";
    client.channel_closes(404, text, basic::Publish::ID).await;
}

#[tokio::test]
async fn modes_do_not_mix() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let text = "PRECONDITION_FAILED - channel is not transactional";
    client.channel_error(&tx::Commit {}, 406, text).await;
    client.channel_error(&tx::Rollback {}, 406, text).await;
    client.confirm_select().await;
    let text = "PRECONDITION_FAILED - cannot switch from confirm to tx mode";
    client.channel_error(&tx::Select {}, 406, text).await;
    select(&mut client).await;
    let text = "PRECONDITION_FAILED - cannot switch from tx to confirm mode";
    client.channel_error(&confirm::Select::default(), 406, text).await;
}

#[tokio::test]
async fn what_a_transaction_holds_is_bounded() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable q").await;
    select(&mut client).await;
    let body = vec![b'x'; 12 * 1024 * 1024];
    for _ in 0..2 {
        client.put_publish(1, "", "durable q", &[0, 0], &body).send().await;
    }
    client.put_publish(1, "", "durable q", &[0, 0], &body).send().await;
    let text = "PRECONDITION_FAILED - a transaction may not hold more than 33554432 bytes of messages";
    client.channel_closes(406, text, basic::Publish::ID).await;
    assert_eq!(server.context().budget.in_use(), 0, "its room is given back");
    assert!(ready(&server, "durable q").await.is_empty());
}

/// Deliveries that wait for a commit still fill the channel's prefetch.
#[tokio::test]
async fn prefetch_counts_until_the_commit() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable q").await;
    select(&mut client).await;
    client.put_publish(1, "", "durable q", &[0, 0], b"1").put_publish(1, "", "durable q", &[0, 0], b"2");
    commit(&mut client).await;
    client.qos(1, true).await;
    client.consume("durable q", "c").await;
    assert_eq!(client.delivery().await.2, "1");
    client.put(1, &ack(1, false));
    // The next frame would be a delivery, had the prefetch made room.
    client
        .ask(1, &basic::Qos { prefetch_count: 1, global: true, ..basic::Qos::default() }, &basic::QosOk {})
        .await;
    client.put(1, &tx::Commit {}).send().await;
    client.expect(1, &tx::CommitOk {}).await;
    assert_eq!(client.delivery().await.2, "2");
    assert_eq!(tx::Commit::ID, MethodId { class: 90, method: 20 });
}
