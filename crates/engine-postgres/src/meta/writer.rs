//! The one session that changes metadata: gathers what waits, commits it, and finds out about lost replies.
//!
//! ```text
//! BEGIN; lock and raise the revision; read what is compared     nothing has happened if this is lost
//! decide in memory
//! write; note (writer, sequence); COMMIT                        lost: lock the row again, look at the sequence
//! ```
//! The server had the row locked before the writes were sent, so whoever gets the lock afterwards knows that the
//! transaction has ended, one way or the other.
//!
//! **Invariants.** A request is answered once, after its transaction has ended. Nothing is sent twice before it is known that
//! it did not happen. A commit that was not replicated as it should be counts once a later one was.
//!
//! Deliberately absent: reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ferrymq_storage::{ErrorKind, Put, Revision, StorageError};
use ferrymq_types::limits::BATCH_BYTES_MAX;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::batch::{self, Batch};
use super::{Inbox, Request};
use crate::connection::{Connection, Failed};
use crate::store::Shared;

/// Transactions in one of the database's.
const BATCH_MAX: usize = 1_000;
/// Pause between attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// Deleted keys that are remembered, so that `list` can tell of them.
const DELETIONS_KEPT: i64 = 10_000;
/// Deletions between two looks at how many are remembered.
const FORGET_EVERY: usize = 1_000;

/// What became of a batch.
enum Ended {
    Done(Batch),
    /// Nothing happened, and it may be tried again.
    Again,
    /// Nothing happened.
    Refused(StorageError),
    /// It may have happened.
    Unknown(Batch),
}

struct Writer {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    writer: Uuid,
    sequence: i64,
    /// Keys deleted since it was last looked how many are remembered.
    deletions: usize,
}

/// Commits what waits in `inbox` until that is closed and empty. `writer` is a number that nobody else has.
pub(crate) async fn run(shared: Arc<Shared>, inbox: Arc<Inbox>, writer: Uuid) {
    let mut writer = Writer { shared, connection: None, writer, sequence: 0, deletions: 0 };
    loop {
        let arrived = inbox.arrived.notified();
        match inbox.take() {
            None => return,
            Some(requests) if requests.is_empty() => arrived.await,
            Some(requests) => writer.see_through(requests, &inbox).await,
        }
    }
}

impl Inbox {
    /// What waits, up to the bounds of a batch; `None` once nothing will come any more.
    fn take(&self) -> Option<Vec<Request>> {
        let mut requests = self.requests.lock();
        if requests.closed && requests.waiting.is_empty() {
            return None;
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = requests.waiting.front() {
            bytes += next.bytes();
            if !taken.is_empty() && (bytes > BATCH_BYTES_MAX || taken.len() == BATCH_MAX) {
                break;
            }
            taken.extend(requests.waiting.pop_front());
        }
        Some(taken)
    }

    fn is_closed(&self) -> bool {
        self.requests.lock().closed
    }
}

impl Request {
    fn bytes(&self) -> usize {
        let put = |put: &Put| put.key.len() + put.value.as_ref().map_or(0, bytes::Bytes::len);
        self.puts.iter().map(put).sum()
    }

    fn refuse(self, error: &StorageError) {
        // Who has gone away needs no answer.
        let _ = self.reply.send(Err(error.clone()));
    }
}

impl Writer {
    /// Brings transactions to their end and answers them.
    async fn see_through(&mut self, requests: Vec<Request>, inbox: &Inbox) {
        let batch = loop {
            if let Err(error) = self.connect(inbox, requests[0].since).await {
                requests.into_iter().for_each(|request| request.refuse(&error));
                return;
            }
            match self.commit(&requests).await {
                Ended::Done(batch) => break batch,
                Ended::Again => {}
                Ended::Refused(error) => {
                    requests.into_iter().for_each(|request| request.refuse(&error));
                    return;
                }
                Ended::Unknown(batch) => match self.resolve(inbox).await {
                    Some(true) => break batch,
                    Some(false) => {}
                    None => {
                        let what = "the store ended before it was known what became of a change of metadata";
                        let error = StorageError::new(ErrorKind::Unknown, what);
                        requests.into_iter().for_each(|request| request.refuse(&error));
                        return;
                    }
                },
            }
        };
        for (request, outcome) in requests.into_iter().zip(batch.outcomes) {
            let _ = request.reply.send(outcome);
        }
        self.deletions += batch.writes.values().filter(|(value, _)| value.is_none()).count();
        if self.deletions >= FORGET_EVERY {
            self.deletions = 0;
            self.forget().await;
        }
    }

