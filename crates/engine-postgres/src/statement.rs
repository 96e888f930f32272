//! A round as one statement.
//!
//! **Invariant.** The statement changes all rows as planned or, if one is not as the plan supposed, fails with a
//! division by zero and changes nothing.
//!
//! Deliberately absent: running it.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use ferrymq_types::{LogId, OwnerId};
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;

use crate::mirror::new_extent;
use crate::plan::{Change, Insert};
use crate::schema::Names;

/// Bytes of a batch, sent as they lie.
#[derive(Debug)]
struct Data(Bytes);

impl ToSql for Data {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    accepts!(BYTEA);
    to_sql_checked!();
}

/// SQL and its values. The SQL depends on what kinds of things are in it, not on how many.
#[derive(Default)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Statement {
    pub(crate) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }

    /// Adds a value and its place in the SQL.
    pub(crate) fn value(&mut self, value: impl ToSql + Sync + Send + 'static) {
        self.values.push(Box::new(value));
        let _ = write!(self.sql, "${}", self.values.len());
    }

    fn text(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    fn array<T: ToSql + Sync + Send + 'static>(&mut self, kind: &str, values: Vec<T>) {
        self.value(values);
        let _ = write!(self.sql, "::{kind}[]");
    }

    fn numbers(&mut self, values: impl Iterator<Item = u64>) {
        self.array("int8", values.map(u64::cast_signed).collect());
    }
}

pub(crate) fn owner_uuid(owner: OwnerId) -> Uuid {
    Uuid::from_u128(owner.0)
}

/// The fence, unless it is not wanted, and all that goes with it, into this segment. `known` says in which segment a log's last extent is.
pub(crate) fn round(
    names: &Names,
    (segment, fenced): (i64, bool),
    changes: &[(LogId, Change)],
    known: impl Fn(LogId) -> Option<i64>,
) -> Statement {
    let mut statement = Statement::default();
    fence(&mut statement, names, changes, fenced);
    let appended = |memory: bool| {
        let inserts =
            changes.iter().flat_map(|(log, change)| change.inserts.iter().map(move |insert| (*log, insert)));
        let wanted = inserts.filter(move |(_, insert)| !insert.replaces && insert.memory == memory);
        wanted.collect::<Vec<_>>()
    };
    for (memory, name, table) in [(false, "b", names.batches(segment)), (true, "v", names.memory(segment))] {
        let inserts = appended(memory);
        if !inserts.is_empty() {
            statement.text(&format!(", {name} AS ("));
            insert(&mut statement, &table, &inserts);
            statement.text(")");
        }
    }
    let extents = changes
        .iter()
        .filter_map(|(log, change)| new_extent(known(*log), change, segment).map(|first| (log.0, first)));
    let extents: Vec<(u64, u64)> = extents.collect();
    if !extents.is_empty() {
        statement.text(&format!(
            ", e AS (INSERT INTO {} (log, first, segment) SELECT r.log, r.first, ",
            names.table("extent")
        ));
        statement.value(segment);
        statement.text("::int8 FROM unnest(");
        statement.numbers(extents.iter().map(|(log, _)| *log));
        statement.text(", ");
        statement.numbers(extents.iter().map(|(_, first)| *first));
        statement.text(") AS r(log, first))");
    }
    holes(&mut statement, names, changes);
    statement.text(" SELECT 1 / (count(*) = ");
    statement.value(i64::try_from(changes.len()).unwrap_or(i64::MAX));
    statement.text("::int8)::int4 FROM f");
    statement
}

