//! One partition as readers see it: a log, its published bounds, and who is waiting for more.
//!
//! **Invariants.** The high watermark and the log start only rise within an epoch, and the high watermark
//! never exceeds what is durable for the topic's class. Only the owner shard publishes them.
//!
//! Deliberately absent: anything an owner needs to append ([`crate::shard`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use ferrymq_storage::{BatchHead, Find, LogStore, Pending, Read, Stat, StorageError};
use ferrymq_types::{Epoch, LogId, Offset};

use crate::settings::ConfigCell;
use crate::watch::Watchers;

/// A partition of a topic.
pub struct Partition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Its index in the topic.
    pub index: u32,
    /// The log that holds it.
    pub log: LogId,
    /// The topic's configuration, shared by its partitions and replaced as a whole.
    pub config: Arc<ConfigCell>,
    /// Who waits for new records.
    pub watchers: Watchers,
    epoch: AtomicU32,
    high_watermark: AtomicU64,
    log_start: AtomicU64,
    last_append_ms: AtomicI64,
    gone: AtomicBool,
    store: Arc<dyn LogStore>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{} (log {})", self.topic, self.index, self.log)
    }
}

/// Where a partition stands when it is taken.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The owner's epoch.
    pub epoch: Epoch,
    /// First readable offset.
    pub start: Offset,
    /// Next offset.
    pub next: Offset,
}

impl Partition {
    /// A partition whose log was claimed and stands at `bounds`.
    #[must_use]
    pub fn new(
        topic: Arc<str>,
        index: u32,
        log: LogId,
        config: Arc<ConfigCell>,
        bounds: Bounds,
        store: Arc<dyn LogStore>,
    ) -> Arc<Partition> {
        Arc::new(Partition {
            topic,
            index,
            log,
            config,
            watchers: Watchers::default(),
            epoch: AtomicU32::new(bounds.epoch.0),
            high_watermark: AtomicU64::new(bounds.next.0),
            log_start: AtomicU64::new(bounds.start.0),
            last_append_ms: AtomicI64::new(i64::MIN),
            gone: AtomicBool::new(false),
            store,
        })
    }

    /// The epoch in force.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// Kafka's leader epoch: 0 for a new partition.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        self.epoch().leader_epoch()
    }

    /// The offset behind the last record that may be read.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// The offset below which transactions are decided. Without transactions: the high watermark.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark()
    }

    /// The first offset that may be read.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Whether the topic was deleted.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// When the last append was made durable, in milliseconds since 1970; `i64::MIN` if not since start.
    #[must_use]
    pub fn last_append_ms(&self) -> i64 {
        self.last_append_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn publish_epoch(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::AcqRel);
    }

    pub(crate) fn publish_next(&self, next: Offset, now_ms: i64) {
        self.last_append_ms.store(now_ms, Ordering::Relaxed);
        if self.high_watermark.fetch_max(next.0, Ordering::AcqRel) < next.0 {
            self.watchers.notify();
        }
    }

    pub(crate) fn publish_start(&self, start: Offset) {
        if self.log_start.fetch_max(start.0, Ordering::AcqRel) < start.0 {
            self.watchers.notify();
        }
    }

    pub(crate) fn publish_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.watchers.notify();
    }

    /// Reads whole batches from the one that holds `from`, none at or behind `until`.
    pub fn read(&self, from: Offset, until: Offset, bytes_max: usize) -> Pending<Result<Read, StorageError>> {
        self.store.read(self.log, from, until.min(self.high_watermark()), bytes_max)
    }

    /// Finds a batch by time or size.
    pub fn find(&self, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        self.store.find(self.log, what)
    }

    /// Describes batches from `from` on.
    pub fn headers(
        &self,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        self.store.headers(self.log, from, max, prefix)
    }

    /// The log's bounds and size as the engine has them.
    pub fn stat(&self) -> Pending<Result<Stat, StorageError>> {
        self.store.stat(self.log)
    }
}
