//! Moves what is still readable out of old WAL files into one run file, each log's batches lying together.
//!
//! ```text
//! plan (writer) -> run (any thread: read, verify, write, one sync, index) -> finish (writer: switch, checkpoint)
//! ```
//! Files with few hot logs stay where they are: moving every byte again would halve the device. So do those of which
//! the copies, each written whole, would take more than the file does.
//!
//! **Invariants.** A batch is in its old place until a durable run holds it and the log's segments say so; the
//! old file goes only once both retained checkpoints name the new place. What was freed meanwhile stays
//! freed. What does not verify is not moved.
//!
//! Deliberately absent: compaction, which is a caller's `Replace`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::core::maintain::create_file;
use crate::core::{Core, is_no_room};
use crate::counters::Counters;
use crate::files::{DataFile, FileId, data_path, directory};
use crate::format::{
    BLOCK_BYTES, FILE_BYTES_MAX, FileKind, HEAD_BYTES, Kind, Record, RecordHeader, encode_group,
};
use crate::index::{EntriesByLog, Entry};
use crate::log::{Entries as _, LogState, Segment};
use crate::read::{Mode, Pick, read_picks};
use crate::shared::Shared;

/// Bytes of one group in a run file, about.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Records of one group in a run file.
const GROUP_RECORDS_MAX: usize = 4096;
/// With this much to move it is worth it with fewer files too.
const MOVE_BYTES_MIN: u64 = 512 << 20;

static ZEROS: [u8; 4096] = [0; 4096];

/// A move that was decided on.
pub struct MoveJob {
    shared: Arc<Shared>,
    run: FileId,
    files: HashMap<FileId, Arc<DataFile>>,
    logs: Vec<(u64, Vec<Segment>)>,
}

/// A move whose copies are durable.
pub struct Moved {
    data: Arc<DataFile>,
    /// Per log, what was planned and where its batches are now.
    logs: Vec<(u64, Vec<Copied>)>,
}

/// A segment and where its batches are now.
type Copied = (Segment, Vec<Entry>);

impl Core {
    /// Decides on a move if it is worth one. At most one move may be under way.
    pub fn plan_move(&mut self) -> Option<MoveJob> {
        if self.stopped || self.full {
            return None;
        }
        let files = self.worth_moving()?;
        let chosen: HashSet<FileId> = files.keys().copied().collect();
        let mut logs = Vec::new();
        for log in self.shared.logs.read().values() {
            let state = log.state.read();
            let inside = state.segments.iter().filter(|segment| chosen.contains(&segment.file));
            let segments: Vec<Segment> = inside.copied().collect();
            if !segments.is_empty() {
                logs.push((log.id, segments));
            }
        }
        logs.sort_unstable_by_key(|(log, _)| *log);
        Some(MoveJob { shared: self.shared.clone(), run: self.new_file_id(), files, logs })
    }

    fn worth_moving(&self) -> Option<HashMap<FileId, Arc<DataFile>>> {
        let options = &self.shared.options;
        let mut candidates: Vec<Arc<DataFile>> = {
            let files = self.shared.files.read();
            let sealed = |data: &&Arc<DataFile>| {
                data.kind != FileKind::Volatile && data.is_sealed() && data.live() > 0
            };
            files.values().filter(sealed).cloned().collect()
        };
        if candidates.len() < options.move_files_min.min(2) {
            return None;
        }
        let logs_in = self.count_logs();
        let scattered = |data: &DataFile| {
            let logs = logs_in.get(&data.id).copied().unwrap_or(1).max(1);
            data.kind == FileKind::Wal && data.live() / logs < options.move_extent_bytes_max && logs > 1
        };
        let sparse = |data: &DataFile| {
            let put = data.put_bytes.load(Ordering::Relaxed);
            data.live().saturating_mul(100) < put.saturating_mul(options.rewrite_live_percent_max)
        };
        // What is shared there would be written out: that must not make more of it than there is.
        let grows = |data: &DataFile| data.live() > data.used_bytes.load(Ordering::Relaxed);
        candidates.retain(|data| (scattered(data) || sparse(data)) && !grows(data));
        candidates.sort_unstable_by_key(|data| data.id);
        let waiting: u64 = candidates.iter().map(|data| data.live()).sum();
        if candidates.len() < options.move_files_min && waiting < MOVE_BYTES_MIN {
            return None;
        }
        let mut bytes = 0;
        let fits = |data: &Arc<DataFile>| {
            bytes += data.live();
            bytes <= options.run_file_bytes_max
        };
        let files: HashMap<_, _> =
            candidates.into_iter().take_while(fits).map(|data| (data.id, data)).collect();
        (!files.is_empty()).then_some(files)
    }

