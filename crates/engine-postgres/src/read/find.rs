//! Finding a batch by time or by size.
//!
//! **Invariant.** What is found is among what a read would return.
//!
//! Deliberately absent: an index by time; the range of the key is scanned without touching values.

use std::sync::Arc;

use ferrymq_storage::{BatchHead, Find, StorageError};
use ferrymq_types::LogId;

use crate::connection::{Connection, Failed};
use crate::schema::Names;
use crate::store::Shared;

use super::{Place, Question, ask, begin, head_of};

pub(crate) async fn find(
    shared: Arc<Shared>,
    log: LogId,
    what: Find,
) -> Result<Option<BatchHead>, StorageError> {
    let question: Question<Option<BatchHead>> = Box::new(move |connection, names, place| {
        Box::pin(async move {
            match what {
                Find::Timestamp(at) => by_time(connection, names, place, Some(at)).await,
                Find::MaxTimestamp => by_time(connection, names, place, None).await,
                Find::TailBytes(bytes) => by_size(connection, names, place, bytes).await,
            }
        })
    });
    ask(shared, log, question).await
}

/// The live batches of one extent, from `$2` to `$3`, behind the start `$4`.
fn alive(names: &Names, place: &Place, segment: i64) -> String {
    format!(
        "FROM {} b WHERE log = $1::int8 AND base >= $2::int8 AND base < $3::int8 AND base + span > $4::int8 AND {}",
        names.all_batches(segment, place.memory_since),
        names.not_in_hole()
    )
}

const HEAD: &str = "base, span, max_ts, size, epoch, memory, ''::bytea";

/// The first batch at or after a time, or the one with the largest of all.
async fn by_time(
    connection: &Connection,
    names: &Names,
    place: &Place,
    at: Option<i64>,
) -> Result<Option<BatchHead>, Failed> {
    let from = begin(connection, names, place, place.start.0).await?;
    let mut best: Option<BatchHead> = None;
    for index in place.index(from)..place.extents.len() {
        let (first, until, segment) = place.extent(index);
        let lower = first.max(from.cast_signed());
        let order = if at.is_some() { "base" } else { "max_ts DESC, base" };
        let sql = format!(
            "SELECT {HEAD} {} AND max_ts >= $5::int8 ORDER BY {order} LIMIT 1",
            alive(names, place, segment)
        );
        let (log, start, at_least) =
            (place.log.0.cast_signed(), place.start.signed(), at.unwrap_or(i64::MIN));
        let found = connection.query(&sql, &[&log, &lower, &until, &start, &at_least]).await?;
        let Some((head, _)) = found.first().map(head_of) else { continue };
        if at.is_some() {
            return Ok(Some(head));
        }
        if best.as_ref().is_none_or(|best| head.max_timestamp > best.max_timestamp) {
            best = Some(head);
        }
    }
    Ok(best)
}

/// The first batch such that it and all behind it hold at most so many bytes.
async fn by_size(
    connection: &Connection,
    names: &Names,
    place: &Place,
    bytes: u64,
) -> Result<Option<BatchHead>, Failed> {
    let from = begin(connection, names, place, place.start.0).await?;
    let mut left = i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut best = None;
    for index in (place.index(from)..place.extents.len()).rev() {
        let (first, until, segment) = place.extent(index);
        let lower = first.max(from.cast_signed());
        let sql = format!(
            "SELECT {HEAD}, total, everything FROM (SELECT *, sum(size) OVER (ORDER BY base DESC)::int8 AS total, \
             sum(size) OVER ()::int8 AS everything {}) b WHERE total <= $5::int8 OR total = everything \
             ORDER BY base LIMIT 2",
            alive(names, place, segment)
        );
        let (log, start) = (place.log.0.cast_signed(), place.start.signed());
        let found = connection.query(&sql, &[&log, &lower, &until, &start, &left]).await?;
        // The lowest batch is always among them, and tells whether all of them fit.
        let Some(lowest) = found.first() else { continue };
        let fits = |row: &&tokio_postgres::Row| row.get::<_, i64>(7) <= left;
        let Some(row) = found.iter().find(fits) else { break };
        best = Some(head_of(row).0);
        if lowest.get::<_, i64>(7) > left {
            break;
        }
        left -= lowest.get::<_, i64>(8);
    }
    Ok(best)
}
