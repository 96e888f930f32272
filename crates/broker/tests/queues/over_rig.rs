//! A broker's topics and queues over one store, and short ways to use both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Declared, Delivery, Message, Publish, QueueError, QueueHandle, QueueOptions, QueueSpec, QueueStat,
    Queues, Session, Settle, StreamPlace, StreamRecord, Topics, Translate, Value,
};
use ferrymq_broker::{AppendItem, Broker, BrokerOptions, NewTopic, Partition};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::LogStore;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_types::{BatchBuilder, BatchHeader, Compression, LogId, Offset, RecordKey};

use crate::rig::{VHOST, arguments, body, durable};

/// Values as bodies; where a record lies is in the properties.
pub(crate) struct Plain;

impl Translate for Plain {
    fn record(&self, message: &Message, _rule: &RecordKey) -> StreamRecord {
        StreamRecord { value: Some(message.body.clone()), ..StreamRecord::default() }
    }

    fn message(&self, record: StreamRecord, place: StreamPlace) -> Message {
        let at = format!("{}/{}", place.partition.map_or("-".to_owned(), |at| at.to_string()), place.offset);
        let body = record.value.unwrap_or_default();
        Message { body, properties: Bytes::from(at), persistent: true, ..Message::default() }
    }

    fn filter_value<'a>(&self, _: &'a StreamRecord) -> Option<&'a [u8]> {
        None
    }
}

/// One life of both.
pub(crate) struct OverRig {
    pub(crate) stores: Stores,
    pub(crate) broker: Arc<Broker>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) session: Session,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    starts: u64,
}

/// The topics and queues of these stores.
pub(crate) async fn open_both(
    stores: &Stores,
    clock: &Clock,
    seed: u64,
    tasks: &Tasks,
) -> (Arc<Broker>, Arc<Queues>) {
    // Retention looks when a test says so.
    let retention_interval = Duration::from_secs(1 << 30);
    let options = BrokerOptions { retention_interval, ..Default::default() };
    let (rng, clock) = (Rng::seeded(seed), clock.clone());
    let broker =
        Broker::open(stores.clone(), options, clock.clone(), rng.clone(), tasks.clone()).await.unwrap();
    let topics = Some(Topics { broker: broker.clone(), translate: Arc::new(Plain) });
    let options = QueueOptions { shards: 2, topics, ..QueueOptions::default() };
    let queues = Queues::open(stores.clone(), options, clock, rng, tasks.clone()).await.unwrap();
    (broker, queues)
}

impl OverRig {
    pub(crate) async fn new() -> OverRig {
        OverRig::standing_on(Arc::new(MemoryStore::new())).await
    }

    pub(crate) async fn standing_on(logs: Arc<dyn LogStore>) -> OverRig {
        let memory = || Arc::new(MemoryMeta::new());
        let stores = Stores { logs, meta: memory(), state: memory() };
        OverRig::start(stores, Clock::starting_at(1_000_000), 1).await
    }

    /// Stops cleanly and starts again.
    pub(crate) async fn restart(self) -> OverRig {
        let OverRig { stores, broker, queues, session, clock, tasks, starts } = self;
        drop((session, queues, broker));
        assert!(tasks.stop_and_wait(Duration::from_secs(60)).await);
        OverRig::start(stores, clock, starts + 1).await
    }

    /// Starts again on what the store has, while the old ones still believe in themselves.
    pub(crate) async fn crash(self) -> OverRig {
        OverRig::start(self.stores, self.clock, self.starts + 1).await
    }

    async fn start(stores: Stores, clock: Clock, starts: u64) -> OverRig {
        let (tasks, clock) = (Tasks::new(), Clock::starting_at(clock.system_ms()));
        let (broker, queues) = open_both(&stores, &clock, starts, &tasks).await;
        OverRig { stores, broker, session: queues.session(), queues, clock, tasks, starts }
    }

    pub(crate) async fn topic(&self, name: &str, partitions: u32, config: &[(&str, &str)]) {
        let config: BTreeMap<String, String> =
            config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let new = NewTopic { name: name.to_owned(), partitions, config };
        self.broker.create_topic(new).await.unwrap();
    }

    pub(crate) fn partition(&self, topic: &str, index: i32) -> Arc<Partition> {
        self.broker.topics().partition(topic, index).unwrap()
    }

    /// Appends one batch, as a Kafka client does.
    pub(crate) async fn produce(&self, topic: &str, index: i32, values: &[&str]) {
        self.produce_as(topic, index, values, Compression::None).await;
    }

    pub(crate) async fn produce_as(
        &self,
        topic: &str,
        index: i32,
        values: &[&str],
        compression: Compression,
    ) {
        let partition = self.partition(topic, index);
        let now = self.clock.wall_ms();
        let mut builder = BatchBuilder::new(now);
        for value in values {
            builder.push(now, None, Some(value.as_bytes()), &[]);
        }
        let bytes = match compression {
            Compression::None => builder.build(),
            _ => builder
                .build_compressed(compression, |raw| ferrymq_compress::compress(compression, raw))
                .unwrap(),
        };
        self.append(partition, bytes).await;
    }

