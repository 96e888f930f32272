//! Data files by number: where they lie, what lives in them, when they may go.
//!
//! **Invariants.** A number is never used twice. A file that a reader holds stays readable after its name is
//! gone. Only names below `wal/`, `sorted/` and `volatile/` are made here.
//!
//! Deliberately absent: reading and writing contents.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use ferrymq_disk::File;

use crate::format::FileKind;

/// A data file's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(pub u64);

/// An open data file.
pub(crate) struct DataFile {
    pub id: FileId,
    pub kind: FileKind,
    pub file: Arc<dyn File>,
    /// Bytes of batches that are still readable.
    pub live_bytes: AtomicI64,
    /// Bytes of batches ever put in.
    pub put_bytes: AtomicU64,
    /// Bytes of the file in use, header included.
    pub used_bytes: AtomicU64,
    /// No more groups will be written to it.
    pub sealed: AtomicBool,
    /// The first checkpoint that no longer needs this file; 0 while needed.
    pub retired_by: AtomicU64,
}

impl DataFile {
    pub(crate) fn new(id: FileId, kind: FileKind, file: Arc<dyn File>) -> DataFile {
        DataFile {
            id,
            kind,
            file,
            live_bytes: AtomicI64::new(0),
            put_bytes: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            retired_by: AtomicU64::new(0),
        }
    }

    pub(crate) fn put(&self, bytes: u64) {
        self.live_bytes.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.put_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn free(&self, bytes: u64) {
        self.live_bytes.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn live(&self) -> u64 {
        u64::try_from(self.live_bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }
}

/// The directory of a kind of file.
pub(crate) fn directory(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Wal => "wal",
        FileKind::Run => "sorted",
        FileKind::Volatile => "volatile",
    }
}

fn extension(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Wal => "wal",
        FileKind::Run => "run",
        FileKind::Volatile => "vol",
    }
}

/// Where a data file lies.
pub(crate) fn data_path(kind: FileKind, id: FileId) -> PathBuf {
    PathBuf::from(format!("{}/{:016x}.{}", directory(kind), id.0, extension(kind)))
}

/// Where its index lies.
pub(crate) fn index_path(kind: FileKind, id: FileId) -> PathBuf {
    PathBuf::from(format!("{}/{:016x}.idx", directory(kind), id.0))
}

/// The number in a data file's name; `None` for other names.
pub(crate) fn parse_name(kind: FileKind, name: &str) -> Option<FileId> {
    let digits = name.strip_suffix(extension(kind))?.strip_suffix('.')?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok().map(FileId)).flatten()
}
