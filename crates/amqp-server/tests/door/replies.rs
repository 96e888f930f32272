//! Direct reply-to: who is answered, what is told of the names, and what ends with the channel.

use bytes::Bytes;
use ferrymq_amqp_codec::method::{basic, channel, confirm, queue, tx};
use ferrymq_amqp_codec::{
    ArrayBuilder, BasicProperties, Method, MethodId, Properties, TableBuilder, ValueRef, WireMethod as _,
};

use crate::support::{Client, Server, properties};

const PSEUDO: &str = "amq.rabbitmq.reply-to";

fn consumer(no_ack: bool) -> basic::Consume<'static> {
    basic::Consume { queue: PSEUDO.as_bytes(), consumer_tag: b"answers", no_ack, ..basic::Consume::default() }
}

fn asking() -> Bytes {
    let asking = BasicProperties {
        reply_to: Some(PSEUDO.as_bytes()),
        correlation_id: Some(b"7"),
        ..BasicProperties::default()
    };
    properties(asking)
}

impl Client {
    /// Consumes replies on channel 1.
    async fn consume_replies(&mut self) {
        self.ask(1, &consumer(true), &basic::ConsumeOk { consumer_tag: b"answers" }).await;
    }

    /// Asks on channel 1; the name that the answer goes to, found where the question went.
    async fn reply_name(&mut self) -> String {
        self.queue("questions").await;
        self.reply_name_again().await
    }

    async fn reply_name_again(&mut self) -> String {
        self.put_publish(1, "", "questions", &asking(), b"?").send().await;
        self.put(1, &basic::Get { queue: b"questions", no_ack: true, ..basic::Get::default() }).send().await;
        let got = self.reply(1).await;
        assert_eq!(MethodId::peek(&got), Some(basic::GetOk::ID), "{:?}", Method::parse(&got));
        let (found, _) = self.content(1).await;
        let found = Properties::parse(&found).unwrap();
        assert_eq!(found.correlation_id(), Some(&b"7"[..]), "the other properties stay");
        let name = String::from_utf8(found.reply_to().unwrap().to_vec()).unwrap();
        assert!(name.starts_with("amq.rabbitmq.reply-to.") && name.len() > 50, "{name}");
        name
    }

    /// Channel 1 is told a reply: its tag, its routing key, the body's length and first byte.
    async fn answer(&mut self) -> (u64, String, usize, Option<u8>) {
        let payload = self.reply(1).await;
        let Ok(Method::BasicDeliver(deliver)) = Method::parse(&payload) else {
            panic!("no delivery: {:?}", Method::parse(&payload));
        };
        assert_eq!((deliver.consumer_tag, deliver.exchange), (&b"answers"[..], &b""[..]));
        assert!(!deliver.redelivered);
        let key = String::from_utf8(deliver.routing_key.to_vec()).unwrap();
        let tag = deliver.delivery_tag;
        let (_, body) = self.content(1).await;
        (tag, key, body.len(), body.first().copied())
    }

    /// Channel 1 is told that a message went nowhere.
    async fn returned(&mut self) {
        let payload = self.reply(1).await;
        let Ok(Method::BasicReturn(returned)) = Method::parse(&payload) else {
            panic!("no return: {:?}", Method::parse(&payload));
        };
        assert_eq!((returned.reply_code, returned.reply_text), (312, &b"NO_ROUTE"[..]));
        self.content(1).await;
    }
}

fn missing(name: &str) -> String {
    format!("NOT_FOUND - no queue '{name}' in vhost '/'")
}

