//! Where batches lie: entries, index files, and the cache of loaded entries.
//!
//! ```text
//! <id>.idx | head 64 B | directory 24 B x logs, ascending | entries 32 B, by log, in file order |
//! head       magic u64, version u16, 0 x6, store u64, file u64, logs u64, entries u64,
//!            crc u32 of the directory, crc u32 of the head before it, 0 u64
//! directory  log u64, first entry u64, entries u32, crc u32 of these entries
//! entry      base u64, max_timestamp i64, span u32, bytes u32, position u32, crc u32
//! ```
//! The top bit of an entry's `bytes` says that a frame lies at `position`; an index with such an entry has version 2.
//!
//! **Invariants.** An index file is derived: whatever is missing or does not verify is made anew from the data
//! file. It is never synced. Entries of one log ascend in position. What is held in memory is bounded, and so are
//! the index files that are kept open so that a part of them can be read without waiting for the device.
//!
//! Deliberately absent: sparse indexes; an entry per batch is 32 bytes and only loaded on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use ferrymq_disk::{Disk, File};
use ferrymq_types::IdMap;
use parking_lot::Mutex;

use crate::counters::Counters;
use crate::files::{DataFile, FileId, index_path};
use crate::format::{FileIdentity, RecordHeader, VERSION, VERSION_FRAMED, crc32c, u32_at, u64_at};
use crate::scan::scan;

const MAGIC: u64 = u64::from_le_bytes(*b"FERRYIDX");
const HEAD_BYTES: usize = 64;
const DIRECTORY_ENTRY_BYTES: usize = 24;
pub(crate) const ENTRY_BYTES: usize = 32;
/// Index files of which the directory is held and the file kept open, at most.
const DIRECTORIES_MAX: usize = 256;

/// One batch in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub base: u64,
    pub max_timestamp: i64,
    pub span: u32,
    /// Bytes of the batch, and [`FRAMED`].
    size: u32,
    pub position: u32,
    pub crc: u32,
}

/// The bit in an entry's size that says that parts of the batch lie elsewhere. A batch has 64 MiB at most.
const FRAMED: u32 = 1 << 31;

impl Entry {
    /// Bytes of the batch.
    pub(crate) fn bytes(&self) -> u32 {
        self.size & !FRAMED
    }

    /// Whether parts of it lie elsewhere: what lies at its position is a frame.
    pub(crate) fn is_framed(&self) -> bool {
        self.size & FRAMED != 0
    }

    pub(crate) fn of(header: &RecordHeader) -> Entry {
        Entry {
            base: header.base,
            max_timestamp: header.max_timestamp,
            span: header.span,
            size: header.payload_bytes & !FRAMED | if header.framed { FRAMED } else { 0 },
            position: header.position,
            crc: header.crc,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.base + u64::from(self.span)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.max_timestamp.to_le_bytes());
        out.extend_from_slice(&self.span.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Entry {
        Entry {
            base: u64_at(bytes, 0),
            max_timestamp: u64_at(bytes, 8).cast_signed(),
            span: u32_at(bytes, 16),
            size: u32_at(bytes, 20),
            position: u32_at(bytes, 24),
            crc: u32_at(bytes, 28),
        }
    }
}

/// Entries of a file by log, for writing.
pub(crate) type EntriesByLog = BTreeMap<u64, Vec<Entry>>;

/// Encodes an index file.
pub(crate) fn encode(identity: FileIdentity, logs: &EntriesByLog) -> Vec<u8> {
    let count: usize = logs.values().map(Vec::len).sum();
    let mut entries = Vec::with_capacity(count * ENTRY_BYTES);
    let mut directory = Vec::with_capacity(logs.len() * DIRECTORY_ENTRY_BYTES);
    let mut first = 0_u64;
    for (log, list) in logs {
        let from = entries.len();
        for entry in list {
            entry.encode(&mut entries);
        }
        directory.extend_from_slice(&log.to_le_bytes());
        directory.extend_from_slice(&first.to_le_bytes());
        directory.extend_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes());
        directory.extend_from_slice(&crc32c(&entries[from..]).to_le_bytes());
        first += list.len() as u64;
    }
    let framed = logs.values().flatten().any(Entry::is_framed);
    let version = if framed { VERSION_FRAMED } else { VERSION };
    let mut out = Vec::with_capacity(HEAD_BYTES + directory.len() + entries.len());
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    for number in [identity.store, identity.file, logs.len() as u64, first] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&crc32c(&directory).to_le_bytes());
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.resize(HEAD_BYTES, 0);
    out.extend_from_slice(&directory);
    out.extend_from_slice(&entries);
    out
}

