//! Puts tables and arrays together.
//!
//! Invariant: what is built would pass [`Table::parse`]. Names are written in the order given, twice if given
//! twice.

use bytes::BufMut as _;

use crate::encode::{long_len, short_len};
use crate::error::EncodeError;
use crate::table::{Array, Entry, Table, ValueRef, check_nested};

type Result<T> = std::result::Result<T, EncodeError>;

/// Puts a field table together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableBuilder {
    bytes: Vec<u8>,
}

impl TableBuilder {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Adds an entry at the end.
    ///
    /// # Errors
    /// [`EncodeError::ShortStringTooLong`] for the name, [`EncodeError::FieldTooLong`] or
    /// [`EncodeError::NestingTooDeep`] for the value; the table is then as before.
    pub fn push(&mut self, name: &[u8], value: ValueRef<'_>) -> Result<&mut Self> {
        let len = short_len(name)?;
        check_value(value)?;
        self.bytes.push(len);
        self.bytes.extend_from_slice(name);
        put_value(&mut self.bytes, value);
        Ok(self)
    }

    /// Adds an entry of another table as it stands there, type octet and all.
    ///
    /// # Errors
    /// None for an entry of a [`Table`]; the types cannot say so.
    pub fn push_entry(&mut self, entry: Entry<'_>) -> Result<&mut Self> {
        let len = short_len(entry.name())?;
        let body_len = long_len(entry.body())?;
        self.bytes.push(len);
        self.bytes.extend_from_slice(entry.name());
        self.bytes.push(entry.tag());
        if matches!(entry.tag(), b'S' | b'x' | b'F' | b'A') {
            self.bytes.put_u32(body_len);
        }
        self.bytes.extend_from_slice(entry.body());
        Ok(self)
    }

    /// The table so far.
    pub fn as_table(&self) -> Table<'_> {
        Table::trusted(&self.bytes)
    }

    /// The entries so far, without a length in front.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Puts a field array together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArrayBuilder {
    bytes: Vec<u8>,
}

impl ArrayBuilder {
    /// An empty array.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Adds a value at the end.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`] or [`EncodeError::NestingTooDeep`]; the array is then as before.
    pub fn push(&mut self, value: ValueRef<'_>) -> Result<&mut Self> {
        check_value(value)?;
        put_value(&mut self.bytes, value);
        Ok(self)
    }

    /// The array so far.
    pub fn as_array(&self) -> Array<'_> {
        Array::trusted(&self.bytes)
    }
}

/// Whether `value` can stand in a table that is itself not nested.
fn check_value(value: ValueRef<'_>) -> Result<()> {
    let (tag, body) = match value {
        ValueRef::LongString(bytes) => (b'S', bytes),
        ValueRef::Binary(bytes) => (b'x', bytes),
        ValueRef::Table(table) => (b'F', table.as_bytes()),
        ValueRef::Array(array) => (b'A', array.as_bytes()),
        _ => return Ok(()),
    };
    long_len(body)?;
    check_nested(tag, body, 1).map_err(|_| EncodeError::NestingTooDeep)
}

/// Appends a value with its type octet; [`check_value`] said that it can be.
fn put_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Bool(value) => put(out, b't', &[u8::from(value)]),
        ValueRef::I8(value) => put(out, b'b', &value.to_be_bytes()),
        ValueRef::U8(value) => put(out, b'B', &[value]),
        ValueRef::I16(value) => put(out, b's', &value.to_be_bytes()),
        ValueRef::U16(value) => put(out, b'u', &value.to_be_bytes()),
        ValueRef::I32(value) => put(out, b'I', &value.to_be_bytes()),
        ValueRef::U32(value) => put(out, b'i', &value.to_be_bytes()),
        ValueRef::I64(value) => put(out, b'l', &value.to_be_bytes()),
        ValueRef::F32(value) => put(out, b'f', &value.to_be_bytes()),
        ValueRef::F64(value) => put(out, b'd', &value.to_be_bytes()),
        ValueRef::Decimal { scale, value } => {
            put(out, b'D', &[scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        ValueRef::LongString(bytes) => put_long(out, b'S', bytes),
        ValueRef::Binary(bytes) => put_long(out, b'x', bytes),
        ValueRef::Array(array) => put_long(out, b'A', array.as_bytes()),
        ValueRef::Timestamp(value) => put(out, b'T', &value.to_be_bytes()),
        ValueRef::Table(table) => put_long(out, b'F', table.as_bytes()),
        ValueRef::Void => out.push(b'V'),
    }
}

fn put(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(body);
}

fn put_long(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.put_u32(u32::try_from(body.len()).expect("check_value measured it"));
    out.extend_from_slice(body);
}
