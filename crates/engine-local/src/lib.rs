//! The embedded engine: one shared write-ahead log with group commit on a local disk.
//!
//! ```text
//! LOCK  FORMAT  CLEAN          flock; format version; there only after a clean stop
//! wal/<id>.wal  wal/<id>.idx   write groups of all logs; where each log's batches lie (derived)
//! sorted/<id>.run  .idx        batches moved out of WAL files, each log's lying together
//! checkpoint/<n>               all logs' state at one moment; the last two are kept
//! volatile/                    class `Memory`; wiped at start
//! quarantine/                  torn tails that recovery cut off
//! ```
//! Formats, limits and what was refused: `docs/adr/0003-local-engine.md`.
//!
//! **Invariants.** What is acknowledged is on the disk. One thread writes, everybody reads around it. All file
//! operations go through [`ferrymq_disk::Disk`].
//!
//! Deliberately absent: retries of a failed sync, repair from other copies, anything of a protocol.

#![forbid(unsafe_code)]

mod checkpoint;
pub mod core;
pub mod counters;
mod files;
mod format;
mod index;
mod log;
pub mod mover;
pub mod options;
mod queue;
pub mod read;
mod recovery;
mod scan;
mod shared;
mod stage;
pub mod store;

pub use counters::{Counters, Health};
pub use format::frame::inspect_frame;
pub use options::{Options, SeededBug};
pub use store::LocalStore;
