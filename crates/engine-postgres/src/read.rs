//! Reading: from the tail in memory, else from the tables by key.
//!
//! ```text
//! extents of a log:   0 -> 3     500 -> 4     900 -> 6
//! read from 620:      which batch holds it: in b_4, else b_3;  then b_4 from there on, then b_6 ..
//! ```
//! **Invariants.** A batch whose base lies between an extent's beginning and the next one's is in that extent's table.
//! Only batches that no trim, hole or replacement has taken away are returned, and each statement sees one moment.
//!
//! Deliberately absent: verification of bytes; the database's checksums are its own.

pub(crate) mod find;
pub(crate) mod rows;

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_storage::{BatchHead, ErrorKind, Read, Run, Stat, StorageError};
use ferrymq_types::{Epoch, LogId, Offset};
use futures_util::future::BoxFuture;
use tokio_postgres::error::SqlState;

use crate::connection::{Connection, Failed};
use crate::mirror::Extents;
use crate::plan::{Live, live};
use crate::row::not_found;
use crate::schema::Names;
use crate::store::{Shared, count};

/// How often a read begins anew because a table was dropped or a connection ended under it.
const ATTEMPTS: usize = 10;

/// Batches that one read looks at in one table.
const ROWS_MAX: i64 = 8192;

/// Where a log's batches are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) log: LogId,
    pub(crate) start: Offset,
    pub(crate) extents: Extents,
    /// From which epoch on batches of class `Memory` are there, if any are.
    pub(crate) memory_since: Option<Epoch>,
}

impl Place {
    /// The extent that offset `at` belongs to.
    pub(crate) fn index(&self, at: u64) -> usize {
        self.extents.partition_point(|(first, _)| *first <= at).saturating_sub(1)
    }

    /// From where to where an extent goes, and its table.
    pub(crate) fn extent(&self, index: usize) -> (i64, i64, i64) {
        let (first, segment) = self.extents[index];
        let until = self.extents.get(index + 1).map_or(i64::MAX, |(next, _)| next.cast_signed());
        (first.cast_signed(), until, segment)
    }
}

/// Asks where a log's batches are.
pub(crate) async fn place(
    shared: &Shared,
    connection: &Connection,
    log: LogId,
) -> Result<Option<Place>, Failed> {
    let known = shared
        .mirror
        .lock()
        .get(log)
        .map(|known| (known.row.start, known.row.turn, known.extents.clone(), known.memory_since()));
    match known {
        Some((start, _, Some(extents), memory_since)) => {
            Ok(Some(Place { log, start, extents, memory_since }))
        }
        Some((start, turn, None, memory_since)) => {
            let extents = rows::extents(connection, &shared.names, log).await?;
            // What was written meanwhile may be missing in it.
            if let Some(known) = shared.mirror.lock().get_mut(log).filter(|known| known.row.turn == turn) {
                known.extents = Some(extents.clone());
            }
            Ok(Some(Place { log, start, extents, memory_since }))
        }
        None => {
            let row = rows::rows(connection, &shared.names, &[log]).await?.remove(&log);
            let Some(row) = row.filter(|row| !row.deleted) else { return Ok(None) };
            let extents = rows::extents(connection, &shared.names, log).await?;
            Ok(Some(Place { log, start: row.start, extents, memory_since: Some(Epoch(0)) }))
        }
    }
}

/// Something to be asked of the tables.
pub(crate) type Question<T> = Box<
    dyn for<'a> Fn(&'a Connection, &'a Names, &'a Place) -> BoxFuture<'a, Result<T, Failed>> + Send + Sync,
>;

/// Asks it over a connection of the pool.
pub(crate) async fn ask<T: Send>(
    shared: Arc<Shared>,
    log: LogId,
    what: Question<T>,
) -> Result<T, StorageError> {
    count(&shared.counters.reads_from_tables, 1);
    for _ in 0..ATTEMPTS {
        let reader = shared.pool.reader(&shared).await?;
        let asked = match place(&shared, &reader, log).await {
            Ok(None) => return Err(not_found(log)),
            Ok(Some(place)) => what(&reader, &shared.names, &place).await,
            Err(failed) => Err(failed),
        };
        match asked {
            Ok(answer) => return Ok(answer),
            // The table was dropped: nothing in it was alive.
            Err(failed) if failed.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                shared.mirror.lock().forget_extents();
            }
            Err(Failed::Lost(why)) => tracing::debug!("a read begins anew: {why}"),
            Err(failed) => return Err(failed.into_error("cannot read")),
        }
    }
    Err(StorageError::new(ErrorKind::Unavailable, format!("cannot read from the database: log={log}")))
}

