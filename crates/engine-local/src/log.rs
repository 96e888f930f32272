//! One log's state as readers see it, and how each record changes it.
//!
//! ```text
//! segments (by offset)   [ file 3, positions p..q, offsets 0..90 ] [ file 5 ... ] [ file 4 ... ] [ file 5 ... ]
//!                          entries in <3>.idx, on demand             replaced          dense, in memory
//! ```
//! A segment is a stretch of one file's entries of this log that are all readable, ascend in offset and were
//! appended in one epoch. Freeing batches in the middle splits segments; nothing is marked dead anywhere else.
//!
//! **Invariants.** Segments are disjoint and ascend in offset. The same records applied in the same order make
//! the same state, whether while running or in a replay. Only one thread changes a log.
//!
//! Deliberately absent: I/O. Entries of sealed files come through [`Entries`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{CommitId, OwnerId};

use crate::files::FileId;
use crate::format::{Kind, RecordHeader, decode_ranges};
use crate::index::Entry;

/// Entries in one segment, at most: bounds the work of splitting one.
const SEGMENT_ENTRIES_MAX: u32 = 4096;

/// A stretch of readable entries; see the module's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub file: FileId,
    pub position_first: u32,
    pub position_last: u32,
    pub base: u64,
    pub next: u64,
    pub bytes: u64,
    pub max_timestamp: i64,
    pub epoch: u32,
    pub count: u32,
}

impl Segment {
    pub(crate) fn of(file: FileId, epoch: u32, entries: &[Entry]) -> Option<Segment> {
        let (first, last) = (entries.first()?, entries.last()?);
        Some(Segment {
            file,
            position_first: first.position,
            position_last: last.position,
            base: first.base,
            next: last.next(),
            bytes: entries.iter().map(|entry| u64::from(entry.bytes())).sum(),
            max_timestamp: entries.iter().map(|entry| entry.max_timestamp).max()?,
            epoch,
            count: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        })
    }

    /// Its entries among all of this log in this file.
    pub(crate) fn slice<'a>(&self, entries: &'a [Entry]) -> &'a [Entry] {
        let from = entries.partition_point(|entry| entry.position < self.position_first);
        let to = entries.partition_point(|entry| entry.position <= self.position_last);
        &entries[from..to.max(from)]
    }
}

/// A batch kept in memory.
#[derive(Debug, Clone)]
pub(crate) struct Cached {
    pub base: u64,
    pub next: u64,
    pub bytes: Bytes,
}

/// Where entries of sealed files come from. Called with the log locked: what is asked for should have been
/// loaded before, see [`LogState::touched_by`].
pub(crate) trait Entries {
    /// All entries of `log` in `file`; `None` if they cannot be had.
    fn entries(&self, log: u64, file: FileId) -> Option<Arc<Vec<Entry>>>;
    /// Bytes of a file became unreadable.
    fn freed(&self, file: FileId, bytes: u64);
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LogState {
    pub epoch: u32,
    pub owner: OwnerId,
    pub start: u64,
    pub next: u64,
    /// Below this, offsets may have been given to batches of class `Memory`.
    pub reserved: u64,
    pub last_commit: Option<CommitId>,
    pub deleted: bool,
    pub bytes: u64,
    pub segments: VecDeque<Segment>,
    /// Entries of files that have no index file yet.
    pub dense: Vec<(FileId, Vec<Entry>)>,
    /// Offsets whose batches were lost to damage.
    pub bad: Vec<Range<u64>>,
    /// The newest batches, contiguous in order but perhaps not in offset.
    pub tail: VecDeque<Cached>,
}

impl LogState {
    /// The entries of a file that are in memory.
    pub(crate) fn dense(&self, file: FileId) -> Option<&Vec<Entry>> {
        self.dense.iter().find(|(id, _)| *id == file).map(|(_, entries)| entries)
    }

    /// Applies one record that is now true. `payload` is needed for ranges only.
    pub(crate) fn apply(&mut self, header: &RecordHeader, file: FileId, payload: &[u8], from: &dyn Entries) {
        let log = header.log;
        match header.kind {
            Kind::Claim => {
                self.epoch = header.epoch;
                self.owner = OwnerId((u128::from(header.a) << 64) | u128::from(header.b));
            }
            Kind::Append => {
                self.push(header, file);
                self.next = self.next.max(header.base + u64::from(header.span));
                self.last_commit = Some(CommitId { writer: header.a, sequence: header.b });
            }
            Kind::Trim => {
                self.start = self.start.max(header.base);
                self.kill(log, 0..self.start, from);
                while self.tail.front().is_some_and(|cached| cached.next <= self.start) {
                    self.tail.pop_front();
                }
            }
            Kind::Discard => {
                for range in decode_ranges(payload) {
                    self.kill(log, range.clone(), from);
                    self.uncache(&range);
                }
            }
            Kind::Replace => {
                self.kill(log, header.a..header.b, from);
                // Also what lies before the range: new batches may come into gaps of it.
                self.uncache(&(0..header.b));
            }
            Kind::ReplaceBatch => self.push(header, file),
            Kind::Delete => {
                self.kill(log, 0..u64::MAX, from);
                self.tail.clear();
                self.deleted = true;
            }
            Kind::Reserve => self.reserved = self.reserved.max(header.base),
        }
    }

