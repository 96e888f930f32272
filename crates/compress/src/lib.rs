//! The four compressions of record batches: gzip, snappy, lz4 and zstd.
//!
//! **Invariants.** Decompression never holds more than the caller's bound plus one buffer and the codec's own
//! window; what would grow beyond it is refused with [`CompressError::TooLarge`]. Cut short or damaged input
//! is an error, never a panic. What is accepted is what Kafka's own clients can read, so that a batch let
//! through here is readable everywhere.
//!
//! Deliberately absent: record batches (the caller passes the bytes behind the header), dictionaries, levels
//! other than each codec's default, Kafka's broken lz4 framing of message formats 0 and 1.

#![forbid(unsafe_code)]

mod bounded;
mod lz4;
mod snappy;

use std::io::{Read, Write as _};

use bytes::Bytes;
use ferrymq_types::Compression;

use crate::bounded::read_bounded;

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// The output would be larger than the caller allows.
    #[error("{codec} data decompresses to more than the bound of {max_bytes} bytes")]
    TooLarge {
        /// The codec's name.
        codec: &'static str,
        /// The caller's bound.
        max_bytes: usize,
    },
    /// The input is not what the codec writes, or is cut short.
    #[error("{codec} data is corrupt: {what}")]
    Corrupt {
        /// The codec's name.
        codec: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The codec refused to compress.
    #[error("{codec} compression failed: {what}")]
    Failed {
        /// The codec's name.
        codec: &'static str,
        /// What the codec said.
        what: String,
    },
}

impl CompressError {
    fn corrupt(codec: Compression, what: impl std::fmt::Display) -> CompressError {
        CompressError::Corrupt { codec: codec.name(), what: what.to_string() }
    }

    fn failed(codec: Compression, what: impl std::fmt::Display) -> CompressError {
        CompressError::Failed { codec: codec.name(), what: what.to_string() }
    }
}

/// Compresses `input` as Kafka's producers do: gzip level 6, snappy in xerial blocks of 32 KiB, lz4 frames of
/// independent 64 KiB blocks, zstd level 3.
///
/// # Errors
/// [`CompressError::Failed`] if the codec refuses, which none does for input below 2 GiB.
pub fn compress(compression: Compression, input: &[u8]) -> Result<Vec<u8>, CompressError> {
    let failed = |error: std::io::Error| CompressError::failed(compression, error);
    match compression {
        Compression::None => Ok(input.to_vec()),
        Compression::Gzip => {
            let out = Vec::with_capacity(input.len() / 2 + 64);
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(input).map_err(failed)?;
            encoder.finish().map_err(failed)
        }
        Compression::Snappy => snappy::compress(input),
        Compression::Lz4 => lz4::compress(input),
        Compression::Zstd => zstd::bulk::compress(input, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed),
    }
}

/// Decompresses all of `input` to at most `max_bytes`.
///
/// # Errors
/// [`CompressError::TooLarge`] beyond the bound, [`CompressError::Corrupt`] for anything that is not exactly
/// one sound stream.
pub fn decompress(compression: Compression, input: &[u8], max_bytes: usize) -> Result<Bytes, CompressError> {
    match compression {
        Compression::None if input.len() > max_bytes => {
            Err(CompressError::TooLarge { codec: compression.name(), max_bytes })
        }
        Compression::None => Ok(Bytes::copy_from_slice(input)),
        Compression::Gzip => {
            let decoder = flate2::bufread::MultiGzDecoder::new(input);
            read_bounded(compression, decoder, input.len(), max_bytes)
        }
        Compression::Snappy => snappy::decompress(input, max_bytes),
        Compression::Lz4 => lz4::decompress(input, max_bytes),
        Compression::Zstd => {
            read_bounded(compression, zstd_reader(input, max_bytes)?, input.len(), max_bytes)
        }
    }
}

/// Decompresses `input` as it is read, for a caller that may not want all of it. The end of the stream is not
/// checked before it is reached. Snappy, which knows no long streams, is decompressed at once.
///
/// # Errors
/// As [`decompress`]; what is wrong further on is an error of the reader, and more than `max_bytes` is its end.
pub fn reader(
    compression: Compression,
    input: &[u8],
    max_bytes: usize,
) -> Result<Box<dyn Read + '_>, CompressError> {
    let decoder: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Snappy => Box::new(std::io::Cursor::new(snappy::decompress(input, max_bytes)?)),
        Compression::Lz4 => Box::new(lz4::reader(input)?),
        Compression::Zstd => Box::new(zstd_reader(input, max_bytes)?),
    };
    Ok(Box::new(decoder.take(max_bytes as u64)))
}

fn zstd_reader(input: &[u8], max_bytes: usize) -> Result<impl Read + '_, CompressError> {
    let corrupt = |error: std::io::Error| CompressError::corrupt(Compression::Zstd, error);
    if input.is_empty() {
        return Err(CompressError::corrupt(Compression::Zstd, "empty input"));
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(corrupt)?;
    decoder.window_log_max(bounded::window_log(max_bytes)).map_err(corrupt)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests;
