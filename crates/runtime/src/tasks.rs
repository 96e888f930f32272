//! Tasks and threads with a kind, so that it is written down what their end and their panic mean.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a task is, and so what its panic means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Owns state that is acknowledged to clients. A panic ends the process: state that may be half changed
    /// must not be acknowledged; a restart reads it back from the log.
    Owner,
    /// Serves one connection. A panic closes that connection and is logged.
    Connection,
    /// Housekeeping. A panic is logged.
    Background,
}

/// A group of tasks that stop together. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// An empty group.
    #[must_use]
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// A group that stops when this one does, and can be stopped and waited for by itself.
    #[must_use]
    pub fn child(&self) -> Tasks {
        Tasks { tracker: TaskTracker::new(), stop: self.stop.child_token() }
    }

    /// Starts a task.
    #[allow(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
    pub fn spawn<F>(&self, kind: TaskKind, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                on_panic(kind, name);
            }
        });
    }

    /// Resolves when the group is asked to stop. Cancel safe.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().cancelled_owned()
    }

    /// Whether the group was asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Asks all tasks to stop; does not wait.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks all tasks to stop and waits for them, at most `patience`. Whether all ended.
    pub async fn stop_and_wait(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait()).await.is_ok()
    }

    /// How many tasks are running.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

fn on_panic(kind: TaskKind, name: &'static str) {
    match kind {
        TaskKind::Owner => {
            tracing::error!(task = name, "a task that owns acknowledged state panicked; ending the process");
            std::process::abort();
        }
        TaskKind::Connection | TaskKind::Background => {
            tracing::error!(task = name, "a task panicked");
        }
    }
}

/// Starts a named thread that owns acknowledged state: its panic ends the process.
///
/// # Errors
/// If the operating system refuses a thread.
#[allow(clippy::disallowed_methods, reason = "the one place that starts threads")]
pub fn spawn_thread(
    name: &'static str,
    body: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if std::panic::catch_unwind(AssertUnwindSafe(body)).is_err() {
            on_panic(TaskKind::Owner, name);
        }
    })
}

/// Runs work that blocks away from the tasks. Runs to completion even if the caller stops waiting.
///
/// # Panics
/// If `work` panics.
#[allow(clippy::disallowed_methods, reason = "the one place that moves blocking work away")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and drops what had not begun; so will whoever waits for this.
            Err(_) => std::future::pending().await,
        },
    }
}
