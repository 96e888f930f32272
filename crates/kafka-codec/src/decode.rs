//! Reads a frame.
//!
//! Invariants:
//!
//! - A count or length is compared with the bytes left before anything is allocated for it: an array of N
//!   elements needs at least N times the least size of an element.
//! - What an array reserves at first is also bounded in bytes of memory ([`RESERVE_PER_BYTE`]); it takes
//!   the rest only when the first share was really there. All arrays together stay under a limit per frame.
//! - Strings, byte fields and records are slices of the frame.
//! - An error leaves the decoder in an unspecified place; the frame is to be given up.
//!
//! Deliberately absent: unknown tagged fields, which are skipped and forgotten, and the order of tagged
//! fields, which Kafka does not check either.

use std::fmt;

use bytes::Bytes;

use crate::api_key::ApiKey;
use crate::message::Wire;
use crate::records::Records;
use crate::str_bytes::StrBytes;
use crate::uuid::Uuid;

/// How many bytes of memory an array may reserve, before its first element is read, per byte left in the
/// frame. Honest arrays of the protocol need less; it only delays the growth of the strangest ones.
pub const RESERVE_PER_BYTE: usize = 8;

/// The memory all arrays of one frame may take, unless [`Decoder::with_memory_limit`] says otherwise.
///
/// A Metadata response of a million partitions fits.
pub const DEFAULT_MEMORY_LIMIT: usize = 256 << 20;

/// Longest string the protocol knows; Kafka refuses longer compact ones too.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Why bytes are not the message they were said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The frame ends inside a value.
    Truncated,
    /// A length or count that is negative or more than the frame can hold.
    InvalidLength,
    /// Null where the version does not allow it.
    InvalidNull,
    /// A string that is not UTF-8.
    InvalidUtf8,
    /// A variable-length integer of more than 32 bits.
    VarintTooLong,
    /// A tagged field whose value is not as long as was said.
    InvalidTagSize,
    /// The arrays of the frame take more memory than they may.
    MemoryLimit,
    /// Bytes are left after the last field.
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// An API key that is not one of ours.
    UnknownApi {
        /// The key.
        key: i16,
    },
    /// A version of the API that we do not decode.
    UnsupportedVersion {
        /// The API.
        api: ApiKey,
        /// The version.
        version: i16,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the frame ends inside a value"),
            Self::InvalidLength => f.write_str("a length does not fit into the frame"),
            Self::InvalidNull => f.write_str("null where the version does not allow it"),
            Self::InvalidUtf8 => f.write_str("a string is not UTF-8"),
            Self::VarintTooLong => f.write_str("a varint has more than 32 bits"),
            Self::InvalidTagSize => f.write_str("a tagged field is not as long as it says"),
            Self::MemoryLimit => f.write_str("the frame's arrays take too much memory"),
            Self::TrailingBytes { count } => write!(f, "bytes after the last field: {count}"),
            Self::UnknownApi { key } => write!(f, "unknown API key {key}"),
            Self::UnsupportedVersion { api, version } => write!(f, "unsupported version of {api}: {version}"),
        }
    }
}

impl std::error::Error for DecodeError {}

type Result<T> = std::result::Result<T, DecodeError>;

/// A cursor over one frame.
#[derive(Debug)]
pub struct Decoder<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
    flexible: bool,
    memory_left: usize,
}

impl<'a> Decoder<'a> {
    /// Reads `frame` from its first byte: the header, without the length in front of it.
    pub fn new(frame: &'a Bytes) -> Self {
        Self::with_memory_limit(frame, DEFAULT_MEMORY_LIMIT)
    }

