//! Exchanges that choose one of their bindings, and what exchanges and bindings refuse, in RabbitMQ's words.

use std::collections::BTreeMap;

use ferrymq_amqp_codec::method::{basic, exchange, queue};
use ferrymq_amqp_codec::{ArrayBuilder, BasicProperties, TableBuilder, ValueRef, WireMethod as _};

use crate::support::{Client, Server, properties};

fn declare<'a>(name: &'a str, kind: &'a str) -> exchange::Declare<'a> {
    exchange::Declare {
        exchange: name.as_bytes(),
        kind: kind.as_bytes(),
        durable: true,
        ..exchange::Declare::default()
    }
}

fn table(entries: &[(&str, ValueRef<'_>)]) -> TableBuilder {
    let mut table = TableBuilder::new();
    for (name, value) in entries {
        table.push(name.as_bytes(), *value).unwrap();
    }
    table
}

fn bind<'a>(queue: &'a str, exchange: &'a str, key: &'a str) -> queue::Bind<'a> {
    queue::Bind {
        queue: queue.as_bytes(),
        exchange: exchange.as_bytes(),
        routing_key: key.as_bytes(),
        ..queue::Bind::default()
    }
}

const QUEUES: [&str; 3] = ["durable-a", "durable-b", "durable-c"];

impl Client {
    /// Binds the queues to an exchange.
    async fn bind_queues(&mut self, exchange: &str, keys: [&str; 3]) {
        for (queue, key) in QUEUES.into_iter().zip(keys) {
            self.queue(queue).await;
            self.ask(1, &bind(queue, exchange, key), &queue::BindOk {}).await;
        }
    }

    /// Where each message is, by its body; the queues are empty then.
    async fn places(&mut self) -> BTreeMap<String, &'static str> {
        let mut places = BTreeMap::new();
        for queue in QUEUES {
            while let Some((tag, _, body)) = self.get(queue).await {
                self.put(1, &basic::Ack { delivery_tag: tag, multiple: false });
                assert_eq!(places.insert(body, queue), None, "each message goes to one queue");
            }
        }
        places
    }

    /// Publishes a hundred messages, of which `property` is the number, and tells where they went.
    async fn spread(
        &mut self,
        exchange: &str,
        with: impl Fn(&str) -> (String, bytes::Bytes),
    ) -> BTreeMap<String, &'static str> {
        for n in 0..100 {
            let n = n.to_string();
            let (key, properties) = with(&n);
            self.put_publish(1, exchange, &key, &properties, n.as_bytes());
        }
        self.send().await;
        let places = self.places().await;
        assert_eq!(places.len(), 100);
        places
    }
}

fn count(places: &BTreeMap<String, &'static str>, queue: &str) -> usize {
    places.values().filter(|place| **place == queue).count()
}

fn plain(key: &str) -> (String, bytes::Bytes) {
    (key.to_owned(), properties(BasicProperties::default()))
}

#[tokio::test]
async fn a_consistent_hash_sends_a_key_to_one_place_by_weight_also_after_a_restart() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.ask(1, &declare("spread", "x-consistent-hash"), &exchange::DeclareOk {}).await;
    client.bind_queues("spread", ["1", "1", "4"]).await;
    let places = client.spread("spread", plain).await;
    assert_eq!(client.spread("spread", plain).await, places, "one key, one place");
    let [a, b, c] = QUEUES.map(|queue| count(&places, queue));
    assert!(a > 5 && b > 5 && c > 50, "{a} {b} {c}");
    client.close().await;
    let server = server.restart().await;
    let mut client = server.channel().await;
    assert_eq!(client.spread("spread", plain).await, places, "and the same after a restart");
    let unbind = queue::Unbind {
        queue: b"durable-c",
        exchange: b"spread",
        routing_key: b"4",
        ..queue::Unbind::default()
    };
    client.ask(1, &unbind, &queue::UnbindOk {}).await;
    let after = client.spread("spread", plain).await;
    for (body, place) in &places {
        assert!(*place == "durable-c" || after[body] == *place, "{body} moved");
    }
    assert_eq!(count(&after, "durable-c"), 0);
}

