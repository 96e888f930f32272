//! Accepting connections.
//!
//! **Invariants.** At most [`CONNECTIONS_MAX`] at a time; one more is closed at once. A listener that fails to
//! accept pauses and goes on. Stopping closes the listener first, then tells every client and waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_runtime::{TaskKind, Tasks};
use ferrymq_types::limits::CONNECTIONS_MAX;
use tokio::net::TcpListener;

use crate::connection;
use crate::context::Context;

/// How long to wait after accepting failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running listener.
pub struct AmqpServer {
    address: SocketAddr,
    tasks: Tasks,
}

impl AmqpServer {
    /// Serves `socket` until stopped.
    ///
    /// # Errors
    /// If the socket does not know its address.
    pub fn start(socket: TcpListener, context: &Arc<Context>, parent: &Tasks) -> std::io::Result<AmqpServer> {
        let address = socket.local_addr()?;
        let tasks = parent.child();
        let accepting = accept(socket, context.clone(), tasks.clone());
        tasks.spawn(TaskKind::Background, "amqp listener", accepting);
        Ok(AmqpServer { address, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, closes connections with `CONNECTION_FORCED`, and waits for them.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.tasks.stop_and_wait(patience).await
    }
}

async fn accept(socket: TcpListener, context: Arc<Context>, tasks: Tasks) {
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
                tracing::warn!(error = %error, "could not accept an AMQP connection; is the limit of open files reached?");
                context.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let open = context.counters.connections_open.load(Ordering::Relaxed);
        if open >= CONNECTIONS_MAX as u64 {
            tracing::warn!(peer = %peer, open, "too many AMQP connections; closing a new one");
            continue;
        }
        context.counters.connections_total.fetch_add(1, Ordering::Relaxed);
        let serving = connection::run(stream, peer, context.clone(), tasks.stopping());
        tasks.spawn(TaskKind::Connection, "amqp connection", serving);
    }
}
