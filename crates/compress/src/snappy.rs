//! Snappy, in the two shapes Kafka's clients send: xerial's block framing and one bare block.
//!
//! ```text
//! 0   82 'S' 'N' 'A' 'P' 'P' 'Y' 00
//! 8   version              i32   1
//! 12  least compatible     i32   1
//! 16  block length         i32   then that many bytes of one snappy block; repeated to the end
//! ```
//! Source: xerial snappy-java `SnappyOutputStream`, which Kafka's Java client uses; librdkafka and some Go
//! clients send one bare block instead, and xerial's reader takes both.
//!
//! **Invariant.** A block's declared size is checked against the bound, and against what its bytes can hold
//! at most, before memory is taken for it.

use bytes::Bytes;
use ferrymq_types::Compression;
use snap::raw::{Decoder, Encoder, decompress_len};

use crate::CompressError;

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_BYTES: usize = 16;
const VERSION: i32 = 1;
/// Xerial's default block.
const BLOCK_BYTES: usize = 32 * 1024;
/// A copy of 64 bytes takes three: no block expands further.
const EXPANSION_MAX: usize = 22;

pub(crate) fn compress(input: &[u8]) -> Result<Vec<u8>, CompressError> {
    let failed = |error: &dyn std::fmt::Display| CompressError::failed(Compression::Snappy, error);
    let mut out = Vec::with_capacity(HEADER_BYTES + input.len() / 2 + 64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    let mut encoder = Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(BLOCK_BYTES.min(input.len()))];
    for chunk in input.chunks(BLOCK_BYTES) {
        let packed = encoder.compress(chunk, &mut block).map_err(|error| failed(&error))?;
        let length = i32::try_from(packed).map_err(|error| failed(&error))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&block[..packed]);
    }
    Ok(out)
}

pub(crate) fn decompress(input: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    let mut out = Vec::new();
    if !input.starts_with(&MAGIC) {
        append_block(&mut out, input, max_bytes)?;
        return Ok(Bytes::from(out));
    }
    let mut rest = input;
    while !rest.is_empty() {
        // Streams that were written one after another are one stream; each begins with the header.
        if rest.starts_with(&MAGIC) {
            rest = rest.get(HEADER_BYTES..).ok_or_else(|| corrupt("header is cut short"))?;
            continue;
        }
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("block is cut short"))?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| corrupt("negative length"))?;
        let block = behind.get(..length).ok_or_else(|| corrupt("block is cut short"))?;
        append_block(&mut out, block, max_bytes)?;
        rest = &behind[length..];
    }
    Ok(Bytes::from(out))
}

fn append_block(out: &mut Vec<u8>, block: &[u8], max_bytes: usize) -> Result<(), CompressError> {
    let size = decompress_len(block).map_err(corrupt)?;
    if size > block.len().saturating_mul(EXPANSION_MAX) {
        return Err(corrupt("block declares more bytes than it can hold"));
    }
    let start = out.len();
    if size > max_bytes - start {
        return Err(CompressError::TooLarge { codec: Compression::Snappy.name(), max_bytes });
    }
    // Doubling, but never beyond the bound.
    if out.capacity() - start < size {
        let wanted = (start + size).max(start * 2).min(max_bytes);
        out.reserve_exact(wanted - start);
    }
    out.resize(start + size, 0);
    let written = Decoder::new().decompress(block, &mut out[start..]).map_err(corrupt)?;
    if written == size { Ok(()) } else { Err(corrupt("block is shorter than it declares")) }
}

fn corrupt(what: impl std::fmt::Display) -> CompressError {
    CompressError::corrupt(Compression::Snappy, what)
}
