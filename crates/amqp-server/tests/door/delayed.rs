//! Exchanges that keep messages back, as a client sees them.

use bytes::Bytes;
use ferrymq_amqp_codec::method::{basic, exchange, queue, tx};
use ferrymq_amqp_codec::{ArrayBuilder, BasicProperties, Method, Properties, TableBuilder, ValueRef};
use ferrymq_runtime::Clock;

use crate::support::{Client, Server, properties};

/// Declares a durable exchange that routes as `kind`, and binds a durable queue to it.
async fn later(client: &mut Client, kind: &str, key: &str) {
    let mut arguments = TableBuilder::new();
    arguments.push(b"x-delayed-type", ValueRef::LongString(kind.as_bytes())).unwrap();
    let declare = exchange::Declare {
        exchange: b"later",
        kind: b"x-delayed-message",
        durable: true,
        arguments: arguments.as_table(),
        ..exchange::Declare::default()
    };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    client.queue("durable q").await;
    let bind = queue::Bind {
        queue: b"durable q",
        exchange: b"later",
        routing_key: key.as_bytes(),
        ..queue::Bind::default()
    };
    client.ask(1, &bind, &queue::BindOk {}).await;
}

/// Properties with headers, the delay among them.
fn delay(value: ValueRef<'_>, more: &[(&str, ValueRef<'_>)]) -> Bytes {
    let mut table = TableBuilder::new();
    table.push(b"mine", ValueRef::I16(-7)).unwrap();
    table.push(b"x-delay", value).unwrap();
    for (name, value) in more {
        table.push(name.as_bytes(), *value).unwrap();
    }
    properties(BasicProperties {
        headers: Some(table.as_table()),
        delivery_mode: Some(2),
        content_type: Some(b"text/plain"),
        ..BasicProperties::default()
    })
}

/// The next message of a queue, which comes sooner or later: exchange, routing key, properties, body.
async fn arrives(client: &mut Client, queue: &str) -> (String, String, Bytes, Bytes) {
    for _ in 0..100_000 {
        let get = basic::Get { queue: queue.as_bytes(), no_ack: true, ..basic::Get::default() };
        client.put(1, &get).send().await;
        let payload = client.reply(1).await;
        match Method::parse(&payload).expect("a method") {
            Method::BasicGetEmpty(_) => {}
            Method::BasicGetOk(ok) => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let (exchange, key) = (text(ok.exchange), text(ok.routing_key));
                let (properties, body) = client.content(1).await;
                return (exchange, key, properties, body);
            }
            other => panic!("no answer to a get: {other:?}"),
        }
    }
    panic!("nothing arrives in {queue}");
}

fn header<'a>(properties: &'a Bytes, name: &str) -> Option<ValueRef<'a>> {
    Properties::parse(properties).unwrap().headers().unwrap().get(name.as_bytes())
}

/// Confirmed at once, there when it is due; its header says that it has waited. That nobody is bound now is no reason to
/// return it.
#[tokio::test]
async fn a_message_comes_when_it_is_due() {
    let server = Server::start().await;
    let clock = Clock::system();
    let mut client = server.channel().await;
    later(&mut client, "topic", "k.#").await;
    client.confirm_select().await;
    let before = clock.uptime();
    let mut number = 0;
    for (value, key) in [(ValueRef::I32(150), "k.1"), (ValueRef::LongString(b"250"), "k.2")] {
        number += 1;
        client.put_publish(1, "later", key, &delay(value, &[]), key.as_bytes()).send().await;
        client.expect(1, &basic::Ack { delivery_tag: number, multiple: false }).await;
    }
    // Mandatory, and to nobody.
    client.put_publish(1, "later", "nobody", &delay(ValueRef::I32(1), &[]), b"").send().await;
    client.expect(1, &basic::Ack { delivery_tag: 3, multiple: false }).await;
    for (key, ms) in [("k.1", 150), ("k.2", 250)] {
        let (exchange, routing_key, told, body) = arrives(&mut client, "durable q").await;
        let waited = (clock.uptime() - before).as_millis();
        assert!(waited >= ms.try_into().unwrap(), "{waited} of {ms} ms");
        assert_eq!((&*exchange, &*routing_key, &body[..]), ("later", key, key.as_bytes()));
        assert_eq!(header(&told, "x-delay"), Some(ValueRef::I64(-ms)));
        assert_eq!(header(&told, "mine"), Some(ValueRef::I16(-7)));
        assert_eq!(Properties::parse(&told).unwrap().content_type(), Some(&b"text/plain"[..]));
    }
    // Without a delay it is an exchange like any other: what goes nowhere is returned.
    for value in [ValueRef::I32(0), ValueRef::I32(-150), ValueRef::I64(4_294_967_296), ValueRef::Bool(true)] {
        client.put_publish(1, "later", "k", &delay(value, &[]), b"now").send().await;
        number += 1;
        client.expect(1, &basic::Ack { delivery_tag: number + 1, multiple: false }).await;
        let (.., told, _) = arrives(&mut client, "durable q").await;
        assert_eq!(header(&told, "x-delay"), Some(value), "as it came");
    }
    client.put_publish(1, "later", "nobody", &delay(ValueRef::I32(0), &[]), b"").send().await;
    assert!(matches!(Method::parse(&client.reply(1).await), Ok(Method::BasicReturn(_))));
}

