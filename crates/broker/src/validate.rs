//! What a producer's batch must be before it is appended.
//!
//! The rules and their order are those of Kafka's log validation for message format 2: structure first, then
//! what the topic's configuration asks. Compressed batches are not opened here.
//!
//! **Invariant.** A batch that passes has a true CRC, a record count that matches its offsets, and, if
//! uncompressed, records that nest exactly.

use ferrymq_types::record::check_payload;
use ferrymq_types::{BatchError, BatchView, Compression, TimestampType};

use crate::settings::TopicConfig;

/// Why a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes do not verify.
    #[error("{0}")]
    Corrupt(BatchError),
    /// Not message format 2.
    #[error("{0}")]
    Format(BatchError),
    /// Larger than the topic allows.
    #[error(
        "the record batch size is {size} bytes, which exceeds the maximum configured value of {max} bytes"
    )]
    TooLarge {
        /// Bytes of the batch.
        size: usize,
        /// `max.message.bytes`.
        max: usize,
    },
    /// A timestamp too far from the broker's clock.
    #[error("timestamp {timestamp} of the record batch is out of range [{earliest}, {latest}]")]
    Timestamp {
        /// The offending timestamp.
        timestamp: i64,
        /// Earliest accepted.
        earliest: i64,
        /// Latest accepted.
        latest: i64,
    },
    /// A record breaks the format; its index in the batch if one record is to blame.
    #[error("{what}")]
    Record {
        /// Which record.
        index: Option<i32>,
        /// What is wrong.
        what: &'static str,
    },
}

/// Checks one batch against the format and the topic.
///
/// # Errors
/// [`Refusal`].
pub fn check_batch(batch: &BatchView, config: &TopicConfig, now_ms: i64) -> Result<(), Refusal> {
    let size = batch.bytes.len();
    if size > config.max_message_bytes {
        return Err(Refusal::TooLarge { size, max: config.max_message_bytes });
    }
    batch.verify_crc().map_err(Refusal::Corrupt)?;
    let header = &batch.header;
    batch.verify_header().map_err(|error| match error {
        BatchError::Invalid { what } => Refusal::Record { index: None, what },
        other => Refusal::Corrupt(other),
    })?;
    if header.is_control() {
        return Err(Refusal::Record {
            index: None,
            what: "clients are not allowed to write control records",
        });
    }
    if header.has_producer_id() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(Refusal::Record {
            index: None,
            what: "an idempotent batch needs an epoch and a sequence",
        });
    }
    let summary = match header.compression() {
        Some(Compression::None) => {
            let payload = &batch.bytes[ferrymq_types::batch::HEADER_BYTES..];
            let checked = check_payload(payload, header.record_count);
            Some(checked.map_err(|(index, error)| Refusal::Record { index: Some(index), what: error.0 })?)
        }
        _ => None,
    };
    if config.timestamp_type == TimestampType::LogAppendTime {
        return Ok(());
    }
    let earliest = now_ms.saturating_sub(config.timestamp_before_max_ms);
    let latest = now_ms.saturating_add(config.timestamp_after_max_ms);
    let oldest = summary.map_or(header.base_timestamp, |summary| {
        header.base_timestamp.saturating_add(summary.timestamp_delta_min)
    });
    for timestamp in [header.max_timestamp, oldest] {
        let unset = timestamp < 0;
        if !unset && (timestamp < earliest || timestamp > latest) {
            return Err(Refusal::Timestamp { timestamp, earliest, latest });
        }
    }
    Ok(())
}
