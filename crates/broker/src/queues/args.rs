//! Arguments of exchanges, queues and bindings: an ordered list of names and typed values, kept as given.
//!
//! **Invariants.** What was given is what is stored and told again: order, duplicates, widths. Two values are
//! equivalent if they are of one class and equal: every integer of the same value is, an integer and a float
//! never are, as RabbitMQ compares them.
//!
//! Deliberately absent: any wire encoding (the doors have it), and what an argument means.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How deep lists and tables may lie in each other: what is stored must be readable again.
pub const DEPTH_MAX: usize = 32;

/// The width an integer was sent with; only shown again, never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 16 bits.
    I16,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 64 bits.
    I64,
}

/// A typed value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// An integer and the width it came in.
    Int(i64, Width),
    /// A 32-bit float.
    F32(#[serde(with = "bits32")] f32),
    /// A 64-bit float.
    F64(#[serde(with = "bits64")] f64),
    /// A decimal: digits behind the point, and the unscaled number.
    Decimal(u8, i32),
    /// Text; usually UTF-8, not checked.
    Text(#[serde(with = "text")] Vec<u8>),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
    /// Seconds since 1970.
    Timestamp(u64),
    /// Several values.
    List(Vec<Value>),
    /// Names and values.
    Table(Vec<(String, Value)>),
    /// Nothing.
    Void,
}

impl Value {
    /// A text value.
    #[must_use]
    pub fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    /// The text, if it is one and UTF-8.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The integer, if it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(value, _) => Some(*value),
            _ => None,
        }
    }

    /// Whether both are of one class and equal; widths do not count.
    #[must_use]
    pub fn equivalent(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Int(a, _), Value::Int(b, _)) => a == b,
            (Value::F32(a), Value::F64(b)) | (Value::F64(b), Value::F32(a)) => f64::from(*a) == *b,
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equivalent(b))
            }
            (Value::Table(a), Value::Table(b)) => {
                let equal =
                    |((an, a), (bn, b)): (&(String, Value), &(String, Value))| an == bn && a.equivalent(b);
                a.len() == b.len() && a.iter().zip(b).all(equal)
            }
            (a, b) => a == b,
        }
    }

    /// How deep values lie in each other; a plain value is 1.
    fn is_deeper_than(&self, depth: usize) -> bool {
        match self {
            _ if depth == 0 => true,
            Value::List(values) => values.iter().any(|value| value.is_deeper_than(depth - 1)),
            Value::Table(entries) => entries.iter().any(|(_, value)| value.is_deeper_than(depth - 1)),
            _ => false,
        }
    }
}

/// Names and values in the order given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arguments(pub Vec<(String, Value)>);

impl Arguments {
    /// The last value of this name, which is the one that counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// Names and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both say the same, in any order.
    #[must_use]
    pub fn equivalent(&self, other: &Arguments) -> bool {
        let last =
            |arguments: &'_ Arguments| -> BTreeMap<String, Value> { arguments.0.iter().cloned().collect() };
        let (ours, theirs) = (last(self), last(other));
        let mut pairs = ours.iter().zip(&theirs);
        ours.len() == theirs.len() && pairs.all(|((an, a), (bn, b))| an == bn && a.equivalent(b))
    }

    /// Whether values lie deeper in each other than [`DEPTH_MAX`].
    #[must_use]
    pub fn too_deep(&self) -> bool {
        self.0.iter().any(|(_, value)| value.is_deeper_than(DEPTH_MAX))
    }
}

/// Floats as their bits: not every float is a JSON number.
mod bits32 {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
        u32::deserialize(from).map(f32::from_bits)
    }
}

/// Floats as their bits: not every float is a JSON number.
mod bits64 {
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// Text as a string where it is UTF-8, as numbers where not.
mod text {
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(value: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(value) {
            Ok(text) => to.serialize_str(text),
            Err(_) => value.serialize(to),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Stored::deserialize(from).map(|stored| match stored {
            Stored::Text(text) => text.into_bytes(),
            Stored::Bytes(bytes) => bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_any_width_are_equivalent_and_floats_are_not_integers() {
        let int = |width| Value::Int(5, width);
        assert!(int(Width::I8).equivalent(&int(Width::I64)));
        assert!(!int(Width::I8).equivalent(&Value::Int(6, Width::I8)));
        assert!(!int(Width::I8).equivalent(&Value::F64(5.0)));
        assert!(Value::F32(0.5).equivalent(&Value::F64(0.5)));
        assert!(!Value::text("a").equivalent(&Value::Bytes(b"a".to_vec())));
        let list = |width| Value::List(vec![int(width)]);
        assert!(list(Width::U8).equivalent(&list(Width::I32)));
    }

    #[test]
    fn arguments_read_back_as_given() {
        let arguments = Arguments(vec![
            ("a".to_owned(), Value::text("x")),
            ("a".to_owned(), Value::Text(vec![0xff, 0xfe])),
            ("f".to_owned(), Value::F64(f64::INFINITY)),
            ("t".to_owned(), Value::Table(vec![("n".to_owned(), Value::Int(-1, Width::I16))])),
            ("v".to_owned(), Value::List(vec![Value::Void, Value::Decimal(2, 314), Value::Timestamp(9)])),
        ]);
        let text = serde_json::to_string(&arguments).unwrap();
        assert_eq!(serde_json::from_str::<Arguments>(&text).unwrap(), arguments);
        assert_eq!(arguments.get("a"), Some(&Value::Text(vec![0xff, 0xfe])), "the last one counts");
        assert!(arguments.equivalent(&arguments.clone()));
        assert!(!arguments.equivalent(&Arguments::default()));
    }

    #[test]
    fn what_could_not_be_read_back_is_told() {
        let mut value = Value::Void;
        for _ in 0..DEPTH_MAX - 1 {
            value = Value::List(vec![value]);
        }
        assert!(!Arguments(vec![("a".to_owned(), value.clone())]).too_deep());
        assert!(Arguments(vec![("a".to_owned(), Value::List(vec![value]))]).too_deep());
    }
}
