//! Around the write path: new files, sealing, checkpoints, free space, files that may go, the clean stop.
//!
//! **Invariants.** A file is durable by name before a group in it is acknowledged. A file goes only once both
//! checkpoints that a start could begin from can do without it. Of what frees space nothing is refused before
//! the reserve is used up.
//!
//! Deliberately absent: moving batches (see `mover`).

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_types::IdSet;

use crate::checkpoint::{self, Encoder, Head};
use crate::core::{ActiveFile, Core, Failure, is_no_room};
use crate::counters::Counters;
use crate::files::{DataFile, FileId, data_path, directory, index_path};
use crate::format::{BLOCK_BYTES, FILE_BYTES_MAX, FileKind, encode_file_header};
use crate::index::EntriesByLog;
use crate::options::SeededBug;
use crate::shared::Shared;

/// Smallest WAL file, made when there is no room for a full one.
const SMALL_FILE_BYTES: u64 = 1 << 20;
/// The marker of a clean stop.
pub(crate) const CLEAN: &str = "CLEAN";

impl Core {
    /// Sees to it that the active WAL file has room for a group of `bytes`.
    pub(crate) fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        if self.wal.position + bytes <= self.wal.length {
            return Ok(());
        }
        // What was written without a sync must be durable before a later file holds anything that is.
        self.sync_wal().map_err(Failure::after_roll)?;
        let new = self.create_wal(bytes)?;
        let old = std::mem::replace(&mut self.wal, new);
        self.seal(&old);
        match self.write_checkpoint() {
            // The next start replays more; that is all.
            Err(error) if is_no_room(&error) => {
                tracing::warn!(%error, "no room for a checkpoint");
                Ok(())
            }
            other => other.map_err(Failure::after_roll),
        }
    }

    /// The same for the volatile file.
    pub(crate) fn make_room_volatile(&mut self, bytes: u64) -> Result<(), Failure> {
        if self.volatile.as_ref().is_some_and(|active| active.position + bytes <= active.length) {
            return Ok(());
        }
        let id = self.new_file_id();
        let length = self.shared.options.wal_file_bytes.max(bytes + BLOCK_BYTES);
        let new = create_file(&self.shared, FileKind::Volatile, id, length, 0).map_err(Failure::before)?;
        if let Some(old) = self.volatile.replace(new) {
            self.seal(&old);
        }
        Ok(())
    }

    fn create_wal(&mut self, bytes: u64) -> Result<ActiveFile, Failure> {
        let need = (bytes + BLOCK_BYTES).min(FILE_BYTES_MAX);
        let id = self.new_file_id();
        let full = self.shared.options.wal_file_bytes.max(need);
        let first_seq = self.seq + 1;
        match create_file(&self.shared, FileKind::Wal, id, full, first_seq) {
            Err(error) if is_no_room(&error) => {
                // Consuming and deleting must go on: a small file may still fit into the reserve.
                let small = SMALL_FILE_BYTES.min(full).max(need);
                let id = self.new_file_id();
                create_file(&self.shared, FileKind::Wal, id, small, first_seq).map_err(Failure::before)
            }
            other => other.map_err(Failure::before),
        }
    }

    /// Ends a file: its entries go to its index file and leave memory.
    pub(crate) fn seal(&mut self, file: &ActiveFile) {
        seal_file(&self.shared, &file.data, &file.logs, file.position);
    }

    /// Writes a checkpoint of everything published. Everything written must be durable and published.
    pub(crate) fn write_checkpoint(&mut self) -> io::Result<()> {
        self.sync_wal()?;
        self.write_checkpoint_after(self.checkpoint)
    }

    /// The first checkpoint after a recovery that began from checkpoint `loaded`.
    pub(crate) fn checkpoint_after_recovery(&mut self, loaded: u64) -> io::Result<()> {
        self.write_checkpoint_after(loaded)
    }

    fn write_checkpoint_after(&mut self, previous: u64) -> io::Result<()> {
        let number = self.checkpoint + 1;
        let mut files: Vec<_> = {
            let files = self.shared.files.read();
            let kept = files.values().filter(|data| data.kind != FileKind::Volatile);
            kept.map(|data| (data.id, data.kind, data.put_bytes.load(Ordering::Relaxed))).collect()
        };
        files.sort_unstable_by_key(|file| file.0);
        let head = Head {
            store: self.shared.store,
            number,
            seq: self.seq,
            replay_from: if self.wal.data.is_sealed() { self.next_file } else { self.wal.data.id.0 },
            next_file: self.next_file,
        };
        let known: HashSet<FileId> = files.iter().map(|file| file.0).collect();
        // The tombstones of this round count only once it is written; they are replayed.
        let logs = self.shared.logs.read();
        let mut encoder = Encoder::new(&head, &self.staging.deleted, &files, logs.len());
        for log in logs.values() {
            encoder.log(log.id, &log.state.read(), |file| known.contains(&file));
        }
        drop(logs);
        let bytes = encoder.finish();
        let sync = !self.shared.options.has(SeededBug::ForgetCheckpointSync);
        checkpoint::write(&*self.shared.disk, number, previous, &bytes, sync)?;
        Counters::add(&self.shared.counters.bytes_written, bytes.len() as u64);
        Counters::add(&self.shared.counters.checkpoints, 1);
        self.checkpoint_previous = previous;
        self.checkpoint = number;
        for data in self.shared.files.read().values() {
            let dead = data.is_sealed() && data.live() == 0;
            if dead && data.retired_by.load(Ordering::Relaxed) == 0 {
                data.retired_by.store(number, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Removes files that nothing needs any more. An error leaves them for the next start.
    pub(crate) fn retire_files(&mut self) {
        let gone: Vec<Arc<DataFile>> = {
            let files = self.shared.files.read();
            let goes = |data: &&Arc<DataFile>| match data.kind {
                FileKind::Volatile => data.is_sealed() && data.live() == 0,
                _ => {
                    let retired_by = data.retired_by.load(Ordering::Relaxed);
                    retired_by != 0 && retired_by <= self.checkpoint_previous && data.live() == 0
                }
            };
            files.values().filter(goes).cloned().collect()
        };
        for data in gone {
            self.shared.files.write().remove(&data.id);
            self.shared.index.forget(data.id);
            for path in [index_path(data.kind, data.id), data_path(data.kind, data.id)] {
                match self.shared.disk.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), %error, "cannot remove a dead file");
                    }
                    _ => {}
                }
            }
        }
    }

    /// Looks at free space now and then; frees what can be freed when there is little.
    pub(crate) fn check_space(&mut self) {
        let options = &self.shared.options;
        if options.reserve_bytes == 0 {
            return;
        }
        let now = self.shared.clock.uptime();
        let interval = Duration::from_millis(options.space_check_interval_ms);
        if self.space_checked.is_some_and(|last| now.saturating_sub(last) < interval) {
            return;
        }
        self.space_checked = Some(now);
        let mut full = self.is_full();
        if full && self.has_dead_files() {
            // Twice: a dead file may go once both retained checkpoints were written without it.
            let written = self.write_checkpoint().and_then(|()| self.write_checkpoint());
            match written {
                Err(error) if !is_no_room(&error) => self.stop_for_good(&error),
                _ => {}
            }
            self.retire_files();
            full = self.is_full();
        }
        if full != self.full {
            self.full = full;
            self.shared.health.lock().full = full;
            if full {
                tracing::warn!("the disk is full up to the reserve; appends are refused");
            } else {
                tracing::info!("the disk has room again; appends are taken");
            }
        }
    }

    fn is_full(&self) -> bool {
        let options = &self.shared.options;
        let need = options.reserve_bytes.saturating_add(options.wal_file_bytes);
        self.shared.disk.free_bytes().is_ok_and(|free| free < need)
    }

    fn has_dead_files(&self) -> bool {
        let files = self.shared.files.read();
        files.values().any(|data| data.kind != FileKind::Volatile && data.is_sealed() && data.live() == 0)
    }

    /// Stops cleanly: everything durable, indexed and in a checkpoint, and a marker that says so.
    ///
    /// # Errors
    /// If something cannot be written; the next start then recovers as after a crash.
    pub fn stop(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        self.sync_wal()?;
        let data = self.wal.data.clone();
        data.file.set_len(self.wal.position)?;
        data.file.sync_data()?;
        let logs = std::mem::take(&mut self.wal.logs);
        seal_file(&self.shared, &data, &logs, self.wal.position);
        // Every offset given out is known now: a clean stop leaves no gap.
        for log in self.shared.logs.read().values() {
            log.state.write().reserved = 0;
        }
        self.write_checkpoint()?;
        let text = format!("{} {} {}\n", self.seq, data.id.0, self.wal.position);
        let disk = &self.shared.disk;
        let file = disk.create(Path::new(CLEAN))?;
        file.write_at(&[IoSlice::new(text.as_bytes())], 0)?;
        file.sync_data()?;
        disk.sync_dir(Path::new(""))?;
        self.shared.health.lock().stopped = Some("stopped cleanly".to_owned());
        Ok(())
    }
}

