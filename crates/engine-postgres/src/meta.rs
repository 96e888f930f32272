//! [`PostgresMeta`]: metadata as a table, which any number of brokers may change at a time.
//!
//! ```text
//! txn --> queue --> a transaction of the database: lock the state's row, compare, write --> outcomes
//! get, list --> one statement each, over a connection for readers
//! ```
//! **Invariants.** Each transaction locks the one row of `meta_state` before it looks at anything, so the transactions of all
//! brokers are in one order, which is that of their revisions: who has listed revision n has seen all up to n. A transaction
//! is answered once it is committed, also if the reply to the commit was lost: see `writer`.
//!
//! Deliberately absent: a copy in memory; what is read is what is there. Who reads often polls `list` and keeps its own.

mod batch;
mod writer;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_storage::{
    Compare, Entry, ErrorKind, Listing, MetaStore, Pending, Put, Revision, StorageError, validate,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::connection::{Connection, Failed};
use crate::schema::Names;
use crate::store::Shared;
pub(crate) use writer::run;

/// What is behind every key that begins with a prefix: no character of UTF-8 begins with this byte.
const BEHIND_ALL: u8 = 0xff;

/// Metadata of a [`PostgresStore`](crate::PostgresStore). Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct PostgresMeta {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
}

/// Transactions that wait, in order.
#[derive(Default)]
pub(crate) struct Inbox {
    requests: Mutex<Requests>,
    arrived: Notify,
}

#[derive(Default)]
struct Requests {
    waiting: VecDeque<Request>,
    closed: bool,
}

/// One transaction and who waits for it.
struct Request {
    compares: Vec<Compare>,
    puts: Vec<Put>,
    since: Instant,
    reply: oneshot::Sender<Result<Revision, StorageError>>,
}

impl PostgresMeta {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>) -> PostgresMeta {
        PostgresMeta { shared, inbox }
    }
}

impl Inbox {
    /// Takes nothing more; what waits is still done.
    pub(crate) fn close(&self) {
        self.requests.lock().closed = true;
        self.arrived.notify_one();
    }
}

/// Creates the tables; may be repeated.
pub(crate) async fn create(connection: &Connection, names: &Names) -> Result<(), StorageError> {
    // Keys are bytes: text knows no NUL, and its order depends on a locale.
    let sql = format!(
        "BEGIN;
         CREATE TABLE IF NOT EXISTS {schema}.meta_state (
             one bool PRIMARY KEY DEFAULT true CHECK (one), revision int8 NOT NULL, forgotten int8 NOT NULL)
             WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
                   autovacuum_vacuum_cost_delay = 0);
         INSERT INTO {schema}.meta_state (revision, forgotten) VALUES (0, 0) ON CONFLICT DO NOTHING;
         CREATE TABLE IF NOT EXISTS {schema}.meta (key bytea PRIMARY KEY, value bytea, revision int8 NOT NULL)
             WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
                   autovacuum_vacuum_cost_delay = 0);
         CREATE INDEX IF NOT EXISTS meta_revision ON {schema}.meta (revision);
         CREATE TABLE IF NOT EXISTS {schema}.meta_writer (
             writer uuid PRIMARY KEY, seq int8 NOT NULL, at timestamptz NOT NULL DEFAULT now())
             WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
                   autovacuum_vacuum_cost_delay = 0);
         DELETE FROM {schema}.meta_writer WHERE at < now() - interval '7 days';
         COMMIT",
        schema = names.schema()
    );
    let created = connection.batch(&sql).await;
    created.map_err(|error| error.into_error("cannot create the tables of metadata"))
}

/// The entry under a key.
async fn get(shared: Arc<Shared>, key: String) -> Result<Option<Entry>, StorageError> {
    let sql = format!(
        "SELECT value, revision FROM {} WHERE key = $1::bytea AND value IS NOT NULL",
        shared.names.table("meta")
    );
    let rows = read(&shared, &sql, &[&key.as_bytes()]).await?;
    Ok(rows.first().map(|row| Entry {
        key,
        value: Bytes::from(row.get::<_, Vec<u8>>(0)),
        revision: Revision(row.get::<_, i64>(1).cast_unsigned()),
    }))
}

