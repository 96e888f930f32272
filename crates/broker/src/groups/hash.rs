//! Which shard a group belongs to.
//!
//! **Invariant.** The function never changes: a group's offsets are in the log it was hashed to. It is the one
//! Kafka uses for the same purpose, Java's `String.hashCode` over UTF-16 units.
//!
//! Deliberately absent: changing the number of shards; that would move groups between logs.

/// The shard of `group` among `shards`; 0 if there is at most one.
#[must_use]
pub fn shard_of(group: &str, shards: usize) -> usize {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    // Kafka takes i32::MIN, which has no positive counterpart, as 0.
    let positive = if hash == i32::MIN { 0 } else { hash.unsigned_abs() };
    positive as usize % shards.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_javas_hash() {
        // Values of String.hashCode: "" 0, "a" 97, "hello" 99162322, "polygenelubricants" i32::MIN.
        assert_eq!(shard_of("", 50), 0);
        assert_eq!(shard_of("a", 50), 47);
        assert_eq!(shard_of("hello", 1000), 322);
        assert_eq!(shard_of("polygenelubricants", 50), 0);
        assert_eq!(shard_of("日本", 1000), (0x65e5 * 31 + 0x672c) % 1000);
        // A negative one: "orders" -1008770331.
        assert_eq!(shard_of("orders", 50), 31);
    }
}
