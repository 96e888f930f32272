//! Appends through the owners: order, duplicates, failures of the store and what is taken back.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrymq_broker::broker::{PendingAppends, Stores};
use ferrymq_broker::{AppendError, AppendItem, Appended, Broker, BrokerOptions, NewTopic, Partition};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{ErrorKind, MetaStore as _, Put};
use ferrymq_types::{BatchBuilder, BatchView, Offset, batch::into_mut};

struct Rig {
    store: Arc<MemoryStore>,
    meta: Arc<MemoryMeta>,
    state: Arc<MemoryMeta>,
    broker: Arc<Broker>,
    clock: Clock,
}

impl Rig {
    async fn new() -> Rig {
        let (store, meta, state) =
            (Arc::new(MemoryStore::new()), Arc::new(MemoryMeta::new()), Arc::new(MemoryMeta::new()));
        let clock = Clock::starting_at(1_000_000);
        let broker = open(&store, &meta, &state, &clock).await;
        Rig { store, meta, state, broker, clock }
    }

    async fn restart(&mut self) {
        self.broker = open(&self.store, &self.meta, &self.state, &self.clock).await;
    }

    async fn topic(&self, name: &str, config: &[(&str, &str)]) -> Arc<Partition> {
        let config: BTreeMap<_, _> =
            config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let new = NewTopic { name: name.to_owned(), partitions: 1, config };
        self.broker.create_topic(new).await.unwrap().partitions[0].clone()
    }

    async fn send(&self, partition: &Arc<Partition>, producer: Option<(i64, i16, i32)>) -> PendingAppends {
        let item = item(partition, producer);
        self.broker.append(vec![item]).await
    }

    async fn append(
        &self,
        partition: &Arc<Partition>,
        producer: Option<(i64, i16, i32)>,
    ) -> Result<Appended, AppendError> {
        self.send(partition, producer).await.wait().await.remove(0)
    }
}

async fn open(
    store: &Arc<MemoryStore>,
    meta: &Arc<MemoryMeta>,
    state: &Arc<MemoryMeta>,
    clock: &Clock,
) -> Arc<Broker> {
    let stores = Stores { logs: store.clone(), meta: meta.clone(), state: state.clone() };
    let options = BrokerOptions::default();
    Broker::open(stores, options, clock.clone(), Rng::seeded(1), Tasks::new()).await.unwrap()
}

fn item(partition: &Arc<Partition>, producer: Option<(i64, i16, i32)>) -> AppendItem {
    item_of(partition, producer, b"value")
}

fn item_of(partition: &Arc<Partition>, producer: Option<(i64, i16, i32)>, value: &[u8]) -> AppendItem {
    let mut builder = BatchBuilder::new(1_000_000);
    if let Some((id, epoch, sequence)) = producer {
        builder.producer(id, epoch, sequence);
    }
    builder.push(1_000_000, Some(b"key"), Some(value), &[]);
    let mut bytes = builder.build();
    let header = BatchView::split_from(&mut bytes.clone()).unwrap().header;
    AppendItem { partition: partition.clone(), bytes: into_mut(std::mem::take(&mut bytes)), header }
}

#[tokio::test(start_paused = true)]
async fn offsets_count_up_and_are_read_back() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders", &[]).await;
    for expected in 0..5 {
        assert_eq!(rig.append(&partition, None).await.unwrap().base, Offset(expected));
    }
    assert_eq!(partition.high_watermark(), Offset(5));
    let read = partition.read(Offset(2), Offset::MAX, usize::MAX).await.unwrap();
    assert_eq!(read.next(), Some(Offset(5)));
    let view = BatchView::split_from(&mut read.runs[0].bytes.clone()).unwrap();
    view.verify_crc().unwrap();
    assert_eq!(view.header.base_offset, 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_visible_before_it_is_durable() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders", &[]).await;
    let hold = rig.store.hold_commits();
    let pending = rig.send(&partition, None).await;
    tokio::task::yield_now().await;
    assert_eq!(partition.high_watermark(), Offset(0));
    drop(hold);
    assert_eq!(pending.wait().await[0].as_ref().unwrap().base, Offset(0));
    assert_eq!(partition.high_watermark(), Offset(1));
}

#[tokio::test(start_paused = true)]
async fn duplicates_get_the_first_answer_also_after_a_restart() {
    let mut rig = Rig::new().await;
    let mut partition = rig.topic("orders", &[]).await;
    for sequence in 0..8 {
        rig.append(&partition, Some((7, 0, sequence))).await.unwrap();
    }
    for round in 0..2 {
        let again = rig.append(&partition, Some((7, 0, 5))).await.unwrap();
        assert_eq!(again.base, Offset(5), "round {round}");
        let gap = rig.append(&partition, Some((7, 0, 99))).await.unwrap_err();
        assert!(matches!(gap, AppendError::Producer(_)), "{gap}");
        assert_eq!(partition.high_watermark(), Offset(8));
        rig.restart().await;
        partition = rig.broker.topics().partition("orders", 0).unwrap();
    }
}

