//! The record batch, version 2: the one format in which messages lie in every log.
//!
//! ```text
//!  0  base offset          i64   set by the broker, outside the CRC
//!  8  batch length         i32   bytes after this field
//! 12  leader epoch         i32   set by the broker, outside the CRC
//! 16  magic                i8    2
//! 17  CRC-32C              u32   over everything from byte 21
//! 21  attributes           i16   0-2 compression, 3 timestamp type, 4 transactional, 5 control
//! 23  last offset delta    i32
//! 27  base timestamp       i64   milliseconds
//! 35  max timestamp        i64   milliseconds
//! 43  producer id          i64
//! 51  producer epoch       i16
//! 53  base sequence        i32
//! 57  record count         i32
//! 61  records
//! ```
//! Source: Kafka's protocol guide, "Record Batch"; KIP-98.
//!
//! **Invariants.** A [`BatchView`] has a complete header and as many bytes as its length field says; nothing
//! else is promised until [`BatchView::verify_crc`]. Patching touches only the bytes outside the CRC, except
//! [`set_append_time`] and [`set_create_time`], which compute it anew.
//!
//! Deliberately absent: message formats 0 and 1 (removed by KIP-724), decompression.

use bytes::{Bytes, BytesMut};

use crate::{Epoch, Offset};

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 61;
/// Bytes before the batch length starts to count.
pub const LENGTH_OVERHEAD: usize = 12;
/// "No producer id": the batch is not idempotent.
pub const NO_PRODUCER_ID: i64 = -1;
/// "No sequence": the batch is not idempotent.
pub const NO_SEQUENCE: i32 = -1;

const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const TIMESTAMP_TYPE_BIT: u16 = 1 << 3;
const TRANSACTIONAL_BIT: u16 = 1 << 4;
const CONTROL_BIT: u16 = 1 << 5;

/// CRC-32C (Castagnoli), as Kafka batches and our own frames use it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let wide = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(wide).expect("a 32-bit CRC fits in 32 bits")
}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy in xerial's block framing.
    Snappy = 2,
    /// LZ4 frame.
    Lz4 = 3,
    /// RFC 8878 (KIP-110).
    Zstd = 4,
}

impl Compression {
    /// From the low three bits of the attributes.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Compression> {
        match bits & 7 {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    /// Kafka's name for it, as in `compression.type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// Whose clock a record's timestamp is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at append.
    LogAppendTime,
}

/// What is wrong with bytes that should be a record batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the header's length field says.
    #[error("record batch is cut short: {have} bytes of {need}")]
    Truncated {
        /// Bytes present.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The length field is smaller than a header or larger than any batch.
    #[error("record batch length {length} is out of range")]
    Length {
        /// The length field as sent.
        length: i32,
    },
    /// Not message format 2.
    #[error("record batch has message format {magic}, only format 2 is supported")]
    Magic {
        /// The format as sent.
        magic: i8,
    },
    /// The CRC does not match the bytes.
    #[error("record batch is corrupt: stored crc={stored:#010x} computed crc={computed:#010x}")]
    Crc {
        /// The CRC in the header.
        stored: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// The header contradicts itself or the records.
    #[error("record batch is invalid: {what}")]
    Invalid {
        /// Which rule is broken.
        what: &'static str,
    },
}

/// A batch header's fields, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes after the length field.
    pub batch_length: i32,
    /// Leader epoch at append.
    pub leader_epoch: i32,
    /// CRC-32C from the attributes on.
    pub crc: u32,
    /// Flags; see the accessors.
    pub attributes: u16,
    /// Offset of the last record relative to the first.
    pub last_offset_delta: i32,
    /// Timestamp the records' deltas count from, in milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp in the batch, in milliseconds.
    pub max_timestamp: i64,
    /// Idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Decodes the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`BatchError::Truncated`], [`BatchError::Length`] or [`BatchError::Magic`].
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(short_header(bytes));
        };
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(at(head, 0)),
            batch_length: i32::from_be_bytes(at(head, 8)),
            leader_epoch: i32::from_be_bytes(at(head, LEADER_EPOCH_AT)),
            crc: u32::from_be_bytes(at(head, CRC_AT)),
            attributes: u16::from_be_bytes(at(head, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(at(head, 23)),
            base_timestamp: i64::from_be_bytes(at(head, 27)),
            max_timestamp: i64::from_be_bytes(at(head, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(at(head, 43)),
            producer_epoch: i16::from_be_bytes(at(head, 51)),
            base_sequence: i32::from_be_bytes(at(head, 53)),
            record_count: i32::from_be_bytes(at(head, 57)),
        };
        let magic = i8::from_be_bytes(at(head, MAGIC_AT));
        if magic != 2 {
            return Err(BatchError::Magic { magic });
        }
        if header.total_bytes() < HEADER_BYTES {
            return Err(BatchError::Length { length: header.batch_length });
        }
        Ok(header)
    }

    /// Bytes of the whole batch; 0 if the length field is negative.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.batch_length).map_or(0, |length| length.saturating_add(LENGTH_OVERHEAD))
    }

    /// Offsets the batch takes up: last delta + 1.
    #[must_use]
    pub fn span(&self) -> u32 {
        self.last_offset_delta.cast_unsigned().saturating_add(1)
    }

    /// How the records are compressed; `None` for bits without meaning.
    #[must_use]
    pub const fn compression(&self) -> Option<Compression> {
        Compression::from_bits(self.attributes)
    }

    /// Whose clock the timestamps are.
    #[must_use]
    pub const fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// The same header with the producer's clock and this largest timestamp; [`set_create_time`] does it to bytes.
    #[must_use]
    pub const fn with_create_time(self, max_timestamp: i64) -> BatchHeader {
        BatchHeader { attributes: self.attributes & !TIMESTAMP_TYPE_BIT, max_timestamp, ..self }
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds control records.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether an idempotent producer sent it.
    #[must_use]
    pub const fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Sequence number of the last record; sequences wrap from `i32::MAX` to 0 (KIP-98).
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below 2^31")]
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            return NO_SEQUENCE;
        }
        let sum = self.base_sequence as i64 + self.last_offset_delta as i64;
        ((sum % (i32::MAX as i64 + 1)) as u32).cast_signed()
    }
}

