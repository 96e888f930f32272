//! Decodes a record of the groups' logs; the first byte says how long the key is.
//!
//! Beyond not panicking: what decodes encodes, and decodes to the same again.
#![no_main]

use bytes::Bytes;
use ferrymq_broker::groups::record::GroupRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [length, rest @ ..] = data else { return };
    let Some((key, value)) = rest.split_at_checked(usize::from(*length)) else { return };
    // An empty value stands for none: the record says that something is gone.
    let value = (!value.is_empty()).then(|| Bytes::copy_from_slice(value));
    let Ok(record) = GroupRecord::decode(Bytes::copy_from_slice(key), value) else { return };
    let again = GroupRecord::decode(record.encode_key(), record.encode_value()).expect("what encodes decodes");
    assert_eq!(format!("{again:?}"), format!("{record:?}"));
});