#[tokio::test]
async fn an_answer_goes_to_the_channel_that_asked_until_it_is_closed() {
    let server = Server::start().await;
    let (mut asks, mut answers) = (server.channel().await, server.channel().await);
    asks.consume_replies().await;
    let name = asks.reply_name().await;
    assert_eq!(asks.reply_name_again().await, name, "one name for one consumer");
    answers.confirm_select().await;
    for n in 1..=3_u64 {
        answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"abc").send().await;
        answers.expect(1, &basic::Ack { delivery_tag: n, multiple: false }).await;
        assert_eq!(asks.answer().await, (n + 2, name.clone(), 3, Some(b'a')), "tags go on behind two gets");
    }
    let declared = queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 1 };
    let passive = queue::Declare { queue: name.as_bytes(), passive: true, ..queue::Declare::default() };
    answers.ask(1, &passive, &declared).await;
    asks.ask(1, &channel::Close::default(), &channel::CloseOk {}).await;
    asks.open(1).await;
    answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"late").send().await;
    answers.returned().await;
    answers.expect(1, &basic::Ack { delivery_tag: 4, multiple: false }).await;
    answers.channel_error(&passive, 404, &missing(&name)).await;
}

#[tokio::test]
async fn names_end_with_the_connection_and_with_the_consumer() {
    let server = Server::start().await;
    let (mut asks, mut answers) = (server.channel().await, server.channel().await);
    asks.consume_replies().await;
    let name = asks.reply_name().await;
    let passive = queue::Declare { queue: name.as_bytes(), passive: true, ..queue::Declare::default() };
    asks.close().await;
    answers.channel_error(&passive, 404, &missing(&name)).await;
    answers.consume_replies().await;
    let name = answers.reply_name().await;
    answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"in time");
    answers.put(1, &basic::Cancel { consumer_tag: b"answers", nowait: false }).send().await;
    assert_eq!(answers.answer().await.2, 7, "what came before the cancel is told before it is answered");
    answers.expect(1, &basic::CancelOk { consumer_tag: b"answers" }).await;
    answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"late").send().await;
    answers.returned().await;
    answers.consume_replies().await;
    let mut again = answers;
    assert_ne!(again.reply_name_again().await, name, "another consumer, another name");
}

#[tokio::test]
async fn words_of_consumers_are_rabbitmqs() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let acknowledges = "PRECONDITION_FAILED - reply consumer cannot acknowledge";
    client.channel_error(&consumer(false), 406, acknowledges).await;
    client.consume_replies().await;
    client.channel_error(&consumer(true), 406, "PRECONDITION_FAILED - reply consumer already set").await;
    client.put_publish(1, "", "nowhere", &asking(), b"").send().await;
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    client.channel_closes(406, text, basic::Publish::ID).await;
    client.put_publish(1, "no exchange", "nowhere", &asking(), b"").send().await;
    let text = "NOT_FOUND - no exchange 'no exchange' in vhost '/'";
    client.channel_closes(404, text, basic::Publish::ID).await;

    client.consume_replies().await;
    let name = client.reply_name().await;
    let named = basic::Consume { queue: name.as_bytes(), no_ack: true, ..basic::Consume::default() };
    let text =
        format!("PRECONDITION_FAILED - only creator channel may consume from queue '{name}' in vhost '/'");
    let mut other = server.channel().await;
    other.channel_error(&named, 406, &text).await;
    let get = basic::Get { queue: name.as_bytes(), ..basic::Get::default() };
    let text = format!("NOT_IMPLEMENTED - basic.get not supported by volatile queue '{name}' in vhost '/'");
    other.put(1, &get).send().await;
    other.connection_closes(540, &text, basic::Get::ID).await;
    let text =
        format!("PRECONDITION_FAILED - multiple consumers are unsupported for queue '{name}' in vhost '/'");
    client.channel_error(&named, 406, &text).await;
    client.channel_error(&named, 404, &missing(&name)).await;
    client.channel_error(&get, 404, &missing(&name)).await;
    let get = basic::Get { queue: PSEUDO.as_bytes(), ..basic::Get::default() };
    client.channel_error(&get, 404, &missing(PSEUDO)).await;
}

