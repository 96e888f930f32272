//! [`PostgresStore`]: opening, stopping, and the door to everything else, behind [`LogStore`].
//!
//! **Invariants.** `commit` and `claim` enqueue before they return. A future that is dropped cancels nothing. After
//! [`PostgresStore::stop`] returned, everything accepted is committed or refused.
//!
//! Deliberately absent: decisions about data; see `plan` and `writer`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use ferrymq_storage::{
    BatchHead, Claim, ErrorKind, Find, Group, LogStore, Outcome, Pending, Read, Stat, StorageError, validate,
};
use ferrymq_types::{Epoch, LogId, Offset, OwnerId};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_postgres::Config;
use uuid::Uuid;

use crate::connection::Connection;
use crate::housekeeping;
use crate::meta::{self, PostgresMeta};
use crate::mirror::Mirror;
use crate::options::Options;
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::queue::{Queue, Round, Ticket, Work, group_bytes, too_busy};
use crate::read::rows::rows;
use crate::row::closed;
use crate::schema::Names;
use crate::segments::Segments;
use crate::server::{self, Incarnation};
use crate::writer::Writer;

/// How the store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the store stopped taking writes for good; reads go on.
    pub stopped: Option<String>,
    /// Whether a round was refused within the last seconds because the database's disk is full.
    pub full: bool,
    /// Why the database cannot be reached now, if it cannot.
    pub away: Option<String>,
}

/// What the store counted since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rounds committed.
    pub rounds: AtomicU64,
    /// Groups in them.
    pub groups: AtomicU64,
    /// Bytes of batches committed.
    pub bytes_appended: AtomicU64,
    /// Rounds planned again because a row was not as expected.
    pub stale_rounds: AtomicU64,
    /// Rounds whose reply was lost.
    pub lost_replies: AtomicU64,
    /// Reads answered from memory.
    pub reads_from_tail: AtomicU64,
    /// Reads answered by the database.
    pub reads_from_tables: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// How long a full disk is believed to be full.
const FULL_FOR: Duration = Duration::from_secs(5);

/// What all tasks of a store have in common.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) options: Options,
    pub(crate) names: Names,
    pub(crate) clock: Clock,
    /// Connections end with these.
    pub(crate) connections: Tasks,
    pub(crate) incarnation: Incarnation,
    /// Names this store among all that open the schema.
    pub(crate) life: Uuid,
    pub(crate) mirror: Mutex<Mirror>,
    pub(crate) segments: Mutex<Segments>,
    pub(crate) pool: Pool,
    pub(crate) counters: Counters,
    pub(crate) health: Mutex<Health>,
    /// When the database last said that its disk is full.
    full_at: Mutex<Option<Instant>>,
    /// Whether it was said that standbys lag.
    pub(crate) standbys_lag: AtomicBool,
    queue: Mutex<Inbox>,
    pub(crate) arrived: Notify,
    pub(crate) housekeeping: Notify,
}

struct Inbox {
    queue: Queue,
    closed: bool,
}

impl Shared {
    /// Opens a session with the same database as at the start, fit to write to.
    pub(crate) async fn connect(&self) -> Result<Connection, StorageError> {
        let opened = Connection::open(&self.config, &self.connections).await;
        let connection = opened.map_err(|error| error.into_error("cannot connect to the database"))?;
        let incarnation = server::check(&connection).await?;
        if incarnation != self.incarnation {
            self.close(format!(
                "the database is another one than at the start, or was restored or promoted, and may have lost what was \
                 acknowledged; restart the broker to go on from what it has: was {:?}, is {incarnation:?}",
                self.incarnation
            ));
            return Err(closed());
        }
        Ok(connection)
    }

    /// The database has, or has not, refused something for want of space. Said once each, however many are refused.
    pub(crate) fn note_full(&self, full: bool) {
        let now = full.then(|| self.clock.now());
        let before = std::mem::replace(&mut *self.full_at.lock(), now);
        match (before, now) {
            (None, Some(_)) => tracing::error!(
                "the disk of the database is full: nothing is stored, trimmed or committed until there is room; free \
                 some there, or give it more, and this goes on by itself"
            ),
            (Some(_), None) => tracing::info!("the disk of the database has room again"),
            _ => {}
        }
    }

