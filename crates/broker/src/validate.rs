//! What a producer's batch must be before it is appended, and what is corrected in it.
//!
//! The rules and their order are those of Kafka's log validation for message format 2: structure first, then
//! what the topic's configuration asks. Like there, the header's largest timestamp and its timestamp type are
//! the broker's to say: a wrong one is corrected, not refused, except where the producer claims the
//! broker's clock and has no timestamp, or the topic stamps records itself. Compressed batches are not opened
//! here, so their largest timestamp is believed.
//!
//! **Invariant.** A batch that passes has a true CRC, a record count that matches its offsets, and, if
//! uncompressed, records that nest exactly and a largest timestamp that is that of its records.

use ferrymq_types::record::{PayloadSummary, check_payload};
use ferrymq_types::{BatchError, BatchHeader, BatchView, Compression, TimestampType};

use crate::settings::{SEGMENT_BYTES_MIN, TopicConfig};

/// "No timestamp", of a record and of a batch.
const NO_TIMESTAMP: i64 = -1;

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
    /// Larger than a segment of the topic.
    #[error(
        "the record batch size is {size} bytes, which exceeds the maximum configured segment size of {max} bytes"
    )]
    LargerThanSegment {
        /// Bytes of the batch.
        size: usize,
        /// `segment.bytes`.
        max: u64,
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
    /// The producer claims that the broker stamped its records.
    #[error("invalid timestamp type: a producer must not set it to LogAppendTime")]
    TimestampType,
    /// A record breaks the format; its index in the batch if one record is to blame.
    #[error("{what}")]
    Record {
        /// Which record.
        index: Option<i32>,
        /// What is wrong.
        what: &'static str,
    },
}

/// Checks one batch against the format and the topic; returns its header as it is to be stored. The owner
/// writes what differs ([`ferrymq_types::batch::set_create_time`]).
///
/// # Errors
/// [`Refusal`].
pub fn check_batch(batch: &BatchView, config: &TopicConfig, now_ms: i64) -> Result<BatchHeader, Refusal> {
    let size = batch.bytes.len();
    if size > config.max_message_bytes {
        return Err(Refusal::TooLarge { size, max: config.max_message_bytes });
    }
    check_header(batch)?;
    let summary = match batch.header.compression() {
        Some(Compression::None) => {
            let payload = &batch.bytes[ferrymq_types::batch::HEADER_BYTES..];
            let checked = check_payload(payload, batch.header.record_count);
            Some(checked.map_err(|(index, error)| Refusal::Record { index: Some(index), what: error.0 })?)
        }
        _ => None,
    };
    let header = check_times(&batch.header, summary.as_ref(), config, now_ms)?;
    // Last, as in Kafka: what is wrong with the records is said first.
    // Topics may have a smaller value from when it was no limit.
    let max = config.segment_bytes.max(SEGMENT_BYTES_MIN.unsigned_abs());
    if size as u64 > max {
        return Err(Refusal::LargerThanSegment { size, max });
    }
    Ok(header)
}

/// Checks the timestamps; `summary` is that of the records, unless they are compressed.
fn check_times(
    header: &BatchHeader,
    summary: Option<&PayloadSummary>,
    config: &TopicConfig,
    now_ms: i64,
) -> Result<BatchHeader, Refusal> {
    let claims_append_time = header.timestamp_type() == TimestampType::LogAppendTime;
    if config.timestamp_type == TimestampType::LogAppendTime {
        // The owner stamps it.
        return if claims_append_time { Err(Refusal::TimestampType) } else { Ok(*header) };
    }
    if claims_append_time && header.max_timestamp == NO_TIMESTAMP {
        return Err(Refusal::TimestampType);
    }
    let (oldest, newest) = summary.map_or((header.base_timestamp, header.max_timestamp), |summary| {
        let at = |delta: i64| header.base_timestamp.saturating_add(delta);
        // Without any timestamp it is none, whatever the records' deltas add up to.
        (at(summary.timestamp_delta_min), at(summary.timestamp_delta_max).max(NO_TIMESTAMP))
    });
    let earliest = now_ms.saturating_sub(config.timestamp_before_max_ms);
    let latest = now_ms.saturating_add(config.timestamp_after_max_ms);
    for timestamp in [newest, oldest] {
        let unset = timestamp < 0;
        if !unset && (timestamp < earliest || timestamp > latest) {
            return Err(Refusal::Timestamp { timestamp, earliest, latest });
        }
    }
    Ok(header.with_create_time(newest))
}

/// What the header alone can show.
fn check_header(batch: &BatchView) -> Result<(), Refusal> {
    batch.verify_crc().map_err(Refusal::Corrupt)?;
    let header = &batch.header;
    batch.verify_header().map_err(|error| match error {
        BatchError::Invalid { what } => Refusal::Record { index: None, what },
        other => Refusal::Corrupt(other),
    })?;
    let what = if header.is_control() {
        "clients are not allowed to write control records"
    } else if header.has_producer_id() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        "an idempotent batch needs an epoch and a sequence"
    } else {
        return Ok(());
    };
    Err(Refusal::Record { index: None, what })
}
