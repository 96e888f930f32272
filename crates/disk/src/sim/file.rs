//! A handle on a simulated file.
//!
//! **Invariant.** A file without a name lives on while a handle is open.
//!
//! Deliberately absent: everything but the way to the [`World`](super::world::World).

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Shared;
use super::faults::OpKind;
use super::inode::Change;
use super::names::FileId;
use super::world::WaitForSyncs as _;
use crate::File;

pub(super) struct SimFile {
    shared: Arc<Shared>,
    file: FileId,
    path: String,
}

impl SimFile {
    /// A handle on a file that was just counted as opened.
    pub(super) fn new(shared: Arc<Shared>, file: FileId, path: &Path) -> SimFile {
        SimFile { shared, file, path: path.to_string_lossy().into_owned() }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.shared.world.lock().close(self.file);
    }
}

impl File for SimFile {
    fn write_at(&self, chunks: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        let bytes: Vec<u8> = chunks.iter().map(|chunk| &**chunk).collect::<Vec<&[u8]>>().concat();
        self.shared.world.lock().write(self.file, &self.path, position, bytes)
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.shared.world.lock().read(self.file, &self.path, into, position)
    }

    fn read_cached(&self, into: &mut [u8], position: u64) -> io::Result<Option<usize>> {
        let mut world = self.shared.world.lock();
        if world.is_cold() {
            return Ok(None);
        }
        world.read(self.file, &self.path, into, position).map(Some)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.shared.world.lock();
        let begun = world.sync_begins();
        world.wait_for_syncs(&self.shared.syncs_released);
        world.sync_data(self.file, &self.path, begun)
    }

    fn len(&self) -> io::Result<u64> {
        self.shared.world.lock().length(self.file)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut world = self.shared.world.lock();
        world.change(OpKind::SetLen, self.file, &self.path, Change::SetLen(length))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut world = self.shared.world.lock();
        world.change(OpKind::Allocate, self.file, &self.path, Change::Allocate(length))
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let mut world = self.shared.world.lock();
        world.change(OpKind::Punch, self.file, &self.path, Change::Punch(range))
    }
}
