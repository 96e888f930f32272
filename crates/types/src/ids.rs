//! Newtypes for ids, offsets and epochs, so that one is never passed for another.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// A log's identity within one store. Never reused, also not after the log was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u64);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A record's position in its log. Offsets of a log strictly increase; gaps are legal, reuse never is.
///
/// Range: `0 ..= i64::MAX`, because both Kafka and AMQP streams carry it as a signed 64-bit integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Offset = Offset(0);
    /// The largest offset a log may hold.
    pub const MAX: Offset = Offset(i64::MAX as u64);

    /// The offset `count` records later; saturates at [`Offset::MAX`].
    #[must_use]
    pub const fn plus(self, count: u64) -> Offset {
        let sum = self.0.saturating_add(count);
        if sum > Offset::MAX.0 { Offset::MAX } else { Offset(sum) }
    }

    /// How many offsets lie between `earlier` and `self`; zero if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Offset) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The signed form that protocols carry.
    #[must_use]
    pub const fn signed(self) -> i64 {
        self.0.cast_signed()
    }

    /// From a protocol's signed form; `None` if negative.
    #[must_use]
    pub const fn from_signed(value: i64) -> Option<Offset> {
        if value < 0 { None } else { Some(Offset(value.cast_unsigned())) }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How often a log has changed owners (and, after an unclean loss, its history).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

impl Epoch {
    /// Kafka's leader epoch: how many owners the log had before this one, so that a new topic begins at 0.
    /// A store's first claim gives epoch 1.
    #[must_use]
    pub const fn leader_epoch(self) -> i32 {
        self.0.saturating_sub(1).cast_signed()
    }

    /// The epoch after this one. An epoch is bumped at each claim, so it does not wrap in practice;
    /// it saturates rather than start over.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A random number drawn at each broker start. An epoch is always paired with it, so that two owners
/// that a rewound store gave the same epoch still fence each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OwnerId(pub u128);

/// Names one append, so that an owner who lost the reply can ask whether it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommitId {
    /// Who wrote: unique per owner and start.
    pub writer: u64,
    /// Which of the writer's appends to this log.
    pub sequence: u64,
}

/// When an append counts as done. See `ARCHITECTURE.md`, "Durability".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Durability {
    /// After the store's own durability: fdatasync, COMMIT, an answered PUT.
    #[default]
    Sync = 0,
    /// Once the operating system has it (Kafka's default): survives a killed process, not a power cut.
    Os = 1,
    /// Never on a disk that a restart reads: a restart leaves a gap in the offsets.
    Memory = 2,
}

impl Durability {
    /// The name used in configuration and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Durability::Sync => "sync",
            Durability::Os => "os",
            Durability::Memory => "memory",
        }
    }

    /// The inverse of [`Durability::name`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Durability> {
        [Durability::Sync, Durability::Os, Durability::Memory].into_iter().find(|class| class.name() == text)
    }

    /// The inverse of `as u8`, for stored bytes.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Durability> {
        match value {
            0 => Some(Durability::Sync),
            1 => Some(Durability::Os),
            2 => Some(Durability::Memory),
            _ => None,
        }
    }
}

/// Hashes numbers that we give out ourselves (ids, offsets, tokens): they are distinct already, and a multiplication
/// spreads them. Never for what a client chooses: it could choose numbers that collide.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A map by such numbers.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A set of such numbers.
pub type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;