/// See [`MetaStore::list`]. One statement, so that all of it is of one moment.
async fn list(shared: Arc<Shared>, prefix: String, since: Revision) -> Result<Listing, StorageError> {
    let from = prefix.into_bytes();
    let until: Vec<u8> = from.iter().copied().chain([BEHIND_ALL]).collect();
    let (state, meta) = (shared.names.table("meta_state"), shared.names.table("meta"));
    // Plans are made without values. What is new is found by its revision: the key is hidden from the index there.
    let which = if since == Revision(0) {
        "m.key >= $1::bytea AND m.key < $2::bytea AND m.revision > $3::int8 AND m.value IS NOT NULL"
    } else {
        "m.revision > $3::int8 AND m.key || ''::bytea >= $1::bytea AND m.key || ''::bytea < $2::bytea"
    };
    let sql = format!(
        "SELECT s.revision, s.forgotten, m.key, m.value, m.revision FROM {state} s LEFT JOIN {meta} m ON {which} \
         ORDER BY m.key"
    );
    let rows = read(&shared, &sql, &[&from, &until, &since.0.cast_signed()]).await?;
    let number = |row: &tokio_postgres::Row, index| Revision(row.get::<_, i64>(index).cast_unsigned());
    let Some(first) = rows.first() else {
        return Err(StorageError::new(ErrorKind::Internal, "the row of the metadata's state is missing"));
    };
    let complete = since == Revision(0) || since >= number(first, 1);
    let mut listing = Listing { revision: number(first, 0), complete, ..Listing::default() };
    for row in &rows {
        let Some(key) = row.get::<_, Option<Vec<u8>>>(2) else { continue };
        let key = String::from_utf8(key)
            .map_err(|_| StorageError::new(ErrorKind::Internal, "a key of metadata is not UTF-8"))?;
        match row.get::<_, Option<Vec<u8>>>(3) {
            Some(value) => {
                listing.entries.push(Entry { key, value: Bytes::from(value), revision: number(row, 4) });
            }
            None => listing.deleted.push(key),
        }
    }
    Ok(listing)
}

/// Runs a statement that changes nothing. One lost connection is made up for by another.
async fn read(
    shared: &Shared,
    sql: &str,
    values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, StorageError> {
    let reader = shared.pool.reader(shared).await?;
    let failed = match reader.query(sql, values).await {
        Ok(rows) => return Ok(rows),
        Err(failed) => failed,
    };
    drop(reader);
    if !matches!(failed, Failed::Lost(_)) {
        return Err(failed.into_error("cannot read metadata"));
    }
    let reader = shared.pool.reader(shared).await?;
    let rows = reader.query(sql, values).await;
    rows.map_err(|failed| failed.into_error("cannot read metadata"))
}

impl MetaStore for PostgresMeta {
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>> {
        Box::pin(get(self.shared.clone(), key.to_owned()))
    }

    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>> {
        Box::pin(list(self.shared.clone(), prefix.to_owned(), since))
    }

    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>> {
        if let Err(error) = validate::check_puts(&puts) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let (reply, answer) = oneshot::channel();
        {
            let mut requests = self.inbox.requests.lock();
            if requests.closed {
                let error = StorageError::new(ErrorKind::Closed, "the store has stopped");
                return Box::pin(std::future::ready(Err(error)));
            }
            let since = self.shared.clock.now();
            requests.waiting.push_back(Request { compares, puts, since, reply });
        }
        self.inbox.arrived.notify_one();
        Box::pin(async move {
            let lost = || StorageError::new(ErrorKind::Unknown, "the store ended before it answered");
            answer.await.unwrap_or_else(|_| Err(lost()))
        })
    }

    fn heartbeat(&self, broker: u32, status: Bytes) -> Pending<Result<Revision, StorageError>> {
        self.txn(Vec::new(), vec![Put { key: format!("brokers/{broker}"), value: Some(status) }])
    }
}
