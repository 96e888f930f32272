//! Retention by time: whose word is taken for how old a record is, and for what time it is.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::{AppendItem, Broker, BrokerOptions, NewTopic, Partition, retention};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_types::{BatchBuilder, BatchView, Offset, batch::into_mut};

const DAY: i64 = 24 * 60 * 60 * 1000;
const START: i64 = 1_000 * DAY;

/// A broker whose clock and store outlive it.
struct Rig {
    stores: Stores,
    broker: Arc<Broker>,
    clock: Clock,
}

impl Rig {
    async fn new() -> Rig {
        let stores = Stores {
            logs: Arc::new(MemoryStore::new()),
            meta: Arc::new(MemoryMeta::new()),
            state: Arc::new(MemoryMeta::new()),
        };
        let clock = Clock::starting_at(START);
        let broker = open(&stores, &clock, false).await;
        Rig { stores, broker, clock }
    }

    /// Starts anew on what is stored.
    async fn restart(&mut self) {
        self.broker = open(&self.stores, &self.clock, false).await;
    }

    /// Starts anew; until then, the system's clock has moved by `by_ms`.
    async fn restart_after(&mut self, by_ms: i64) {
        // A start makes a clock of its own.
        self.clock = Clock::starting_at(self.clock.system_ms() + by_ms);
        self.restart().await;
    }

    async fn topic(&self, name: &str) -> Arc<Partition> {
        let config = BTreeMap::from([("retention.ms".to_owned(), (7 * DAY).to_string())]);
        let new = NewTopic { name: name.to_owned(), partitions: 1, config };
        self.broker.create_topic(new).await.unwrap().partitions[0].clone()
    }

    fn partition(&self, name: &str) -> Arc<Partition> {
        self.broker.topics().partition(name, 0).unwrap()
    }

    /// Appends one record with this timestamp.
    async fn append(&self, name: &str, timestamp: i64) {
        let mut builder = BatchBuilder::new(timestamp);
        builder.push(timestamp, Some(b"key"), Some(b"value"), &[]);
        let bytes = builder.build();
        let header = BatchView::split_from(&mut bytes.clone()).unwrap().header;
        let item = AppendItem { partition: self.partition(name), bytes: into_mut(bytes), header };
        self.broker.append(vec![item]).await.wait().await.remove(0).unwrap();
    }

    /// Where the topic starts after retention looked.
    async fn start_of(&self, name: &str) -> Offset {
        retention::run_once(&self.broker).await;
        self.partition(name).log_start()
    }
}

async fn open(stores: &Stores, clock: &Clock, trust_clock: bool) -> Arc<Broker> {
    // Retention looks when a test says so.
    let retention_interval = Duration::from_secs(1 << 30);
    let options = BrokerOptions { retention_interval, trust_clock, ..Default::default() };
    Broker::open(stores.clone(), options, clock.clone(), Rng::seeded(1), Tasks::new()).await.unwrap()
}

async fn pass(ms: i64) {
    tokio::time::advance(Duration::from_millis(ms.unsigned_abs())).await;
}

/// A record that was just acknowledged stays for `retention.ms`, whatever its timestamp says.
#[tokio::test(start_paused = true)]
async fn a_timestamp_never_deletes_what_was_just_appended() {
    for timestamp in [-1, 0, START - 8 * DAY] {
        let mut rig = Rig::new().await;
        rig.topic("t").await;
        rig.append("t", timestamp).await;
        assert_eq!(rig.start_of("t").await, Offset(0), "timestamp {timestamp}");
        rig.restart().await;
        assert_eq!(rig.start_of("t").await, Offset(0), "timestamp {timestamp}, after a restart");
        rig.append("t", START).await;
        assert_eq!(rig.start_of("t").await, Offset(0), "timestamp {timestamp}, before a younger record");
    }
}

/// Restarts do not postpone: what was known of a record's age before counts after it.
#[tokio::test(start_paused = true)]
async fn restarts_do_not_keep_records_for_longer() {
    let mut rig = Rig::new().await;
    rig.topic("t").await;
    rig.append("t", -1).await;
    for day in 0..7 {
        assert_eq!(rig.start_of("t").await, Offset(0), "day {day}");
        rig.restart().await;
        pass(DAY).await;
    }
    assert_eq!(rig.start_of("t").await, Offset(0), "to the day");
    pass(1).await;
    assert_eq!(rig.start_of("t").await, Offset(1));
}

