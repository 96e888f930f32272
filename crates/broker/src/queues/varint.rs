//! Unsigned numbers in as few bytes as they need, seven bits a byte, lowest first.
//!
//! **Invariant.** Reading never panics: what is cut short or too long is `None`.

use bytes::BufMut;

/// Writes `value`.
#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(super) fn put(out: &mut impl BufMut, value: u64) {
    let mut rest = value;
    while rest >= 0x80 {
        out.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Takes a number off the front of `from`.
#[inline]
pub(super) fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        if shift == 63 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn numbers_read_back() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            put(&mut out, value);
            let mut from = &out[..];
            assert_eq!(take(&mut from), Some(value));
            assert!(from.is_empty());
            assert_eq!(take(&mut &out[..out.len() - 1]), None, "cut short");
        }
        assert_eq!(take(&mut &[0xff; 10][..]), None);
        assert_eq!(take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
    }
}
