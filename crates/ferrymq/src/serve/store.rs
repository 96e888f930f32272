//! The store that was chosen, as the rest of `serve` sees it.
//!
//! **Invariant.** What differs between engines is told apart here and in `http/metrics`, nowhere else.
//!
//! Deliberately absent: anything of the storage contract; whoever writes and reads has a [`LogStore`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ferrymq_disk::RealDisk;
use ferrymq_engine_local::LocalStore;
use ferrymq_engine_postgres::{Config, PostgresStore, SeededBug as PostgresBug, parse_url};
use ferrymq_kafka_server::context::Volume;
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::{LogMeta, LogStore, MetaStore};
use ferrymq_types::OwnerId;

use super::limits;
use super::settings::{self, Settings};

/// Where the logs are to be kept.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In the data directory.
    Local,
    /// In a database. Its password is not printed.
    Postgres(Box<Config>),
}

impl Place {
    /// Reads `local` or `postgres://..`.
    pub(crate) fn parse(text: &str) -> Result<Place, String> {
        if text == "local" {
            return Ok(Place::Local);
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("store is neither local nor postgres://USER@HOST/DATABASE".to_owned());
        }
        parse_url(text)
            .map(|config| Place::Postgres(Box::new(config)))
            .map_err(|error| format!("store: {error}"))
    }

    /// Where that is, for people.
    pub(crate) fn describe(&self, settings: &Settings) -> String {
        match self {
            Place::Local => settings.data_dir.display().to_string(),
            Place::Postgres(config) => format!("postgres:{}", config.get_dbname().unwrap_or("")),
        }
    }

    /// How much room there is, as far as this machine can tell.
    pub(crate) fn volume(&self, data_dir: PathBuf) -> Box<dyn Volume> {
        match self {
            Place::Local => Box::new(limits::volume(data_dir)),
            Place::Postgres(_) => Box::new(|| None),
        }
    }
}

/// What can be set of the engine on PostgreSQL.
#[derive(Debug, Clone)]
pub(crate) struct PostgresSettings {
    table_bytes: u64,
    housekeeping_ms: Option<u64>,
}

impl PostgresSettings {
    /// What was said, or what the engine has by default.
    pub(super) fn new(table_bytes: Option<u64>, housekeeping_ms: Option<u64>) -> PostgresSettings {
        let default = ferrymq_engine_postgres::Options::default();
        PostgresSettings { table_bytes: table_bytes.unwrap_or(default.segment_bytes), housekeeping_ms }
    }

    pub(super) fn check(&self, problems: &mut Vec<String>) {
        // Each is a table with an index and one beside it, so there are not to be too many.
        if !(64 << 10..=1 << 40).contains(&self.table_bytes) {
            problems
                .push(format!("postgres-table-bytes {} must lie between 64 KiB and 1 TiB", self.table_bytes));
        }
        if self.housekeeping_ms == Some(0) {
            problems.push("postgres-housekeeping-ms must be at least 1".to_owned());
        }
    }

    fn options(&self, exclusive: bool) -> ferrymq_engine_postgres::Options {
        let default = ferrymq_engine_postgres::Options::default();
        let interval = self.housekeeping_ms.map_or(default.housekeeping_interval, Duration::from_millis);
        let named = |name: String| PostgresBug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
        ferrymq_engine_postgres::Options {
            exclusive,
            segment_bytes: self.table_bytes,
            housekeeping_interval: interval,
            seeded_bug: settings::seeded_bug().and_then(named),
            ..default
        }
    }
}

/// An open store.
#[derive(Clone)]
pub(crate) enum Store {
    Local(Arc<LocalStore>),
    Postgres(Arc<PostgresStore>),
}

/// How it is, whatever it is.
pub(crate) struct Health {
    /// Why it takes no writes any more.
    pub(crate) stopped: Option<String>,
    /// Whether it refuses appends for want of space.
    pub(crate) full: bool,
    /// Why it cannot be reached just now.
    pub(crate) away: Option<String>,
    /// Reports of damage.
    pub(crate) damage: u64,
}

impl Store {
    pub(crate) async fn open(settings: &Settings, clock: &Clock, rng: &Rng) -> anyhow::Result<Store> {
        match &settings.store {
            Place::Local => {
                let name = settings.data_dir.display();
                let disk = RealDisk::open(&settings.data_dir)
                    .with_context(|| format!("could not open the data directory {name}"))?;
                let store = LocalStore::open(Arc::new(disk), settings.engine_options(), clock.clone(), rng)
                    .with_context(|| format!("could not open the store in {name}"))?;
                Ok(Store::Local(Arc::new(store)))
            }
            Place::Postgres(config) => {
                let options = settings.postgres.options(!settings.several_brokers);
                let store = PostgresStore::open((**config).clone(), options, clock.clone())
                    .await
                    .context("could not open the store in PostgreSQL")?;
                Ok(Store::Postgres(Arc::new(store)))
            }
        }
    }

    pub(crate) fn logs(&self) -> Arc<dyn LogStore> {
        match self {
            Store::Local(store) => store.clone(),
            Store::Postgres(store) => store.clone(),
        }
    }

    /// Where metadata lies: of a broker that is alone in a log, of several in a table that all may change.
    pub(crate) async fn metadata(
        &self,
        settings: &Settings,
        owner: OwnerId,
        rng: &Rng,
    ) -> anyhow::Result<Arc<dyn MetaStore>> {
        match self {
            Store::Postgres(store) if settings.several_brokers => {
                let meta = store.metadata(rng).await.context("could not open the metadata")?;
                Ok(Arc::new(meta))
            }
            _ => {
                let meta = LogMeta::open(self.logs(), owner).await.context("could not read the metadata")?;
                Ok(Arc::new(meta))
            }
        }
    }

    pub(crate) fn health(&self) -> Health {
        match self {
            Store::Local(store) => {
                let health = store.health();
                let damage = health.damage.len() as u64;
                Health { stopped: health.stopped, full: health.full, away: None, damage }
            }
            Store::Postgres(store) => {
                let health = store.health();
                Health { stopped: health.stopped, full: health.full, away: health.away, damage: 0 }
            }
        }
    }

    /// Finishes what was accepted.
    pub(crate) async fn stop(&self, patience: Duration) {
        let stopped = match self {
            Store::Local(store) => store.stop().await,
            Store::Postgres(store) => store.stop(patience).await,
        };
        if let Err(error) = stopped {
            tracing::error!(error = %error, "the store did not stop cleanly; the next start recovers");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_local_or_a_database_and_its_password_is_not_told() {
        assert!(matches!(Place::parse("local"), Ok(Place::Local)));
        let place = Place::parse("postgres://me:secret@db/mq").unwrap();
        assert!(!format!("{place:?}").contains("secret"));
        for bad in ["mysql://me:secret@db/mq", "", "postgres://me:secret@db/mq?sslmode=require"] {
            let problem = Place::parse(bad).unwrap_err();
            assert!(problem.starts_with("store") && !problem.contains("secret"), "{problem}");
        }
    }
}
