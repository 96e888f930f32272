//! Field tables of the wire as the queues' arguments, and a message's headers as something to route by.
//!
//! **Invariants.** Order, duplicates and types go through. Headers are looked at in place, never copied.
//!
//! Deliberately absent: what an argument means.

use ferrymq_amqp_codec::value::FieldTable;
use ferrymq_amqp_codec::{Properties, Table, Value as Wire, ValueRef};
use ferrymq_broker::queues::{Arguments, HashProperty, Headers, Value, Width};

use crate::failure::Failure;

/// A table as arguments.
///
/// # Errors
/// 406 for a name that is not UTF-8 or values that lie too deep in each other.
pub(crate) fn from_table(table: Table<'_>) -> Result<Arguments, Failure> {
    let code = ferrymq_amqp_codec::ReplyCode::PreconditionFailed;
    let mut pairs = Vec::new();
    for entry in table {
        let name = std::str::from_utf8(entry.name())
            .map_err(|_| Failure::new(code, "the name of an argument is not UTF-8"))?;
        pairs.push((name.to_owned(), from_value(entry.value())));
    }
    let arguments = Arguments(pairs);
    if arguments.too_deep() {
        return Err(Failure::new(code, "arguments lie too deep in each other"));
    }
    Ok(arguments)
}

/// A value of the wire as the queues have it. Names inside of tables that are not UTF-8 are made so: nothing
/// looks at them.
pub(crate) fn from_value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Bool(value) => Value::Bool(value),
        ValueRef::I8(value) => Value::Int(value.into(), Width::I8),
        ValueRef::U8(value) => Value::Int(value.into(), Width::U8),
        ValueRef::I16(value) => Value::Int(value.into(), Width::I16),
        ValueRef::U16(value) => Value::Int(value.into(), Width::U16),
        ValueRef::I32(value) => Value::Int(value.into(), Width::I32),
        ValueRef::U32(value) => Value::Int(value.into(), Width::U32),
        ValueRef::I64(value) => Value::Int(value, Width::I64),
        ValueRef::F32(value) => Value::F32(value),
        ValueRef::F64(value) => Value::F64(value),
        ValueRef::Decimal { scale, value } => Value::Decimal(scale, value.cast_signed()),
        ValueRef::LongString(bytes) => Value::Text(bytes.to_vec()),
        ValueRef::Binary(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Array(array) => Value::List(array.iter().map(from_value).collect()),
        ValueRef::Timestamp(seconds) => Value::Timestamp(seconds),
        ValueRef::Table(table) => Value::Table(
            table
                .iter()
                .map(|entry| (String::from_utf8_lossy(entry.name()).into_owned(), from_value(entry.value())))
                .collect(),
        ),
        ValueRef::Void => Value::Void,
    }
}

/// The inverse, for telling a value to a client.
pub(crate) fn to_wire(value: &Value) -> Wire {
    match value {
        Value::Bool(value) => Wire::Bool(*value),
        Value::Int(value, width) => integer(*value, *width),
        Value::F32(value) => Wire::F32(*value),
        Value::F64(value) => Wire::F64(*value),
        Value::Decimal(scale, value) => Wire::Decimal { scale: *scale, value: value.cast_unsigned() },
        Value::Text(bytes) => Wire::LongString(bytes.as_slice().into()),
        Value::Bytes(bytes) => Wire::Binary(bytes.as_slice().into()),
        Value::Timestamp(seconds) => Wire::Timestamp(*seconds),
        Value::List(values) => Wire::Array(values.iter().map(to_wire).collect()),
        Value::Table(entries) => {
            let mut table = FieldTable::new();
            for (name, value) in entries {
                table.push(name.as_bytes(), to_wire(value));
            }
            Wire::Table(table)
        }
        Value::Void => Wire::Void,
    }
}

