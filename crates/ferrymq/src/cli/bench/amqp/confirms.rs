//! Which publishings a broker has settled, from its acks and nacks.
//!
//! **Invariants.** A publishing is settled once, in whatever order its number comes; the number that is settled
//! never falls. A number twice, or one that was never sent, is a fault of the broker and said so.

use std::collections::BTreeSet;

/// What is settled so far.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// All numbers up to this one.
    low: u64,
    /// Others above it.
    ahead: BTreeSet<u64>,
    refused: u64,
}

impl Confirms {
    /// How many are settled.
    pub(super) fn count(&self) -> u64 {
        self.low + self.ahead.len() as u64
    }

    /// All numbers up to this one are settled.
    pub(super) fn low(&self) -> u64 {
        self.low
    }

    /// How many of them the broker refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Settles `tag`, with `multiple` all up to it.
    pub(super) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        refused: bool,
        sent: u64,
    ) -> anyhow::Result<()> {
        anyhow::ensure!((1..=sent).contains(&tag), "a confirm of {tag}; {sent} were sent");
        let before = self.count();
        if multiple {
            anyhow::ensure!(tag >= self.low, "a second confirm of {tag}");
            self.low = tag;
            self.ahead = self.ahead.split_off(&(tag + 1));
        } else {
            anyhow::ensure!(tag > self.low && self.ahead.insert(tag), "a second confirm of {tag}");
        }
        while self.ahead.remove(&(self.low + 1)) {
            self.low += 1;
        }
        self.refused += if refused { self.count() - before } else { 0 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_settles_each_once() {
        let mut confirms = Confirms::default();
        for (tag, multiple, count, low) in [
            (1, false, 1, 1),
            (5, false, 2, 1),
            (3, true, 4, 3),
            (7, false, 5, 3),
            (4, false, 6, 5),
            (9, true, 9, 9),
        ] {
            confirms.settle(tag, multiple, false, 9).unwrap();
            assert_eq!((confirms.count(), confirms.low()), (count, low), "after {tag}");
        }
        assert_eq!(confirms.refused(), 0);
    }

    #[test]
    fn refusals_are_counted() {
        let mut confirms = Confirms::default();
        confirms.settle(2, false, false, 4).unwrap();
        confirms.settle(4, true, true, 4).unwrap();
        assert_eq!((confirms.count(), confirms.refused()), (4, 3));
    }

    #[test]
    fn a_broker_that_confirms_twice_is_told_on() {
        let mut confirms = Confirms::default();
        confirms.settle(2, true, false, 9).unwrap();
        confirms.settle(4, false, false, 9).unwrap();
        for (tag, multiple) in [(2, false), (4, false), (1, true), (10, false), (0, true)] {
            assert!(confirms.settle(tag, multiple, false, 9).is_err(), "{tag}");
        }
    }
}
