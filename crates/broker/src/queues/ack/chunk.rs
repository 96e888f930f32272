//! 1,024 offsets of an ack state: which are acquired, which were returned, how often.
//!
//! **Invariants.** A bit is in at most one of the two sets; in neither, the offset is done, or does not exist, or
//! was never acquired. Counts are allocated by the first that is not zero; what failed was returned as well.

use super::Counts;

/// Offsets in a chunk.
pub(super) const SIZE: u64 = 1024;
const WORDS: usize = 16;

/// 1,024 offsets.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunk {
    acquired: [u64; WORDS],
    returned: [u64; WORDS],
    live: u32,
    counts: Option<Box<[u16; 1024]>>,
    failures: Option<Box<[u16; 1024]>>,
}

fn place(bit: u64) -> (usize, u64) {
    (((bit / 64) % WORDS as u64) as usize, 1 << (bit % 64))
}

impl Chunk {
    pub(super) fn is_acquired(&self, bit: u64) -> bool {
        let (word, mask) = place(bit);
        self.acquired[word] & mask != 0
    }

    pub(super) fn is_returned(&self, bit: u64) -> bool {
        let (word, mask) = place(bit);
        self.returned[word] & mask != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Never acquired before.
    pub(super) fn acquire_fresh(&mut self, bit: u64) {
        let (word, mask) = place(bit);
        self.acquired[word] |= mask;
        self.live += 1;
    }

    /// Returned before.
    pub(super) fn acquire_returned(&mut self, bit: u64) {
        let (word, mask) = place(bit);
        self.returned[word] &= !mask;
        self.acquired[word] |= mask;
    }

    /// Acquired before.
    pub(super) fn release(&mut self, bit: u64) {
        let (word, mask) = place(bit);
        self.acquired[word] &= !mask;
        self.returned[word] |= mask;
    }

    /// Not done in an earlier life.
    pub(super) fn restore(&mut self, bit: u64) {
        let (word, mask) = place(bit);
        self.returned[word] |= mask;
        self.live += 1;
    }

    pub(super) fn finish(&mut self, bit: u64) {
        let (word, mask) = place(bit);
        self.acquired[word] &= !mask;
        self.live -= 1;
    }

    pub(super) fn drop_returned(&mut self, bit: u64) {
        let (word, mask) = place(bit);
        self.returned[word] &= !mask;
        self.live -= 1;
    }

    /// How often it was returned.
    pub(super) fn count(&self, bit: u64) -> u16 {
        self.counts.as_ref().map_or(0, |counts| counts[(bit % SIZE) as usize])
    }

    /// How often it failed.
    pub(super) fn failed(&self, bit: u64) -> u16 {
        self.failures.as_ref().map_or(0, |counts| counts[(bit % SIZE) as usize])
    }

    pub(super) fn set_failed(&mut self, bit: u64, count: u16) {
        self.failures.get_or_insert_with(|| Box::new([0; 1024]))[(bit % SIZE) as usize] = count;
    }

    pub(super) fn set_count(&mut self, bit: u64, count: u16) {
        self.counts.get_or_insert_with(|| Box::new([0; 1024]))[(bit % SIZE) as usize] = count;
    }

    pub(super) fn first_returned(&self) -> Option<u64> {
        first(self.returned.iter().copied())
    }

    pub(super) fn first_live(&self) -> Option<u64> {
        first(self.words())
    }

    /// What is acquired or returned, ascending.
    pub(super) fn live(&self) -> impl Iterator<Item = u64> {
        self.words().enumerate().flat_map(|(index, word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
                rest &= rest - 1;
                Some(index as u64 * 64 + bit)
            })
        })
    }

    /// How often what is acquired or returned was returned and failed, where it was.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u64, Counts)> {
        let some = self.counts.is_some();
        let live = self.live().filter(move |_| some);
        live.map(|bit| (bit, self.counts_of(bit))).filter(|(_, counts)| *counts != Counts::default())
    }

    pub(super) fn counts_of(&self, bit: u64) -> Counts {
        Counts { returned: self.count(bit), failed: self.failed(bit) }
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.acquired.iter().zip(&self.returned).map(|(acquired, returned)| acquired | returned)
    }
}

fn first(words: impl Iterator<Item = u64>) -> Option<u64> {
    words
        .enumerate()
        .find(|(_, word)| *word != 0)
        .map(|(at, word)| at as u64 * 64 + u64::from(word.trailing_zeros()))
}
