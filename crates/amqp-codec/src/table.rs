//! Field tables and arrays, borrowed (AMQP 0-9-1 section 4.2.5.5, with RabbitMQ's errata).
//!
//! ```text
//! table = length:u32, { name:short string, value }        array = length:u32, { value }
//! value = tag:u8, then  t b B: 1 byte   s u: 2   I i f: 4   l L d T: 8   D: 1 + 4   V: none
//!                       S x: length:u32, bytes            F: table          A: array
//! ```
//!
//! The tags are those that RabbitMQ reads: `s` is a signed 16-bit integer (not the short string of the
//! specification), `l` and `L` are both a signed 64-bit integer, any octet but zero is true.
//!
//! Invariants:
//!
//! - A [`Table`] or [`Array`] was checked whole when it was made: every length lies within what holds it,
//!   every tag is known, and nothing is nested deeper than [`NESTING_MAX`]. Looking into one therefore
//!   never fails and never allocates.
//! - The bytes stay as they came: order, duplicates, names and strings that are not UTF-8, `L` for `l`.
//!
//! Deliberately absent: floats that RabbitMQ refuses (infinities, NaN) are let through.

use std::fmt;

use crate::error::DecodeError;

type Result<T> = std::result::Result<T, DecodeError>;

/// How deeply tables and arrays may lie in one another; the outermost is 1.
///
/// Checking recurses once per level, and a frame could otherwise hold a level per five bytes. What brokers
/// and clients put into tables themselves (`x-death`, `capabilities`) takes 3; JSON turned into headers
/// rarely takes 10.
pub const NESTING_MAX: usize = 64;

/// A field table: names and values, in the publisher's order.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Table<'a>(&'a [u8]);

/// A field array.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Array<'a>(&'a [u8]);

/// A value in a table or array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`, and `L` on the way in
    I64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: text by convention, bytes in fact
    LongString(&'a [u8]),
    /// `x`
    Binary(&'a [u8]),
    /// `A`
    Array(Array<'a>),
    /// `T`: seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(Table<'a>),
    /// `V`
    Void,
}

impl<'a> Table<'a> {
    /// A table without entries.
    pub const EMPTY: Self = Self(&[]);

    /// Checks the entries of a table: what follows its length.
    ///
    /// # Errors
    /// [`DecodeError::FieldLength`], [`DecodeError::UnknownFieldType`] or [`DecodeError::NestingTooDeep`].
    #[inline]
    pub fn parse(entries: &'a [u8]) -> Result<Self> {
        check_entries(entries, 1)?;
        Ok(Self(entries))
    }

    /// A table that was checked before. A wrong one would end early, nothing worse.
    #[inline]
    pub(crate) const fn trusted(entries: &'a [u8]) -> Self {
        Self(entries)
    }

    /// The entries as they came, without the length in front.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries in order.
    #[inline]
    pub const fn iter(&self) -> Entries<'a> {
        Entries { rest: self.0 }
    }

    /// The value of the first entry of that name, which is the one that RabbitMQ looks at.
    pub fn get(&self, name: &[u8]) -> Option<ValueRef<'a>> {
        self.iter().find(|entry| entry.name == name).map(|entry| entry.value())
    }
}

impl<'a> IntoIterator for Table<'a> {
    type Item = Entry<'a>;
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for entry in *self {
            map.entry(&entry.name.escape_ascii().to_string(), &entry.value());
        }
        map.finish()
    }
}

impl<'a> Array<'a> {
    /// Checks the values of an array: what follows its length.
    ///
    /// # Errors
    /// As [`Table::parse`].
    pub fn parse(values: &'a [u8]) -> Result<Self> {
        check_values(values, 1)?;
        Ok(Self(values))
    }

    /// An array that was checked before.
    pub(crate) const fn trusted(values: &'a [u8]) -> Self {
        Self(values)
    }

    /// The values as they came, without the length in front.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there is no value.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values in order.
    pub const fn iter(&self) -> Values<'a> {
        Values { rest: self.0 }
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = ValueRef<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.iter()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// An entry of a table, its value not decoded yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    name: &'a [u8],
    tag: u8,
    body: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The name, of at most 255 bytes.
    pub const fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The type octet, such as `b'S'`.
    pub const fn tag(&self) -> u8 {
        self.tag
    }