/// Carbon copies go along when it is due, blind ones as well, which nobody sees.
#[tokio::test]
async fn carbon_copies_come_with_it() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    later(&mut client, "direct", "to").await;
    for name in ["cc", "bcc"] {
        client.queue(name).await;
        let bind = queue::Bind {
            queue: name.as_bytes(),
            exchange: b"later",
            routing_key: name.as_bytes(),
            ..queue::Bind::default()
        };
        client.ask(1, &bind, &queue::BindOk {}).await;
    }
    let copies = ["cc", "bcc"].map(|name| {
        let mut list = ArrayBuilder::new();
        list.push(ValueRef::LongString(name.as_bytes())).unwrap();
        list
    });
    let more =
        [("CC", ValueRef::Array(copies[0].as_array())), ("BCC", ValueRef::Array(copies[1].as_array()))];
    client.put_publish(1, "later", "to", &delay(ValueRef::I32(30), &more), b"1").send().await;
    for name in ["durable q", "cc", "bcc"] {
        let (.., told, body) = arrives(&mut client, name).await;
        assert_eq!((&body[..], header(&told, "BCC")), (&b"1"[..], None));
        assert!(header(&told, "CC").is_some());
    }
}

/// Published in a transaction, it waits from the commit on; and it is there after a restart.
#[tokio::test]
async fn in_a_transaction_and_over_a_restart() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    later(&mut client, "fanout", "").await;
    client.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
    client.put_publish(1, "later", "", &delay(ValueRef::I32(100), &[]), b"1");
    client.put_publish(1, "later", "", &delay(ValueRef::I32(20_000_000), &[]), b"far").send().await;
    client.ask(1, &tx::Rollback {}, &tx::RollbackOk {}).await;
    client.put_publish(1, "later", "", &delay(ValueRef::I32(100), &[]), b"2");
    client.put_publish(1, "later", "", &delay(ValueRef::I32(20_000_000), &[]), b"far").send().await;
    client.ask(1, &tx::Commit {}, &tx::CommitOk {}).await;
    drop(client);
    let server = server.restart().await;
    let mut client = server.channel().await;
    assert_eq!(arrives(&mut client, "durable q").await.3, "2");
    assert_eq!(client.get("durable q").await, None);
}

#[tokio::test]
async fn what_is_wrong_is_told() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let texts: [(Option<&[u8]>, &str); 3] = [
        (None, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
        (
            Some(b"x-delayed-message"),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
        (Some(b"unheard"), "unknown exchange type 'unheard'"),
    ];
    for (kind, text) in texts {
        let mut arguments = TableBuilder::new();
        if let Some(kind) = kind {
            arguments.push(b"x-delayed-type", ValueRef::LongString(kind)).unwrap();
        }
        let declare = exchange::Declare {
            exchange: b"x",
            kind: b"x-delayed-message",
            arguments: arguments.as_table(),
            ..exchange::Declare::default()
        };
        client.channel_error(&declare, 406, &format!("PRECONDITION_FAILED - {text}")).await;
    }
}