    /// Stops for good: nothing is acknowledged any more.
    pub(crate) fn close(&self, why: String) {
        let mut health = self.health.lock();
        if health.stopped.is_none() {
            tracing::error!("the store stops taking writes: {why}");
            health.stopped = Some(why);
        }
        drop(health);
        let mut inbox = self.queue.lock();
        inbox.closed = true;
        let waiting = inbox.queue.take_older(None);
        drop(inbox);
        waiting.into_iter().for_each(|work| work.refuse(closed()));
        self.arrived.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    /// Whether a writer has nothing left to do.
    pub(crate) fn is_finished(&self) -> bool {
        let inbox = self.queue.lock();
        inbox.closed && inbox.queue.is_empty()
    }

    pub(crate) fn take_round(&self) -> Option<Round> {
        self.queue.lock().queue.take_round(&self.options)
    }

    pub(crate) fn end_round(&self, logs: &std::collections::HashSet<LogId>) {
        self.queue.lock().queue.done(logs);
        self.arrived.notify_waiters();
    }

    /// Refuses what has waited for longer than the store has patience.
    pub(crate) fn refuse_old(&self, why: &StorageError) {
        let Some(since) = self.clock.now().checked_sub(self.options.patience) else { return };
        let old = self.queue.lock().queue.take_older(Some(since));
        for work in old {
            work.refuse(StorageError::new(ErrorKind::Unavailable, format!("the database is away: {why}")));
        }
    }

    fn enqueue(&self, work: Vec<Work>) {
        let refused = {
            let mut inbox = self.queue.lock();
            if inbox.closed {
                Some((work, closed()))
            } else {
                let pushed = inbox.queue.push(work, self.options.queue_bytes_max, self.clock.now());
                pushed.err().map(|work| (work, too_busy()))
            }
        };
        match refused {
            None => self.arrived.notify_one(),
            Some((work, error)) => work.into_iter().for_each(|work| work.refuse(error.clone())),
        }
    }
}

/// Logs in a PostgreSQL database. Dropping it without [`PostgresStore::stop`] leaves the database as a killed process
/// would.
pub struct PostgresStore {
    shared: Arc<Shared>,
    /// Of the table of metadata, once that was asked for.
    metadata: Mutex<Option<Arc<meta::Inbox>>>,
    writers: Tasks,
    others: Tasks,
}

impl PostgresStore {
    /// Connects, checks the server, creates what is missing and starts the writers. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` with what to change for a server that cannot be trusted; `Unavailable` for one that cannot be
    /// reached, or whose schema another broker has; `Corrupt` for a schema of another format.
    pub async fn open(config: Config, options: Options, clock: Clock) -> Result<PostgresStore, StorageError> {
        let names = Names::new(&options.schema)?;
        let (writers, others, connections) = (Tasks::new(), Tasks::new(), Tasks::new());
        let life = Uuid::from_u128(Rng::from_os().next_u128());
        let opened = housekeeping::open(&config, &options, &names, (&clock, life), &connections).await?;
        let shared = Arc::new(Shared {
            config,
            names,
            clock,
            connections,
            incarnation: opened.incarnation,
            life,
            mirror: Mutex::new(Mirror::new(options.tail_bytes, options.exclusive)),
            segments: Mutex::new(opened.segments),
            pool: Pool::new(options.read_connections),
            counters: Counters::default(),
            health: Mutex::default(),
            full_at: Mutex::default(),
            standbys_lag: AtomicBool::new(false),
            queue: Mutex::new(Inbox { queue: Queue::default(), closed: false }),
            arrived: Notify::new(),
            housekeeping: Notify::new(),
            options,
        });
        for _ in 0..shared.options.append_connections {
            writers.spawn(TaskKind::Owner, "postgres writer", Writer::new(shared.clone()).run());
        }
        let keeper = housekeeping::run(shared.clone(), opened.connection, others.clone());
        others.spawn(TaskKind::Background, "postgres housekeeping", keeper);
        Ok(PostgresStore { shared, metadata: Mutex::default(), writers, others })
    }

    /// The table of metadata, which is made if it is not there; `rng` names this process to it. Asked for again, it is
    /// the same.
    ///
    /// # Errors
    /// `Unavailable` if the database is, or does not let the tables be made.
    pub async fn metadata(&self, rng: &Rng) -> Result<PostgresMeta, StorageError> {
        meta::create(&self.shared.connect().await?, &self.shared.names).await?;
        let mut metadata = self.metadata.lock();
        let inbox = metadata.get_or_insert_with(|| {
            let inbox = Arc::new(meta::Inbox::default());
            let writer = Uuid::from_u128(rng.next_u128());
            let run = meta::run(self.shared.clone(), inbox.clone(), writer);
            self.writers.spawn(TaskKind::Owner, "postgres metadata", run);
            inbox
        });
        Ok(PostgresMeta::new(self.shared.clone(), inbox.clone()))
    }

