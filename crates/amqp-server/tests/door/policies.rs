//! Policies, as a client sees what they do.

use ferrymq_amqp_codec::method::{basic, exchange, queue};
use ferrymq_amqp_codec::{MethodId, TableBuilder, ValueRef, WireMethod as _};
use ferrymq_broker::queues::{ApplyTo, Arguments, PolicySort, PolicySpec, Value, Width};

use crate::across::topic;
use crate::streams::{declaration, declared, table, text};
use crate::support::{Server, persistent, within};

fn policy(name: &str, pattern: &str, definition: &[(&str, Value)]) -> PolicySpec {
    let definition = definition.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    PolicySpec {
        name: name.into(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: Arguments(definition),
    }
}

fn int(value: i64) -> Value {
    Value::Int(value, Width::I64)
}

#[tokio::test]
async fn a_policy_limits_letters_and_leads_elsewhere() {
    let server = Server::start().await;
    let broker = &server.context().queues;
    let mut client = server.channel().await;
    for name in ["durable work", "durable dead", "durable other"] {
        client.queue(name).await;
    }
    client.confirm_select().await;
    client.published("durable work", &["a", "b", "c"]).await;
    // What is there already goes by it at once.
    let definition = [
        ("max-length", int(2)),
        ("dead-letter-exchange", Value::text("")),
        ("dead-letter-routing-key", Value::text("durable dead")),
    ];
    let limited = policy("limited", "work$", &definition);
    assert!(broker.set_policy(PolicySort::Policy, "/", limited.clone()).await.unwrap());
    let dead = within(async {
        loop {
            if let Some(got) = client.get("durable dead").await {
                return got;
            }
        }
    });
    assert_eq!(dead.await.2, "a");
    client.published("durable work", &["d"]).await;
    assert_eq!(client.get("durable work").await.unwrap().2, "c");
    // A declaration is compared with arguments, not with what a policy says.
    let declare = queue::Declare { queue: b"durable work", durable: true, ..queue::Declare::default() };
    let ok = queue::DeclareOk { queue: b"durable work", message_count: 1, consumer_count: 0 };
    client.ask(1, &declare, &ok).await;
    // An operator lets publishers be told.
    let refusing =
        policy("op", "work$", &[("max-length", int(1)), ("overflow", Value::text("reject-publish"))]);
    broker.set_policy(PolicySort::Operator, "/", refusing).await.unwrap();
    client.put_publish(1, "", "durable work", &persistent(), b"e").send().await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Nack::ID));
    assert!(broker.clear_policy(PolicySort::Operator, "/", "op").await.unwrap());
    client.published("durable work", &["f"]).await;
    // Exchanges: what has no binding goes to another one.
    client.put_publish(1, "amq.direct", "no key", &persistent(), b"lost").send().await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Return::ID));
    client.content(1).await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Ack::ID));
    let bind = queue::Bind { queue: b"durable other", exchange: b"amq.fanout", ..queue::Bind::default() };
    client.ask(1, &bind, &queue::BindOk {}).await;
    let leading = policy("lead", "^amq\\.direct", &[("alternate-exchange", Value::text("amq.fanout"))]);
    broker.set_policy(PolicySort::Policy, "/", leading).await.unwrap();
    client.put_publish(1, "amq.direct", "no key", &persistent(), b"found").send().await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Ack::ID));
    assert_eq!(client.get("durable other").await.unwrap().2, "found");
    // An argument wins over it.
    let mut arguments = TableBuilder::new();
    arguments.push(b"alternate-exchange", ValueRef::LongString(b"nowhere")).unwrap();
    let declare = exchange::Declare {
        exchange: b"own",
        kind: b"direct",
        arguments: arguments.as_table(),
        ..exchange::Declare::default()
    };
    client.ask(1, &declare, &exchange::DeclareOk {}).await;
    let all = policy("all", "", &[("alternate-exchange", Value::text("amq.fanout"))]);
    broker.set_policy(PolicySort::Policy, "/", all).await.unwrap();
    client.put_publish(1, "own", "no key", &persistent(), b"lost").send().await;
    assert_eq!(MethodId::peek(&client.reply(1).await), Some(basic::Return::ID));
}

/// A policy sets the topic of a stream, of one that comes too, and leaves what else a Kafka client has set.
#[tokio::test]
async fn a_policy_says_how_long_streams_keep_their_messages() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.stream("events", &[("x-max-age", text("1h"))]).await;
    topic(&server, "before", 1).await;
    let arguments = table(&[("x-queue-type", text("stream"))]);
    client.ask(1, &declaration("before", &arguments), &declared("before", 0)).await;
    let said = |server: &Server, topic: &str| {
        let config = server.broker().topics().get(topic).unwrap().config.get();
        (config.retention_ms, config.retention_bytes)
    };
    let default = said(&server, "before");
    let definition = [("max-age", Value::text("5s")), ("max-length-bytes", int(5_000_000))];
    let aged = policy("aged", "", &definition);
    let broker = &server.context().queues;
    assert!(broker.set_policy(PolicySort::Policy, "/", aged).await.unwrap());
    let by_policy = (Some(5_000), Some(5_000_000));
    assert_eq!(said(&server, "events"), by_policy);
    assert_eq!(said(&server, "before"), default, "a topic that was there is Kafka's");
    client.stream("late", &[]).await;
    assert_eq!(said(&server, "late"), by_policy);
    // A Kafka client says otherwise, and something else.
    let by_kafka = [("retention.ms", "7000"), ("max.message.bytes", "70000")];
    let by_kafka = by_kafka.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    server.broker().change_config("events", by_kafka).await.unwrap();
    assert_eq!(said(&server, "events"), (Some(7_000), Some(5_000_000)));
    client.close().await;
    let server = server.restart().await;
    assert_eq!(said(&server, "events"), by_policy, "a policy says it again");
    assert_eq!(
        server.broker().topics().get("events").unwrap().config.get().overrides["max.message.bytes"],
        "70000"
    );
    let broker = &server.context().queues;
    assert!(broker.clear_policy(PolicySort::Policy, "/", "aged").await.unwrap());
    assert_eq!(said(&server, "events"), (Some(3_600_000), None), "as it was declared");
    assert_eq!(said(&server, "late"), (None, None));
    assert_eq!(said(&server, "before"), default);
}
