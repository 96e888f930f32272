//! Field tables that own their bytes, for what a server keeps: the arguments of queues and exchanges.
//!
//! Invariants:
//!
//! - Order and duplicates stay. A type is kept as it is, with one exception: `L` becomes `l`.
//! - Memory is bounded by the bytes that were read: about 20 times as much at worst, taken in pieces of the
//!   right size.
//!
//! Deliberately absent: RabbitMQ's rule that no `x-queue-type` equals `classic`; it is about queues.

use std::fmt;

use crate::error::EncodeError;
use crate::table::{Array, Table, ValueRef};
use crate::table_builder::{ArrayBuilder, TableBuilder};

/// A value that owns its bytes; see [`ValueRef`] for the variants.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the variants are those of ValueRef")]
pub enum Value {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal { scale: u8, value: u32 },
    LongString(Box<[u8]>),
    Binary(Box<[u8]>),
    Array(Box<[Self]>),
    Timestamp(u64),
    Table(FieldTable),
    Void,
}

impl Value {
    /// Text as a long string.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::LongString(text.as_bytes().into())
    }

    /// The number in an integer of any width. Not a timestamp, not a decimal.
    pub fn as_integer(&self) -> Option<i64> {
        Some(match self {
            Self::I8(value) => (*value).into(),
            Self::U8(value) => (*value).into(),
            Self::I16(value) => (*value).into(),
            Self::U16(value) => (*value).into(),
            Self::I32(value) => (*value).into(),
            Self::U32(value) => (*value).into(),
            Self::I64(value) => *value,
            _ => return None,
        })
    }

    /// The number in a float of either width.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::F32(value) => Some((*value).into()),
            Self::F64(value) => Some(*value),
            _ => None,
        }
    }

    /// The bytes of a long string.
    pub fn as_long_string(&self) -> Option<&[u8]> {
        match self {
            Self::LongString(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The truth of a boolean.
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, such as `longstr` or `signedint`.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongString(_) => "longstr",
            Self::Binary(_) => "binary",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }

    /// Whether RabbitMQ takes both for the same argument: numbers of the same kind (integer or float) by
    /// value whatever their width, everything else by value; an integer never equals a float.
    ///
    /// As there, a timestamp equals an integer of that value, and a long string equals a binary of those
    /// bytes. Inside arrays and tables the types have to be the same.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return a == b;
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return a == b;
        }
        match (self, other) {
            (Self::LongString(a) | Self::Binary(a), Self::LongString(b) | Self::Binary(b)) => a == b,
            _ => self == other,
        }
    }

    /// An integer or a timestamp, which are the same in Erlang once their type is left away.
    fn number(&self) -> Option<i128> {
        match self {
            Self::Timestamp(value) => Some((*value).into()),
            _ => self.as_integer().map(Into::into),
        }
    }

    /// The value to encode. Arrays and tables have to be built first, into `nested`.
    fn push_to(&self, nested: &mut Nested, push: impl FnOnce(ValueRef<'_>) -> Result<()>) -> Result<()> {
        match self {
            Self::Bool(value) => push(ValueRef::Bool(*value)),
            Self::I8(value) => push(ValueRef::I8(*value)),
            Self::U8(value) => push(ValueRef::U8(*value)),
            Self::I16(value) => push(ValueRef::I16(*value)),
            Self::U16(value) => push(ValueRef::U16(*value)),
            Self::I32(value) => push(ValueRef::I32(*value)),
            Self::U32(value) => push(ValueRef::U32(*value)),
            Self::I64(value) => push(ValueRef::I64(*value)),
            Self::F32(value) => push(ValueRef::F32(*value)),
            Self::F64(value) => push(ValueRef::F64(*value)),
            Self::Decimal { scale, value } => push(ValueRef::Decimal { scale: *scale, value: *value }),
            Self::LongString(bytes) => push(ValueRef::LongString(bytes)),
            Self::Binary(bytes) => push(ValueRef::Binary(bytes)),
            Self::Array(values) => push(ValueRef::Array(nested.deeper(|n| n.array(values))?.as_array())),
            Self::Timestamp(value) => push(ValueRef::Timestamp(*value)),
            Self::Table(table) => push(ValueRef::Table(nested.deeper(|n| n.table(table))?.as_table())),
            Self::Void => push(ValueRef::Void),
        }
    }
}

type Result<T> = std::result::Result<T, EncodeError>;

/// Builds what is nested, not too deeply.
struct Nested {
    depth_left: usize,
}