fn integer(value: i64, width: Width) -> Wire {
    let wide = Wire::I64(value);
    match width {
        Width::I8 => value.try_into().map_or(wide, Wire::I8),
        Width::U8 => value.try_into().map_or(wide, Wire::U8),
        Width::I16 => value.try_into().map_or(wide, Wire::I16),
        Width::U16 => value.try_into().map_or(wide, Wire::U16),
        Width::I32 => value.try_into().map_or(wide, Wire::I32),
        Width::U32 => value.try_into().map_or(wide, Wire::U32),
        Width::I64 => wide,
    }
}

/// The headers and properties of a message, for exchanges that route by them.
pub(crate) struct MessageView<'a> {
    properties: Properties<'a>,
    headers: Table<'a>,
}

impl<'a> MessageView<'a> {
    pub(crate) fn new(properties: Properties<'a>) -> MessageView<'a> {
        MessageView { properties, headers: properties.headers().unwrap_or_default() }
    }
}

impl Headers for MessageView<'_> {
    fn has(&self, name: &str, value: Option<&Value>) -> bool {
        match (self.headers.get(name.as_bytes()), value) {
            (Some(_), None) => true,
            (Some(found), Some(value)) => value.equivalent(&from_value(found)),
            (None, _) => false,
        }
    }

    fn value(&self, name: &str) -> Option<Value> {
        self.headers.get(name.as_bytes()).map(from_value)
    }

    fn property(&self, property: HashProperty) -> Option<Vec<u8>> {
        match property {
            HashProperty::CorrelationId => self.properties.correlation_id().map(<[u8]>::to_vec),
            HashProperty::MessageId => self.properties.message_id().map(<[u8]>::to_vec),
            HashProperty::Timestamp => {
                self.properties.timestamp().map(|seconds| seconds.to_string().into_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use ferrymq_amqp_codec::{BasicProperties, TableBuilder};

    #[test]
    fn every_type_goes_both_ways() {
        let mut nested = TableBuilder::new();
        nested.push(b"n", ValueRef::I16(-3)).unwrap();
        let values = [
            ValueRef::Bool(true),
            ValueRef::I8(-1),
            ValueRef::U8(200),
            ValueRef::I16(-300),
            ValueRef::U16(65_535),
            ValueRef::I32(-70_000),
            ValueRef::U32(u32::MAX),
            ValueRef::I64(i64::MIN),
            ValueRef::F32(0.5),
            ValueRef::F64(-0.25),
            ValueRef::Decimal { scale: 2, value: 314 },
            ValueRef::LongString(b"text"),
            ValueRef::Binary(&[0xff, 0]),
            ValueRef::Timestamp(9),
            ValueRef::Table(nested.as_table()),
            ValueRef::Void,
        ];
        for value in values {
            assert_eq!(to_wire(&from_value(value)), Wire::from(value));
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused() {
        let mut table = TableBuilder::new();
        table.push(&[0xff], ValueRef::Void).unwrap();
        assert_eq!(from_table(table.as_table()).unwrap_err().code.code(), 406);
    }

    #[test]
    fn headers_are_compared_by_class() {
        let mut table = TableBuilder::new();
        table.push(b"n", ValueRef::U8(5)).unwrap();
        let mut bytes = BytesMut::new();
        let all = BasicProperties {
            headers: Some(table.as_table()),
            timestamp: Some(17),
            ..BasicProperties::default()
        };
        all.encode(&mut bytes).unwrap();
        let view = MessageView::new(Properties::parse(&bytes).unwrap());
        assert_eq!(view.value("n"), Some(Value::Int(5, Width::U8)));
        assert_eq!(view.property(HashProperty::Timestamp).as_deref(), Some(&b"17"[..]));
        assert_eq!(view.property(HashProperty::MessageId), None);
        assert!(view.has("n", None) && view.has("n", Some(&Value::Int(5, Width::I64))));
        assert!(!view.has("n", Some(&Value::F64(5.0))) && !view.has("m", None));
    }
}
