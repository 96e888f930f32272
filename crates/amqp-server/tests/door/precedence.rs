//! Of several mistakes in one method, which is told: RabbitMQ's order, found by replaying random commands against both
//! (`compat/differential`), and what is counted.

use ferrymq_amqp_codec::method::{basic, exchange, queue};
use ferrymq_amqp_codec::{BasicProperties, TableBuilder, ValueRef, WireMethod as _};

use crate::support::{Server, properties};

fn table(entries: &[(&str, ValueRef<'_>)]) -> TableBuilder {
    let mut table = TableBuilder::new();
    for (name, value) in entries {
        table.push(name.as_bytes(), *value).unwrap();
    }
    table
}

fn declare<'a>(name: &'a str, arguments: &'a TableBuilder) -> queue::Declare<'a> {
    queue::Declare { queue: name.as_bytes(), arguments: arguments.as_table(), ..queue::Declare::default() }
}

#[tokio::test]
async fn a_tag_in_use_is_told_before_what_else_is_wrong() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    client.consume("q", "c").await;
    let wrong = table(&[("x-priority", ValueRef::Bool(true))]);
    let consume = basic::Consume {
        queue: b"missing",
        consumer_tag: b"c",
        arguments: wrong.as_table(),
        ..basic::Consume::default()
    };
    client.put(1, &consume).send().await;
    let text = "NOT_ALLOWED - attempt to reuse consumer tag 'c'";
    client.connection_closes(530, text, basic::Consume::ID).await;
}

#[tokio::test]
async fn a_dead_letter_exchange_of_another_type_is_told_first() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let wrong = table(&[
        ("x-message-ttl", ValueRef::LongString(b"soon")),
        ("x-dead-letter-exchange", ValueRef::I32(5)),
    ]);
    let text = "PRECONDITION_FAILED - invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'";
    client.channel_error(&declare("q", &wrong), 406, text).await;
}

#[tokio::test]
async fn the_first_argument_that_differs_is_told() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let length =
        table(&[("x-max-length", ValueRef::I32(1)), ("x-dead-letter-exchange", ValueRef::LongString(b""))]);
    let ok = queue::DeclareOk { queue: b"q", message_count: 0, consumer_count: 0 };
    client.ask(1, &declare("q", &length), &ok).await;
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received none \
                but current is the value '' of type 'longstr'";
    client.channel_error(&declare("q", &TableBuilder::new()), 406, text).await;
    // A quorum queue's own come in another order, its type among them.
    let quorum = ("x-queue-type", ValueRef::LongString(b"quorum"));
    let quorum_arguments = table(&[quorum, ("x-message-ttl", ValueRef::I32(1000))]);
    let durable = |name, arguments| queue::Declare { durable: true, ..declare(name, arguments) };
    let ok = queue::DeclareOk { queue: b"quorum", ..ok };
    client.ask(1, &durable("quorum", &quorum_arguments), &ok).await;
    let text = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'quorum' in vhost '/': received 'classic' but \
                current is 'quorum'";
    let none = TableBuilder::new();
    client.channel_error(&durable("quorum", &none), 406, text).await;
    // What queues of its type do not take is not compared.
    let more = table(&[
        quorum,
        ("x-message-ttl", ValueRef::I32(1000)),
        ("x-queue-mode", ValueRef::LongString(b"lazy")),
    ]);
    client.ask(1, &durable("quorum", &more), &ok).await;
}

#[tokio::test]
async fn of_two_ends_of_a_binding_the_exchange_is_told() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let bind = queue::Bind { queue: b"no", exchange: b"missing", ..queue::Bind::default() };
    let text = "NOT_FOUND - no exchange 'missing' in vhost '/'";
    client.channel_error(&bind, 404, text).await;
    let bind = exchange::Bind { destination: b"no", source: b"missing", ..exchange::Bind::default() };
    client.channel_error(&bind, 404, text).await;
}

#[tokio::test]
async fn a_wrong_binding_is_told_before_whose_queue_it_is() {
    let server = Server::start().await;
    let mut owner = server.channel().await;
    owner.queue("mine").await;
    let mut other = server.channel().await;
    let wrong = table(&[("x-match", ValueRef::LongString(b"some"))]);
    let bind = queue::Bind {
        queue: b"mine",
        exchange: b"amq.headers",
        arguments: wrong.as_table(),
        ..queue::Bind::default()
    };
    let text = "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or \
                any-with-x";
    other.channel_error(&bind, 406, text).await;
    // A binding that is not there is taken away by anybody.
    let unbind = queue::Unbind { queue: b"mine", exchange: b"amq.direct", ..queue::Unbind::default() };
    other.ask(1, &unbind, &queue::UnbindOk {}).await;
}

#[tokio::test]
async fn a_get_does_not_count_what_has_expired_behind_it() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    client.confirm_select().await;
    let brief = properties(BasicProperties { expiration: Some(b"0"), ..BasicProperties::default() });
    for (tag, properties) in [(1, &[0, 0][..]), (2, &brief), (3, &brief), (4, &[0, 0])] {
        client.put_publish(1, "", "q", properties, b"x").send().await;
        client.expect(1, &basic::Ack { delivery_tag: tag, multiple: false }).await;
    }
    client.put(1, &basic::Get { queue: b"q", no_ack: true, ..basic::Get::default() }).send().await;
    let ok = basic::GetOk {
        delivery_tag: 1,
        redelivered: false,
        exchange: b"",
        routing_key: b"q",
        message_count: 1,
    };
    client.expect(1, &ok).await;
}
