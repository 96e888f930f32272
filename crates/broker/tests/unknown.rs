//! Appends of which nobody knows whether they happened: the log is claimed again and goes on from where it ends.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ferrymq_broker::broker::{PendingAppends, Stores};
use ferrymq_broker::{AppendError, AppendItem, Appended, Broker, BrokerOptions, NewTopic, Partition};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{
    BatchHead, Claim, ErrorKind, Find, Group, LogStore, Outcome, Pending, Read, Stat, StorageError,
};
use ferrymq_types::{BatchBuilder, BatchView, LogId, Offset, OwnerId, batch::into_mut};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What becomes of a claim.
enum Fate {
    /// It fails, with no effect.
    Fails(ErrorKind),
    /// It takes effect, and the reply comes when this does.
    Waits(oneshot::Receiver<()>),
}

/// A memory store whose claims can fail and wait.
#[derive(Clone, Default)]
struct Store {
    memory: MemoryStore,
    fates: Arc<Mutex<VecDeque<Fate>>>,
    claimed: Arc<Mutex<Vec<Vec<LogId>>>>,
}

impl LogStore for Store {
    fn atomic_multi_log(&self) -> bool {
        self.memory.atomic_multi_log()
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        self.claimed.lock().push(logs.clone());
        match self.fates.lock().pop_front() {
            None => self.memory.claim(logs, owner),
            Some(Fate::Fails(kind)) => {
                Box::pin(std::future::ready(Err(StorageError::new(kind, "failed as ordered"))))
            }
            Some(Fate::Waits(reply)) => {
                let claims = self.memory.claim(logs, owner);
                Box::pin(async move {
                    reply.await.unwrap();
                    claims.await
                })
            }
        }
    }

    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        self.memory.commit(groups)
    }

    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max: usize,
    ) -> Pending<Result<Read, StorageError>> {
        self.memory.read(log, from, until, max)
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        self.memory.headers(log, from, max, prefix)
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        self.memory.find(log, what)
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        self.memory.stat(log)
    }
}

struct Rig {
    store: Store,
    broker: Arc<Broker>,
    clock: Clock,
}

impl Rig {
    async fn new() -> Rig {
        let (store, clock) = (Store::default(), Clock::starting_at(1_000_000));
        let meta = Arc::new(MemoryMeta::new());
        let stores = Stores { logs: Arc::new(store.clone()), meta: meta.clone(), state: meta };
        let options = BrokerOptions { shards: 1, ..BrokerOptions::default() };
        let opening = Broker::open(stores, options, clock.clone(), Rng::seeded(1), Tasks::new());
        Rig { store, broker: opening.await.unwrap(), clock }
    }

    async fn topic(&self, name: &str) -> Arc<Partition> {
        let new = NewTopic { name: name.to_owned(), partitions: 1, config: BTreeMap::new() };
        let topic = self.broker.create_topic(new).await.unwrap();
        self.store.claimed.lock().clear();
        topic.partitions[0].clone()
    }

    async fn send(&self, partition: &Arc<Partition>, sequence: i32) -> PendingAppends {
        let mut builder = BatchBuilder::new(1_000_000);
        builder.producer(7, 0, sequence);
        builder.push(1_000_000, Some(b"key"), Some(b"value"), &[]);
        let mut bytes = builder.build();
        let header = BatchView::split_from(&mut bytes.clone()).unwrap().header;
        let bytes = into_mut(std::mem::take(&mut bytes));
        self.broker.append(vec![AppendItem { partition: partition.clone(), bytes, header }]).await
    }

    async fn append(&self, partition: &Arc<Partition>, sequence: i32) -> Result<Appended, AppendError> {
        self.send(partition, sequence).await.wait().await.remove(0)
    }

    /// Appends as a client does: again, after a pause, while it is told to try again.
    async fn append_patiently(&self, partition: &Arc<Partition>, sequence: i32) -> Appended {
        for _ in 0..1000 {
            match self.append(partition, sequence).await {
                Err(AppendError::Retry) => self.clock.sleep(Duration::from_millis(10)).await,
                result => return result.unwrap(),
            }
        }
        panic!("the partition never went on");
    }

    fn claims(&self) -> usize {
        self.store.claimed.lock().len()
    }
}

fn is_unknown(result: &Result<Appended, AppendError>) -> bool {
    matches!(result, Err(AppendError::Storage(error)) if error.kind() == ErrorKind::Unknown)
}

/// Whether it happened or not, a retry ends in exactly one record, and what follows goes on behind it.
#[tokio::test(start_paused = true)]
async fn a_retry_after_an_unknown_outcome_appends_once() {
    for applied in [true, false] {
        let rig = Rig::new().await;
        let partition = rig.topic("orders").await;
        rig.append(&partition, 0).await.unwrap();
        let before = partition.epoch();
        let (reply, waits) = oneshot::channel();
        rig.store.fates.lock().push_back(Fate::Waits(waits));
        rig.store.memory.fail_next(ErrorKind::Unknown, applied);
        let unknown = rig.append(&partition, 1).await;
        assert!(is_unknown(&unknown), "{unknown:?}");
        let waiting = rig.append(&partition, 1).await;
        assert!(matches!(waiting, Err(AppendError::Retry)), "{waiting:?}");
        assert_eq!(partition.high_watermark(), Offset(1), "nobody reads what is not known to be durable");
        reply.send(()).unwrap();
        assert_eq!(rig.append_patiently(&partition, 1).await.base, Offset(1), "applied {applied}");
        assert_eq!(rig.append(&partition, 2).await.unwrap().base, Offset(2));
        assert!(partition.epoch() > before, "whoever comes late is fenced");
        assert_eq!(rig.claims(), 1);
        let heads = partition.headers(Offset(0), 10, 0).await.unwrap();
        let bases: Vec<_> = heads.iter().map(|head| head.base.0).collect();
        assert_eq!(bases, [0, 1, 2], "applied {applied}");
    }
}

