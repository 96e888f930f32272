//! One queue as its shard has it: what is being gathered, in flight, visible, acquired, and by whom.
//!
//! ```text
//!  gathered messages ── seal ──▶ runs in flight ── durable ──▶ visible: ack state + ready messages ──▶ consumers
//! ```
//! **Invariants.** Offsets are given out when a run is sealed. A run becomes visible only when it and all runs
//! before it are done, so messages are delivered in order whatever their class. If a run fails, all behind it
//! fail; the offsets are taken back once nothing is in flight, and until then nothing is sealed.
//!
//! Deliberately absent: the store, the mailbox, answers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasherDefault;

use bytes::Bytes;
use ferrymq_storage::{Action, Append, Batch, Op, ShareKey, SharedPart, Space};
pub(super) use ferrymq_types::IdHasher as OffsetHasher;
use ferrymq_types::{BatchBuilder, CommitId, Durability, Epoch, Offset, OwnerId, batch};
use tokio::sync::oneshot;

use super::consumers::Consumers;
use super::discard::Letters;
use super::expiry::Times;
use super::follow::Followed;
use super::lanes::Lane;
use super::levels::Levels;
use super::limits::Limits;
use super::message::{Attached, GetReply, Item, Released};
use super::ready::{Ready, ReadyBudget};
use super::waiting::Waiting;
use crate::queues::ack::AckState;
use crate::queues::consuming::Consuming;
use crate::queues::envelope;
use crate::queues::settings::{QueueSettings, QueueType};
use crate::queues::sink::DeliverySink;
use crate::queues::types::{Message, QueueHandle, QueueStat};

/// A batch is sealed when it has this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Which messages of which request are in a run.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: u64,
    pub(super) messages: Vec<u32>,
}

/// Messages of one class that become one batch.
#[derive(Debug)]
struct Gathered {
    class: Durability,
    builder: BatchBuilder,
    /// Bodies that go to other queues too.
    shared: Vec<SharedPart>,
    parts: Vec<Part>,
    body_bytes: u64,
    /// Whether any has a time to live of its own.
    expires: bool,
}

/// A sealed batch on its way.
#[derive(Debug)]
struct Run {
    base: u64,
    next: u64,
    bytes: Bytes,
    parts: Vec<Part>,
    body_bytes: u64,
    done: bool,
}

/// A session that asked for one message.
pub(super) struct Getter {
    pub(super) session: u64,
    pub(super) no_ack: bool,
    /// Where he is told what comes to him later.
    pub(super) told: Option<DeliverySink>,
    pub(super) reply: GetReply,
}

/// What of the acks is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Debt {
    /// Nothing.
    None,
    /// Only to free space: it goes along when something else is committed, or when it is much.
    Lazy,
    /// It belongs to persistent messages.
    Must,
}

/// One queue.
pub(super) struct Queue {
    pub(super) handle: QueueHandle,
    pub(super) epoch: Epoch,
    pub(super) durable: bool,
    always_durable: bool,
    pub(super) consuming: Consuming,
    next: u64,
    sequence: u64,
    gathered: VecDeque<Gathered>,
    runs: VecDeque<Run>,
    /// The number of the first run.
    first_run: u64,
    in_flight: u32,
    failing: bool,
    /// What was sealed last is not with the store yet: nothing may be sealed behind it.
    held: bool,
    pub(super) acks: AckState,
    pub(super) ready: Ready,
    pub(super) consumers: Consumers,
    /// Who has which message, by its id: a consumer's number and, in the top bit, whether the message is persistent.
    pub(super) unacked: HashMap<u64, u32, BuildHasherDefault<OffsetHasher>>,
    /// Messages on their way to a dead letter exchange, if the queue has one.
    pub(super) letters: Option<Box<Letters>>,
    /// When its messages are due, if they are kept back.
    pub(super) lane: Option<Box<Lane>>,
    /// Messages that came back and are not available yet.
    pub(super) waiting: Option<Box<Waiting>>,
    pub(super) getters: VecDeque<Getter>,
    /// Sessions that consume here, hold something or did.
    pub(super) sessions: HashSet<u64, BuildHasherDefault<OffsetHasher>>,
    pub(super) reading: bool,
    /// A stored message cannot be read: nothing more is delivered.
    pub(super) unreadable: bool,
    /// On its way out: it takes and gives nothing any more.
    pub(super) gone: bool,
    pub(super) debt: Debt,
    pub(super) trimmed: u64,
    pub(super) done_since_trim: u64,
    pub(super) bytes_since_trim: u64,
    pub(super) done_since_discard: u64,
    pub(super) in_ack_list: bool,
    pub(super) in_run_list: bool,
    pub(super) in_gather_list: bool,
    pub(super) in_blocked_list: bool,
    /// Set once the shard has let go of it: who waits for what is in flight.
    pub(super) releasing: Option<oneshot::Sender<Vec<Released>>>,
    pub(super) settings: QueueSettings,
    /// How long a delivery may be unsettled where nothing else is said; the largest number: for ever.
    timeout_default_ms: u64,
    pub(super) limits: Option<Box<Limits>>,
    /// How often what is there was measured.
    pub(super) measured: u32,
    pub(super) times: Times,
    /// Of the priorities that are not those of its own log.
    pub(super) levels: Option<Box<Levels>>,
    /// The partition whose records its messages are.
    pub(super) followed: Option<Box<Followed>>,
}

