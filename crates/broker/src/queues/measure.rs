//! How many bytes of bodies lie ready in a stored queue, for those that have a limit of bytes.
//!
//! **Invariant.** Only such queues are read; one batch or so of each is in memory at a time.
//!
//! Deliberately absent: telling of damage; whoever delivers the messages does.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use ferrymq_storage::{Claim, ErrorKind, LogStore, StorageError};
use ferrymq_types::{LogId, Offset};

use super::ack::AckState;
use super::envelope::Messages;

/// Bytes read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// The sum over what is available in a log that was claimed.
///
/// # Errors
/// Whatever the store answers, but for damage, which is passed over as its messages will be.
pub(super) async fn ready_bytes(
    store: &dyn LogStore,
    claim: Claim,
    acks: &AckState,
) -> Result<u64, StorageError> {
    measure(store, claim.log, acks.floor().max(claim.start.0)..claim.next.0, acks, None).await
}

/// The sum over what is available in a part of a log, and each of those that are acquired.
///
/// # Errors
/// Whatever the store answers, but for damage, which is passed over as its messages will be.
pub(super) async fn measure(
    store: &dyn LogStore,
    log: LogId,
    part: Range<u64>,
    acks: &AckState,
    mut held: Option<&mut HashMap<u64, u32>>,
) -> Result<u64, StorageError> {
    let (mut at, until) = (Offset(part.start), Offset(part.end));
    let mut sum = 0;
    while at < until && (acks.ready() > 0 || held.is_some()) {
        match store.read(log, at, until, READ_BYTES).await {
            Ok(read) => {
                let Some(next) = read.next() else { break };
                at = next;
                for run in read.runs {
                    sum += of_run(run.bytes, acks, held.as_deref_mut());
                }
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => at = resume.max(Offset(at.0 + 1)),
                _ => return Err(error),
            },
        }
    }
    Ok(sum)
}

fn of_run(mut run: Bytes, acks: &AckState, mut held: Option<&mut HashMap<u64, u32>>) -> u64 {
    let mut sum = 0;
    while !run.is_empty() {
        // What cannot be understood stops its queue when its turn comes.
        let Ok(mut messages) = Messages::split_from(&mut run) else { break };
        while messages.offset() < messages.next() {
            let offset = messages.offset();
            let Ok(message) = messages.take() else { break };
            if offset >= acks.fresh() || acks.is_returned(offset) {
                sum += message.body.len() as u64;
            } else if let Some(held) = held.as_deref_mut().filter(|_| acks.is_acquired(offset)) {
                held.insert(offset, u32::try_from(message.body.len()).unwrap_or(u32::MAX));
            }
        }
    }
    sum
}
