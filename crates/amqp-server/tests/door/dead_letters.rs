//! Dead letters as a client sees them: where they arrive, and what their headers say.

use bytes::Bytes;
use ferrymq_amqp_codec::method::{basic, exchange, queue, tx};
use ferrymq_amqp_codec::{ArrayBuilder, BasicProperties, Method, Properties, Table, TableBuilder, ValueRef};

use crate::support::{Client, Server, properties};

/// Declares a durable queue with dead letters.
async fn dead_lettering(client: &mut Client, name: &str, exchange: &str, key: Option<&str>) {
    limited(client, name, exchange, key, "x-unknown", 0).await;
}

/// The same with another argument.
async fn limited(
    client: &mut Client,
    name: &str,
    exchange: &str,
    key: Option<&str>,
    argument: &str,
    value: i32,
) {
    let mut arguments = TableBuilder::new();
    arguments.push(argument.as_bytes(), ValueRef::I32(value)).unwrap();
    arguments.push(b"x-dead-letter-exchange", ValueRef::LongString(exchange.as_bytes())).unwrap();
    if let Some(key) = key {
        arguments.push(b"x-dead-letter-routing-key", ValueRef::LongString(key.as_bytes())).unwrap();
    }
    let declare = queue::Declare {
        queue: name.as_bytes(),
        durable: true,
        arguments: arguments.as_table(),
        ..queue::Declare::default()
    };
    let ok = queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
}

/// The next message of a queue, which comes sooner or later: tag, exchange, routing key, properties, body.
async fn arrives(client: &mut Client, queue: &str) -> (u64, String, String, Bytes, Bytes) {
    for _ in 0..10_000 {
        client.put(1, &basic::Get { queue: queue.as_bytes(), ..basic::Get::default() }).send().await;
        let payload = client.reply(1).await;
        match Method::parse(&payload).expect("a method") {
            Method::BasicGetEmpty(_) => {}
            Method::BasicGetOk(ok) => {
                let (exchange, key) = (text(ok.exchange), text(ok.routing_key));
                let (tag, (properties, body)) = (ok.delivery_tag, client.content(1).await);
                return (tag, exchange, key, properties, body);
            }
            other => panic!("no answer to a get: {other:?}"),
        }
    }
    panic!("nothing arrives in {queue}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn headers(bytes: &Bytes) -> Table<'_> {
    Properties::parse(bytes).expect("properties").headers().expect("headers")
}

/// What `x-death` says: queue, reason, count, exchange, routing keys, newest first.
fn deaths(bytes: &Bytes) -> Vec<String> {
    let Some(ValueRef::Array(deaths)) = headers(bytes).get(b"x-death") else { panic!("no x-death") };
    let one = |death: ValueRef<'_>| {
        let ValueRef::Table(death) = death else { panic!("no table") };
        let field = |name: &str| match death.get(name.as_bytes()) {
            Some(ValueRef::LongString(value)) => text(value),
            Some(ValueRef::I64(count)) => count.to_string(),
            Some(ValueRef::Array(keys)) => {
                let keys = keys.iter().map(|key| match key {
                    ValueRef::LongString(key) => text(key),
                    other => panic!("{other:?}"),
                });
                keys.collect::<Vec<_>>().join("+")
            }
            other => panic!("{name}: {other:?}"),
        };
        assert!(matches!(death.get(b"time"), Some(ValueRef::Timestamp(1..))));
        ["queue", "reason", "count", "exchange", "routing-keys"].map(field).join(" ")
    };
    deaths.iter().map(one).collect()
}

fn header(bytes: &Bytes, name: &str) -> String {
    match headers(bytes).get(name.as_bytes()) {
        Some(ValueRef::LongString(value)) => text(value),
        other => panic!("{name}: {other:?}"),
    }
}

async fn reject(client: &mut Client, delivery_tag: u64) {
    client.put(1, &basic::Reject { delivery_tag, requeue: false }).send().await;
}