/// Trimming the batches of a producer away does not make it a stranger, also not across a restart.
#[tokio::test(start_paused = true)]
async fn a_trimmed_batch_is_still_a_duplicate_after_a_restart() {
    let mut rig = Rig::new().await;
    let partition = rig.topic("orders", &[]).await;
    for sequence in 0..4 {
        rig.append(&partition, Some((7, 0, sequence))).await.unwrap();
    }
    rig.restart().await;
    // Nobody idempotent has written since the start: the owner knows no producers when it trims.
    let partition = rig.broker.topics().partition("orders", 0).unwrap();
    assert_eq!(rig.broker.trim(&partition, Offset(4)).await.unwrap(), Offset(4));
    for _ in 0..2 {
        rig.restart().await;
        let partition = rig.broker.topics().partition("orders", 0).unwrap();
        assert_eq!(rig.append(&partition, Some((7, 0, 3))).await.unwrap().base, Offset(3));
        assert!(matches!(rig.append(&partition, Some((7, 0, 9))).await, Err(AppendError::Producer(_))));
    }
    let partition = rig.broker.topics().partition("orders", 0).unwrap();
    assert_eq!(rig.append(&partition, Some((7, 0, 4))).await.unwrap().base, Offset(4));
}

/// What is known of producers is never guessed: a snapshot that cannot be read keeps the broker from starting.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_newer_version_or_damaged_refuses_the_start() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders", &[]).await;
    rig.append(&partition, Some((7, 0, 0))).await.unwrap();
    rig.broker.trim(&partition, Offset(1)).await.unwrap();
    let key = format!("producers/{}", partition.log);
    let stored = rig.state.get(&key).await.unwrap().unwrap().value;
    let text = String::from_utf8(stored.to_vec()).unwrap();
    let newer = text.replacen("\"v\":1", "\"v\":2", 1);
    assert_ne!(text, newer);
    for bad in [newer.as_str(), "{\"v\":9,\"unheard\":[]}", &text[..text.len() / 2], "", "{}"] {
        let put = Put { key: key.clone(), value: Some(bad.to_owned().into()) };
        rig.state.txn(Vec::new(), vec![put]).await.unwrap();
        let stores = Stores { logs: rig.store.clone(), meta: rig.meta.clone(), state: rig.state.clone() };
        let (options, clock) = (BrokerOptions::default(), rig.clock.clone());
        let opened = Broker::open(stores, options, clock, Rng::seeded(1), Tasks::new()).await;
        let error = opened.err().expect("it must not start").to_string();
        assert!(error.contains(&key) && error.contains("newer FerryMQ"), "{bad}: {error}");
    }
}

/// A failed append takes back its offset and its sequence number, and with it all that was sent behind it.
#[tokio::test(start_paused = true)]
async fn a_failed_append_is_taken_back() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders", &[]).await;
    rig.append(&partition, Some((7, 0, 0))).await.unwrap();
    for kind in [ErrorKind::Full, ErrorKind::Unavailable] {
        rig.store.fail_next(kind, false);
        let (first, second) =
            (rig.send(&partition, Some((7, 0, 1))).await, rig.send(&partition, Some((7, 0, 2))).await);
        let first = first.wait().await.remove(0);
        assert!(matches!(&first, Err(AppendError::Storage(error)) if error.kind() == kind), "{first:?}");
        let second = second.wait().await.remove(0);
        assert!(second.is_err(), "{second:?}");
        assert_eq!(partition.high_watermark(), Offset(1));
    }
    assert_eq!(rig.append(&partition, Some((7, 0, 1))).await.unwrap().base, Offset(1));
    assert_eq!(rig.append(&partition, Some((7, 0, 2))).await.unwrap().base, Offset(2));
}

#[tokio::test(start_paused = true)]
async fn topics_survive_a_restart_and_deleted_ones_do_not() {
    let mut rig = Rig::new().await;
    let kept = rig.topic("kept", &[("retention.ms", "5")]).await;
    rig.append(&kept, None).await.unwrap();
    rig.topic("gone", &[]).await;
    rig.broker.delete_topic("gone").await.unwrap();
    rig.broker.create_partitions("kept", 3).await.unwrap();
    rig.restart().await;
    let names: Vec<_> = rig.broker.topics().all().iter().map(|topic| topic.name.to_string()).collect();
    assert_eq!(names, ["kept"]);
    let topic = rig.broker.topics().get("kept").unwrap();
    assert_eq!(topic.partitions.len(), 3);
    assert_eq!(topic.partitions[0].high_watermark(), Offset(1));
    assert_eq!(topic.config.get().retention_ms, Some(5));
    assert!(topic.partitions[0].epoch() > kept.epoch(), "a new owner has a new epoch");
}

#[tokio::test(start_paused = true)]
async fn retention_trims_by_time_and_by_size() {
    let rig = Rig::new().await;
    let by_time = rig.topic("by-time", &[("retention.ms", "1000")]).await;
    let by_size = rig
        .topic("by-size", &[("retention.bytes", "0"), ("retention.ms", "-1"), ("segment.bytes", "1048576")])
        .await;
    let forever = rig.topic("forever", &[("retention.ms", "-1")]).await;
    for partition in [&by_time, &by_size, &forever] {
        for _ in 0..3 {
            rig.append(partition, None).await.unwrap();
        }
    }
    ferrymq_broker::retention::run_once(&rig.broker).await;
    assert_eq!((by_time.log_start(), by_size.log_start()), (Offset(0), Offset(0)), "too young, too small");
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    for _ in 0..20 {
        let large = item_of(&by_size, None, &[0; 60_000]);
        rig.broker.append(vec![large]).await.wait().await.remove(0).unwrap();
    }
    ferrymq_broker::retention::run_once(&rig.broker).await;
    assert_eq!(by_time.log_start(), Offset(3));
    assert_eq!(by_size.log_start(), Offset(23));
    assert_eq!(forever.log_start(), Offset(0));
}

#[tokio::test(start_paused = true)]
async fn producer_ids_are_never_given_twice() {
    let mut rig = Rig::new().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        for _ in 0..1500 {
            assert!(seen.insert(rig.broker.new_producer_id().await.unwrap()));
        }
        rig.restart().await;
    }
}
