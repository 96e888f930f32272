//! The relay: reads ticks of the outbox and publishes them, page by page.
//!
//! ```text
//!  life: claim the relay's log ─▶ last note ─▶ session with the outbox ─▶ tick ─▶ page ─▶ relay ─▶ page ... ─▶ tick
//!    ▲                                                                                │
//!    └──────────────────────── pause ◀── any error but one message's own ◀────────────┘
//! ```
//! **Invariants.** One page at a time. After an error nothing is believed but the last note, read from a log that was claimed
//! anew. A page that is refused for one of its messages is tried in halves; what is left alone and still refused is kept
//! apart before it is passed over.
//!
//! Deliberately absent: parallel relays. One commit carries a thousand messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferrymq_broker::queues::{QueueError, Queues, RelayLog, Relayed};
use ferrymq_engine_postgres::PostgresStore;
use ferrymq_engine_postgres::outbox::{Outbox, Page, Published, Tick};
use ferrymq_runtime::{Clock, TaskKind, Tasks};
use ferrymq_storage::{ErrorKind, StorageError};
use tokio::time::Instant;

use crate::message::{Becomes, Targets};
use crate::note::Note;

/// Bytes of a page, about.
const BYTES_MAX: i64 = 4 << 20;
/// Between two looks while nothing is published. One look is one small statement.
const POLL: Duration = Duration::from_millis(20);
/// The same after nothing was published for a while.
const POLL_IDLE: Duration = Duration::from_millis(100);
/// How long that while is.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// Before another life, after an error.
const PAUSE: Duration = Duration::from_millis(500);

/// How it relays.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rows of a page at most.
    pub rows_max: usize,
    /// How often the tables are turned while there is something to empty.
    pub turn: Duration,
    /// Rows after which they are turned at once.
    pub turn_rows: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { rows_max: 1_000, turn: Duration::from_secs(30), turn_rows: 200_000 }
    }
}

/// What was relayed since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows that were published.
    pub relayed: AtomicU64,
    /// Rows that nobody was bound for.
    pub dropped: AtomicU64,
    /// Rows that are kept in `undelivered`.
    pub undelivered: AtomicU64,
    /// How long the last relayed row waited between its `publish` and its commit here, in milliseconds.
    pub lag_ms: AtomicU64,
    /// Commits that carried rows.
    pub pages: AtomicU64,
    /// 1 while nothing is relayed because something failed; the log says what.
    pub waits: AtomicU64,
}

/// What relays.
pub struct Relay {
    store: Arc<PostgresStore>,
    targets: Targets,
    options: Options,
    queues: Arc<Queues>,
    clock: Clock,
    tasks: Tasks,
    counters: Arc<Counters>,
}

/// Why a life ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error("{0}")]
    Queue(#[from] QueueError),
    /// The outbox came from another server: what its numbers of transactions mean here, nobody knows.
    #[error(
        "the outbox was relayed from another server: system_identifier was {was}, is {is}. This database is a copy; whether \
         the other one goes on relaying, nobody here can know. SELECT {schema}.outbox_adopt() keeps what waits in \
         the table undelivered ({schema}.publish_again(id) publishes a row anew) and goes on from now."
    )]
    Copied { was: i64, is: i64, schema: String },
}

/// One life: what it claimed, and how far it is.
struct Life<'a> {
    relay: &'a Relay,
    log: RelayLog,
    outbox: Outbox,
    note: Note,
    /// Rows of the next page; fewer after one was refused.
    at_most: usize,
    /// Rows since the tables were turned, and when that was.
    turned: (u64, Instant),
    /// When there was something to relay.
    busy: Instant,
}

