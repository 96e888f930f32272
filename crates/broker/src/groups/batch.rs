//! Group records as record batches, and back.
//!
//! **Invariants.** One flush becomes as few batches as their size allows; a batch takes as many offsets as it
//! has records, so every reader of record batches can read a shard's log. Reading checks each batch's CRC:
//! the store promises whole batches, not that they are ours.
//!
//! Deliberately absent: compression. The records are small and read once, at a restart.

use bytes::Bytes;
use ferrymq_storage::Batch;
use ferrymq_types::{BatchBuilder, BatchView, Compression, Epoch, Offset, Records, batch};

use super::record::GroupRecord;

/// A batch is closed when it has this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Packs `records` into batches that begin at `base`.
pub(super) fn pack(records: &[GroupRecord], base: Offset, epoch: Epoch, wall_ms: i64) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut base = base;
    let mut builder = BatchBuilder::new(wall_ms);
    for record in records {
        builder.push(wall_ms, Some(&record.encode_key()), record.encode_value().as_deref(), &[]);
        if builder.bytes() >= BATCH_BYTES {
            let full = std::mem::replace(&mut builder, BatchBuilder::new(wall_ms));
            base = close(full, base, epoch, wall_ms, &mut batches);
        }
    }
    if builder.count() > 0 {
        close(builder, base, epoch, wall_ms, &mut batches);
    }
    batches
}

fn close(
    builder: BatchBuilder,
    base: Offset,
    epoch: Epoch,
    max_timestamp: i64,
    into: &mut Vec<Batch>,
) -> Offset {
    let span = builder.count().cast_unsigned();
    let mut bytes = batch::into_mut(builder.build());
    batch::set_position(&mut bytes, base, epoch);
    into.push(Batch::new(base, span, max_timestamp, bytes.freeze()));
    base.plus(span.into())
}

/// Hands every record of whole batches to `each`.
///
/// # Errors
/// What is wrong with the bytes, for people.
pub(super) fn unpack(mut run: Bytes, mut each: impl FnMut(GroupRecord)) -> Result<(), String> {
    while !run.is_empty() {
        let view = BatchView::split_from(&mut run).map_err(|error| error.to_string())?;
        view.verify_crc().map_err(|error| error.to_string())?;
        view.verify_header().map_err(|error| error.to_string())?;
        if view.header.compression() != Some(Compression::None) {
            return Err("group records are never compressed".to_owned());
        }
        for record in Records::new(view.payload(), view.header.record_count) {
            let record = record.map_err(|error| error.to_string())?;
            let key = record.key.ok_or("a group record without a key")?;
            each(GroupRecord::decode(key, record.value).map_err(|error| error.to_string())?);
        }
    }
    Ok(())
}
