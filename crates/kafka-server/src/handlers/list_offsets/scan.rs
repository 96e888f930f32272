//! Finding a record in a batch by its time.
//!
//! A batch of a few kilobytes may decompress to 128 MiB, and who wrote it chose that. So a batch is read as a
//! stream, no further than to the record that is looked for; what may take long is done away from the threads
//! that serve connections, a few at a time in the whole server.
//!
//! **Invariant.** Nothing of a batch is kept but what is read of it at the moment.

use std::io::{self, BufRead, BufReader, Read};

use ferrymq_runtime::blocking;
use ferrymq_storage::Find;
use ferrymq_types::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use ferrymq_types::{BatchView, Compression};

use crate::context::Context;

/// Largest payload that is searched at once, if it is not compressed.
const AT_ONCE_BYTES: usize = 64 * 1024;

/// The records cannot be read.
pub(super) struct Unreadable;

/// A record: how far behind the batch's base offset it is, and its time.
pub(super) type Record = (u64, i64);

/// Looks in `batch` for the record that `what` describes, none before the delta `from`.
pub(super) async fn find(
    context: &Context,
    batch: BatchView,
    what: Find,
    from: u64,
) -> Result<Option<Record>, Unreadable> {
    if batch.header.compression() == Some(Compression::None) && batch.bytes.len() <= AT_ONCE_BYTES {
        return search(&batch, what, from);
    }
    let place = context.opening.clone().acquire_owned().await.map_err(|_| Unreadable)?;
    // The place goes along: the work runs to its end also if nobody waits for it any more.
    blocking(move || {
        let found = search(&batch, what, from);
        drop(place);
        found
    })
    .await
}

fn search(batch: &BatchView, what: Find, from: u64) -> Result<Option<Record>, Unreadable> {
    let compression = batch.header.compression().ok_or(Unreadable)?;
    let payload = batch.payload();
    let reader = ferrymq_compress::reader(compression, &payload, DECOMPRESSED_BATCH_BYTES_MAX);
    let mut reader = BufReader::new(reader.map_err(|_| Unreadable)?);
    let base_time = batch.header.base_timestamp;
    let mut best: Option<Record> = None;
    for _ in 0..batch.header.record_count {
        let (time_delta, offset_delta) = match next(&mut reader) {
            Ok(record) => record,
            // What is not a record ends the search; what was there before stands.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => break,
            Err(_) => return Err(Unreadable),
        };
        let record = (u64::from(offset_delta.cast_unsigned()), base_time.saturating_add(time_delta));
        if record.0 < from {
            continue;
        }
        match what {
            Find::Timestamp(target) if record.1 >= target => return Ok(Some(record)),
            Find::Timestamp(_) => {}
            // The first of several with the same timestamp.
            _ if best.is_none_or(|best| record.1 > best.1) => best = Some(record),
            _ => {}
        }
    }
    Ok(best)
}

/// The time delta and the offset delta of the next record; skips the rest of it.
fn next(from: &mut impl BufRead) -> io::Result<(i64, i32)> {
    let length = u64::try_from(varint(from)?).map_err(|_| invalid())?;
    let mut body = from.take(length);
    body.read_exact(&mut [0])?;
    let time_delta = varint(&mut body)?;
    let offset_delta = i32::try_from(varint(&mut body)?).map_err(|_| invalid())?;
    while body.limit() > 0 {
        let here = body.fill_buf()?.len();
        if here == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        body.consume(here);
    }
    Ok((time_delta, offset_delta))
}

/// A zig-zag varint.
fn varint(from: &mut impl Read) -> io::Result<i64> {
    let mut value = 0u64;
    for index in 0..10 {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << (7 * index);
        if byte[0] & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(invalid())
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