impl Relay {
    /// Starts it; it ends with `tasks`.
    pub fn start(
        store: Arc<PostgresStore>,
        targets: Targets,
        options: Options,
        clock: Clock,
        tasks: &Tasks,
    ) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        let queues = targets.queues.clone();
        let relay = Relay {
            store,
            targets,
            options,
            queues,
            clock,
            tasks: tasks.clone(),
            counters: counters.clone(),
        };
        // What it does is whole or not at all: a panic of it may not take the broker along.
        tasks.spawn(TaskKind::Background, "outbox relay", relay.run());
        counters
    }

    async fn run(self) {
        let mut told = String::new();
        let stopping = self.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            let end = tokio::select! {
                end = self.live() => end,
                () = &mut stopping => return,
            };
            self.counters.waits.store(1, Ordering::Relaxed);
            let text = end.to_string();
            if text != told {
                tracing::warn!("the outbox waits: {text}");
                told = text;
            }
            tokio::select! {
                () = self.clock.sleep(PAUSE) => {}
                () = &mut stopping => return,
            }
        }
    }

    /// Relays until something fails.
    async fn live(&self) -> End {
        let mut life = match self.begin().await {
            Ok(life) => life,
            Err(end) => return end,
        };
        tracing::debug!(note = ?life.note, "the outbox is relayed");
        loop {
            if let Err(end) = life.step().await {
                return end;
            }
            self.counters.waits.store(0, Ordering::Relaxed);
        }
    }

    async fn begin(&self) -> Result<Life<'_>, End> {
        let (log, note) = self.queues.claim_relay().await?;
        let outbox = self.store.outbox().await?;
        let (origin, is) = (outbox.origin().await?, outbox.system_id());
        let note = note.map(|note| Note::decode(&note)).transpose()?;
        let note = match note {
            Some(note) if note.system_id == is => note,
            _ if origin.system_id == is => Note::at(is, origin.since),
            note => {
                let was = note.map_or(origin.system_id, |note| note.system_id);
                return Err(End::Copied { was, is, schema: outbox.schema().to_owned() });
            }
        };
        let now = self.clock.now();
        Ok(Life {
            relay: self,
            log,
            outbox,
            note,
            at_most: self.options.rows_max,
            turned: (0, now),
            busy: now,
        })
    }
}

