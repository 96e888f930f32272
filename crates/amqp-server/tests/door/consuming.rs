//! Consumers: deliveries, settlement, prefetch, cancellation.

use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{Method, WireMethod as _};

use crate::support::{Client, Server};

async fn filled(server: &Server, bodies: &[&str]) -> Client {
    let mut client = server.channel().await;
    client.queue("q").await;
    // Confirmed on another channel's number would do as well: the confirms are not in the way of what follows.
    for body in bodies {
        client.put_publish(1, "", "q", &[0, 0], body.as_bytes());
    }
    let count = u32::try_from(bodies.len()).expect("a few");
    let ok = queue::DeclareOk { queue: b"q", message_count: count, consumer_count: 0 };
    client.ask(1, &queue::Declare { queue: b"q", exclusive: true, ..Default::default() }, &ok).await;
    client
}

/// How many wait in a queue.
async fn ready(client: &mut Client, queue: &str) -> u32 {
    client
        .put(1, &queue::Declare { queue: queue.as_bytes(), passive: true, ..Default::default() })
        .send()
        .await;
    let payload = client.reply(1).await;
    let Ok(Method::QueueDeclareOk(ok)) = Method::parse(&payload) else { panic!("no such queue") };
    ok.message_count
}

fn ack(delivery_tag: u64, multiple: bool) -> basic::Ack {
    basic::Ack { delivery_tag, multiple }
}

/// Nothing more comes: an answer is next.
async fn nothing_more(client: &mut Client) {
    let ok = ferrymq_amqp_codec::method::channel::FlowOk { active: true };
    client.ask(1, &ferrymq_amqp_codec::method::channel::Flow { active: true }, &ok).await;
}

#[tokio::test]
async fn deliveries_are_numbered_and_in_order() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b", "c"]).await;
    client.put(1, &basic::Consume { queue: b"q", ..Default::default() }).send().await;
    let payload = client.reply(1).await;
    let Ok(Method::BasicConsumeOk(ok)) = Method::parse(&payload) else { panic!("no consume-ok") };
    assert!(ok.consumer_tag.starts_with(b"amq.ctag-"), "{:?}", ok.consumer_tag);
    let deliver = basic::Deliver {
        consumer_tag: ok.consumer_tag,
        delivery_tag: 1,
        redelivered: false,
        exchange: b"",
        routing_key: b"q",
    };
    client.expect(1, &deliver).await;
    client.content(1).await;
    assert_eq!(client.delivery().await, (2, false, "b".to_owned()));
    assert_eq!(client.delivery().await, (3, false, "c".to_owned()));
}

#[tokio::test]
async fn prefetch_counts_what_is_not_settled() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b", "c", "d", "e", "f"]).await;
    client.qos(2, false).await;
    client.consume("q", "c").await;
    assert_eq!(client.delivery().await.2, "a");
    assert_eq!(client.delivery().await.2, "b");
    nothing_more(&mut client).await;
    client.put(1, &ack(2, false)).send().await;
    assert_eq!(client.delivery().await.2, "c");
    client.put(1, &basic::Nack { delivery_tag: 3, multiple: true, requeue: false }).send().await;
    assert_eq!(client.delivery().await.2, "d");
    assert_eq!(client.delivery().await.2, "e");
    client.put(1, &basic::Reject { delivery_tag: 4, requeue: true }).send().await;
    assert_eq!(client.delivery().await, (6, true, "d".to_owned()));
    client.put(1, &ack(0, true)).send().await;
    assert_eq!(client.delivery().await, (7, false, "f".to_owned()));
}