/// There may be hundreds of thousands; with a byte more, each takes 128 more of the allocator.
const _: () = assert!(size_of::<Queue>() <= 896);

impl Queue {
    pub(super) fn new(
        attached: Attached,
        budget: ReadyBudget,
        timeout_default_ms: Option<u64>,
        delays_max: usize,
    ) -> Queue {
        let Attached { handle, epoch, start, next, durable, always_durable, acks, .. } = attached;
        let Attached { consuming, dead_letter, settings, ready_bytes, lane, source, .. } = attached;
        // In a topic nothing expires.
        let times = Times::new(next, acks.ready() > 0 && source.is_none());
        Queue {
            handle,
            epoch,
            durable,
            always_durable,
            consuming,
            next,
            sequence: 0,
            gathered: VecDeque::new(),
            runs: VecDeque::new(),
            first_run: 0,
            in_flight: 0,
            failing: false,
            held: false,
            ready: Ready::new(acks.fresh(), budget),
            trimmed: start,
            acks,
            consumers: Consumers::new(consuming.single),
            unacked: HashMap::default(),
            letters: match lane {
                Some(_) => Some(Box::new(Letters::due())),
                None => dead_letter.map(|to| Box::new(Letters::new(to))),
            },
            lane: lane.map(|shortest_ms| Box::new(Lane::new(shortest_ms, delays_max))),
            waiting: None,
            getters: VecDeque::new(),
            sessions: HashSet::default(),
            reading: false,
            unreadable: false,
            gone: false,
            debt: Debt::None,
            done_since_trim: 0,
            bytes_since_trim: 0,
            done_since_discard: 0,
            in_ack_list: false,
            in_run_list: false,
            in_gather_list: false,
            in_blocked_list: false,
            releasing: None,
            limits: Limits::of(&settings, ready_bytes),
            settings,
            timeout_default_ms: timeout_default_ms.unwrap_or(u64::MAX),
            measured: 0,
            times,
            levels: None,
            followed: None,
        }
    }

    /// Everything below is given out, by whoever appends to its partition.
    pub(super) fn follow_to(&mut self, end: u64) {
        self.next = self.next.max(end);
    }

    /// How long a delivery may be unsettled, if its consumer asks for `asked`; `None`: for ever.
    pub(super) fn timeout_ms(&self, asked: Option<u64>) -> Option<u64> {
        let default_ms = Some(self.timeout_default_ms).filter(|ms| *ms < u64::MAX);
        let timeout_ms = asked.or(self.settings.consumer_timeout_ms).or(default_ms);
        // Classic queues know none, as in RabbitMQ 4.3.
        timeout_ms.filter(|_| self.consuming.counts)
    }

    /// Whether a delivery now may be unsettled for too long.
    pub(super) fn is_timed(&self) -> bool {
        self.consumers.is_timed() || !self.getters.is_empty() && self.timeout_ms(None).is_some()
    }