/// Says why bytes too short for a header are wrong: an old message format is named as such.
fn short_header(bytes: &[u8]) -> BatchError {
    match bytes.get(MAGIC_AT).map(|byte| byte.cast_signed()) {
        Some(magic) if magic != 2 => BatchError::Magic { magic },
        _ => BatchError::Truncated { have: bytes.len(), need: HEADER_BYTES },
    }
}

fn at<const N: usize>(head: &[u8; HEADER_BYTES], from: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&head[from..from + N]);
    out
}

/// One whole batch: its bytes and its decoded header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchView {
    /// The batch, header included, nothing behind it.
    pub bytes: Bytes,
    /// The decoded header.
    pub header: BatchHeader,
}

impl BatchView {
    /// Takes the first batch off the front of `bytes`.
    ///
    /// # Errors
    /// Whatever [`BatchHeader::decode`] finds, or [`BatchError::Truncated`].
    pub fn split_from(bytes: &mut Bytes) -> Result<BatchView, BatchError> {
        let header = BatchHeader::decode(bytes)?;
        let need = header.total_bytes();
        if bytes.len() < need {
            return Err(BatchError::Truncated { have: bytes.len(), need });
        }
        Ok(BatchView { bytes: bytes.split_to(need), header })
    }

    /// The records, still compressed if they are.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// Checks the CRC over everything it covers.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let computed = crc32c(&self.bytes[ATTRIBUTES_AT..]);
        let stored = self.header.crc;
        if stored == computed { Ok(()) } else { Err(BatchError::Crc { stored, computed }) }
    }

    /// Checks what the header alone can show: counts, deltas, compression bits.
    ///
    /// # Errors
    /// [`BatchError::Invalid`].
    pub fn verify_header(&self) -> Result<(), BatchError> {
        let header = &self.header;
        let what = if header.compression().is_none() {
            "unknown compression type"
        } else if header.record_count <= 0 {
            "a batch needs at least one record"
        } else if header.last_offset_delta < 0 {
            "negative last offset delta"
        } else if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
            "the last offset delta does not match the record count"
        } else {
            return Ok(());
        };
        Err(BatchError::Invalid { what })
    }
}

/// Writes the base offset and the leader epoch that `epoch` stands for: the fields that lie outside the CRC.
///
/// `batch` must be one whole batch, as a [`BatchView`] holds it.
pub fn set_position(batch: &mut [u8], base: Offset, epoch: Epoch) {
    batch[..8].copy_from_slice(&base.signed().to_be_bytes());
    batch[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&epoch.leader_epoch().to_be_bytes());
}

/// Marks the batch as stamped by the broker at `now_ms` and computes its CRC anew
/// (`message.timestamp.type=LogAppendTime`).
pub fn set_append_time(batch: &mut [u8], now_ms: i64) {
    let attributes =
        u16::from_be_bytes([batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1]]) | TIMESTAMP_TYPE_BIT;
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&now_ms.to_be_bytes());
    set_crc(batch);
}

/// Writes what the broker corrects in a producer's header, the largest timestamp and whose clock it is, and
/// computes the CRC anew. Costs nothing where both are right already.
pub fn set_create_time(batch: &mut [u8], max_timestamp: i64) {
    let stored = u16::from_be_bytes([batch[ATTRIBUTES_AT], batch[ATTRIBUTES_AT + 1]]);
    let attributes = stored & !TIMESTAMP_TYPE_BIT;
    let written = max_timestamp.to_be_bytes();
    let at = MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8;
    if attributes == stored && batch[at.clone()] == written {
        return;
    }
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[at].copy_from_slice(&written);
    set_crc(batch);
}

/// Computes and writes the CRC of a whole batch.
pub fn set_crc(batch: &mut [u8]) {
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Bytes that may be patched: the same memory where nobody else holds it, a copy otherwise.
#[must_use]
pub fn into_mut(bytes: Bytes) -> BytesMut {
    bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
