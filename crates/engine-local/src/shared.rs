//! What the writer and all readers share: logs, files, index cache, health.
//!
//! **Invariants.** Only the writer changes logs and files. A lock here is held for memory operations only; the
//! order is log table, then one log, then the index cache's own.
//!
//! Deliberately absent: decisions.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ferrymq_disk::Disk;
use ferrymq_runtime::Clock;
use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::IdMap;
use parking_lot::{Mutex, RwLock};

use crate::counters::{Counters, DAMAGE_REPORTS_MAX, Health};
use crate::files::{DataFile, FileId};
use crate::format::FileIdentity;
use crate::index::{Entry, IndexCache};
use crate::log::{Entries, LogState};
use crate::options::Options;
use crate::read::buffers::Buffers;

/// One log.
pub(crate) struct Log {
    pub id: u64,
    pub state: RwLock<LogState>,
}

/// See the module.
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub store: u64,
    pub options: Options,
    pub clock: Clock,
    pub counters: Arc<Counters>,
    pub health: Mutex<Health>,
    pub logs: RwLock<IdMap<u64, Arc<Log>>>,
    pub files: RwLock<IdMap<FileId, Arc<DataFile>>>,
    pub index: IndexCache,
    pub buffers: Buffers,
    /// A move under way should give up.
    pub stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn log(&self, id: u64) -> Result<Arc<Log>, StorageError> {
        let log = self.logs.read().get(&id).cloned();
        log.ok_or_else(|| StorageError::new(ErrorKind::NotFound, format!("no such log: {id}")))
    }

    pub(crate) fn file(&self, id: FileId) -> Option<Arc<DataFile>> {
        self.files.read().get(&id).cloned()
    }

    pub(crate) fn identity(&self, file: FileId) -> FileIdentity {
        FileIdentity { store: self.store, file: file.0 }
    }

    /// A log's entries in a sealed file. Blocks.
    pub(crate) fn load_entries(&self, log: u64, file: FileId) -> io::Result<Arc<Vec<Entry>>> {
        match self.file(file) {
            Some(data) => self.index.load(&data, log),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("data file {:016x}", file.0))),
        }
    }

    /// Notes damage to acknowledged data: in the log for a human, in health for a probe.
    pub(crate) fn report_damage(&self, what: String) {
        tracing::error!(damage = what, "acknowledged data is damaged");
        let mut health = self.health.lock();
        if health.damage.len() < DAMAGE_REPORTS_MAX && !health.damage.contains(&what) {
            health.damage.push(what);
        }
    }
}

impl Entries for Shared {
    fn entries(&self, log: u64, file: FileId) -> Option<Arc<Vec<Entry>>> {
        self.load_entries(log, file).ok()
    }

    fn freed(&self, file: FileId, bytes: u64) {
        if let Some(data) = self.file(file) {
            data.free(bytes);
        }
    }
}
