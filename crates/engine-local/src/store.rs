//! [`LocalStore`]: the writer on a thread of its own, readers around it, behind [`LogStore`].
//!
//! **Invariants.** `commit` and `claim` enqueue before they return. A future that is dropped cancels nothing.
//! After [`LocalStore::stop`] returned, everything accepted is on the disk and the directory may be opened
//! again.
//!
//! Deliberately absent: decisions about data; those are [`Core`]'s.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use ferrymq_disk::Disk;
use ferrymq_runtime::{Clock, Rng, blocking, spawn_thread};
use ferrymq_storage::{
    BatchHead, Claim, ErrorKind, Find, Group, LogStore, Outcome, Pending, Read, Stat, StorageError,
};
use ferrymq_types::{LogId, Offset, OwnerId};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::core::{Core, Done, Submission, Work, closed};
use crate::counters::{Counters, Health};
use crate::mover::{MoveJob, Moved};
use crate::options::Options;
use crate::queue::{Queue, Queued};
use crate::read::describe::{find, headers, stat};
use crate::read::{Mode, Stop, Wanted, into_error, read};
use crate::shared::Shared;

/// The embedded engine. Dropping it without [`LocalStore::stop`] leaves the directory as a killed process
/// would; it waits for the group being written.
pub struct LocalStore {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    writer: Option<JoinHandle<()>>,
}

struct Inbox {
    state: Mutex<InboxState>,
    arrived: Condvar,
}

#[derive(Default)]
struct InboxState {
    queue: Queue,
    /// Nothing more is taken.
    closed: bool,
    /// End without a clean stop.
    abandoned: bool,
    stop_replies: Vec<oneshot::Sender<Result<(), StorageError>>>,
    /// A move has done its copying.
    moved: Option<io::Result<Moved>>,
    /// The writer has ended with this.
    ended: Option<Result<(), StorageError>>,
}

impl LocalStore {
    /// Opens the data directory on `disk`, creating or recovering it, and starts the writer.
    ///
    /// # Errors
    /// See [`Core::open`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        clock: Clock,
        rng: &Rng,
    ) -> Result<LocalStore, StorageError> {
        let core = Core::open(disk, options, clock, rng)?;
        let shared = core.shared.clone();
        let inbox = Arc::new(Inbox { state: Mutex::default(), arrived: Condvar::new() });
        let writer_inbox = inbox.clone();
        let started = spawn_thread("ferrymq-wal", move || write_until_stopped(core, &writer_inbox));
        let failed = |error| StorageError::new(ErrorKind::Closed, "cannot start the writer").caused_by(error);
        Ok(LocalStore { shared, inbox, writer: Some(started.map_err(failed)?) })
    }

    /// Finishes what was accepted, writes a checkpoint and the clean-stop marker, and lets the directory go.
    pub fn stop(&self) -> Pending<Result<(), StorageError>> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.inbox.state.lock();
            state.closed = true;
            match &state.ended {
                Some(ended) => {
                    let ended = ended.clone();
                    return Box::pin(async move { ended });
                }
                None => state.stop_replies.push(sender),
            }
        }
        self.inbox.arrived.notify_all();
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(closed())) })
    }

    /// How the store is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health.lock().clone()
    }

    /// What the store counted since its start.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Enqueues work; `Err` gives it back if there is no room or the store has stopped.
    fn enqueue(&self, work: Vec<Submission>) {
        let refused = {
            let mut state = self.inbox.state.lock();
            let items: Vec<Queued> = work.into_iter().map(Queued::new).collect();
            let bytes: usize = items.iter().map(Queued::bytes).sum();
            let waiting = state.queue.bytes();
            let full = waiting > 0 && waiting.saturating_add(bytes) > self.shared.options.queue_bytes_max;
            if state.closed || full {
                let error = if state.closed { closed() } else { too_busy() };
                Some((items, error))
            } else {
                Counters::add(&self.shared.counters.queue_bytes, bytes as u64);
                for item in items {
                    state.queue.push(item);
                }
                None
            }
        };
        match refused {
            None => {
                self.inbox.arrived.notify_one();
            }
            Some((items, error)) => {
                for item in items {
                    let done = match item.submission.work {
                        Work::Claim { .. } => Done::Claim(Err(error.clone())),
                        Work::Group(_) => Done::Group(Err(error.clone())),
                    };
                    (item.submission.reply)(done);
                }
            }
        }
    }

    fn too_large(&self, group: &Group) -> Option<StorageError> {
        let max = self.shared.options.atomic_group_bytes_max;
        let bytes = crate::queue::group_bytes(group);
        let text = || format!("an atomic group of {bytes} bytes exceeds the limit of {max}");
        (bytes > max).then(|| StorageError::new(ErrorKind::LimitExceeded, text()))
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        {
            let mut state = self.inbox.state.lock();
            state.closed = true;
            state.abandoned = true;
        }
        self.inbox.arrived.notify_all();
        // One group at most is being written; then the directory is free again.
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer's thread panicked");
        }
    }
}

fn too_busy() -> StorageError {
    StorageError::new(ErrorKind::Unavailable, "too much waits to be written")
}

