//! The ack machine: who has what of a log. Pure; knows no protocol, no log and no clock.
//!
//! ```text
//!        floor                     fresh                     end
//!          |                         |                        |
//!   done   | returned acquired done  |  never acquired        |  not there yet
//! ```
//! Only what lies between floor and fresh and is not done has a bit, in chunks of 1,024 offsets; a chunk without
//! bits is not there. Ten million untouched messages therefore cost nothing, and a long tail of done ones
//! behind a stuck one costs the stuck one's chunk.
//!
//! What must be durable leaves through [`AckState::take_delta`]: offsets done above the floor and how often others
//! were returned and failed. What is below the floor is told by the log's start. [`Replay`] takes deltas and snapshots
//! in and becomes the state again: nothing is acquired, what was not done is available.
//!
//! **Invariants.**
//! - Lowest offset first: what was returned lies below everything fresh.
//! - Offsets that do not exist are done as soon as fresh has passed them; nobody has to name them.
//! - The number of chunks is bounded; where a new one would be needed beyond it, nothing more is acquired until
//!   something is done. No state is ever dropped.
//! - Acquisition is never part of a delta or snapshot.
//!
//! Deliberately absent: who acquired, timeouts, credit, dead letters (their callers keep those).

mod chunk;
mod ranges;
mod record;
mod replay;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use chunk::{Chunk, SIZE};
pub use ranges::Ranges;
pub use record::{AckRecord, AckRecordError};
pub use replay::Replay;

/// Chunks of one state at a time: 16.7 million offsets if they lie together, at most 5 MiB.
pub const CHUNKS_MAX: usize = 16_384;

/// Who has what of one log.
#[derive(Debug, Clone)]
pub struct AckState {
    floor: u64,
    fresh: u64,
    end: u64,
    /// Offsets below may have been delivered in an earlier life.
    delivered: u64,
    chunks: BTreeMap<u64, Box<Chunk>>,
    chunks_max: usize,
    returned: u64,
    acquired: u64,
    fresh_ready: u64,
    /// Nothing returned lies below.
    lowest_returned: u64,
    /// Done since the last delta, unsorted, neighbours joined.
    done: Vec<Range<u64>>,
    /// Whose counts changed since the last delta.
    counted: BTreeSet<u64>,
}

/// What is to be delivered next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Exactly this one, which was returned.
    Returned(u64),
    /// The first that exists at or above this.
    Fresh(u64),
}

/// Something was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// How often it was returned.
    pub returned: u16,
    /// How often of that because it failed.
    pub failed: u16,
}

/// How often one was returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    returned: u16,
    /// Of that, because it failed.
    failed: u16,
}

/// There are as many chunks as there may be; something must be done first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What changed and is not told by the floor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Done, ascending, apart from each other, all above the floor.
    pub done: Vec<Range<u64>>,
    /// How often each of these was returned, ascending.
    pub counts: Vec<(Range<u64>, u16)>,
    /// How often each of these failed, ascending.
    pub failures: Vec<(Range<u64>, u16)>,
}

impl Delta {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.counts.is_empty() && self.failures.is_empty()
    }

    /// Adds how often one was returned and failed; offsets ascend.
    fn count(&mut self, offset: u64, counts: Counts) {
        for (runs, count) in [(&mut self.counts, counts.returned), (&mut self.failures, counts.failed)] {
            match runs.last_mut() {
                Some((range, same)) if range.end == offset && *same == count => range.end += 1,
                _ if count > 0 => runs.push((offset..offset + 1, count)),
                _ => {}
            }
        }
    }
}

impl AckState {
    /// A log of which nothing was ever acquired and that begins, empty, at `start`.
    #[must_use]
    pub fn new(start: u64) -> AckState {
        AckState {
            floor: start,
            fresh: start,
            end: start,
            delivered: start,
            chunks: BTreeMap::new(),
            chunks_max: CHUNKS_MAX,
            returned: 0,
            acquired: 0,
            fresh_ready: 0,
            lowest_returned: start,
            done: Vec::new(),
            counted: BTreeSet::new(),
        }
    }