    /// Sees that there is a connection.
    ///
    /// # Errors
    /// `Unavailable` for what has waited since before the store's patience, `Closed` once it stops.
    async fn connect(&mut self, inbox: &Inbox, since: tokio::time::Instant) -> Result<(), StorageError> {
        while self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.connection = None;
            let error = match self.shared.connect().await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(error) => error,
            };
            if inbox.is_closed() || self.shared.is_closed() {
                return Err(StorageError::new(ErrorKind::Closed, format!("the store stops: {error}")));
            }
            if self.shared.clock.now().duration_since(since) > self.shared.options.patience {
                return Err(StorageError::new(
                    ErrorKind::Unavailable,
                    format!("the database is away: {error}"),
                ));
            }
            self.shared.clock.sleep(PAUSE).await;
        }
        Ok(())
    }

    /// One transaction of the database.
    async fn commit(&mut self, requests: &[Request]) -> Ended {
        let Some(connection) = self.connection.take() else { return Ended::Again };
        let begun = begin(&self.shared, &connection, requests).await;
        let batch = match begun {
            Ok(batch) => batch,
            Err(failed) => return self.nothing_happened(connection, failed).await,
        };
        if batch.outcomes.iter().all(Result::is_err) {
            // Nothing to write, so that it need not be known what becomes of the end of it.
            if connection.batch("ROLLBACK").await.is_ok() {
                self.connection = Some(connection);
            }
            return Ended::Done(batch);
        }
        self.sequence += 1;
        if let Err(failed) = write(&self.shared, &connection, &batch, (self.writer, self.sequence)).await {
            return self.nothing_happened(connection, failed).await;
        }
        match connection.batch("COMMIT").await {
            Ok(()) if connection.is_doubtful() => {
                self.connection = Some(connection);
                Ended::Unknown(batch)
            }
            Ok(()) => {
                self.connection = Some(connection);
                Ended::Done(batch)
            }
            Err(Failed::Lost(_)) => Ended::Unknown(batch),
            Err(failed) => self.nothing_happened(connection, failed).await,
        }
    }

    /// A statement before the end failed: the server rolls back, be it because the session is over.
    async fn nothing_happened(&mut self, connection: Connection, failed: Failed) -> Ended {
        if matches!(failed, Failed::Lost(_)) {
            return Ended::Again;
        }
        if connection.batch("ROLLBACK").await.is_ok() {
            self.connection = Some(connection);
        }
        if failed.is_passing() {
            return Ended::Again;
        }
        Ended::Refused(failed.into_error("cannot change metadata"))
    }

    /// Whether the transaction with the present sequence happened; `None` if the store ends before anybody knows. What is
    /// written here is a commit behind it: where that was replicated, so was what came before.
    async fn resolve(&mut self, inbox: &Inbox) -> Option<bool> {
        tracing::info!("the reply to a change of metadata was lost; asking what became of it");
        loop {
            let now = self.shared.clock.now();
            if self.connect(inbox, now).await.is_err() {
                if inbox.is_closed() || self.shared.is_closed() {
                    return None;
                }
                continue;
            }
            let Some(connection) = self.connection.take() else { continue };
            let sql = format!(
                "WITH s AS (UPDATE {} SET revision = revision + 1 RETURNING revision) SELECT revision FROM s",
                self.shared.names.table("meta_state")
            );
            // A statement of its own: what it waited for is seen by the next only.
            if connection.query(&sql, &[]).await.is_err() || connection.is_doubtful() {
                self.shared.clock.sleep(PAUSE).await;
                continue;
            }
            let sql = format!(
                "SELECT 1 FROM {} WHERE writer = $1::uuid AND seq >= $2::int8",
                self.shared.names.table("meta_writer")
            );
            if let Ok(rows) = connection.query(&sql, &[&self.writer, &self.sequence]).await {
                self.connection = Some(connection);
                return Some(!rows.is_empty());
            }
        }
    }

    /// Forgets the oldest deletions. If it fails, the next time is soon enough.
    async fn forget(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let (state, meta) = (self.shared.names.table("meta_state"), self.shared.names.table("meta"));
        let sql = format!(
            "BEGIN; UPDATE {state} s SET forgotten = greatest(s.forgotten, o.revision) FROM (SELECT revision FROM {meta} \
             WHERE value IS NULL ORDER BY revision DESC OFFSET {DELETIONS_KEPT} LIMIT 1) o; \
             DELETE FROM {meta} m USING {state} s WHERE m.value IS NULL AND m.revision <= s.forgotten; COMMIT"
        );
        let done = connection.batch(&sql).await;
        if let Err(failed) = &done {
            tracing::warn!("deletions of metadata were not forgotten: {failed}");
        }
        if done.is_ok() || connection.batch("ROLLBACK").await.is_ok() {
            self.connection = Some(connection);
        }
    }
}

