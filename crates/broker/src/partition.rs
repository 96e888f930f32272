//! One partition as readers see it: a log, its published bounds, and who is waiting for more.
//!
//! **Invariants.** The high watermark and the log start only rise within an epoch, and the high watermark
//! never exceeds what is durable for the topic's class. Only the owner shard publishes them.
//!
//! Deliberately absent: anything an owner needs to append ([`crate::shard`]).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ferrymq_storage::{BatchHead, Find, LogStore, Pending, Read, Stat, StorageError};
use ferrymq_types::limits::BATCH_BYTES_MAX;
use ferrymq_types::{Epoch, LogId, Offset};

use crate::holds::Holds;
use crate::settings::ConfigCell;
use crate::watch::Watchers;

/// Batches described at a time.
const HEADS_PER_READ: usize = 1024;

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
    /// Whom retention asks before it trims.
    pub holds: Holds,
    epoch: AtomicU32,
    high_watermark: AtomicU64,
    next: AtomicU64,
    log_start: AtomicU64,
    last_append_ms: AtomicI64,
    gone: AtomicBool,
    elsewhere: AtomicBool,
    lost_tail: OnceLock<Box<Range<u64>>>,
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
    /// When it was taken. Nothing in it was appended later.
    pub taken_ms: i64,
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
            holds: Holds::default(),
            epoch: AtomicU32::new(bounds.epoch.0),
            high_watermark: AtomicU64::new(bounds.next.0),
            next: AtomicU64::new(bounds.next.0),
            log_start: AtomicU64::new(bounds.start.0),
            last_append_ms: AtomicI64::new(bounds.taken_ms),
            gone: AtomicBool::new(false),
            elsewhere: AtomicBool::new(false),
            lost_tail: OnceLock::new(),
            store,
        })
    }

    /// Whether another broker owns it, as far as this one knows; nothing of it is served here.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Acquire)
    }

    /// It was never here.
    pub(crate) fn set_elsewhere(&self) {
        self.elsewhere.store(true, Ordering::Release);
    }

    /// It was here.
    pub(crate) fn publish_moved(&self) {
        self.set_elsewhere();
        self.publish_gone();
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

    /// The next offset to be given out. Above the high watermark only after a restart that lost records of a
    /// class that does not survive one, until the next record is there: their offsets are not given out again. A
    /// reader may stand anywhere up to here.
    #[must_use]
    pub fn next(&self) -> Offset {
        Offset(self.next.load(Ordering::Acquire))
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

    /// A time by which the last append had been made durable, in milliseconds since 1970: the append's own, or
    /// that at which the partition was taken. Read it after the high watermark, and it holds for all below that.
    #[must_use]
    pub fn last_append_ms(&self) -> i64 {
        self.last_append_ms.load(Ordering::Acquire)
    }

    pub(crate) fn publish_epoch(&self, epoch: Epoch) {
        self.epoch.fetch_max(epoch.0, Ordering::AcqRel);
    }

    pub(crate) fn publish_next(&self, next: Offset, now_ms: i64) {
        // Before the high watermark: who sees the record must see its time.
        self.last_append_ms.fetch_max(now_ms, Ordering::AcqRel);
        self.next.fetch_max(next.0, Ordering::AcqRel);
        if self.high_watermark.fetch_max(next.0, Ordering::AcqRel) < next.0 {
            self.watchers.notify();
        }
    }

    /// Puts the high watermark behind the last batch that is there, before anybody reads: whoever reads to the end
    /// would wait for what a restart has lost.
    pub(crate) async fn skip_lost_tail(&self) -> Result<(), StorageError> {
        let mut end = self.log_start();
        let last = self.find(Find::TailBytes(BATCH_BYTES_MAX as u64)).await?;
        let mut from = last.map(|head| head.base);
        while let Some(base) = from {
            let heads = self.headers(base, HEADS_PER_READ, 0).await?;
            from = heads.last().map(|head| head.base.plus(u64::from(head.span)));
            end = end.max(from.unwrap_or(end));
        }
        let end = end.min(self.next());
        self.high_watermark.store(end.0, Ordering::Release);
        if end < self.next() {
            // Once, before anybody reads.
            let _first = self.lost_tail.set(Box::new(end.0..self.next().0)).is_ok();
        }
        Ok(())
    }

    /// Offsets at the end that the last restart lost; empty if it lost none. What comes next comes behind them.
    #[must_use]
    pub fn lost_tail(&self) -> Range<u64> {
        self.lost_tail.get().map_or(0..0, |lost| Range::clone(lost))
    }

    pub(crate) fn publish_start(&self, start: Offset) {
        if self.log_start.fetch_max(start.0, Ordering::AcqRel) < start.0 {
            self.watchers.notify();
        }
    }

    /// Asks those who hold records below `start` to let go of them; whether there is anybody to wait for.
    pub(crate) fn ask_holds(&self, start: Offset) -> bool {
        let waits = self.holds.ask(start.0);
        if waits {
            self.watchers.notify();
        }
        waits
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
