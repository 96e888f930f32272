//! A broker's queues over a store, and short ways to use them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Arguments, BindingSpec, Consumer, Credit, Declared, Deliveries, Delivery, DeliverySink, Event,
    ExchangeKind, ExchangeSpec, Got, Message, NewConsumer, NoHeaders, Publish, Published, QueueError,
    QueueHandle, QueueOptions, QueueSpec, QueueStat, Queues, Routed, Session, Settle, Value, Width,
};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::MetaStore;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_types::Offset;

use crate::staged::StagedLogs;

pub(crate) const VHOST: &str = "/";

pub(crate) struct Rig {
    pub(crate) store: MemoryStore,
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) session: Session,
    /// Goes on from where it was when the rig starts again.
    pub(crate) clock: Clock,
    tasks: Tasks,
    options: QueueOptions,
    starts: u64,
}

pub(crate) async fn open(stores: Stores, seed: u64, tasks: &Tasks) -> Arc<Queues> {
    open_with(stores, options(), seed, tasks, &Clock::starting_at(1_000_000)).await
}

fn options() -> QueueOptions {
    QueueOptions { shards: 2, ..QueueOptions::default() }
}

async fn open_with(
    stores: Stores,
    options: QueueOptions,
    seed: u64,
    tasks: &Tasks,
    clock: &Clock,
) -> Arc<Queues> {
    Queues::open(stores, options, clock.clone(), Rng::seeded(seed), tasks.clone()).await.unwrap()
}

impl Rig {
    pub(crate) async fn new() -> Rig {
        Rig::over(MemoryStore::new()).await
    }

    pub(crate) async fn over(store: MemoryStore) -> Rig {
        Rig::with(store, Arc::new(MemoryMeta::new())).await
    }

    pub(crate) async fn with(store: MemoryStore, meta: Arc<dyn MetaStore>) -> Rig {
        Rig::with_options(store, meta, options()).await
    }

    /// With this many bytes of messages ready in memory.
    pub(crate) async fn tight(ready_bytes: usize) -> Rig {
        let options = QueueOptions { ready_bytes, ..options() };
        Rig::with_options(MemoryStore::new(), Arc::new(MemoryMeta::new()), options).await
    }

    /// With mailboxes of this many bytes.
    pub(crate) async fn cramped(mailbox_bytes: usize) -> Rig {
        let options = QueueOptions { mailbox_bytes, ..options() };
        Rig::with_options(MemoryStore::new(), Arc::new(MemoryMeta::new()), options).await
    }

    pub(crate) async fn with_options(
        store: MemoryStore,
        meta: Arc<dyn MetaStore>,
        options: QueueOptions,
    ) -> Rig {
        let (tasks, clock) = (Tasks::new(), Clock::starting_at(1_000_000));
        let stores = Stores { logs: Arc::new(store.clone()), meta: meta.clone(), state: meta.clone() };
        let queues = open_with(stores, options.clone(), 1, &tasks, &clock).await;
        Rig { store, meta, session: queues.session(), queues, clock, tasks, options, starts: 1 }
    }

    /// Starts again, over a staged store of the same logs.
    pub(crate) async fn reopen_over(&mut self, logs: &StagedLogs) {
        let stores = Stores { logs: Arc::new(logs.clone()), ..self.stores() };
        self.queues = open(stores, 9, &Tasks::new()).await;
        self.session = self.queues.session();
    }

    pub(crate) fn stores(&self) -> Stores {
        Stores { logs: Arc::new(self.store.clone()), meta: self.meta.clone(), state: self.meta.clone() }
    }

    /// Stops cleanly and starts again.
    pub(crate) async fn restart(&mut self) {
        assert!(self.tasks.stop_and_wait(Duration::from_secs(60)).await);
        self.start().await;
    }

    /// Starts again while the old one still believes in itself: what a crash leaves is what the store has.
    pub(crate) async fn start(&mut self) {
        self.starts += 1;
        self.tasks = Tasks::new();
        self.clock = Clock::starting_at(self.clock.system_ms());
        let options = self.options.clone();
        self.queues = open_with(self.stores(), options, self.starts, &self.tasks, &self.clock).await;
        self.session = self.queues.session();
    }

    pub(crate) async fn queue(&self, name: &str) -> QueueHandle {
        self.declare(durable(name)).await.queue
    }

    pub(crate) async fn declare(&self, spec: QueueSpec) -> Declared {
        self.queues.declare_queue(&self.session, VHOST, spec).await.unwrap()
    }

    pub(crate) async fn exchange(&self, name: &str, kind: ExchangeKind) {
        assert!(self.queues.declare_exchange(&self.session, VHOST, exchange(name, kind)).await.unwrap());
    }

    pub(crate) async fn bind(&self, source: &str, queue: &str, key: &str) {
        self.queues.bind(&self.session, VHOST, binding(source, queue, key)).await.unwrap();
    }

    pub(crate) fn route(&self, exchange: &str, key: &str) -> Routed {
        self.queues.route(VHOST, exchange, key.as_bytes(), &NoHeaders).unwrap()
    }

