//! Publishing: bodies in pieces, confirms, returns, refusals.

use ferrymq_amqp_codec::frame_writer::{frame_head, put_content_header};
use ferrymq_amqp_codec::method::{basic, channel, connection, exchange, queue, tx};
use ferrymq_amqp_codec::{
    ArrayBuilder, BasicProperties, FrameKind, Method, MethodId, Properties, TableBuilder, ValueRef,
    WireMethod as _,
};

use crate::support::{Server, persistent, properties};

/// A body frame.
fn body(channel: u16, part: &[u8]) -> Vec<u8> {
    let mut frame =
        frame_head(FrameKind::Body, channel, u32::try_from(part.len()).expect("a frame")).to_vec();
    frame.extend_from_slice(part);
    frame.push(0xce);
    frame
}

/// A content header frame.
pub(crate) fn header(channel: u16, size: u64) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    put_content_header(&mut out, channel, size, Properties::EMPTY, 131_072).expect("it fits");
    out.to_vec()
}

fn publish(key: &[u8]) -> basic::Publish<'_> {
    basic::Publish { routing_key: key, ..basic::Publish::default() }
}

#[tokio::test]
async fn bodies_come_in_any_pieces() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    client.open(2).await;
    // Two channels at once, in pieces of many sizes; an empty piece does no harm.
    client.put(1, &publish(b"q")).put(2, &publish(b"q"));
    client.put_bytes(&header(1, 10)).put_bytes(&header(2, 3));
    client.put_bytes(&body(1, b"abc")).put_bytes(&body(2, b"x")).put_bytes(&body(1, b"")).send().await;
    client.put_bytes(&body(2, b"yz")).put_bytes(&body(1, b"defghij")).send().await;
    assert_eq!(client.get("q").await.unwrap().2, "xyz");
    assert_eq!(client.get("q").await.unwrap().2, "abcdefghij");
    let large: String = (0..300_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    client.put_publish(1, "", "q", &[0, 0], large.as_bytes()).send().await;
    assert_eq!(client.get("q").await.unwrap().2, large);
    client.put_publish(1, "", "q", &[0, 0], b"").send().await;
    assert_eq!(client.get("q").await.unwrap().2, "");
}

#[tokio::test]
async fn bodies_are_as_long_as_declared() {
    let server = Server::start().await;
    let text = "FRAME_ERROR - content body frame exceeds remaining content size";
    for parts in [&[&b"abcd"[..]][..], &[b"ab", b"cd"]] {
        let mut client = server.channel().await;
        client.put(1, &publish(b"q")).put_bytes(&header(1, 3));
        for part in parts {
            client.put_bytes(&body(1, part));
        }
        client.send().await;
        client.connection_closes(501, text, basic::Publish::ID).await;
    }
    let mut client = server.channel().await;
    client.put(1, &publish(b"q")).put_bytes(&header(1, 3)).put_bytes(&body(1, b"ab"));
    client.put(1, &basic::Get::default()).send().await;
    let text = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    client.connection_closes(505, text, basic::Publish::ID).await;
}

#[tokio::test]
async fn frames_come_in_their_turn() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put_bytes(&header(1, 3)).send().await;
    let text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    client.connection_closes(505, text, MethodId::NONE).await;
    let mut client = server.channel().await;
    client.put_bytes(&body(1, b"x")).send().await;
    client.connection_closes(505, text, MethodId::NONE).await;
    let text =
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    let mut client = server.channel().await;
    client.put(1, &publish(b"q")).put_bytes(&body(1, b"x")).send().await;
    client.connection_closes(505, text, basic::Publish::ID).await;
    let mut client = server.channel().await;
    client.put(1, &publish(b"q")).put(1, &publish(b"q")).send().await;
    client.connection_closes(505, text, basic::Publish::ID).await;
    let mut client = server.channel().await;
    let mut other_class = header(1, 3);
    other_class[8] = 50;
    client.put(1, &publish(b"q")).put_bytes(&other_class).send().await;
    let text = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead";
    client.connection_closes(505, text, basic::Publish::ID).await;
    let mut client = server.channel().await;
    client.put_bytes(&header(0, 3)).send().await;
    let text = "UNEXPECTED_FRAME - type 2, all octets = <<0,60,0,0,0,0,0,0,0,0,0,3,0,0>>";
    client.connection_closes(505, text, MethodId::NONE).await;
}

