//! Hashing for exchanges that spread messages: stable across restarts, machines and versions.
//!
//! **Invariants.** These are promises: a key goes where it went before an upgrade. Integers of every width hash
//! alike if they are equal; of a list only the first value counts, as in RabbitMQ.
//!
//! Deliberately absent: protection from keys chosen to collide; who chooses them gains an uneven spread.

use crate::queues::args::Value;

/// A hash being made: FNV-1a, finished by `MurmurHash3`'s mixer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn new() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Hash {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    pub(super) fn value(self, value: &Value) -> Hash {
        let tagged = |tag: u8, bytes: &[u8]| self.bytes(&[tag]).bytes(bytes);
        match value {
            Value::Void => tagged(0, &[]),
            Value::Bool(value) => tagged(1, &[u8::from(*value)]),
            Value::Int(value, _) => tagged(2, &value.to_be_bytes()),
            Value::F32(value) => tagged(3, &f64::from(*value).to_bits().to_be_bytes()),
            Value::F64(value) => tagged(3, &value.to_bits().to_be_bytes()),
            Value::Decimal(scale, value) => tagged(4, &[*scale]).bytes(&value.to_be_bytes()),
            Value::Text(bytes) => tagged(5, bytes),
            Value::Bytes(bytes) => tagged(6, bytes),
            Value::Timestamp(seconds) => tagged(7, &seconds.to_be_bytes()),
            Value::List(values) => match values.first() {
                None => tagged(8, &[]),
                Some(first) => self.value(first),
            },
            Value::Table(entries) => entries.iter().fold(tagged(9, &[]), |hash, (name, value)| {
                hash.bytes(name.as_bytes()).bytes(&[0]).value(value)
            }),
        }
    }

    pub(super) fn finish(self) -> u64 {
        mixed(self.0)
    }
}

/// Spreads what differs in a few bits over all of them.
pub(super) fn mixed(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::args::Width;

    /// Values that must never change: what is bound and stored today is routed by them tomorrow.
    #[test]
    fn hashes_are_what_they_were() {
        let of = |value: &Value| Hash::new().value(value).finish();
        assert_eq!(Hash::new().bytes(b"").finish(), 0xefd0_1f60_ba99_2926);
        assert_eq!(Hash::new().bytes(b"queue/a").finish(), 0x0319_1acd_569d_a916);
        assert_eq!(of(&Value::text("a")), 0xa788_326b_3693_b6f6);
        assert_eq!(of(&Value::Int(7, Width::I8)), of(&Value::Int(7, Width::U32)));
        assert_eq!(of(&Value::F32(0.5)), of(&Value::F64(0.5)));
        assert_eq!(of(&Value::List(vec![Value::text("a"), Value::Void])), of(&Value::text("a")));
        assert_ne!(of(&Value::text("a")), of(&Value::Bytes(b"a".to_vec())));
    }
}