    /// The files whose entries applying this record will need.
    pub(crate) fn touched_by(&self, header: &RecordHeader, payload: &[u8]) -> Vec<FileId> {
        let single = match header.kind {
            Kind::Trim => Some(0..header.base),
            Kind::Replace => Some(header.a..header.b),
            Kind::Discard => None,
            _ => return Vec::new(),
        };
        let mut files = Vec::new();
        for range in single.into_iter().chain(decode_ranges(payload)) {
            for segment in self.overlapping(&range) {
                let whole = segment.base >= range.start && segment.next <= range.end;
                if !whole && self.dense(segment.file).is_none() && !files.contains(&segment.file) {
                    files.push(segment.file);
                }
            }
        }
        files
    }

    fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = &Segment> {
        let from = self.segments.partition_point(|segment| segment.next <= range.start);
        let end = range.end;
        self.segments.range(from..).take_while(move |segment| segment.base < end)
    }

    /// Keeps an entry of a file that has no index yet; the position of the entry before it.
    pub(crate) fn put_dense(&mut self, file: FileId, entry: Entry) -> Option<u32> {
        if let Some((_, entries)) = self.dense.iter_mut().find(|(id, _)| *id == file) {
            let before = entries.last().map(|last| last.position);
            entries.push(entry);
            return before;
        }
        self.dense.push((file, vec![entry]));
        None
    }

    /// First offset, offset behind the last and epoch of each batch that lies entirely inside `range`; `None`
    /// if entries cannot be had.
    pub(crate) fn inside(
        &self,
        log: u64,
        range: &Range<u64>,
        from: &dyn Entries,
    ) -> Option<Vec<(u64, u64, u32)>> {
        let mut found = Vec::new();
        for segment in self.overlapping(range) {
            let loaded;
            let entries: &[Entry] = match self.dense(segment.file) {
                Some(dense) => dense,
                None => {
                    loaded = from.entries(log, segment.file)?;
                    &loaded
                }
            };
            let entries = segment.slice(entries).iter();
            let inside = entries.filter(|entry| entry.base >= range.start && entry.next() <= range.end);
            found.extend(inside.map(|entry| (entry.base, entry.next(), segment.epoch)));
        }
        Some(found)
    }

    /// A copy of what says which batches there are, to try changes on.
    pub(crate) fn scratch(&self) -> LogState {
        LogState { segments: self.segments.clone(), dense: self.dense.clone(), ..LogState::default() }
    }

    /// Adds a batch at its place by offset.
    fn push(&mut self, header: &RecordHeader, file: FileId) {
        let entry = Entry::of(header);
        let before = self.put_dense(file, entry);
        self.bytes += u64::from(entry.bytes());
        let index = self.segments.partition_point(|segment| segment.base <= entry.base);
        if let Some(last) = index.checked_sub(1).and_then(|index| self.segments.get_mut(index)) {
            // Only if no dead entry lies between the two, or the segment would take it in.
            let adjoins = last.file == file && Some(last.position_last) == before;
            let fits = last.epoch == header.epoch && last.count < SEGMENT_ENTRIES_MAX;
            if adjoins && fits && last.next <= entry.base {
                last.position_last = entry.position;
                last.next = entry.next();
                last.bytes += u64::from(entry.bytes());
                last.max_timestamp = last.max_timestamp.max(entry.max_timestamp);
                last.count += 1;
                return;
            }
        }
        if let Some(segment) = Segment::of(file, header.epoch, &[entry]) {
            self.segments.insert(index, segment);
        }
    }

    /// Makes all batches that lie entirely inside `range` unreadable.
    fn kill(&mut self, log: u64, range: Range<u64>, from: &dyn Entries) {
        let mut index = self.segments.partition_point(|segment| segment.next <= range.start);
        while let Some(segment) = self.segments.get(index).copied() {
            if segment.base >= range.end {
                break;
            }
            if segment.base >= range.start && segment.next <= range.end {
                self.segments.remove(index);
                self.freed(segment.file, segment.bytes, from);
                continue;
            }
            index += self.split(log, index, segment, &range, from);
        }
    }

    /// Takes the batches inside `range` out of one segment; the number of segments left of it.
    fn split(
        &mut self,
        log: u64,
        index: usize,
        segment: Segment,
        range: &Range<u64>,
        from: &dyn Entries,
    ) -> usize {
        let loaded;
        let all: &[Entry] = match self.dense(segment.file) {
            Some(dense) => dense,
            None => match from.entries(log, segment.file) {
                Some(entries) => {
                    loaded = entries;
                    &loaded
                }
                None => {
                    tracing::error!(log, file = segment.file.0, "cannot load an index; freed batches stay");
                    return 1;
                }
            },
        };
        let entries = segment.slice(all);
        let low = entries.partition_point(|entry| entry.base < range.start);
        let high = entries.partition_point(|entry| entry.next() <= range.end);
        if high <= low {
            return 1;
        }
        let left = Segment::of(segment.file, segment.epoch, &entries[..low]);
        let right = Segment::of(segment.file, segment.epoch, &entries[high..]);
        let kept: u64 = [left, right].iter().flatten().map(|part| part.bytes).sum();
        self.segments.remove(index);
        let parts = [left, right].into_iter().flatten();
        let mut count = 0;
        for part in parts {
            self.segments.insert(index + count, part);
            count += 1;
        }
        self.freed(segment.file, segment.bytes.saturating_sub(kept), from);
        count
    }

    fn freed(&mut self, file: FileId, bytes: u64, from: &dyn Entries) {
        self.bytes = self.bytes.saturating_sub(bytes);
        from.freed(file, bytes);
    }

    /// Drops the cached batches that a change in `range` touches and all before them, so that what stays is
    /// still every readable batch from some offset on.
    fn uncache(&mut self, range: &Range<u64>) {
        if let Some(at) =
            self.tail.iter().rposition(|cached| cached.base < range.end && cached.next > range.start)
        {
            self.tail.drain(..=at);
        }
    }
}