    /// Opens a session with the outbox, whose tables and functions are made if they are not there. For one relay at a time.
    ///
    /// # Errors
    /// `Unavailable` if the database is, or does not let them be made.
    pub async fn outbox(&self) -> Result<Outbox, StorageError> {
        Outbox::open(self.shared.clone()).await
    }

    /// Finishes what was accepted and ends all sessions.
    ///
    /// # Errors
    /// `Unavailable` if the database did not let it finish within `patience`; what was not finished may or may not have
    /// happened.
    pub async fn stop(&self, patience: Duration) -> Result<(), StorageError> {
        self.close();
        let ended = self.writers.stop_and_wait(patience).await;
        self.others.stop_and_wait(patience).await;
        self.shared.pool.close();
        self.shared.connections.stop();
        if ended {
            Ok(())
        } else {
            Err(StorageError::new(ErrorKind::Unavailable, "the database did not finish what was begun"))
        }
    }

    /// Takes nothing more; what was accepted is still done.
    fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.arrived.notify_waiters();
        self.metadata.lock().iter().for_each(|inbox| inbox.close());
    }

    /// How the store is.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = self.shared.health.lock().clone();
        // Only a round tells that there is room again, and those who would make one may wait for this to end.
        let full_at = *self.shared.full_at.lock();
        health.full = full_at.is_some_and(|at| self.shared.clock.now().duration_since(at) < FULL_FOR);
        health
    }

    /// What the store counted since its start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
        self.writers.stop();
        self.others.stop();
    }
}

fn lost_reply() -> StorageError {
    StorageError::new(ErrorKind::Unknown, "the store ended before it answered")
}

impl LogStore for PostgresStore {
    fn atomic_multi_log(&self) -> bool {
        true
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        if let Err(error) = validate::check_claim(&logs) {
            return Box::pin(std::future::ready(Err(error)));
        }
        if logs.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let (reply, receiver) = oneshot::channel();
        self.shared.enqueue(vec![Work::Claim { logs, owner, reply }]);
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(lost_reply())) })
    }

    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        let count = groups.len();
        if count == 0 {
            return Box::pin(async { Vec::new() });
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = Ticket::new(count, sender);
        let mut work = Vec::with_capacity(count);
        let max = self.shared.options.atomic_group_bytes_max;
        for (index, ops) in groups.into_iter().enumerate() {
            let bytes = group_bytes(&ops);
            let checked = validate::check_group(&ops, true);
            if let Err(error) = checked {
                ticket.set(index, Err(error));
            } else if bytes > max {
                let what = format!("an atomic group of {bytes} bytes exceeds the limit of {max}");
                ticket.set(index, Err(StorageError::new(ErrorKind::LimitExceeded, what)));
            } else {
                work.push(Work::Group { ops, ticket: ticket.clone(), index });
            }
        }
        if !work.is_empty() {
            self.shared.enqueue(work);
        }
        Box::pin(async move {
            let lost = |_| (0..count).map(|_| Err(lost_reply())).collect();
            receiver.await.unwrap_or_else(lost)
        })
    }

    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max_bytes: usize,
    ) -> Pending<Result<Read, StorageError>> {
        Box::pin(crate::read::read(self.shared.clone(), log, from, until, max_bytes))
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        Box::pin(crate::read::headers(self.shared.clone(), log, from, max, prefix))
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        Box::pin(crate::read::find::find(self.shared.clone(), log, what))
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        if let Some(stat) = self.shared.mirror.lock().stat(log) {
            return Box::pin(std::future::ready(Ok(stat)));
        }
        Box::pin(crate::read::stat(self.shared.clone(), log))
    }

    fn epochs(&self, logs: Vec<LogId>) -> Pending<Result<Vec<Option<Epoch>>, StorageError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let reader = shared.pool.reader(&shared).await?;
            let found = rows(&reader, &shared.names, &logs).await;
            let found = found.map_err(|failed| failed.into_error("cannot read epochs"))?;
            let epoch = |log| found.get(log).filter(|row| !row.deleted).map(|row| row.epoch);
            Ok(logs.iter().map(epoch).collect())
        })
    }
}
