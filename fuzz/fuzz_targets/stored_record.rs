//! Reads records of queues' topology as a start does: virtual hosts, exchanges, queues, bindings, policies, delays; the
//! first byte says which.
//!
//! Beyond not panicking: what is read is written, and read again the same.
#![no_main]

use ferrymq_broker::queues::stored::{RECORD_KINDS, rewrite_record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [kind, value @ ..] = data else { return };
    let kind = kind % RECORD_KINDS;
    let Some(written) = rewrite_record(kind, value) else { return };
    assert_eq!(rewrite_record(kind, &written), Some(written));
});
