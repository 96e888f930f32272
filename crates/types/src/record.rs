//! Records inside a batch: walking them in place, and building batches.
//!
//! A record is `length attributes timestamp-delta offset-delta key value headers`, all integers zig-zag
//! varints (Kafka's protocol guide, "Record").
//!
//! **Invariants.** Walking never allocates from a declared length, never recurses, and yields slices of the
//! input. The walker checks structure; meaning (consecutive deltas and such) is the caller's to check.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{self, Compression, HEADER_BYTES, NO_PRODUCER_ID, NO_SEQUENCE};

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid record: {0}")]
pub struct RecordError(pub &'static str);

/// One header of a record. Keys are UTF-8 by convention, bytes by format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The header's key.
    pub key: Bytes,
    /// The header's value; may be null.
    pub value: Option<Bytes>,
}

/// One record, its fields slices of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Milliseconds after the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset after the batch's base offset.
    pub offset_delta: i32,
    /// The key; may be null.
    pub key: Option<Bytes>,
    /// The value; may be null (a tombstone).
    pub value: Option<Bytes>,
    /// Headers, in order, duplicates kept.
    pub headers: Vec<Header>,
}

/// An iterator over the records of an uncompressed payload.
#[derive(Debug, Clone)]
pub struct Records {
    rest: Bytes,
    left: i32,
}

impl Records {
    /// Walks `count` records of `payload` (a batch's bytes after its header, decompressed).
    #[must_use]
    pub fn new(payload: Bytes, count: i32) -> Records {
        Records { rest: payload, left: count }
    }

    /// Bytes not yet walked; empty after the last record of a well-formed batch.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn next_record(&mut self) -> Result<Record, RecordError> {
        let length = read_length(&mut self.rest)?.ok_or(RecordError("null record"))?;
        let mut body = self.rest.split_to(length);
        if body.is_empty() {
            return Err(RecordError("no attributes"));
        }
        let _attributes = body.split_to(1);
        let timestamp_delta = read_varint(&mut body)?;
        let offset_delta =
            i32::try_from(read_varint(&mut body)?).map_err(|_| RecordError("offset delta out of range"))?;
        let key = read_bytes(&mut body)?;
        let value = read_bytes(&mut body)?;
        let headers = read_headers(&mut body)?;
        if !body.is_empty() {
            return Err(RecordError("bytes left over in the record"));
        }
        Ok(Record { timestamp_delta, offset_delta, key, value, headers })
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        let item = self.next_record();
        // After an error the rest has no meaning.
        self.left = if item.is_ok() { self.left - 1 } else { 0 };
        Some(item)
    }
}

fn read_headers(body: &mut Bytes) -> Result<Vec<Header>, RecordError> {
    let count = usize::try_from(read_varint(body)?).map_err(|_| RecordError("negative number of headers"))?;
    // A header takes at least two bytes, so this bounds the allocation by what is really there.
    if count > body.len() / 2 {
        return Err(RecordError("more headers than bytes"));
    }
    let mut headers = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let key = read_bytes(body)?.ok_or(RecordError("null header key"))?;
        headers.push(Header { key, value: read_bytes(body)? });
    }
    Ok(headers)
}

fn read_bytes(from: &mut Bytes) -> Result<Option<Bytes>, RecordError> {
    Ok(read_length(from)?.map(|length| from.split_to(length)))
}

/// A length that is covered by the bytes that remain; `None` for -1.
fn read_length(from: &mut Bytes) -> Result<Option<usize>, RecordError> {
    let length = read_varint(from)?;
    if length == -1 {
        return Ok(None);
    }
    match usize::try_from(length) {
        Ok(length) if length <= from.len() => Ok(Some(length)),
        _ => Err(RecordError("length out of range")),
    }
}

fn read_varint(from: &mut Bytes) -> Result<i64, RecordError> {
    let (value, used) = decode_varint(from)?;
    let _ = from.split_to(used);
    Ok(value)
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_varint(out: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn put_bytes(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => put_varint(out, -1),
        Some(value) => {
            put_varint(out, signed(value.len()));
            out.put_slice(value);
        }
    }
}

/// What a walk over a payload found, without keeping any record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadSummary {
    /// Smallest timestamp delta.
    pub timestamp_delta_min: i64,
    /// Largest timestamp delta.
    pub timestamp_delta_max: i64,
    /// Whether every record has a key.
    pub all_keyed: bool,
}

