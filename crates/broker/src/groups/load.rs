//! Taking a shard's log and replaying it.
//!
//! **Invariants.** The log is claimed before it is read, so nobody else's append can come between. A log that
//! does not read to its end is not served: an offset that silently went back would be worse than none.
//!
//! Deliberately absent: when to try again; see `shard`.

use std::sync::Arc;

use ferrymq_runtime::ByteBudget;
use ferrymq_storage::{Claim, ErrorKind, LogStore, StorageError};
use ferrymq_types::{LogId, OwnerId};

use super::batch::unpack;
use super::config::GroupsConfig;
use super::coordinator::Coordinator;

const READ_BYTES: usize = 1024 * 1024;

/// A replayed log.
pub(super) struct Loaded {
    pub(super) claim: Claim,
    pub(super) coordinator: Coordinator,
    pub(super) log_bytes: u64,
}

/// Why a log could not be replayed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    /// The store refused.
    #[error("{0}")]
    Storage(StorageError),
    /// The bytes are not, or not yet, understood by this broker.
    #[error("{0}")]
    Unreadable(String),
}

impl LoadError {
    /// Whether trying again may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            LoadError::Unreadable(_) => false,
            LoadError::Storage(error) => matches!(
                error.kind(),
                ErrorKind::Unavailable
                    | ErrorKind::Unknown
                    | ErrorKind::Conflict
                    | ErrorKind::Full
                    | ErrorKind::Fenced
            ),
        }
    }
}

impl From<StorageError> for LoadError {
    fn from(error: StorageError) -> Self {
        LoadError::Storage(error)
    }
}

/// Claims `log` and replays it.
pub(super) async fn load(
    store: Arc<dyn LogStore>,
    log: LogId,
    owner: OwnerId,
    config: Arc<GroupsConfig>,
    room: ByteBudget,
) -> Result<Loaded, LoadError> {
    let claims = store.claim(vec![log], owner).await?;
    let none = || StorageError::new(ErrorKind::Internal, "a claim without an answer");
    let claim = *claims.first().ok_or_else(none)?;
    let mut coordinator = Coordinator::sharing(config, room);
    let mut log_bytes = 0;
    let mut at = claim.start;
    while at < claim.next {
        let read = store.read(log, at, claim.next, READ_BYTES).await?;
        // The rest is a gap.
        let Some(next) = read.next() else { break };
        log_bytes += read.bytes() as u64;
        at = next;
        for run in read.runs {
            unpack(run.bytes, |record| coordinator.apply(record)).map_err(LoadError::Unreadable)?;
        }
    }
    Ok(Loaded { claim, coordinator, log_bytes })
}
