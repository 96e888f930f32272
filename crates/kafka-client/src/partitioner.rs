//! Which partition a record goes to: Kafka's murmur2 of the key, or a sticky choice without a key.
//!
//! **Invariant.** [`key_partition`] agrees with Kafka's Java client (`Utils.murmur2`), so that records of one
//! key meet in one partition whoever sends them.

use ferrymq_runtime::Rng;
pub use ferrymq_types::partitioner::{key_partition, murmur2};

/// Chooses partitions for records without a key: stays with one for a batch's worth of bytes, then moves on
/// to a random other, so that batches are large and the load is even (KIP-794).
#[derive(Debug)]
pub struct StickyPartitioner {
    rng: Rng,
    current: u32,
    bytes_left: usize,
    stay_bytes: usize,
}

impl StickyPartitioner {
    /// A partitioner that stays for `stay_bytes`.
    #[must_use]
    pub fn new(rng: Rng, stay_bytes: usize) -> StickyPartitioner {
        StickyPartitioner { rng, current: 0, bytes_left: 0, stay_bytes: stay_bytes.max(1) }
    }

    /// The partition of a record of `bytes` among `count` partitions.
    pub fn next(&mut self, bytes: usize, count: u32) -> u32 {
        if self.bytes_left == 0 || self.current >= count {
            self.current = self.another(count);
            self.bytes_left = self.stay_bytes;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes.max(1));
        self.current
    }

    fn another(&self, count: u32) -> u32 {
        if count <= 1 {
            return 0;
        }
        // A random step of 1 ..= count-1 never stays where it was.
        let step = 1 + self.rng.below(u64::from(count) - 1);
        let next = (u64::from(self.current) + step) % u64::from(count);
        u32::try_from(next).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_kafkas() {
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, hash) in cases {
            assert_eq!(murmur2(data).cast_signed(), hash, "{data:?}");
        }
        assert_eq!(key_partition(b"21", 1000), ((-973_932_308i32 & 0x7fff_ffff) % 1000).cast_unsigned());
        assert_eq!(key_partition(b"21", 0), 0);
    }

    #[test]
    fn sticky_stays_for_a_batch_and_covers_all() {
        let mut sticky = StickyPartitioner::new(Rng::seeded(1), 100);
        let chosen: Vec<u32> = (0..1000).map(|_| sticky.next(25, 5)).collect();
        assert!(chosen.chunks(4).all(|four| four.iter().all(|one| *one == four[0])));
        assert!(chosen.chunks(4).is_sorted_by(|a, b| a[0] != b[0]), "each change is to another");
        assert!((0..5).all(|partition| chosen.contains(&partition)));
        assert_eq!(sticky.next(25, 1), 0);
        assert_eq!(sticky.next(25, 0), 0);
    }
}