    /// How many logs have batches in each file.
    fn count_logs(&self) -> HashMap<FileId, u64> {
        let mut counts = HashMap::new();
        for log in self.shared.logs.read().values() {
            let state = log.state.read();
            let files: HashSet<FileId> = state.segments.iter().map(|segment| segment.file).collect();
            for file in files {
                *counts.entry(file).or_default() += 1;
            }
        }
        counts
    }

    /// Makes readers use the run file and lets the old files go in time.
    ///
    /// # Errors
    /// If the checkpoint cannot be written; then the writer has stopped.
    pub fn finish_move(&mut self, moved: io::Result<Moved>) -> io::Result<()> {
        let moved = match moved {
            Ok(moved) => moved,
            Err(error) => {
                // The old files have everything; the unfinished run goes with the next start.
                tracing::warn!(%error, "a move failed");
                return Ok(());
            }
        };
        if self.stopped {
            return Ok(());
        }
        let shared = self.shared.clone();
        shared.files.write().insert(moved.data.id, moved.data.clone());
        for (log, parts) in &moved.logs {
            let Ok(log) = shared.log(*log) else { continue };
            let mut state = log.state.write();
            for (planned, entries) in parts {
                switch(&mut state, planned, entries, &moved.data, &shared);
            }
        }
        moved.data.sealed.store(true, Ordering::Release);
        match self.write_checkpoint() {
            Err(error) if !is_no_room(&error) => {
                self.stop_for_good(&error);
                Err(error)
            }
            _ => {
                self.retire_files();
                Ok(())
            }
        }
    }
}

/// Points what is left of a planned segment to where its batches are now.
fn switch(state: &mut LogState, planned: &Segment, entries: &[Entry], run: &DataFile, shared: &Shared) {
    let mut index = state.segments.partition_point(|segment| segment.next <= planned.base);
    while let Some(segment) = state.segments.get_mut(index).filter(|segment| segment.base < planned.next) {
        index += 1;
        let inside = segment.position_first >= planned.position_first
            && segment.position_last <= planned.position_last;
        if segment.file != planned.file || !inside {
            continue;
        }
        let from = entries.partition_point(|entry| entry.base < segment.base);
        let to = entries.partition_point(|entry| entry.base < segment.next);
        let Some(new) = Segment::of(run.id, segment.epoch, &entries[from..to]) else { continue };
        if new.count != segment.count || new.next != segment.next || new.bytes != segment.bytes {
            continue;
        }
        let old = std::mem::replace(segment, new);
        run.put(old.bytes);
        shared.freed(old.file, old.bytes);
    }
}

impl MoveJob {
    /// Copies everything. Blocks; may run on any thread while the writer goes on.
    ///
    /// # Errors
    /// If the disk fails; nothing has changed then.
    pub fn run(self) -> io::Result<Moved> {
        let path = data_path(FileKind::Run, self.run);
        match self.copy() {
            Ok(moved) => Ok(moved),
            Err(error) => {
                if let Err(error) = self.shared.disk.remove(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished run");
                }
                Err(error)
            }
        }
    }

    fn copy(&self) -> io::Result<Moved> {
        let active = create_file(&self.shared, FileKind::Run, self.run, BLOCK_BYTES, 0)?;
        // Not in use before the switch: keep it out of everybody's sight until then.
        self.shared.files.write().remove(&self.run);
        let mut out = RunWriter {
            shared: &self.shared,
            data: active.data,
            position: active.position,
            index: EntriesByLog::new(),
        };
        let mut logs = Vec::new();
        for (log, segments) in &self.logs {
            let mut parts = Vec::new();
            for segment in segments {
                if self.shared.stopping.load(Ordering::Relaxed) {
                    return Err(io::Error::other("the store is stopping"));
                }
                if let Some(entries) = self.copy_segment(&mut out, *log, segment)? {
                    parts.push((*segment, entries));
                }
            }
            logs.push((*log, parts));
        }
        out.data.file.sync_data()?;
        self.shared.disk.sync_dir(Path::new(directory(FileKind::Run)))?;
        out.data.used_bytes.store(out.position, Ordering::Relaxed);
        if let Err(error) = self.shared.index.write(&out.data, &out.index) {
            tracing::warn!(file = self.run.0, %error, "cannot write an index");
        }
        Ok(Moved { data: out.data, logs })
    }

