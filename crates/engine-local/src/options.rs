//! What can be set: plain values with defaults, and the bugs a checker can switch on to prove its worth.
//!
//! **Invariant.** No option changes what an acknowledgement means, apart from [`Options::seeded_bug`], which
//! exists so that tests of the tests can see a broken engine and is never reachable from a configuration.
//!
//! Deliberately absent: a switch for fsync.

/// Settings of a [`LocalStore`](crate::LocalStore).
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of a WAL file; one atomic group larger than this gets a larger file. At least 64 KiB.
    pub wal_file_bytes: u64,
    /// Bytes written and synced together, at most, unless one atomic group is larger.
    pub group_bytes_max: usize,
    /// Largest atomic group accepted.
    pub atomic_group_bytes_max: usize,
    /// Bytes that may wait for the writer; beyond, `commit` is refused with `Unavailable`.
    pub queue_bytes_max: usize,
    /// Newest batches kept in memory for readers.
    pub tail_cache_bytes: usize,
    /// Loaded index parts kept in memory.
    pub index_cache_bytes: usize,
    /// Disk space that only what frees space may use.
    pub reserve_bytes: u64,
    /// Bytes of the class `Os` in the log without a sync, at most. Nobody waits for this sync by itself, but what comes next does:
    /// left until the file is full, it took 0.1 to 0.3 s.
    pub unsynced_bytes_max: u64,
    /// Zeros written behind a small group of the log, at most, when what lies there was allocated and never written. File systems
    /// note the first write to each such block, and the sync that follows has to wait for the note: where the block was
    /// written before, it took 0.13 ms instead of 0.35. 0: none.
    pub zeros_ahead_bytes: u64,
    /// How often free space is looked at, at most, in milliseconds.
    pub space_check_interval_ms: u64,
    /// Offsets reserved ahead for batches of the classes `Os` and `Memory`; a crash leaves a gap of as many.
    pub reserve_offsets: u64,
    /// Bytes kept in `quarantine/`, at most.
    pub quarantine_bytes_max: u64,
    /// Sealed WAL files are moved when this many of them wait.
    pub move_files_min: usize,
    /// Files with at least this many live bytes per log stay where they are.
    pub move_extent_bytes_max: u64,
    /// A run file with less than this share of live bytes may be rewritten with the next move.
    pub rewrite_live_percent_max: u64,
    /// Largest run file.
    pub run_file_bytes_max: u64,
    /// Test only: breaks one guarantee.
    pub seeded_bug: Option<SeededBug>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            wal_file_bytes: 128 << 20,
            group_bytes_max: 8 << 20,
            atomic_group_bytes_max: 512 << 20,
            queue_bytes_max: 256 << 20,
            tail_cache_bytes: 32 << 20,
            index_cache_bytes: 16 << 20,
            reserve_bytes: 64 << 20,
            unsynced_bytes_max: 1 << 20,
            zeros_ahead_bytes: 1 << 20,
            space_check_interval_ms: 100,
            reserve_offsets: 1_000_000,
            quarantine_bytes_max: 1 << 30,
            move_files_min: 4,
            move_extent_bytes_max: 4 << 20,
            rewrite_live_percent_max: 30,
            run_file_bytes_max: 2 << 30,
            seeded_bug: None,
        }
    }
}

impl Options {
    /// Small files and caches, so that a test crosses every boundary with few bytes.
    #[must_use]
    pub fn tiny() -> Options {
        Options {
            wal_file_bytes: 64 << 10,
            group_bytes_max: 16 << 10,
            tail_cache_bytes: 0,
            index_cache_bytes: 64 << 10,
            reserve_bytes: 0,
            unsynced_bytes_max: 24 << 10,
            zeros_ahead_bytes: 64 << 10,
            space_check_interval_ms: 0,
            reserve_offsets: 100,
            move_files_min: 2,
            move_extent_bytes_max: 1 << 20,
            ..Options::default()
        }
    }

    pub(crate) fn has(&self, bug: SeededBug) -> bool {
        self.seeded_bug == Some(bug)
    }
}

/// A guarantee to break, for tests that must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeededBug {
    /// Acknowledges after the write, before the sync.
    AckBeforeSync,
    /// Does not sync directories after creating, renaming or removing names.
    SkipDirSync,
    /// Takes a failed sync for a successful one.
    IgnoreSyncError,
    /// Tries a failed sync once more and believes the second answer.
    RetrySync,
    /// Believes an index without checking it and data without checking its crc.
    TrustStaleIndex,
    /// Cuts off at the first damage, also where later groups prove that it was acknowledged.
    TruncateBelowDurable,
    /// Does not compare epoch, owner and next offset.
    SkipFence,
    /// A log that was trimmed empty starts over at its last batch after a restart.
    ReuseOffsetAfterTrim,
    /// Acknowledges an atomic group of which only the first half was written.
    AckGroupPartially,
    /// Does not sync a checkpoint before it replaces the previous one and files are deleted for it.
    ForgetCheckpointSync,
    /// Refers to what lies in the WAL file before.
    ShareAcrossFiles,
}

impl SeededBug {
    /// All of them.
    pub const ALL: [SeededBug; 11] = [
        SeededBug::AckBeforeSync,
        SeededBug::SkipDirSync,
        SeededBug::IgnoreSyncError,
        SeededBug::RetrySync,
        SeededBug::TrustStaleIndex,
        SeededBug::TruncateBelowDurable,
        SeededBug::SkipFence,
        SeededBug::ReuseOffsetAfterTrim,
        SeededBug::AckGroupPartially,
        SeededBug::ForgetCheckpointSync,
        SeededBug::ShareAcrossFiles,
    ];
}
