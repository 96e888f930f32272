//! The tables, and how they come to be.
//!
//! **Invariants.** Names are built here only, from a schema that was checked and from numbers. A schema of a newer
//! format is refused. Nothing here is run by an append connection.
//!
//! Deliberately absent: migrations; there is one format so far.

use ferrymq_storage::{ErrorKind, StorageError};
use ferrymq_types::Epoch;
use uuid::Uuid;

use crate::connection::{Connection, Failed};

/// The format of the tables of one broker alone: metadata in a log.
pub(crate) const FORMAT: i32 = 1;
/// The same with metadata in tables, for several.
pub(crate) const FORMAT_OF_SEVERAL: i32 = 2;

/// What a table of batches says of one, in the order that [`crate::read`] expects.
const COLUMNS: &str = "log, base, span, max_ts, epoch, size, data";

/// Names of tables.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    schema: String,
}

impl Names {
    pub(crate) fn new(schema: &str) -> Result<Names, StorageError> {
        let mut bytes = schema.bytes();
        let begins = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let goes_on = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !begins || !goes_on || schema.len() > 48 {
            let what = format!("a schema has up to 48 of a-z, 0-9 and _, no digit first: schema={schema}");
            return Err(StorageError::new(ErrorKind::InvalidArgument, what));
        }
        Ok(Names { schema: schema.to_owned() })
    }

    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    pub(crate) fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.schema)
    }

    /// Where durable batches of a segment are.
    pub(crate) fn batches(&self, segment: i64) -> String {
        format!("{}.b_{segment}", self.schema)
    }

    /// Where those of class `Memory` are.
    pub(crate) fn memory(&self, segment: i64) -> String {
        format!("{}.v_{segment}", self.schema)
    }

    /// The batches of a segment as a table with a column `memory`; of those of class `Memory` the ones that were written
    /// from an epoch on, if any.
    pub(crate) fn all_batches(&self, segment: i64, memory_since: Option<Epoch>) -> String {
        let durable = format!("SELECT {COLUMNS}, false AS memory FROM {}", self.batches(segment));
        match memory_since {
            // Not a value: statements are written with their own. A claim makes them anew, which is rare.
            Some(Epoch(epoch)) => {
                let memory = self.memory(segment);
                format!(
                    "({durable} UNION ALL SELECT {COLUMNS}, true AS memory FROM {memory} WHERE epoch >= {epoch})"
                )
            }
            None => format!("({durable})"),
        }
    }

    /// That a batch `b` lies in no hole of its log.
    pub(crate) fn not_in_hole(&self) -> String {
        format!(
            "NOT EXISTS (SELECT 1 FROM (SELECT h.hi FROM {}.hole h WHERE h.log = b.log AND h.lo <= b.base \
             ORDER BY h.lo DESC LIMIT 1) h WHERE h.hi >= b.base + b.span)",
            self.schema
        )
    }
}

/// Creates what is missing; `system_id` and `timeline` name the database if there was nothing.
pub(crate) async fn create(
    connection: &Connection,
    names: &Names,
    system_id: i64,
    timeline: i32,
) -> Result<(), StorageError> {
    let schema = names.schema();
    let failed = |error: Failed| error.into_error("cannot create the tables");
    // Two that create at a time would fail at each other's entries in the catalogue. The session's end unlocks, too.
    let key = format!("ferrymq:{schema}:create");
    let lock = |what: &str| format!("SELECT pg_advisory_{what}(hashtextextended($1::text, 0))");
    connection.query(&lock("lock"), &[&key]).await.map_err(failed)?;
    create_locked(connection, schema, system_id, timeline).await.map_err(failed)?;
    connection.query(&lock("unlock"), &[&key]).await.map_err(failed).map(drop)
}