    /// The bytes of the value, without the type octet and, for `S`, `x`, `F` and `A`, without the length.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> ValueRef<'a> {
        value_of(self.tag, self.body)
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name.escape_ascii(), self.value())
    }
}

/// Iterates over the entries of a table.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        let (len, rest) = self.rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*len))?;
        let (tag, body, rest) = split_value(rest).ok()?;
        self.rest = rest;
        Some(Entry { name, tag, body })
    }
}

/// Iterates over the values of an array.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<ValueRef<'a>> {
        let (tag, body, rest) = split_value(self.rest).ok()?;
        self.rest = rest;
        Some(value_of(tag, body))
    }
}

/// A value's tag, its bytes without tag and length, and what follows.
#[inline(always)]
fn split_value(input: &[u8]) -> Result<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first().ok_or(DecodeError::FieldLength)?;
    let (len, rest) = match tag {
        b'S' | b'x' | b'F' | b'A' => {
            let (len, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::FieldLength)?;
            let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| DecodeError::FieldLength)?;
            (len, rest)
        }
        b'V' => (0, rest),
        b't' | b'b' | b'B' => (1, rest),
        b's' | b'u' => (2, rest),
        b'I' | b'i' | b'f' => (4, rest),
        b'D' => (5, rest),
        b'l' | b'L' | b'd' | b'T' => (8, rest),
        _ => return Err(DecodeError::UnknownFieldType { tag }),
    };
    let (body, rest) = rest.split_at_checked(len).ok_or(DecodeError::FieldLength)?;
    Ok((tag, body, rest))
}

/// Checks entries at `depth`; recurses at most [`NESTING_MAX`] times.
fn check_entries(mut rest: &[u8], depth: usize) -> Result<()> {
    while let Some((len, after)) = rest.split_first() {
        let value = after.get(usize::from(*len)..).ok_or(DecodeError::FieldLength)?;
        let (tag, body, after) = split_value(value)?;
        check_nested(tag, body, depth)?;
        rest = after;
    }
    Ok(())
}

/// Checks values at `depth`; recurses at most [`NESTING_MAX`] times.
fn check_values(mut rest: &[u8], depth: usize) -> Result<()> {
    while !rest.is_empty() {
        let (tag, body, after) = split_value(rest)?;
        check_nested(tag, body, depth)?;
        rest = after;
    }
    Ok(())
}

/// Checks what lies in a value at `depth`.
#[inline(always)]
pub(crate) fn check_nested(tag: u8, body: &[u8], depth: usize) -> Result<()> {
    match tag {
        b'F' | b'A' if depth >= NESTING_MAX => Err(DecodeError::NestingTooDeep),
        b'F' => check_entries(body, depth + 1),
        b'A' => check_values(body, depth + 1),
        _ => Ok(()),
    }
}

/// The value of `body`, which [`split_value`] gave that length.
fn value_of(tag: u8, body: &[u8]) -> ValueRef<'_> {
    match (tag, body) {
        (b'S', _) => ValueRef::LongString(body),
        (b't', [octet]) => ValueRef::Bool(*octet != 0),
        (b'b', [octet]) => ValueRef::I8(octet.cast_signed()),
        (b'B', [octet]) => ValueRef::U8(*octet),
        (b's', &[a, b]) => ValueRef::I16(i16::from_be_bytes([a, b])),
        (b'u', &[a, b]) => ValueRef::U16(u16::from_be_bytes([a, b])),
        (b'I', &[a, b, c, d]) => ValueRef::I32(i32::from_be_bytes([a, b, c, d])),
        (b'i', &[a, b, c, d]) => ValueRef::U32(u32::from_be_bytes([a, b, c, d])),
        (b'f', &[a, b, c, d]) => ValueRef::F32(f32::from_be_bytes([a, b, c, d])),
        (b'D', &[scale, a, b, c, d]) => ValueRef::Decimal { scale, value: u32::from_be_bytes([a, b, c, d]) },
        (b'l' | b'L' | b'd' | b'T', _) => {
            let long = body.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            match tag {
                b'd' => ValueRef::F64(f64::from_bits(long)),
                b'T' => ValueRef::Timestamp(long),
                _ => ValueRef::I64(long.cast_signed()),
            }
        }
        (b'x', _) => ValueRef::Binary(body),
        (b'F', _) => ValueRef::Table(Table(body)),
        (b'A', _) => ValueRef::Array(Array(body)),
        _ => ValueRef::Void,
    }
}

#[cfg(test)]
mod tests;
