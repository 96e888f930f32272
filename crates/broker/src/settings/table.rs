//! The table of topic settings: Kafka 4.2's names, defaults and ranges, and ours.
//!
//! **Invariant.** Sorted by name, so that listings are stable.

use super::{BATCH_BYTES_MAX_AS_LONG, Effect, Kind, SEGMENT_BYTES_MIN, Setting};

/// The setting called `name`.
#[must_use]
pub fn topic_setting(name: &str) -> Option<&'static Setting> {
    TOPIC_SETTINGS.binary_search_by(|setting| setting.name.cmp(name)).ok().map(|index| &TOPIC_SETTINGS[index])
}

const fn honoured(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    server_synonym: &'static str,
    doc: &'static str,
) -> Setting {
    let effect = Effect::Honoured;
    Setting { name, kind, default, effect, server_synonym: Some(server_synonym), doc }
}

const fn inherent(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    server_synonym: Option<&'static str>,
    doc: &'static str,
) -> Setting {
    Setting { name, kind, default, effect: Effect::Inherent, server_synonym, doc }
}

const fn default_only(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    server_synonym: Option<&'static str>,
    why: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { name, kind, default, effect: Effect::DefaultOnly(why), server_synonym, doc }
}

const ANY_LONG: Kind = Kind::Long { min: 0, max: i64::MAX };
const FROM_MINUS_ONE: Kind = Kind::Long { min: -1, max: i64::MAX };
const NO_COMPACTION: &str = "log compaction is not supported yet; only cleanup.policy=delete is";
const NO_TIERING: &str = "tiered storage is not supported";
const NO_RECOMPRESSION: &str =
    "batches are stored as the producer compressed them; only the default is supported";
const NO_REPLICATION: &str = "replication throttles do not apply: brokers do not replicate among themselves";