#[tokio::test]
async fn global_prefetch_counts_all_consumers() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b", "c", "d"]).await;
    client.queue("other").await;
    client.qos(2, true).await;
    client.consume("q", "one").await;
    assert_eq!(client.delivery().await.2, "a");
    assert_eq!(client.delivery().await.2, "b");
    client.consume("other", "two").await;
    client.put_publish(1, "", "other", &[0, 0], b"x");
    nothing_more(&mut client).await;
    client.put(1, &ack(1, false)).send().await;
    let next = client.delivery().await.2;
    client.put(1, &ack(2, false)).send().await;
    let after = client.delivery().await.2;
    nothing_more(&mut client).await;
    // A higher limit lets more through, those that were held and those that the queue kept.
    client.put(1, &basic::Qos { prefetch_count: 10, global: true, ..Default::default() }).send().await;
    let mut seen = vec![next, after];
    let mut answered = false;
    while seen.len() < 3 || !answered {
        let payload = client.reply(1).await;
        match Method::parse(&payload).unwrap() {
            Method::BasicQosOk(_) => answered = true,
            Method::BasicDeliver(_) => {
                seen.push(String::from_utf8_lossy(&client.content(1).await.1).into_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!(seen, ["c", "d", "x"]);
    // None at all: back to no limit.
    client.qos(0, true).await;
}

#[tokio::test]
async fn cancelled_consumers_leave_what_they_have() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b"]).await;
    client.qos(1, false).await;
    client.consume("q", "c").await;
    assert_eq!(client.delivery().await.2, "a");
    let cancel = basic::Cancel { consumer_tag: b"c", nowait: false };
    client.ask(1, &cancel, &basic::CancelOk { consumer_tag: b"c" }).await;
    // It is still the channel's to settle; nobody else gets it.
    assert_eq!(client.get("q").await.unwrap(), (2, false, "b".to_owned()));
    client.put(1, &ack(1, false)).put(1, &basic::Reject { delivery_tag: 2, requeue: true });
    assert_eq!(client.get("q").await.unwrap(), (3, true, "b".to_owned()));
    // Again, and one that never was: both are fine. The tag can be used again.
    client.ask(1, &cancel, &basic::CancelOk { consumer_tag: b"c" }).await;
    client.consume("q", "c").await;
}

#[tokio::test]
async fn what_is_got_does_not_use_up_the_global_prefetch() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b", "c"]).await;
    client.qos(1, true).await;
    assert_eq!(client.get("q").await.unwrap().2, "a");
    client.consume("q", "c").await;
    assert_eq!(client.delivery().await.2, "b");
    client.put(1, &ack(1, false));
    nothing_more(&mut client).await;
    client.put(1, &ack(0, true)).send().await;
    assert_eq!(client.delivery().await.2, "c");
}

/// As in RabbitMQ: their deliveries do not count, but wait while the limit is reached.
#[tokio::test]
async fn consumers_without_acknowledgements_wait_for_the_global_prefetch_and_take_nothing_of_it() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b"]).await;
    client.queue("other").await;
    client.qos(1, true).await;
    let free =
        basic::Consume { queue: b"other", consumer_tag: b"free", no_ack: true, ..basic::Consume::default() };
    client.ask(1, &free, &basic::ConsumeOk { consumer_tag: b"free" }).await;
    for body in [&b"1"[..], b"2"] {
        client.put_publish(1, "", "other", &[0, 0], body).send().await;
        assert_eq!(client.delivery().await.2.as_bytes(), body);
    }
    client.consume("q", "c").await;
    assert_eq!(client.delivery().await.2, "a");
    client.put_publish(1, "", "other", &[0, 0], b"3").send().await;
    nothing_more(&mut client).await;
    assert_eq!(ready(&mut client, "other").await, 1);
    client.put(1, &ack(3, false)).send().await;
    let mut bodies = [client.delivery().await.2, "3".to_owned()];
    if bodies[0] == "b" {
        // It was first, and the other waits again.
        client.put(1, &ack(4, false)).send().await;
        bodies[1] = client.delivery().await.2;
    } else {
        bodies[1] = client.delivery().await.2;
    }
    bodies.sort();
    assert_eq!(bodies, ["3", "b"]);
}

/// What may not go out stays in its queue, where others can have it.
#[tokio::test]
async fn another_consumer_gets_what_a_global_prefetch_keeps_back() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable-shared").await;
    client.queue("durable-other").await;
    for body in [b"a", b"b", b"c", b"d"] {
        client.put_publish(1, "", "durable-shared", &[0, 0], body);
    }
    client.put_publish(1, "", "durable-other", &[0, 0], b"x").send().await;
    client.qos(2, true).await;
    client.consume("durable-shared", "one").await;
    assert_eq!(client.delivery().await.2, "a");
    assert_eq!(client.delivery().await.2, "b");
    client.consume("durable-other", "two").await;
    nothing_more(&mut client).await;
    assert_eq!(
        (ready(&mut client, "durable-shared").await, ready(&mut client, "durable-other").await),
        (2, 1)
    );
    let mut another = server.channel().await;
    assert_eq!(another.get("durable-other").await.unwrap(), (1, false, "x".to_owned()), "it went nowhere");
    another.consume("durable-shared", "c").await;
    assert_eq!(another.delivery().await, (2, false, "c".to_owned()));
    assert_eq!(another.delivery().await, (3, false, "d".to_owned()));
}

