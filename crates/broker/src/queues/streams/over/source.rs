//! What a level of a queue over a topic reads: one partition, as messages.
//!
//! **Invariants.** Records are told with their offsets, ascending, each once. What cannot be read is passed over with an
//! error in the log. What takes long to open is opened away from the serving threads, a few batches at a time. Nothing
//! beyond what is durable for the topic's class is read. Offsets that a restart has lost, of a class that does not survive
//! one, are told to nobody; others that turn out to be missing are told until they are passed.
//!
//! Deliberately absent: who gets what (the shard).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferrymq_runtime::blocking;
use ferrymq_storage::{ErrorKind, Find, StorageError};
use ferrymq_types::limits::STREAM_WINDOW_BYTES;
use ferrymq_types::{BatchView, Durability, Offset};
use tokio::sync::Semaphore;

use super::super::reader::last_batch;
use super::super::window::{self, Wanted};
use super::super::{StreamPlace, StreamStart, Topics};
use crate::holds::Hold;
use crate::partition::Partition;
use crate::queues::ack::AckState;
use crate::queues::dead_letters::{Chunk, DeathReason};
use crate::queues::types::Message;
use crate::watch::{Registration, Watcher};

/// Bytes that a message in memory takes besides its own.
const MESSAGE_OVERHEAD: usize = 200;

/// Records of a partition that were read, as messages.
#[derive(Debug)]
pub(in crate::queues) struct Window {
    messages: VecDeque<(u64, Message)>,
    /// Behind all that was looked at.
    next: u64,
    bytes: usize,
}

impl Window {
    /// The offset of the next message; [`Window::next`] once there is none.
    pub(in crate::queues) fn offset(&self) -> u64 {
        self.messages.front().map_or(self.next, |(offset, _)| *offset)
    }

    /// Behind all that was looked at.
    pub(in crate::queues) fn next(&self) -> u64 {
        self.next
    }

    /// What it takes in memory.
    pub(in crate::queues) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Passes over messages below `offset`.
    pub(in crate::queues) fn skip_to(&mut self, offset: u64) {
        while self.messages.pop_front_if(|(at, _)| *at < offset).is_some() {}
    }

    /// The next message.
    pub(in crate::queues) fn take(&mut self) -> Option<Message> {
        self.messages.pop_front().map(|(_, message)| message)
    }
}

/// One partition, for one queue.
pub(in crate::queues) struct Source {
    topics: Topics,
    partition: Arc<Partition>,
    /// Offsets that no record has, ascending: what restarts have lost.
    gaps: Vec<Range<u64>>,
    opening: Arc<Semaphore>,
    trimmed: Arc<AtomicU64>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({:?})", self.partition)
    }
}

impl Source {
    /// # Errors
    /// Whatever the store answers.
    pub(super) async fn of(
        topics: Topics,
        partition: Arc<Partition>,
        opening: Arc<Semaphore>,
        trimmed: Arc<AtomicU64>,
    ) -> Result<Arc<Source>, StorageError> {
        let gaps = gaps(&partition).await?;
        Ok(Arc::new(Source { topics, partition, gaps, opening, trimmed }))
    }

    /// What of these offsets there is, as far as is known.
    pub(super) fn there(&self, from: u64, until: u64) -> Vec<Range<u64>> {
        let (mut there, mut at) = (Vec::new(), from);
        for gap in self.gaps.iter().filter(|gap| gap.end > from && gap.start < until) {
            there.extend(Some(at..gap.start).filter(|range| !range.is_empty()));
            at = at.max(gap.end);
        }
        there.extend(Some(at..until).filter(|range| !range.is_empty()));
        there
    }

    /// Tells what there is below `until` by now.
    pub(in crate::queues) fn tell(&self, acks: &mut AckState, until: u64) {
        if acks.end() < until {
            self.there(acks.end(), until).into_iter().for_each(|range| acks.extend(range));
        }
    }

    /// How many of these offsets are told to exist.
    pub(in crate::queues) fn told(&self, range: Range<u64>) -> u64 {
        self.there(range.start, range.end).into_iter().map(|range| range.end - range.start).sum()
    }

