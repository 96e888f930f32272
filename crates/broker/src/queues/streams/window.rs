//! Opening batches: the next records of one, no more than are soon delivered.
//!
//! A batch of a few kilobytes may decompress to 128 MiB, and who wrote it chose that. So a batch that is compressed or
//! large is read as a stream, up to where enough is found, and read again from its start when more is wanted; what takes
//! long is done away from the threads that serve connections, a few at a time.
//!
//! **Invariant.** What cannot be read is passed over with an error, once; the records before it are delivered.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::limits::{BATCH_BYTES_MAX, DECOMPRESSED_BATCH_BYTES_MAX, STREAM_WINDOW_BYTES};
use ferrymq_types::{BatchView, Compression, Record, Records, TimestampType};

use super::{StreamFilter, StreamRecord, Translate};

/// A record on its way to a consumer.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) offset: u64,
    pub(super) timestamp_ms: i64,
    pub(super) record: StreamRecord,
}

/// What a consumer wants next of a partition.
#[derive(Clone)]
pub(super) struct Wanted {
    /// Nothing before this offset.
    pub(super) from: u64,
    /// Nothing before the first record of this time.
    pub(super) after_ms: Option<i64>,
    pub(super) filter: Option<Arc<StreamFilter>>,
    pub(super) translate: Arc<dyn Translate>,
    /// How much is enough.
    pub(super) bytes_max: usize,
}

/// What was found in a batch.
pub(super) struct Found {
    pub(super) records: Vec<Opened>,
    pub(super) bytes: usize,
    /// Where to go on.
    pub(super) next: u64,
    pub(super) after_ms: Option<i64>,
}

/// Whether a batch is opened without ado.
pub(super) fn is_light(batch: &BatchView) -> bool {
    batch.header.compression() == Some(Compression::None) && batch.bytes.len() <= STREAM_WINDOW_BYTES
}

