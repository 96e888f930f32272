//! Maps whose keys are numbers within one connection: channels and tokens of consumers.
//!
//! **Invariant.** Only one connection's own numbers are in a map: whoever chose them so that they collide, which
//! takes some thousand channels, slows down nobody else.
//!
//! Deliberately absent: keys that are anything but one number; the standard hasher is for those.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by number.
pub(crate) type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Half of the golden ratio's digits: neighbours land far from each other.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads one number over 64 bits. A channel is looked up several times for each frame.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let spread = (self.0 ^ number).wrapping_mul(FACTOR);
        // The table looks at the low bits and at the highest seven: both get something of every bit.
        self.0 = spread ^ (spread >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    use super::*;

    #[test]
    fn channels_do_not_crowd() {
        let build = BuildHasherDefault::<NumberHasher>::default();
        let hashes: Vec<u64> = (0..=u16::MAX).map(|number| build.hash_one(number)).collect();
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), hashes.len(), "each its own");
        // As many buckets as numbers: by chance, about 0.63 of them are taken.
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
        let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(low.len() > 30_000 && high.len() == 128, "{} and {}", low.len(), high.len());
    }
}