/// Checks the structure of every record of an uncompressed payload: lengths nest, offset deltas count up from
/// zero, nothing is left over. Cheap: no allocation, no reference counting.
///
/// # Errors
/// The first rule that is broken, and by which record.
pub fn check_payload(payload: &[u8], count: i32) -> Result<PayloadSummary, (i32, RecordError)> {
    let mut cursor = Cursor { rest: payload };
    let mut summary =
        PayloadSummary { timestamp_delta_min: i64::MAX, timestamp_delta_max: i64::MIN, all_keyed: true };
    for index in 0..count {
        let (delta, keyed) = cursor.record(index).map_err(|error| (index, error))?;
        summary.timestamp_delta_min = summary.timestamp_delta_min.min(delta);
        summary.timestamp_delta_max = summary.timestamp_delta_max.max(delta);
        summary.all_keyed &= keyed;
    }
    if cursor.rest.is_empty() {
        Ok(summary)
    } else {
        Err((count, RecordError("bytes left over in the batch")))
    }
}

/// A walk over borrowed bytes.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn record(&mut self, index: i32) -> Result<(i64, bool), RecordError> {
        let length = self.length()?.ok_or(RecordError("null record"))?;
        let (body, behind) = self.rest.split_at(length);
        let (_attributes, body) = body.split_first().ok_or(RecordError("no attributes"))?;
        let mut body = Cursor { rest: body };
        let timestamp_delta = body.varint()?;
        if body.varint()? != i64::from(index) {
            return Err(RecordError("offset deltas do not count up from zero"));
        }
        let keyed = body.skip_bytes()?;
        body.skip_bytes()?;
        let headers = body.varint()?;
        if headers < 0 || headers.cast_unsigned() > (body.rest.len() / 2) as u64 {
            return Err(RecordError("number of headers out of range"));
        }
        for _ in 0..headers {
            if !body.skip_bytes()? {
                return Err(RecordError("null header key"));
            }
            body.skip_bytes()?;
        }
        if !body.rest.is_empty() {
            return Err(RecordError("bytes left over in the record"));
        }
        self.rest = behind;
        Ok((timestamp_delta, keyed))
    }

    /// Skips a length-prefixed field; whether it was not null.
    fn skip_bytes(&mut self) -> Result<bool, RecordError> {
        match self.length()? {
            None => Ok(false),
            Some(length) => {
                self.rest = &self.rest[length..];
                Ok(true)
            }
        }
    }

    fn length(&mut self) -> Result<Option<usize>, RecordError> {
        let length = self.varint()?;
        if length == -1 {
            return Ok(None);
        }
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(Some(length)),
            _ => Err(RecordError("length out of range")),
        }
    }

    fn varint(&mut self) -> Result<i64, RecordError> {
        let (value, used) = decode_varint(self.rest)?;
        self.rest = &self.rest[used..];
        Ok(value)
    }
}

/// A zig-zag varint at the start of `bytes`, and how many bytes it takes.
#[inline]
fn decode_varint(bytes: &[u8]) -> Result<(i64, usize), RecordError> {
    let mut value = 0u64;
    for index in 0..10 {
        let byte = *bytes.get(index).ok_or(RecordError("cut short"))?;
        if index == 9 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(((value >> 1).cast_signed() ^ -(value & 1).cast_signed(), index + 1));
        }
    }
    Err(RecordError("varint too long"))
}

/// Bytes that [`put_varint`] writes for `value`.
#[inline]
fn varint_bytes(value: i64) -> usize {
    let rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    ((70 - (rest | 1).leading_zeros()) / 7) as usize
}

/// Bytes that [`put_bytes`] writes for `value`.
#[inline]
fn field_bytes(value: Option<&[u8]>) -> usize {
    value.map_or(1, |value| varint_bytes(signed(value.len())) + value.len())
}

