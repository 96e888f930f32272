//! Tables in place: what is read, what is kept, what is refused.

use super::*;
use crate::table_builder::TableBuilder;

/// `count` tables within one another, each the only entry of the one around it.
fn nested(count: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    for _ in 1..count {
        let len = u32::try_from(entries.len()).unwrap().to_be_bytes();
        entries = [b"\0F", &len[..], &entries].concat();
    }
    entries
}

#[test]
fn every_type_is_read() {
    let bytes = [
        &b"\x01at\x02\x01bb\xff\x01cB\xff\x01ds\xff\xfe\x01eu\xff\xfe"[..],
        b"\x01fI\xff\xff\xff\xfe\x01gi\xff\xff\xff\xfe\x01hl\xff\xff\xff\xff\xff\xff\xff\xfe",
        b"\x01jL\0\0\0\0\0\0\0\x05\x01kf\x3f\0\0\0\x01ld\x3f\xe0\0\0\0\0\0\0\x01mD\x02\0\0\0\x07",
        b"\x01nS\0\0\0\x02\xc3\x28\x01ox\0\0\0\x01\0\x01pA\0\0\0\x03Vt\0\x01qT\0\0\0\0\0\0\0\x09",
        b"\x01rF\0\0\0\x03\x01aV\x01sV",
    ]
    .concat();
    let table = Table::parse(&bytes).unwrap();
    let values: Vec<ValueRef<'_>> = table.iter().map(|entry| entry.value()).collect();
    let inner = Table::parse(b"\x01aV").unwrap();
    let array = Array::parse(b"Vt\0").unwrap();
    let expected = [
        ValueRef::Bool(true),
        ValueRef::I8(-1),
        ValueRef::U8(255),
        ValueRef::I16(-2),
        ValueRef::U16(0xfffe),
        ValueRef::I32(-2),
        ValueRef::U32(0xffff_fffe),
        ValueRef::I64(-2),
        ValueRef::I64(5),
        ValueRef::F32(0.5),
        ValueRef::F64(0.5),
        ValueRef::Decimal { scale: 2, value: 7 },
        ValueRef::LongString(b"\xc3\x28"),
        ValueRef::Binary(b"\0"),
        ValueRef::Array(array),
        ValueRef::Timestamp(9),
        ValueRef::Table(inner),
        ValueRef::Void,
    ];
    assert_eq!(values, expected);
    assert_eq!(array.iter().collect::<Vec<_>>(), [ValueRef::Void, ValueRef::Bool(false)]);
    assert_eq!(inner.get(b"a"), Some(ValueRef::Void));

    let mut copy = TableBuilder::new();
    let mut again = TableBuilder::new();
    for entry in table {
        copy.push_entry(entry).unwrap();
        again.push(entry.name(), entry.value()).unwrap();
    }
    assert_eq!(copy.as_table(), table, "copied entries are the same bytes");
    let again = again.as_table();
    assert!(again.iter().map(|entry| entry.value()).eq(expected), "written values are the same values");
}

#[test]
fn order_duplicates_and_odd_names_stay() {
    let mut builder = TableBuilder::new();
    for name in [&b"b"[..], b"a", b"b", b"", b"\xff\xfe"] {
        builder.push(name, ValueRef::LongString(name)).unwrap();
    }
    let table = builder.as_table();
    let names: Vec<&[u8]> = table.iter().map(|entry| entry.name()).collect();
    assert_eq!(names, [&b"b"[..], b"a", b"b", b"", b"\xff\xfe"]);
    assert_eq!(table.get(b"b"), Some(ValueRef::LongString(b"b")));
    assert_eq!(table.get(b"c"), None);
    let debug = "{\"b\": LongString([98]), \"a\": LongString([97]), \"b\": LongString([98]), \
                 \"\": LongString([]), \"\\\\xff\\\\xfe\": LongString([255, 254])}";
    assert_eq!(format!("{table:?}"), debug);
}

#[test]
fn what_is_no_table_is_refused() {
    let check = |bytes: &[u8], error| assert_eq!(Table::parse(bytes), Err(error), "{bytes:x?}");
    for short in [
        &b"\x02a"[..],
        b"\x01a",
        b"\x01at",
        b"\x01aI\0\0\0",
        b"\x01aS\0\0\0",
        b"\x01aS\0\0\0\x01",
        b"\x01aF\xff\xff\xff\xff",
    ] {
        check(short, DecodeError::FieldLength);
    }
    // The inner table says more than the outer one holds, though the bytes are there.
    check(b"\x01aF\0\0\0\x02\x01aV", DecodeError::FieldLength);
    check(b"\x01aA\0\0\0\x02VI\0\0\0\x01", DecodeError::FieldLength);
    for tag in [0, b'a', b'U', b'c', b'v', 255] {
        check(&[1, b'a', tag, 0, 0, 0, 0], DecodeError::UnknownFieldType { tag });
    }
}

#[test]
fn nesting_has_a_bound() {
    assert!(Table::parse(&nested(NESTING_MAX)).is_ok());
    assert_eq!(Table::parse(&nested(NESTING_MAX + 1)), Err(DecodeError::NestingTooDeep));
    // As deep as a frame of 128 KiB can be: nobody runs out of stack.
    assert_eq!(Table::parse(&nested(20_000)), Err(DecodeError::NestingTooDeep));
    let deepest = nested(NESTING_MAX);
    let mut builder = TableBuilder::new();
    let value = ValueRef::Table(Table::parse(&deepest).unwrap());
    let error = builder.push(b"a", value).map(drop);
    assert_eq!(error, Err(crate::EncodeError::NestingTooDeep));
    assert!(builder.as_table().is_empty(), "an error adds nothing");
}