#[tokio::test]
async fn every_message_is_confirmed_once_and_in_order() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable-q").await;
    client.confirm_select().await;
    let bytes = persistent();
    for count in [1u64, 10, 3000] {
        for _ in 0..count {
            client.put_publish(1, "", "durable-q", &bytes, b"0123456789");
        }
        client.send().await;
        let mut confirmed = 0;
        while confirmed < count {
            let payload = client.reply(1).await;
            let Ok(Method::BasicAck(ack)) = Method::parse(&payload) else { panic!("no ack") };
            confirmed = if ack.multiple { ack.delivery_tag } else { confirmed + 1 };
            assert!(ack.multiple || ack.delivery_tag == confirmed, "{ack:?}");
        }
        assert_eq!(confirmed, count);
        client
            .ask(
                1,
                &queue::Purge { queue: b"durable-q", ..Default::default() },
                &queue::PurgeOk { message_count: u32::try_from(count).unwrap() },
            )
            .await;
        // A channel that is opened again counts from 1.
        let close = channel::Close { reply_code: 200, ..Default::default() };
        client.ask(1, &close, &channel::CloseOk {}).await;
        client.open(1).await;
        client.confirm_select().await;
    }
}

#[tokio::test]
async fn a_mandatory_message_comes_back_before_its_confirm() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    client.confirm_select().await;
    let sent = properties(BasicProperties { message_id: Some(b"\xff id"), ..BasicProperties::default() });
    client.put_publish(1, "", "q", &sent, b"one");
    client.put_publish(1, "amq.direct", "nowhere", &sent, b"two");
    client.put_publish(1, "", "q", &sent, b"three").send().await;
    let returned = basic::Return {
        reply_code: 312,
        reply_text: b"NO_ROUTE",
        exchange: b"amq.direct",
        routing_key: b"nowhere",
    };
    client.expect(1, &returned).await;
    let (found, content) = client.content(1).await;
    assert_eq!((&found[..], &content[..]), (&sent[..], &b"two"[..]));
    let mut confirmed = 0;
    while confirmed < 3 {
        let payload = client.reply(1).await;
        let Ok(Method::BasicAck(ack)) = Method::parse(&payload) else { panic!("no ack") };
        confirmed = ack.delivery_tag;
    }
    // One that is not mandatory is dropped, and confirmed.
    client.put(1, &publish(b"nowhere")).put_bytes(&header(1, 0)).send().await;
    client.expect(1, &basic::Ack { delivery_tag: 4, multiple: false }).await;
}

#[tokio::test]
async fn refused_messages_end_the_channel() {
    let server = Server::start_with(|config| config.message_bytes_max = 1000).await;
    let mut client = server.channel().await;
    client.queue("q").await;
    let id = basic::Publish::ID;
    client.put_publish(1, "no", "k", &[0, 0], b"").send().await;
    client.channel_closes(404, "NOT_FOUND - no exchange 'no' in vhost '/'", id).await;
    let inside =
        exchange::Declare { exchange: b"inside", kind: b"fanout", internal: true, ..Default::default() };
    client.ask(1, &inside, &exchange::DeclareOk {}).await;
    client.put_publish(1, "inside", "k", &[0, 0], b"").send().await;
    let text = "ACCESS_REFUSED - cannot publish to internal exchange 'inside' in vhost '/'";
    client.channel_closes(403, text, id).await;
    client.put_publish(1, "", "q", &[0, 0], &[7; 1001]).send().await;
    let text = "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000";
    client.channel_closes(406, text, id).await;
    let foreign = properties(BasicProperties { user_id: Some(b"root"), ..BasicProperties::default() });
    client.put_publish(1, "", "q", &foreign, b"").send().await;
    let text = "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'";
    client.channel_closes(406, text, id).await;
    for (expiration, why) in
        [("soon", "no_integer"), ("5ms", "{leftover_string,\"ms\"}"), ("-1", "{value_negative,-1}")]
    {
        let wrong = BasicProperties { expiration: Some(expiration.as_bytes()), ..BasicProperties::default() };
        client.put_publish(1, "", "q", &properties(wrong), b"").send().await;
        let text = format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {why}");
        client.channel_closes(406, &text, id).await;
    }
    assert_eq!(client.get("q").await, None);
    client.put(1, &basic::Publish { immediate: true, ..publish(b"q") }).send().await;
    client.connection_closes(540, "NOT_IMPLEMENTED - immediate=true", id).await;
}