    /// As [`new`](Self::new), with a limit of its own on the memory of all arrays.
    pub fn with_memory_limit(frame: &'a Bytes, limit: usize) -> Self {
        Self { frame, rest: frame, flexible: false, memory_left: limit }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the frame: bytes left over are an error of their own, because some clients send them.
    pub fn finish(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }

    /// Chooses between compact lengths with tagged fields and the old encoding.
    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (value, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*value)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (value, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(value)
    }

    /// A slice of the frame that shares its memory.
    #[inline]
    fn share(&mut self, len: usize) -> Result<Bytes> {
        let value = self.take(len)?;
        Ok(self.frame.slice_ref(value))
    }

    /// A boolean: any byte but zero is true.
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.fixed::<1>()? != [0])
    }

    /// A signed byte.
    #[inline]
    pub fn i8(&mut self) -> Result<i8> {
        self.fixed().map(i8::from_be_bytes)
    }

    /// A 16-bit integer.
    #[inline]
    pub fn i16(&mut self) -> Result<i16> {
        self.fixed().map(i16::from_be_bytes)
    }

    /// An unsigned 16-bit integer.
    #[inline]
    pub fn u16(&mut self) -> Result<u16> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// A 32-bit integer.
    #[inline]
    pub fn i32(&mut self) -> Result<i32> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// A 64-bit integer.
    #[inline]
    pub fn i64(&mut self) -> Result<i64> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// A 64-bit float.
    pub fn f64(&mut self) -> Result<f64> {
        self.fixed().map(f64::from_be_bytes)
    }

    /// A UUID.
    pub fn uuid(&mut self) -> Result<Uuid> {
        self.fixed().map(Uuid)
    }

    /// An unsigned varint of at most 32 bits.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.fixed::<1>()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::VarintTooLong)
    }

    /// A compact length: one more than the value, zero for null.
    #[inline]
    fn compact_len(&mut self) -> Result<Option<usize>> {
        match self.uvarint()? {
            0 => Ok(None),
            n => usize::try_from(n - 1).map(Some).map_err(|_| DecodeError::InvalidLength),
        }
    }

    /// A fixed-width length that is -1 for null.
    fn plain_len(len: i32) -> Result<Option<usize>> {
        match len {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| DecodeError::InvalidLength),
        }
    }

    #[inline]
    fn string_of(&mut self, len: Option<usize>) -> Result<Option<StrBytes>> {
        let Some(len) = len else { return Ok(None) };
        if len > STRING_BYTES_MAX {
            return Err(DecodeError::InvalidLength);
        }
        StrBytes::from_utf8(self.share(len)?).map(Some).map_err(|_| DecodeError::InvalidUtf8)
    }

    /// A string or null.
    pub fn nullable_string(&mut self) -> Result<Option<StrBytes>> {
        let len = if self.flexible { self.compact_len()? } else { Self::plain_len(self.i16()?.into())? };
        self.string_of(len)
    }

    /// A string or null with a 16-bit length even in a flexible version: the client id of the header.
    pub(crate) fn header_string(&mut self) -> Result<Option<StrBytes>> {
        let len = Self::plain_len(self.i16()?.into())?;
        self.string_of(len)
    }

    /// A string.
    pub fn string(&mut self) -> Result<StrBytes> {
        self.nullable_string()?.ok_or(DecodeError::InvalidNull)
    }

    /// The length of a byte field or the count of an array.
    #[inline]
    fn len(&mut self) -> Result<Option<usize>> {
        if self.flexible { self.compact_len() } else { Self::plain_len(self.i32()?) }
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self) -> Result<Option<Bytes>> {
        match self.len()? {
            None => Ok(None),
            Some(len) => self.share(len).map(Some),
        }
    }

    /// Bytes.
    pub fn bytes(&mut self) -> Result<Bytes> {
        self.nullable_bytes()?.ok_or(DecodeError::InvalidNull)
    }

    /// Records or null.
    pub fn nullable_records(&mut self) -> Result<Option<Records>> {
        Ok(self.nullable_bytes()?.map(Records::from))
    }

    /// A struct or null: a byte that is negative for null stands in front of it.
    pub fn nullable_struct<T: Wire>(&mut self, version: i16) -> Result<Option<T>> {
        if self.i8()? < 0 {
            return Ok(None);
        }
        T::read(self, version).map(Some)
    }

    /// An array or null.
    pub fn nullable_array<T: Wire>(&mut self, version: i16) -> Result<Option<Vec<T>>> {
        match self.len()? {
            None => Ok(None),
            Some(count) => self.elements(count, version).map(Some),
        }
    }

    /// An array.
    pub fn array<T: Wire>(&mut self, version: i16) -> Result<Vec<T>> {
        let count = self.len()?.ok_or(DecodeError::InvalidNull)?;
        self.elements(count, version)
    }

    fn elements<T: Wire>(&mut self, count: usize, version: i16) -> Result<Vec<T>> {
        const { assert!(T::MIN_SIZE > 0, "an element of no bytes could be repeated for free") };
        if count > self.rest.len() / T::MIN_SIZE {
            return Err(DecodeError::InvalidLength);
        }
        let affordable = self.rest.len() * RESERVE_PER_BYTE / size_of::<T>().max(1);
        let mut elements = Vec::new();
        self.grow(&mut elements, count.min(affordable.max(1)))?;
        for _ in 0..count {
            if elements.len() == elements.capacity() {
                // The first share held what it claimed. Going to the end at once costs less than doubling,
                // which would have two large copies alive.
                self.grow(&mut elements, count)?;
            }
            elements.push(T::read(self, version)?);
        }
        Ok(elements)
    }

    /// Makes room for `wanted` elements and charges it to the frame's memory.
    fn grow<T>(&mut self, elements: &mut Vec<T>, wanted: usize) -> Result<()> {
        let more = wanted - elements.len();
        let cost = more.saturating_mul(size_of::<T>());
        self.memory_left = self.memory_left.checked_sub(cost).ok_or(DecodeError::MemoryLimit)?;
        elements.reserve_exact(more);
        Ok(())
    }

    /// The tagged fields at the end of a struct. `known` reads the value of a tag it knows and says true.
    ///
    /// The count needs no bound: every field takes at least two bytes and nothing is kept of unknown ones.
    pub fn tags(&mut self, mut known: impl FnMut(&mut Self, u32) -> Result<bool>) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = usize::try_from(self.uvarint()?).map_err(|_| DecodeError::InvalidLength)?;
            let (value, after) = self.rest.split_at_checked(size).ok_or(DecodeError::Truncated)?;
            self.rest = value;
            if known(self, tag)? && !self.rest.is_empty() {
                return Err(DecodeError::InvalidTagSize);
            }
            self.rest = after;
        }
        Ok(())
    }

    /// The tagged fields of a struct that knows none.
    pub fn skip_tags(&mut self) -> Result<()> {
        if self.flexible && self.rest.first() == Some(&0) {
            self.rest = &self.rest[1..];
            return Ok(());
        }
        self.tags(|_, _| Ok(false))
    }
}

/// Refuses null in the versions that do not allow it.
pub(crate) fn null_if<T>(allowed: bool, value: Option<T>) -> Result<Option<T>> {
    if value.is_none() && !allowed {
        return Err(DecodeError::InvalidNull);
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
