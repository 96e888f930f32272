//! The owner of some queues: one task that alone appends to their logs, hands out their messages and takes acks.
//!
//! ```text
//!  mailbox (bounded in bytes) ─▶ message: gather, settle, consume ─▶ turn's end: dispatch, flush
//!                                                                          │         │
//!  store ◀── commit: a batch per queue, trims, one batch of ack deltas ────│─────────┘
//!    └──── durable ─▶ visible, confirmed ─▶ dispatch ─▶ sinks ◀────────────┘
//! ```
//! **Invariants.**
//! - A message is visible, confirmed and delivered only once it is durable for its class.
//! - What waits while commits are in flight goes out in the next one, in one batch per queue.
//! - No message of the mailbox waits for a client; a sink without room wakes the shard when it has some.
//! - After an outcome that is unknown, or a fence, the shard takes nothing more: it says so to everybody, and a
//!   restart reads what is there.
//! - One timer for all its queues, and none if nothing can expire.
//!
//! Deliberately absent: the topology, and deleting logs and queues (the admin's).

mod ages;
pub(super) mod barriers;
mod commit;
mod configure;
mod consumers;
mod discard;
mod dispatch;
mod expiry;
mod follow;
pub(super) mod joint;
pub(super) mod journal;
mod lanes;
mod levels;
mod limits;
pub(super) mod message;
mod queue;
mod ready;
mod refused;
mod requests;
mod returns;
mod serve;
mod timers;
mod unsettled;
mod waiting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ferrymq_runtime::{Clock, Mailbox, MailboxSender, TaskKind, Tasks, mailbox};
use ferrymq_storage::{LogStore, Pending, StorageError};
use ferrymq_types::{LogId, OwnerId};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};

use ages::Ages;
use barriers::Barriers;
use commit::Lanes;
use dispatch::ReadDone;
use expiry::Heads;
use joint::Joints;
use journal::Journal;
use levels::Shelf;
use message::{Refused, ShardMessage, ShardWaker};
use queue::OffsetHasher;
use ready::ReadyBudget;
use requests::Requests;
use timers::Timers;
use tokio::sync::{mpsc, watch};

use super::handle::{QueueOptions, Queues};
use super::tally::Tally;
use super::types::QueueHandle;
use crate::watch::Watcher;

/// Messages taken from the mailbox before deliveries and commits get their turn.
const MESSAGES_PER_TURN: usize = 1024;

/// What a shard works with.
pub(super) struct ShardContext {
    pub(super) store: Arc<dyn LogStore>,
    pub(super) clock: Clock,
    pub(super) owner: OwnerId,
    pub(super) writer: u64,
    pub(super) tasks: Tasks,
    /// Whether every queue is here. Before, nothing may be said of the queues as a whole: no rewrite of the state
    /// log, no clean stop.
    pub(super) opened: Arc<AtomicBool>,
    /// Where dead letters are routed; there once everything is opened.
    pub(super) queues: watch::Receiver<Weak<Queues>>,
    /// Who is to be told of queues that nobody uses.
    pub(super) unused: mpsc::Sender<QueueHandle>,
    pub(super) tally: Arc<Tally>,
}

/// Something that finished.
enum Done {
    Commit(commit::Committed),
    Read(ReadDone),
    Joint(joint::Told),
    Moved(QueueHandle),
    Buried(u64),
    Scanned(lanes::Scanned),
    Measured(configure::Measured),
}

type ByLog<T> = HashMap<LogId, T, BuildHasherDefault<OffsetHasher>>;

/// The task's state.
struct Owner {
    context: ShardContext,
    index: usize,
    /// How long a delivery of a queue that says nothing of it may be unsettled.
    timeout_ms: Option<u64>,
    /// Of how many messages of a lane it is known in memory when they are due.
    delays_max: usize,
    budget: ReadyBudget,
    queues: Shelf,
    /// Let go of, with something in flight.
    leaving: Shelf,
    sessions: HashMap<u64, HashSet<LogId>>,
    requests: Requests,
    journal: Journal,
    joints: Joints,
    done: FuturesUnordered<Pending<Done>>,
    lanes: Lanes,
    /// Queues that have messages gathered.
    gathering: Vec<LogId>,
    /// Queues that may have something to deliver.
    runnable: VecDeque<LogId>,
    /// Queues with consumers that wait for room.
    blocked: Vec<LogId>,
    /// Queues with acks that are not durable.
    owing: Vec<LogId>,
    /// Whether those are to be committed without anything else.
    due: bool,
    purges: Vec<commit::Purge>,
    barriers: Barriers,
    waker: ShardWaker,
    /// Told of what happens to partitions that queues here stand over.
    watcher: Arc<Watcher>,
    /// Whether there ever was such a queue here.
    follows: bool,
    stopped: Option<StorageError>,
    /// What is recorded now ends with the mark of a clean stop.
    closing: bool,
    scratch: Vec<u8>,
    ages: Ages,
    timers: Timers,
    heads: Heads,
}

