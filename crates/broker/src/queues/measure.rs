//! How many bytes of bodies lie ready in a stored queue, for those that have a limit of bytes.
//!
//! **Invariant.** Only such queues are read; one batch or so of each is in memory at a time.
//!
//! Deliberately absent: telling of damage; whoever delivers the messages does.

use bytes::Bytes;
use ferrymq_storage::{Claim, ErrorKind, LogStore, StorageError};
use ferrymq_types::Offset;

use super::ack::AckState;
use super::envelope::Messages;

/// Bytes read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// The sum over what is available.
///
/// # Errors
/// Whatever the store answers, but for damage, which is passed over as its messages will be.
pub(super) async fn ready_bytes(
    store: &dyn LogStore,
    claim: Claim,
    acks: &AckState,
) -> Result<u64, StorageError> {
    let mut at = Offset(acks.floor().max(claim.start.0));
    let mut sum = 0;
    while at < claim.next && acks.ready() > 0 {
        match store.read(claim.log, at, claim.next, READ_BYTES).await {
            Ok(read) => {
                let Some(next) = read.next() else { break };
                at = next;
                sum += read.runs.into_iter().map(|run| of_run(run.bytes, acks)).sum::<u64>();
            }
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => at = resume.max(Offset(at.0 + 1)),
                _ => return Err(error),
            },
        }
    }
    Ok(sum)
}

fn of_run(mut run: Bytes, acks: &AckState) -> u64 {
    let mut sum = 0;
    while !run.is_empty() {
        // What cannot be understood stops its queue when its turn comes.
        let Ok(mut messages) = Messages::split_from(&mut run) else { break };
        while messages.offset() < messages.next() {
            let offset = messages.offset();
            let Ok(message) = messages.take() else { break };
            if offset >= acks.fresh() || acks.is_returned(offset) {
                sum += message.body.len() as u64;
            }
        }
    }
    sum
}
