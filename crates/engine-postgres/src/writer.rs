//! One append connection: takes rounds and sees each of them to its end.
//!
//! ```text
//! rows known? -- no --> ask      stale row: ask again, plan again
//!      |                               ^
//!      v                               |
//!     plan --> one statement --> done  |  refused: nothing happened     lost: see `resolve`
//! ```
//! **Invariants.** A group is answered once, after its round has ended. A round that was rolled back is planned anew
//! from rows that were read after.
//!
//! Deliberately absent: claims (`claim`), the statement (`statement`), what a lost reply meant (`resolve`).

use std::sync::Arc;
use std::time::Duration;

use ferrymq_storage::{ErrorKind, StorageError};
use futures_util::FutureExt as _;

use crate::connection::{Connection, Session};
use crate::queue::{Round, Work};
use crate::row::closed;
use crate::store::Shared;

/// The first pause between attempts to connect, doubled up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// See the module.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    connection: Option<Connection>,
    /// Whose links were lost.
    lost: Vec<Session>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Writer {
        Writer { shared, connection: None, lost: Vec::new() }
    }

    /// Takes rounds until the store is closed and nothing waits.
    pub(crate) async fn run(mut self) {
        loop {
            let shared = self.shared.clone();
            let arrived = shared.arrived.notified();
            let mut arrived = std::pin::pin!(arrived);
            // Listens from here on, so that nothing is missed between the look and the wait.
            arrived.as_mut().enable();
            match shared.take_round() {
                Some(round) => {
                    // Others may go at the same time.
                    shared.arrived.notify_one();
                    self.work(round).boxed().await;
                }
                None if shared.is_finished() => break,
                None => arrived.await,
            }
        }
    }

    async fn work(&mut self, round: Round) {
        let Round { work, logs } = round;
        let mut groups = Vec::with_capacity(work.len());
        for work in work {
            match work {
                Work::Group { ops, ticket, index } => groups.push((ops, ticket, index)),
                Work::Claim { logs, owner, reply } => {
                    let claimed = self.claim(logs, owner).boxed().await;
                    // Nobody waits any more: fine, the logs are claimed all the same.
                    let _ = reply.send(claimed);
                }
            }
        }
        if !groups.is_empty() {
            let (ops, tickets): (Vec<_>, Vec<_>) =
                groups.into_iter().map(|(ops, ticket, index)| (ops, (ticket, index))).unzip();
            let outcomes = self.commit(&ops).boxed().await;
            self.shared.end_round(&logs);
            for ((ticket, index), outcome) in tickets.into_iter().zip(outcomes) {
                ticket.set(index, outcome);
            }
        } else {
            self.shared.end_round(&logs);
        }
    }

    /// A connection that is open, for as long as it takes.
    ///
    /// # Errors
    /// `Closed` if the store stops meanwhile, or what an operator must change.
    pub(crate) async fn connected(&mut self) -> Result<&Connection, StorageError> {
        while self.is_closed() {
            self.disconnect();
            let connection = reconnect(&self.shared).await?;
            if connection.end(&self.lost).await.is_ok() {
                self.lost.clear();
            }
            self.connection = Some(connection);
        }
        Ok(self.connection.as_ref().expect("was put there just now"))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.as_ref().is_none_or(Connection::is_closed)
    }

    /// The connection is of no use any more.
    pub(crate) fn disconnect(&mut self) {
        self.lost.extend(self.connection.take().map(|connection| connection.session));
    }
}

/// Connects, trying again for as long as the store is open.
async fn reconnect(shared: &Shared) -> Result<Connection, StorageError> {
    let mut pause = PAUSES[0];
    loop {
        if shared.is_closed() && shared.health.lock().stopped.is_some() {
            return Err(closed());
        }
        let error = match shared.connect().await {
            Ok(connection) => {
                let was_away = shared.health.lock().away.take().is_some();
                if was_away {
                    tracing::info!("the database is back");
                }
                return Ok(connection);
            }
            Err(error) => error,
        };
        let was_away = shared.health.lock().away.replace(error.to_string()).is_some();
        if !was_away {
            tracing::warn!("the database cannot be used, trying again: {error}");
        }
        shared.refuse_old(&error);
        if shared.is_closed() {
            return Err(StorageError::new(ErrorKind::Closed, "the store stops and the database is away"));
        }
        shared.clock.sleep(pause).await;
        pause = (pause * 2).min(PAUSES[1]);
    }
}
