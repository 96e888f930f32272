//! Accepting connections.
//!
//! **Invariants.** At most `connections_max` at a time; one more is closed at once. A listener that fails to
//! accept pauses and goes on. Stopping closes the listener first, then waits for the connections.

use std::io;
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
pub struct KafkaServer {
    address: SocketAddr,
    tasks: Tasks,
}

impl KafkaServer {
    /// Serves `listener` until stopped.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn start(listener: TcpListener, context: Arc<Context>, parent: &Tasks) -> io::Result<KafkaServer> {
        let address = listener.local_addr()?;
        let tasks = parent.child();
        let connections = tasks.clone();
        tasks.spawn(TaskKind::Background, "kafka listener", accept(listener, context, connections));
        Ok(KafkaServer { address, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets connections finish what they have begun, and waits for them.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.tasks.stop_and_wait(patience).await
    }
}

async fn accept(listener: TcpListener, context: Arc<Context>, tasks: Tasks) {
    let stopping = tasks.stopping();
    tokio::pin!(stopping);
    loop {
        let accepted = tokio::select! {
            () = &mut stopping => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %error, "could not accept a connection; is the limit of open files reached?");
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
        let context = context.clone();
        let stopping = tasks.stopping();
        tasks.spawn(
            TaskKind::Connection,
            "kafka connection",
            connection::run(stream, peer, context, stopping),
        );
    }
}
