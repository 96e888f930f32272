//! What is asked of a server before it is trusted.
//!
//! **Invariant.** A setting under which an acknowledgement would be a lie is refused, with the line that mends it.
//!
//! Deliberately absent: changing any setting of the server.

use ferrymq_storage::{ErrorKind, StorageError};

use crate::connection::{Connection, Failed};

/// Which database this is: its cluster, and how often that was promoted or restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub(crate) system_id: i64,
    pub(crate) timeline: i32,
}

/// The oldest server, as `server_version_num` has it.
const VERSION_MIN: i64 = 150_000;

/// Checks a server's settings and says which one it is.
///
/// # Errors
/// `InvalidArgument` for what an operator must change, `Unavailable` for what passes.
pub(crate) async fn check(connection: &Connection) -> Result<Incarnation, StorageError> {
    let failed = |error: Failed| error.into_error("cannot ask the database how it is set");
    let sql = "SELECT current_setting('server_version_num')::int8, current_setting('fsync'), \
               current_setting('full_page_writes'), current_setting('synchronous_commit'), \
               pg_is_in_recovery(), current_setting('transaction_read_only')";
    let rows = connection.query(sql, &[]).await.map_err(failed)?;
    let row = rows.first().ok_or_else(|| unavailable("the database did not say how it is set"))?;
    let version: i64 = row.get(0);
    if version < VERSION_MIN {
        return Err(refused(&format!("PostgreSQL is too old: at least 15 is needed: version={version}")));
    }
    let setting = |index: usize| row.get::<_, String>(index);
    for (index, name, why) in [
        (1, "fsync", "a power cut loses or damages what was acknowledged"),
        (2, "full_page_writes", "a power cut may damage pages that were written before"),
        (3, "synchronous_commit", "a commit answers before it is on disk"),
    ] {
        if setting(index) == "off" {
            return Err(refused(&format!(
                "the database has {name} = off, with which {why}; put \"{name} = on\" into postgresql.conf (or ALTER \
                 SYSTEM, ROLE or DATABASE .. SET {name} = on) and reload it"
            )));
        }
    }
    if row.get::<_, bool>(4) || setting(5) == "on" {
        return Err(unavailable("the database takes no writes: it is a standby, or read only"));
    }
    let sql =
        "SELECT s.system_identifier, c.timeline_id FROM pg_control_system() s, pg_control_checkpoint() c";
    let rows = connection.query(sql, &[]).await.map_err(failed)?;
    let control = rows.first().ok_or_else(|| unavailable("the database did not say which one it is"))?;
    Ok(Incarnation { system_id: control.get(0), timeline: control.get(1) })
}

/// Whether a standby that is promoted may lack what was acknowledged: there are standbys, and no commit waits for one.
pub(crate) async fn standbys_lag(connection: &Connection) -> Result<bool, Failed> {
    let sql = "SELECT current_setting('synchronous_standby_names') = '' AND EXISTS (SELECT 1 FROM pg_stat_replication)";
    Ok(connection.query(sql, &[]).await?.first().is_some_and(|row| row.get(0)))
}

/// Says so when that begins or ends.
pub(crate) fn tell_of_standbys(lag: bool) {
    if lag {
        tracing::warn!(
            "the database has standbys but no synchronous_standby_names: what was acknowledged can be lost when one \
             of them is promoted; name those that commits are to wait for"
        );
    } else {
        tracing::info!("commits wait for a standby of the database, or there is none any more");
    }
}

fn refused(what: &str) -> StorageError {
    StorageError::new(ErrorKind::InvalidArgument, what)
}

fn unavailable(what: &str) -> StorageError {
    StorageError::new(ErrorKind::Unavailable, what)
}