async fn create_locked(
    connection: &Connection,
    schema: &str,
    system_id: i64,
    timeline: i32,
) -> Result<(), Failed> {
    let found = connection.query("SELECT 1 FROM pg_namespace WHERE nspname = $1::text", &[&schema]).await?;
    if found.is_empty() {
        connection.batch(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await?;
    }
    let sql = format!(
        "BEGIN;
         CREATE TABLE IF NOT EXISTS {schema}.store (
             one bool PRIMARY KEY DEFAULT true CHECK (one), format int4 NOT NULL,
             system_id int8 NOT NULL, timeline int4 NOT NULL);
         INSERT INTO {schema}.store (format, system_id, timeline) VALUES ({FORMAT}, {system_id}, {timeline})
             ON CONFLICT DO NOTHING;
         CREATE TABLE IF NOT EXISTS {schema}.log (
             id int8 PRIMARY KEY, epoch int8 NOT NULL, owner uuid NOT NULL, turn int8 NOT NULL,
             start int8 NOT NULL, next int8 NOT NULL, bytes int8 NOT NULL,
             writer int8, seq int8, deleted bool NOT NULL)
             WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
                   autovacuum_vacuum_cost_delay = 0);
         CREATE TABLE IF NOT EXISTS {schema}.segment (id int8 PRIMARY KEY, sealed bool NOT NULL, life uuid);
         ALTER TABLE {schema}.segment ADD COLUMN IF NOT EXISTS life uuid;
         CREATE SEQUENCE IF NOT EXISTS {schema}.segment_ids;
         CREATE TABLE IF NOT EXISTS {schema}.extent (
             log int8, first int8, segment int8 NOT NULL, PRIMARY KEY (log, first));
         CREATE TABLE IF NOT EXISTS {schema}.hole (log int8, lo int8, hi int8 NOT NULL, PRIMARY KEY (log, lo))
             WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
                   autovacuum_vacuum_cost_delay = 0);
         COMMIT"
    );
    connection.batch(&sql).await
}

/// A number that no segment has or had. A program that did not know the sequence may have gone ahead of it.
async fn segment_id(connection: &Connection, names: &Names) -> Result<i64, Failed> {
    let sql = format!(
        "SELECT nextval('{}'), coalesce((SELECT max(id) FROM {}), 0)",
        names.table("segment_ids"),
        names.table("segment")
    );
    loop {
        let rows = connection.query(&sql, &[]).await?;
        let (id, last) = rows.first().map_or((0, 0), |row| (row.get::<_, i64>(0), row.get::<_, i64>(1)));
        if id > last {
            return Ok(id);
        }
    }
}

/// Creates the tables of a new segment for a life and makes it known. If the reply is lost, an empty one is left over.
pub(crate) async fn create_segment(
    connection: &Connection,
    names: &Names,
    life: Uuid,
) -> Result<i64, Failed> {
    let segment = segment_id(connection, names).await?;
    let columns = "log int8, base int8, span int8 NOT NULL, max_ts int8 NOT NULL, epoch int8 NOT NULL, \
                   size int4 NOT NULL, data bytea STORAGE EXTERNAL NOT NULL, PRIMARY KEY (log, base)";
    // STORAGE in CREATE TABLE came with PostgreSQL 16.
    let columns = columns.replace(" STORAGE EXTERNAL", "");
    // Nothing is ever updated or deleted here: there is nothing to vacuum but for the age of transactions.
    let with = "WITH (autovacuum_vacuum_insert_threshold = -1)";
    let (batches, memory) = (names.batches(segment), names.memory(segment));
    let sql = format!(
        "BEGIN;
         CREATE TABLE IF NOT EXISTS {batches} ({columns}) {with};
         ALTER TABLE {batches} ALTER COLUMN data SET STORAGE EXTERNAL;
         CREATE UNLOGGED TABLE IF NOT EXISTS {memory} ({columns}) {with};
         ALTER TABLE {memory} ALTER COLUMN data SET STORAGE EXTERNAL;
         INSERT INTO {schema}.segment (id, sealed, life) VALUES ({segment}, false, '{life}');
         COMMIT",
        schema = names.schema()
    );
    let created = connection.batch(&sql).await;
    if created.is_err() && !connection.is_closed() {
        connection.batch("ROLLBACK").await?;
    }
    created.map(|()| segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_schemas() {
        assert_eq!(Names::new("mq_2").unwrap().batches(7), "mq_2.b_7");
        for bad in ["", "2mq", "a b", "Mq", "a;drop", &"x".repeat(49)] {
            assert!(Names::new(bad).is_err(), "{bad}");
        }
    }
}
