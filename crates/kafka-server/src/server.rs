//! Accepting connections.
//!
//! **Invariants.** At most `connections_max` at a time, through all listeners; one more is closed at once. A listener that fails to
//! accept pauses and goes on. Stopping closes the listeners first, then waits for the connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_runtime::{TaskKind, Tasks};
use ferrymq_types::limits::CONNECTIONS_MAX;
use tokio::net::TcpListener;

use crate::connection;
use crate::context::Context;
use crate::listener::Listener;

/// How long to wait after accepting failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Running listeners.
pub struct KafkaServer {
    tasks: Tasks,
}

impl KafkaServer {
    /// Serves all `sockets` until stopped, each as the listener that stands beside it.
    #[must_use]
    pub fn start(
        sockets: Vec<(TcpListener, Arc<Listener>)>,
        context: &Arc<Context>,
        parent: &Tasks,
    ) -> KafkaServer {
        let tasks = parent.child();
        for (socket, listener) in sockets {
            let accepting = accept(socket, listener, context.clone(), tasks.clone());
            tasks.spawn(TaskKind::Background, "kafka listener", accepting);
        }
        KafkaServer { tasks }
    }

    /// Stops accepting, lets connections finish what they have begun, and waits for them.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.tasks.stop_and_wait(patience).await
    }
}

async fn accept(socket: TcpListener, listener: Arc<Listener>, context: Arc<Context>, tasks: Tasks) {
    let stopping = tasks.stopping();
    tokio::pin!(stopping);
    loop {
        let accepted = tokio::select! {
            () = &mut stopping => return,
            accepted = socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(listener = listener.name, error = %error, "could not accept a connection; is the limit of open files reached?");
                context.broker.clock().sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let open = context.counters.connections_open.load(Ordering::Relaxed);
        if open >= CONNECTIONS_MAX as u64 {
            tracing::warn!(peer = %peer, open, "too many connections; closing a new one");
            continue;
        }
        context.counters.connections_total.fetch_add(1, Ordering::Relaxed);
        let serving = connection::run(stream, peer, listener.clone(), context.clone(), tasks.stopping());
        tasks.spawn(TaskKind::Connection, "kafka connection", serving);
    }
}