#[derive(Debug, Clone, Copy)]
struct DirectoryEntry {
    log: u64,
    first: u64,
    count: u32,
    crc: u32,
}

/// Loads parts of index files and keeps the most recently used.
pub(crate) struct IndexCache {
    disk: Arc<dyn Disk>,
    store: u64,
    counters: Arc<Counters>,
    trust_blindly: bool,
    parts: Mutex<Parts>,
}

/// The directory of an index file, and the file.
#[derive(Clone)]
struct Directory {
    parts: Arc<Vec<DirectoryEntry>>,
    file: Arc<dyn File>,
    /// The file's length.
    length: u64,
}

/// Where a log's entries lie in an index file.
struct Part {
    position: u64,
    bytes: usize,
    crc: u32,
}

impl Directory {
    /// `None` if the log is not there, or not all of its entries are.
    fn part(&self, log: u64) -> Option<Part> {
        let at = self.parts.binary_search_by_key(&log, |entry| entry.log).ok()?;
        let DirectoryEntry { first, count, crc, .. } = self.parts[at];
        let bytes = count as usize * ENTRY_BYTES;
        let skip = (HEAD_BYTES + self.parts.len() * DIRECTORY_ENTRY_BYTES) as u64;
        let position = first.saturating_mul(ENTRY_BYTES as u64).saturating_add(skip);
        (position.saturating_add(bytes as u64) <= self.length).then_some(Part { position, bytes, crc })
    }
}

/// Entries, and whether they were used since they were last considered for being forgotten.
struct Held {
    entries: Arc<Vec<Entry>>,
    used: bool,
}

#[derive(Default)]
struct Parts {
    bytes: usize,
    bytes_max: usize,
    by_key: IdMap<(FileId, u64), Held>,
    /// Each key once; what may be forgotten next is in front.
    queue: VecDeque<(FileId, u64)>,
    directories: IdMap<FileId, Directory>,
}