#[tokio::test]
async fn a_rejected_message_tells_its_story() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let declare = exchange::Declare { exchange: b"dlx", kind: b"fanout", ..exchange::Declare::default() };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    dead_lettering(&mut client, "a", "dlx", None).await;
    dead_lettering(&mut client, "b", "", Some("a")).await;
    let bind = queue::Bind { queue: b"b", exchange: b"dlx", ..queue::Bind::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    let mut own = TableBuilder::new();
    own.push(b"mine", ValueRef::I16(-7)).unwrap();
    let sent = BasicProperties {
        content_type: Some(b"text/plain"),
        headers: Some(own.as_table()),
        priority: Some(3),
        ..BasicProperties::default()
    };
    client.put_publish(1, "", "a", &properties(sent), b"body").send().await;

    let (tag, ..) = arrives(&mut client, "a").await;
    reject(&mut client, tag).await;
    let (tag, exchange, key, told, body) = arrives(&mut client, "b").await;
    assert_eq!((&*exchange, &*key, &body[..]), ("dlx", "a", &b"body"[..]));
    assert_eq!(deaths(&told), ["a rejected 1  a"]);
    let view = Properties::parse(&told).unwrap();
    assert_eq!((view.content_type(), view.priority()), (Some(&b"text/plain"[..]), Some(3)));
    assert_eq!(headers(&told).get(b"mine"), Some(ValueRef::I16(-7)));
    for (name, value) in
        [("first-death-queue", "a"), ("first-death-reason", "rejected"), ("first-death-exchange", "")]
    {
        assert_eq!(header(&told, &format!("x-{name}")), value);
        assert_eq!(header(&told, &format!("x-{}", name.replace("first", "last"))), value);
    }

    reject(&mut client, tag).await;
    let (tag, exchange, _, told, _) = arrives(&mut client, "a").await;
    assert_eq!(exchange, "");
    assert_eq!(deaths(&told), ["b rejected 1 dlx a", "a rejected 1  a"]);
    assert_eq!(header(&told, "x-first-death-queue"), "a");
    assert_eq!(
        (&*header(&told, "x-last-death-queue"), &*header(&told, "x-last-death-exchange")),
        ("b", "dlx")
    );

    reject(&mut client, tag).await;
    let (_, _, _, told, _) = arrives(&mut client, "b").await;
    assert_eq!(deaths(&told), ["a rejected 2  a", "b rejected 1 dlx a"]);
}

/// Copies go along, unless the queue has a routing key for all its dead letters.
#[tokio::test]
async fn carbon_copies_of_dead_letters() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    dead_lettering(&mut client, "a", "", None).await;
    dead_lettering(&mut client, "keyed", "", Some("c")).await;
    client.queue("durable b").await;
    client.queue("c").await;
    let mut copies = ArrayBuilder::new();
    copies.push(ValueRef::LongString(b"durable b")).unwrap();
    let mut table = TableBuilder::new();
    table.push(b"CC", ValueRef::Array(copies.as_array())).unwrap();
    let sent = properties(BasicProperties { headers: Some(table.as_table()), ..BasicProperties::default() });
    client.put_publish(1, "", "a", &sent, b"1").send().await;
    arrives(&mut client, "durable b").await;
    let (tag, ..) = arrives(&mut client, "a").await;
    reject(&mut client, tag).await;
    // Once more to both: rejected messages may go round.
    let (_, _, key, told, _) = arrives(&mut client, "durable b").await;
    assert_eq!((&*key, deaths(&told)), ("a", vec!["a rejected 1  a+durable b".to_owned()]));
    assert!(headers(&told).get(b"CC").is_some());
    arrives(&mut client, "a").await;

    client.put_publish(1, "", "keyed", &sent, b"2").send().await;
    arrives(&mut client, "durable b").await;
    let (tag, ..) = arrives(&mut client, "keyed").await;
    reject(&mut client, tag).await;
    let (_, _, key, told, _) = arrives(&mut client, "c").await;
    assert_eq!((&*key, headers(&told).get(b"CC")), ("c", None));
    assert_eq!(client.get("durable b").await, None);
}

/// What a client says of deaths is shown to others and believed by nobody.
#[tokio::test]
async fn a_client_cannot_tell_of_deaths() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    dead_lettering(&mut client, "a", "", Some("b")).await;
    client.queue("b").await;
    client.put_publish(1, "", "a", &[0, 0], b"1").send().await;
    let (tag, ..) = arrives(&mut client, "a").await;
    reject(&mut client, tag).await;
    let (_, _, _, told, _) = arrives(&mut client, "b").await;
    // As applications do that try again by themselves.
    client.put_publish(1, "", "a", &told, b"again").send().await;
    let (tag, _, _, shown, _) = arrives(&mut client, "a").await;
    assert_eq!(deaths(&shown), ["a rejected 1  a"]);
    reject(&mut client, tag).await;
    let (_, _, _, told, _) = arrives(&mut client, "b").await;
    assert_eq!(deaths(&told), ["a rejected 1  a"], "the first that the broker knows of");
    assert_eq!(headers(&told).iter().filter(|entry| entry.name() == b"x-death").count(), 1);
}

