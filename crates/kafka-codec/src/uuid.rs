//! Kafka's UUID: sixteen bytes, printed as unpadded URL-safe base64.
//!
//! Deliberately absent: making random ones; whoever makes topic ids owns a random source.

use std::fmt;

/// A topic id, directory id or incarnation id.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// "No id".
    pub const ZERO: Self = Self([0; 16]);

    /// The bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Is it "no id"?
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        let mut text = String::with_capacity(22);
        // 128 bits are 21 groups of six and two bits more, which the last character carries on top.
        for shift in (2..=122).rev().step_by(6) {
            let index = usize::try_from((bits >> shift) & 0x3f).unwrap_or_default();
            text.push(char::from(ALPHABET[index]));
        }
        let last = usize::try_from((bits << 4) & 0x3f).unwrap_or_default();
        text.push(char::from(ALPHABET[last]));
        f.pad(&text)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<[u8; 16]> for Uuid {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_kafka_does() {
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        // Kafka's METADATA_TOPIC_ID, whose last byte is 1.
        let mut one = [0; 16];
        one[15] = 1;
        assert_eq!(Uuid(one).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        let all: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 17).unwrap());
        assert_eq!(Uuid(all).to_string(), "ABEiM0RVZneImaq7zN3u_w");
    }
}
