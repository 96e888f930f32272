//! The records of what was fetched, decoded one batch at a time.
//!
//! **Invariant.** Control records and records before the asked-for offset are not handed out. After an error
//! nothing follows.

use bytes::Bytes;
use ferrymq_compress::decompress;
use ferrymq_types::{BatchView, Compression, Header, Records, TimestampType};

use super::Fetched;
use crate::ClientError;

/// A record as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970, by the producer's clock or the broker's.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<Header>,
}

/// Iterator over the records of a [`Fetched`].
#[derive(Debug)]
pub struct FetchedRecords<'a> {
    fetched: &'a Fetched,
    next_batch: usize,
    current: Option<(&'a BatchView, Records)>,
}

impl<'a> FetchedRecords<'a> {
    pub(super) fn new(fetched: &'a Fetched) -> FetchedRecords<'a> {
        FetchedRecords { fetched, next_batch: 0, current: None }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.fetched.topic, self.fetched.partition)
    }

    fn open(&self, batch: &'a BatchView) -> Result<Records, ClientError> {
        let invalid = |source| ClientError::Batch { partition: self.name(), source };
        let what = "unknown compression type";
        let codec = batch.header.compression();
        let codec = codec.ok_or_else(|| invalid(ferrymq_types::BatchError::Invalid { what }))?;
        let payload = match codec {
            Compression::None => batch.payload(),
            codec => decompress(codec, &batch.payload(), self.fetched.decompressed_bytes)?,
        };
        Ok(Records::new(payload, batch.header.record_count))
    }

    fn stop<T>(&mut self, error: ClientError) -> Option<Result<T, ClientError>> {
        self.next_batch = self.fetched.batches.len();
        self.current = None;
        Some(Err(error))
    }
}

impl Iterator for FetchedRecords<'_> {
    type Item = Result<ConsumedRecord, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((batch, records)) = &mut self.current else {
                let batch = self.fetched.batches.get(self.next_batch)?;
                self.next_batch += 1;
                if batch.header.is_control() {
                    continue;
                }
                match self.open(batch) {
                    Ok(records) => self.current = Some((batch, records)),
                    Err(error) => return self.stop(error),
                }
                continue;
            };
            let header = &batch.header;
            match records.next() {
                None => self.current = None,
                Some(Err(source)) => {
                    let partition = self.name();
                    return self.stop(ClientError::Record { partition, source });
                }
                Some(Ok(record)) => {
                    let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
                    if offset < self.fetched.from {
                        continue;
                    }
                    let timestamp = match header.timestamp_type() {
                        TimestampType::CreateTime => {
                            header.base_timestamp.saturating_add(record.timestamp_delta)
                        }
                        TimestampType::LogAppendTime => header.max_timestamp,
                    };
                    let (key, value, headers) = (record.key, record.value, record.headers);
                    return Some(Ok(ConsumedRecord { offset, timestamp, key, value, headers }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrymq_types::{BatchBuilder, Epoch, Offset, batch};

    fn stored(base: u64, values: &[&str], codec: Compression) -> BatchView {
        let mut builder = BatchBuilder::new(1000);
        for value in values {
            builder.push(1001, Some(b"k"), Some(value.as_bytes()), &[]);
        }
        let built =
            builder.build_compressed(codec, |payload| ferrymq_compress::compress(codec, payload)).unwrap();
        let mut bytes = batch::into_mut(built);
        batch::set_position(&mut bytes, Offset(base), Epoch(0));
        BatchView::split_from(&mut bytes.freeze()).unwrap()
    }

    fn fetched(from: i64, batches: Vec<BatchView>) -> Fetched {
        let topic = "t".into();
        Fetched { topic, partition: 0, from, next: 0, high_watermark: 0, batches, decompressed_bytes: 1000 }
    }

    #[test]
    fn records_of_all_codecs_from_an_offset_on() {
        let batches = vec![
            stored(10, &["a", "b", "c"], Compression::None),
            stored(13, &["d"], Compression::Gzip),
            stored(14, &["e"], Compression::Snappy),
            stored(20, &["f"], Compression::Lz4),
            stored(21, &["g"], Compression::Zstd),
        ];
        let fetched = fetched(11, batches);
        assert_eq!(fetched.record_count(), 6);
        let records: Vec<ConsumedRecord> = fetched.records().collect::<Result<_, _>>().unwrap();
        let seen: Vec<(i64, &[u8])> =
            records.iter().map(|one| (one.offset, one.value.as_deref().unwrap())).collect();
        let expected: [(i64, &[u8]); 6] =
            [(11, b"b"), (12, b"c"), (13, b"d"), (14, b"e"), (20, b"f"), (21, b"g")];
        assert_eq!(seen, expected);
        assert!(records.iter().all(|one| one.timestamp == 1001));
    }

    #[test]
    fn damage_is_told_once() {
        let mut bytes = batch::into_mut(stored(0, &["abc"], Compression::Gzip).bytes);
        bytes[73] ^= 0xff;
        let batch = BatchView::split_from(&mut bytes.freeze()).unwrap();
        let fetched = fetched(0, vec![batch, stored(1, &["x"], Compression::None)]);
        let mut records = fetched.records();
        assert!(matches!(records.next(), Some(Err(ClientError::Compress(_)))));
        assert!(records.next().is_none());
        let bomb = vec![stored(0, &[&"x".repeat(5000)], Compression::Zstd)];
        assert!(matches!(self::fetched(0, bomb).records().next(), Some(Err(ClientError::Compress(_)))));
    }
}