impl IndexCache {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        store: u64,
        bytes_max: usize,
        counters: Arc<Counters>,
        trust_blindly: bool,
    ) -> IndexCache {
        let parts = Mutex::new(Parts { bytes_max, ..Parts::default() });
        IndexCache { disk, store, counters, trust_blindly, parts }
    }

    /// A log's entries in a sealed file if they are in memory.
    pub(crate) fn cached(&self, file: FileId, log: u64) -> Option<Arc<Vec<Entry>>> {
        self.parts.lock().touch((file, log))
    }

    /// The same, or what can be read without waiting for the device.
    pub(crate) fn load_cached(&self, file: FileId, log: u64) -> Option<Arc<Vec<Entry>>> {
        if let Some(entries) = self.cached(file, log) {
            return Some(entries);
        }
        let directory = self.parts.lock().directories.get(&file).cloned()?;
        let part = directory.part(log)?;
        let mut bytes = vec![0; part.bytes];
        let read = directory.file.read_cached(&mut bytes, part.position).ok()??;
        let entries = Arc::new(self.entries_in(&bytes[..read], &part)?);
        Counters::add(&self.counters.index_loads, 1);
        self.parts.lock().insert((file, log), entries.clone());
        Some(entries)
    }

    /// A log's entries in a sealed file, loaded or made anew if need be. Blocks.
    pub(crate) fn load(&self, data: &DataFile, log: u64) -> io::Result<Arc<Vec<Entry>>> {
        if let Some(entries) = self.cached(data.id, log) {
            return Ok(entries);
        }
        Counters::add(&self.counters.index_loads, 1);
        let entries = match self.read_part(data, log) {
            Ok(Some(entries)) => entries,
            Ok(None) | Err(_) => self.rebuild(data)?.remove(&log).unwrap_or_default(),
        };
        let entries = Arc::new(entries);
        self.parts.lock().insert((data.id, log), entries.clone());
        Ok(entries)
    }

    /// Writes an index file; an error leaves it missing or wrong, which is found when it is loaded.
    pub(crate) fn write(&self, data: &DataFile, logs: &EntriesByLog) -> io::Result<()> {
        let path = index_path(data.kind, data.id);
        self.parts.lock().forget(data.id);
        let bytes = encode(FileIdentity { store: self.store, file: data.id.0 }, logs);
        let file = match self.disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(&path)?;
                self.disk.create(&path)?
            }
            other => other?,
        };
        file.write_at(&[io::IoSlice::new(&bytes)], 0)?;
        Counters::add(&self.counters.bytes_written, bytes.len() as u64);
        Ok(())
    }

    /// Drops what is held of a file.
    pub(crate) fn forget(&self, file: FileId) {
        self.parts.lock().forget(file);
    }

    /// All entries of a file, by scanning it; also writes the index anew.
    fn rebuild(&self, data: &DataFile) -> io::Result<EntriesByLog> {
        Counters::add(&self.counters.index_rebuilds, 1);
        let logs = entries_by_scan(data, self.store)?;
        if let Err(error) = self.write(data, &logs) {
            tracing::warn!(file = data.id.0, %error, "cannot write an index anew; it will be rebuilt again");
        }
        Ok(logs)
    }

    fn read_part(&self, data: &DataFile, log: u64) -> io::Result<Option<Vec<Entry>>> {
        let Some(directory) = self.directory(data)? else { return Ok(None) };
        let Some(part) = directory.part(log) else { return Ok(None) };
        let mut bytes = vec![0; part.bytes];
        let read = directory.file.read_at(&mut bytes, part.position)?;
        Ok(self.entries_in(&bytes[..read], &part))
    }

    /// The entries of a part that was read; `None` if they do not verify.
    fn entries_in(&self, bytes: &[u8], part: &Part) -> Option<Vec<Entry>> {
        let verified = bytes.len() == part.bytes && crc32c(bytes) == part.crc;
        let believed = verified || self.trust_blindly;
        believed.then(|| bytes.chunks_exact(ENTRY_BYTES).map(Entry::decode).collect())
    }

    fn directory(&self, data: &DataFile) -> io::Result<Option<Directory>> {
        let id = data.id;
        if let Some(directory) = self.parts.lock().directories.get(&id) {
            return Ok(Some(directory.clone()));
        }
        let file = self.disk.open(&index_path(data.kind, id))?;
        let mut head = [0; HEAD_BYTES];
        let read = file.read_at(&mut head, 0)?;
        let named = (u64_at(&head, 16), u64_at(&head, 24));
        let intact = read == HEAD_BYTES && u32_at(&head, 52) == crc32c(&head[..52]);
        if !intact || u64_at(&head, 0) != MAGIC || named != (self.store, id.0) {
            return Ok(None);
        }
        let length = u64_at(&head, 32).saturating_mul(DIRECTORY_ENTRY_BYTES as u64);
        let file_length = file.len()?;
        if length > file_length {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = file.read_at(&mut bytes, HEAD_BYTES as u64)?;
        if read != bytes.len() || crc32c(&bytes) != u32_at(&head, 48) {
            return Ok(None);
        }
        let parts = bytes
            .chunks_exact(DIRECTORY_ENTRY_BYTES)
            .map(|part| DirectoryEntry {
                log: u64_at(part, 0),
                first: u64_at(part, 8),
                count: u32_at(part, 16),
                crc: u32_at(part, 20),
            })
            .collect();
        let directory = Directory { parts: Arc::new(parts), file, length: file_length };
        self.parts.lock().keep_directory(id, directory.clone());
        Ok(Some(directory))
    }
}

/// All batches of a data file by log, in file order.
pub(crate) fn entries_by_scan(data: &DataFile, store: u64) -> io::Result<EntriesByLog> {
    let mut logs = EntriesByLog::new();
    for group in scan(&data.file, FileIdentity { store, file: data.id.0 })?.groups {
        for record in group.records.iter().filter(|record| record.header.is_batch()) {
            logs.entry(record.header.log).or_default().push(Entry::of(&record.header));
        }
    }
    Ok(logs)
}

impl Parts {
    fn touch(&mut self, key: (FileId, u64)) -> Option<Arc<Vec<Entry>>> {
        let held = self.by_key.get_mut(&key)?;
        held.used = true;
        Some(held.entries.clone())
    }

    fn insert(&mut self, key: (FileId, u64), entries: Arc<Vec<Entry>>) {
        let bytes = held_bytes(&entries);
        match self.by_key.insert(key, Held { entries, used: false }) {
            Some(old) => self.bytes -= held_bytes(&old.entries),
            None => self.queue.push_back(key),
        }
        self.bytes += bytes;
        self.shrink();
    }

    fn keep_directory(&mut self, file: FileId, directory: Directory) {
        if self.directories.len() >= DIRECTORIES_MAX {
            self.forget_directories();
        }
        self.bytes += directory_bytes(&directory);
        if let Some(old) = self.directories.insert(file, directory) {
            self.bytes -= directory_bytes(&old);
        }
        self.shrink();
    }