    /// Appends a batch of which nobody can read a record.
    pub(crate) async fn produce_rubbish(&self, topic: &str, index: i32, count: u8) {
        let now = self.clock.wall_ms();
        let mut builder = BatchBuilder::new(now);
        (0..count).for_each(|at| {
            builder.push(now, None, Some(&[at]), &[]);
        });
        let rubbish = |_: &[u8]| Ok::<_, std::io::Error>(vec![0xff; 50]);
        let bytes = builder.build_compressed(Compression::Zstd, rubbish).unwrap();
        self.append(self.partition(topic, index), bytes).await;
    }

    async fn append(&self, partition: Arc<Partition>, bytes: Bytes) {
        let bytes = BytesMut::from(&bytes[..]);
        let header = BatchHeader::decode(&bytes).unwrap();
        let pending = self.broker.append(vec![AppendItem { partition, bytes, header }]).await;
        pending.wait().await.pop().unwrap().unwrap();
    }

    pub(crate) async fn try_declare(
        &self,
        name: &str,
        topic: &str,
        list: &[(&str, Value)],
    ) -> Result<Declared, QueueError> {
        let list = [&[("x-kafka-topic", Value::text(topic))], list].concat();
        let spec = QueueSpec { arguments: arguments(&list), ..durable(name) };
        self.queues.declare_queue(&self.session, VHOST, spec).await
    }

    pub(crate) async fn over(&self, name: &str, topic: &str, list: &[(&str, Value)]) -> QueueHandle {
        self.try_declare(name, topic, list).await.unwrap().queue
    }

    pub(crate) async fn queue(&self, name: &str) -> QueueHandle {
        self.queues.declare_queue(&self.session, VHOST, durable(name)).await.unwrap().queue
    }

    /// Takes one message, to be settled.
    pub(crate) async fn take(&self, queue: &str) -> Option<Delivery> {
        let got = self.queues.get(&self.session, VHOST, queue, false).await.unwrap();
        got.map(|got| got.delivery)
    }

    /// Takes as many as there are: bodies, and whether redelivered.
    pub(crate) async fn take_all(&self, queue: &str) -> Vec<(String, bool)> {
        let mut all = Vec::new();
        while let Some(delivery) = self.take(queue).await {
            all.push((body(&delivery), delivery.redelivered));
        }
        all
    }

    pub(crate) async fn settle(&self, queue: &QueueHandle, deliveries: &[&Delivery], how: Settle) {
        let what = deliveries.iter().map(|delivery| (delivery.offset, how)).collect();
        self.queues.settle(&self.session, queue, what).await;
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, text: &str) {
        let to =
            self.queues.route(VHOST, exchange, key.as_bytes(), &ferrymq_broker::queues::NoHeaders).unwrap();
        let message = crate::rig::message(key, text, true);
        let published = self.queues.publish(vec![Publish { message, to }]).await.await;
        assert!(published.failed.is_empty(), "{:?}", published.failed);
    }

    pub(crate) async fn stat(&self, queue: &QueueHandle) -> QueueStat {
        self.queues.stat(queue).await.unwrap()
    }

    /// Waits until what was settled before is durable: a durable write of the same shard behind it.
    pub(crate) async fn acks_are_durable(&self, queue: &QueueHandle) {
        let empty = format!("purged-{}", queue.name());
        // A purge answers when it is durable; one of each shard.
        for at in 0..4 {
            let name = format!("{empty}-{at}");
            self.queue(&name).await;
            self.publish("", &name, "x").await;
            self.queues.purge(&self.session, VHOST, &name).await.unwrap();
        }
    }

    /// Moves the start of a partition, as a client that deletes records does.
    pub(crate) async fn trim(&self, topic: &str, index: i32, start: u64) {
        let partition = self.partition(topic, index);
        self.broker.trim(&partition, Offset(start)).await.unwrap();
    }

    /// The numbers under which a queue's acks stand are no logs of the store.
    pub(crate) async fn has_no_log(&self, queue: &QueueHandle) {
        let stat = self.stores.logs.stat(LogId(queue.log().0)).await;
        assert!(stat.is_err(), "there is a log {:?}: {stat:?}", queue.log());
    }
}

/// The bodies without marks.
pub(crate) fn texts(all: &[(String, bool)]) -> Vec<&str> {
    all.iter().map(|(text, _)| &**text).collect()
}

/// Bodies of which none was delivered before.
pub(crate) fn fresh(list: &[&str]) -> Vec<(String, bool)> {
    list.iter().map(|text| ((*text).to_owned(), false)).collect()
}
