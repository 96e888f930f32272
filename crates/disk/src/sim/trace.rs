//! What was done to a simulated disk, in order, so that "acknowledged only after a sync" can be checked.
//!
//! **Invariant.** Only operations that succeeded are here, except writes that failed half way.
//!
//! Deliberately absent: reads.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// One thing done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A file got its first name.
    Create {
        /// The file, also under later names.
        file: u64,
        /// Its name.
        path: PathBuf,
    },
    /// Directories were created along this path.
    CreateDir {
        /// The innermost of them.
        path: PathBuf,
    },
    /// A file got another name.
    Rename {
        /// Its name before.
        from: PathBuf,
        /// Its name after.
        to: PathBuf,
    },
    /// A name was removed.
    Remove {
        /// The name.
        path: PathBuf,
    },
    /// Bytes were written.
    Write {
        /// To which file.
        file: u64,
        /// Where.
        position: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A file was cut or extended.
    SetLen {
        /// Which file.
        file: u64,
        /// Its new length.
        length: u64,
    },
    /// Space was reserved.
    Allocate {
        /// For which file.
        file: u64,
        /// Up to where.
        length: u64,
    },
    /// Space was given back.
    Punch {
        /// By which file.
        file: u64,
        /// Which bytes are zeros now.
        range: Range<u64>,
    },
    /// A file's bytes were made durable, those written before the sync began.
    SyncData {
        /// Which file.
        file: u64,
        /// How many events had happened when the sync began.
        covers: usize,
    },
    /// A directory's names were made durable.
    SyncDir {
        /// Which directory.
        path: PathBuf,
        /// How many events had happened when the sync began.
        covers: usize,
    },
    /// Something a test noted, such as an acknowledgement.
    Mark(Vec<u8>),
}
