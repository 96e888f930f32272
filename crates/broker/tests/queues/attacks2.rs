//! Attacks on where parts meet: policies that count bytes and purges, delayed messages and streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    ApplyTo, ExchangeKind, ExchangeSpec, Message, PolicySort, PolicySpec, Publish, QueueOptions, StreamPlace,
    StreamRecord, Topics, Translate, Value,
};
use ferrymq_broker::{Broker, BrokerOptions};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_types::RecordKey;
use futures_util::FutureExt as _;

use crate::rig::{Rig, VHOST, arguments, exchange, got, int, message, pass, quiet, staged};

/// What came after a purge, while the bytes of before were still being counted, is counted once: within its limit
/// nothing is thrown away.
#[tokio::test(start_paused = true)]
async fn what_comes_after_a_purge_while_bytes_are_counted_is_counted_once() {
    for list in [vec![], vec![("x-max-priority", int(3))]] {
        let (rig, logs) = staged().await;
        let queue = rig.queue_with("q", &list).await;
        rig.publish("q", &["held", "aaaa"]).await;
        let _held = got(&rig, "q").await;
        logs.reads.hold();
        let queues = rig.queues.clone();
        let definition = arguments(&[("max-length-bytes", int(9))]);
        let (name, pattern) = (Arc::from("p"), "q".to_owned());
        let spec = PolicySpec { name, pattern, apply_to: ApplyTo::All, priority: 0, definition };
        let mut setting = Box::pin(queues.set_policy(PolicySort::Policy, VHOST, spec));
        assert!((&mut setting).now_or_never().is_none());
        quiet().await;
        assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 1);
        rig.publish("q", &["bbbb", "cccc"]).await;
        logs.reads.release();
        assert!(setting.await.unwrap());
        assert_eq!(rig.ready(&queue).await, 2, "8 bytes of 9: both were confirmed and fit");
    }
}

/// Counts what goes to streams.
struct Counting(Arc<AtomicUsize>);

impl Translate for Counting {
    fn record(&self, message: &Message, _rule: &RecordKey) -> StreamRecord {
        self.0.fetch_add(1, Ordering::Relaxed);
        StreamRecord { value: Some(message.body.clone()), ..StreamRecord::default() }
    }

    fn message(&self, record: StreamRecord, _: StreamPlace) -> Message {
        Message { body: record.value.unwrap_or_default(), ..Message::default() }
    }

    fn filter_value<'a>(&self, _: &'a StreamRecord) -> Option<&'a [u8]> {
        None
    }
}

/// A delayed message goes to a stream once, however often a queue beside it refuses.
#[tokio::test(start_paused = true)]
async fn a_due_message_goes_to_its_stream_once_while_a_queue_beside_it_refuses() {
    let written = Arc::new(AtomicUsize::new(0));
    let memory = || Arc::new(MemoryMeta::new());
    let stores = Stores { logs: Arc::new(MemoryStore::new()), meta: memory(), state: memory() };
    let (clock, tasks) = (Clock::starting_at(1_000_000), Tasks::new());
    let broker = Broker::open(stores, BrokerOptions::default(), clock, Rng::seeded(1), tasks).await.unwrap();
    let topics = Topics { broker, translate: Arc::new(Counting(written.clone())) };
    let options = QueueOptions { shards: 2, topics: Some(topics), ..QueueOptions::default() };
    let rig = Rig::with_options(MemoryStore::new(), memory(), options).await;
    let list = arguments(&[("x-delayed-type", Value::text("fanout"))]);
    let later = ExchangeSpec { arguments: list, ..exchange("later", ExchangeKind::Delayed) };
    assert!(rig.queues.declare_exchange(&rig.session, VHOST, later).await.unwrap());
    rig.queue_with("s", &[("x-queue-type", Value::text("stream"))]).await;
    let full = [("x-max-length", int(1)), ("x-overflow", Value::text("reject-publish"))];
    let full = rig.queue_with("full", &full).await;
    rig.bind("later", "s", "").await;
    rig.bind("later", "full", "").await;
    rig.publish("full", &["first"]).await;
    let headers = arguments(&[("x-delay", int(100))]);
    let to = rig.queues.route_all(VHOST, "later", &[b""], &headers).unwrap();
    let message = Message { exchange: "later".into(), ..message("", "delayed", true) };
    assert!(rig.queues.publish(vec![Publish { message, to }]).await.await.failed.is_empty());
    for _ in 0..6 {
        pass(500).await;
        for _ in 0..10 {
            quiet().await;
        }
    }
    assert_eq!(written.load(Ordering::Relaxed), 1, "the stream has it already");
    assert_eq!(rig.get("full").await.as_deref(), Some("first"));
    pass(1000).await;
    for _ in 0..10 {
        quiet().await;
    }
    assert_eq!(rig.ready(&full).await, 1, "there is room: it comes");
    assert_eq!(written.load(Ordering::Relaxed), 1, "and to the stream it has come before");
}
