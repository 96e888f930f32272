//! Every file operation of an engine behind one small trait: the real disk and a simulated one.
//!
//! **Invariants.** Paths are relative to the disk's root and never leave it. Nothing is durable before
//! [`File::sync_data`] (for bytes) and [`Disk::sync_dir`] (for names) returned `Ok`. A sync that failed is
//! never to be retried: what it covered is of unknown content from then on (Rebello, ATC'20).
//!
//! Deliberately absent: buffering, retries, anything asynchronous, mmap.

#![forbid(unsafe_code)]

mod path;
pub mod real;
pub mod sim;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::SimDisk;

/// A directory tree in which an engine lives.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Creates a file that must not exist and opens it. Its name is not durable before [`Disk::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; no error if it exists.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Renames a file, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be written.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes the exclusive lock of this tree, held until dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// An open file. All methods may be called from any thread.
pub trait File: Send + Sync + 'static {
    /// Writes all of `chunks`, one behind the other, at `position`.
    fn write_at(&self, chunks: &[io::IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Reads at `position` until `into` is full or the file ends; the number of bytes read.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;
    /// The same, but only what is in memory: `None` if the device would have to be waited for.
    fn read_cached(&self, into: &mut [u8], position: u64) -> io::Result<Option<usize>>;
    /// Makes all written bytes durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Reserves space up to `length` and extends the file to it; new bytes read as zeros.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Gives the space of a range back; it reads as zeros from then on. The length stays.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;
}
