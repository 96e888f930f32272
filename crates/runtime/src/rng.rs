//! Random numbers from one seeded source, so that a run can be repeated.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};

/// A handle to a random number generator; cheap to clone. Not for keys or passwords.
#[derive(Debug, Clone)]
pub struct Rng(Arc<Mutex<SmallRng>>);

impl Rng {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_os() -> Rng {
        Rng(Arc::new(Mutex::new(SmallRng::from_os_rng())))
    }

    /// The same numbers for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Rng {
        Rng(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))))
    }

    /// 64 random bits.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.0.lock().random()
    }

    /// 128 random bits.
    #[must_use]
    pub fn next_u128(&self) -> u128 {
        self.0.lock().random()
    }

    /// A number below `bound`; 0 if the bound is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.lock().random_range(0..bound) }
    }
}
