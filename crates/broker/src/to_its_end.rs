//! A change that goes on when whoever asked for it has gone.
//!
//! **Invariant.** What was handed over here ends, unless the process does.
//!
//! Deliberately absent: whose turn it is; callers take theirs before.

use std::future::Future;

use ferrymq_runtime::{TaskKind, Tasks};
use ferrymq_storage::{ErrorKind, StorageError};
use tokio::sync::oneshot;

/// Runs `change` in a task of its own and waits for it. Dropping the wait changes nothing.
///
/// # Errors
/// What the change says; `Unknown` if the process ends meanwhile.
pub(crate) async fn to_its_end<T, E>(
    tasks: &Tasks,
    change: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StorageError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    tasks.spawn(TaskKind::Owner, "change", async move {
        let _nobody_waits = reply.send(change.await).is_err();
    });
    let ended = |_| StorageError::new(ErrorKind::Unknown, "the broker ended while the change was made");
    answer.await.map_err(ended)?
}