impl Failure {
    /// A failure while files were exchanged: the group itself was not written.
    fn after_roll(error: io::Error) -> Failure {
        Failure::Fatal { error, wrote: false }
    }
}

/// Makes a data file and its name durable, so that groups in it can be acknowledged.
pub(crate) fn create_file(
    shared: &Arc<Shared>,
    kind: FileKind,
    id: FileId,
    length: u64,
    first_seq: u64,
) -> io::Result<ActiveFile> {
    let path = data_path(kind, id);
    let file = shared.disk.create(&path)?;
    let header = encode_file_header(shared.identity(id), kind, first_seq);
    let made = file.allocate(length).and_then(|()| file.write_at(&[IoSlice::new(&header)], 0));
    if let Err(error) = made {
        drop(file);
        // Only a leftover: the number is not used again.
        if let Err(error) = shared.disk.remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished file");
        }
        return Err(error);
    }
    if kind == FileKind::Wal {
        file.sync_data()?;
        if !shared.options.has(SeededBug::SkipDirSync) {
            shared.disk.sync_dir(Path::new(directory(kind)))?;
        }
    }
    Counters::add(&shared.counters.bytes_written, header.len() as u64);
    let data = Arc::new(DataFile::new(id, kind, file));
    shared.files.write().insert(id, data.clone());
    Ok(ActiveFile {
        data,
        position: BLOCK_BYTES,
        length,
        written: BLOCK_BYTES,
        unsynced: 0,
        logs: IdSet::default(),
    })
}

/// Writes a file's index and takes its entries out of the logs.
pub(crate) fn seal_file(shared: &Arc<Shared>, data: &Arc<DataFile>, logs: &IdSet<u64>, used: u64) {
    let mut entries = EntriesByLog::new();
    for id in logs {
        let Some(log) = shared.logs.read().get(id).cloned() else { continue };
        let state = log.state.read();
        if let Some(dense) = state.dense(data.id) {
            entries.insert(*id, dense.clone());
        }
    }
    data.used_bytes.store(used, Ordering::Relaxed);
    if let Err(error) = shared.index.write(data, &entries) {
        // Nothing is lost: it will be made from the data when it is needed.
        tracing::warn!(file = data.id.0, %error, "cannot write an index");
    }
    for id in entries.into_keys() {
        if let Ok(log) = shared.log(id) {
            log.state.write().dense.retain(|(file, _)| *file != data.id);
        }
    }
    data.sealed.store(true, Ordering::Release);
}