#[tokio::test]
async fn rejected_in_a_transaction() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    dead_lettering(&mut client, "a", "", Some("b")).await;
    client.queue("b").await;
    client.put_publish(1, "", "a", &[0, 0], b"1").send().await;
    let (tag, ..) = arrives(&mut client, "a").await;
    client.ask(1, &tx::Select {}, &tx::SelectOk {}).await;
    reject(&mut client, tag).await;
    assert_eq!(client.get("b").await, None);
    client.ask(1, &tx::Commit {}, &tx::CommitOk {}).await;
    assert_eq!(arrives(&mut client, "b").await.4, "1");
}

/// Expired twice without a rejection: what would go round goes elsewhere only.
#[tokio::test]
async fn circles_end() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let declare = exchange::Declare { exchange: b"both", kind: b"fanout", ..exchange::Declare::default() };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    dead_lettering(&mut client, "a", "", Some("b")).await;
    limited(&mut client, "b", "both", None, "x-message-ttl", 1).await;
    client.queue("c").await;
    for target in [&b"a"[..], b"c"] {
        let bind = queue::Bind { queue: target, exchange: b"both", ..queue::Bind::default() };
        client.ask(1, &bind, &queue::BindOk {}).await;
    }
    let sent = BasicProperties { expiration: Some(b"2"), ..BasicProperties::default() };
    client.put_publish(1, "", "a", &properties(sent), b"x").send().await;
    let (_, _, key, told, _) = arrives(&mut client, "c").await;
    assert_eq!((&*key, deaths(&told)), ("b", vec!["b expired 1  b".to_owned(), "a expired 1  a".to_owned()]));
    assert_eq!(Properties::parse(&told).unwrap().expiration(), None);
    let Some(ValueRef::Array(all)) = headers(&told).get(b"x-death") else { panic!("no x-death") };
    let Some(ValueRef::Table(first)) = all.iter().last() else { panic!("no table") };
    assert_eq!(first.get(b"original-expiration"), Some(ValueRef::LongString(b"2")));
    assert_eq!(client.get("a").await, None, "it has been there");
}

#[tokio::test]
async fn what_is_too_many_is_dead_lettered() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    limited(&mut client, "a", "", Some("b"), "x-max-length", 1).await;
    client.queue("b").await;
    client.put_publish(1, "", "a", &[0, 0], b"1").put_publish(1, "", "a", &[0, 0], b"2").send().await;
    let (_, _, _, told, body) = arrives(&mut client, "b").await;
    assert_eq!((deaths(&told), &body[..]), (vec!["a maxlen 1  a".to_owned()], &b"1"[..]));
}

/// What a full queue refuses is refused, and tells its story elsewhere; the refusal comes when it has arrived.
#[tokio::test]
async fn what_is_refused_is_dead_lettered() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let mut arguments = TableBuilder::new();
    arguments.push(b"x-max-length", ValueRef::I32(1)).unwrap();
    for (name, value) in [
        ("x-overflow", "reject-publish-dlx"),
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", "b"),
    ] {
        arguments.push(name.as_bytes(), ValueRef::LongString(value.as_bytes())).unwrap();
    }
    let declare =
        queue::Declare { queue: b"a", arguments: arguments.as_table(), ..queue::Declare::default() };
    let ok = queue::DeclareOk { queue: b"a", message_count: 0, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
    client.queue("b").await;
    client.confirm_select().await;
    client.published("a", &["1"]).await;
    let sent = BasicProperties { expiration: Some(b"60000"), ..BasicProperties::default() };
    client.put_publish(1, "", "a", &properties(sent), b"2").send().await;
    client.expect(1, &basic::Nack { delivery_tag: 2, multiple: false, requeue: false }).await;
    client.put(1, &basic::Get { queue: b"b", ..basic::Get::default() }).send().await;
    assert!(
        matches!(Method::parse(&client.reply(1).await), Ok(Method::BasicGetOk(_))),
        "it is there by then"
    );
    let (told, body) = client.content(1).await;
    assert_eq!((deaths(&told), &body[..]), (vec!["a maxlen 1  a".to_owned()], &b"2"[..]));
    assert_eq!(Properties::parse(&told).unwrap().expiration(), None);
    assert_eq!(client.get("a").await.unwrap().2, "1");
}
