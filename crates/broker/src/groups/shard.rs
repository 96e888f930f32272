//! The task that owns a shard: its mailbox, its coordinator and its log.
//!
//! ```text
//!   mailbox ─▶ operation ─▶ records ─┬─▶ flush ─▶ commit ─▶ commit ─▶ durable ─▶ answers
//!   deadlines ─▶ tick ───────────────┘           (several in flight, in order)
//! ```
//! **Invariants.**
//! - An answer is released when every record emitted before it is durable, and in that order.
//! - What waits while commits are in flight goes out in the next one: one commit serves many operations.
//! - Every message is answered or its caller sees the answer's sender dropped; a caller that has gone away is
//!   noticed only when its answer is sent, and costs nothing but that.
//! - A failed or unknown append ends the state (see [`super`]); a fence ends the shard.
//!
//! Deliberately absent: what operations mean (`coordinator`), how records are laid out (`batch`).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferrymq_runtime::{ByteBudget, Clock, Mailbox, Rng, Tasks};
use ferrymq_storage::{ErrorKind, LogStore};
use ferrymq_types::{LogId, OwnerId};

use super::config::GroupsConfig;
use super::load::{LoadError, Loaded, load};
use super::message::Message;
use super::serving::{Failure, Serving};
use super::types::GroupError;

/// Messages taken from the mailbox before the deadlines and the flush get their turn.
const MESSAGES_PER_TURN: usize = 1024;

/// What a shard is made of.
pub(super) struct Shard {
    pub(super) log: LogId,
    pub(super) owner: OwnerId,
    pub(super) store: Arc<dyn LogStore>,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) tasks: Tasks,
    pub(super) config: Arc<GroupsConfig>,
    /// Room for the members of all shards' groups.
    pub(super) room: ByteBudget,
    /// Set when the store says that the log is another's.
    pub(super) lost: Arc<AtomicBool>,
    pub(super) mailbox: Mailbox<Message>,
}

/// Why a shard no longer serves the state it had.
enum End {
    /// Nobody can ask any more, or the process is stopping.
    Stopped,
    /// Claim the log again and replay it.
    Reload,
    /// Answer everything with this from now on.
    Refuse(GroupError),
}

/// The task.
pub(super) async fn run(mut shard: Shard) {
    // Failures since the last durable append; the pause before a replay grows with them.
    let mut failures = 0u32;
    loop {
        let end = match shard.load(failures).await {
            Ok(loaded) => shard.serve(loaded, &mut failures).await,
            Err(end) => end,
        };
        match end {
            End::Stopped => return,
            End::Reload => failures = failures.saturating_add(1),
            End::Refuse(error) => {
                shard.lost.store(error == GroupError::NotCoordinator, Ordering::Release);
                shard.refusing(&error, std::future::pending::<()>()).await;
                return;
            }
        }
    }
}

impl Shard {
    /// Runs `work` to its end while every message is refused; `None` if the shard is to stop.
    async fn refusing<T>(&mut self, error: &GroupError, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut stopping = std::pin::pin!(self.tasks.stopping());
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => return None,
                done = &mut work => return Some(done),
                message = self.mailbox.recv() => message?.0.refuse(error),
            }
        }
    }

    async fn load(&mut self, failures: u32) -> Result<Loaded, End> {
        let pause_ms = if failures == 0 { 0 } else { self.config.retry_pause_ms << (failures - 1).min(5) };
        let (store, log, owner) = (Arc::clone(&self.store), self.log, self.owner);
        let (clock, config, room) = (self.clock.clone(), Arc::clone(&self.config), self.room.clone());
        let work = async move {
            if pause_ms > 0 {
                clock.sleep(Duration::from_millis(pause_ms)).await;
            }
            load(store, log, owner, config, room).await
        };
        match self.refusing(&GroupError::CoordinatorLoading, work).await {
            None => Err(End::Stopped),
            Some(Ok(loaded)) => Ok(loaded),
            Some(Err(error)) if error.is_passing() => {
                tracing::warn!(log = %self.log, %error, "a groups log could not be loaded; trying again");
                Err(End::Reload)
            }
            Some(Err(error)) => Err(self.give_up(&error)),
        }
    }

    fn give_up(&self, error: &LoadError) -> End {
        tracing::error!(log = %self.log, %error, "a groups log cannot be served; its groups are unavailable");
        End::Refuse(GroupError::CoordinatorNotAvailable)
    }

    async fn serve(&mut self, loaded: Loaded, failures: &mut u32) -> End {
        let mut serving =
            Serving::new(self.log, self.owner, Arc::clone(&self.store), self.rng.clone(), loaded);
        serving.loaded(self.clock_now());
        let mut stopping = std::pin::pin!(self.tasks.stopping());
        loop {
            self.take_turn(&mut serving);
            // What waits in the mailbox may be signs of life: no session ends while it cannot be read.
            if serving.has_room() {
                serving.tick(self.clock_now());
            }
            serving.flush(self.clock_now());
            let wake = serving.next_deadline();
            tokio::select! {
                biased;
                () = &mut stopping => {
                    serving.drain(self.clock_now()).await;
                    return End::Stopped;
                }
                done = serving.first_done() => match serving.settle(done) {
                    Ok(()) => *failures = 0,
                    Err(failure) => return self.on_failure(serving, &failure),
                },
                message = self.mailbox.recv(), if serving.has_room() => match message {
                    None => {
                        serving.drain(self.clock_now()).await;
                        return End::Stopped;
                    }
                    Some((message, permit)) => serving.handle(self.clock_now(), message, permit),
                },
                () = sleep_until(&self.clock, wake), if serving.has_room() => {}
            }
        }
    }

    /// Handles what waits in the mailbox, as far as there is room.
    fn take_turn(&mut self, serving: &mut Serving) {
        let now = self.clock_now();
        for _ in 0..MESSAGES_PER_TURN {
            if !serving.has_room() {
                return;
            }
            let Some((message, permit)) = self.mailbox.try_recv() else { return };
            serving.handle(now, message, permit);
        }
    }

    fn on_failure(&self, serving: Serving, failure: &Failure) -> End {
        serving.fail(&GroupError::NotCoordinator);
        let error = &failure.0;
        match error.kind() {
            ErrorKind::Fenced => {
                tracing::warn!(log = %self.log, %error, "a groups log has a new owner");
                End::Refuse(GroupError::NotCoordinator)
            }
            ErrorKind::Closed => {
                tracing::warn!(log = %self.log, %error, "the store of a groups log has stopped");
                End::Refuse(GroupError::CoordinatorNotAvailable)
            }
            _ => {
                tracing::warn!(log = %self.log, %error, "an append to a groups log failed; loading it again");
                End::Reload
            }
        }
    }

    fn clock_now(&self) -> super::coordinator::Now {
        let mono_ms = u64::try_from(self.clock.uptime().as_millis()).unwrap_or(u64::MAX);
        let (wall_ms, expiry_ms) = (self.clock.wall_ms(), self.clock.expiry_ms());
        super::coordinator::Now { mono_ms, wall_ms, expiry_ms }
    }
}

/// Sleeps until the clock's uptime is `deadline_ms`; for ever without one.
async fn sleep_until(clock: &Clock, deadline_ms: Option<u64>) {
    let Some(deadline_ms) = deadline_ms else { return std::future::pending().await };
    let left = Duration::from_millis(deadline_ms).saturating_sub(clock.uptime());
    clock.sleep_until(clock.now() + left).await;
}
