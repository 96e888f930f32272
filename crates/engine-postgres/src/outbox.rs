//! [`Outbox`]: messages that applications published in transactions of their own, in the order in which they can be relayed.
//!
//! ```text
//! application: BEGIN .. SELECT ferrymq.publish(..) .. COMMIT        rows (id, xid) in one of three plain tables
//! relay:       snapshot `from` (relayed up to here) .. snapshot `to` (now)
//!              rows whose transaction `to` sees and `from` does not, by id = what committed in between
//! ```
//! The difference of two snapshots is what PgQ calls a tick: no transaction is in two of them, none is in none, however long
//! it was open, and a transaction that began after another had committed has higher ids and no earlier tick. So messages of
//! one key keep their causal order. An order of commits it is not.
//!
//! **Invariants.** Nothing here is ever deleted row by row: a table is emptied when all in it was relayed, under a lock
//! that proves that no transaction is at it. A page is bounded in rows and bytes.
//!
//! Deliberately absent: how far was relayed (the relay notes it in a log, with what it published), what rows mean.

mod schema;

use std::sync::Arc;

use ferrymq_storage::{ErrorKind, StorageError};
use tokio_postgres::Row;

use crate::connection::{Connection, Failed};
use crate::store::Shared;

/// Tables that take turns.
const TABLES: i16 = 3;
/// How long emptying a table may wait for those who use it.
const LOCK_PATIENCE: &str = "100ms";

/// What was published: where to, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Ascends in a page. Names it for good.
    pub id: i64,
    /// Milliseconds since 1970 when it was published.
    pub at_ms: i64,
    /// The topic that it is for; `None`: it is for an exchange.
    pub topic: Option<String>,
    /// The virtual host of the exchange.
    pub vhost: String,
    /// The exchange.
    pub exchange: String,
    /// A record's key or a message's routing key.
    pub key: Option<Vec<u8>>,
    /// A record's value or a message's body.
    pub body: Option<Vec<u8>>,
    /// A record's headers or a message's properties, as JSON.
    pub properties: Option<String>,
    /// Whether it must not go nowhere.
    pub mandatory: bool,
}

/// What is asked for of a tick.
#[derive(Debug, Clone, Copy)]
pub struct Tick<'a> {
    /// The snapshot up to which all was relayed.
    pub from: &'a str,
    /// The snapshot up to which it is to be.
    pub to: &'a str,
}

/// Rows of a tick.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// By id.
    pub rows: Vec<Published>,
    /// Whether there may be more behind them.
    pub more: bool,
}

/// Where a relay begins that has relayed nothing yet, or nothing on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whose numbers of transactions these are.
    pub system_id: i64,
    /// A snapshot that sees nothing of the outbox.
    pub since: String,
}

/// A session with the outbox of a schema.
pub struct Outbox {
    shared: Arc<Shared>,
    connection: Connection,
    current: i16,
}

impl Outbox {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Outbox, StorageError> {
        let connection = shared.connect().await?;
        schema::create(&connection, &shared.names, shared.incarnation.system_id).await.map_err(failed)?;
        let mut outbox = Outbox { shared, connection, current: 0 };
        outbox.current = outbox.read_current().await?;
        Ok(outbox)
    }

    /// The server that this is.
    #[must_use]
    pub fn system_id(&self) -> i64 {
        self.shared.incarnation.system_id
    }

    /// Where its tables and functions are.
    #[must_use]
    pub fn schema(&self) -> &str {
        self.shared.names.schema()
    }