/// What was sent behind the append and did succeed stays acknowledged, and its offset is not given out again.
#[tokio::test(start_paused = true)]
async fn what_succeeded_behind_an_unknown_outcome_stays() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders").await;
    let hold = rig.store.memory.hold_commits();
    rig.store.memory.fail_next(ErrorKind::Unknown, true);
    let (first, second) = (rig.send(&partition, 0).await, rig.send(&partition, 1).await);
    tokio::task::yield_now().await;
    drop(hold);
    assert!(is_unknown(&first.wait().await[0]));
    assert_eq!(second.wait().await[0].as_ref().unwrap().base, Offset(1));
    assert_eq!(rig.append_patiently(&partition, 2).await.base, Offset(2));
    assert_eq!(rig.append(&partition, 0).await.unwrap().base, Offset(0), "a duplicate is known as one");
    assert_eq!(partition.high_watermark(), Offset(3));
}

/// Claims that fail are made again after growing pauses; other partitions go on meanwhile.
#[tokio::test(start_paused = true)]
async fn claims_are_repeated_with_pauses() {
    let rig = Rig::new().await;
    let (lost, sound) = (rig.topic("lost").await, rig.topic("sound").await);
    for _ in 0..3 {
        rig.store.fates.lock().push_back(Fate::Fails(ErrorKind::Unavailable));
    }
    rig.store.memory.fail_next(ErrorKind::Unknown, false);
    assert!(is_unknown(&rig.append(&lost, 0).await));
    // The first claim is made at once, then after 100, 200 and 400 ms.
    for (claims, pause_ms) in [(1, 90), (1, 9), (2, 2), (2, 190), (3, 20), (3, 370), (4, 30)] {
        rig.clock.sleep(Duration::from_millis(pause_ms)).await;
        assert_eq!(rig.claims(), claims);
        let waiting = rig.append(&lost, 0).await;
        assert_eq!(matches!(waiting, Err(AppendError::Retry)), claims < 4, "{waiting:?}");
    }
    assert_eq!(*rig.store.claimed.lock(), vec![vec![lost.log]; 4]);
    assert_eq!(rig.append(&sound, 0).await.unwrap().base, Offset(0));
}

/// Logs that are lost together are claimed together.
#[tokio::test(start_paused = true)]
async fn one_claim_serves_many_logs() {
    let rig = Rig::new().await;
    let (a, b) = (rig.topic("a").await, rig.topic("b").await);
    let hold = rig.store.memory.hold_commits();
    for _ in 0..2 {
        rig.store.memory.fail_next(ErrorKind::Unknown, true);
    }
    let sent = (rig.send(&a, 0).await, rig.send(&b, 0).await);
    tokio::task::yield_now().await;
    drop(hold);
    assert!(is_unknown(&sent.0.wait().await[0]) && is_unknown(&sent.1.wait().await[0]));
    for partition in [&a, &b] {
        assert_eq!(rig.append_patiently(partition, 1).await.base, Offset(1));
    }
    assert_eq!(*rig.store.claimed.lock(), [vec![a.log, b.log]]);
}

/// A store that has stopped is not asked again, and it is its error that clients see.
#[tokio::test(start_paused = true)]
async fn a_store_that_has_stopped_is_left_alone() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders").await;
    rig.store.memory.fail_next(ErrorKind::Unknown, false);
    let hold = rig.store.memory.hold_commits();
    let sent = rig.send(&partition, 0).await;
    tokio::task::yield_now().await;
    drop(hold);
    rig.store.memory.close();
    assert!(is_unknown(&sent.wait().await[0]));
    rig.clock.sleep(Duration::from_secs(60)).await;
    let refused = rig.append(&partition, 0).await;
    assert!(matches!(&refused, Err(AppendError::Storage(error)) if error.kind() == ErrorKind::Closed));
    assert_eq!(rig.claims(), 1);
}

/// A topic can be deleted while its owner is claiming it again.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_being_claimed_can_be_deleted() {
    let rig = Rig::new().await;
    let partition = rig.topic("orders").await;
    let (reply, waits) = oneshot::channel();
    rig.store.fates.lock().push_back(Fate::Waits(waits));
    rig.store.memory.fail_next(ErrorKind::Unknown, true);
    assert!(is_unknown(&rig.append(&partition, 0).await));
    rig.clock.sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.claims(), 1);
    rig.broker.delete_topic("orders").await.unwrap();
    reply.send(()).unwrap();
    rig.clock.sleep(Duration::from_millis(1)).await;
    let gone = rig.store.memory.stat(partition.log).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let again = rig.topic("orders").await;
    assert_eq!(rig.append(&again, 0).await.unwrap().base, Offset(0));
}
