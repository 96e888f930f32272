//! [`SimDisk`]: a disk in memory whose power can be cut at any step, as often as wanted.
//!
//! ```text
//!  write, truncate, create, rename, ...      sync_data: this file's bytes and length
//!        |                                   sync_dir:  this directory's names
//!        v                                        |
//!  what programs see  ----- pending changes ------'---->  what a power cut leaves at least
//! ```
//! **Invariants.** The same calls in the same order and the same seeds give the same bytes. Syncing a file
//! does not make its name durable, nor the other way round. A handle belongs to the disk it was opened on; a
//! disk after [`SimDisk::crash`] or [`SimDisk::kill`] is another disk.
//!
//! Deliberately absent: time, and damage that nobody ordered. A device that loses synced bytes is simulated
//! with [`SimDisk::flip_bit`], [`SimDisk::zero_range`] and [`SimDisk::copy_range`].

mod crash;
mod faults;
mod file;
mod image;
mod inode;
mod names;
pub(crate) mod rng;
mod trace;
mod world;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::{Disk, File, path};
use crash::Crash;
pub use faults::{Counts, Failure, Fault, OpKind};
use file::SimFile;
pub use trace::Event;
use world::{WaitForSyncs as _, World};

/// A simulated disk. Cheap to clone: clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    syncs_released: Condvar,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk. The seed decides only what faults leave behind.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::of(World::new(seed))
    }

    fn of(world: World) -> SimDisk {
        SimDisk { shared: Arc::new(Shared { world: Mutex::new(world), syncs_released: Condvar::new() }) }
    }

    /// The disk as a power cut at this moment may leave it; each seed is another cut. This disk goes on as
    /// if nothing had happened, so that many cuts of one moment can be looked at.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let world = self.shared.world.lock();
        SimDisk::of(world.after_power_cut(&mut Crash::random(seed, world.sequence()), seed))
    }

    /// The power cut that leaves nothing but what was synced.
    #[must_use]
    pub fn crash_to_synced(&self) -> SimDisk {
        SimDisk::of(self.shared.world.lock().after_power_cut(&mut Crash::to_synced(), 0))
    }

    /// The disk after the process was killed: everything written is there, nothing more is durable.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        SimDisk::of(self.shared.world.lock().after_kill())
    }

    /// Orders a fault.
    pub fn order(&self, fault: Fault) {
        self.shared.world.lock().faults.order(fault);
    }

    /// Takes back all faults ordered; what they did stays.
    pub fn clear_faults(&self) {
        self.shared.world.lock().faults.clear();
    }

    /// Cuts the power while the `step`-th operation that changes the disk runs, counted from the disk's
    /// beginning: it and everything after it fails. Crash this disk to see what is left. See
    /// [`Counts::steps`].
    pub fn stop_at(&self, step: u64) {
        self.shared.world.lock().faults.stop_at = Some(step);
    }

    /// Whether the power went off.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.world.lock().faults.stopped
    }

    /// Sets how many bytes the disk holds.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.world.lock().capacity = bytes;
    }

    /// Sets how many of 100 cached reads find nothing in memory.
    pub fn set_cold_percent(&self, percent: u64) {
        self.shared.world.lock().cold_percent = percent;
    }

    /// Makes syncs wait until the hold is dropped. They cover what was written before they began.
    #[must_use]
    pub fn hold_syncs(&self) -> SyncHold {
        self.shared.world.lock().sync_holds += 1;
        SyncHold { disk: self.clone() }
    }

    /// How many syncs are waiting now.
    #[must_use]
    pub fn syncs_held(&self) -> usize {
        self.shared.world.lock().syncs_waiting
    }

    /// How often each operation was asked for.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.world.lock().faults.counts.clone()
    }

    /// Starts to keep a log of what is done.
    pub fn start_trace(&self) {
        self.shared.world.lock().trace.get_or_insert_default();
    }

    /// Notes something in the log, such as an acknowledgement.
    pub fn mark(&self, note: &[u8]) {
        self.shared.world.lock().note(|| Event::Mark(note.to_vec()));
    }

    /// What was done since [`SimDisk::start_trace`].
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        self.shared.world.lock().trace.clone().unwrap_or_default()
    }

    /// Damages one bit of a file, in memory and on the device.
    ///
    /// # Errors
    /// If there is no such file or it is shorter.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        self.damage(path, bit / 8..bit / 8 + 1, |byte| byte[0] ^= 1 << (bit % 8))
    }

    /// Turns bytes of a file into zeros, in memory and on the device.
    ///
    /// # Errors
    /// If there is no such file or it is shorter.
    pub fn zero_range(&self, path: &Path, range: Range<u64>) -> io::Result<()> {
        self.damage(path, range, |bytes| bytes.fill(0))
    }

    /// Puts bytes of one file over those of another, as a misdirected write does.
    ///
    /// # Errors
    /// If there is no such file or one is shorter.
    pub fn copy_range(&self, from: &Path, range: Range<u64>, to: &Path, position: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.damage(from, range, |found| bytes = found.to_vec())?;
        self.damage(to, position..position + bytes.len() as u64, |found| found.copy_from_slice(&bytes))
    }

    fn damage(&self, path: &Path, range: Range<u64>, how: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut world = self.shared.world.lock();
        let place = world.names.place(&path::parts(path)?)?;
        let file = world.names.file(&place)?;
        world.inode(file).damage(range, how)
    }
}

/// Makes syncs wait; see [`SimDisk::hold_syncs`].
#[derive(Debug)]
pub struct SyncHold {
    disk: SimDisk,
}

impl Drop for SyncHold {
    fn drop(&mut self) {
        self.disk.shared.world.lock().sync_holds -= 1;
        self.disk.shared.syncs_released.notify_all();
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.shared.world.lock().open(path)?;
        Ok(Arc::new(SimFile::new(self.shared.clone(), file, path)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.shared.world.lock().create(path)?;
        Ok(Arc::new(SimFile::new(self.shared.clone(), file, path)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.shared.world.lock().list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.world.lock().create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.world.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.world.lock().remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.shared.world.lock();
        let begun = world.sync_begins();
        world.wait_for_syncs(&self.shared.syncs_released);
        world.sync_dir(dir, begun)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.shared.world.lock().free_bytes()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let name = path::parts(path)?.join("/");
        let mut world = self.shared.world.lock();
        world.take_lock(path, &name)?;
        Ok(Box::new(TreeLock { shared: self.shared.clone(), name }))
    }
}

/// A held lock.
struct TreeLock {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for TreeLock {
    fn drop(&mut self) {
        self.shared.world.lock().locks.remove(&self.name);
    }
}