#[tokio::test]
async fn a_consistent_hash_looks_at_headers_and_properties() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let hashed = [
        ("hash-header", "n"),
        ("hash-property", "message_id"),
        ("hash-property", "correlation_id"),
        ("hash-property", "timestamp"),
    ];
    for (at, (argument, what)) in hashed.into_iter().enumerate() {
        let name = format!("by-{at}");
        let arguments = table(&[(argument, ValueRef::LongString(what.as_bytes()))]);
        let by = exchange::Declare { arguments: arguments.as_table(), ..declare(&name, "x-consistent-hash") };
        client.ask(1, &by, &exchange::DeclareOk {}).await;
        client.bind_queues(&name, ["10", "10", "10"]).await;
        let places = client
            .spread(&name, |n| {
                let headers = table(&[("n", ValueRef::I32(n.parse().unwrap()))]);
                let mut all = BasicProperties::default();
                match what {
                    "n" => all.headers = Some(headers.as_table()),
                    "message_id" => all.message_id = Some(n.as_bytes()),
                    "correlation_id" => all.correlation_id = Some(n.as_bytes()),
                    _ => all.timestamp = n.parse().ok(),
                }
                ("same".to_owned(), properties(all))
            })
            .await;
        assert!(QUEUES.iter().all(|queue| count(&places, queue) > 10), "{what}: {places:?}");
        let none = client.spread(&name, plain).await;
        let first = none.values().next().unwrap();
        assert!(none.values().all(|place| place == first), "{what}: without it all go to one place");
    }
}

#[tokio::test]
async fn chance_and_modulus_choose_one_queue() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    for kind in ["x-random", "x-local-random", "x-modulus-hash"] {
        client.ask(1, &declare(kind, kind), &exchange::DeclareOk {}).await;
        client.bind_queues(kind, [""; 3]).await;
        let (one, other) = (client.spread(kind, plain).await, client.spread(kind, plain).await);
        assert!(QUEUES.iter().all(|queue| count(&one, queue) > 10), "{kind}: {one:?}");
        assert_eq!(one == other, kind == "x-modulus-hash", "{kind}");
        // A route that is kept would send all messages of one key to one queue.
        let same = client.spread(kind, |_| plain("same")).await;
        let places = QUEUES.iter().filter(|queue| count(&same, queue) > 0).count();
        assert_eq!(places, if kind == "x-modulus-hash" { 1 } else { 3 }, "{kind}");
    }
}

#[tokio::test]
async fn carbon_copies_make_no_second_choice() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.ask(1, &declare("spread", "x-consistent-hash"), &exchange::DeclareOk {}).await;
    client.bind_queues("spread", ["1"; 3]).await;
    let mut keys = ArrayBuilder::new();
    for key in ["a", "b", "c", "d", "e", "f", "g"] {
        keys.push(ValueRef::LongString(key.as_bytes())).unwrap();
    }
    keys.push(ValueRef::I32(5)).unwrap();
    let headers = table(&[("CC", ValueRef::Array(keys.as_array()))]);
    let copied =
        properties(BasicProperties { headers: Some(headers.as_table()), ..BasicProperties::default() });
    client.spread("spread", |n| (n.to_owned(), copied.clone())).await;
}