impl Nested {
    fn deeper<T>(&mut self, build: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(EncodeError::NestingTooDeep)?;
        let built = build(self);
        self.depth_left += 1;
        built
    }

    fn array(&mut self, values: &[Value]) -> Result<ArrayBuilder> {
        let mut builder = ArrayBuilder::new();
        for value in values {
            value.push_to(self, |value| builder.push(value).map(drop))?;
        }
        Ok(builder)
    }

    fn table(&mut self, table: &FieldTable) -> Result<TableBuilder> {
        let mut builder = TableBuilder::new();
        for (name, value) in &table.entries {
            value.push_to(self, |value| builder.push(name, value).map(drop))?;
        }
        Ok(builder)
    }
}

/// The value alone, as RabbitMQ shows it in `inequivalent arg`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongString(bytes) | Self::Binary(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Timestamp(value) => write!(f, "{value}"),
            Self::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            Self::Void => f.write_str("undefined"),
            Self::Array(values) => write!(f, "{values:?}"),
            Self::Table(table) => write!(f, "{table:?}"),
            _ => match (self.as_integer(), self.as_float()) {
                (Some(value), _) => write!(f, "{value}"),
                (_, Some(value)) => write!(f, "{value:?}"),
                _ => Ok(()),
            },
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Bool(value) => Self::Bool(value),
            ValueRef::I8(value) => Self::I8(value),
            ValueRef::U8(value) => Self::U8(value),
            ValueRef::I16(value) => Self::I16(value),
            ValueRef::U16(value) => Self::U16(value),
            ValueRef::I32(value) => Self::I32(value),
            ValueRef::U32(value) => Self::U32(value),
            ValueRef::I64(value) => Self::I64(value),
            ValueRef::F32(value) => Self::F32(value),
            ValueRef::F64(value) => Self::F64(value),
            ValueRef::Decimal { scale, value } => Self::Decimal { scale, value },
            ValueRef::LongString(bytes) => Self::LongString(bytes.into()),
            ValueRef::Binary(bytes) => Self::Binary(bytes.into()),
            ValueRef::Array(array) => Self::Array(values_of(array)),
            ValueRef::Timestamp(value) => Self::Timestamp(value),
            ValueRef::Table(table) => Self::Table(table.into()),
            ValueRef::Void => Self::Void,
        }
    }
}

fn values_of(array: Array<'_>) -> Box<[Value]> {
    // Counted first, because growing by doubling would take twice the memory.
    let mut values = Vec::with_capacity(array.iter().count());
    values.extend(array.iter().map(Value::from));
    values.into_boxed_slice()
}

/// A field table that owns its bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldTable {
    entries: Vec<(Box<[u8]>, Value)>,
}

impl FieldTable {
    /// A table without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds an entry at the end. A name of more than 255 bytes is found when it is encoded.
    pub fn push(&mut self, name: &[u8], value: Value) -> &mut Self {
        self.entries.push((name.into(), value));
        self
    }