    /// The first of them at or above `offset`.
    pub(in crate::queues) fn first_told(&self, offset: u64) -> u64 {
        self.gaps.iter().find(|gap| gap.contains(&offset)).map_or(offset, |gap| gap.end)
    }

    /// The first offset that is there.
    pub(in crate::queues) fn start(&self) -> u64 {
        self.partition.log_start().0
    }

    /// Behind the last one that may be read.
    pub(in crate::queues) fn end(&self) -> u64 {
        self.partition.last_stable_offset().0
    }

    /// Whether what is there outlives a restart.
    pub(super) fn survives(&self) -> bool {
        self.partition.config.get().durability == Durability::Sync
    }

    /// Has changes told to `watcher` by this name, for as long as the answer is kept.
    pub(in crate::queues) fn watch(&self, watcher: &Arc<Watcher>, token: u64) -> Arc<Registration> {
        self.partition.watchers.register(watcher, token)
    }

    /// Has retention ask before it trims, for as long as the answer is kept.
    pub(in crate::queues) fn hold(&self) -> Arc<Hold> {
        self.partition.holds.take()
    }

    /// So many were trimmed before they were done.
    pub(in crate::queues) fn count_trimmed(&self, count: u64) {
        if count > 0 {
            self.trimmed.fetch_add(count, Ordering::Relaxed);
            tracing::warn!(partition = ?self.partition, count, "a topic trimmed records that a queue was not done with");
        }
    }

    /// The next records from `from` on, about so many bytes of them; none only if there are none below `until`.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub(in crate::queues) async fn read(
        self: Arc<Source>,
        from: u64,
        until: u64,
        bytes_max: usize,
    ) -> Result<Window, StorageError> {
        let bytes_max = bytes_max.min(STREAM_WINDOW_BYTES);
        let mut window = Window { messages: VecDeque::new(), next: from.max(self.start()), bytes: 0 };
        let several = self.topics.has_several(&self.partition.topic);
        let partition = several.then_some(self.partition.index);
        while window.messages.is_empty() && window.next < until {
            let read = self.partition.read(Offset(window.next), Offset(until), bytes_max).await?;
            // A gap reaches to what is there.
            let behind = read.next().map_or(until, |next| next.0);
            let mut from = window.next;
            for run in read.runs {
                let mut rest = run.bytes;
                while !rest.is_empty() && (window.bytes < bytes_max || window.messages.is_empty()) {
                    let batch = BatchView::split_from(&mut rest).map_err(unreadable)?;
                    let wanted = self.wanted(from, bytes_max.saturating_sub(window.bytes));
                    let found = open(&self.opening, batch, wanted).await;
                    from = found.next;
                    for opened in found.records {
                        let offset = opened.offset;
                        let (topic, timestamp_ms) = (Some(self.partition.topic.clone()), opened.timestamp_ms);
                        let place = StreamPlace { offset, partition, topic, timestamp_ms };
                        let message = self.topics.translate.message(opened.record, place);
                        window.bytes += message.bytes() + MESSAGE_OVERHEAD;
                        window.messages.push_back((offset, message));
                    }
                }
            }
            window.next = if window.messages.is_empty() { behind.max(from) } else { from };
        }
        Ok(window)
    }

    /// Reads the first of these offsets back, at least one.
    ///
    /// # Errors
    /// Whatever the store answers, but for damage: what is lost is told so.
    pub(in crate::queues) async fn read_letters(
        self: Arc<Source>,
        letters: &[(u64, DeathReason)],
        chunk: &mut Chunk,
    ) -> Result<(), StorageError> {
        let (Some((from, _)), Some((last, _))) = (letters.first(), letters.last()) else { return Ok(()) };
        let mut wanted = letters.iter().copied().peekable();
        let mut window = match self.clone().read(*from, last + 1, STREAM_WINDOW_BYTES).await {
            Ok(window) => window,
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => {
                    tracing::error!(source = ?self, from, %error, "dead letters are damaged and dropped");
                    let next = resume.0.max(from + 1);
                    Window { messages: VecDeque::new(), next, bytes: 0 }
                }
                _ => return Err(error),
            },
        };
        while let Some((offset, reason)) = wanted.next_if(|(offset, _)| *offset < window.next()) {
            window.skip_to(offset);
            let is_there = window.offset() == offset && window.next() > offset;
            chunk.push((offset, reason, if is_there { window.take() } else { None }));
        }
        Ok(())
    }

    fn wanted(&self, from: u64, bytes_max: usize) -> Wanted {
        Wanted { from, after_ms: None, filter: None, translate: self.topics.translate.clone(), bytes_max }
    }

    /// Where a queue begins that asks for `start`.
    ///
    /// # Errors
    /// Whatever the store answers.
    pub(super) async fn begin(&self, start: StreamStart) -> Result<u64, StorageError> {
        let (first, end) = (self.partition.log_start(), self.partition.last_stable_offset());
        Ok(match start {
            StreamStart::First => first.0,
            StreamStart::Next => end.0,
            StreamStart::Offset(offset) => offset.clamp(first.0, end.0.max(first.0)),
            StreamStart::Last => last_batch(&self.partition, end).await?.max(first).0,
            StreamStart::Time(ms) => self.first_since(ms, end).await?.max(first.0),
        })
    }

    /// The first record of this time or later before `end`; `end` if there is none.
    async fn first_since(&self, ms: i64, end: Offset) -> Result<u64, StorageError> {
        let Some(head) = self.partition.find(Find::Timestamp(ms)).await?.filter(|head| head.base < end)
        else {
            return Ok(end.0);
        };
        let mut at = head.base;
        while at < end {
            let read = match self.partition.read(at, end, 1).await {
                Ok(read) => read,
                Err(error) => match error.kind() {
                    ErrorKind::Corrupt { resume } => {
                        at = resume.max(at.plus(1));
                        continue;
                    }
                    _ => return Err(error),
                },
            };
            let Some(next) = read.next() else { break };
            for run in read.runs {
                let mut rest = run.bytes;
                while !rest.is_empty() {
                    let batch = BatchView::split_from(&mut rest).map_err(unreadable)?;
                    let wanted = Wanted { after_ms: Some(ms), ..self.wanted(at.0, 1) };
                    if let Some(first) = open(&self.opening, batch, wanted).await.records.first() {
                        return Ok(first.offset);
                    }
                }
            }
            at = next;
        }
        Ok(end.0)
    }
}

