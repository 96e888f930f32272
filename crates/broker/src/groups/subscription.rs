//! The topics of a consumer's subscription: the one part of a member's metadata that the broker looks into.
//!
//! ```text
//! version i16, topic count i32, topics (length i16, bytes), anything
//! ```
//! Source: Kafka's ConsumerProtocolSubscription; version 0 is a prefix of all later ones.
//!
//! **Invariants.** Lenient and bounded: what does not parse is `None`, nothing is allocated from a declared
//! count.
//!
//! Deliberately absent: user data, owned partitions, generation, rack: they are between members and leader.

use std::collections::BTreeSet;

/// The topics a member subscribes to; `None` if the metadata is not a subscription.
pub(super) fn topics(metadata: &[u8]) -> Option<BTreeSet<&str>> {
    let (version, rest) = metadata.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    // A topic takes two bytes at least.
    if count > rest.len() / 2 {
        return None;
    }
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (topic, after) = after.split_at_checked(length)?;
        topics.insert(std::str::from_utf8(topic).ok()?);
        rest = after;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_found_in_every_version() {
        let v0 = b"\x00\x00\x00\x00\x00\x02\x00\x01a\x00\x02bc\xff\xff\xff\xff";
        assert_eq!(topics(v0), Some(BTreeSet::from(["a", "bc"])));
        let v3_with_more =
            b"\x00\x03\x00\x00\x00\x01\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07";
        assert_eq!(topics(v3_with_more), Some(BTreeSet::from(["a"])));
        assert_eq!(topics(b"\x00\x01\x00\x00\x00\x00"), Some(BTreeSet::new()));
    }

    #[test]
    fn what_is_no_subscription_is_none() {
        let whole = b"\x00\x00\x00\x00\x00\x02\x00\x01a\x00\x02bc";
        for cut in 0..whole.len() {
            assert_eq!(topics(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(topics(b"\x00\x00\x7f\xff\xff\xff\x00\x01a"), None);
        assert_eq!(topics(b"\x00\x00\xff\xff\xff\xff"), None);
        assert_eq!(topics(b"\xff\xff\x00\x00\x00\x00"), None);
        assert_eq!(topics(b"\x00\x00\x00\x00\x00\x01\x00\x01\xff"), None);
    }
}