    /// The entries of a segment's copy; `None` if it cannot be read whole and so stays.
    fn copy_segment(
        &self,
        out: &mut RunWriter<'_>,
        log: u64,
        segment: &Segment,
    ) -> io::Result<Option<Vec<Entry>>> {
        let Some(data) = self.files.get(&segment.file) else { return Ok(None) };
        let all = self.shared.index.load(data, log)?;
        let entries = segment.slice(&all);
        if entries.len() != segment.count as usize {
            return Ok(None);
        }
        let mut copied = Vec::with_capacity(entries.len());
        let mut rest = entries;
        while !rest.is_empty() {
            let count = group_length(rest);
            let (group, behind) = rest.split_at(count);
            rest = behind;
            let picks: Vec<Pick> = group
                .iter()
                .map(|entry| Pick { file: data.clone(), entry: *entry, epoch: segment.epoch })
                .collect();
            let Some(payloads) = payloads(&self.shared, log, &picks) else { return Ok(None) };
            copied.extend(out.write(log, segment.epoch, group, payloads)?);
        }
        Ok(Some(copied))
    }
}

/// How many entries make one group.
fn group_length(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.bytes() as usize;
        bytes <= GROUP_BYTES_MAX
    };
    entries.iter().take(GROUP_RECORDS_MAX).take_while(fits).count().max(1)
}

fn payloads(shared: &Shared, log: u64, picks: &[Pick]) -> Option<Vec<Bytes>> {
    let runs = read_picks(shared, log, picks, Mode::Blocking).ok()?;
    let mut payloads = Vec::with_capacity(picks.len());
    let mut picks = picks.iter();
    for mut run in runs {
        while !run.bytes.is_empty() {
            payloads.push(run.bytes.split_to(picks.next()?.entry.bytes() as usize));
        }
    }
    picks.next().is_none().then_some(payloads)
}

/// Appends groups to a run file.
struct RunWriter<'a> {
    shared: &'a Arc<Shared>,
    data: Arc<DataFile>,
    position: u64,
    index: BTreeMap<u64, Vec<Entry>>,
}

impl RunWriter<'_> {
    fn write(
        &mut self,
        log: u64,
        epoch: u32,
        entries: &[Entry],
        payloads: Vec<Bytes>,
    ) -> io::Result<Vec<Entry>> {
        let mut records: Vec<Record> = entries
            .iter()
            .zip(payloads)
            .map(|(entry, payload)| {
                let header = RecordHeader {
                    base: entry.base,
                    span: entry.span,
                    max_timestamp: entry.max_timestamp,
                    ..RecordHeader::new(Kind::Append, log, epoch)
                };
                Record::new(header, payload)
            })
            .collect();
        let identity = self.shared.identity(self.data.id);
        let table = encode_group(identity, self.position, 0, 0, &mut records)
            .ok_or_else(|| io::Error::other(format!("a run file exceeds {FILE_BYTES_MAX} bytes")))?;
        let mut length = table.len();
        let mut chunks = Vec::with_capacity(records.len() + 2);
        chunks.push(IoSlice::new(&table));
        for record in &records {
            record.chunks(&mut chunks);
            length += record.slot_bytes();
        }
        let padded = length.next_multiple_of(ZEROS.len());
        chunks.push(IoSlice::new(&ZEROS[..padded - length]));
        self.data.file.write_at(&chunks, self.position)?;
        self.position += padded as u64;
        Counters::add(&self.shared.counters.bytes_written, padded as u64);
        Counters::add(&self.shared.counters.bytes_moved, padded as u64);
        debug_assert!(table.len() == (records.len() + 1) * HEAD_BYTES);
        let written: Vec<Entry> = records.iter().map(|record| Entry::of(&record.header)).collect();
        self.index.entry(log).or_default().extend(&written);
        Ok(written)
    }
}