/// What was on its way when the limit came is held until there is room, and comes in order.
#[tokio::test]
async fn a_limit_that_comes_late_holds_for_what_comes_after_it() {
    let server = Server::start().await;
    let mut client = filled(&server, &[]).await;
    client.consume("q", "c").await;
    let bodies: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    for body in &bodies {
        client.put_publish(1, "", "q", &[0, 0], body.as_bytes());
    }
    client.put(1, &basic::Qos { prefetch_count: 2, global: true, ..Default::default() }).send().await;
    let (mut seen, mut answered) = (Vec::new(), false);
    while seen.len() < bodies.len() {
        let payload = client.reply(1).await;
        match Method::parse(&payload).unwrap() {
            Method::BasicQosOk(_) => answered = true,
            Method::BasicDeliver(deliver) => {
                seen.push(String::from_utf8_lossy(&client.content(1).await.1).into_owned());
                client.put(1, &ack(deliver.delivery_tag, false)).send().await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(answered);
    assert_eq!(seen, bodies);
}

#[tokio::test]
async fn a_cancelled_consumer_under_global_prefetch_gives_back_what_was_held() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b", "c"]).await;
    client.queue("other").await;
    client.qos(1, true).await;
    client.consume("other", "first").await;
    client.put_publish(1, "", "other", &[0, 0], b"x").send().await;
    assert_eq!(client.delivery().await.2, "x");
    client.consume("q", "c").await;
    nothing_more(&mut client).await;
    let cancel = basic::Cancel { consumer_tag: b"c", nowait: false };
    client.ask(1, &cancel, &basic::CancelOk { consumer_tag: b"c" }).await;
    assert_eq!(client.get("q").await.unwrap().2, "a");
    assert_eq!(client.get("q").await.unwrap().2, "b");
}

#[tokio::test]
async fn consumers_hear_that_their_queue_went() {
    let server = Server::start().await;
    let mut client = filled(&server, &[]).await;
    client.open(2).await;
    // Who deletes it hears of that first, every time: clients wait for the one and take the other for an error.
    for deleting in [1, 2].repeat(20) {
        client.consume("q", "c").await;
        let ok = queue::DeleteOk { message_count: 0 };
        client.ask(deleting, &queue::Delete { queue: b"q", ..Default::default() }, &ok).await;
        client.expect(1, &basic::Cancel { consumer_tag: b"c", nowait: true }).await;
        client.queue("q").await;
    }
}

#[tokio::test]
async fn consumers_have_tags_of_their_own() {
    let server = Server::start().await;
    let mut client = filled(&server, &[]).await;
    client.consume("q", "c").await;
    client.put(1, &basic::Consume { queue: b"q", consumer_tag: b"c", ..Default::default() }).send().await;
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 'c'";
    client.connection_closes(530, text, basic::Consume::ID).await;
}

#[tokio::test]
async fn exclusive_consumers_are_alone() {
    let server = Server::start().await;
    let mut client = filled(&server, &[]).await;
    client.open(2).await;
    let text = "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use";
    let alone = basic::Consume { queue: b"q", consumer_tag: b"c", exclusive: true, ..Default::default() };
    client.ask(2, &alone, &basic::ConsumeOk { consumer_tag: b"c" }).await;
    client.channel_error(&basic::Consume { queue: b"q", ..Default::default() }, 403, text).await;
    let cancel = basic::Cancel { consumer_tag: b"c", nowait: false };
    client.ask(2, &cancel, &basic::CancelOk { consumer_tag: b"c" }).await;
    client.consume("q", "mine").await;
    client.channel_error(&alone, 403, text).await;
}

#[tokio::test]
async fn auto_delete_queues_go_with_their_last_consumer() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let declare = queue::Declare { queue: b"auto", auto_delete: true, ..Default::default() };
    let ok = queue::DeclareOk { queue: b"auto", message_count: 0, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
    client.consume("auto", "c").await;
    let cancel = basic::Cancel { consumer_tag: b"c", nowait: false };
    client.ask(1, &cancel, &basic::CancelOk { consumer_tag: b"c" }).await;
    let passive = queue::Declare { queue: b"auto", passive: true, ..Default::default() };
    client.channel_error(&passive, 404, "NOT_FOUND - no queue 'auto' in vhost '/'").await;
}

#[tokio::test]
async fn recover_returns_all_to_their_places() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b", "c"]).await;
    for body in ["a", "b"] {
        assert_eq!(client.get("q").await.unwrap().2, body);
    }
    client.ask(1, &basic::Recover { requeue: true }, &basic::RecoverOk {}).await;
    for (tag, body, redelivered) in [(3, "a", true), (4, "b", true), (5, "c", false)] {
        assert_eq!(client.get("q").await.unwrap(), (tag, redelivered, body.to_owned()));
    }
    client.put(1, &basic::RecoverAsync { requeue: true });
    assert_eq!(client.get("q").await.unwrap(), (6, true, "a".to_owned()));
}

#[tokio::test]
async fn a_get_without_acknowledgement_needs_none() {
    let server = Server::start().await;
    let mut client = filled(&server, &["a", "b"]).await;
    client.put(1, &basic::Get { queue: b"q", no_ack: true, ..Default::default() }).send().await;
    let ok = basic::GetOk { delivery_tag: 1, routing_key: b"q", message_count: 1, ..basic::GetOk::default() };
    client.expect(1, &ok).await;
    assert_eq!(&client.content(1).await.1[..], b"a");
    client.channel_error(&ack(1, false), 406, "PRECONDITION_FAILED - unknown delivery tag 1").await;
}

#[tokio::test]
async fn many_messages_reach_a_consumer_that_acknowledges_some_at_a_time() {
    const COUNT: u64 = 20_000;
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    client.consume("q", "c").await;
    let (mut sent, mut received) = (0, 0);
    while received < COUNT {
        while sent < COUNT && sent < received + 5000 {
            client.put_publish(1, "", "q", &[0, 0], sent.to_string().as_bytes());
            sent += 1;
        }
        client.send().await;
        let (tag, redelivered, body) = client.delivery().await;
        assert_eq!((tag, redelivered, body), (received + 1, false, received.to_string()));
        received += 1;
        if received % 100 == 0 {
            client.put(1, &ack(tag, true)).send().await;
        }
    }
    assert_eq!(client.get("q").await, None);
}