/// Every topic setting, sorted by name.
pub const TOPIC_SETTINGS: &[Setting] = &[
    default_only(
        "cleanup.policy",
        Kind::ListOf(&["compact", "delete"]),
        "delete",
        Some("log.cleanup.policy"),
        NO_COMPACTION,
        "What happens to old records: delete discards them by time or size.",
    ),
    default_only(
        "compression.gzip.level",
        Kind::Int { min: -1, max: 9 },
        "-1",
        Some("compression.gzip.level"),
        NO_RECOMPRESSION,
        "The level for gzip when the broker compresses.",
    ),
    default_only(
        "compression.lz4.level",
        Kind::Int { min: 1, max: 17 },
        "9",
        Some("compression.lz4.level"),
        NO_RECOMPRESSION,
        "The level for lz4 when the broker compresses.",
    ),
    default_only(
        "compression.type",
        Kind::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "producer",
        Some("compression.type"),
        NO_RECOMPRESSION,
        "How stored batches are compressed: producer keeps what the producer chose.",
    ),
    default_only(
        "compression.zstd.level",
        Kind::Int { min: -131_072, max: 22 },
        "3",
        Some("compression.zstd.level"),
        NO_RECOMPRESSION,
        "The level for zstd when the broker compresses.",
    ),
    default_only(
        "delete.retention.ms",
        ANY_LONG,
        "86400000",
        Some("log.cleaner.delete.retention.ms"),
        NO_COMPACTION,
        "How long compacted topics keep delete markers, in milliseconds.",
    ),
    Setting {
        name: "ferrymq.durability",
        kind: Kind::OneOf(&["sync", "os", "memory"]),
        default: "sync",
        effect: Effect::Honoured,
        server_synonym: Some("ferrymq.durability"),
        doc: "When a record is acknowledged: sync after it is on disk, os once the operating system has it, \
              memory without ever being read back after a restart.",
    },
    Setting {
        name: "ferrymq.record.key",
        kind: Kind::RecordKey,
        default: "routing_key",
        effect: Effect::Honoured,
        server_synonym: Some("ferrymq.record.key"),
        doc: "What is the key of a record that was published over AMQP: its routing_key (none if it was published to the \
              default exchange), header:NAME, its correlation_id or none. A message's own header x-kafka-key counts more.",
    },
    inherent(
        "file.delete.delay.ms",
        ANY_LONG,
        "60000",
        Some("log.segment.delete.delay.ms"),
        "How long to wait before a file is removed, in milliseconds. Files still being read are kept for as \
         long as it takes, so no delay is needed.",
    ),
    inherent(
        "flush.messages",
        Kind::Long { min: 1, max: i64::MAX },
        "9223372036854775807",
        Some("log.flush.interval.messages"),
        "Force a sync after this many messages. With durability sync every acknowledged record is synced; with \
         another, only the default is accepted.",
    ),
    inherent(
        "flush.ms",
        ANY_LONG,
        "9223372036854775807",
        Some("log.flush.interval.ms"),
        "Force a sync after this many milliseconds. With durability sync every acknowledged record is synced; with \
         another, only the default is accepted.",
    ),
    default_only(
        "follower.replication.throttled.replicas",
        Kind::List,
        "",
        None,
        NO_REPLICATION,
        "Replicas throttled on the follower side.",
    ),
    inherent(
        "index.interval.bytes",
        Kind::Int { min: 0, max: i32::MAX as i64 },
        "4096",
        Some("log.index.interval.bytes"),
        "How often the offset index gets an entry. The index here holds every batch.",
    ),
    default_only(
        "leader.replication.throttled.replicas",
        Kind::List,
        "",
        None,
        NO_REPLICATION,
        "Replicas throttled on the leader side.",
    ),
    default_only(
        "local.retention.bytes",
        Kind::Long { min: -2, max: i64::MAX },
        "-2",
        Some("log.local.retention.bytes"),
        NO_TIERING,
        "Most local bytes kept of a tiered partition.",
    ),
    default_only(
        "local.retention.ms",
        Kind::Long { min: -2, max: i64::MAX },
        "-2",
        Some("log.local.retention.ms"),
        NO_TIERING,
        "Longest a record of a tiered partition is kept locally.",
    ),
    default_only(
        "max.compaction.lag.ms",
        Kind::Long { min: 1, max: i64::MAX },
        "9223372036854775807",
        Some("log.cleaner.max.compaction.lag.ms"),
        NO_COMPACTION,
        "Longest a record stays uncompacted.",
    ),
    honoured(
        "max.message.bytes",
        Kind::Int { min: 0, max: BATCH_BYTES_MAX_AS_LONG },
        "1048588",
        "message.max.bytes",
        "The largest record batch accepted, in bytes, after compression.",
    ),
    honoured(
        "message.timestamp.after.max.ms",
        ANY_LONG,
        "3600000",
        "log.message.timestamp.after.max.ms",
        "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds.",
    ),
    honoured(
        "message.timestamp.before.max.ms",
        ANY_LONG,
        "9223372036854775807",
        "log.message.timestamp.before.max.ms",
        "How far a record's timestamp may lie behind the broker's clock, in milliseconds.",
    ),
    honoured(
        "message.timestamp.type",
        Kind::OneOf(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "log.message.timestamp.type",
        "Whose clock a record's timestamp is: the producer's or the broker's at append.",
    ),
    default_only(
        "min.cleanable.dirty.ratio",
        Kind::Ratio,
        "0.5",
        Some("log.cleaner.min.cleanable.ratio"),
        NO_COMPACTION,
        "How much of a log must be uncompacted before it is compacted.",
    ),
    default_only(
        "min.compaction.lag.ms",
        ANY_LONG,
        "0",
        Some("log.cleaner.min.compaction.lag.ms"),
        NO_COMPACTION,
        "Shortest a record stays uncompacted.",
    ),
    inherent(
        "min.insync.replicas",
        Kind::Int { min: 1, max: i32::MAX as i64 },
        "1",
        Some("min.insync.replicas"),
        "How many replicas must have a record before it is acknowledged. Copies are the store's: a record is \
         acknowledged once the store has made it durable, with acks=1 and acks=all alike. A server with \
         strict-replication-factor accepts 1 only.",
    ),
    inherent(
        "preallocate",
        Kind::Bool,
        "false",
        Some("log.preallocate"),
        "Whether files are preallocated. They always are.",
    ),
    default_only(
        "remote.copy.disable",
        Kind::Bool,
        "false",
        None,
        NO_TIERING,
        "Stops copying to tiered storage.",
    ),
    default_only(
        "remote.log.delete.on.disable",
        Kind::Bool,
        "false",
        None,
        NO_TIERING,
        "Deletes tiered data when tiering is disabled.",
    ),
    default_only("remote.storage.enable", Kind::Bool, "false", None, NO_TIERING, "Enables tiered storage."),
    honoured(
        "retention.bytes",
        FROM_MINUS_ONE,
        "-1",
        "log.retention.bytes",
        "Most bytes kept per partition; -1: no bound. Checked every log.retention.check.interval.ms.",
    ),
    honoured(
        "retention.ms",
        FROM_MINUS_ONE,
        "604800000",
        "log.retention.ms",
        "Longest a record is kept, in milliseconds; -1: for ever.",
    ),
    honoured(
        "segment.bytes",
        Kind::Int { min: SEGMENT_BYTES_MIN, max: i32::MAX as i64 },
        "1073741824",
        "log.segment.bytes",
        "What retention by size frees at a time, in bytes: a partition may hold up to this much more than \
         retention.bytes. A larger batch is refused.",
    ),
    inherent(
        "segment.index.bytes",
        Kind::Int { min: 4, max: i32::MAX as i64 },
        "10485760",
        Some("log.index.size.max.bytes"),
        "The size of a preallocated index. Indexes grow as needed here.",
    ),
    inherent(
        "segment.jitter.ms",
        ANY_LONG,
        "0",
        Some("log.roll.jitter.ms"),
        "Spreads the rolling of segments. Logs share their files here, so they never all roll at once.",
    ),
    inherent(
        "segment.ms",
        Kind::Long { min: 1, max: i64::MAX },
        "604800000",
        Some("log.roll.ms"),
        "The longest a segment grows before retention may delete it. Retention by time looks at batches here, \
         so that old records never wait for a segment to roll.",
    ),
    default_only(
        "unclean.leader.election.enable",
        Kind::Bool,
        "false",
        Some("unclean.leader.election.enable"),
        "a broker that may have lost records is never made the owner",
        "Whether an out-of-date replica may lead.",
    ),
];