impl Life<'_> {
    /// Looks for what was published, or goes on with a tick.
    async fn step(&mut self) -> Result<(), End> {
        let (to, after) = match self.note.to.clone() {
            Some(to) => (to, self.note.after),
            None => match self.next_tick().await? {
                Some(tick) => tick,
                None => return self.rest().await,
            },
        };
        let tick = Tick { from: &self.note.from, to: &to };
        let page = self.outbox.page(tick, after, self.at_most, BYTES_MAX).await?;
        self.busy = self.relay.clock.now();
        self.publish(page, &to, after).await
    }

    /// The end of the next tick and the id before its first; `None`: nothing was published.
    async fn next_tick(&mut self) -> Result<Option<(String, i64)>, StorageError> {
        let to = self.outbox.now().await?;
        if to == self.note.from {
            return Ok(None);
        }
        match self.outbox.first(Tick { from: &self.note.from, to: &to }).await? {
            Some(first) => Ok(Some((to, first - 1))),
            None => {
                // Not noted: whoever looks again from an earlier snapshot finds nothing, too.
                self.note.from = to;
                Ok(None)
            }
        }
    }

    /// Publishes a page and notes it.
    async fn publish(&mut self, page: Page, to: &str, after: i64) -> Result<(), End> {
        let Page { rows, more } = page;
        let last = rows.last().map_or(after, |row| row.id);
        let note = match more {
            true => self.note.within(to, last),
            false => Note::at(self.note.system_id, to.to_owned()),
        };
        let (count, at_ms, only) = (rows.len() as u64, rows.last().map(|row| row.at_ms), only(&rows));
        let (relayed, others) = self.sort(rows).await?;
        let published = relayed.len() as u64;
        let done = self.relay.queues.relay(&mut self.log, relayed, note.encode()?).await;
        match (done, only) {
            (Ok(()), _) => self.at_most = self.relay.options.rows_max.min(self.at_most * 2),
            (Err(error), Some(id)) if is_its_own_fault(&error) => {
                return self.pass_over(id, &error.to_string(), note).await;
            }
            (Err(error), None) if is_its_own_fault(&error) => {
                // Nothing happened; the log is where it was.
                self.at_most = (self.at_most.min(usize::try_from(count).unwrap_or(1)) / 2).max(1);
                return self.claim_again().await;
            }
            (Err(error), _) => return Err(error.into()),
        }
        self.note = note;
        self.count(published, others, at_ms);
        self.turned.0 += count;
        self.turn().await
    }

    /// What rows become; how many go nowhere.
    async fn sort(&self, rows: Vec<Published>) -> Result<(Vec<Relayed>, u64), StorageError> {
        let (mut relayed, mut dropped) = (Vec::with_capacity(rows.len()), 0);
        for row in rows {
            let id = row.id;
            match self.relay.targets.becomes(row).await? {
                Becomes::This(this) => relayed.push(this),
                Becomes::Nothing => dropped += 1,
                Becomes::Unfit(why) => self.set_aside(id, &why).await?,
            }
        }
        Ok((relayed, dropped))
    }

    async fn set_aside(&self, id: i64, why: &str) -> Result<(), StorageError> {
        if self.outbox.set_aside(id, why).await? {
            self.relay.counters.undelivered.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(id, "what was published is kept in the table undelivered: {why}");
        }
        Ok(())
    }

    /// Keeps the only row of a page apart, and goes on behind it.
    async fn pass_over(&mut self, id: i64, why: &str, note: Note) -> Result<(), End> {
        self.set_aside(id, why).await?;
        self.claim_again().await?;
        self.relay.queues.relay(&mut self.log, Vec::new(), note.encode()?).await?;
        self.note = note;
        Ok(())
    }

    /// After a refusal: of that nothing happened, the log is to say so.
    async fn claim_again(&mut self) -> Result<(), End> {
        let (log, _) = self.relay.queues.claim_relay().await?;
        self.log = log;
        Ok(())
    }

    fn count(&self, relayed: u64, dropped: u64, at_ms: Option<i64>) {
        let counters = &self.relay.counters;
        counters.relayed.fetch_add(relayed, Ordering::Relaxed);
        counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        counters.pages.fetch_add(1, Ordering::Relaxed);
        if let Some(at_ms) = at_ms {
            let lag_ms = self.relay.clock.wall_ms().saturating_sub(at_ms);
            counters.lag_ms.store(u64::try_from(lag_ms).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Nothing to do: tables are emptied, then time passes.
    async fn rest(&mut self) -> Result<(), End> {
        self.turn().await?;
        let now = self.relay.clock.now();
        let is_idle = now.duration_since(self.busy) > IDLE_AFTER;
        self.relay.clock.sleep(if is_idle { POLL_IDLE } else { POLL }).await;
        Ok(())
    }

    /// Turns the tables if it is time, and empties those that are done with.
    async fn turn(&mut self) -> Result<(), End> {
        let (rows, since) = self.turned;
        let now = self.relay.clock.now();
        let Options { turn, turn_rows, .. } = self.relay.options;
        if rows == 0 || rows < turn_rows && now.duration_since(since) < turn {
            return Ok(());
        }
        let left = self.outbox.empty(&self.note.from).await?;
        let turned = self.outbox.turn().await?;
        self.turned = (u64::from(left || turned), now);
        Ok(())
    }
}

/// The id of the only row.
fn only(rows: &[Published]) -> Option<i64> {
    match rows {
        [row] => Some(row.id),
        _ => None,
    }
}

/// Whether an error is a message's own, and not the store's or the moment's.
fn is_its_own_fault(error: &QueueError) -> bool {
    match error {
        QueueError::Full { .. } | QueueError::Limit { .. } => true,
        QueueError::Storage(error) => error.kind() == ErrorKind::LimitExceeded,
        _ => false,
    }
}
