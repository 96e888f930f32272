//! What the engine counts, and how it is.
//!
//! **Invariant.** A counter only rises, apart from gauges, which say so.
//!
//! Deliberately absent: names and labels of an exposition format; that is the server's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the sync latency buckets, in microseconds; one more bucket holds the rest.
pub const SYNC_LATENCY_BOUNDS_US: [u64; 12] =
    [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 51_200, 204_800, 1_000_000];

/// Counts since the start. Read with [`Counters::get`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Write groups written.
    pub groups: AtomicU64,
    /// Records in them.
    pub records: AtomicU64,
    /// Bytes of batches accepted.
    pub bytes_appended: AtomicU64,
    /// Of these, bytes that were not written, because they lay in the file already.
    pub bytes_shared: AtomicU64,
    /// Bytes given to the disk, padding, indexes, checkpoints and moves included.
    pub bytes_written: AtomicU64,
    /// Of these, bytes written by the mover.
    pub bytes_moved: AtomicU64,
    /// Syncs of WAL files.
    pub syncs: AtomicU64,
    /// Time spent in them, in microseconds.
    pub sync_time_us: AtomicU64,
    /// Syncs by latency; see [`SYNC_LATENCY_BOUNDS_US`].
    pub sync_latency: [AtomicU64; 13],
    /// Batches served from memory.
    pub reads_from_tail: AtomicU64,
    /// Reads served from files.
    pub reads_from_files: AtomicU64,
    /// Reads that had to wait for the device.
    pub reads_blocking: AtomicU64,
    /// Index parts loaded from files.
    pub index_loads: AtomicU64,
    /// Indexes rebuilt from their data because they were missing or wrong.
    pub index_rebuilds: AtomicU64,
    /// Checkpoints written.
    pub checkpoints: AtomicU64,
    /// Batches that did not verify when read.
    pub corrupt_reads: AtomicU64,
    /// Appends refused because the disk is nearly full.
    pub refused_full: AtomicU64,
    /// Gauge: bytes waiting for the writer.
    pub queue_bytes: AtomicU64,
}

impl Counters {
    /// A counter's value.
    #[must_use]
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn synced(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        Counters::add(&self.syncs, 1);
        Counters::add(&self.sync_time_us, us);
        Counters::add(&self.sync_latency[bucket], 1);
    }
}

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the store stopped taking writes for good; reads go on.
    pub stopped: Option<String>,
    /// Whether appends are refused because the disk is nearly full.
    pub full: bool,
    /// Damage to acknowledged data, oldest first, at most [`DAMAGE_REPORTS_MAX`].
    pub damage: Vec<String>,
    /// Whether the last start followed a clean stop.
    pub clean_start: bool,
    /// Bytes of torn, unacknowledged tail cut off at the last start.
    pub tail_bytes_cut: u64,
}

/// Reports of damage kept.
pub const DAMAGE_REPORTS_MAX: usize = 100;
