//! One consumer of a stream: where it stands, and what it is sent.
//!
//! It reads when it may send: it has credit, and its sink has room. At the end of the topic it sleeps on the watches of its
//! partitions. Partitions take turns, a window of records each; partitions that are added are read from their start.
//!
//! **Invariants.** Records of a partition are delivered in order, each once. What was trimmed before it was read is passed
//! over, as Kafka's consumers may. After its end was answered nothing more is sent. Memory: one window, out of a bound
//! that all consumers share; beyond it a record at a time.
//!
//! Deliberately absent: keeping the position; consumers say where they begin.

use std::collections::VecDeque;
use std::sync::Arc;

use ferrymq_runtime::{ByteBudget, BytePermit, blocking};
use ferrymq_storage::{ErrorKind, Find, StorageError};
use ferrymq_types::limits::{
    BATCH_BYTES_MAX, BATCHES_OPEN_AT_ONCE, STREAM_WINDOW_BYTES, STREAM_WINDOWS_BYTES_MAX,
};
use ferrymq_types::{BatchView, Offset};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::window::{self, Opened, Wanted};
use super::{StreamFilter, StreamFrom, StreamPlace, StreamStart, Topics};
use crate::partition::Partition;
use crate::queues::permits::Permit;
use crate::queues::shard::message::Refused;
use crate::queues::sink::{DELIVERY_OVERHEAD, DeliverySink, Event};
use crate::queues::types::{Delivery, QueueHandle};
use crate::topics::Topic;
use crate::watch::{Registration, Watcher};

/// Deliveries are sent at the latest when this many bytes are gathered.
const SEND_BYTES: usize = 64 * 1024;
/// Batches described at a time.
const HEADS_PER_READ: usize = 1024;

/// What all consumers share.
#[derive(Clone)]
pub(super) struct Room {
    windows: ByteBudget,
    opening: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Room {
        let windows = ByteBudget::new(STREAM_WINDOWS_BYTES_MAX);
        Room { windows, opening: Arc::new(Semaphore::new(BATCHES_OPEN_AT_ONCE)) }
    }
}

/// What the desk and the reader share of a consumer.
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Arc<Notify>,
    sink: DeliverySink,
    token: u64,
}

struct State {
    /// `None`: no bound.
    credit: Option<u32>,
    /// Settling makes room.
    window: bool,
    over: bool,
}

impl Shared {
    pub(super) fn new(credit: Option<u32>, window: bool, sink: DeliverySink, token: u64) -> Arc<Shared> {
        let state = Mutex::new(State { credit, window, over: false });
        Arc::new(Shared { state, wake: Arc::default(), sink, token })
    }

    pub(super) fn grant(&self, more: u32) {
        if let Some(credit) = &mut self.state.lock().credit {
            *credit = credit.saturating_add(more);
        }
        self.wake.notify_one();
    }

