//! The vocabulary every other crate shares: ids, offsets, the record batch, limits.
//!
//! **Invariants.** No I/O, no clock, no async, no serde: a value here means the same thing on a wire, in a
//! log and in a test. A type moves here only when two crates already need it.
//!
//! Deliberately absent: anything that names a protocol's request, an engine's file or a broker's state.

#![forbid(unsafe_code)]

pub mod batch;
pub mod ids;
pub mod limits;
pub mod partitioner;
pub mod record;
pub mod record_key;

pub use batch::{BatchError, BatchHeader, BatchView, Compression, TimestampType};
pub use ids::{CommitId, Durability, Epoch, IdHasher, IdMap, IdSet, LogId, Offset, OwnerId};
pub use record::{BatchBuilder, Header, PayloadSummary, Record, RecordError, Records, check_payload};
pub use record_key::RecordKey;
