//! Random numbers from one seeded source, so that a run can be repeated.
//!
//! **Invariant.** What [`Rng::secret_u128`] gives out tells nothing of what it gives out next, unless the source was
//! seeded by hand.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::{OsRng, SmallRng};
use rand::{Rng as _, SeedableRng, TryRngCore as _};

/// A handle to a random number generator; cheap to clone. Not for keys or passwords, but for
/// [`Rng::secret_u128`].
#[derive(Debug, Clone)]
pub struct Rng {
    numbers: Arc<Mutex<SmallRng>>,
    seeded: bool,
}

impl Rng {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_os() -> Rng {
        Rng { numbers: Arc::new(Mutex::new(SmallRng::from_os_rng())), seeded: false }
    }

    /// The same numbers for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Rng {
        Rng { numbers: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))), seeded: true }
    }

    /// 64 random bits.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.numbers.lock().random()
    }

    /// 128 random bits.
    #[must_use]
    pub fn next_u128(&self) -> u128 {
        self.numbers.lock().random()
    }

    /// 128 random bits for a name that gives access: whoever knows others cannot guess it. From the operating system,
    /// or from the seed where one was given.
    ///
    /// # Panics
    /// If the operating system has no random numbers, as [`Rng::from_os`] does.
    #[must_use]
    pub fn secret_u128(&self) -> u128 {
        if self.seeded { self.next_u128() } else { OsRng.unwrap_err().random() }
    }

    /// A number below `bound`; 0 if the bound is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.numbers.lock().random_range(0..bound) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_the_seeds_or_do_not_follow_from_the_other_numbers() {
        let (a, b) = (Rng::seeded(1), Rng::seeded(1));
        assert_eq!(a.secret_u128(), b.next_u128());
        let c = Rng::from_os();
        let twin = Rng { numbers: Arc::new(Mutex::new(c.numbers.lock().clone())), seeded: false };
        assert_ne!(c.secret_u128(), twin.next_u128());
    }
}
