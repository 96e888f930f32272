//! Which partition a key belongs to: Kafka's murmur2.
//!
//! **Invariant.** [`key_partition`] agrees with Kafka's Java client (`Utils.murmur2`), so that records of one
//! key meet in one partition whoever sends them.
//!
//! Deliberately absent: records without a key; who has such chooses.

/// Kafka's 32-bit murmur2, seed `0x9747b28c`.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key among `count` partitions; 0 if there are none.
#[must_use]
pub fn key_partition(key: &[u8], count: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff).checked_rem(count).unwrap_or(0)
}
