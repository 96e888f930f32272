//! LZ4 frames as Kafka's record batches hold them (KIP-57: version 1, independent blocks, a right header
//! checksum; content size and content checksum optional).
//!
//! **Invariant.** Exactly one frame, with its end mark and nothing behind it. Legacy and skippable frames and
//! linked blocks are refused: Kafka's Java client cannot read them.

use std::io::Write as _;

use bytes::Bytes;
use ferrymq_types::Compression;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use crate::CompressError;
use crate::bounded::read_bounded;

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
const INDEPENDENT_BLOCKS_BIT: u8 = 1 << 5;
const BLOCK_CHECKSUM_BIT: u8 = 1 << 4;
const CONTENT_SIZE_BIT: u8 = 1 << 3;
const CONTENT_CHECKSUM_BIT: u8 = 1 << 2;
const DICTIONARY_BIT: u8 = 1;
/// Magic, flags, block descriptor, header checksum.
const HEADER_BYTES: usize = 7;
/// Of a block's length field: the block is stored, not compressed.
const STORED_BIT: u32 = 1 << 31;

pub(crate) fn compress(input: &[u8]) -> Result<Vec<u8>, CompressError> {
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(input.len() / 2 + 64));
    let failed = |error: &dyn std::fmt::Display| CompressError::failed(Compression::Lz4, error);
    encoder.write_all(input).map_err(|error| failed(&error))?;
    encoder.finish().map_err(|error| failed(&error))
}

pub(crate) fn decompress(input: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    read_bounded(Compression::Lz4, reader(input)?, input.len(), max_bytes)
}

pub(crate) fn reader(input: &[u8]) -> Result<FrameDecoder<&[u8]>, CompressError> {
    let corrupt = |what: &str| Err(CompressError::corrupt(Compression::Lz4, what));
    if input.get(..4) != Some(&MAGIC) {
        return corrupt("not a frame of format 1");
    }
    if input.get(4).is_some_and(|flags| flags & INDEPENDENT_BLOCKS_BIT == 0) {
        return corrupt("linked blocks are not supported");
    }
    // The decoder takes a frame that is cut short at a block for one that ended.
    match frame_bytes(input) {
        None => corrupt("frame is cut short"),
        Some(bytes) if bytes < input.len() => corrupt("bytes behind the end of the frame"),
        Some(_) => Ok(FrameDecoder::new(input)),
    }
}

/// Bytes of the frame at the start of `input`, by its block lengths; `None` if it is not all there.
fn frame_bytes(input: &[u8]) -> Option<usize> {
    let flags = *input.get(4)?;
    let extra = |bit: u8, bytes: usize| if flags & bit == 0 { 0 } else { bytes };
    let mut at = HEADER_BYTES + extra(CONTENT_SIZE_BIT, 8) + extra(DICTIONARY_BIT, 4);
    loop {
        let length = u32::from_le_bytes(*input.get(at..)?.first_chunk()?);
        at += 4;
        if length == 0 {
            break;
        }
        at += usize::try_from(length & !STORED_BIT).ok()? + extra(BLOCK_CHECKSUM_BIT, 4);
    }
    at += extra(CONTENT_CHECKSUM_BIT, 4);
    (at <= input.len()).then_some(at)
}
