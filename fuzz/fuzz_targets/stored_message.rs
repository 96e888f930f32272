//! Reads messages of queues out of a stored batch, delayed ones as well.
//!
//! Beyond not panicking: what is read is written, and read again the same.
#![no_main]

use ferrymq_broker::queues::stored::rewrite_messages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (message, again) in rewrite_messages(data) {
        assert_eq!(again.as_ref(), Some(&message));
    }
});