/// Which offsets of a partition no record has. Without a walk, where no restart can have lost any.
async fn gaps(partition: &Partition) -> Result<Vec<Range<u64>>, StorageError> {
    const HEADERS_PER_CALL: usize = 4096;
    if partition.config.get().durability == Durability::Sync {
        return Ok(Vec::new());
    }
    let (mut at, until) = (partition.log_start().0, partition.high_watermark().0);
    let mut gaps: Vec<Range<u64>> = Vec::new();
    while at < until {
        let heads = partition.headers(Offset(at), HEADERS_PER_CALL, 0).await?;
        if heads.is_empty() {
            break;
        }
        for head in heads {
            gaps.extend(Some(at..head.base.0).filter(|range| !range.is_empty()));
            at = head.base.0 + u64::from(head.span);
        }
    }
    // Once there is a record behind it, it was found above.
    gaps.extend(Some(partition.lost_tail()).filter(|lost| lost.start >= until && !lost.is_empty()));
    Ok(gaps)
}

/// Opens a batch, away from here if that may take long.
async fn open(opening: &Arc<Semaphore>, batch: BatchView, wanted: Wanted) -> window::Found {
    if window::is_light(&batch) {
        return window::open(&batch, wanted);
    }
    // The place goes along: the work runs to its end also if nobody waits for it any more.
    let place = opening.clone().acquire_owned().await;
    blocking(move || {
        let found = window::open(&batch, wanted);
        drop(place);
        found
    })
    .await
}

fn unreadable(error: ferrymq_types::BatchError) -> StorageError {
    StorageError::new(ErrorKind::Internal, "a stored batch is none").caused_by(error)
}