    /// The value of the first entry of that name.
    pub fn get(&self, name: &[u8]) -> Option<&Value> {
        self.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &Value)> {
        self.entries.iter().map(|(name, value)| (&name[..], value))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether both have an equivalent value under `name`, or neither has one.
    ///
    /// Only names that the server knows should be asked for, as RabbitMQ does.
    pub fn is_equivalent(&self, other: &Self, name: &[u8]) -> bool {
        match (self.get(name), other.get(name)) {
            (Some(a), Some(b)) => a.is_equivalent(b),
            (None, None) => true,
            _ => false,
        }
    }

    /// RabbitMQ's explanation of why a declaration with the arguments `received` does not match `self`, or
    /// `None` if under `name` they are equivalent. `what` is such as `queue 'q' in vhost '/'`.
    ///
    /// It follows `PRECONDITION_FAILED - `: [`ReplyCode::text`](crate::reply_code::ReplyCode::text).
    pub fn inequivalence(&self, received: &Self, name: &[u8], what: &str) -> Option<String> {
        if self.is_equivalent(received, name) {
            return None;
        }
        let alone = |value: Option<&Value>| match value {
            Some(value) => format!("the value '{value}' of type '{}'", value.type_name()),
            None => "none".to_owned(),
        };
        let (new, current) = match (received.get(name), self.get(name)) {
            (Some(new), Some(current)) => (format!("'{new}'"), format!("'{current}'")),
            (new, current) => (alone(new), alone(current)),
        };
        let name = String::from_utf8_lossy(name);
        Some(format!("inequivalent arg '{name}' for {what}: received {new} but current is {current}"))
    }

    /// The table for the wire.
    ///
    /// # Errors
    /// [`EncodeError`] for what has no encoding: long names, too much nesting.
    pub fn to_builder(&self) -> Result<TableBuilder> {
        Nested { depth_left: crate::table::NESTING_MAX - 1 }.table(self)
    }
}

impl From<Table<'_>> for FieldTable {
    fn from(table: Table<'_>) -> Self {
        let mut entries = Vec::with_capacity(table.iter().count());
        entries.extend(table.iter().map(|entry| (entry.name().into(), entry.value().into())));
        Self { entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(a: Value, b: Value, equivalent: bool) {
        assert_eq!(a.is_equivalent(&b), equivalent, "{a} and {b}");
        assert_eq!(b.is_equivalent(&a), equivalent, "{b} and {a}");
    }

    #[test]
    fn equivalence_is_rabbitmqs() {
        check(Value::I32(5), Value::I64(5), true);
        check(Value::U8(5), Value::I8(5), true);
        check(Value::I32(5), Value::I32(6), false);
        check(Value::I32(5), Value::F64(5.0), false);
        check(Value::F32(0.5), Value::F64(0.5), true);
        check(Value::I16(-1), Value::U16(0xffff), false);
        check(Value::Timestamp(5), Value::I64(5), true);
        check(Value::Timestamp(u64::MAX), Value::I64(-1), false);
        check(Value::text("a"), Value::Binary((*b"a").into()), true);
        check(Value::text("a"), Value::text("b"), false);
        check(Value::text("5"), Value::I32(5), false);
        check(Value::Bool(true), Value::I32(1), false);
        check(Value::Void, Value::Void, true);
        check(Value::Decimal { scale: 0, value: 5 }, Value::I32(5), false);
        let array = |value| Value::Array([value].into());
        check(array(Value::I32(5)), array(Value::I32(5)), true);
        check(array(Value::I32(5)), array(Value::I64(5)), false);
    }

    #[test]
    fn tables_compare_by_name() {
        let (mut a, mut b) = (FieldTable::new(), FieldTable::new());
        a.push(b"x-expires", Value::I32(5)).push(b"x-expires", Value::I32(6)).push(b"mine", Value::Void);
        b.push(b"x-expires", Value::I64(5));
        assert!(a.is_equivalent(&b, b"x-expires"), "the first of a name counts");
        assert!(!a.is_equivalent(&b, b"mine"));
        assert!(a.is_equivalent(&b, b"none of them"));
    }

    #[test]
    fn differences_are_told_in_rabbitmqs_words() {
        let check = |current: Option<Value>, received: Option<Value>, expected: Option<&str>| {
            let table = |value: Option<Value>| {
                let mut table = FieldTable::new();
                if let Some(value) = value {
                    table.push(b"x-max-length", value);
                }
                table
            };
            let told =
                table(current).inequivalence(&table(received), b"x-max-length", "queue 'q' in vhost '/'");
            let expected = expected
                .map(|end| format!("inequivalent arg 'x-max-length' for queue 'q' in vhost '/': {end}"));
            assert_eq!(told, expected);
        };
        check(Some(Value::I32(10)), Some(Value::I8(11)), Some("received '11' but current is '10'"));
        check(Some(Value::I32(10)), Some(Value::F64(10.0)), Some("received '10.0' but current is '10'"));
        let none = "received none but current is the value '10' of type 'signedint'";
        check(Some(Value::I32(10)), None, Some(none));
        let lazy = "received the value 'lazy' of type 'longstr' but current is none";
        check(None, Some(Value::text("lazy")), Some(lazy));
        check(Some(Value::I32(10)), Some(Value::I64(10)), None);
        check(None, None, None);
    }

    #[test]
    fn too_deep_is_an_error_and_just_deep_enough_is_not() {
        let mut value = Value::Void;
        for _ in 1..crate::table::NESTING_MAX {
            value = Value::Array([value].into());
        }
        let mut table = FieldTable::new();
        table.push(b"a", value.clone());
        let built = table.to_builder().unwrap();
        assert_eq!(FieldTable::from(Table::parse(built.as_table().as_bytes()).unwrap()), table);
        let mut table = FieldTable::new();
        table.push(b"a", Value::Array([value].into()));
        assert_eq!(table.to_builder(), Err(EncodeError::NestingTooDeep));
    }

    #[test]
    fn a_value_is_small() {
        assert!(size_of::<Value>() <= 32);
    }
}
