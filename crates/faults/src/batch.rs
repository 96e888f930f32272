//! Record batches (magic 2, not compressed), written and read without the product's own code.
//!
//! **Invariant.** Reading checks everything the broker could have damaged: lengths, checksum, counts, deltas,
//! payloads. A batch cut off at the end of an answer is skipped, as Kafka clients do.
//!
//! Deliberately absent: compression and control batches; the compat suites cover them.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use crate::value::Value;

/// Bytes before the batch length counts.
const LENGTH_END: usize = 12;
/// Bytes of a batch before its first record.
const HEADER: usize = 61;
/// Where what the checksum covers begins.
const CRC_FROM: usize = 21;

/// An idempotent producer's stamp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
}

/// A batch of values counting up from `first`, one per size.
pub(crate) fn encode(first: Value, sizes: &[usize], stamp: Option<Stamp>, timestamp: i64) -> Bytes {
    let stamp = stamp.unwrap_or(Stamp { producer_id: -1, epoch: -1, sequence: -1 });
    let mut records = Vec::new();
    let mut body = Vec::new();
    let mut count = 0_u32;
    for size in sizes {
        body.clear();
        body.push(0);
        put_varint(&mut body, 0);
        put_varint(&mut body, i64::from(count));
        put_varint(&mut body, -1);
        let mut payload = Vec::with_capacity(*size);
        first.plus(count).write(*size, &mut payload);
        put_varint(&mut body, signed(payload.len()));
        body.extend_from_slice(&payload);
        put_varint(&mut body, 0);
        put_varint(&mut records, signed(body.len()));
        records.extend_from_slice(&body);
        count += 1;
    }
    let last = i32::try_from(count).unwrap_or(i32::MAX) - 1;
    let mut tail = Vec::with_capacity(HEADER + records.len());
    tail.extend_from_slice(&0_i16.to_be_bytes());
    tail.extend_from_slice(&last.to_be_bytes());
    tail.extend_from_slice(&timestamp.to_be_bytes());
    tail.extend_from_slice(&timestamp.to_be_bytes());
    tail.extend_from_slice(&stamp.producer_id.to_be_bytes());
    tail.extend_from_slice(&stamp.epoch.to_be_bytes());
    tail.extend_from_slice(&stamp.sequence.to_be_bytes());
    tail.extend_from_slice(&(last + 1).to_be_bytes());
    tail.extend_from_slice(&records);
    let mut batch = Vec::with_capacity(CRC_FROM + tail.len());
    batch.extend_from_slice(&0_i64.to_be_bytes());
    let length = i32::try_from(tail.len() + CRC_FROM - LENGTH_END).unwrap_or(i32::MAX);
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&crc32c(&tail).to_be_bytes());
    batch.extend_from_slice(&tail);
    Bytes::from(batch)
}

/// Hands every record at `from` or later to `sink`; the offset after the last whole batch, if there was one.
pub(crate) fn decode(
    mut bytes: &[u8],
    from: i64,
    sink: &mut impl FnMut(i64, Value),
) -> Result<Option<i64>, String> {
    let mut next = None;
    while bytes.len() >= LENGTH_END {
        let mut head = Reader(bytes);
        let base = head.i64()?;
        let length = usize::try_from(head.i32()?).map_err(|_| format!("batch at {base}: negative length"))?;
        let Some(batch) = bytes.get(..LENGTH_END + length) else { break };
        let after = one(batch, base, from, sink).map_err(|what| format!("batch at {base}: {what}"))?;
        if next.is_some_and(|next| base < next) {
            return Err(format!("batch at {base} after offset {}", next.unwrap_or_default()));
        }
        next = Some(after);
        bytes = &bytes[LENGTH_END + length..];
    }
    Ok(next)
}

fn one(batch: &[u8], base: i64, from: i64, sink: &mut impl FnMut(i64, Value)) -> Result<i64, String> {
    let mut header = Reader(batch.get(LENGTH_END..).unwrap_or_default());
    header.i32()?;
    let magic = header.take(1)?[0];
    if magic != 2 {
        return Err(format!("magic {magic}"));
    }
    let crc = header.i32()?.to_be_bytes();
    if crc32c(header.0).to_be_bytes() != crc {
        return Err("the checksum does not match".to_owned());
    }
    let attributes = header.take(2)?[1];
    if attributes & 0x27 != 0 {
        return Err(format!("attributes {attributes:#x}: nobody sent such a batch"));
    }
    let last = header.i32()?;
    header.take(8 + 8 + 8 + 2 + 4)?;
    let count = header.i32()?;
    if last + 1 != count {
        return Err(format!("{count} records, last delta {last}"));
    }
    for index in 0..count {
        let size = header.varint()?;
        let mut record = Reader(header.take(size)?);
        record.take(1)?;
        record.varint()?;
        let delta = record.varint()?;
        if delta != i64::from(index) || record.varint()? != -1 {
            return Err(format!("record {index} has delta {delta} or a key"));
        }
        let size = record.varint()?;
        let value = Value::read(record.take(size)?)?;
        if base + delta >= from {
            sink(base + delta, value);
        }
    }
    Ok(base + i64::from(count))
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, size: impl TryInto<usize>) -> Result<&'a [u8], String> {
        let size = size.try_into().map_err(|_| "a negative or huge length".to_owned())?;
        let (taken, rest) = self.0.split_at_checked(size).ok_or("cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn i32(&mut self) -> Result<i32, String> {
        Ok(self.take(4)?.iter().fold(0, |value, byte| value << 8 | i32::from(*byte)))
    }

    fn i64(&mut self) -> Result<i64, String> {
        Ok(self.take(8)?.iter().fold(0, |value, byte| value << 8 | i64::from(*byte)))
    }

    fn varint(&mut self) -> Result<i64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err("a varint without an end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = (Option<i64>, Vec<(i64, Value)>);

    fn read(bytes: &[u8], from: i64) -> Result<Found, String> {
        let mut found = Vec::new();
        let next = decode(bytes, from, &mut |offset, value| found.push((offset, value)))?;
        Ok((next, found))
    }

    #[test]
    fn a_batch_comes_back() {
        let first = Value { writer: 3, counter: 10 };
        let batch = encode(first, &[12, 500, 70_000], None, 1_700_000_000_000);
        let (next, found) = read(&batch, 1).unwrap();
        assert_eq!(next, Some(3));
        assert_eq!(found, [(1, first.plus(1)), (2, first.plus(2))]);
    }

    #[test]
    fn a_cut_batch_is_skipped_and_a_damaged_one_is_an_error() {
        let batch = encode(Value { writer: 3, counter: 10 }, &[20, 20], None, 0);
        assert_eq!(read(&batch[..batch.len() - 1], 0), Ok((None, Vec::new())));
        for at in 16..batch.len() {
            let mut damaged = batch.to_vec();
            damaged[at] ^= 0x10;
            assert!(read(&damaged, 0).is_err(), "byte {at}");
        }
    }
}