fn fence(statement: &mut Statement, names: &Names, changes: &[(LogId, Change)], fenced: bool) {
    let each = |of: fn(&Change) -> u64| changes.iter().map(move |(_, change)| of(change));
    statement.text("WITH req AS (SELECT * FROM unnest(");
    statement.numbers(changes.iter().map(|(log, _)| log.0));
    statement.text(", ");
    statement.numbers(each(|change| change.before.epoch.0.into()));
    statement.text(", ");
    statement.array("uuid", changes.iter().map(|(_, change)| owner_uuid(change.before.owner)).collect());
    statement.text(", ");
    for of in [
        (|change| change.before.turn) as fn(&Change) -> u64,
        |change| change.before.next.0,
        |change| change.after.next.0,
        |change| change.after.start.0,
        |change| change.after.bytes,
    ] {
        statement.numbers(each(of));
        statement.text(", ");
    }
    let commit = |of: fn(ferrymq_types::CommitId) -> u64| {
        let part = move |(_, change): &(LogId, Change)| change.after.commit.map(|id| of(id).cast_signed());
        changes.iter().map(part).collect::<Vec<Option<i64>>>()
    };
    statement.array("int8", commit(|id| id.writer));
    statement.text(", ");
    statement.array("int8", commit(|id| id.sequence));
    statement.text(", ");
    statement.array("bool", changes.iter().map(|(_, change)| change.after.deleted).collect());
    let holds = if fenced {
        " AND l.epoch = r.epoch AND l.owner = r.owner AND l.turn = r.turn AND l.next = r.next AND NOT l.deleted"
    } else {
        ""
    };
    statement.text(&format!(
        ") AS r(id, epoch, owner, turn, next, new_next, new_start, new_bytes, new_writer, new_seq, new_deleted)), \
         f AS (UPDATE {} l SET turn = l.turn + 1, next = r.new_next, start = r.new_start, bytes = r.new_bytes, \
         writer = r.new_writer, seq = r.new_seq, deleted = r.new_deleted FROM req r WHERE l.id = r.id{holds} \
         RETURNING 1)",
        names.table("log")
    ));
}

/// `INSERT INTO table .. SELECT * FROM unnest(..)`.
pub(crate) fn insert(statement: &mut Statement, table: &str, inserts: &[(LogId, &Insert)]) {
    statement.text(&format!(
        "INSERT INTO {table} (log, base, span, max_ts, epoch, size, data) SELECT * FROM unnest("
    ));
    statement.numbers(inserts.iter().map(|(log, _)| log.0));
    statement.text(", ");
    statement.numbers(inserts.iter().map(|(_, insert)| insert.batch.base.0));
    statement.text(", ");
    statement.numbers(inserts.iter().map(|(_, insert)| insert.batch.span.into()));
    statement.text(", ");
    statement.array("int8", inserts.iter().map(|(_, insert)| insert.batch.max_timestamp).collect());
    statement.text(", ");
    statement.numbers(inserts.iter().map(|(_, insert)| insert.epoch.0.into()));
    statement.text(", ");
    let size = |insert: &Insert| i32::try_from(insert.batch.bytes.len()).unwrap_or(i32::MAX);
    statement.array("int4", inserts.iter().map(|(_, insert)| size(insert)).collect());
    statement.text(", ");
    statement.array("bytea", inserts.iter().map(|(_, insert)| Data(insert.batch.bytes.clone())).collect());
    statement.text(")");
}

fn holes(statement: &mut Statement, names: &Names, changes: &[(LogId, Change)]) {
    let table = names.table("hole");
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for (log, change) in changes.iter().filter(|(_, change)| !change.after.deleted) {
        for (lo, hi) in change.holes.edits() {
            match hi {
                Some(hi) => put.push((log.0, lo, hi)),
                None => gone.push((log.0, lo)),
            }
        }
    }
    if !put.is_empty() {
        statement.text(&format!(", h AS (INSERT INTO {table} AS t (log, lo, hi) SELECT * FROM unnest("));
        statement.numbers(put.iter().map(|(log, _, _)| *log));
        statement.text(", ");
        statement.numbers(put.iter().map(|(_, lo, _)| *lo));
        statement.text(", ");
        statement.numbers(put.iter().map(|(_, _, hi)| *hi));
        statement.text(") ON CONFLICT (log, lo) DO UPDATE SET hi = excluded.hi)");
    }
    if !gone.is_empty() {
        statement.text(&format!(", g AS (DELETE FROM {table} t USING unnest("));
        statement.numbers(gone.iter().map(|(log, _)| *log));
        statement.text(", ");
        statement.numbers(gone.iter().map(|(_, lo)| *lo));
        statement.text(") AS r(log, lo) WHERE t.log = r.log AND t.lo = r.lo)");
    }
}
