//! What happens beside the writing: opening, making the next table, dropping dead ones, keeping the schema to oneself.
//!
//! **Invariants.** A table is dropped only after it was seen, under a lock that keeps writers out, to hold no live batch.
//! Nothing here can hold up a round: it never waits for a lock for longer than a second.
//!
//! Deliberately absent: moving live batches out of old tables.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_runtime::{Clock, Tasks};
use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::Epoch;
use tokio_postgres::Config;
use uuid::Uuid;

use crate::connection::{Connection, Failed, Session};
use crate::options::Options;
use crate::schema::{self, FORMAT, FORMAT_OF_SEVERAL, Names};
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

/// What an advisory lock of this session is for.
fn lock_key(names: &Names, what: &str) -> String {
    format!("ferrymq:{}{what}", names.schema())
}

pub(crate) async fn open(
    config: &Config,
    options: &Options,
    names: &Names,
    (clock, life): (&Clock, Uuid),
    tasks: &Tasks,
) -> Result<Opened, StorageError> {
    let failed = |error: Failed| error.into_error("cannot open the store");
    let connection = Connection::open(config, tasks).await;
    let connection = connection.map_err(|error| error.into_error("cannot connect to the database"))?;
    let incarnation = server::check(&connection).await?;
    lock(&connection, names, clock, options.exclusive).await?;
    live(&connection, names, life).await.map_err(failed)?;
    schema::create(&connection, names, incarnation.system_id, incarnation.timeline).await?;
    check_store(&connection, names, incarnation, options.exclusive).await?;
    let mut open = Vec::new();
    if options.exclusive {
        let all = format!("SELECT id, sealed FROM {} ORDER BY id", names.table("segment"));
        for row in &connection.query(&all, &[]).await.map_err(failed)? {
            let segment: i64 = row.get(0);
            empty_memory(&connection, names, segment).await.map_err(failed)?;
            if !row.get::<_, bool>(1) {
                open.push(segment);
            }
        }
    }
    while open.len() < 2 {
        open.push(schema::create_segment(&connection, names, life).await.map_err(failed)?);
    }
    // What lives before this one left unsealed goes on as if it had been made by it.
    let mine = format!("UPDATE {} SET life = $1::uuid WHERE id = ANY($2::int8[])", names.table("segment"));
    connection.query(&mine, &[&life, &open]).await.map_err(failed)?;
    let size = format!("SELECT pg_total_relation_size('{}')", names.batches(open[0]));
    let size = connection.query(&size, &[]).await.map_err(failed)?;
    let bytes = size.first().map_or(0, |row| row.get::<_, i64>(0).cast_unsigned());
    // An empty table has a page or two.
    let bytes = if bytes < 64 << 10 { 0 } else { bytes };
    let segments = Segments::new(open[0], bytes, Some(open[1]), clock.now());
    Ok(Opened { connection, incarnation, segments })
}

/// Takes the schema for this session, alone or as one of several.
async fn lock(
    connection: &Connection,
    names: &Names,
    clock: &Clock,
    exclusive: bool,
) -> Result<(), StorageError> {
    let since = clock.now();
    let key = lock_key(names, "");
    let (sql, other) = if exclusive {
        ("SELECT pg_try_advisory_lock(hashtextextended($1::text, 0))", "another broker uses this database")
    } else {
        (
            "SELECT pg_try_advisory_lock_shared(hashtextextended($1::text, 0))",
            "a broker that is to be alone uses this database",
        )
    };
    loop {
        let rows = connection.query(sql, &[&key]).await;
        let rows = rows.map_err(|error| error.into_error("cannot lock the schema"))?;
        if rows.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        if since.elapsed() > LOCK_PATIENCE {
            return Err(StorageError::new(
                ErrorKind::Unavailable,
                format!("{other}: schema={}", names.schema()),
            ));
        }
        clock.sleep(Duration::from_millis(100)).await;
    }
}

/// Says that a life goes on, for as long as this session does.
async fn live(connection: &Connection, names: &Names, life: Uuid) -> Result<(), Failed> {
    // Shared: the session that this one follows may not have been noticed to be over.
    let sql = "SELECT pg_advisory_lock_shared(hashtextextended($1::text, 0))";
    connection.query(sql, &[&lock_key(names, &format!(":{life}"))]).await.map(drop)
}

