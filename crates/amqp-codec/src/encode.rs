//! Writes the fields of one payload, as [`Decoder`](crate::decode::Decoder) reads them.
//!
//! Invariant: a value that has no encoding is an error, never a panic and never cut.

use bytes::{BufMut, BytesMut};

use crate::error::EncodeError;
use crate::table::Table;

type Result<T> = std::result::Result<T, EncodeError>;

/// Longest short string, in bytes.
pub const SHORT_STRING_BYTES_MAX: usize = 255;

/// Appends the fields of one payload to a buffer.
///
/// The methods are named after the domains of the specification. After an error the buffer holds what was
/// written before; the functions of [`crate::frame_writer`] take it back.
#[derive(Debug)]
pub struct Encoder<'o> {
    out: &'o mut BytesMut,
    bit_count: u8,
}

impl<'o> Encoder<'o> {
    /// Appends to `out`.
    #[inline]
    pub const fn new(out: &'o mut BytesMut) -> Self {
        Self { out, bit_count: 0 }
    }

    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bit_count = 0;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// One bit of an octet shared with its neighbours.
    ///
    /// # Errors
    /// None; as the others, so that they can be used alike.
    #[inline(always)]
    pub fn bit(&mut self, value: bool) -> Result<()> {
        let shift = self.bit_count % 8;
        if shift == 0 {
            self.out.put_u8(0);
        }
        if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(value) << shift;
        }
        self.bit_count = shift + 1;
        Ok(())
    }

    /// An unsigned octet.
    ///
    /// # Errors
    /// None.
    #[inline(always)]
    pub fn octet(&mut self, value: u8) -> Result<()> {
        self.put(&[value])
    }

    /// An unsigned 16-bit integer.
    ///
    /// # Errors
    /// None.
    #[inline(always)]
    pub fn short(&mut self, value: u16) -> Result<()> {
        self.put(&value.to_be_bytes())
    }

    /// An unsigned 32-bit integer.
    ///
    /// # Errors
    /// None.
    #[inline(always)]
    pub fn long(&mut self, value: u32) -> Result<()> {
        self.put(&value.to_be_bytes())
    }

    /// An unsigned 64-bit integer.
    ///
    /// # Errors
    /// None.
    #[inline(always)]
    pub fn longlong(&mut self, value: u64) -> Result<()> {
        self.put(&value.to_be_bytes())
    }

    /// A string of at most 255 bytes.
    ///
    /// # Errors
    /// [`EncodeError::ShortStringTooLong`]
    #[inline(always)]
    pub fn shortstr(&mut self, value: &[u8]) -> Result<()> {
        self.octet(short_len(value)?)?;
        self.put(value)
    }

    /// A string of less than 4 GiB.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`]
    #[inline(always)]
    pub fn longstr(&mut self, value: &[u8]) -> Result<()> {
        self.long(long_len(value)?)?;
        self.put(value)
    }

    /// A field table.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`]
    #[inline]
    pub fn table(&mut self, value: Table<'_>) -> Result<()> {
        self.longstr(value.as_bytes())
    }
}

/// The length octet of a short string.
#[inline]
pub(crate) fn short_len(value: &[u8]) -> Result<u8> {
    u8::try_from(value.len()).map_err(|_| EncodeError::ShortStringTooLong { size_bytes: value.len() })
}

/// The length of a long string, a table or an array.
#[inline]
pub(crate) fn long_len(value: &[u8]) -> Result<u32> {
    u32::try_from(value.len()).map_err(|_| EncodeError::FieldTooLong { size_bytes: value.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_share_octets_until_something_else_comes() {
        let mut out = BytesMut::new();
        let mut e = Encoder::new(&mut out);
        for bit in [true, false, true] {
            e.bit(bit).unwrap();
        }
        e.octet(7).unwrap();
        for bit in [false, true, true, true, true, true, true, true, true] {
            e.bit(bit).unwrap();
        }
        assert_eq!(&out[..], [0b101, 7, 0b1111_1110, 1]);
    }

    #[test]
    fn what_is_too_long_is_an_error() {
        let mut out = BytesMut::new();
        let mut e = Encoder::new(&mut out);
        assert_eq!(e.shortstr(&[7; 255]), Ok(()));
        assert_eq!(e.shortstr(&[7; 256]), Err(EncodeError::ShortStringTooLong { size_bytes: 256 }));
        assert_eq!(out.len(), 256);
    }
}