    pub(super) fn stat(&self) -> QueueStat {
        QueueStat {
            ready: self.ready_count(),
            unacked: self
                .each()
                .map(|level| level.acks.acquired())
                .sum::<u64>()
                .saturating_sub(self.letters.as_ref().map_or(0, |letters| letters.count()))
                .saturating_sub(self.waiting()),
            consumers: u64::from(self.consumers.active()),
        }
    }

    /// Its type: quorum queues alone count failures.
    pub(super) fn kind(&self) -> QueueType {
        if self.consuming.counts { QueueType::Quorum } else { QueueType::Classic }
    }

    pub(super) fn is_always_durable(&self) -> bool {
        self.always_durable
    }

    fn class_of(&self, message: &Message) -> Durability {
        let keeps = self.always_durable || self.durable && message.persistent;
        if keeps { Durability::Sync } else { Durability::Memory }
    }

    /// Whether losing this message's ack would bring it back after a restart.
    pub(super) fn survives(&self, message: &Message) -> bool {
        self.class_of(message) == Durability::Sync
    }

    /// Adds a message to what is gathered. Whether it began another part of its request.
    pub(super) fn gather(
        &mut self,
        request: u64,
        Item { index, message, share, .. }: &Item,
        now_ms: i64,
        scratch: &mut Vec<u8>,
    ) -> bool {
        let class = self.class_of(message);
        let fits = |last: &Gathered| {
            let room = last.builder.bytes() + message.bytes() <= BATCH_BYTES;
            last.class == class && (room || last.builder.count() == 0)
        };
        if !self.gathered.back().is_some_and(fits) {
            let builder = BatchBuilder::with_capacity(now_ms, 1024 + message.bytes());
            let (parts, shared) = (Vec::new(), Vec::new());
            self.gathered.push_back(Gathered {
                class,
                builder,
                shared,
                parts,
                body_bytes: 0,
                expires: false,
            });
        }
        let last = self.gathered.back_mut().expect("one was just made sure of");
        let at = envelope::push(&mut last.builder, message, now_ms, scratch);
        last.shared.extend(share.and_then(|key| part(key, at, message.body.len())));
        last.body_bytes += message.body.len() as u64;
        last.expires |= message.ttl_ms.is_some();
        match last.parts.last_mut() {
            Some(part) if part.request == request => {
                part.messages.push(*index);
                false
            }
            _ => {
                last.parts.push(Part { request, messages: vec![*index] });
                true
            }
        }
    }

    /// Whether anything gathered could be sealed now.
    pub(super) fn can_seal(&self) -> bool {
        !self.failing && !self.held && !self.gathered.is_empty()
    }

    /// Whether a run failed and what else is in flight is not decided.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// A joint commit's runs are sealed and not with the store yet; or they are now.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The strictest class gathered.
    pub(super) fn gathered_class(&self) -> Durability {
        let sync = self.gathered.iter().any(|gathered| gathered.class == Durability::Sync);
        if sync { Durability::Sync } else { Durability::Memory }
    }

    /// Gives out offsets to what is gathered: one operation and run number per batch.
    pub(super) fn seal(&mut self, owner: OwnerId, writer: u64, now_ms: i64, ops: &mut Vec<(Op, u64)>) {
        for gathered in std::mem::take(&mut self.gathered) {
            let Gathered { class, builder, shared, parts, body_bytes, expires } = gathered;
            let span = builder.count().cast_unsigned();
            let mut bytes = batch::into_mut(builder.build());
            let base = Offset(self.next);
            batch::set_position(&mut bytes, base, self.epoch);
            let bytes = bytes.freeze();
            self.sequence += 1;
            let append = Append {
                expect_next: base,
                commit_id: CommitId { writer, sequence: self.sequence },
                class,
                space: Space::Normal,
                batches: vec![Batch { base, span, max_timestamp: now_ms, bytes: bytes.clone(), shared }],
            };
            let (log, epoch) = (self.handle.log(), self.epoch);
            let number = self.first_run + self.runs.len() as u64;
            ops.push((Op { log, epoch, owner, action: Action::Append(append) }, number));
            self.next += u64::from(span);
            let (base, next) = (base.0, self.next);
            if expires {
                self.times.own_until = next;
            }
            self.runs.push_back(Run { base, next, bytes, parts, body_bytes, done: false });
            self.in_flight += 1;
        }
    }