/// Opens a batch.
pub(super) fn open(batch: &BatchView, wanted: Wanted) -> Found {
    let end = batch.header.base_offset.cast_unsigned() + u64::from(batch.header.span());
    let mut found = Found { records: Vec::new(), bytes: 0, next: end, after_ms: wanted.after_ms };
    if batch.header.is_control() {
        return found;
    }
    let done = match is_light(batch) {
        true => from_payload(batch, &wanted, &mut found),
        false => from_stream(batch, &wanted, &mut found),
    };
    if let Err(error) = done {
        let base = batch.header.base_offset;
        tracing::error!(base, %error, "a batch cannot be read to its end; what is behind it goes on");
        found.next = end;
    }
    found
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

fn from_payload(batch: &BatchView, wanted: &Wanted, found: &mut Found) -> io::Result<()> {
    for record in Records::new(batch.payload(), batch.header.record_count) {
        if !take(batch, record.map_err(invalid)?, wanted, found) {
            break;
        }
    }
    Ok(())
}

fn from_stream(batch: &BatchView, wanted: &Wanted, found: &mut Found) -> io::Result<()> {
    let compression = batch.header.compression().ok_or_else(|| invalid("unknown compression"))?;
    let payload = batch.payload();
    let bytes_max = match compression {
        Compression::None => BATCH_BYTES_MAX,
        _ => DECOMPRESSED_BATCH_BYTES_MAX,
    };
    let reader = ferrymq_compress::reader(compression, &payload, bytes_max).map_err(invalid)?;
    let mut reader = BufReader::new(reader);
    for _ in 0..batch.header.record_count {
        if !take(batch, next(&mut reader)?, wanted, found) {
            break;
        }
    }
    Ok(())
}

/// The next record, in memory of its own.
fn next(from: &mut impl BufRead) -> io::Result<Record> {
    let (length, prefix) = varint(from)?;
    let length = u64::try_from(length).map_err(invalid)?;
    let mut body = prefix;
    // Grows with what is there, whatever the length says.
    let read = from.take(length).read_to_end(&mut body)?;
    if read as u64 != length {
        return Err(invalid("a record is cut short"));
    }
    let none = || invalid("no record");
    Records::new(Bytes::from(body), 1).next().ok_or_else(none)?.map_err(invalid)
}

/// A zig-zag varint, and its bytes.
fn varint(from: &mut impl Read) -> io::Result<(i64, Vec<u8>)> {
    let (mut value, mut bytes) = (0u64, Vec::with_capacity(16));
    for index in 0..5 {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        value |= u64::from(byte[0] & 0x7f) << (7 * index);
        if byte[0] & 0x80 == 0 {
            return Ok(((value >> 1).cast_signed() ^ -(value & 1).cast_signed(), bytes));
        }
    }
    Err(invalid("the length of a record is no number"))
}

/// Takes a record if it is wanted; whether to go on.
fn take(batch: &BatchView, record: Record, wanted: &Wanted, found: &mut Found) -> bool {
    let header = &batch.header;
    let delta = u64::from(record.offset_delta.cast_unsigned());
    let offset = header.base_offset.cast_unsigned().saturating_add(delta);
    let timestamp_ms = match header.timestamp_type() {
        TimestampType::LogAppendTime => header.max_timestamp,
        TimestampType::CreateTime => header.base_timestamp.saturating_add(record.timestamp_delta),
    };
    if offset < wanted.from {
        return true;
    }
    if found.bytes >= wanted.bytes_max && !found.records.is_empty() {
        found.next = offset;
        return false;
    }
    if found.after_ms.is_some_and(|after| timestamp_ms < after) {
        return true;
    }
    found.after_ms = None;
    let Record { key, value, headers, .. } = record;
    let record = StreamRecord { key, value, headers };
    let takes = |filter: &StreamFilter| filter.takes(wanted.translate.filter_value(&record));
    if wanted.filter.as_deref().is_none_or(takes) {
        found.bytes += record.bytes();
        found.records.push(Opened { offset, timestamp_ms, record });
    }
    true
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use ferrymq_types::{BatchBuilder, Header, RecordKey};

    use super::*;
    use crate::queues::streams::StreamPlace;
    use crate::queues::types::Message;

    /// Filters by the first header.
    struct ByFirst;

    impl Translate for ByFirst {
        fn record(&self, _message: &Message, _rule: &RecordKey) -> StreamRecord {
            StreamRecord::default()
        }

        fn message(&self, _record: StreamRecord, _place: StreamPlace) -> Message {
            Message::default()
        }

        fn filter_value<'a>(&self, record: &'a StreamRecord) -> Option<&'a [u8]> {
            record.headers.first()?.value.as_deref()
        }
    }

    fn wanted(bytes_max: usize) -> Wanted {
        Wanted { from: 0, after_ms: None, filter: None, translate: Arc::new(ByFirst), bytes_max }
    }

    /// Records at 100, 101, .. ms; every third has the filter value `x`.
    fn batch(count: i64, body: usize, compression: Compression) -> BatchView {
        let mut builder = BatchBuilder::new(100);
        for at in 0..count {
            let header = Header { key: "f".into(), value: Some("x".into()) };
            let headers = if at % 3 == 0 { vec![header] } else { Vec::new() };
            let value = vec![u8::try_from(at % 251).unwrap(); body];
            builder.push(100 + at, Some(at.to_string().as_bytes()), Some(&value), &headers);
        }
        let mut bytes = match compression {
            Compression::None => builder.build(),
            _ => builder
                .build_compressed(compression, |raw| ferrymq_compress::compress(compression, raw))
                .unwrap(),
        };
        BatchView::split_from(&mut bytes).unwrap()
    }

    fn offsets(found: &Found) -> Vec<u64> {
        found.records.iter().map(|opened| opened.offset).collect()
    }

    #[test]
    fn large_batches_are_opened_a_window_at_a_time() {
        for compression in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Zstd] {
            let batch = batch(3000, 1000, compression);
            assert!(!is_light(&batch));
            let (mut from, mut seen, mut windows) = (0, Vec::new(), 0);
            while from < 3000 {
                let found = open(&batch, Wanted { from, ..wanted(100_000) });
                assert!(found.bytes <= 102_000, "{}", found.bytes);
                seen.extend(offsets(&found));
                (from, windows) = (found.next, windows + 1);
            }
            assert_eq!(seen, (0..3000).collect::<Vec<_>>(), "{compression:?}");
            assert!(windows >= 30, "{windows}");
        }
    }

    #[test]
    fn filters_and_times_pass_records_over() {
        let batch = batch(9, 10, Compression::None);
        assert!(is_light(&batch));
        let x = |unfiltered| Some(Arc::new(StreamFilter { values: vec!["x".into()], unfiltered }));
        let found = open(&batch, Wanted { filter: x(false), ..wanted(1000) });
        assert_eq!((offsets(&found), found.next), (vec![0, 3, 6], 9));
        let all = open(&batch, Wanted { filter: x(true), ..wanted(10_000) });
        assert_eq!(offsets(&all).len(), 9);
        let late = open(&batch, Wanted { after_ms: Some(107), ..wanted(10_000) });
        assert_eq!((offsets(&late), late.after_ms), (vec![7, 8], None));
        let never = open(&batch, Wanted { after_ms: Some(1000), ..wanted(10_000) });
        assert_eq!((offsets(&never), never.after_ms, never.next), (vec![], Some(1000), 9));
        let one = open(&batch, Wanted { from: 4, ..wanted(1) });
        assert_eq!((offsets(&one), one.next), (vec![4], 5));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let good = batch(100, 1000, Compression::Zstd);
        let mut bytes = BytesMut::from(&good.bytes[..]);
        let half = bytes.len() / 2;
        bytes[half..].fill(0xff);
        let bad = BatchView { bytes: bytes.freeze(), header: good.header };
        let found = open(&bad, wanted(1 << 20));
        assert!(found.records.len() < 100);
        assert_eq!(found.next, 100, "behind it");
    }
}