    /// The same with another bound of chunks.
    #[must_use]
    pub fn with_chunks_max(mut self, chunks_max: usize) -> AckState {
        self.chunks_max = chunks_max.max(1);
        self
    }

    /// Everything below is done.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Nothing at or above was ever acquired in this life.
    #[must_use]
    pub fn fresh(&self) -> u64 {
        self.fresh
    }

    /// Behind the last offset known.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Offsets below may have been delivered, in this life or before.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.max(self.fresh)
    }

    /// How many are available.
    #[must_use]
    pub fn ready(&self) -> u64 {
        self.returned + self.fresh_ready
    }

    /// Whether anything that was returned is available.
    #[must_use]
    pub fn has_returned(&self) -> bool {
        self.returned > 0
    }

    /// Whether anything changed since the last delta that it may have to tell.
    #[must_use]
    pub fn owes_a_delta(&self) -> bool {
        !self.done.is_empty() || !self.counted.is_empty()
    }

    /// How many are acquired.
    #[must_use]
    pub fn acquired(&self) -> u64 {
        self.acquired
    }

    /// Chunks there are.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// These exist now and are available. What lies between the end and them does not exist.
    pub fn extend(&mut self, offsets: Range<u64>) {
        debug_assert!(self.end <= offsets.start, "offsets are given out once");
        self.end = offsets.end;
        self.fresh_ready += offsets.end - offsets.start;
    }

    /// What is to be acquired next, if anything is available.
    pub fn first_available(&mut self) -> Option<Next> {
        if self.returned > 0 {
            let from = self.lowest_returned / SIZE;
            let mut chunks = self.chunks.range(from..);
            let found = chunks.find_map(|(number, chunk)| Some(number * SIZE + chunk.first_returned()?));
            if let Some(offset) = found {
                self.lowest_returned = offset;
                return Some(Next::Returned(offset));
            }
        }
        (self.fresh < self.end).then_some(Next::Fresh(self.fresh))
    }

    /// Whether this one was returned and is available.
    #[must_use]
    pub fn is_returned(&self, offset: u64) -> bool {
        self.chunks.get(&(offset / SIZE)).is_some_and(|chunk| chunk.is_returned(offset % SIZE))
    }

    /// Whether this one is acquired.
    #[must_use]
    pub fn is_acquired(&self, offset: u64) -> bool {
        self.chunks.get(&(offset / SIZE)).is_some_and(|chunk| chunk.is_acquired(offset % SIZE))
    }

    /// Acquires what [`AckState::first_available`] told: that very offset if it was returned, else the first that exists.
    ///
    /// # Errors
    /// [`Full`]; then nothing changed.
    pub fn acquire(&mut self, offset: u64) -> Result<Acquired, Full> {
        if offset < self.fresh {
            let chunk = self.chunks.get_mut(&(offset / SIZE));
            debug_assert!(chunk.is_some(), "only what is available is acquired");
            let Some(chunk) = chunk.filter(|chunk| chunk.is_returned(offset % SIZE)) else {
                return Ok(Acquired { redelivered: true, returned: 0, failed: 0 });
            };
            chunk.acquire_returned(offset % SIZE);
            let Counts { returned, failed } = chunk.counts_of(offset % SIZE);
            self.returned -= 1;
            self.acquired += 1;
            return Ok(Acquired { redelivered: true, returned, failed });
        }
        debug_assert!(offset < self.end, "only what exists is acquired");
        let number = offset / SIZE;
        if self.chunks.len() >= self.chunks_max && !self.chunks.contains_key(&number) {
            return Err(Full);
        }
        if self.chunks.is_empty() {
            self.floor = offset;
        }
        self.chunks.entry(number).or_default().acquire_fresh(offset % SIZE);
        self.fresh = offset + 1;
        self.fresh_ready = self.fresh_ready.saturating_sub(1);
        self.acquired += 1;
        Ok(Acquired { redelivered: offset < self.delivered, returned: 0, failed: 0 })
    }

    /// Gives an acquired one back to its place; `counted`: it counts as returned. False if it was not acquired.
    pub fn release(&mut self, offset: u64, counted: bool) -> bool {
        self.give_back(offset, counted, false)
    }

    /// Gives an acquired one back to its place, counted as returned and as failed. False if it was not acquired.
    pub fn fail(&mut self, offset: u64) -> bool {
        self.give_back(offset, true, true)
    }

    /// How often an acquired one failed.
    #[must_use]
    pub fn failed(&self, offset: u64) -> u16 {
        self.chunks.get(&(offset / SIZE)).map_or(0, |chunk| chunk.failed(offset % SIZE))
    }

    /// Counts an acquired one as returned and, if it `failed`, as failed; it stays acquired. False if it was not.
    pub fn count(&mut self, offset: u64, failed: bool) -> bool {
        let bit = offset % SIZE;
        let chunk = self.chunks.get_mut(&(offset / SIZE)).filter(|chunk| chunk.is_acquired(bit));
        let Some(chunk) = chunk else { return false };
        chunk.set_count(bit, chunk.count(bit).saturating_add(1));
        if failed {
            chunk.set_failed(bit, chunk.failed(bit).saturating_add(1));
        }
        self.counted.insert(offset);
        true
    }

    /// Those that are available and were returned before: how often, and how often of that because they failed.
    pub fn returned_before(&self) -> impl Iterator<Item = (u64, u16, u16)> {
        let counted = self.chunks.iter().flat_map(|(number, chunk)| {
            let returned = chunk.counts().filter(|(bit, _)| chunk.is_returned(*bit));
            returned.map(move |(bit, counts)| (number * SIZE + bit, counts))
        });
        counted.map(|(offset, counts)| (offset, counts.returned, counts.failed))
    }

    fn give_back(&mut self, offset: u64, counted: bool, failed: bool) -> bool {
        if counted {
            self.count(offset, failed);
        }
        let Some(chunk) = self.chunks.get_mut(&(offset / SIZE)) else { return false };
        if !chunk.is_acquired(offset % SIZE) {
            return false;
        }
        chunk.release(offset % SIZE);
        self.lowest_returned = if self.returned == 0 { offset } else { self.lowest_returned.min(offset) };
        self.returned += 1;
        self.acquired -= 1;
        true
    }

    /// An acquired one is done. False if it was not acquired.
    pub fn finish(&mut self, offset: u64) -> bool {
        let number = offset / SIZE;
        let Some(chunk) = self.chunks.get_mut(&number) else { return false };
        if !chunk.is_acquired(offset % SIZE) {
            return false;
        }
        chunk.finish(offset % SIZE);
        if chunk.is_empty() {
            self.chunks.remove(&number);
        }
        self.acquired -= 1;
        self.note_done(offset..offset + 1);
        if offset == self.floor {
            self.raise_floor();
        }
        true
    }

    /// All acquired ones of these are done; how many.
    pub fn finish_range(&mut self, offsets: Range<u64>) -> u64 {
        let acquired: Vec<u64> = self.live_in(offsets, Chunk::is_acquired);
        acquired.iter().filter(|offset| self.finish(**offset)).count() as u64
    }

    /// Everything available is done; how many.
    pub fn finish_available(&mut self) -> u64 {
        let count = self.ready();
        for offset in self.live_in(self.floor..self.fresh, Chunk::is_returned) {
            self.drop_returned(offset);
        }
        if self.fresh < self.end {
            self.note_done(self.fresh..self.end);
            self.fresh = self.end;
        }
        self.fresh_ready = 0;
        self.raise_floor();
        count
    }

    /// These turned out not to exist: whatever of them is available is done.
    pub fn lost(&mut self, offsets: Range<u64>) {
        self.lost_of(offsets, |fresh| fresh.end - fresh.start);
    }

    /// The same; `told` knows how many of a range were told to exist.
    pub fn lost_of(&mut self, offsets: Range<u64>, told: impl FnOnce(Range<u64>) -> u64) {
        for offset in self.live_in(offsets.clone(), Chunk::is_returned) {
            self.drop_returned(offset);
        }
        let fresh = offsets.end.min(self.end);
        if offsets.start <= self.fresh && self.fresh < fresh {
            let passed = told(self.fresh..fresh);
            self.fresh_ready = if fresh == self.end { 0 } else { self.fresh_ready.saturating_sub(passed) };
            self.note_done(self.fresh..fresh);
            self.fresh = fresh;
        }
        self.raise_floor();
    }

    /// The log begins at `start` now: whatever was available below is done; how many. `told` as above.
    pub fn trimmed(&mut self, start: u64, told: impl FnOnce(Range<u64>) -> u64) -> u64 {
        let before = self.ready();
        self.lost_of(self.floor..start, told);
        before - self.ready()
    }

    /// What changed since the last call and lies above the floor.
    pub fn take_delta(&mut self) -> Delta {
        let mut done = Ranges::default();
        for range in self.done.drain(..) {
            if range.end > self.floor {
                done.insert(range.start.max(self.floor)..range.end);
            }
        }
        let mut delta = Delta { done: done.iter().collect(), ..Delta::default() };
        for offset in std::mem::take(&mut self.counted) {
            if offset < self.floor || !self.is_returned(offset) && !self.is_acquired(offset) {
                continue;
            }
            if let Some(chunk) = self.chunks.get(&(offset / SIZE)) {
                delta.count(offset, chunk.counts_of(offset % SIZE));
            }
        }
        delta
    }

    /// Whether anything is kept beside the floor that a snapshot must hold.
    #[must_use]
    pub fn has_state(&self) -> bool {
        !self.chunks.is_empty() || self.delivered > self.fresh
    }

    /// What is done between floor and fresh, gaps included: ascending, apart from each other.
    pub fn done_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let mut at = self.floor;
        let live =
            self.chunks.iter().flat_map(|(number, chunk)| chunk.live().map(move |bit| number * SIZE + bit));
        live.chain(std::iter::once(self.fresh)).filter_map(move |live| {
            let range = at..live;
            at = live + 1;
            (!range.is_empty()).then_some(range)
        })
    }

    /// The whole state as records to be replayed in this order.
    #[must_use]
    pub fn snapshot(&self) -> Vec<AckRecord> {
        let mut records = vec![AckRecord::Reset { floor: self.floor, delivered: self.delivered() }];
        let mut delta = Delta::default();
        for range in self.done_ranges() {
            delta.done.push(range);
            record::cut(&mut delta, &mut records);
        }
        for (number, chunk) in &self.chunks {
            for (bit, count) in chunk.counts() {
                delta.count(number * SIZE + bit, count);
                record::cut(&mut delta, &mut records);
            }
        }
        if !delta.is_empty() {
            records.push(AckRecord::Delta(delta));
        }
        records
    }

    fn drop_returned(&mut self, offset: u64) {
        let number = offset / SIZE;
        let Some(chunk) = self.chunks.get_mut(&number) else { return };
        chunk.drop_returned(offset % SIZE);
        if chunk.is_empty() {
            self.chunks.remove(&number);
        }
        self.returned -= 1;
        self.note_done(offset..offset + 1);
    }

    fn note_done(&mut self, range: Range<u64>) {
        match self.done.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.done.push(range),
        }
        if self.done.len() > 64 && self.done[0].end <= self.floor {
            let floor = self.floor;
            self.done.retain(|range| range.end > floor);
        }
    }

    fn raise_floor(&mut self) {
        self.floor = match self.chunks.first_key_value() {
            Some((number, chunk)) => chunk.first_live().map_or(self.fresh, |bit| number * SIZE + bit),
            None => self.fresh,
        };
    }

    /// Offsets of these for which `which` holds.
    fn live_in(&self, offsets: Range<u64>, which: impl Fn(&Chunk, u64) -> bool) -> Vec<u64> {
        if offsets.is_empty() {
            return Vec::new();
        }
        let chunks = self.chunks.range(offsets.start / SIZE..=(offsets.end - 1) / SIZE);
        let live = chunks.flat_map(|(number, chunk)| chunk.live().map(move |bit| (number, chunk, bit)));
        live.filter(|(_, chunk, bit)| which(chunk, *bit))
            .map(|(number, _, bit)| number * SIZE + bit)
            .filter(|offset| offsets.contains(offset))
            .collect()
    }
}
