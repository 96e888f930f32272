//! A cursor over the fields of one payload (AMQP 0-9-1 section 4.2.5).
//!
//! Invariants:
//!
//! - Nothing is copied or allocated: strings and tables are slices of the payload.
//! - A length is compared with what remains before it is used. A table is checked whole when it is read
//!   ([`Table::parse`]), so that looking into it later cannot fail.
//! - Consecutive bits share octets, the first in the lowest bit; bits that stand for nothing are ignored.
//!
//! Deliberately absent: UTF-8. Short strings are bytes; who wants text checks.

use crate::error::DecodeError;
use crate::table::Table;

type Result<T> = std::result::Result<T, DecodeError>;

/// A cursor over the fields of one payload. After an error its place is unspecified.
///
/// The methods are named after the domains of the specification.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    bits: u8,
    bit_count: u8,
}

impl<'a> Decoder<'a> {
    /// Reads `payload` from its first byte.
    #[inline]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, bits: 0, bit_count: 0 }
    }

    /// What is not read yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the payload.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`], as RabbitMQ does not take longer ones either.
    #[inline]
    pub const fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }

    #[inline(always)]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (value, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        self.bit_count = 0;
        Ok(*value)
    }

    #[inline(always)]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (value, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(value)
    }

    /// One bit of an octet shared with its neighbours.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn bit(&mut self) -> Result<bool> {
        if self.bit_count == 0 {
            [self.bits] = self.fixed()?;
            self.bit_count = 8;
        }
        let bit = self.bits & 1 != 0;
        self.bits >>= 1;
        self.bit_count -= 1;
        Ok(bit)
    }

    /// An unsigned octet.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn octet(&mut self) -> Result<u8> {
        self.fixed().map(u8::from_be_bytes)
    }

    /// An unsigned 16-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn short(&mut self) -> Result<u16> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// An unsigned 32-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn long(&mut self) -> Result<u32> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// An unsigned 64-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn longlong(&mut self) -> Result<u64> {
        self.fixed().map(u64::from_be_bytes)
    }

    /// A string of at most 255 bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn shortstr(&mut self) -> Result<&'a [u8]> {
        let len = self.octet()?;
        self.take(usize::from(len))
    }

    /// A string of any length.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]
    #[inline(always)]
    pub fn longstr(&mut self) -> Result<&'a [u8]> {
        let len = usize::try_from(self.long()?).map_err(|_| DecodeError::Truncated)?;
        self.take(len)
    }

    /// A field table, checked whole.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] and those of [`Table::parse`].
    #[inline]
    pub fn table(&mut self) -> Result<Table<'a>> {
        Table::parse(self.longstr()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_share_octets_until_something_else_comes() {
        let mut d = Decoder::new(&[0b1111_0101, 7, 1, 0xff, 1]);
        let bits: Vec<bool> = (0..3).map(|_| d.bit().unwrap()).collect();
        assert_eq!(bits, [true, false, true]);
        assert_eq!(d.octet(), Ok(7));
        assert_eq!(d.bit(), Ok(true));
        assert_eq!((0..7).filter(|_| d.bit().unwrap()).count(), 0);
        assert_eq!((0..9).filter(|_| d.bit().unwrap()).count(), 9);
        assert_eq!(d.bit(), Ok(false));
        assert_eq!(d.finish(), Ok(()));
    }

    #[test]
    fn a_length_is_bounded_by_what_remains() {
        assert_eq!(Decoder::new(&[3, b'a', b'b']).shortstr(), Err(DecodeError::Truncated));
        assert_eq!(Decoder::new(&[0xff, 0xff, 0xff, 0xff, 0]).longstr(), Err(DecodeError::Truncated));
        assert_eq!(Decoder::new(&[0, 0, 0, 1]).table(), Err(DecodeError::Truncated));
        assert_eq!(Decoder::new(&[2, 0xc3, 0x28]).shortstr(), Ok(&[0xc3, 0x28][..]), "any bytes");
        assert_eq!(Decoder::new(&[1]).finish(), Err(DecodeError::TrailingBytes { count: 1 }));
    }
}
