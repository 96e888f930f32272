//! Decodes frames of the local engine: the first eight bytes say where the frame lies and how long its payload is.
//!
//! Beyond not panicking: the pieces of what decodes make up the payload, each leads to before the frame's end, and those
//! outside of the frame to before it and behind the file's header.
#![no_main]

use ferrymq_engine_local::inspect_frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((position, rest)) = data.split_first_chunk::<4>() else { return };
    let Some((length, frame)) = rest.split_first_chunk::<4>() else { return };
    let (position, length) = (u32::from_le_bytes(*position), u32::from_le_bytes(*length));
    let Some(pieces) = inspect_frame(position, length, frame) else { return };
    let (begin, mut at, mut inside) = (u64::from(position), 0, 0);
    for (from, lies_at, bytes) in pieces {
        assert_eq!(from, at, "in order and without gaps");
        assert!(bytes > 0);
        at += bytes;
        if lies_at >= begin {
            inside += bytes;
            assert!(lies_at + bytes as u64 <= begin + frame.len() as u64);
        } else {
            assert!(lies_at >= 4096 && lies_at + bytes as u64 <= begin);
        }
    }
    assert_eq!(at, length as usize, "all of the payload");
    assert!(inside < frame.len() && inside < at, "something lies elsewhere");
});
