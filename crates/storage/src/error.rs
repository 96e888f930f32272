//! One error for all engines. Its kind says what the caller must do; its text says what happened.

use std::fmt;
use std::sync::Arc;

use ferrymq_types::Offset;

/// What the caller must do about a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such log. Certainly nothing happened.
    NotFound,
    /// The log's next offset is not the expected one, or a compare failed. Certainly nothing happened;
    /// the caller's picture is stale: re-read.
    Conflict,
    /// Somebody else owns the log. Certainly nothing happened; stop acting as its owner.
    Fenced,
    /// Certainly nothing happened, and trying again later may succeed.
    Unavailable,
    /// The store is full. Certainly nothing happened; succeeds again once there is room.
    Full,
    /// Stored bytes do not verify. Reading may go on at `resume`; offsets in between are lost or damaged.
    Corrupt {
        /// First offset behind the damage.
        resume: Offset,
    },
    /// The caller broke the contract; trying again cannot help.
    InvalidArgument,
    /// A documented limit was exceeded.
    LimitExceeded,
    /// The store has stopped for good (shutdown, or a failed sync). Certainly nothing happened.
    Closed,
    /// The operation may or may not have happened. Never retry blindly: claim again and compare commit ids.
    Unknown,
    /// A bug in the engine.
    Internal,
}

/// A failed operation: a kind to act on, a context to read, perhaps a cause.
#[derive(Debug, Clone)]
pub struct StorageError {
    kind: ErrorKind,
    context: Arc<str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl StorageError {
    /// An error of `kind`; `context` is lower case, without a full stop, values last.
    pub fn new(kind: ErrorKind, context: impl Into<Arc<str>>) -> StorageError {
        StorageError { kind, context: context.into(), source: None }
    }

    /// The same with the error that caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> StorageError {
        self.source = Some(Arc::new(source));
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the operation certainly had no effect.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self.kind, ErrorKind::Unknown | ErrorKind::Internal)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
