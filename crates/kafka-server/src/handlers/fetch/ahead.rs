//! Reading ahead for a consumer that is behind: while one answer goes out, the next one is read.
//!
//! Such a consumer asks for what follows as soon as it has an answer. Without this its connection would stand
//! still while the files are read, and reading would stand still while the socket takes the answer.
//!
//! **Invariants.** What is read ahead is what a fetch would have read at that moment: whole batches, verified, below
//! the high watermark. It is only used for the same partition, from the same offset, within all limits, else
//! forgotten. It takes room of the answers' budget, and only while there is plenty. A client that does not
//! ask again within a second loses it.
//!
//! Deliberately absent: guessing what a client wants that is not behind.

use std::sync::Arc;

use ferrymq_broker::Partition;
use ferrymq_runtime::BytePermit;
use ferrymq_storage::Read;
use ferrymq_types::Offset;

use crate::context::Context;

/// An answer with fewer bytes of records is not one of a consumer that is behind.
const BEHIND_BYTES: usize = 256 * 1024;

/// What was read ahead for one connection.
#[derive(Default)]
pub(crate) struct Ahead {
    pieces: Vec<Piece>,
    _room: Option<BytePermit>,
}

struct Piece {
    partition: Arc<Partition>,
    from: Offset,
    read: Read,
}

/// What the next fetch will probably ask for, in its order.
pub(crate) struct Plan {
    next: Vec<Next>,
    bytes_max: usize,
}

/// Where a consumer will probably go on.
pub(super) struct Next {
    pub(super) partition: Arc<Partition>,
    pub(super) from: Offset,
    pub(super) bytes_max: usize,
}

impl Ahead {
    /// What was read of `partition` from `from` on, if it is at most `bytes_max`.
    pub(super) fn take(
        &mut self,
        partition: &Arc<Partition>,
        from: Offset,
        bytes_max: usize,
    ) -> Option<Read> {
        let fits = |piece: &Piece| {
            Arc::ptr_eq(&piece.partition, partition) && piece.from == from && piece.read.bytes() <= bytes_max
        };
        let at = self.pieces.iter().position(fits)?;
        Some(self.pieces.swap_remove(at).read)
    }
}

impl Plan {
    /// A plan to read up to `bytes_max` more, if the consumer that is being answered that many is behind.
    pub(super) fn new(bytes_max: usize, next: impl Iterator<Item = Next>) -> Option<Plan> {
        if bytes_max < BEHIND_BYTES {
            return None;
        }
        let mut planned = 0;
        let next: Vec<Next> = next
            .filter(|next| next.from < next.partition.last_stable_offset())
            .take_while(|next| {
                let begins_inside = planned < bytes_max;
                planned += next.bytes_max;
                begins_inside
            })
            .collect();
        (!next.is_empty()).then_some(Plan { next, bytes_max })
    }

    /// Reads as planned. An error is left to the fetch that meets it.
    pub(crate) async fn read(self, context: &Context) -> Ahead {
        let is_plenty = context.answers.free() >= context.answers.capacity() / 2;
        let Some(room) = context.answers.try_take(self.bytes_max).filter(|_| is_plenty) else {
            return Ahead::default();
        };
        let mut ahead = Ahead { pieces: Vec::new(), _room: Some(room) };
        let mut left = self.bytes_max;
        for Next { partition, from, bytes_max } in self.next {
            let bytes_max = bytes_max.min(left);
            let until = partition.last_stable_offset();
            let Ok(read) = partition.read(from, until, bytes_max).await else { break };
            if read.bytes() > bytes_max || read.runs.is_empty() {
                // One batch is larger than what is left: the next fetch begins with it, and then it may be.
                break;
            }
            left -= read.bytes();
            ahead.pieces.push(Piece { partition, from, read });
            // The socket may have room again.
            tokio::task::yield_now().await;
        }
        ahead
    }
}
