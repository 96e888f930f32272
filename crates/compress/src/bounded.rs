//! Reading a decompressor's output into memory that never grows beyond a bound.
//!
//! **Invariant.** Capacity doubles but is cut at the bound plus one byte; that byte tells "exactly at the
//! bound" from "more".

use std::io::Read;

use bytes::Bytes;
use ferrymq_types::Compression;

use crate::CompressError;

const FIRST_BYTES: usize = 16 * 1024;
/// Windows up to 8 MiB are read whatever the bound: RFC 8878 3.1.1.1.2 asks every decoder for that.
const WINDOW_LOG_MIN: u32 = 23;
/// What the reference decoder allows, and what the highest compression level needs.
const WINDOW_LOG_MAX: u32 = 27;

/// Reads `from` to its end.
pub(crate) fn read_bounded(
    codec: Compression,
    mut from: impl Read,
    input_bytes: usize,
    max_bytes: usize,
) -> Result<Bytes, CompressError> {
    let limit = max_bytes.saturating_add(1);
    let mut out = vec![0; input_bytes.saturating_mul(4).clamp(FIRST_BYTES, 1 << 20).min(limit)];
    let mut filled = 0;
    loop {
        if filled == out.len() {
            let grown = out.len().saturating_mul(2).min(limit);
            out.reserve_exact(grown - filled);
            out.resize(grown, 0);
        }
        match from.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CompressError::corrupt(codec, error)),
        }
        if filled > max_bytes {
            return Err(CompressError::TooLarge { codec: codec.name(), max_bytes });
        }
    }
    out.truncate(filled);
    Ok(Bytes::from(out))
}

/// The largest zstd window (as a power of two) worth allowing for output of at most `max_bytes`.
pub(crate) fn window_log(max_bytes: usize) -> u32 {
    max_bytes.max(1).ilog2().saturating_add(1).clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX)
}
