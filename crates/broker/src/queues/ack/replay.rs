//! Ack records read back, and the state that they and the log describe.
//!
//! **Invariants.** Replaying allocates in the number of records, never in the width of a range; only where the
//! log says that messages exist does a state get bits.

use std::ops::Range;

use super::chunk::SIZE;
use super::{AckRecord, AckState, Delta, Ranges};

/// What the records of one log said so far.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    done: Ranges,
    counts: Vec<(Range<u64>, u16)>,
    failures: Vec<(Range<u64>, u16)>,
    delivered: u64,
}

impl Replay {
    /// Takes the next record in.
    pub fn apply(&mut self, record: AckRecord) {
        match record {
            AckRecord::Delta(Delta { done, counts, failures }) => {
                done.into_iter().for_each(|range| self.done.insert(range));
                self.counts.extend(counts);
                self.failures.extend(failures);
            }
            AckRecord::Reset { floor, delivered } => {
                *self = Replay { delivered, ..Replay::default() };
                self.done.insert(0..floor);
            }
        }
    }

    /// The first offset at or above `start` that is not done.
    #[must_use]
    pub fn floor(&self, start: u64) -> u64 {
        self.done.first_missing(start)
    }

    /// How many of these are not done.
    #[must_use]
    pub fn left(&self, of: Range<u64>) -> u64 {
        self.done.missing(of).into_iter().map(|range| range.end - range.start).sum()
    }

    /// The state of a log that begins at `start` and in which messages exist at `existing` (ascending), its next
    /// offset being `next`. `clean`: nothing was delivered after the last record.
    #[must_use]
    pub fn restore(
        &self,
        start: u64,
        next: u64,
        existing: impl IntoIterator<Item = Range<u64>>,
        clean: bool,
    ) -> AckState {
        let mut state = AckState::new(start);
        state.end = next.max(start);
        let counted = self.counts.iter().map(|(range, _)| range.end).max().unwrap_or(0);
        state.fresh = self.done.end().max(counted).clamp(start, state.end);
        state.delivered = if clean { self.delivered.min(state.end) } else { state.end };
        for range in existing {
            let range = range.start.max(start)..range.end.min(state.end);
            if range.is_empty() {
                continue;
            }
            let behind = range.start.max(state.fresh)..range.end;
            state.fresh_ready += behind.end.saturating_sub(behind.start);
            for offset in self
                .done
                .missing(range.start..range.end.min(state.fresh).max(range.start))
                .into_iter()
                .flatten()
            {
                state.chunks.entry(offset / SIZE).or_default().restore(offset % SIZE);
                state.returned += 1;
            }
        }
        for (range, count) in &self.counts {
            for offset in state.live_in(range.clone(), |_, _| true) {
                if let Some(chunk) = state.chunks.get_mut(&(offset / SIZE)) {
                    chunk.set_count(offset % SIZE, *count);
                }
            }
        }
        for (range, count) in &self.failures {
            for offset in state.live_in(range.clone(), |_, _| true) {
                if let Some(chunk) = state.chunks.get_mut(&(offset / SIZE)) {
                    chunk.set_failed(offset % SIZE, *count);
                }
            }
        }
        state.raise_floor();
        state.lowest_returned = state.floor;
        state
    }
}
