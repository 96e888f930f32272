//! A broker's part in the cluster: it takes its id, beats, looks, and leaves.
//!
//! ```text
//! join --> beat: every 500 ms, comparing with its own last     another's record: the end
//!      '-> look: every 500 ms, or when somebody missed something     see `tick`
//! stop --> says so, hands over, takes its record away
//! ```
//! **Invariants.** Beats go on whatever a look does. A beat only ever follows a record of this life's own.
//!
//! Deliberately absent: what a look leads to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use ferrymq_storage::{Compare, Entry, ErrorKind, MetaStore, Put, Revision, StorageError};
use ferrymq_types::LogId;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::record::{BrokerRecord, Endpoint, State, VERSION, broker_key};
use super::tick::Tick;
use super::view::View;
use super::{INTERVAL, SILENCE};
use crate::Broker;
use crate::broker::{decode, encode};
use crate::groups::Groups;

/// Why a broker cannot be one of several.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Another one has its id and lives.
    #[error("broker id {id} is in use: a broker of version {version} has it, whose clients connect to {at}")]
    IdInUse {
        /// The id.
        id: i32,
        /// The other's version.
        version: String,
        /// The other's first address.
        at: String,
    },
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A broker that has its id, and does not own anything yet.
pub struct Joined {
    view: Arc<View>,
    meta: Arc<dyn MetaStore>,
    record: BrokerRecord,
    revision: Revision,
}

/// Takes an id. Waits for as long as it takes to see whether another that has it lives.
///
/// # Errors
/// [`JoinError`].
pub async fn join(
    id: i32,
    version: &str,
    meta: Arc<dyn MetaStore>,
    clock: &Clock,
    rng: &Rng,
) -> Result<Joined, JoinError> {
    let life = Uuid::from_u128(rng.next_u128() | 1);
    let state = State::Starting;
    let record =
        BrokerRecord { v: VERSION, id, life, version: version.to_owned(), state, listeners: Vec::new() };
    let key = broker_key(id);
    let mut before = meta.get(&key).await?;
    if let Some(first) = &before {
        // One that was killed says nothing any more; one that lives says something within this time.
        clock.sleep(SILENCE).await;
        let now = meta.get(&key).await?;
        if let Some(other) = now.as_ref().filter(|now| now.revision != first.revision) {
            return Err(in_use(id, other));
        }
        before = now;
    }
    let compare = Compare { key: key.clone(), revision: before.map(|entry| entry.revision) };
    let put = Put { key: key.clone(), value: Some(encode(&record)?) };
    let revision = match meta.txn(vec![compare], vec![put]).await {
        Ok(revision) => revision,
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let other = meta.get(&key).await?.ok_or(error)?;
            return Err(in_use(id, &other));
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Joined { view: View::new(id, life, clock.clone()), meta, record, revision })
}

fn in_use(id: i32, other: &Entry) -> JoinError {
    match decode::<BrokerRecord>(other) {
        Ok(BrokerRecord { version, listeners, .. }) => {
            let at =
                listeners.first().map_or("nowhere yet".to_owned(), |at| format!("{}:{}", at.host, at.port));
            JoinError::IdInUse { id, version, at }
        }
        Err(error) => error.into(),
    }
}

impl Joined {
    /// What this broker believes of the cluster, to be given to its parts.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }
}

/// What a cluster's broker is started with.
pub struct Start {
    /// The broker, opened with the view.
    pub broker: Arc<Broker>,
    /// The consumer groups, of which none are here yet.
    pub groups: Groups,
    /// Where this broker's clients are told to connect.
    pub listeners: Vec<Endpoint>,
}