/// Begins a transaction: from its second statement on, nobody else changes metadata.
async fn begin(shared: &Shared, connection: &Connection, requests: &[Request]) -> Result<Batch, Failed> {
    connection.batch("BEGIN").await?;
    let count = i64::try_from(requests.len()).unwrap_or(i64::MAX);
    let sql = format!(
        "UPDATE {} SET revision = revision + $1::int8 RETURNING revision",
        shared.names.table("meta_state")
    );
    let rows = connection.query(&sql, &[&count]).await?;
    let last: i64 = rows.first().map_or(0, |row| row.get(0));
    let keys = batch::compared(requests.iter().map(|request| &request.compares[..]));
    let mut found = HashMap::new();
    if !keys.is_empty() {
        let sql = format!(
            "SELECT key, revision FROM {} WHERE key = ANY($1::bytea[]) AND value IS NOT NULL",
            shared.names.table("meta")
        );
        for row in connection.query(&sql, &[&keys]).await? {
            let key = String::from_utf8_lossy(row.get::<_, &[u8]>(0)).into_owned();
            found.insert(key, Revision(row.get::<_, i64>(1).cast_unsigned()));
        }
    }
    let transactions = requests.iter().map(|request| (&request.compares[..], &request.puts[..]));
    Ok(batch::apply(transactions, Revision((last - count + 1).cast_unsigned()), found))
}

/// Writes what a batch came to, and that it was this one.
async fn write(
    shared: &Shared,
    connection: &Connection,
    batch: &Batch,
    (writer, sequence): (Uuid, i64),
) -> Result<(), Failed> {
    let keys: Vec<&[u8]> = batch.writes.keys().map(String::as_bytes).collect();
    let values: Vec<Option<&[u8]>> = batch.writes.values().map(|(value, _)| value.as_deref()).collect();
    let revisions: Vec<i64> = batch.writes.values().map(|(_, revision)| revision.0.cast_signed()).collect();
    let sql = format!(
        "WITH w AS (INSERT INTO {meta_writer} (writer, seq) VALUES ($4::uuid, $5::int8) \
         ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq, at = now()) \
         INSERT INTO {meta} (key, value, revision) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::int8[]) \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
        meta = shared.names.table("meta"),
        meta_writer = shared.names.table("meta_writer"),
    );
    let parameters: [&(dyn ToSql + Sync); 5] = [&keys, &values, &revisions, &writer, &sequence];
    connection.query(&sql, &parameters).await.map(drop)
}