/// The offset to read from so as to begin with the batch that holds `at`, if one does.
pub(crate) async fn begin(
    connection: &Connection,
    names: &Names,
    place: &Place,
    at: u64,
) -> Result<u64, Failed> {
    if place.extents.is_empty() {
        return Ok(at);
    }
    for index in (0..=place.index(at)).rev() {
        let (first, _, segment) = place.extent(index);
        let sql = format!(
            "SELECT base, span FROM {} b WHERE log = $1::int8 AND base <= $2::int8 AND base >= $3::int8 \
             ORDER BY base DESC LIMIT 1",
            names.all_batches(segment, place.memory_since)
        );
        let found = connection.query(&sql, &[&place.log.0.cast_signed(), &at.cast_signed(), &first]).await?;
        if let Some(row) = found.first() {
            let base = row.get::<_, i64>(0).cast_unsigned();
            let holds = base + row.get::<_, i64>(1).cast_unsigned() > at;
            return Ok(if holds { base } else { at });
        }
    }
    Ok(at)
}

pub(crate) async fn read(
    shared: Arc<Shared>,
    log: LogId,
    from: Offset,
    until: Offset,
    max_bytes: usize,
) -> Result<Read, StorageError> {
    if let Some(read) = from_tail(&shared, log, from, |tail, from| tail.read(from, until, max_bytes)) {
        return Ok(read);
    }
    let what: Question<Read> = Box::new(move |connection, names, place| {
        Box::pin(read_tables(connection, names, place, from, until, max_bytes))
    });
    ask(shared, log, what).await
}

/// Answers from memory if everything asked for is there.
fn from_tail<T>(
    shared: &Shared,
    log: LogId,
    from: Offset,
    answer: impl Fn(&crate::tail::Tail, Offset) -> T,
) -> Option<T> {
    let mirror = shared.mirror.lock();
    let known = mirror.get(log)?;
    let from = from.max(known.row.start);
    let answer = known.tail.covers(from).then(|| answer(&known.tail, from));
    if answer.is_some() {
        count(&shared.counters.reads_from_tail, 1);
    }
    answer
}

