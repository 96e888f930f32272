//! Opening and closing connections: greeting, login, tuning, virtual hosts, heartbeats, the end.

use std::time::Duration;

use ferrymq_amqp_codec::method::{basic, channel, connection, queue};
use ferrymq_amqp_codec::{Method, MethodId, PROTOCOL_HEADER, Table, TableBuilder, ValueRef, WireMethod as _};

use crate::support::{Client, Server, capable, start_ok, within};

#[tokio::test]
async fn the_greeting_says_what_we_can() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.put_bytes(&PROTOCOL_HEADER).send().await;
    let start = client.reply(0).await;
    let Ok(Method::ConnectionStart(start)) = Method::parse(&start) else { panic!("no start") };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!((start.mechanisms, start.locales), (&b"PLAIN AMQPLAIN"[..], &b"en_US"[..]));
    let text = |name: &str| match start.server_properties.get(name.as_bytes()) {
        Some(ValueRef::LongString(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((text("product"), text("version")), ("RabbitMQ".to_owned(), "4.3.0".to_owned()));
    assert!(text("platform").starts_with("FerryMQ "), "{}", text("platform"));
    assert_eq!(text("cluster_name"), "ferrymq");
    assert!(text("copyright").contains("FerryMQ") && text("information").contains("FerryMQ"));
    // What RabbitMQ 4.3 tells, in its order (`rabbit_reader:server_properties`).
    let told: Vec<_> = start
        .server_properties
        .iter()
        .map(|entry| String::from_utf8_lossy(entry.name()).into_owned())
        .collect();
    let expected =
        ["capabilities", "cluster_name", "copyright", "information", "platform", "product", "version"];
    assert_eq!(told, expected);
    let Some(ValueRef::Table(capabilities)) = start.server_properties.get(b"capabilities") else {
        panic!("no capabilities")
    };
    let all = [
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "exchange_exchange_bindings",
        "connection.blocked",
        "direct_reply_to",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
    ];
    for name in all {
        assert_eq!(capabilities.get(name.as_bytes()), Some(ValueRef::Bool(true)), "{name}");
    }
    assert_eq!(capabilities.iter().count(), all.len());
}

#[tokio::test]
async fn a_client_may_come_over_ipv6() {
    let server = Server::start_at("[::1]:0").await;
    assert!(server.address.is_ipv6());
    // `guest` is let in from this machine, whatever the address is written as.
    let mut client = server.channel().await;
    client.queue("q").await;
    client.confirm_select().await;
    client.published("q", &["over IPv6"]).await;
    assert_eq!(client.get("q").await.unwrap().2, "over IPv6");
    client.close().await;
}

#[tokio::test]
async fn another_product_is_told_if_asked() {
    let server = Server::start_with(|config| config.product = "Other".to_owned()).await;
    let mut client = server.connect().await;
    client.put_bytes(b"AMQP\x01\x01\0\x09").send().await;
    let start = client.reply(0).await;
    let Ok(Method::ConnectionStart(start)) = Method::parse(&start) else { panic!("no start") };
    assert_eq!(start.server_properties.get(b"product"), Some(ValueRef::LongString(b"Other")));
}

async fn greeted(server: &Server) -> Client {
    let mut client = server.connect().await;
    client.put_bytes(&PROTOCOL_HEADER).send().await;
    client.reply(0).await;
    client
}

#[tokio::test]
async fn offers_are_rabbitmqs() {
    let server = Server::start().await;
    let mut client = greeted(&server).await;
    let tune = connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    client.ask(0, &start_ok("PLAIN", b"\0guest\0guest", Table::EMPTY), &tune).await;
    let mut client = greeted(&server).await;
    let mut response = TableBuilder::new();
    response.push(b"LOGIN", ValueRef::LongString(b"guest")).unwrap();
    response.push(b"PASSWORD", ValueRef::LongString(b"guest")).unwrap();
    let login = start_ok("AMQPLAIN", response.as_table().as_bytes(), Table::EMPTY);
    client.ask(0, &login, &tune).await;
}

#[tokio::test]
async fn logins_are_refused_in_the_way_the_client_understands() {
    let server = Server::start().await;
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker \
                logfile.";
    for response in [&b"\0guest\0guess"[..], b"\0root\0guest", b"\0guest\0"] {
        let mut client = greeted(&server).await;
        let properties = capable(&["authentication_failure_close"]);
        client.put(0, &start_ok("PLAIN", response, properties.as_table())).send().await;
        client.connection_closes(403, text, MethodId::NONE).await;
        let mut client = greeted(&server).await;
        client.put(0, &start_ok("PLAIN", response, Table::EMPTY)).send().await;
        assert!(client.frame().await.is_none(), "the socket is closed without a word");
    }
    let mut client = greeted(&server).await;
    client.put(0, &start_ok("EXTERNAL", b"", Table::EMPTY)).send().await;
    let text = "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'";
    client.connection_closes(503, text, connection::StartOk::ID).await;
}

#[tokio::test]
async fn tuning_stays_within_the_offer() {
    let server = Server::start().await;
    let ok = connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
    let cases = [
        (
            connection::TuneOk { frame_max: 4095, ..ok },
            "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)",
        ),
        (
            connection::TuneOk { frame_max: 131_073, ..ok },
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            connection::TuneOk { channel_max: 2048, ..ok },
            "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
        (
            connection::TuneOk { channel_max: 0, ..ok },
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
    ];
    for (tune, text) in cases {
        let mut client = greeted(&server).await;
        client.put(0, &start_ok("PLAIN", b"\0guest\0guest", Table::EMPTY)).send().await;
        client.reply(0).await;
        client.put(0, &tune).send().await;
        client.connection_closes(530, &format!("NOT_ALLOWED - {text}"), connection::Tune::ID).await;
    }
}

#[tokio::test]
async fn virtual_hosts_must_be_there() {
    let server = Server::start().await;
    let mut client = greeted(&server).await;
    client.put(0, &start_ok("PLAIN", b"\0guest\0guest", Table::EMPTY)).send().await;
    client.reply(0).await;
    client.put(0, &connection::TuneOk { channel_max: 7, frame_max: 4096, heartbeat: 0 });
    client.put(0, &connection::Open { virtual_host: b"there", ..connection::Open::default() }).send().await;
    client.connection_closes(530, "NOT_ALLOWED - vhost there not found", connection::Open::ID).await;
}

#[tokio::test]
async fn another_header_is_answered_with_ours() {
    let server = Server::start().await;
    for header in [&b"AMQP\0\x01\0\0"[..], b"AMQP\x03\x01\0\0", b"GET / HTTP/1.1\r\n", &[0x16, 3, 1]] {
        let mut client = server.connect().await;
        client.put_bytes(header).send().await;
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut answer);
        // The socket may be reset for what was not read of a longer greeting.
        let _ = within(read).await;
        assert_eq!(answer, PROTOCOL_HEADER, "{header:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_stands_still_is_ended() {
    let server = Server::start_with(|config| config.handshake_patience = Duration::from_millis(50)).await;
    let mut silent = server.connect().await;
    assert!(silent.frame().await.is_none());
    let mut half = greeted(&server).await;
    assert!(half.frame().await.is_none());
}

#[tokio::test]
async fn a_connection_is_closed_by_the_client() {
    let server = Server::start().await;
    server.channel().await.close().await;
    // Also before it is open.
    greeted(&server).await.close().await;
}

#[tokio::test]
async fn a_stop_tells_every_client() {
    let server = Server::start().await;
    let client = server.channel().await;
    let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
    let (stopped, ()) = tokio::join!(server.stop_door(), client.connection_closes(320, text, MethodId::NONE));
    assert!(stopped);
}

#[tokio::test]
async fn heartbeats_go_both_ways() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.handshake(connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 1 }).await;
    let mut heard = Vec::new();
    // We say nothing: heartbeats come, then the end.
    within(tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut heard)).await.unwrap();
    let beat = ferrymq_amqp_codec::frame::HEARTBEAT;
    assert!(heard.len() >= 2 * beat.len(), "{heard:?}");
    assert!(heard.chunks(beat.len()).all(|chunk| chunk == beat), "{heard:?}");
}

#[tokio::test]
async fn secrets_are_taken_and_other_methods_are_not() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let update = connection::UpdateSecret { new_secret: b"new", reason: b"why not" };
    client.ask(0, &update, &connection::UpdateSecretOk {}).await;
    client.put(0, &connection::Open { virtual_host: b"/", ..connection::Open::default() }).send().await;
    let text = "CHANNEL_ERROR - unexpected method in connection state running";
    client.connection_closes(504, text, connection::Open::ID).await;
    let mut client = server.client().await;
    client.put(0, &channel::Open::default()).send().await;
    client.connection_closes(504, text, channel::Open::ID).await;
}

#[tokio::test]
async fn what_a_connection_had_is_there_for_the_next() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.queue("durable-left").await;
    client.queue("own").await;
    client.confirm_select().await;
    client.published("durable-left", &["a", "b"]).await;
    assert_eq!(client.get("durable-left").await.unwrap().2, "a");
    client.close().await;
    let mut client = server.channel().await;
    assert_eq!(client.get("durable-left").await.unwrap(), (1, true, "a".to_owned()));
    let missing = queue::Declare { queue: b"own", passive: true, ..queue::Declare::default() };
    client.channel_error(&missing, 404, "NOT_FOUND - no queue 'own' in vhost '/'").await;
    // A client that just hangs up.
    drop(client);
    let mut client = server.channel().await;
    let all = basic::Qos { prefetch_count: 2, ..basic::Qos::default() };
    client.ask(1, &all, &basic::QosOk {}).await;
    client.consume("durable-left", "c").await;
    assert_eq!(client.delivery().await.2, "a");
    assert_eq!(client.delivery().await.2, "b");
}
