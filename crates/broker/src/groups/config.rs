//! What can be set about groups, with Kafka's defaults where it has any.
//!
//! **Invariant.** Every field has a bound or is one. The names of Kafka's options are in the comments.
//!
//! Deliberately absent: reading it from a file; the composition root does that.

/// Settings of all groups of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupsConfig {
    /// How long the first rebalance of an empty group waits for more members
    /// (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay_ms: u64,
    /// Shortest session timeout a member may ask for (`group.min.session.timeout.ms`).
    pub session_timeout_ms_min: u32,
    /// Longest session timeout a member may ask for (`group.max.session.timeout.ms`).
    pub session_timeout_ms_max: u32,
    /// Members a group may have (`group.max.size`; Kafka's default is unbounded).
    pub group_size_max: usize,
    /// Bytes of members with their subscriptions (at most half) and of assignments a group may have; its
    /// metadata is one record.
    pub group_bytes_max: usize,
    /// Bytes of members with their subscriptions and assignments in all groups together.
    pub all_groups_bytes_max: usize,
    /// How long a new member may wait in a rebalance before it must ask again.
    pub new_member_join_timeout_ms: u64,
    /// How long offsets outlive their group's last member (`offsets.retention.minutes`).
    pub offsets_retention_ms: u64,
    /// How often expired offsets are looked for (`offsets.retention.check.interval.ms`).
    pub retention_check_interval_ms: u64,
    /// Longest metadata string beside an offset (`offset.metadata.max.bytes`).
    pub offset_metadata_max: usize,
    /// A log shorter than this is not rewritten.
    pub rewrite_bytes_min: u64,
    /// A log is rewritten when it is this many times as long as the live state.
    pub rewrite_factor: u64,
    /// Bytes of live state appended again per flush while a log is rewritten.
    pub rewrite_chunk_bytes: usize,
    /// Bytes of requests that may wait per shard.
    pub mailbox_bytes: usize,
    /// First pause before a log is claimed again after a failure; doubles up to 32 times this.
    pub retry_pause_ms: u64,
}

impl Default for GroupsConfig {
    fn default() -> Self {
        GroupsConfig {
            initial_rebalance_delay_ms: 3000,
            session_timeout_ms_min: 6000,
            session_timeout_ms_max: 30 * 60 * 1000,
            group_size_max: 10_000,
            group_bytes_max: 16 * 1024 * 1024,
            all_groups_bytes_max: ferrymq_types::limits::GROUPS_BYTES_MAX,
            new_member_join_timeout_ms: 5 * 60 * 1000,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
            retention_check_interval_ms: 10 * 60 * 1000,
            offset_metadata_max: ferrymq_types::limits::OFFSET_METADATA_BYTES_MAX,
            rewrite_bytes_min: 1024 * 1024,
            rewrite_factor: 4,
            rewrite_chunk_bytes: 256 * 1024,
            mailbox_bytes: 8 * 1024 * 1024,
            retry_pause_ms: 100,
        }
    }
}