    /// Where to begin.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn origin(&self) -> Result<Origin, StorageError> {
        let sql = format!("SELECT system_id, since::text FROM {}", self.table("outbox"));
        let row = self.one(&sql).await?;
        Ok(Origin { system_id: row.get(0), since: row.get(1) })
    }

    /// A snapshot of now.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn now(&self) -> Result<String, StorageError> {
        Ok(self.one("SELECT pg_current_snapshot()::text").await?.get(0))
    }

    /// The lowest id of a tick.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn first(&self, tick: Tick<'_>) -> Result<Option<i64>, StorageError> {
        // By the index of transactions: most of the time there is nothing behind `from`.
        let each = |at| format!("SELECT id FROM {} WHERE {IN_TICK}", self.rows(at));
        let sql = format!("SELECT min(id) FROM ({}) AS o", union(each));
        let rows = self.connection.query(&sql, &[&tick.from, &tick.to]).await.map_err(failed)?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// Rows of a tick behind an id, by id: so many at most, and about so many bytes, but one at least.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn page(
        &self,
        tick: Tick<'_>,
        after: i64,
        at_most: usize,
        bytes: i64,
    ) -> Result<Page, StorageError> {
        let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
        // By the index of ids, each table by itself: a long tick is read from where the last page ended.
        let each = |at| {
            format!(
                "(SELECT * FROM {} WHERE id > $3::int8 AND {IN_TICK} ORDER BY id LIMIT $4::int8)",
                self.rows(at)
            )
        };
        let sql = format!(
            "WITH p AS (SELECT * FROM ({}) AS o ORDER BY id LIMIT $4::int8), \
             s AS (SELECT *, sum(size) OVER (ORDER BY id) - size AS before, count(*) OVER () AS found FROM p) \
             SELECT id, (extract(epoch FROM published_at) * 1000)::int8, topic, vhost, exchange, key, body, properties::text, \
             mandatory, found FROM s WHERE before < $5::int8 ORDER BY id",
            union(each)
        );
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&tick.from, &tick.to, &after, &limit, &bytes];
        let rows = self.connection.query(&sql, &values).await.map_err(failed)?;
        let found = rows.first().map_or(0, |row| row.get::<_, i64>(9));
        let more = found >= limit || found > i64::try_from(rows.len()).unwrap_or(i64::MAX);
        Ok(Page { rows: rows.iter().map(published).collect(), more })
    }

    /// Keeps a row apart that cannot be relayed, with the reason; whether it was not kept yet.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn set_aside(&self, id: i64, reason: &str) -> Result<bool, StorageError> {
        let each = |at| format!("SELECT * FROM {} WHERE id = $1::int8", self.rows(at));
        let sql = format!(
            "INSERT INTO {} SELECT o.*, $2::text, now() FROM ({}) AS o ON CONFLICT (id) DO NOTHING RETURNING id",
            self.table("undelivered"),
            union(each)
        );
        let kept = self.connection.query(&sql, &[&id, &reason]).await.map_err(failed)?;
        Ok(!kept.is_empty())
    }

    /// Lets the next table take what is published from now on, if that is empty and the present one is not; whether it
    /// does.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn turn(&mut self) -> Result<bool, StorageError> {
        let next = (self.current + 1) % TABLES;
        let sql = format!(
            "UPDATE {} SET current = $1::int2 WHERE NOT EXISTS (SELECT 1 FROM {}) AND EXISTS (SELECT 1 FROM {}) \
             RETURNING current",
            self.table("outbox"),
            self.rows(next),
            self.rows(self.current)
        );
        let turned = self.connection.query(&sql, &[&next]).await.map_err(failed)?;
        self.current = if turned.is_empty() { self.current } else { next };
        Ok(!turned.is_empty())
    }

    /// Empties the tables whose turn is over and of which `relayed` sees all; whether one is left that is not empty.
    ///
    /// # Errors
    /// `Unavailable` if the database is.
    pub async fn empty(&self, relayed: &str) -> Result<bool, StorageError> {
        let mut left = false;
        for at in (0..TABLES).filter(|at| *at != self.current) {
            let some = format!("SELECT EXISTS (SELECT 1 FROM {})", self.rows(at));
            left |= self.one(&some).await?.get(0) && !self.empty_one(at, relayed).await?;
        }
        Ok(left)
    }

    /// Who holds a lock on the table may have rows in it that nobody sees: it is tried again another time.
    async fn empty_one(&self, at: i16, relayed: &str) -> Result<bool, StorageError> {
        let rows = self.rows(at);
        let lock = format!(
            "BEGIN; SET LOCAL lock_timeout = '{LOCK_PATIENCE}'; LOCK TABLE {rows} IN ACCESS EXCLUSIVE MODE"
        );
        let emptied = async {
            self.connection.batch(&lock).await?;
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM {rows} WHERE NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot))"
            );
            let left = self.connection.query(&sql, &[&relayed]).await?;
            let is_relayed = left.first().is_some_and(|row| !row.get::<_, bool>(0));
            let end = if is_relayed { format!("TRUNCATE {rows}; COMMIT") } else { "ROLLBACK".to_owned() };
            self.connection.batch(&end).await.map(|()| is_relayed)
        };
        match emptied.await {
            Ok(is_relayed) => Ok(is_relayed),
            Err(Failed::Refused(error)) => {
                tracing::debug!(%error, "a table of the outbox is not emptied yet");
                self.connection.batch("ROLLBACK").await.map(|()| false).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn read_current(&self) -> Result<i16, StorageError> {
        Ok(self.one(&format!("SELECT current FROM {}", self.table("outbox"))).await?.get(0))
    }

    async fn one(&self, sql: &str) -> Result<Row, StorageError> {
        let rows = self.connection.query(sql, &[]).await.map_err(failed)?;
        let none = || StorageError::new(ErrorKind::Unavailable, "the outbox has no row that says how it is");
        rows.into_iter().next().ok_or_else(none)
    }

    fn table(&self, name: &str) -> String {
        self.shared.names.table(name)
    }

    fn rows(&self, at: i16) -> String {
        self.table(&format!("outbox_{at}"))
    }
}

/// That a row's transaction is one of the tick. The first two use the index of transactions.
const IN_TICK: &str = "xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND xid < pg_snapshot_xmax($2::text::pg_snapshot) \
     AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot) AND pg_visible_in_snapshot(xid, $2::text::pg_snapshot)";

fn union(each: impl Fn(i16) -> String) -> String {
    (0..TABLES).map(each).collect::<Vec<_>>().join(" UNION ALL ")
}

fn published(row: &Row) -> Published {
    Published {
        id: row.get(0),
        at_ms: row.get(1),
        topic: row.get(2),
        vhost: row.get::<_, Option<String>>(3).unwrap_or_default(),
        exchange: row.get::<_, Option<String>>(4).unwrap_or_default(),
        key: row.get(5),
        body: row.get(6),
        properties: row.get(7),
        mandatory: row.get(8),
    }
}

fn failed(error: Failed) -> StorageError {
    error.into_error("cannot use the outbox")
}
