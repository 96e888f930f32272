//! What happens beside the writing: opening, making the next table, dropping dead ones, keeping the schema to oneself.
//!
//! **Invariants.** A table is dropped only after it was seen, under a lock that keeps writers out, to hold no live batch.
//! Nothing here can hold up a round: it never waits for a lock for longer than a second.
//!
//! Deliberately absent: moving live batches out of old tables.

use std::sync::Arc;
use std::time::Duration;

use ferrymq_runtime::{Clock, Tasks};
use ferrymq_storage::{ErrorKind, StorageError};
use tokio_postgres::Config;

use crate::connection::{Connection, Failed};
use crate::options::Options;
use crate::schema::{self, FORMAT, Names};
use crate::segments::Segments;
use crate::server::{self, Incarnation};
use crate::store::Shared;

/// How long to wait for the session of a broker that has just ended to be noticed as such.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// A database that is ready.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) incarnation: Incarnation,
    pub(crate) segments: Segments,
}

pub(crate) async fn open(
    config: &Config,
    options: &Options,
    names: &Names,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Opened, StorageError> {
    let failed = |error: Failed| error.into_error("cannot open the store");
    let connection = Connection::open(config, tasks).await;
    let connection = connection.map_err(|error| error.into_error("cannot connect to the database"))?;
    let incarnation = server::check(&connection).await?;
    if options.exclusive {
        lock(&connection, names, clock).await?;
    }
    schema::create(&connection, names, incarnation.system_id, incarnation.timeline).await?;
    check_store(&connection, names, incarnation).await?;
    let all = format!("SELECT id, sealed FROM {} ORDER BY id", names.table("segment"));
    let all = connection.query(&all, &[]).await.map_err(failed)?;
    let mut open = Vec::new();
    for row in &all {
        let segment: i64 = row.get(0);
        if options.exclusive {
            empty_memory(&connection, names, segment).await.map_err(failed)?;
        }
        if !row.get::<_, bool>(1) {
            open.push(segment);
        }
    }
    let mut last = all.last().map_or(0, |row| row.get::<_, i64>(0));
    while open.len() < 2 {
        last += 1;
        schema::create_segment(&connection, names, last).await.map_err(failed)?;
        open.push(last);
    }
    let size = format!("SELECT pg_total_relation_size('{}')", names.batches(open[0]));
    let size = connection.query(&size, &[]).await.map_err(failed)?;
    let bytes = size.first().map_or(0, |row| row.get::<_, i64>(0).cast_unsigned());
    // An empty table has a page or two.
    let bytes = if bytes < 64 << 10 { 0 } else { bytes };
    let segments = Segments::new(open[0], bytes, Some(open[1]), clock.now());
    Ok(Opened { connection, incarnation, segments })
}

/// Takes the schema for this session.
async fn lock(connection: &Connection, names: &Names, clock: &Clock) -> Result<(), StorageError> {
    let since = clock.now();
    let key = format!("ferrymq:{}", names.schema());
    loop {
        let sql = "SELECT pg_try_advisory_lock(hashtextextended($1::text, 0))";
        let rows = connection.query(sql, &[&key]).await;
        let rows = rows.map_err(|error| error.into_error("cannot lock the schema"))?;
        if rows.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        if since.elapsed() > LOCK_PATIENCE {
            return Err(StorageError::new(
                ErrorKind::Unavailable,
                format!(
                    "another broker uses this database; several on one are not served yet: schema={}",
                    names.schema()
                ),
            ));
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
}

async fn check_store(
    connection: &Connection,
    names: &Names,
    incarnation: Incarnation,
) -> Result<(), StorageError> {
    let failed = |error: Failed| error.into_error("cannot open the store");
    let table = names.table("store");
    let rows = connection.query(&format!("SELECT format, system_id, timeline FROM {table}"), &[]).await;
    let rows = rows.map_err(failed)?;
    let Some(row) = rows.first() else {
        return Err(StorageError::new(ErrorKind::Internal, "the store's own row is missing"));
    };
    let format: i32 = row.get(0);
    if format != FORMAT {
        let what = format!("the schema {} has format {format}, this program reads {FORMAT}", names.schema());
        return Err(StorageError::new(ErrorKind::InvalidArgument, what));
    }
    let before = Incarnation { system_id: row.get(1), timeline: row.get(2) };
    if before != incarnation {
        tracing::warn!(
            "the database was restored or promoted since it was last used; what was acknowledged last may be missing: \
             was {before:?}, is {incarnation:?}"
        );
        let Incarnation { system_id, timeline } = incarnation;
        let sql = format!("UPDATE {table} SET system_id = {system_id}, timeline = {timeline}");
        connection.batch(&sql).await.map_err(failed)?;
    }
    Ok(())
}

/// What is not to survive a restart goes.
async fn empty_memory(connection: &Connection, names: &Names, segment: i64) -> Result<(), Failed> {
    let table = names.memory(segment);
    let some = connection.query(&format!("SELECT 1 FROM {table} LIMIT 1"), &[]).await?;
    if some.is_empty() { Ok(()) } else { connection.batch(&format!("TRUNCATE {table}")).await }
}

/// Runs until stopped.
pub(crate) async fn run(shared: Arc<Shared>, connection: Connection, tasks: Tasks) {
    let mut connection = Some(connection);
    loop {
        tokio::select! {
            () = shared.housekeeping.notified() => {}
            () = shared.clock.sleep(shared.options.housekeeping_interval) => {}
            () = tasks.stopping() => return,
        }
        if connection.as_ref().is_none_or(Connection::is_closed) {
            connection = reopen(&shared).await;
        }
        let Some(open) = &connection else {
            // Not now; the next look is soon enough for tables, and rounds go on without.
            continue;
        };
        if let Err(failed) = keep(&shared, open).await {
            tracing::warn!("housekeeping was not finished: {failed}");
            if open.batch("ROLLBACK").await.is_err() {
                connection = None;
            }
        }
    }
}

async fn reopen(shared: &Shared) -> Option<Connection> {
    let connection = shared.connect().await.ok()?;
    if shared.options.exclusive
        && let Err(error) = lock(&connection, &shared.names, &shared.clock).await
        && error.kind() == ErrorKind::Unavailable
        && !connection.is_closed()
    {
        shared.close(error.to_string());
        return None;
    }
    Some(connection)
}

/// One look at everything.
async fn keep(shared: &Shared, connection: &Connection) -> Result<(), Failed> {
    let wanted = shared.segments.lock().wanted();
    if let Some(segment) = wanted {
        schema::create_segment(connection, &shared.names, segment).await?;
        shared.segments.lock().made(segment);
    }
    let sealed = shared.segments.lock().take_sealed();
    if !sealed.is_empty() {
        let sql =
            format!("UPDATE {} SET sealed = true WHERE id = ANY($1::int8[])", shared.names.table("segment"));
        if let Err(failed) = connection.query(&sql, &[&sealed]).await {
            shared.segments.lock().give_back(sealed);
            return Err(failed);
        }
    }
    for segment in dead(connection, &shared.names).await? {
        if drop_if_dead(connection, &shared.names, segment).await? {
            tracing::debug!(segment, "dropped a table");
            shared.mirror.lock().forget_extents();
        }
    }
    Ok(())
}

/// Sealed segments in which, by the starts of their logs, nothing can be alive.
async fn dead(connection: &Connection, names: &Names) -> Result<Vec<i64>, Failed> {
    let sql = format!(
        "SELECT s.id FROM {segment} s WHERE s.sealed AND NOT EXISTS (SELECT 1 FROM (SELECT x.log, x.segment, \
         lead(x.first) OVER (PARTITION BY x.log ORDER BY x.first) AS until FROM {extent} x) x JOIN {log} l \
         ON l.id = x.log WHERE x.segment = s.id AND NOT l.deleted AND l.start < coalesce(x.until, l.next)) ORDER BY s.id",
        segment = names.table("segment"),
        extent = names.table("extent"),
        log = names.table("log"),
    );
    Ok(connection.query(&sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Looks at each batch and drops the tables if none is alive.
async fn drop_if_dead(connection: &Connection, names: &Names, segment: i64) -> Result<bool, Failed> {
    let (batches, memory) = (names.batches(segment), names.memory(segment));
    connection
        .batch(&format!("BEGIN; SET LOCAL lock_timeout = '1s'; LOCK TABLE {batches}, {memory} IN SHARE MODE"))
        .await?;
    let sql = format!(
        "SELECT 1 FROM {tables} b JOIN {log} l ON l.id = b.log WHERE NOT l.deleted AND b.base + b.span > l.start \
         AND {alive} LIMIT 1",
        tables = names.all_batches(segment, true),
        log = names.table("log"),
        alive = names.not_in_hole(),
    );
    if !connection.query(&sql, &[]).await?.is_empty() {
        connection.batch("ROLLBACK").await?;
        return Ok(false);
    }
    let sql = format!(
        "DROP TABLE {batches}, {memory}; DELETE FROM {extent} WHERE segment = {segment}; \
         DELETE FROM {hole} h USING {log} l WHERE l.id = h.log AND l.deleted; \
         DELETE FROM {segments} WHERE id = {segment}; COMMIT",
        extent = names.table("extent"),
        hole = names.table("hole"),
        log = names.table("log"),
        segments = names.table("segment"),
    );
    connection.batch(&sql).await?;
    Ok(true)
}
