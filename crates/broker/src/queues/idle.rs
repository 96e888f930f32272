//! Queues that nobody has used for as long as they may be unused: their shards say so, and here they are deleted.
//!
//! **Invariants.** What a shard says is a hint. The queue is deleted only if its shard, closing it, finds that it still
//! is unused: a consumer, a get or a declaration that came in between keeps it. A hint that is lost comes again.
//!
//! Deliberately absent: when a queue counts as unused (`shard/expiry.rs`).

use std::sync::Arc;

use ferrymq_runtime::TaskKind;
use tokio::sync::mpsc;

use super::handle::Queues;
use super::types::QueueHandle;

/// Hints that may wait.
const HINTS_MAX: usize = 1024;

/// A way for shards to tell of queues that nobody uses.
pub(super) fn hints() -> (mpsc::Sender<QueueHandle>, mpsc::Receiver<QueueHandle>) {
    mpsc::channel(HINTS_MAX)
}

/// Deletes what it is told of until the process stops or the queues are gone.
pub(super) fn start(queues: &Arc<Queues>, mut told: mpsc::Receiver<QueueHandle>) {
    let (tasks, queues) = (queues.tasks.clone(), Arc::downgrade(queues));
    let stopping = tasks.stopping();
    tasks.spawn(TaskKind::Background, "deletion of unused queues", async move {
        let mut stopping = std::pin::pin!(stopping);
        loop {
            let queue = tokio::select! {
                biased;
                () = &mut stopping => return,
                queue = told.recv() => queue,
            };
            let (Some(queue), Some(queues)) = (queue, queues.upgrade()) else { return };
            match queues.delete_if_unused(&queue).await {
                Ok(false) => {}
                Ok(true) => tracing::info!(queue = %queue.name(), "a queue that nobody used is deleted"),
                Err(error) => {
                    tracing::warn!(queue = %queue.name(), %error, "an unused queue could not be deleted");
                }
            }
        }
    });
}
