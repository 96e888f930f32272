//! One session: how it is opened and set up, its statements, and what its errors mean.
//!
//! **Invariants.** No timeout of the server's ends a statement of ours. A session that warned about a commit that was
//! not replicated says so until asked.
//!
//! Deliberately absent: reconnecting; who uses a connection decides when.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrymq_runtime::{TaskKind, Tasks};
use ferrymq_storage::{ErrorKind, StorageError};
use futures_util::FutureExt as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, Row, Statement};

/// What each session is told. A server is to notice within 11 s that this machine is gone: a broker that follows waits 15 s for
/// what its sessions have locked. A plan must not depend on what vacuum knew of a table that is a second old.
const SETUP: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SET idle_session_timeout = 0; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; \
    SET tcp_keepalives_count = 3; SET jit = off; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
    SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off; \
    SET client_min_messages = warning";

/// Statements kept prepared; more begin anew. Tables come and go, so old ones must.
const STATEMENTS_MAX: usize = 256;

/// A session.
pub(crate) struct Connection {
    pub(crate) client: Client,
    /// What the server knows it by.
    pub(crate) session: Session,
    statements: parking_lot::Mutex<HashMap<String, Statement>>,
    doubtful: Arc<AtomicBool>,
}

/// What a server knows a session by; a process's number alone is given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pid: i32,
    began: String,
}

/// Why a statement did not do what it should.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The server refused it and rolled it back.
    Refused(Error),
    /// The session ended, or what became of a commit is not certain: it may have happened.
    Lost(String),
}

impl Connection {
    pub(crate) async fn open(config: &Config, tasks: &Tasks) -> Result<Connection, Failed> {
        let (client, mut connection) = config.connect(NoTls).await.map_err(failed)?;
        let doubtful = Arc::new(AtomicBool::new(false));
        let doubt = doubtful.clone();
        tasks.spawn(TaskKind::Connection, "postgres connection", async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) => {
                        tracing::warn!(
                            code = notice.code().code(),
                            "the database warns: {}",
                            notice.message()
                        );
                        // "The transaction has already committed locally, but might not have been replicated."
                        if *notice.code() == SqlState::WARNING {
                            doubt.store(true, Ordering::SeqCst);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(error = text(&error), "a connection to the database ended");
                        break;
                    }
                }
            }
        });
        client.batch_execute(SETUP).await.map_err(failed)?;
        let sql = "SELECT pid, extract(epoch FROM backend_start)::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        let session = Session { pid: row.get(0), began: row.get(1) };
        let connection = Connection { client, session, statements: parking_lot::Mutex::default(), doubtful };
        connection.is_doubtful();
        Ok(connection)
    }

    /// Whether the server has warned since it was last asked.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends sessions of ours whose links were lost, which the server may not have noticed: it would keep what they have
    /// locked for as long. What they were at is rolled back, unless it was being committed; whoever has to know asks.
    pub(crate) async fn end(&self, lost: &[Session]) -> Result<(), Failed> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1::int4 AND \
                   extract(epoch FROM backend_start)::text = $2::text";
        for session in lost {
            match self.query(sql, &[&session.pid, &session.began]).await {
                Ok(ended) if ended.is_empty() => {}
                Ok(_) => tracing::info!(pid = session.pid, "ended a session whose link was lost"),
                // Then it is the server's to notice.
                Err(Failed::Refused(error)) => {
                    tracing::debug!(error = text(&error), "a lost session goes on")
                }
                Err(lost) => return Err(lost),
            }
        }
        Ok(())
    }

    /// Runs a statement that is prepared once.
    pub(crate) async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failed> {
        let known = self.statements.lock().get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql).await.map_err(|error| self.failed(error))?;
                let mut statements = self.statements.lock();
                if statements.len() >= STATEMENTS_MAX {
                    statements.clear();
                }
                statements.insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        self.client.query(&statement, values).boxed().await.map_err(|error| self.failed(error))
    }

    /// Runs statements without values.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Failed> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: Error) -> Failed {
        if error.as_db_error().is_none() && !self.is_closed() && !error.is_closed() {
            tracing::error!(error = text(&error), "a statement could not be sent or its answer not be read");
        }
        failed(error)
    }
}

fn failed(error: Error) -> Failed {
    use tokio_postgres::error::Severity::{Error as Plain, Fatal, Panic};
    let severity = error.as_db_error().map(|db| (db.parsed_severity(), db.severity()));
    match severity {
        // A session that the server ends may have committed what it was at. Servers before 9.6 tell only in their language.
        Some((Some(Plain), _) | (None, "ERROR")) => Failed::Refused(error),
        Some((Some(Fatal | Panic), _)) | Some(_) | None => Failed::Lost(text(&error)),
    }
}

impl Failed {
    /// The server's code, if it refused.
    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            Failed::Refused(error) => error.code(),
            Failed::Lost(_) => None,
        }
    }

    /// Whether trying the same again at once is right.
    pub(crate) fn is_passing(&self) -> bool {
        self.code().is_some_and(|code| {
            [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
        })
    }

    /// Whether there was no room for it.
    pub(crate) fn is_full(&self) -> bool {
        self.code() == Some(&SqlState::DISK_FULL)
    }

    /// What a caller is told who asked for something that can be asked for again.
    pub(crate) fn into_error(self, what: &str) -> StorageError {
        let kind = if self.is_full() { ErrorKind::Full } else { ErrorKind::Unavailable };
        StorageError::new(kind, format!("{what}: {self}"))
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failed::Refused(error) => f.write_str(&text(error)),
            Failed::Lost(why) => f.write_str(why),
        }
    }
}

/// An error with its causes, which its own text leaves out.
fn text(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map_or(String::new(), |detail| format!(" ({detail})"));
            format!("{}: {}{detail}", db.code().code(), db.message())
        }
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
