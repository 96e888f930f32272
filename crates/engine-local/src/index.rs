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
//! file. It is never synced. Entries of one log ascend in position.
//!
//! Deliberately absent: sparse indexes; an entry per batch is 32 bytes and only loaded on demand.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use ferrymq_disk::Disk;
use parking_lot::Mutex;

use crate::counters::Counters;
use crate::files::{DataFile, FileId, index_path};
use crate::format::{FileIdentity, RecordHeader, VERSION, VERSION_FRAMED, crc32c, u32_at, u64_at};
use crate::scan::scan;

const MAGIC: u64 = u64::from_le_bytes(*b"FERRYIDX");
const HEAD_BYTES: usize = 64;
const DIRECTORY_ENTRY_BYTES: usize = 24;
pub(crate) const ENTRY_BYTES: usize = 32;

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

/// Entries and when they were last used.
type Held = (Arc<Vec<Entry>>, u64);

#[derive(Default)]
struct Parts {
    bytes: usize,
    bytes_max: usize,
    tick: u64,
    by_key: HashMap<(FileId, u64), Held>,
    by_tick: BTreeMap<u64, (FileId, u64)>,
    directories: HashMap<FileId, Arc<Vec<DirectoryEntry>>>,
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
        let file = self.disk.open(&index_path(data.kind, data.id))?;
        let Some(directory) = self.directory(&*file, data.id)? else { return Ok(None) };
        let Ok(at) = directory.binary_search_by_key(&log, |entry| entry.log) else { return Ok(None) };
        let part = directory[at];
        let length = part.count as usize * ENTRY_BYTES;
        let skip = (HEAD_BYTES + directory.len() * DIRECTORY_ENTRY_BYTES) as u64;
        let position = part.first.saturating_mul(ENTRY_BYTES as u64).saturating_add(skip);
        if position.saturating_add(length as u64) > file.len()? {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, position)?;
        let verified = read == length && crc32c(&bytes) == part.crc;
        if !verified && !self.trust_blindly {
            return Ok(None);
        }
        Ok(Some(bytes.chunks_exact(ENTRY_BYTES).map(Entry::decode).collect()))
    }

    fn directory(
        &self,
        file: &dyn ferrymq_disk::File,
        id: FileId,
    ) -> io::Result<Option<Arc<Vec<DirectoryEntry>>>> {
        if let Some(directory) = self.parts.lock().directories.get(&id) {
            return Ok(Some(directory.clone()));
        }
        let mut head = [0; HEAD_BYTES];
        let read = file.read_at(&mut head, 0)?;
        let named = (u64_at(&head, 16), u64_at(&head, 24));
        let intact = read == HEAD_BYTES && u32_at(&head, 52) == crc32c(&head[..52]);
        if !intact || u64_at(&head, 0) != MAGIC || named != (self.store, id.0) {
            return Ok(None);
        }
        let length = u64_at(&head, 32).saturating_mul(DIRECTORY_ENTRY_BYTES as u64);
        if length > file.len()? {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = file.read_at(&mut bytes, HEAD_BYTES as u64)?;
        if read != bytes.len() || crc32c(&bytes) != u32_at(&head, 48) {
            return Ok(None);
        }
        let directory: Vec<DirectoryEntry> = bytes
            .chunks_exact(DIRECTORY_ENTRY_BYTES)
            .map(|part| DirectoryEntry {
                log: u64_at(part, 0),
                first: u64_at(part, 8),
                count: u32_at(part, 16),
                crc: u32_at(part, 20),
            })
            .collect();
        let directory = Arc::new(directory);
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
        self.tick += 1;
        let (entries, tick) = self.by_key.get_mut(&key)?;
        self.by_tick.remove(tick);
        *tick = self.tick;
        let entries = entries.clone();
        self.by_tick.insert(self.tick, key);
        Some(entries)
    }

    fn insert(&mut self, key: (FileId, u64), entries: Arc<Vec<Entry>>) {
        self.remove(key);
        self.tick += 1;
        self.bytes += entries.len() * ENTRY_BYTES + 128;
        self.by_key.insert(key, (entries, self.tick));
        self.by_tick.insert(self.tick, key);
        self.shrink();
    }

    fn keep_directory(&mut self, file: FileId, directory: Arc<Vec<DirectoryEntry>>) {
        self.bytes += directory.len() * DIRECTORY_ENTRY_BYTES;
        if let Some(old) = self.directories.insert(file, directory) {
            self.bytes -= old.len() * DIRECTORY_ENTRY_BYTES;
        }
        self.shrink();
    }

    /// Forgets the least recently used entries; then, if that is not enough, all directories.
    fn shrink(&mut self) {
        while self.bytes > self.bytes_max && self.by_key.len() > 1 {
            let Some((_, key)) = self.by_tick.first_key_value().map(|(tick, key)| (*tick, *key)) else {
                break;
            };
            self.remove(key);
        }
        if self.bytes > self.bytes_max {
            let held: usize = self.directories.values().map(|held| held.len() * DIRECTORY_ENTRY_BYTES).sum();
            self.bytes -= held;
            self.directories.clear();
        }
    }

    fn remove(&mut self, key: (FileId, u64)) {
        if let Some((entries, tick)) = self.by_key.remove(&key) {
            self.by_tick.remove(&tick);
            self.bytes -= entries.len() * ENTRY_BYTES + 128;
        }
    }

    fn forget(&mut self, file: FileId) {
        let keys: Vec<_> = self.by_key.keys().filter(|key| key.0 == file).copied().collect();
        for key in keys {
            self.remove(key);
        }
        if let Some(directory) = self.directories.remove(&file) {
            self.bytes -= directory.len() * DIRECTORY_ENTRY_BYTES;
        }
    }
}
