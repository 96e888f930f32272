//! Channels: their life, and which mistakes end what.

use ferrymq_amqp_codec::method::{access, basic, channel, confirm, connection, queue};
use ferrymq_amqp_codec::{MethodId, WireMethod as _};

use crate::support::Server;

#[tokio::test]
async fn channels_are_opened_and_closed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for number in [1, 7, 2047] {
        client.open(number).await;
    }
    client.ask(7, &channel::Close { reply_code: 200, ..Default::default() }, &channel::CloseOk {}).await;
    client.open(7).await;
    client.ask(7, &channel::Flow { active: true }, &channel::FlowOk { active: true }).await;
    let request = access::Request { realm: b"/data", ..access::Request::default() };
    client.ask(7, &request, &access::RequestOk { ticket: 1 }).await;
}

#[tokio::test]
async fn what_needs_an_open_channel_ends_the_connection() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.put(1, &basic::Get { queue: b"q", ..basic::Get::default() }).send().await;
    client.connection_closes(504, "CHANNEL_ERROR - expected 'channel.open'", basic::Get::ID).await;
    let mut client = server.channel().await;
    client.put(1, &channel::Open::default()).send().await;
    client.connection_closes(504, "CHANNEL_ERROR - second 'channel.open' seen", channel::Open::ID).await;
}

#[tokio::test]
async fn there_are_as_many_channels_as_agreed() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.handshake(connection::TuneOk { channel_max: 2, frame_max: 4096, heartbeat: 0 }).await;
    client.open(1).await;
    client.open(2).await;
    client.put(3, &channel::Open::default()).send().await;
    let text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    client.connection_closes(530, text, MethodId::NONE).await;
}

#[tokio::test]
async fn what_we_do_not_have_is_said() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put(1, &channel::Flow { active: false }).send().await;
    client.connection_closes(540, "NOT_IMPLEMENTED - active=false", channel::Flow::ID).await;
    let mut client = server.channel().await;
    client.put(1, &basic::Qos { prefetch_size: 9, ..basic::Qos::default() }).send().await;
    client.connection_closes(540, "NOT_IMPLEMENTED - prefetch_size!=0 (9)", basic::Qos::ID).await;
    let mut client = server.channel().await;
    client.put(1, &basic::Recover { requeue: false }).send().await;
    client.connection_closes(540, "NOT_IMPLEMENTED - requeue=false", basic::Recover::ID).await;
    let mut client = server.channel().await;
    client.put(1, &queue::DeclareOk::default()).send().await;
    client.connection_closes(503, "COMMAND_INVALID - unimplemented method", queue::DeclareOk::ID).await;
}

#[tokio::test]
async fn a_channel_that_failed_hears_only_the_answer() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.open(2).await;
    client.queue("mine").await;
    // The mistake, and in the same write what a client sends that has not heard of it.
    client.put(1, &basic::Ack { delivery_tag: 9, multiple: false });
    client.put_publish(1, "", "mine", &[0, 0], b"never");
    client.put(1, &basic::Ack { delivery_tag: 10, multiple: false });
    client.put(1, &confirm::Select::default());
    client.put(2, &basic::Get { queue: b"mine", ..basic::Get::default() }).send().await;
    let close = channel::Close {
        reply_code: 406,
        reply_text: b"PRECONDITION_FAILED - unknown delivery tag 9",
        class_id: 60,
        method_id: 80,
    };
    client.expect(1, &close).await;
    client.expect(2, &basic::GetEmpty::default()).await;
    // Both sides close at once: ours is answered, theirs too.
    client.put(1, &channel::Close { reply_code: 200, ..Default::default() }).send().await;
    client.expect(1, &channel::CloseOk {}).await;
    client.put(1, &channel::CloseOk {});
    client.open(1).await;
}

#[tokio::test]
async fn a_closed_channel_returns_what_it_had_before_it_answers() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("mine").await;
    client.confirm_select().await;
    client.published("mine", &["a", "b", "c"]).await;
    client.consume("mine", "c").await;
    for body in ["a", "b", "c"] {
        assert_eq!(client.delivery().await.2, body);
    }
    client.put(1, &basic::Ack { delivery_tag: 2, multiple: false });
    client.ask(1, &channel::Close { reply_code: 200, ..Default::default() }, &channel::CloseOk {}).await;
    client.open(1).await;
    assert_eq!(client.get("mine").await.unwrap(), (1, true, "a".to_owned()));
    assert_eq!(client.get("mine").await.unwrap(), (2, true, "c".to_owned()));
    assert_eq!(client.get("mine").await, None);
}

#[tokio::test]
async fn unknown_tags_end_the_channel() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    let text = |tag: u64| format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
    client.channel_error(&basic::Ack { delivery_tag: 1, multiple: false }, 406, &text(1)).await;
    client.channel_error(&basic::Ack { delivery_tag: 7, multiple: true }, 406, &text(7)).await;
    client.channel_error(&basic::Ack { delivery_tag: 0, multiple: false }, 406, &text(0)).await;
    let nack = basic::Nack { delivery_tag: 2, multiple: true, requeue: true };
    client.channel_error(&nack, 406, &text(2)).await;
    client.channel_error(&basic::Reject { delivery_tag: 3, requeue: false }, 406, &text(3)).await;
    // None at all is not an error.
    client.put(1, &basic::Ack { delivery_tag: 0, multiple: true });
    client.queue("still-here").await;
    client.confirm_select().await;
    client.published("still-here", &["a"]).await;
    assert!(client.get("still-here").await.is_some());
    client.put(1, &basic::Ack { delivery_tag: 1, multiple: false });
    client.channel_error(&basic::Ack { delivery_tag: 1, multiple: false }, 406, &text(1)).await;
    assert_eq!(client.get("still-here").await, None, "the first one counted");
}
