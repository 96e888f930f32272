//! Rows of `log`, `hole` and `extent`, read.
//!
//! Deliberately absent: batches.

use std::collections::HashMap;

use ferrymq_types::{CommitId, Epoch, LogId, Offset, OwnerId};
use uuid::Uuid;

use crate::connection::{Connection, Failed};
use crate::mirror::Extents;
use crate::row::{Holes, Row};
use crate::schema::Names;

/// The columns that [`row_of`] reads, of a table by this name.
pub(crate) fn columns(table: &str) -> String {
    let columns = ["id", "epoch", "owner", "turn", "start", "next", "bytes", "writer", "seq", "deleted"];
    columns.map(|column| format!("{table}.{column}")).join(", ")
}

/// A row of `log`.
pub(crate) fn row_of(row: &tokio_postgres::Row) -> (LogId, Row) {
    let number = |index: usize| row.get::<_, i64>(index).cast_unsigned();
    let commit = row.get::<_, Option<i64>>(7).zip(row.get::<_, Option<i64>>(8));
    let known = Row {
        epoch: Epoch(u32::try_from(number(1)).unwrap_or(u32::MAX)),
        owner: OwnerId(row.get::<_, Uuid>(2).as_u128()),
        turn: number(3),
        start: Offset(number(4)),
        next: Offset(number(5)),
        bytes: number(6),
        commit: commit.map(|(writer, sequence)| CommitId {
            writer: writer.cast_unsigned(),
            sequence: sequence.cast_unsigned(),
        }),
        deleted: row.get(9),
    };
    (LogId(number(0)), known)
}

fn ids(logs: &[LogId]) -> Vec<i64> {
    logs.iter().map(|log| log.0.cast_signed()).collect()
}

/// The rows of those logs that exist, deleted ones too.
pub(crate) async fn rows(
    connection: &Connection,
    names: &Names,
    logs: &[LogId],
) -> Result<HashMap<LogId, Row>, Failed> {
    let sql = format!("SELECT {} FROM {} l WHERE id = ANY($1::int8[])", columns("l"), names.table("log"));
    let found = connection.query(&sql, &[&ids(logs)]).await?;
    Ok(found.iter().map(row_of).collect())
}

/// The holes of those logs that have any.
pub(crate) async fn holes(
    connection: &Connection,
    names: &Names,
    logs: &[LogId],
) -> Result<HashMap<LogId, Holes>, Failed> {
    let sql = format!("SELECT log, lo, hi FROM {} WHERE log = ANY($1::int8[])", names.table("hole"));
    let mut ranges: HashMap<LogId, Vec<(u64, u64)>> = HashMap::new();
    for row in connection.query(&sql, &[&ids(logs)]).await? {
        let number = |index: usize| row.get::<_, i64>(index).cast_unsigned();
        ranges.entry(LogId(number(0))).or_default().push((number(1), number(2)));
    }
    Ok(ranges.into_iter().map(|(log, ranges)| (log, Holes::stored(ranges))).collect())
}

/// A log's extents, ascending.
pub(crate) async fn extents(connection: &Connection, names: &Names, log: LogId) -> Result<Extents, Failed> {
    let sql =
        format!("SELECT first, segment FROM {} WHERE log = $1::int8 ORDER BY first", names.table("extent"));
    let found = connection.query(&sql, &[&log.0.cast_signed()]).await?;
    Ok(found.iter().map(|row| (row.get::<_, i64>(0).cast_unsigned(), row.get(1))).collect())
}