/// Seals what lives left behind that have ended. Taking one for dead whose session was only lost costs it a table.
async fn seal_of_the_dead(connection: &Connection, names: &Names, life: Uuid) -> Result<(), Failed> {
    let table = names.table("segment");
    let sql = format!("SELECT DISTINCT life FROM {table} WHERE NOT sealed AND life <> $1::uuid");
    for row in connection.query(&sql, &[&life]).await? {
        let other: Uuid = row.get(0);
        let key = lock_key(names, &format!(":{other}"));
        let sql = "SELECT pg_try_advisory_lock(hashtextextended($1::text, 0))";
        if !connection.query(sql, &[&key]).await?.first().is_some_and(|row| row.get(0)) {
            continue;
        }
        let sql = format!("UPDATE {table} SET sealed = true WHERE life = $1::uuid");
        let sealed = connection.query(&sql, &[&other]).await;
        let unlock = "SELECT pg_advisory_unlock(hashtextextended($1::text, 0))";
        connection.query(unlock, &[&key]).await?;
        sealed?;
    }
    Ok(())
}

async fn check_store(
    connection: &Connection,
    names: &Names,
    incarnation: Incarnation,
    exclusive: bool,
) -> Result<(), StorageError> {
    let failed = |error: Failed| error.into_error("cannot open the store");
    let table = names.table("store");
    let rows = connection.query(&format!("SELECT format, system_id, timeline FROM {table}"), &[]).await;
    let rows = rows.map_err(failed)?;
    let Some(row) = rows.first() else {
        return Err(StorageError::new(ErrorKind::Internal, "the store's own row is missing"));
    };
    check_format(connection, names, row.get(0), exclusive).await?;
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

/// Whether the schema is one of what is wanted; one that nothing was written to becomes one of several brokers.
async fn check_format(
    connection: &Connection,
    names: &Names,
    format: i32,
    exclusive: bool,
) -> Result<(), StorageError> {
    let schema = names.schema();
    let what = match format {
        FORMAT if exclusive => return Ok(()),
        FORMAT_OF_SEVERAL if !exclusive => return Ok(()),
        FORMAT => {
            let sql = format!(
                "UPDATE {} SET format = {FORMAT_OF_SEVERAL} WHERE NOT EXISTS (SELECT 1 FROM {}) RETURNING 1",
                names.table("store"),
                names.table("log")
            );
            let changed = connection.query(&sql, &[]).await;
            if !changed.map_err(|failed| failed.into_error("cannot open the store"))?.is_empty() {
                return Ok(());
            }
            format!(
                "the schema {schema} is that of one broker alone; several need one that is theirs from the start"
            )
        }
        FORMAT_OF_SEVERAL => {
            format!("the schema {schema} is that of several brokers; a broker that is alone cannot use it")
        }
        _ => format!(
            "the schema {schema} has format {format}, this program reads {FORMAT} and {FORMAT_OF_SEVERAL}"
        ),
    };
    Err(StorageError::new(ErrorKind::InvalidArgument, what))
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
    let mut lost = Vec::new();
    // What is to be said of the server is said at the start.
    shared.housekeeping.notify_one();
    loop {
        tokio::select! {
            () = shared.housekeeping.notified() => {}
            () = shared.clock.sleep(shared.options.housekeeping_interval) => {}
            () = tasks.stopping() => return,
        }
        if connection.as_ref().is_none_or(Connection::is_closed) {
            lost.extend(connection.take().map(|connection| connection.session));
            connection = reopen(&shared, &mut lost).await;
        }
        let Some(open) = &connection else {
            // Not now; the next look is soon enough for tables, and rounds go on without.
            continue;
        };
        if let Err(failed) = keep(&shared, open).await {
            tracing::warn!("housekeeping was not finished: {failed}");
            if open.batch("ROLLBACK").await.is_err() {
                lost.extend(connection.take().map(|connection| connection.session));
            }
        }
    }
}

/// Takes up what the `lost` sessions were for, once they are over.
async fn reopen(shared: &Shared, lost: &mut Vec<Session>) -> Option<Connection> {
    let connection = shared.connect().await.ok()?;
    if connection.end(lost).await.is_err() {
        return None;
    }
    lost.clear();
    // Until all is well, it may be the next to be lost.
    lost.push(connection.session.clone());
    if live(&connection, &shared.names, shared.life).await.is_err() {
        return None;
    }
    if let Err(error) = lock(&connection, &shared.names, &shared.clock, shared.options.exclusive).await
        && error.kind() == ErrorKind::Unavailable
        && !connection.is_closed()
    {
        shared.close(error.to_string());
        return None;
    }
    lost.clear();
    Some(connection)
}

/// One look at everything.
async fn keep(shared: &Shared, connection: &Connection) -> Result<(), Failed> {
    let lag = server::standbys_lag(connection).await?;
    if shared.standbys_lag.swap(lag, Ordering::Relaxed) != lag {
        server::tell_of_standbys(lag);
    }
    let wanted = shared.segments.lock().wants_another();
    if wanted {
        let segment = schema::create_segment(connection, &shared.names, shared.life).await?;
        shared.segments.lock().made(segment);
    }
    if !shared.options.exclusive {
        seal_of_the_dead(connection, &shared.names, shared.life).await?;
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
        tables = names.all_batches(segment, Some(Epoch(0))),
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