#[tokio::test]
async fn what_does_not_fit_is_told_in_the_words_of_its_exchange() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    for kind in ["x-consistent-hash", "x-local-random", "headers"] {
        client.ask(1, &declare(kind, kind), &exchange::DeclareOk {}).await;
    }
    for (exchange, key, text) in [
        ("x-consistent-hash", "heavy", "The binding key must be an integer: <<\"heavy\">>"),
        ("x-consistent-hash", "", "The binding key must be an integer: <<>>"),
        ("x-consistent-hash", "a\n", "The binding key must be an integer: <<97,10>>"),
        ("x-consistent-hash", "0", "The binding key must be greater than 0"),
        ("x-consistent-hash", "10001", "The binding key must not exceed 10000"),
        ("x-local-random", "key", "Non empty binding 'key' key not permitted"),
    ] {
        let text = format!("PRECONDITION_FAILED - {text}");
        client.channel_error(&bind("q", exchange, key), 406, &text).await;
        // What cannot be bound is not bound: that is fine.
        let unbind = queue::Unbind {
            queue: b"q",
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            ..queue::Unbind::default()
        };
        client.ask(1, &unbind, &queue::UnbindOk {}).await;
    }
    let to_exchange =
        exchange::Bind { source: b"x-local-random", destination: b"amq.fanout", ..exchange::Bind::default() };
    client.channel_error(&to_exchange, 406, "PRECONDITION_FAILED - Destination not found").await;
    for (value, text) in [
        (
            ValueRef::LongString(b"some"),
            "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x",
        ),
        (ValueRef::I32(5), "Invalid x-match field type signedint (value 5); expected longstr"),
    ] {
        let arguments = table(&[("x-match", value)]);
        let wrong = queue::Bind { arguments: arguments.as_table(), ..bind("q", "headers", "") };
        client.channel_error(&wrong, 406, &format!("PRECONDITION_FAILED - {text}")).await;
    }
    for (arguments, text) in [
        (vec![("hash-property", "app_id")], "Unsupported property: app_id"),
        (
            vec![("hash-property", "message_id"), ("hash-header", "h")],
            "hash-header and hash-property are mutually exclusive",
        ),
    ] {
        let list: Vec<_> =
            arguments.iter().map(|(name, text)| (*name, ValueRef::LongString(text.as_bytes()))).collect();
        let arguments = table(&list);
        let wrong =
            exchange::Declare { arguments: arguments.as_table(), ..declare("new", "x-consistent-hash") };
        client.channel_error(&wrong, 406, &format!("PRECONDITION_FAILED - {text}")).await;
    }
    let arguments = table(&[("alternate-exchange", ValueRef::I32(5))]);
    let wrong = exchange::Declare { arguments: arguments.as_table(), ..declare("new", "fanout") };
    let text = "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'new' in \
                vhost '/'";
    client.channel_error(&wrong, 406, text).await;
    let text = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'headers' in vhost '/': received \
                'x-random' but current is 'headers'";
    client.channel_error(&declare("headers", "x-random"), 406, text).await;
    assert_eq!(exchange::Declare::ID.class, 40);
}

#[tokio::test]
async fn arguments_that_differ_are_told_as_rabbitmq_does() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let with = |arguments: &'static [(&'static str, &'static [u8])]| {
        let list: Vec<_> = arguments.iter().map(|(name, text)| (*name, ValueRef::LongString(text))).collect();
        table(&list)
    };
    let (main, other, none) =
        (with(&[("alternate-exchange", b"main")]), with(&[("alternate-exchange", b"other")]), with(&[]));
    let declared = exchange::Declare { arguments: main.as_table(), ..declare("x", "fanout") };
    client.ask(1, &declared, &exchange::DeclareOk {}).await;
    for (arguments, told) in [(&other, "'other'"), (&none, "none")] {
        let current = if told == "none" { "the value 'main' of type 'longstr'" } else { "'main'" };
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received \
             {told} but current is {current}"
        );
        let wrong = exchange::Declare { arguments: arguments.as_table(), ..declare("x", "fanout") };
        client.channel_error(&wrong, 406, &text).await;
    }
    // A queue of no type is a classic one.
    let classic = with(&[("x-queue-type", b"classic")]);
    client.queue("q").await;
    let again = queue::Declare {
        queue: b"q",
        exclusive: true,
        arguments: classic.as_table(),
        ..queue::Declare::default()
    };
    let ok = queue::DeclareOk { queue: b"q", message_count: 0, consumer_count: 0 };
    client.ask(1, &again, &ok).await;
    // Line ends are dropped in bindings too, and nothing stands for an empty name that is only looked for.
    client.ask(1, &bind("q\n", "amq.\r\ndirect", "k"), &queue::BindOk {}).await;
    client.put_publish(1, "amq.direct", "k", &properties(BasicProperties::default()), b"bound").send().await;
    assert_eq!(client.get("q").await.unwrap().2, "bound");
    let passive = queue::Declare { passive: true, ..queue::Declare::default() };
    client.channel_error(&passive, 404, "NOT_FOUND - no queue '' in vhost '/'").await;
}
