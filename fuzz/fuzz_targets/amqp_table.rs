//! Checks a field table, looks into it, keeps it and writes it again.
//!
//! Beyond not panicking: a checked table ends where it should, and entries copied one by one are the same bytes.
#![no_main]

use ferrymq_amqp_codec::{FieldTable, Table, TableBuilder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(table) = Table::parse(data) else { return };
    let mut copy = TableBuilder::new();
    for entry in table {
        copy.push_entry(entry).expect("an entry of a table can be copied");
    }
    assert_eq!(copy.as_table().as_bytes(), data);
    let kept = FieldTable::from(table);
    let again = kept.to_builder().expect("what was read can be written");
    let again = again.as_table();
    Table::parse(again.as_bytes()).expect("what was written can be read");
    // Compared as text: a NaN does not equal itself, and `L` has become `l`.
    assert_eq!(format!("{again:?}"), format!("{table:?}"));
    for (name, value) in kept.iter() {
        assert_eq!(
            format!("{:?}", kept.get(name)),
            format!("{:?}", kept.iter().find(|(n, _)| *n == name).map(|(_, v)| v))
        );
        let _equal_or_not = value.is_equivalent(value);
    }
});