/// Starts shard `index`.
pub(super) fn start(
    index: usize,
    context: ShardContext,
    journal: Journal,
    options: &QueueOptions,
) -> MailboxSender<ShardMessage> {
    let (sender, receiver) = mailbox(options.mailbox_bytes);
    let (tasks, ages) = (context.tasks.clone(), Ages::new(context.clock.clone()));
    let owner = Owner {
        context,
        index,
        timeout_ms: options.consumer_timeout_ms,
        delays_max: options.delays_in_memory,
        budget: ReadyBudget::new(options.ready_bytes),
        queues: Shelf::default(),
        leaving: Shelf::default(),
        sessions: HashMap::new(),
        requests: Requests::default(),
        journal,
        joints: Joints::default(),
        done: FuturesUnordered::new(),
        lanes: Lanes::default(),
        gathering: Vec::new(),
        runnable: VecDeque::new(),
        blocked: Vec::new(),
        owing: Vec::new(),
        due: false,
        purges: Vec::new(),
        barriers: Barriers::default(),
        waker: Arc::default(),
        watcher: Watcher::new(),
        follows: false,
        stopped: None,
        closing: false,
        scratch: Vec::new(),
        ages,
        timers: Timers::default(),
        heads: Heads::default(),
    };
    tasks.spawn(TaskKind::Owner, "queue shard", owner.run(receiver));
    sender
}

impl Owner {
    /// Runs until nobody can ask any more or the process is stopping, then makes durable what was asked.
    async fn run(mut self, mut mailbox: Mailbox<ShardMessage>) {
        let (waker, clock) = (self.waker.clone(), self.context.clock.clone());
        let watcher = self.watcher.clone();
        let mut stopping = std::pin::pin!(self.context.tasks.stopping());
        loop {
            self.turn(&mut mailbox);
            if !self.runnable.is_empty() {
                // More than one turn's deliveries: others on this thread get theirs in between.
                tokio::task::yield_now().await;
                if self.context.tasks.is_stopping() {
                    break;
                }
                continue;
            }
            let ring = self.next_ring();
            tokio::select! {
                biased;
                () = &mut stopping => break,
                Some(done) = self.done.next() => self.on_done(done),
                message = mailbox.recv() => match message {
                    Some((message, permit)) => self.on_message(message, permit),
                    None => break,
                },
                () = waker.notified() => self.unblock(),
                // The turn follows.
                () = watcher.changed(), if self.follows => {}
                // The turn does what is due.
                () = async { clock.sleep(ring.unwrap_or_default()).await }, if ring.is_some() => {}
            }
        }
        if self.context.opened.load(Ordering::Acquire) {
            self.drain(&mut mailbox).await;
        }
    }

    /// Takes what is there now, delivers, and hands what was gathered to the store.
    fn turn(&mut self, mailbox: &mut Mailbox<ShardMessage>) {
        while let Some(Some(done)) = self.done.next().now_or_never() {
            self.on_done(done);
        }
        // Also when there is always something else to do: a sink with room again is not to starve.
        if self.waker.notified().now_or_never().is_some() {
            self.unblock();
        }
        for _ in 0..MESSAGES_PER_TURN {
            let Some((message, permit)) = mailbox.try_recv() else { break };
            self.on_message(message, permit);
        }
        self.ring();
        if self.follows {
            self.follow_changed();
        }
        for _ in 0..self.runnable.len() {
            let Some(log) = self.runnable.pop_front() else { break };
            self.dispatch(log);
        }
        self.wake_heads();
        self.flush();
    }

    /// Makes durable what was asked so far and marks the stop as clean.
    async fn drain(&mut self, mailbox: &mut Mailbox<ShardMessage>) {
        while let Some((message, permit)) = mailbox.try_recv() {
            self.on_message(message, permit);
        }
        self.settle_everything().await;
        if self.stopped.is_some() {
            return;
        }
        self.closing = true;
        let logs: Vec<LogId> = self.queues.iter().map(|(log, _)| log).collect();
        logs.into_iter().for_each(|log| self.snapshot(log));
        self.journal.clean();
        self.settle_everything().await;
    }

    async fn settle_everything(&mut self) {
        self.due = true;
        loop {
            self.flush();
            match self.done.next().await {
                Some(done) => self.on_done(done),
                None => return,
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Commit(committed) => self.on_committed(committed),
            Done::Read(read) => self.on_read(read),
            Done::Moved(queue) => self.on_moved(&queue),
            Done::Joint(told) => self.on_joint(told),
            Done::Buried(request) => self.on_buried(request),
            Done::Scanned(scanned) => self.on_scanned(scanned),
            Done::Measured(measured) => self.on_measured(measured),
        }
    }

    fn run_soon(&mut self, log: LogId) {
        let log = self.queues.root(log);
        if let Some(queue) = self.queues.get_mut(&log)
            && !std::mem::replace(&mut queue.in_run_list, true)
        {
            self.runnable.push_back(log);
        }
    }

    /// The store can no longer be trusted with what this shard does.
    fn stop(&mut self, error: StorageError) {
        if self.stopped.is_some() {
            return;
        }
        tracing::error!(shard = self.index, %error, "a shard of queues stops: the fate of a write is unknown");
        let requests = &mut self.requests;
        self.queues.for_each(&mut |queue| {
            for part in queue.drop_gathered() {
                requests.fail(part, &super::QueueError::Storage(error.clone()));
            }
            for getter in queue.getters.drain(..) {
                // A caller that went away needs no answer.
                let _ = getter.reply.send(Err(Refused::Storage(error.clone())));
            }
        });
        for (reply, _) in self.purges.drain(..) {
            let _ = reply.send(Err(Refused::Storage(error.clone())));
        }
        self.barriers.fail(&super::QueueError::Storage(error.clone()));
        self.stopped = Some(error);
    }
}