fn signed(length: usize) -> i64 {
    i64::try_from(length).expect("a slice is shorter than i64::MAX")
}

/// Builds one batch, record by record. Base offset 0 and leader epoch 0 until patched.
///
/// Records are written once, behind room for the header; an uncompressed batch is finished in place.
#[derive(Debug)]
pub struct BatchBuilder {
    out: BytesMut,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    producer: (i64, i16, i32),
}

impl BatchBuilder {
    /// An empty batch whose record timestamps count from `base_timestamp` milliseconds.
    #[must_use]
    pub fn new(base_timestamp: i64) -> BatchBuilder {
        BatchBuilder::with_capacity(base_timestamp, 4096)
    }

    /// As [`new`](Self::new), with room for `bytes` of batch.
    #[must_use]
    pub fn with_capacity(base_timestamp: i64, bytes: usize) -> BatchBuilder {
        let mut out = BytesMut::with_capacity(bytes.max(HEADER_BYTES));
        out.put_bytes(0, HEADER_BYTES);
        let producer = (NO_PRODUCER_ID, -1, NO_SEQUENCE);
        BatchBuilder { out, base_timestamp, max_timestamp: base_timestamp, count: 0, producer }
    }

    /// Makes the batch an idempotent producer's.
    pub fn producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.producer = (id, epoch, base_sequence);
    }

    /// Appends one record.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) {
        let headers = headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        self.push_with(timestamp, key, value, headers);
    }

    /// Appends one record whose headers, names and values, need not be kept anywhere else; where in the batch the bytes of
    /// its value begin, or would.
    pub fn push_with<'a>(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) -> usize {
        let delta = timestamp - self.base_timestamp;
        let index = i64::from(self.count);
        let body = 1 + varint_bytes(delta) + varint_bytes(index) + field_bytes(key) + field_bytes(value);
        let all = headers.clone();
        let length = all.fold(body + varint_bytes(signed(headers.len())), |sum, (key, value)| {
            sum + field_bytes(Some(key)) + field_bytes(value)
        });
        self.out.reserve(length + 10);
        put_varint(&mut self.out, signed(length));
        let start = self.out.len();
        self.out.put_u8(0);
        put_varint(&mut self.out, delta);
        put_varint(&mut self.out, index);
        put_bytes(&mut self.out, key);
        put_bytes(&mut self.out, value);
        let value_at = self.out.len() - value.map_or(0, <[u8]>::len);
        put_varint(&mut self.out, signed(headers.len()));
        for (key, value) in headers {
            put_bytes(&mut self.out, Some(key));
            put_bytes(&mut self.out, value);
        }
        debug_assert_eq!(self.out.len() - start, length);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        value_at
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Bytes so far, header included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// The finished, uncompressed batch.
    #[must_use]
    pub fn build(mut self) -> Bytes {
        self.seal(Compression::None);
        self.out.freeze()
    }

    /// The finished batch with its records passed through `compress`.
    ///
    /// # Errors
    /// Whatever `compress` returns.
    pub fn build_compressed<E>(
        mut self,
        compression: Compression,
        compress: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let packed = compress(&self.out[HEADER_BYTES..])?;
        self.out.truncate(HEADER_BYTES);
        self.out.extend_from_slice(&packed);
        self.seal(compression);
        Ok(self.out.freeze())
    }

    /// Writes the header in front of the records.
    fn seal(&mut self, compression: Compression) {
        let length = self.out.len() - batch::LENGTH_OVERHEAD;
        let (producer_id, producer_epoch, base_sequence) = self.producer;
        let mut head = &mut self.out[..HEADER_BYTES];
        head.put_i64(0);
        head.put_i32(i32::try_from(length).expect("a batch is smaller than 2 GiB"));
        head.put_i32(0);
        head.put_i8(2);
        head.put_u32(0);
        head.put_u16(compression as u16);
        head.put_i32(self.count - 1);
        head.put_i64(self.base_timestamp);
        head.put_i64(self.max_timestamp);
        head.put_i64(producer_id);
        head.put_i16(producer_epoch);
        head.put_i32(base_sequence);
        head.put_i32(self.count);
        batch::set_crc(&mut self.out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchView, Epoch, Offset};
    use proptest::prelude::*;

    type Fields = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn arb_record() -> impl Strategy<Value = Fields> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
        let header = (proptest::collection::vec(any::<u8>(), 0..9), bytes());
        (0i64..1 << 40, bytes(), bytes(), proptest::collection::vec(header, 0..4))
    }

    proptest! {
        #[test]
        fn what_is_built_is_walked(records in proptest::collection::vec(arb_record(), 1..20)) {
            let mut builder = BatchBuilder::new(1000);
            for (timestamp, key, value, headers) in &records {
                let headers: Vec<Header> = headers.iter().map(|(key, value)| Header {
                    key: Bytes::copy_from_slice(key),
                    value: value.as_deref().map(Bytes::copy_from_slice),
                }).collect();
                builder.push(*timestamp, key.as_deref(), value.as_deref(), &headers);
            }
            let mut patched = batch::into_mut(builder.build());
            batch::set_position(&mut patched, Offset(77), Epoch(3));
            let mut bytes = patched.freeze();
            let view = BatchView::split_from(&mut bytes).unwrap();
            prop_assert!(bytes.is_empty());
            view.verify_crc().unwrap();
            view.verify_header().unwrap();
            prop_assert_eq!(view.header.base_offset, 77);
            prop_assert_eq!(view.header.leader_epoch, 2);
            let mut walker = Records::new(view.payload(), view.header.record_count);
            let walked: Vec<Record> = walker.by_ref().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(walker.remaining(), 0);
            prop_assert_eq!(walked.len(), records.len());
            let summary = check_payload(&view.payload(), view.header.record_count).unwrap();
            prop_assert_eq!(summary.all_keyed, records.iter().all(|record| record.1.is_some()));
            let latest = records.iter().map(|record| record.0).max().unwrap();
            prop_assert_eq!(summary.timestamp_delta_max, latest - 1000);
            for (index, (record, expected)) in walked.iter().zip(&records).enumerate() {
                prop_assert_eq!(record.offset_delta as usize, index);
                prop_assert_eq!(record.timestamp_delta, expected.0 - 1000);
                prop_assert_eq!(record.key.as_deref(), expected.1.as_deref());
                prop_assert_eq!(record.value.as_deref(), expected.2.as_deref());
                prop_assert_eq!(record.headers.len(), expected.3.len());
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in any::<i32>()) {
            let mut whole = Bytes::from(bytes.clone());
            let _ = BatchView::split_from(&mut whole);
            let checked = check_payload(&bytes, count.min(300)).is_ok();
            let mut walker = Records::new(Bytes::from(bytes), count.min(300));
            let walked = walker.by_ref().all(|record| record.is_ok()) && walker.remaining() == 0;
            // The quick check also wants offset deltas in order, so it may refuse what the walk accepts.
            prop_assert!(walked || !checked);
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut builder = BatchBuilder::new(0);
        builder.push(0, Some(b"key"), Some(b"value"), &[]);
        let good = builder.build();
        for bit in ATTRIBUTES_BIT..good.len() * 8 {
            let mut bad = BytesMut::from(&good[..]);
            bad[bit / 8] ^= 1 << (bit % 8);
            let view = BatchView::split_from(&mut bad.freeze()).unwrap();
            assert!(view.verify_crc().is_err(), "bit {bit}");
        }
    }
    const ATTRIBUTES_BIT: usize = 21 * 8;

    #[test]
    fn append_time_keeps_the_crc_true() {
        let mut builder = BatchBuilder::new(5);
        builder.push(9, None, Some(b"x"), &[]);
        let mut bytes = batch::into_mut(builder.build());
        batch::set_append_time(&mut bytes, 1234);
        let view = BatchView::split_from(&mut bytes.freeze()).unwrap();
        view.verify_crc().unwrap();
        assert_eq!(view.header.max_timestamp, 1234);
        assert_eq!(view.header.timestamp_type(), crate::TimestampType::LogAppendTime);
    }
}