#[tokio::test]
async fn what_was_sent_is_what_comes() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("q").await;
    let mut headers = TableBuilder::new();
    headers.push(b"b", ValueRef::Binary(&[0xff, 0])).unwrap();
    headers.push(b"a", ValueRef::LongString(b"\xfe")).unwrap();
    headers.push(b"b", ValueRef::Timestamp(u64::MAX)).unwrap();
    headers.push(b"\xff", ValueRef::Void).unwrap();
    let sent = properties(BasicProperties {
        content_type: Some(b"text/plain"),
        headers: Some(headers.as_table()),
        delivery_mode: Some(2),
        priority: Some(255),
        correlation_id: Some(&[0; 255]),
        reply_to: Some(b"q"),
        timestamp: Some(u64::MAX),
        user_id: Some(b"guest"),
        cluster_id: Some(b"k"),
        ..BasicProperties::default()
    });
    let payload: Vec<u8> = (0..=255).collect();
    client.put_publish(1, "", "q", &sent, &payload);
    client.put(1, &basic::Get { queue: b"q", no_ack: true, ..Default::default() }).send().await;
    let ok = basic::GetOk { delivery_tag: 1, routing_key: b"q", ..basic::GetOk::default() };
    client.expect(1, &ok).await;
    assert_eq!(client.content(1).await, (sent, payload.into()));
}

#[tokio::test]
async fn headers_route_and_copies_are_made() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    for name in ["a", "b", "c"] {
        client.queue(name).await;
    }
    let mut match_all = TableBuilder::new();
    match_all.push(b"k", ValueRef::I32(5)).unwrap();
    let bind = queue::Bind {
        queue: b"a",
        exchange: b"amq.headers",
        arguments: match_all.as_table(),
        ..queue::Bind::default()
    };
    client.ask(1, &bind, &queue::BindOk {}).await;
    client.confirm_select().await;
    for (value, routed) in [(ValueRef::U8(5), true), (ValueRef::F64(5.0), false), (ValueRef::I64(6), false)] {
        let mut headers = TableBuilder::new();
        headers.push(b"k", value).unwrap();
        let with = properties(BasicProperties { headers: Some(headers.as_table()), ..Default::default() });
        client.put(1, &basic::Publish { exchange: b"amq.headers", ..publish(b"") });
        let mut out = bytes::BytesMut::new();
        put_content_header(&mut out, 1, 0, Properties::parse(&with).unwrap(), 131_072).unwrap();
        client.put_bytes(&out).send().await;
        client.reply(1).await;
        assert_eq!(client.get("a").await.is_some(), routed, "{value:?}");
    }
    let mut copies = ArrayBuilder::new();
    copies.push(ValueRef::LongString(b"b")).unwrap();
    let mut blind = ArrayBuilder::new();
    blind.push(ValueRef::LongString(b"c")).unwrap();
    blind.push(ValueRef::LongString(b"a")).unwrap();
    let mut headers = TableBuilder::new();
    headers.push(b"BCC", ValueRef::Array(blind.as_array())).unwrap();
    headers.push(b"CC", ValueRef::Array(copies.as_array())).unwrap();
    let with = properties(BasicProperties {
        headers: Some(headers.as_table()),
        app_id: Some(b"x"),
        ..Default::default()
    });
    client.put_publish(1, "", "a", &with, b"copied").send().await;
    client.reply(1).await;
    let mut seen = TableBuilder::new();
    seen.push(b"CC", ValueRef::Array(copies.as_array())).unwrap();
    let seen = properties(BasicProperties {
        headers: Some(seen.as_table()),
        app_id: Some(b"x"),
        ..Default::default()
    });
    for name in ["a", "b", "c"] {
        client.put(1, &basic::Get { queue: name.as_bytes(), ..Default::default() }).send().await;
        client.reply(1).await;
        assert_eq!(client.content(1).await, (seen.clone(), "copied".into()), "{name}");
        assert_eq!(client.get(name).await, None);
    }
    let mut headers = TableBuilder::new();
    headers.push(b"CC", ValueRef::I32(1)).unwrap();
    let with = properties(BasicProperties { headers: Some(headers.as_table()), ..Default::default() });
    client.put_publish(1, "", "a", &with, b"").send().await;
    let text = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",signedint}";
    client.channel_closes(406, text, basic::Publish::ID).await;
}

