//! Connections to read, apart from those that write.
//!
//! **Invariant.** Never more than so many at a time; who comes later waits.
//!
//! Deliberately absent: keeping some open for nobody.

use std::sync::Arc;

use ferrymq_storage::{ErrorKind, StorageError};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::Connection;
use crate::store::Shared;

/// See the module.
pub(crate) struct Pool {
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

/// A connection that goes back when it is dropped.
pub(crate) struct Reader {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(places: usize) -> Pool {
        Pool { idle: Arc::default(), places: Arc::new(Semaphore::new(places.max(1))) }
    }

    /// Lends a connection.
    pub(crate) async fn reader(&self, shared: &Shared) -> Result<Reader, StorageError> {
        let stopped = |_| StorageError::new(ErrorKind::Closed, "the store has stopped");
        let place = self.places.clone().acquire_owned().await.map_err(stopped)?;
        let idle = {
            let mut idle = self.idle.lock();
            idle.retain(|connection| !connection.is_closed());
            idle.pop()
        };
        let connection = match idle {
            Some(connection) => connection,
            None => shared.connect().await?,
        };
        Ok(Reader { connection: Some(connection), idle: self.idle.clone(), _place: place })
    }

    pub(crate) fn close(&self) {
        self.places.close();
        self.idle.lock().clear();
    }
}

impl std::ops::Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("given back only when dropped")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            self.idle.lock().push(connection);
        }
    }
}
