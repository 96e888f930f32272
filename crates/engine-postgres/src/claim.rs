//! Claims: rows are read, then changed if they are still so.
//!
//! **Invariant.** A claim whose connection was lost and whose statement arrives late does nothing: it names the epoch
//! that it read.
//!
//! Deliberately absent: leases.

use std::collections::HashMap;

use ferrymq_storage::{Claim, ErrorKind, StorageError};
use ferrymq_types::{LogId, OwnerId};

use crate::connection::Failed;
use crate::read::rows::{columns, holes, row_of, rows};
use crate::row::{Row, not_found};
use crate::statement::owner_uuid;
use crate::writer::Writer;

/// How often a claim is tried again because somebody else claims the same logs.
const ATTEMPTS: usize = 100;

impl Writer {
    pub(crate) async fn claim(
        &mut self,
        logs: Vec<LogId>,
        owner: OwnerId,
    ) -> Result<Vec<Claim>, StorageError> {
        for _ in 0..ATTEMPTS {
            match self.try_claim(&logs, owner).await? {
                Ok(Some(claims)) => return Ok(claims),
                Ok(None) => {}
                Err(failed) if failed.is_passing() || is_fence(&failed) => {}
                Err(Failed::Lost(_)) => self.disconnect(),
                Err(failed) => return Err(failed.into_error("cannot claim")),
            }
        }
        Err(StorageError::new(ErrorKind::Unavailable, "others claim the same logs all the time"))
    }

    async fn try_claim(
        &mut self,
        logs: &[LogId],
        owner: OwnerId,
    ) -> Result<Result<Option<Vec<Claim>>, Failed>, StorageError> {
        let shared = self.shared.clone();
        let connection = self.connected().await?;
        let mut sorted = logs.to_vec();
        sorted.sort_unstable();
        let found = match rows(connection, &shared.names, &sorted).await {
            Ok(found) => found,
            Err(failed) => return Ok(Err(failed)),
        };
        if let Some((log, _)) = found.iter().find(|(_, row)| row.deleted) {
            return Err(not_found(*log));
        }
        let sql = format!(
            "WITH c AS (INSERT INTO {table} AS l (id, epoch, owner, turn, start, next, bytes, deleted) \
             SELECT r.id, r.epoch + 1, $3::uuid, 0, 0, 0, 0, false FROM unnest($1::int8[], $2::int8[]) AS r(id, epoch) \
             ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner, turn = l.turn + 2 \
             WHERE l.epoch = excluded.epoch - 1 AND NOT l.deleted RETURNING {columns}) \
             SELECT c.*, 1 / ((SELECT count(*) FROM c) = $4::int8)::int4 FROM c",
            table = shared.names.table("log"),
            columns = columns("l"),
        );
        let ids: Vec<i64> = sorted.iter().map(|log| log.0.cast_signed()).collect();
        let epoch = |log: &LogId| found.get(log).map_or(0, |row| i64::from(row.epoch.0));
        let epochs: Vec<i64> = sorted.iter().map(epoch).collect();
        let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let claimed = connection.query(&sql, &[&ids, &epochs, &owner_uuid(owner), &count]).await;
        let claimed = match claimed {
            // Committed, but not by all who should have it: the next claim says so of this one, too.
            Ok(_) if connection.is_doubtful() => return Ok(Ok(None)),
            Ok(claimed) if claimed.is_empty() => return Ok(Ok(None)),
            Ok(claimed) => claimed,
            Err(failed) => return Ok(Err(failed)),
        };
        let mut holes = match holes(connection, &shared.names, &sorted).await {
            Ok(holes) => holes,
            Err(failed) => return Ok(Err(failed)),
        };
        let rows: HashMap<LogId, Row> = claimed.iter().map(row_of).collect();
        let mut mirror = shared.mirror.lock();
        for (log, row) in &rows {
            mirror.claimed(*log, *row, holes.remove(log).unwrap_or_default());
        }
        Ok(Ok(Some(logs.iter().map(|log| rows[log].claim(*log)).collect())))
    }
}

/// Whether a statement found a row that was not as expected, and so did nothing.
pub(crate) fn is_fence(failed: &Failed) -> bool {
    failed.code() == Some(&tokio_postgres::error::SqlState::DIVISION_BY_ZERO)
}