    pub(super) fn settle(&self, count: u32) {
        if self.state.lock().window {
            self.grant(count);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.lock().over
    }

    /// Nothing more is sent.
    pub(super) fn end(&self) {
        self.state.lock().over = true;
        self.wake.notify_one();
    }

    /// Nothing more is sent but that it has ended.
    pub(super) fn cancel(&self) {
        let mut state = self.state.lock();
        if !state.over {
            state.over = true;
            self.sink.send(Event::Cancelled { token: self.token }, 0);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// How many deliveries it may be sent.
    fn credit(&self) -> usize {
        self.state.lock().credit.map_or(usize::MAX, |credit| credit as usize)
    }

    fn send(&self, deliveries: Vec<Delivery>, bytes: usize) {
        let mut state = self.state.lock();
        if state.over {
            return;
        }
        if let Some(credit) = &mut state.credit {
            *credit = credit.saturating_sub(u32::try_from(deliveries.len()).unwrap_or(u32::MAX));
        }
        self.sink.send(Event::Deliver(deliveries), bytes);
    }
}

/// Which consumer a delivery went to, by what names it.
pub(super) fn consumer_of(delivery: Offset) -> u32 {
    u32::try_from(delivery.0 >> 32).unwrap_or(0)
}

/// A consumer to come.
pub(super) struct Order {
    pub(super) id: u32,
    pub(super) from: StreamFrom,
    pub(super) queue: QueueHandle,
}

/// One partition as the consumer reads it.
struct Part {
    partition: Arc<Partition>,
    next: Offset,
    /// Records before this time are passed over until there is one.
    after_ms: Option<i64>,
    _watch: Arc<Registration>,
}

/// The consumer.
pub(super) struct Reader {
    id: u32,
    queue: QueueHandle,
    start: StreamStart,
    filter: Option<Arc<StreamFilter>>,
    shared: Arc<Shared>,
    topics: Topics,
    room: Room,
    parts: Vec<Part>,
    watcher: Arc<Watcher>,
    changes: watch::Receiver<()>,
    window: VecDeque<Opened>,
    /// The partition that the window is of.
    of: usize,
    held: Option<BytePermit>,
    sent: u32,
}

/// Makes a consumer; it begins where the topic ends now, unless it says otherwise.
pub(super) fn new(order: &Order, topic: &Topic, topics: Topics, shared: Arc<Shared>, room: Room) -> Reader {
    let changes = topics.broker.topics().watch();
    let mut reader = Reader {
        id: order.id,
        queue: order.queue.clone(),
        start: order.from.start,
        filter: order.from.filter.clone().map(Arc::new),
        shared,
        topics,
        room,
        parts: Vec::new(),
        watcher: Watcher::new(),
        changes,
        window: VecDeque::new(),
        of: 0,
        held: None,
        sent: 0,
    };
    topic.partitions.iter().for_each(|partition| reader.add(partition, partition.last_stable_offset()));
    reader
}

impl Drop for Reader {
    fn drop(&mut self) {
        // However it ends, its client learns of it.
        self.shared.cancel();
    }
}

impl Reader {
    /// The topic's name, if the stream has another.
    fn told_topic(&self) -> Option<Arc<str>> {
        let topic = &self.parts.get(self.of)?.partition.topic;
        (topic != self.queue.name()).then(|| topic.clone())
    }

    fn add(&mut self, partition: &Arc<Partition>, next: Offset) {
        let watch = partition.watchers.register(&self.watcher, self.parts.len() as u64);
        self.parts.push(Part { partition: partition.clone(), next, after_ms: None, _watch: watch });
    }

    /// Reads until the consumer ends or its topic goes.
    pub(super) async fn run(mut self, reply: oneshot::Sender<Result<u32, Refused>>) {
        if let Err(error) = self.begin().await {
            // It never began; whoever asked hears it so.
            self.shared.end();
            let _nobody_waits = reply.send(Err(Refused::Storage(error))).is_err();
            return;
        }
        if reply.send(Ok(self.id)).is_err() {
            self.shared.end();
        }
        while !self.shared.is_over() {
            let goes_on = match self.shared.credit() {
                0 => self.wait(false).await,
                _ if self.window.is_empty() => self.fill().await,
                credit => self.send(credit).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Finds where to begin.
    async fn begin(&mut self) -> Result<(), StorageError> {
        for part in &mut self.parts {
            let (start, end) = (part.partition.log_start(), part.next);
            part.next = match self.start {
                StreamStart::Next => end,
                StreamStart::First => start,
                StreamStart::Offset(offset) => Offset(offset).clamp(start, end.max(start)),
                StreamStart::Last => last_batch(&part.partition, end).await?.max(start),
                StreamStart::Time(ms) => match part.partition.find(Find::Timestamp(ms)).await? {
                    Some(head) if head.base < end => {
                        part.after_ms = Some(ms);
                        head.base.max(start)
                    }
                    _ => end,
                },
            };
        }
        Ok(())
    }

    /// Waits until something may be different; `records`: also for these.
    async fn wait(&mut self, records: bool) -> bool {
        tokio::select! {
            () = self.shared.wake.notified() => {}
            () = self.watcher.changed(), if records => {}
            changed = self.changes.changed() => if changed.is_err() { return false },
        }
        self.topics.topic(&self.queue).is_some()
    }

    /// Opens what comes next, or waits for it. False: the topic has gone.
    async fn fill(&mut self) -> bool {
        // Before looking: what changes after it is seen.
        let _which = self.watcher.take_changed();
        self.changes.mark_unchanged();
        let Some(topic) = self.topics.topic(&self.queue) else { return false };
        for partition in topic.partitions.iter().skip(self.parts.len()) {
            self.add(partition, partition.log_start());
        }
        let count = self.parts.len();
        let turns = (1..=count).map(|step| (self.of + step) % count);
        let mut waiting = turns.filter(|at| {
            let part = &self.parts[*at];
            part.next < part.partition.last_stable_offset()
        });
        let Some(at) = waiting.next() else { return self.wait(true).await };
        self.of = at;
        match self.read(at).await {
            Ok(()) => {
                // There may be much that is not wanted.
                tokio::task::yield_now().await;
                true
            }
            Err(error) => {
                tracing::warn!(stream = %self.queue.name(), %error, "a consumer of a stream ends");
                false
            }
        }
    }

    /// Reads a window of a partition.
    async fn read(&mut self, at: usize) -> Result<(), StorageError> {
        self.held = self.room.windows.try_take(STREAM_WINDOW_BYTES);
        let bytes_max = if self.held.is_some() { STREAM_WINDOW_BYTES } else { 1 };
        let part = &mut self.parts[at];
        let (start, until) = (part.partition.log_start(), part.partition.last_stable_offset());
        let from = part.next.max(start);
        if from >= until {
            part.next = from;
            return Ok(());
        }
        let read = match part.partition.read(from, until, bytes_max).await {
            Ok(read) => read,
            Err(error) => match error.kind() {
                ErrorKind::Corrupt { resume } => {
                    tracing::error!(partition = ?part.partition, from = from.0, %error, "records are lost");
                    part.next = resume.max(from.plus(1));
                    return Ok(());
                }
                _ => return Err(error),
            },
        };
        // A gap reaches to what is there.
        part.next = read.next().unwrap_or(until);
        let (mut wanted_from, mut bytes) = (from.0, 0);
        for run in read.runs {
            let mut rest = run.bytes;
            while !rest.is_empty() && (bytes < bytes_max || self.window.is_empty()) {
                let batch = BatchView::split_from(&mut rest).map_err(unreadable)?;
                let wanted = Wanted {
                    from: wanted_from,
                    after_ms: part.after_ms,
                    filter: self.filter.clone(),
                    translate: self.topics.translate.clone(),
                    bytes_max: bytes_max - bytes.min(bytes_max),
                };
                let found = open(&self.room, batch, wanted).await;
                (wanted_from, part.after_ms) = (found.next, found.after_ms);
                bytes += found.bytes;
                self.window.extend(found.records);
                part.next = Offset(found.next);
            }
        }
        Ok(())
    }

    /// Sends of the window what may be sent, or waits for room. False: nobody receives any more.
    async fn send(&mut self, credit: usize) -> bool {
        let room = self.shared.sink.room();
        if room == 0 {
            if self.shared.sink.wake_on_room(&self.shared.wake) {
                return self.wait(false).await;
            }
            return self.shared.sink.room() > 0;
        }
        let (mut deliveries, mut bytes) = (Vec::new(), 0);
        while deliveries.len() < credit && bytes < room.min(SEND_BYTES) {
            let Some(Opened { offset, timestamp_ms, record }) = self.window.pop_front() else { break };
            let partition = u32::try_from(self.of).ok().filter(|_| self.parts.len() > 1);
            let topic = self.told_topic();
            let place = StreamPlace { offset, partition, topic, timestamp_ms };
            let message = self.topics.translate.message(record, place);
            self.sent = self.sent.wrapping_add(1);
            bytes += message.bytes() + DELIVERY_OVERHEAD;
            deliveries.push(Delivery {
                token: self.shared.token,
                offset: Offset(u64::from(self.id) << 32 | u64::from(self.sent)),
                redelivered: false,
                returned: 0,
                failed: None,
                permit: Permit::default(),
                message,
            });
        }
        self.shared.send(deliveries, bytes);
        if self.window.is_empty() {
            self.held = None;
        }
        tokio::task::yield_now().await;
        true
    }
}

/// Opens a batch, away from here if that may take long.
async fn open(room: &Room, batch: BatchView, wanted: Wanted) -> window::Found {
    if window::is_light(&batch) {
        return window::open(&batch, wanted);
    }
    // The place goes along: the work runs to its end also if nobody waits for it any more.
    let place = room.opening.clone().acquire_owned().await;
    blocking(move || {
        let found = window::open(&batch, wanted);
        drop(place);
        found
    })
    .await
}

/// Where the last batch before `end` begins; `end` if there is none.
pub(super) async fn last_batch(partition: &Partition, end: Offset) -> Result<Offset, StorageError> {
    let near = partition.find(Find::TailBytes(BATCH_BYTES_MAX as u64)).await?;
    let mut from = near.map_or(partition.log_start(), |head| head.base);
    let mut last = end;
    while from < end {
        let heads = partition.headers(from, HEADS_PER_READ, 0).await?;
        let Some(behind) = heads.last().map(|head| head.base.plus(u64::from(head.span))) else { break };
        last = heads.iter().rev().find(|head| head.base < end).map_or(last, |head| head.base);
        from = behind;
    }
    Ok(last)
}

fn unreadable(error: ferrymq_types::BatchError) -> StorageError {
    StorageError::new(ErrorKind::Internal, "a stored batch is none").caused_by(error)
}
