//! What can be set, and how the address of a database is read.
//!
//! **Invariant.** No option weakens what an acknowledgement means, apart from [`Options::seeded_bug`], which exists so
//! that tests of the tests can see a broken engine and is never reachable from a configuration.
//!
//! Deliberately absent: a switch for what is checked of the server.

use std::time::Duration;

use ferrymq_storage::{ErrorKind, StorageError};
pub use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// Settings of a [`PostgresStore`](crate::PostgresStore).
#[derive(Debug, Clone)]
pub struct Options {
    /// The schema that holds the tables: letters, digits and `_`, not beginning with a digit.
    pub schema: String,
    /// Whether to be alone on the schema: refused while another store has it. If not, others that are not alone either
    /// may have it, too.
    pub exclusive: bool,
    /// Connections that write, at least 1.
    pub append_connections: usize,
    /// Connections that read, at most; at least 1.
    pub read_connections: usize,
    /// Bytes of batches in one round, unless one group is larger.
    pub round_bytes_max: usize,
    /// Groups in one round.
    pub round_groups_max: usize,
    /// Largest atomic group accepted, in bytes.
    pub atomic_group_bytes_max: usize,
    /// Bytes that may wait; beyond, `commit` is refused with `Unavailable`.
    pub queue_bytes_max: usize,
    /// How long the database may be away before what waits is refused with `Unavailable`.
    pub patience: Duration,
    /// Bytes of batches after which the next table takes over.
    pub segment_bytes: u64,
    /// Age after which the next table takes over, if anything was written.
    pub segment_age: Duration,
    /// How often to look for tables to drop, unless a table has just been sealed.
    pub housekeeping_interval: Duration,
    /// Newest batches kept in memory for readers, in bytes.
    pub tail_bytes: usize,
    /// Test only: breaks one guarantee.
    pub seeded_bug: Option<SeededBug>,
}

/// A guarantee to break, for tests that must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeededBug {
    /// Takes a lost reply for a good one.
    BelieveLostReply,
    /// Sends a round whose reply was lost again, without asking what became of it.
    BlindRetry,
    /// Writes whatever epoch, owner, turn and next offset the row has.
    WriteUnfenced,
}

impl SeededBug {
    /// All of them.
    pub const ALL: [SeededBug; 3] =
        [SeededBug::BelieveLostReply, SeededBug::BlindRetry, SeededBug::WriteUnfenced];
}

impl Options {
    pub(crate) fn has(&self, bug: SeededBug) -> bool {
        self.seeded_bug == Some(bug)
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            schema: "ferrymq".to_owned(),
            exclusive: true,
            append_connections: 4,
            read_connections: 4,
            round_bytes_max: 8 << 20,
            round_groups_max: 4096,
            atomic_group_bytes_max: 256 << 20,
            queue_bytes_max: 256 << 20,
            patience: Duration::from_secs(30),
            segment_bytes: 1 << 30,
            segment_age: Duration::from_secs(24 * 60 * 60),
            housekeeping_interval: Duration::from_secs(60),
            tail_bytes: 64 << 20,
            seeded_bug: None,
        }
    }
}

/// Reads `postgres://user@host:port/database?..`, with what this engine cannot do refused by name.
///
/// # Errors
/// `InvalidArgument` with what is wrong with it; the text never holds the password.
pub fn parse_url(url: &str) -> Result<Config, StorageError> {
    let invalid = |what: String| StorageError::new(ErrorKind::InvalidArgument, what);
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let why = std::error::Error::source(&error).map_or(String::new(), |why| format!(": {why}"));
        invalid(format!("not the address of a database{why}"))
    })?;
    match config.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => {}
        _ => {
            return Err(invalid(
                "TLS to the database is not there yet: use sslmode=disable and a unix socket, loopback or a \
                 trusted network"
                    .to_owned(),
            ));
        }
    }
    if config.get_options().is_some_and(|options| options.contains("synchronous_commit")) {
        return Err(invalid("synchronous_commit is not to be set in the address of the database".to_owned()));
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(invalid(
            "the address names no host: postgres://HOST/DATABASE, or ?host=/run/postgresql".to_owned(),
        ));
    }
    config.application_name("ferrymq");
    config.keepalives_idle(Duration::from_secs(10));
    config.tcp_user_timeout(Duration::from_secs(30));
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(10));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused_by_name() {
        for good in [
            "postgres://me@127.0.0.1:5433/mq",
            "postgresql://me:secret@db/mq?sslmode=disable",
            "postgres:///mq?host=/run/postgresql",
        ] {
            parse_url(good).unwrap();
        }
        for (bad, why) in [
            ("postgres://me:secret@db/mq?sslmode=require", "TLS"),
            ("postgres://me:secret@db/mq?options=-c%20synchronous_commit%3Doff", "synchronous_commit"),
            ("postgres:///mq", "host"),
            ("postgres://me:secret@db/mq?colour=red", "colour"),
            ("mysql://me:secret@db/mq", "address"),
        ] {
            let error = parse_url(bad).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("secret"), "{bad}: {error}");
        }
    }
}