/// Records without timestamps that keep coming are trimmed too, each when its time has come.
#[tokio::test(start_paused = true)]
async fn a_stream_without_timestamps_does_not_grow_for_ever() {
    let rig = Rig::new().await;
    rig.topic("t").await;
    for hour in 0..24 * 20 {
        rig.append("t", -1).await;
        let kept = hour + 1 - i64::try_from(rig.start_of("t").await.0).unwrap();
        // The sixteenth part of seven days is ten and a half hours.
        assert!(kept <= 24 * 7 + 12, "{kept} hours are kept");
        assert!(hour < 24 * 7 || kept >= 24 * 7, "{kept} hours are kept");
        pass(DAY / 24).await;
    }
}

/// The notes on a deleted topic go with it.
#[tokio::test(start_paused = true)]
async fn a_deleted_topic_leaves_no_marks() {
    let rig = Rig::new().await;
    rig.topic("t").await;
    rig.append("t", -1).await;
    rig.start_of("t").await;
    let marks =
        || async { rig.stores.state.list("appended/", ferrymq_storage::Revision(0)).await.unwrap().entries };
    assert_eq!(marks().await.len(), 1);
    rig.broker.delete_topic("t").await.unwrap();
    retention::run_once(&rig.broker).await;
    assert!(marks().await.is_empty());
}

/// A clock that is wrong for an hour deletes nothing, however far off it is, in a run or from its start.
#[tokio::test(start_paused = true)]
async fn a_clock_ahead_deletes_nothing() {
    for restarted in [false, true] {
        let mut rig = Rig::new().await;
        rig.topic("t").await;
        rig.append("t", START).await;
        assert_eq!(rig.start_of("t").await, Offset(0));
        if restarted {
            rig.restart_after(30 * DAY).await;
        } else {
            rig.clock.step_wall(30 * DAY);
        }
        for _ in 0..12 {
            assert_eq!(rig.start_of("t").await, Offset(0), "restarted: {restarted}");
            pass(DAY / 24 / 12).await;
        }
        rig.clock.step_wall(-30 * DAY);
        pass(6 * DAY).await;
        assert_eq!(rig.start_of("t").await, Offset(0), "restarted: {restarted}, corrected");
        // By then the record is old by a clock that is right, and what was wrong has left nothing behind.
        rig.restart_after(0).await;
        pass(2 * DAY).await;
        assert_eq!(rig.start_of("t").await, Offset(1), "restarted: {restarted}");
    }
}

/// A step that stays is believed after a day: the broker may have been down for that long.
#[tokio::test(start_paused = true)]
async fn a_long_pause_is_believed_after_a_day() {
    let mut rig = Rig::new().await;
    rig.topic("t").await;
    rig.append("t", START).await;
    assert_eq!(rig.start_of("t").await, Offset(0));
    rig.restart_after(30 * DAY).await;
    rig.topic("new").await;
    rig.append("new", -1).await;
    pass(DAY - 1).await;
    assert_eq!(rig.start_of("t").await, Offset(0));
    pass(1).await;
    assert_eq!(rig.start_of("t").await, Offset(1));
    assert_eq!(rig.start_of("new").await, Offset(0), "what was appended meanwhile is young");
    rig.append("t", rig.clock.system_ms()).await;
    assert_eq!(rig.start_of("t").await, Offset(1));
    rig.clock = Clock::starting_at(rig.clock.system_ms() + 30 * DAY);
    rig.broker = open(&rig.stores, &rig.clock, true).await;
    assert_eq!(rig.start_of("t").await, Offset(2), "an operator may say that the clock is right");
}

/// A clock that is set back keeps stamps in order and does not make records seem older.
#[tokio::test(start_paused = true)]
async fn a_clock_set_back_neither_reorders_nor_deletes() {
    let mut rig = Rig::new().await;
    rig.topic("t").await;
    rig.append("t", -1).await;
    let before = rig.clock.wall_ms();
    rig.clock.step_wall(-30 * DAY);
    assert!(rig.clock.wall_ms() >= before);
    rig.append("t", -1).await;
    assert_eq!(rig.start_of("t").await, Offset(0));
    rig.restart_after(0).await;
    assert!(rig.clock.wall_ms() >= before, "also after a restart");
    pass(2 * DAY).await;
    assert_eq!(rig.start_of("t").await, Offset(0));
    rig.clock.step_wall(30 * DAY);
    pass(4 * DAY).await;
    assert_eq!(rig.start_of("t").await, Offset(0), "six days");
}