/// The writer's thread.
fn write_until_stopped(mut core: Core, inbox: &Arc<Inbox>) {
    let group_bytes_max = core.shared.options.group_bytes_max;
    let counters = core.shared.counters.clone();
    let mut checkpoint_seen = 0;
    let mut moving = false;
    loop {
        let (round, moved) = {
            let mut state = inbox.state.lock();
            while state.queue.is_empty() && !state.closed && state.moved.is_none() {
                inbox.arrived.wait(&mut state);
            }
            let ends = state.queue.is_empty() || (state.abandoned && state.stop_replies.is_empty());
            if state.closed && ends {
                break;
            }
            let round = state.queue.take_round(group_bytes_max);
            counters.queue_bytes.store(state.queue.bytes() as u64, std::sync::atomic::Ordering::Relaxed);
            (round, state.moved.take())
        };
        if let Some(moved) = moved {
            moving = false;
            if let Err(error) = core.finish_move(moved) {
                tracing::error!(%error, "cannot finish a move");
            }
        }
        core.execute(round);
        // Something new to move comes with a sealed file, and that with a checkpoint.
        if !moving && core.checkpoint != checkpoint_seen {
            checkpoint_seen = core.checkpoint;
            moving = core.plan_move().is_some_and(|job| start_move(job, inbox));
        }
    }
    if moving {
        // Nobody may write into the directory once its lock is gone.
        core.shared.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut state = inbox.state.lock();
        while state.moved.is_none() {
            inbox.arrived.wait(&mut state);
        }
        let moved = state.moved.take();
        drop(state);
        if let Some(Err(error)) = moved.map(|moved| core.finish_move(moved)) {
            tracing::error!(%error, "cannot finish a move");
        }
    }
    let clean = !inbox.state.lock().stop_replies.is_empty();
    let result = if clean { core.stop() } else { Ok(()) };
    // The lock of the directory goes with the writer: whoever waits for the stop may open it again.
    drop(core);
    let failed =
        |error: io::Error| StorageError::new(ErrorKind::Closed, "cannot stop cleanly").caused_by(error);
    let result = result.map_err(failed);
    let mut state = inbox.state.lock();
    state.ended = Some(result.clone());
    for reply in state.stop_replies.drain(..) {
        // Nobody waits any more: fine.
        let _ = reply.send(result.clone());
    }
}

/// Starts a move on a thread of its own; whether it has begun.
fn start_move(job: MoveJob, inbox: &Arc<Inbox>) -> bool {
    let inbox = inbox.clone();
    let started = spawn_thread("ferrymq-mover", move || {
        let moved = job.run();
        inbox.state.lock().moved = Some(moved);
        inbox.arrived.notify_all();
    });
    if let Err(error) = &started {
        tracing::warn!(%error, "cannot start a move");
    }
    started.is_ok()
}

/// Gathers the outcomes of the groups of one commit.
struct Ticket {
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    reply: Option<oneshot::Sender<Vec<Outcome>>>,
}

impl Ticket {
    fn set(&mut self, index: usize, outcome: Outcome) {
        self.outcomes[index] = Some(outcome);
        self.left -= 1;
        if self.left == 0
            && let Some(reply) = self.reply.take()
        {
            let outcomes = self.outcomes.drain(..).map(|outcome| outcome.unwrap_or_else(|| Err(closed())));
            // Nobody waits any more: fine, it is done all the same.
            let _ = reply.send(outcomes.collect());
        }
    }
}

fn lost_reply() -> StorageError {
    StorageError::new(ErrorKind::Unknown, "the store ended before it answered")
}

impl LogStore for LocalStore {
    fn atomic_multi_log(&self) -> bool {
        true
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        let (sender, receiver) = oneshot::channel();
        let reply = Box::new(move |done| {
            if let Done::Claim(result) = done {
                let _ = sender.send(result);
            }
        });
        self.enqueue(vec![Submission { work: Work::Claim { logs, owner }, reply }]);
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(lost_reply())) })
    }

    fn commit(&self, groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        let count = groups.len();
        if count == 0 {
            return Box::pin(async { Vec::new() });
        }
        let (sender, receiver) = oneshot::channel();
        let outcomes = groups.iter().map(|_| None).collect();
        let ticket = Arc::new(Mutex::new(Ticket { outcomes, left: count, reply: Some(sender) }));
        let mut work = Vec::with_capacity(count);
        for (index, group) in groups.into_iter().enumerate() {
            if let Some(error) = self.too_large(&group) {
                ticket.lock().set(index, Err(error));
                continue;
            }
            let ticket = ticket.clone();
            let reply = Box::new(move |done| {
                if let Done::Group(outcome) = done {
                    ticket.lock().set(index, outcome);
                }
            });
            work.push(Submission { work: Work::Group(group), reply });
        }
        self.enqueue(work);
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
        let bytes_max = max_bytes as u64;
        let wanted = Wanted { from: from.0, until: until.0, bytes_max, count_max: usize::MAX };
        run(&self.shared, move |shared, mode| read(shared, log.0, wanted, mode))
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        run(&self.shared, move |shared, mode| headers(shared, log.0, from.0, max, prefix, mode))
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        run(&self.shared, move |shared, mode| find(shared, log.0, what, mode))
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        let stat = stat(&self.shared, log.0);
        Box::pin(async move { stat })
    }
}

/// Answers from memory on the caller's task if that is possible, else on a thread that may wait.
fn run<T, F>(shared: &Arc<Shared>, what: F) -> Pending<Result<T, StorageError>>
where
    T: Send + 'static,
    F: Fn(&Shared, Mode) -> Result<T, Stop> + Send + 'static,
{
    let shared = shared.clone();
    Box::pin(async move {
        match what(&shared, Mode::Cached) {
            Err(Stop::WouldBlock) => {}
            other => return other.map_err(into_error),
        }
        Counters::add(&shared.counters.reads_blocking, 1);
        blocking(move || what(&shared, Mode::Blocking)).await.map_err(into_error)
    })
}