    /// Run `number` is durable. Makes visible what can be; its parts are to be answered.
    pub(super) fn run_done(&mut self, number: u64) -> Vec<Part> {
        self.in_flight -= 1;
        let at = usize::try_from(number - self.first_run).unwrap_or(usize::MAX);
        let parts = match self.runs.get_mut(at) {
            Some(run) => {
                run.done = true;
                std::mem::take(&mut run.parts)
            }
            None => Vec::new(),
        };
        while let Some(run) = self.runs.pop_front_if(|run| run.done) {
            self.first_run += 1;
            let end = self.acks.end();
            self.acks.extend(run.base..run.next);
            self.ready.publish(end, run.next, run.bytes);
            self.count_visible(run.body_bytes);
        }
        self.recover();
        parts
    }

    /// Run `number` certainly did not happen. Its parts are to be answered.
    pub(super) fn run_failed(&mut self, number: u64) -> Vec<Part> {
        self.in_flight -= 1;
        self.failing = true;
        let at = usize::try_from(number - self.first_run).unwrap_or(usize::MAX);
        let parts = self.runs.get_mut(at).map(|run| std::mem::take(&mut run.parts)).unwrap_or_default();
        self.recover();
        parts
    }

    /// Takes back what failed, once nothing is in flight.
    fn recover(&mut self) {
        if self.failing && self.in_flight == 0 {
            if let Some(first) = self.runs.front() {
                self.next = first.base;
            }
            self.first_run += self.runs.len() as u64;
            self.runs.clear();
            self.failing = false;
        }
    }

    /// Messages, and bytes of their bodies, that were taken and are not visible.
    pub(super) fn on_the_way(&self) -> (u64, u64) {
        let count = |gathered: &Gathered| u64::from(gathered.builder.count().cast_unsigned());
        let gathered = self.gathered.iter().fold((0, 0), |(messages, bytes), gathered| {
            (messages + count(gathered), bytes + gathered.body_bytes)
        });
        let bytes: u64 = self.runs.iter().map(|run| run.body_bytes).sum();
        (gathered.0 + (self.next - self.acks.end()), gathered.1 + bytes)
    }

    /// Whether nothing is on its way any more, to no level.
    pub(super) fn is_settled(&self) -> bool {
        self.each().all(|level| level.in_flight == 0)
    }

    /// The next offset to be given out.
    pub(super) fn next_offset(&self) -> u64 {
        self.next
    }

    /// Takes what was gathered and not sealed: its parts are to be answered.
    pub(super) fn drop_gathered(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.gathered).into_iter().flat_map(|gathered| gathered.parts).collect()
    }

    /// Whether the log still has what is done, or what it is was not told: it is to be trimmed, or told.
    pub(super) fn owes_a_trim(&self) -> bool {
        self.acks.floor() > self.trimmed
    }

    /// Whether there is something about its acks that is not durable.
    pub(super) fn owes_anything(&self) -> bool {
        self.acks.owes_a_delta() || self.owes_a_trim()
    }

    /// Whether a snapshot of its acks would say more than its log does.
    pub(super) fn has_acks_to_tell(&self) -> bool {
        self.durable && (self.acks.has_state() || self.owes_a_trim() || self.is_over_topic())
    }

    /// Notes that something is done or was returned.
    pub(super) fn owe(&mut self, debt: Debt, done: u64) {
        let debt = if self.durable { debt } else { debt.min(Debt::Lazy) };
        self.debt = self.debt.max(debt);
        self.done_since_trim += done;
    }
}

/// A body as a part of its batch.
fn part(key: ShareKey, at: usize, bytes: usize) -> Option<SharedPart> {
    Some(SharedPart { key, at: u32::try_from(at).ok()?, bytes: u32::try_from(bytes).ok()? })
}