    /// Forgets entries that were not used for a while, the oldest first; then, if that is not enough, all directories.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max && self.by_key.len() > 1 {
            let Some(key) = self.queue.pop_front() else { break };
            match self.by_key.get_mut(&key) {
                Some(held) if held.used => {
                    held.used = false;
                    self.queue.push_back(key);
                }
                _ => self.remove(key),
            }
        }
        if self.bytes > self.bytes_max {
            self.forget_directories();
        }
    }

    fn forget_directories(&mut self) {
        self.bytes -= self.directories.values().map(directory_bytes).sum::<usize>();
        self.directories.clear();
    }

    fn remove(&mut self, key: (FileId, u64)) {
        if let Some(held) = self.by_key.remove(&key) {
            self.bytes -= held_bytes(&held.entries);
        }
    }

    fn forget(&mut self, file: FileId) {
        self.by_key.retain(|key, held| {
            let keep = key.0 != file;
            self.bytes -= if keep { 0 } else { held_bytes(&held.entries) };
            keep
        });
        self.queue.retain(|key| key.0 != file);
        if let Some(directory) = self.directories.remove(&file) {
            self.bytes -= directory_bytes(&directory);
        }
    }
}

fn held_bytes(entries: &[Entry]) -> usize {
    entries.len() * ENTRY_BYTES + 128
}

fn directory_bytes(directory: &Directory) -> usize {
    directory.parts.len() * DIRECTORY_ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use ferrymq_disk::sim::SimDisk;

    use super::*;
    use crate::files::directory;
    use crate::format::FileKind;

    fn entry(base: u64) -> Entry {
        let position = 4096 + 10 * u32::try_from(base).unwrap();
        Entry { base, max_timestamp: 5, span: 1, size: 10, position, crc: 7 }
    }

    fn cache(disk: &SimDisk, bytes_max: usize) -> IndexCache {
        IndexCache::new(Arc::new(disk.clone()), 3, bytes_max, Arc::default(), false)
    }

    /// A disk with a data file without groups, and its index of three logs.
    fn written() -> (SimDisk, DataFile, EntriesByLog) {
        let disk = SimDisk::new(1);
        disk.create_dir(directory(FileKind::Wal).as_ref()).unwrap();
        let file = disk.create("wal/data".as_ref()).unwrap();
        let data = DataFile::new(FileId(7), FileKind::Wal, file);
        let logs: EntriesByLog = (1..=3).map(|log| (log, (0..log).map(entry).collect())).collect();
        cache(&disk, 1 << 20).write(&data, &logs).unwrap();
        (disk, data, logs)
    }

    #[test]
    fn once_its_directory_is_known_an_index_is_read_without_waiting_and_only_what_verifies() {
        let (disk, data, logs) = written();
        let cache = cache(&disk, 1 << 20);
        assert!(cache.load_cached(data.id, 2).is_none(), "where it lies is not known yet");
        assert_eq!(*cache.load(&data, 1).unwrap(), logs[&1]);
        assert_eq!(*cache.load_cached(data.id, 2).unwrap(), logs[&2]);
        assert!(cache.load_cached(data.id, 4).is_none());
        let path = index_path(data.kind, data.id);
        let file = disk.open(&path).unwrap();
        file.write_at(&[io::IoSlice::new(&[9])], file.len().unwrap() - 1).unwrap();
        assert!(cache.load_cached(data.id, 3).is_none(), "it is damaged");
        assert!(cache.load(&data, 3).unwrap().is_empty(), "made anew from the data, which has nothing");
        assert!(cache.cached(data.id, 1).is_none(), "with the index went what was read of it");
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_used_stays() {
        let (disk, _, _) = written();
        let room = 10 * held_bytes(&[entry(0)]);
        let cache = cache(&disk, room);
        for log in 0..100 {
            cache.parts.lock().insert((FileId(1 + log % 2), log), Arc::new(vec![entry(log)]));
            assert!(cache.cached(FileId(1), 0).is_some());
            let parts = cache.parts.lock();
            assert!(parts.bytes <= room && parts.by_key.len() == parts.queue.len());
        }
        cache.forget(FileId(1));
        let parts = cache.parts.lock();
        assert!(parts.by_key.keys().all(|key| key.0 == FileId(2)) && parts.by_key.len() == parts.queue.len());
        assert_eq!(parts.bytes, parts.by_key.len() * held_bytes(&[entry(0)]));
    }

    #[test]
    fn few_index_files_are_kept_open() {
        let (disk, data, _) = written();
        let cache = cache(&disk, 1 << 20);
        cache.load(&data, 1).unwrap();
        let directory = cache.parts.lock().directories[&data.id].clone();
        let mut parts = cache.parts.lock();
        for id in 0..2 * DIRECTORIES_MAX as u64 {
            parts.keep_directory(FileId(100 + id), directory.clone());
            assert!(parts.directories.len() <= DIRECTORIES_MAX);
        }
        parts.forget_directories();
        assert_eq!(parts.bytes, held_bytes(&[entry(0)]));
    }
}