    /// The names of the queues that a message goes to.
    pub(crate) fn routed(&self, exchange: &str, key: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.route(exchange, key).queues().iter().map(|queue| queue.name().to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Publishes persistent messages with these bodies to a queue and waits.
    pub(crate) async fn publish(&self, queue: &str, bodies: &[&str]) {
        let published = self.publish_as(queue, bodies, true).await;
        assert!(published.failed.is_empty(), "{:?}", published.failed);
    }

    pub(crate) async fn publish_as(&self, queue: &str, bodies: &[&str], persistent: bool) -> Published {
        self.queues.publish(self.messages(queue, bodies, persistent)).await.await
    }

    pub(crate) fn messages(&self, queue: &str, bodies: &[&str], persistent: bool) -> Vec<Publish> {
        let to = self.route("", queue);
        let publish = |body: &&str| Publish { message: message(queue, body, persistent), to: to.clone() };
        bodies.iter().map(publish).collect()
    }

    pub(crate) async fn consume(&self, queue: &str, credit: Credit, sink: &DeliverySink) -> Consumer {
        self.consume_as(queue, NewConsumer::new(7, credit), sink).await
    }

    pub(crate) async fn consume_as(&self, queue: &str, new: NewConsumer, sink: &DeliverySink) -> Consumer {
        self.queues.consume(&self.session, VHOST, queue, new, sink).await.unwrap()
    }

    pub(crate) async fn settle(&self, queue: &QueueHandle, offsets: &[u64], how: Settle) {
        let what = offsets.iter().map(|offset| (Offset(*offset), how)).collect();
        self.queues.settle(&self.session, queue, what).await;
    }

    /// A durable queue with these arguments.
    pub(crate) async fn queue_with(&self, name: &str, list: &[(&str, Value)]) -> QueueHandle {
        self.declare(QueueSpec { arguments: arguments(list), ..durable(name) }).await.queue
    }

    /// Publishes one persistent message with a time to live.
    pub(crate) async fn publish_for(&self, queue: &str, body: &str, ttl_ms: u64) {
        let message = Message { ttl_ms: Some(ttl_ms), ..message(queue, body, true) };
        let published = self.queues.publish(vec![Publish { message, to: self.route("", queue) }]).await.await;
        assert!(published.failed.is_empty(), "{:?}", published.failed);
    }

    /// How many messages are ready.
    pub(crate) async fn ready(&self, queue: &QueueHandle) -> u64 {
        quiet().await;
        self.stat(queue).await.ready
    }

    /// The body of the first message, which is done with.
    pub(crate) async fn get(&self, queue: &str) -> Option<String> {
        let got = self.queues.get(&self.session, VHOST, queue, true).await.unwrap();
        got.map(|got| body(&got.delivery))
    }

    pub(crate) async fn stat(&self, queue: &QueueHandle) -> QueueStat {
        self.queues.stat(queue).await.unwrap()
    }

    /// Gets everything that is ready, bodies and whether redelivered, without acknowledging.
    pub(crate) async fn get_all(&self, queue: &str) -> Vec<(String, bool)> {
        let mut all = Vec::new();
        while let Some(got) = self.queues.get(&self.session, VHOST, queue, false).await.unwrap() {
            all.push((body(&got.delivery), got.delivery.redelivered));
        }
        all
    }
}

pub(crate) fn durable(name: &str) -> QueueSpec {
    QueueSpec {
        name: Arc::from(name),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Arguments::default(),
    }
}

pub(crate) fn exchange(name: &str, kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec {
        name: Arc::from(name),
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Arguments::default(),
    }
}

pub(crate) fn binding(source: &str, destination: &str, key: &str) -> BindingSpec {
    BindingSpec {
        source: Arc::from(source),
        destination: Arc::from(destination),
        routing_key: Bytes::copy_from_slice(key.as_bytes()),
        arguments: Arguments::default(),
    }
}

pub(crate) fn arguments(list: &[(&str, Value)]) -> Arguments {
    Arguments(list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

pub(crate) fn message(key: &str, body: &str, persistent: bool) -> Message {
    Message {
        exchange: Bytes::new(),
        routing_key: Bytes::copy_from_slice(key.as_bytes()),
        properties: Bytes::from_static(b"properties"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        persistent,
        ..Message::default()
    }
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).unwrap()
}

/// The next `count` deliveries.
pub(crate) async fn take(deliveries: &mut Deliveries, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        match deliveries.recv().await {
            Event::Deliver(more) => all.extend(more),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(all.len(), count, "{all:?}");
    all
}

pub(crate) fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(body).collect()
}

pub(crate) fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.offset.0).collect()
}

/// A number as an argument.
pub(crate) fn int(value: i64) -> Value {
    Value::Int(value, Width::I64)
}

/// Time passes, and what it brings happens.
pub(crate) async fn pass(ms: u64) {
    tokio::time::advance(Duration::from_millis(ms)).await;
    quiet().await;
}

/// A rig whose commits and claims wait for the test's word once they are held.
pub(crate) async fn staged() -> (Rig, StagedLogs) {
    let logs = StagedLogs::default();
    let mut rig = Rig::over(logs.memory.clone()).await;
    rig.reopen_over(&logs).await;
    (rig, logs)
}

/// Takes one message that is there.
pub(crate) async fn got(rig: &Rig, queue: &str) -> Got {
    rig.queues.get(&rig.session, VHOST, queue, false).await.unwrap().expect("a message")
}

/// What a joint commit settles.
pub(crate) type Settles = Vec<(QueueHandle, Vec<(Offset, Settle)>)>;

pub(crate) fn settling(got: &[Got], how: Settle) -> Settles {
    got.iter().map(|got| (got.queue.clone(), vec![(got.delivery.offset, how)])).collect()
}

pub(crate) async fn commit(rig: &Rig, publishes: Vec<Publish>, settles: Settles) -> Result<(), QueueError> {
    rig.queues.commit(&rig.session, publishes, settles).await
}

/// Of a queue without consumers.
pub(crate) fn counts(ready: u64, unacked: u64) -> QueueStat {
    QueueStat { ready, unacked, consumers: 0 }
}

/// Lets everything happen that can without anybody doing anything.
pub(crate) async fn quiet() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