async fn read_tables(
    connection: &Connection,
    names: &Names,
    place: &Place,
    from: Offset,
    until: Offset,
    max_bytes: usize,
) -> Result<Read, Failed> {
    let mut read = Read::default();
    let at = from.max(place.start);
    let from = begin(connection, names, place, at.0).await?;
    let mut left = i64::try_from(max_bytes).unwrap_or(i64::MAX);
    for index in place.index(from)..place.extents.len() {
        let (first, next, segment) = place.extent(index);
        let (lower, upper) = (first.max(from.cast_signed()), next.min(until.signed()));
        if lower >= upper {
            break;
        }
        // The first batch is returned whatever its size, so that what does not fit is seen: only for it the sum is its
        // own size.
        let sql = format!(
            "SELECT base, span, data, whole FROM (SELECT base, span, data, size, \
             sum(size) OVER (ORDER BY base)::int8 AS total, count(*) OVER () AS whole FROM (SELECT * FROM {tables} b \
             WHERE log = $1::int8 AND base >= $2::int8 AND base < $3::int8 AND base + span > $4::int8 \
             AND {alive} ORDER BY base LIMIT {ROWS_MAX}) b) b WHERE total <= $5::int8 OR total = size \
             ORDER BY base",
            tables = names.all_batches(segment, place.memory_since),
            alive = names.not_in_hole(),
        );
        let log = place.log.0.cast_signed();
        let rows = connection.query(&sql, &[&log, &lower, &upper, &at.signed(), &left]).await?;
        let whole = rows.first().map_or(0, |row| row.get::<_, i64>(3));
        for row in &rows {
            let base = Offset(row.get::<_, i64>(0).cast_unsigned());
            let bytes: &[u8] = row.get(2);
            left = left.saturating_sub(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
            if left < 0 && !read.runs.is_empty() {
                return Ok(read);
            }
            let next = base.plus(row.get::<_, i64>(1).cast_unsigned());
            read.runs.push(Run { base, next, bytes: Bytes::copy_from_slice(bytes) });
        }
        if i64::try_from(rows.len()).unwrap_or(i64::MAX) < whole || whole >= ROWS_MAX || left < 0 {
            break;
        }
    }
    Ok(read)
}

pub(crate) async fn headers(
    shared: Arc<Shared>,
    log: LogId,
    from: Offset,
    max: usize,
    prefix: usize,
) -> Result<Vec<BatchHead>, StorageError> {
    if let Some(heads) = from_tail(&shared, log, from, |tail, from| tail.heads(from, max, prefix)) {
        return Ok(heads);
    }
    let what: Question<Vec<BatchHead>> = Box::new(move |connection, names, place| {
        Box::pin(async move {
            let found = heads(connection, names, place, from, Offset::MAX, max, prefix).await?;
            Ok(found.into_iter().map(|(head, _)| head).collect())
        })
    });
    ask(shared, log, what).await
}

/// A row that begins with base, span, largest timestamp, size, epoch; `memory` is the next and the prefix the last.
pub(crate) fn head_of(row: &tokio_postgres::Row) -> (BatchHead, bool) {
    let number = |index: usize| row.get::<_, i64>(index);
    let head = BatchHead {
        base: Offset(number(0).cast_unsigned()),
        span: u32::try_from(number(1)).unwrap_or(u32::MAX),
        max_timestamp: number(2),
        size: row.get::<_, i32>(3).cast_unsigned(),
        epoch: Epoch(u32::try_from(number(4)).unwrap_or(u32::MAX)),
        prefix: Bytes::copy_from_slice(row.get(6)),
    };
    (head, row.get(5))
}

/// Describes batches that begin before `until`, and says which are of class `Memory`.
pub(crate) async fn heads(
    connection: &Connection,
    names: &Names,
    place: &Place,
    from: Offset,
    until: Offset,
    max: usize,
    prefix: usize,
) -> Result<Vec<(BatchHead, bool)>, Failed> {
    let mut heads = Vec::new();
    let at = from.max(place.start);
    let from = begin(connection, names, place, at.0).await?;
    let prefix = i32::try_from(prefix).unwrap_or(i32::MAX);
    for index in place.index(from)..place.extents.len() {
        let (first, next, segment) = place.extent(index);
        let (lower, upper) = (first.max(from.cast_signed()), next.min(until.signed()));
        let left = i64::try_from(max.saturating_sub(heads.len())).unwrap_or(i64::MAX);
        if lower >= upper || left == 0 {
            break;
        }
        // Without a prefix the value is not touched.
        let data = if prefix == 0 { "''::bytea" } else { "substring(data from 1 for $6::int4)" };
        let wants = if prefix == 0 { " AND $6::int4 = 0" } else { "" };
        let sql = format!(
            "SELECT base, span, max_ts, size, epoch, memory, {data} FROM {tables} b WHERE log = $1::int8 \
             AND base >= $2::int8 AND base < $3::int8 AND base + span > $4::int8 AND {alive}{wants} \
             ORDER BY base LIMIT $5::int8",
            tables = names.all_batches(segment, place.memory_since),
            alive = names.not_in_hole(),
        );
        let log = place.log.0.cast_signed();
        let rows = connection.query(&sql, &[&log, &lower, &upper, &at.signed(), &left, &prefix]).await?;
        heads.extend(rows.iter().map(head_of));
    }
    Ok(heads)
}

/// What a plan wants to know of the batches between two offsets.
pub(crate) async fn live_batches(
    connection: &Connection,
    names: &Names,
    place: &Place,
    from: Offset,
    until: Offset,
) -> Result<Vec<(u64, Live)>, Failed> {
    let heads = heads(connection, names, place, from, until, usize::MAX, 0).await?;
    let known =
        |(head, memory): (BatchHead, bool)| (head.base.0, live(head.span, head.size, head.epoch, memory));
    Ok(heads.into_iter().map(known).collect())
}

pub(crate) async fn stat(shared: Arc<Shared>, log: LogId) -> Result<Stat, StorageError> {
    let reader = shared.pool.reader(&shared).await?;
    let rows = rows::rows(&reader, &shared.names, &[log]).await;
    let row = rows.map_err(|failed| failed.into_error("cannot read"))?.remove(&log);
    let row = row.filter(|row| !row.deleted).ok_or_else(|| not_found(log))?;
    Ok(Stat { epoch: row.epoch, start: row.start, next: row.next, bytes: row.bytes })
}
