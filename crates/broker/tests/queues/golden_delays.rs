//! Delayed messages that an earlier program left must come at every later one, as they were.
//!
//! `testdata/delays-1` was copied while its writer was running: what a kill leaves. To write it anew after a deliberate
//! change of what is stored (an ADR and a line in the CHANGELOG): delete it and run this once.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_broker::queues::{ExchangeKind, ExchangeSpec, Message, Publish, Value};

use crate::golden::{Life, found, hold};
use crate::rig::{VHOST, arguments, binding, durable, exchange, int, message};

/// Far more than those that are due need.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that is stored of them, none of it due before it is copied: with more keys, a time to live and a priority,
/// without any, in a far lane, and for a virtual host of its own.
async fn fill(life: &Life) {
    let (queues, session) = (&life.queues, &life.session);
    queues.create_vhost("own").await.unwrap();
    for vhost in [VHOST, "own"] {
        let later = ExchangeSpec {
            arguments: arguments(&[("x-delayed-type", Value::text("topic"))]),
            ..exchange("later", ExchangeKind::Delayed)
        };
        queues.declare_exchange(session, vhost, later).await.unwrap();
        queues.declare_queue(session, vhost, durable("q")).await.unwrap();
        queues.bind(session, vhost, binding("later", "q", "k.#")).await.unwrap();
    }
    let plain = |body: &str| Message { exchange: Bytes::from_static(b"later"), ..message("k.1", body, true) };
    let full = Message {
        routing_key: Bytes::from_static(b"nobody"),
        properties: Bytes::from_static(&[0x10, 0, 2]),
        ttl_ms: Some(1 << 40),
        priority: Some(200),
        ..plain("by its copies")
    };
    let messages: [(&str, Message, &[&[u8]], i64); 5] = [
        (VHOST, plain("soon"), &[b"k.1"], 3_000),
        (VHOST, Message { persistent: false, ..plain("transient") }, &[b"k.1"], 3_001),
        (VHOST, full, &[b"nobody", b"k.2", b"\xff"], 3_002),
        (VHOST, plain("far"), &[b"k.1"], 4_000_000_000),
        ("own", plain("own"), &[b"k.1"], 3_000),
    ];
    for (vhost, message, keys, delay) in messages {
        let headers = arguments(&[("x-delay", int(delay))]);
        let to = queues.route_all(vhost, "later", keys, &headers).unwrap();
        let published = queues.publish(vec![Publish { message, to }]).await.await;
        assert!(published.failed.is_empty(), "{:?}", published.failed);
    }
}

/// What comes, and that nothing else does.
async fn seen(life: &Life) -> String {
    let mut text = String::new();
    for (vhost, count) in [(VHOST, 3), ("own", 1)] {
        let mut all = Vec::new();
        while all.len() < count {
            if let Some(got) = life.queues.get(&life.session, vhost, "q", false).await.unwrap() {
                all.push(format!("{:?}", got.delivery.message));
            }
        }
        all.sort();
        all.iter().for_each(|message| writeln!(text, "{vhost}: {message}").unwrap());
        assert!(life.queues.get(&life.session, vhost, "q", false).await.unwrap().is_none());
    }
    text
}

#[tokio::test]
async fn delayed_messages_of_version_1_come_as_they_were() {
    let (_scratch, life) = found("delays-1", fill).await;
    let text = tokio::time::timeout(PATIENCE, seen(&life)).await.expect("a delayed message did not come");
    hold("delays-1", life, text).await;
}