#[tokio::test]
async fn routes_follow_the_bindings() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("a").await;
    client.queue("b").await;
    let bind = |queue: &'static [u8]| queue::Bind {
        queue,
        exchange: b"amq.direct",
        routing_key: b"k",
        ..queue::Bind::default()
    };
    let unbind =
        queue::Unbind { queue: b"a", exchange: b"amq.direct", routing_key: b"k", ..Default::default() };
    client.ask(1, &bind(b"a"), &queue::BindOk {}).await;
    // Another connection changes what this one has routed by.
    let mut other = server.channel().await;
    other
        .ask(
            1,
            &queue::Declare { queue: b"c", ..Default::default() },
            &queue::DeclareOk { queue: b"c", message_count: 0, consumer_count: 0 },
        )
        .await;
    client.put_publish(1, "amq.direct", "k", &[0, 0], b"1").send().await;
    assert_eq!(client.get("a").await.map(|got| got.2), Some("1".to_owned()));
    client.ask(1, &bind(b"b"), &queue::BindOk {}).await;
    other.ask(1, &bind(b"c"), &queue::BindOk {}).await;
    client.ask(1, &unbind, &queue::UnbindOk {}).await;
    client.put_publish(1, "amq.direct", "k", &[0, 0], b"2").send().await;
    assert_eq!(client.get("a").await, None);
    assert_eq!(client.get("b").await.map(|got| got.2), Some("2".to_owned()));
    assert_eq!(client.get("c").await.map(|got| got.2), Some("2".to_owned()));
}

#[tokio::test]
async fn small_frames_are_kept_to() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.handshake(connection::TuneOk { channel_max: 10, frame_max: 4096, heartbeat: 0 }).await;
    client.open(1).await;
    client.queue("q").await;
    let large = "x".repeat(10_000);
    client.put_publish(1, "", "q", &[0, 0], large.as_bytes()).send().await;
    assert_eq!(client.get("q").await.unwrap().2, large);
    // Put 8 bytes on top, as some clients do, and one more.
    client.put_bytes(&body(1, &[0; 4097])).send().await;
    let text = "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4097,4088}";
    client.connection_closes(501, text, MethodId::NONE).await;
}

#[tokio::test]
async fn bodies_that_no_setting_allows_end_the_connection() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put(1, &publish(b"q")).put_bytes(&header(1, 536_870_913)).send().await;
    let text = "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size 536870912";
    client.connection_closes(501, text, basic::Publish::ID).await;
    let mut client = server.channel().await;
    client.put(1, &publish(b"q")).put_bytes(&header(1, 536_870_912)).send().await;
    let text = "PRECONDITION_FAILED - message size 536870912 is larger than configured max size 16777216";
    client.channel_closes(406, text, basic::Publish::ID).await;
}

#[tokio::test]
async fn heartbeats_have_no_channel() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put_bytes(b"\x08\0\0\0\0\0\0\xce").put_bytes(b"\x08\0\x01\0\0\0\0\xce").send().await;
    let text = "UNEXPECTED_FRAME - type 8, all octets = <<>>";
    client.connection_closes(505, text, MethodId::NONE).await;
}

#[tokio::test]
async fn publishers_and_what_is_routed_are_counted() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    for name in ["a", "b"] {
        client.queue(name).await;
        let bind = queue::Bind { queue: name.as_bytes(), exchange: b"amq.fanout", ..queue::Bind::default() };
        client.ask(1, &bind, &queue::BindOk {}).await;
    }
    client.confirm_select().await;
    let counts = || {
        let counters = &server.context().counters;
        [&counters.routed_total, &counters.publishers_open, &counters.dropped_total]
            .map(|counter| counter.load(std::sync::atomic::Ordering::Relaxed))
    };
    assert_eq!(counts(), [0, 0, 0], "a channel that only declares publishes nothing");
    client.published("a", &["1"]).await;
    let publish = basic::Publish { exchange: b"amq.fanout", ..basic::Publish::default() };
    client.put(1, &publish).put_bytes(&header(1, 0)).send().await;
    client.expect(1, &basic::Ack { delivery_tag: 2, multiple: false }).await;
    assert_eq!(counts(), [3, 1, 0]);
    let nowhere = basic::Publish { routing_key: b"nowhere", ..basic::Publish::default() };
    client.put(1, &nowhere).put_bytes(&header(1, 0)).send().await;
    client.expect(1, &basic::Ack { delivery_tag: 3, multiple: false }).await;
    assert_eq!(counts(), [3, 1, 1]);
    // Of a transaction, what is committed.
    client.open(2).await;
    client.ask(2, &tx::Select {}, &tx::SelectOk {}).await;
    for (end, routed) in [(false, 3), (true, 5)] {
        client.put(2, &publish).put_bytes(&header(2, 0)).send().await;
        match end {
            true => client.ask(2, &tx::Commit {}, &tx::CommitOk {}).await,
            false => client.ask(2, &tx::Rollback {}, &tx::RollbackOk {}).await,
        }
        assert_eq!(counts(), [routed, 2, 1]);
    }
    let close = channel::Close { reply_code: 200, ..channel::Close::default() };
    client.ask(2, &close, &channel::CloseOk {}).await;
    assert_eq!(counts(), [5, 1, 1]);
    client.close().await;
    assert_eq!(counts(), [5, 0, 1]);
}
