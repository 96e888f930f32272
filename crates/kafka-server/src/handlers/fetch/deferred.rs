//! Records of an answer that are read while the answer goes out.
//!
//! An answer says how long it is before its records. The index knows that without touching them, so only the
//! front of each partition's records is read before the answer begins; the rest follows in pieces of
//! [`PIECE_BYTES`], each read while the one before it is on its way. So a consumer that is behind does not wait while
//! megabytes are read, they do not fall out of the processor's cache between the file and the socket, and an
//! answer takes the memory of the fronts and two pieces.
//!
//! **Invariants.** What is promised is sent, to the byte. Nothing is sent that did not verify. What cannot be read any
//! more when its turn comes (trimmed, deleted, damaged) is replaced by the head of a batch that does not end: to
//! clients a batch that was cut off, which they drop and ask for again, and then they are told. Since the front of a
//! partition's records is at least one whole batch, they get on.
//!
//! Deliberately absent: guessing what a client will ask for next.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_broker::Partition;
use ferrymq_storage::{Read, StorageError};
use ferrymq_types::Offset;

/// What is read before the answer begins, of a partition whose rest is deferred.
pub(super) const FRONT_BYTES: usize = 64 << 10;
/// The same if nobody else is in the answer: what consumers ask of one partition unless told otherwise. So much is sent
/// sooner in one go than in pieces, each of which wakes somebody up.
pub(super) const FRONT_BYTES_ALONE: usize = 1 << 20;
/// Deferring less than this is not worth it.
pub(super) const DEFERRED_BYTES_MIN: usize = 128 << 10;
/// Most bytes read at a time, unless one batch is larger.
const PIECE_BYTES: usize = 256 << 10;
/// Batches that are looked up at a time: a megabyte of them if they are of the size that producers send when busy.
const HEADS_PER_READ: usize = 64;
/// Batches that one partition's answer may defer.
const BATCHES_MAX: usize = 4096;

/// Batches to be read together.
#[derive(Debug)]
struct Piece {
    from: Offset,
    next: Offset,
    bytes: usize,
}

/// The rest of one partition's records.
pub(crate) struct Deferred {
    partition: Arc<Partition>,
    pieces: std::vec::IntoIter<Piece>,
    bytes: usize,
    largest: usize,
    /// Something could not be read; what is left is not looked at.
    cut: bool,
}

impl Deferred {
    /// Whole batches of `partition` from `from` on, none at or behind `until`, `bytes_max` at most. `None`: it is
    /// not worth it, or there are none that fit.
    ///
    /// # Errors
    /// As of the store.
    pub(super) async fn plan(
        partition: &Arc<Partition>,
        from: Offset,
        until: Offset,
        bytes_max: usize,
    ) -> Result<Option<Deferred>, StorageError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut at, mut bytes) = (from, 0);
        'all: for _ in 0..BATCHES_MAX / HEADS_PER_READ {
            let heads = partition.headers(at, HEADS_PER_READ, 0).await?;
            let are_last = heads.len() < HEADS_PER_READ;
            for head in heads {
                let size = usize::try_from(head.size).unwrap_or(usize::MAX);
                if head.base < at || head.base >= until || size > bytes_max - bytes {
                    break 'all;
                }
                bytes += size;
                at = head.base.plus(u64::from(head.span));
                match pieces.last_mut() {
                    Some(piece) if piece.bytes + size <= PIECE_BYTES => {
                        (piece.next, piece.bytes) = (at, piece.bytes + size);
                    }
                    _ => pieces.push(Piece { from: head.base, next: at, bytes: size }),
                }
            }
            if are_last {
                break;
            }
        }
        let largest = pieces.iter().map(|piece| piece.bytes).max().unwrap_or(0);
        let pieces = pieces.into_iter();
        let deferred = Deferred { partition: partition.clone(), pieces, bytes, largest, cut: false };
        Ok((bytes >= DEFERRED_BYTES_MIN).then_some(deferred))
    }

    /// Bytes still to come.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory that reading takes: one piece that goes out and one that is read meanwhile.
    pub(super) fn held(&self) -> usize {
        2 * self.largest
    }

    /// The next piece; empty once all that was promised is here.
    ///
    /// Cancel safety: a dropped read loses the piece.
    pub(crate) async fn next(&mut self) -> Vec<Bytes> {
        let Some(piece) = self.pieces.next() else { return Vec::new() };
        self.bytes -= piece.bytes;
        if self.cut {
            return zeros(piece.bytes);
        }
        match self.partition.read(piece.from, piece.next, piece.bytes).await {
            Ok(read) if is_whole(&read, &piece) => read.runs.into_iter().map(|run| run.bytes).collect(),
            read => {
                self.cut = true;
                let error = read.err().map(|error| error.to_string());
                let (partition, from) = (&*self.partition, piece.from.0);
                tracing::info!(?partition, from, error, "an answer is cut: its records went, or are damaged");
                cut_off(piece.from, piece.bytes)
            }
        }
    }
}

fn is_whole(read: &Read, piece: &Piece) -> bool {
    let begins = read.runs.first().is_some_and(|run| run.base == piece.from);
    begins && read.next() == Some(piece.next) && read.bytes() == piece.bytes
}

/// `bytes` bytes that begin as a batch of the current format that is longer than any answer.
fn cut_off(base: Offset, bytes: usize) -> Vec<Bytes> {
    let mut head = Vec::with_capacity(17);
    head.extend_from_slice(&base.signed().to_be_bytes());
    head.extend_from_slice(&(i32::MAX - 12).to_be_bytes());
    head.extend_from_slice(&0i32.to_be_bytes());
    head.push(2);
    head.truncate(bytes);
    let rest = bytes - head.len();
    let mut all = vec![Bytes::from(head)];
    all.extend(zeros(rest));
    all
}

fn zeros(mut bytes: usize) -> Vec<Bytes> {
    static ZEROS: [u8; FRONT_BYTES] = [0; FRONT_BYTES];
    let mut all = Vec::with_capacity(bytes.div_ceil(ZEROS.len()));
    while bytes > 0 {
        let count = bytes.min(ZEROS.len());
        all.push(Bytes::from_static(&ZEROS[..count]));
        bytes -= count;
    }
    all
}