#[tokio::test]
async fn names_are_queues_of_which_little_can_be_asked() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    for passive in [false, true] {
        let declare = queue::Declare { queue: PSEUDO.as_bytes(), passive, ..queue::Declare::default() };
        let ok = queue::DeclareOk { queue: PSEUDO.as_bytes(), message_count: 0, consumer_count: 1 };
        client.ask(1, &declare, &ok).await;
    }
    let declare = queue::Declare { queue: b"amq.rabbitmq.reply-to.x", ..queue::Declare::default() };
    client.channel_error(&declare, 404, &missing("amq.rabbitmq.reply-to.x")).await;
    client.consume_replies().await;
    let name = client.reply_name().await;
    let key = name.as_bytes();
    client
        .ask(1, &queue::Purge { queue: key, ..queue::Purge::default() }, &queue::PurgeOk { message_count: 0 })
        .await;
    let delete = queue::Delete { queue: key, ..queue::Delete::default() };
    client.ask(1, &delete, &queue::DeleteOk { message_count: 0 }).await;
    client.put_publish(1, "", &name, &properties(BasicProperties::default()), b"still there").send().await;
    assert_eq!(client.answer().await.2, 11);
    let text = "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue";
    let bind = queue::Bind { queue: key, exchange: b"amq.direct", ..queue::Bind::default() };
    client.channel_error(&bind, 403, text).await;
    let unbind = queue::Unbind { queue: key, exchange: b"amq.direct", ..queue::Unbind::default() };
    client.channel_error(&unbind, 403, text).await;
}

#[tokio::test]
async fn carbon_copies_reach_replies_once_and_only_through_the_default_exchange() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.consume_replies().await;
    let name = client.reply_name().await;
    let mut keys = TableBuilder::new();
    let mut copies = ArrayBuilder::new();
    for _ in 0..2 {
        copies.push(ValueRef::LongString(name.as_bytes())).unwrap();
    }
    keys.push(b"BCC", ValueRef::Array(copies.as_array())).unwrap();
    let sent = BasicProperties { headers: Some(keys.as_table()), ..BasicProperties::default() };
    let sent = properties(sent);
    client.put_publish(1, "amq.fanout", "x", &sent, b"nobody").send().await;
    client.returned().await;
    client.put_publish(1, "", "questions", &sent, b"both").send().await;
    let (_, key, length, _) = client.answer().await;
    assert_eq!((&*key, length), ("questions", 4));
    assert_eq!(client.get("questions").await.unwrap().2, "both");
    assert!(client.get("questions").await.is_none(), "and no second answer");
}

#[tokio::test]
async fn replies_that_nobody_reads_are_bounded_and_refused() {
    let server = Server::start().await;
    let (mut asks, mut answers) = (server.channel().await, server.channel().await);
    asks.consume_replies().await;
    let name = asks.reply_name().await;
    answers.ask(1, &confirm::Select::default(), &confirm::SelectOk {}).await;
    let (mut kept, mut refused) = (0_u8, 0);
    for n in 0..8_u8 {
        let body = vec![n; 12 * 1024 * 1024];
        answers.put_publish(1, "", &name, &properties(BasicProperties::default()), &body).send().await;
        let confirm = answers.reply(1).await;
        match Method::parse(&confirm).unwrap() {
            Method::BasicAck(_) if refused == 0 => kept += 1,
            Method::BasicNack(nack) if nack.delivery_tag == u64::from(n) + 1 => refused += 1,
            other => panic!("no confirm: {other:?}"),
        }
    }
    assert!(kept >= 2 && refused >= 3, "{kept} kept, {refused} refused");
    for n in 0..kept {
        let (_, _, length, first) = asks.answer().await;
        assert_eq!((length, first), (12 * 1024 * 1024, Some(n)));
    }
    answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"!").send().await;
    answers.expect(1, &basic::Ack { delivery_tag: 9, multiple: false }).await;
    assert_eq!(asks.answer().await.2, 1, "and then there is room again");
}

#[tokio::test]
async fn replies_of_a_transaction_go_with_its_commit() {
    let server = Server::start().await;
    let (mut asks, mut answers) = (server.channel().await, server.channel().await);
    asks.consume_replies().await;
    let name = asks.reply_name().await;
    answers.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
    answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"taken back").send().await;
    answers.ask(1, &tx::Rollback {}, &tx::RollbackOk {}).await;
    answers.put_publish(1, "", &name, &properties(BasicProperties::default()), b"kept").send().await;
    answers.ask(1, &tx::Commit {}, &tx::CommitOk {}).await;
    assert_eq!(asks.answer().await.2, 4);
}
