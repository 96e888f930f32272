//! Which of the unsynced changes one power cut spares.
//!
//! **Invariant.** The seed alone decides. States in which nothing, everything, or everything up to one
//! moment survived come up often, because that is where recovery code differs; the rest is mixed.
//!
//! Deliberately absent: which changes depend on which. The files and the names know that.

use super::rng::Rng;

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Kept,
    Dropped,
    /// Some of its sectors were written.
    Torn,
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    /// Only what was synced.
    Nothing,
    Everything,
    /// Everything before this place in the order of changes; the change at it is torn.
    UpTo(u64),
    /// Each change by itself; of 256 chances so many to be kept and so many to be torn.
    Each {
        kept: u64,
        torn: u64,
    },
}

/// One power cut.
#[derive(Debug)]
pub(super) struct Crash {
    rng: Rng,
    mode: Mode,
}

impl Crash {
    /// The power cut of this seed; `now` is the place of the last change in the order.
    pub(super) fn random(seed: u64, now: u64) -> Crash {
        let mut rng = Rng::new(seed);
        let mode = match rng.below(16) {
            0 => Mode::Nothing,
            1 => Mode::Everything,
            // Most changes are long synced: look among the last ones more often than among all.
            2..=5 if now != u64::MAX => {
                let window = [4, 16, 64, now.max(1)][usize::try_from(rng.below(4)).unwrap_or(0)];
                Mode::UpTo(now.saturating_sub(rng.below(window.min(now.max(1)))))
            }
            _ => {
                let kept = rng.below(257);
                let torn = rng.below(257 - kept);
                Mode::Each { kept, torn }
            }
        };
        Crash { rng, mode }
    }

    /// The power cut that spares nothing.
    pub(super) fn to_synced() -> Crash {
        Crash { rng: Rng::new(0), mode: Mode::Nothing }
    }

    /// What becomes of the change at this place.
    pub(super) fn fate(&mut self, sequence: u64) -> Fate {
        match self.mode {
            Mode::Nothing => Fate::Dropped,
            Mode::Everything => Fate::Kept,
            Mode::UpTo(at) => match sequence.cmp(&at) {
                std::cmp::Ordering::Less => Fate::Kept,
                std::cmp::Ordering::Equal => Fate::Torn,
                std::cmp::Ordering::Greater => Fate::Dropped,
            },
            Mode::Each { kept, torn } => match self.rng.below(256) {
                roll if roll < kept => Fate::Kept,
                roll if roll < kept + torn => Fate::Torn,
                _ => Fate::Dropped,
            },
        }
    }

    /// For a change that is all or nothing.
    pub(super) fn keeps(&mut self, sequence: u64) -> bool {
        match self.fate(sequence) {
            Fate::Kept => true,
            Fate::Dropped => false,
            Fate::Torn => self.rng.coin(),
        }
    }

    /// How many of a file's changes, from the first on, had their effect on its length written.
    pub(super) fn settled(&mut self, fates: &[Fate]) -> usize {
        match self.mode {
            Mode::Nothing => 0,
            Mode::Everything => fates.len(),
            Mode::UpTo(_) => {
                let whole = fates.iter().take_while(|fate| **fate == Fate::Kept).count();
                let torn = fates.get(whole) == Some(&Fate::Torn) && self.rng.coin();
                whole + usize::from(torn)
            }
            Mode::Each { .. } => {
                usize::try_from(self.rng.below(fates.len() as u64 + 1)).unwrap_or(fates.len())
            }
        }
    }

    /// Which of a write's sectors were written: a front, a back, or any.
    pub(super) fn tear(&mut self, sectors: u64) -> Vec<bool> {
        let cut = self.rng.below(sectors + 1);
        let shape = self.rng.below(3);
        (0..sectors)
            .map(|sector| match shape {
                0 => sector < cut,
                1 => sector >= cut,
                _ => self.rng.coin(),
            })
            .collect()
    }
}
