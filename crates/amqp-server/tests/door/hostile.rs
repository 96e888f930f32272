//! Bytes that no honest client sends: the right code, bounded memory, and everybody else untouched.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_amqp_codec::frame_writer::frame_head;
use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_amqp_codec::{FrameKind, MethodId, WireMethod as _};

use crate::support::{Server, within};

/// A frame with any payload.
fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame =
        frame_head(FrameKind::Method, channel, u32::try_from(payload.len()).expect("a frame")).to_vec();
    frame[0] = kind;
    frame.extend_from_slice(payload);
    frame.push(0xce);
    frame
}

#[tokio::test]
async fn frames_that_are_none() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put_bytes(&frame(9, 1, b"what")).send().await;
    client
        .connection_closes(501, "FRAME_ERROR - type 9, all octets = <<>>: unknown_frame", MethodId::NONE)
        .await;
    let mut client = server.channel().await;
    let mut wrong_end = frame(1, 1, b"what");
    *wrong_end.last_mut().unwrap() = 7;
    client.put_bytes(&wrong_end).send().await;
    let text = "FRAME_ERROR - type 1, all octets = <<\"what\">>: {invalid_frame_end_marker,7}";
    client.connection_closes(501, text, MethodId::NONE).await;
    let mut client = server.channel().await;
    client.put_bytes(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff]).send().await;
    let text = "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4294967295,131064}";
    client.connection_closes(501, text, MethodId::NONE).await;
    let mut client = server.channel().await;
    client.put_bytes(&frame(8, 3, b"")).send().await;
    client.connection_closes(505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", MethodId::NONE).await;
}

#[tokio::test]
async fn methods_that_are_none() {
    let server = Server::start().await;
    let mut client = server.channel().await;
    client.put_bytes(&frame(1, 1, &[0, 60, 0, 99])).send().await;
    let id = MethodId { class: 60, method: 99 };
    client.connection_closes(540, "NOT_IMPLEMENTED - unknown method: class 60, method 99", id).await;
    let mut client = server.channel().await;
    client.put_bytes(&frame(1, 1, &[0, 50, 0, 10, 0])).send().await;
    let text = "FRAME_ERROR - cannot decode: the payload ends inside a field";
    client.connection_closes(501, text, queue::Declare::ID).await;
    // A table inside of a table inside of ...
    let mut client = server.channel().await;
    let mut table = Vec::new();
    for _ in 0..200 {
        let mut outer = vec![1, b'a', b'F'];
        outer.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
        outer.extend_from_slice(&table);
        table = outer;
    }
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    payload.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
    payload.extend_from_slice(&table);
    client.put_bytes(&frame(1, 1, &payload)).send().await;
    let text = "SYNTAX_ERROR - field table: nested too deeply";
    client.connection_closes(502, text, queue::Declare::ID).await;
}

#[tokio::test]
async fn what_came_before_the_mistake_counts() {
    let server = Server::start().await;
    let mut other = server.channel().await;
    let declare = queue::Declare { queue: b"kept", auto_delete: true, ..Default::default() };
    let ok = |message_count| queue::DeclareOk { queue: b"kept", message_count, consumer_count: 0 };
    other.ask(1, &declare, &ok(0)).await;
    let mut client = server.channel().await;
    client.confirm_select().await;
    client.put_publish(1, "", "kept", &[0, 0], b"first").put_bytes(b"garbage").send().await;
    // The confirm may or may not have left before the end.
    while client.frame().await.is_some() {}
    other.ask(1, &declare, &ok(1)).await;
}

#[tokio::test]
async fn half_frames_and_hangups_leave_nothing() {
    let server = Server::start().await;
    let mut witness = server.channel().await;
    witness.queue("q").await;
    for cut in 0..120 {
        let mut client = server.channel().await;
        client.put_publish(1, "amq.fanout", "key", &[0, 0], &[7; 60]);
        client.put(1, &basic::Qos { prefetch_count: 3, ..Default::default() });
        let mut bytes = Vec::new();
        // The same bytes, cut anywhere.
        let publish = basic::Publish { exchange: b"amq.fanout", ..Default::default() };
        let mut out = bytes::BytesMut::new();
        ferrymq_amqp_codec::frame_writer::put_message(
            &mut out,
            1,
            &publish,
            ferrymq_amqp_codec::Properties::EMPTY,
            &[7; 60],
            4096,
        )
        .unwrap();
        bytes.extend_from_slice(&out[..cut.min(out.len())]);
        tokio::io::AsyncWriteExt::write_all(&mut client.stream, &bytes).await.unwrap();
        drop(client);
    }
    assert_eq!(witness.get("q").await, None);
    // All of them end.
    let open = || server.context().counters.connections_open.load(Ordering::Relaxed);
    within(async {
        while open() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_and_others_are_served() {
    let server = Server::start_with(|config| config.patience = Duration::from_millis(300)).await;
    let mut witness = server.channel().await;
    witness.queue("q").await;
    let mut deaf = server.channel().await;
    let declare = queue::Declare { queue: b"big", auto_delete: true, ..Default::default() };
    let ok = queue::DeclareOk { queue: b"big", message_count: 0, consumer_count: 0 };
    deaf.ask(1, &declare, &ok).await;
    deaf.put(1, &basic::Consume { queue: b"big", no_ack: true, ..Default::default() }).send().await;
    let body = vec![7; 1_000_000];
    for _ in 0..40 {
        witness.put_publish(1, "", "big", &[0, 0], &body).send().await;
    }
    let open = || server.context().counters.connections_open.load(Ordering::Relaxed);
    within(async {
        while open() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    witness.put_publish(1, "", "q", &[0, 0], b"still here").send().await;
    assert_eq!(witness.get("q").await.unwrap().2, "still here");
}

#[tokio::test]
async fn a_client_that_asks_and_never_reads_is_not_read_on() {
    let server = Server::start_with(|config| config.patience = Duration::from_secs(2)).await;
    let mut client = server.channel().await;
    // Each is answered; nobody reads the answers. In the end the server hangs up.
    within(async {
        loop {
            for _ in 0..20_000 {
                client.put(1, &basic::Qos::default());
            }
            if !client.try_send().await {
                return;
            }
        }
    })
    .await;
    // What the sockets hold of the answers, and not what could be read in the meantime.
    let read = server.context().counters.bytes_in_total.load(Ordering::Relaxed);
    assert!(read > 0 && read < 32 * 1024 * 1024, "{read}");
}

#[tokio::test]
async fn unfinished_bodies_do_not_add_up() {
    let server = Server::start().await;
    let mut client = server.client().await;
    // Sixteen megabytes less one byte on each channel, none of them finished.
    let size: u64 = 16 * 1024 * 1024;
    let part = frame(3, 1, &vec![0; 131_000]);
    for channel in 1..=3u16 {
        client.open(channel).await;
        client.put(channel, &basic::Publish::default());
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&size.to_be_bytes());
        header.extend_from_slice(&[0, 0]);
        client.put_bytes(&frame(2, channel, &header)).send().await;
        for _ in 0..(size / 131_000) {
            let mut part = part.clone();
            part[2] = u8::try_from(channel).unwrap();
            client.put_bytes(&part);
            if !client.try_send().await {
                break;
            }
        }
    }
    let text = "RESOURCE_ERROR - unfinished messages of a connection hold more than 33554432 bytes";
    client.connection_closes(506, text, MethodId::NONE).await;
}