/// A running part in a cluster.
pub struct Cluster {
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// What beats and looks have in common.
pub(super) struct Shared {
    pub(super) view: Arc<View>,
    pub(super) meta: Arc<dyn MetaStore>,
    pub(super) clock: Clock,
    pub(super) broker: Arc<Broker>,
    pub(super) groups: Groups,
    pub(super) group_logs: Vec<LogId>,
    own: tokio::sync::Mutex<(BrokerRecord, Revision)>,
    pub(super) state: Mutex<State>,
    /// How many slots are still this broker's; told after each look.
    pub(super) held: watch::Sender<usize>,
}

impl Cluster {
    /// Begins to serve: from now on this broker is given logs.
    ///
    /// # Errors
    /// Whatever the store answers to the first beat.
    pub async fn start(joined: Joined, start: Start) -> Result<Cluster, StorageError> {
        let Joined { view, meta, mut record, revision } = joined;
        record.listeners = start.listeners;
        let (clock, tasks) = (start.broker.clock().clone(), start.broker.tasks().child());
        let shared = Arc::new(Shared {
            view,
            meta,
            clock,
            broker: start.broker,
            group_logs: start.groups.logs().to_vec(),
            groups: start.groups,
            own: tokio::sync::Mutex::new((record, revision)),
            state: Mutex::new(State::Serving),
            held: watch::Sender::new(0),
        });
        shared.beat().await?;
        let (beating, stopping) = (shared.clone(), tasks.stopping());
        tasks.spawn(TaskKind::Background, "cluster beats", async move {
            tokio::select! { () = stopping => {}, () = beating.beats() => {} }
        });
        let (looking, stopping) = (Tick::new(shared.clone()), tasks.stopping());
        tasks.spawn(TaskKind::Background, "cluster looks", async move {
            tokio::select! { () = stopping => {}, () = looking.run() => {} }
        });
        Ok(Cluster { shared, tasks })
    }

    /// Hands over what this broker owns, as far as others take it within `patience`, and leaves.
    pub async fn stop(&self, patience: Duration) {
        *self.shared.state.lock() = State::Stopping;
        // A store that is away is not waited for: the others notice by silence.
        match tokio::time::timeout(patience, self.shared.beat()).await {
            Ok(Ok(())) => {}
            _ => tracing::warn!("the other brokers could not be told that this one stops"),
        }
        let mut held = self.shared.held.subscribe();
        self.shared.view.missed();
        let alone = self.shared.view.brokers().len() <= 1;
        let handed = async {
            while !alone && *held.borrow_and_update() > 0 {
                if held.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(patience, handed).await.is_err() {
            tracing::warn!(
                "not all logs were handed over; the others take them when this broker has been silent"
            );
        }
        self.tasks.stop_and_wait(patience).await;
        match tokio::time::timeout(patience, self.shared.leave()).await {
            Ok(Ok(_)) => {}
            _ => tracing::warn!("this broker's record could not be taken away"),
        }
    }
}

impl Shared {
    async fn beats(&self) {
        loop {
            self.clock.sleep(INTERVAL).await;
            match self.beat().await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    tracing::error!(%error, "another broker has this one's id now; this one ends");
                    self.view.end();
                    return;
                }
                Err(error) => tracing::warn!(%error, "this broker could not say that it lives"),
            }
        }
    }

    /// Takes this broker's record away.
    async fn leave(&self) -> Result<Revision, StorageError> {
        let own = self.own.lock().await;
        let key = broker_key(own.0.id);
        let compare = Compare { key: key.clone(), revision: Some(own.1) };
        self.meta.txn(vec![compare], vec![Put { key, value: None }]).await
    }

    /// Says that this broker lives, and how.
    async fn beat(&self) -> Result<(), StorageError> {
        let mut own = self.own.lock().await;
        own.0.state = *self.state.lock();
        let key = broker_key(own.0.id);
        let compare = Compare { key: key.clone(), revision: Some(own.1) };
        let value: Bytes = encode(&own.0)?;
        let sent = self.clock.uptime();
        own.1 = self.meta.txn(vec![compare], vec![Put { key, value: Some(value) }]).await?;
        self.view.beat(sent);
        Ok(())
    }
}
