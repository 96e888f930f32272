//! A loaded shard at work: applies operations, flushes their records, releases answers, rewrites its log.
//!
//! **Invariants.** `next` is where the next batch goes if everything in flight succeeds. Answers wait in the
//! flush behind which nothing they saw is. The log is trimmed to where a walk over the live state began, and
//! only when the walk's last record is durable.
//!
//! Deliberately absent: receiving messages and waiting for time; see `shard`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ferrymq_runtime::{BytePermit, Rng};
use ferrymq_storage::{
    Action, Append, ErrorKind, LogStore, Op, Outcome, Pending as StorePending, Space, StorageError,
};
use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};

use super::batch::pack;
use super::coordinator::{Coordinator, Cursor, Effects, Now, Ticket};
use super::load::Loaded;
use super::message::{Message, Parked, Release, Reply};
use super::types::{GroupError, JoinResponse, SyncResponse};

/// Commits under way at a time; what comes meanwhile is gathered for the next.
const COMMITS_IN_FLIGHT: usize = 4;
/// Records gathered before the mailbox is left alone.
const RECORDS_GATHERED: usize = 10_000;

/// An append failed or its fate is unknown: the state is no longer that of the log.
pub(super) struct Failure(pub(super) StorageError);

/// A commit under way and what waits for it.
struct InFlight {
    outcome: StorePending<Vec<Outcome>>,
    answers: Vec<Box<dyn Release>>,
    permits: Vec<BytePermit>,
    kind: Kind,
}

enum Kind {
    Append {
        /// Trim to here once this is durable.
        then_trim: Option<Offset>,
    },
    Trim,
}

/// A walk over the live state.
struct Rewrite {
    /// Where it began.
    from: Offset,
    /// Bytes of the log before that.
    bytes_before: u64,
    /// Where it stands; `None` before the first chunk.
    cursor: Option<Cursor>,
    /// All chunks are appended; the trim is under way.
    walked: bool,
}

/// A loaded shard.
pub(super) struct Serving {
    log: LogId,
    owner: OwnerId,
    epoch: Epoch,
    store: Arc<dyn LogStore>,
    rng: Rng,
    coordinator: Coordinator,
    effects: Effects,
    joins: HashMap<Ticket, Reply<JoinResponse>>,
    syncs: HashMap<Ticket, Reply<SyncResponse>>,
    last_ticket: u64,
    answers: Vec<Box<dyn Release>>,
    permits: Vec<BytePermit>,
    in_flight: VecDeque<InFlight>,
    next: Offset,
    commit_id: CommitId,
    log_bytes: u64,
    /// Look whether to rewrite when the log has this many bytes.
    rewrite_at: u64,
    rewrite: Option<Rewrite>,
    draining: bool,
}

impl Serving {
    pub(super) fn new(
        log: LogId,
        owner: OwnerId,
        store: Arc<dyn LogStore>,
        rng: Rng,
        loaded: Loaded,
    ) -> Serving {
        let Loaded { claim, coordinator, log_bytes } = loaded;
        let commit_id = CommitId { writer: rng.next_u64(), sequence: 0 };
        Serving {
            log,
            owner,
            epoch: claim.epoch,
            store,
            rng,
            coordinator,
            effects: Effects::default(),
            joins: HashMap::new(),
            syncs: HashMap::new(),
            last_ticket: 0,
            answers: Vec::new(),
            permits: Vec::new(),
            in_flight: VecDeque::new(),
            next: claim.next,
            commit_id,
            log_bytes,
            rewrite_at: 0,
            rewrite: None,
            draining: false,
        }
    }

    /// Starts the sessions of the members that were replayed.
    pub(super) fn loaded(&mut self, now: Now) {
        self.coordinator.loaded(now, &mut self.effects);
        self.collect();
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.coordinator.next_deadline()
    }

    pub(super) fn tick(&mut self, now: Now) {
        self.coordinator.tick(now, &mut self.effects);
        self.collect();
    }

    /// Whether another operation may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.effects.records.len() < RECORDS_GATHERED
    }

    pub(super) fn handle(&mut self, now: Now, message: Message, permit: BytePermit) {
        self.permits.push(permit);
        let effects = &mut self.effects;
        match message {
            Message::Join(request, reply) => {
                self.last_ticket += 1;
                let ticket = Ticket(self.last_ticket);
                self.joins.insert(ticket, reply);
                self.coordinator.join(now, ticket, request, self.rng.next_u128(), effects);
            }
            Message::Sync(request, reply) => {
                self.last_ticket += 1;
                let ticket = Ticket(self.last_ticket);
                self.syncs.insert(ticket, reply);
                self.coordinator.sync(now, ticket, request, effects);
            }
            Message::Heartbeat(request, reply) => {
                let answer = self.coordinator.heartbeat(now, &request, effects);
                self.park(reply, answer);
            }
            Message::Leave(request, reply) => {
                let answer = self.coordinator.leave(now, &request, effects);
                self.park(reply, answer);
            }
            Message::Commit(request, reply) => {
                let answer = self.coordinator.commit(now, &request, effects);
                self.park(reply, answer);
            }
            Message::Fetch(request, reply) => {
                let answer = self.coordinator.fetch(&request);
                self.park(reply, Ok(answer));
            }
            Message::DeleteOffsets(request, reply) => {
                let answer = self.coordinator.delete_offsets(now, &request, effects);
                self.park(reply, answer);
            }
            Message::List(request, reply) => {
                let answer = self.coordinator.list(&request);
                self.park(reply, Ok(answer));
            }
            Message::Describe(group, reply) => {
                let answer = self.coordinator.describe(&group);
                self.park(reply, answer);
            }
            Message::DeleteGroup(group, reply) => {
                let answer = self.coordinator.delete_group(&group, effects);
                self.park(reply, answer);
            }
            Message::TopicsDeleted(topics, reply) => {
                self.coordinator.topics_deleted(now, &topics, effects);
                self.park(reply, Ok(()));
            }
        }
        self.collect();
    }

    fn park<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, GroupError>) {
        self.answers.push(Box::new(Parked { reply, answer }));
    }

    /// Turns answers to tickets into answers to callers.
    fn collect(&mut self) {
        for (ticket, answer) in std::mem::take(&mut self.effects.joins) {
            if let Some(reply) = self.joins.remove(&ticket) {
                self.park(reply, answer);
            }
        }
        for (ticket, answer) in std::mem::take(&mut self.effects.syncs) {
            if let Some(reply) = self.syncs.remove(&ticket) {
                self.park(reply, answer);
            }
        }
    }

    /// Sends what was gathered on its way, if there is a free place, and releases what need not wait.
    pub(super) fn flush(&mut self, now: Now) {
        if self.in_flight.len() >= COMMITS_IN_FLIGHT {
            return;
        }
        let then_trim = self.walk();
        if self.effects.records.is_empty() {
            return self.release_behind_last(then_trim);
        }
        let records = std::mem::take(&mut self.effects.records);
        let batches = pack(&records, self.next, self.epoch, now.wall_ms);
        let expect_next = self.next;
        self.next = batches.last().map_or(self.next, ferrymq_storage::Batch::next);
        self.log_bytes += batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        self.commit_id.sequence += 1;
        let append = Append {
            expect_next,
            commit_id: self.commit_id,
            class: Durability::Sync,
            // Consuming must go on when the store is full: only so is it emptied.
            space: Space::Reserve,
            batches,
        };
        let outcome = self.submit(Action::Append(append));
        let (answers, permits) = (std::mem::take(&mut self.answers), std::mem::take(&mut self.permits));
        self.in_flight.push_back(InFlight { outcome, answers, permits, kind: Kind::Append { then_trim } });
    }

    fn submit(&self, action: Action) -> StorePending<Vec<Outcome>> {
        let op = Op { log: self.log, epoch: self.epoch, owner: self.owner, action };
        self.store.commit(vec![vec![op]])
    }

    /// Nothing to append: what was asked waits for what is in flight, if anything is.
    fn release_behind_last(&mut self, trim: Option<Offset>) {
        match self.in_flight.back_mut() {
            Some(last) => {
                last.answers.append(&mut self.answers);
                last.permits.append(&mut self.permits);
                if let (Kind::Append { then_trim }, Some(trim)) = (&mut last.kind, trim) {
                    *then_trim = Some(trim);
                }
            }
            None => {
                self.answers.drain(..).for_each(Release::release);
                self.permits.clear();
                if let Some(trim) = trim {
                    self.trim(trim);
                }
            }
        }
    }

    /// Waits for the first commit in flight. Cancel safety: nothing is lost.
    pub(super) async fn first_done(&mut self) -> Outcome {
        let Some(first) = self.in_flight.front_mut() else { return std::future::pending().await };
        let missing = || StorageError::new(ErrorKind::Internal, "a commit without an outcome");
        (&mut first.outcome).await.pop().unwrap_or_else(|| Err(missing()))
    }

    /// Acts on the outcome of the first commit in flight.
    pub(super) fn settle(&mut self, outcome: Outcome) -> Result<(), Failure> {
        let Some(first) = self.in_flight.pop_front() else { return Ok(()) };
        match (first.kind, outcome) {
            (Kind::Append { then_trim }, Ok(())) => {
                if let Some(trim) = then_trim {
                    self.trim(trim);
                }
            }
            (Kind::Append { .. }, Err(error)) => {
                self.answers.splice(..0, first.answers);
                return Err(Failure(error));
            }
            (Kind::Trim, outcome) => self.trimmed(&outcome),
        }
        first.answers.into_iter().for_each(Release::release);
        Ok(())
    }

    /// Fails everything that waits.
    pub(super) fn fail(self, error: &GroupError) {
        for answer in self.answers.into_iter().chain(self.in_flight.into_iter().flat_map(|f| f.answers)) {
            answer.fail(error);
        }
        for (_, reply) in self.joins {
            let _gone = reply.send(Err(error.clone())).is_err();
        }
        for (_, reply) in self.syncs {
            let _gone = reply.send(Err(error.clone())).is_err();
        }
    }

    /// Makes durable what was asked so far, then lets go of those that wait for others.
    pub(super) async fn drain(mut self, now: Now) {
        self.draining = true;
        loop {
            self.flush(now);
            if self.in_flight.is_empty() {
                break;
            }
            let done = self.first_done().await;
            if self.settle(done).is_err() {
                break;
            }
        }
        self.fail(&GroupError::CoordinatorNotAvailable);
    }

    /// Begins or goes on with a rewrite; at its end, where to trim to.
    fn walk(&mut self) -> Option<Offset> {
        if self.draining || self.rewrite.as_ref().is_some_and(|rewrite| rewrite.walked) {
            return None;
        }
        if self.rewrite.is_none() {
            if self.log_bytes < self.rewrite_at {
                return None;
            }
            self.rewrite_at = self.rewrite_threshold();
            if self.log_bytes < self.rewrite_at {
                return None;
            }
            self.rewrite =
                Some(Rewrite { from: self.next, bytes_before: self.log_bytes, cursor: None, walked: false });
        }
        let rewrite = self.rewrite.as_mut()?;
        let chunk = self.coordinator.config.rewrite_chunk_bytes;
        let cursor = rewrite.cursor.take();
        rewrite.cursor = self.coordinator.live_records(cursor, chunk, &mut self.effects.records);
        rewrite.walked = rewrite.cursor.is_none();
        rewrite.walked.then_some(rewrite.from)
    }

    fn rewrite_threshold(&self) -> u64 {
        let config = &self.coordinator.config;
        let live = self.coordinator.live_bytes().saturating_mul(config.rewrite_factor);
        live.max(config.rewrite_bytes_min)
    }

    fn trim(&mut self, to: Offset) {
        let outcome = self.submit(Action::Trim(to));
        let (answers, permits) = (Vec::new(), Vec::new());
        self.in_flight.push_back(InFlight { outcome, answers, permits, kind: Kind::Trim });
    }

    /// A trim that failed loses nothing; the next rewrite trims further.
    fn trimmed(&mut self, outcome: &Outcome) {
        let Some(rewrite) = self.rewrite.take() else { return };
        match outcome {
            Ok(()) => {
                self.log_bytes = self.log_bytes.saturating_sub(rewrite.bytes_before);
                self.rewrite_at = self.rewrite_threshold();
            }
            Err(error) => {
                tracing::warn!(log = %self.log, %error, "a rewritten groups log could not be trimmed");
                self.rewrite_at = self.log_bytes + self.coordinator.config.rewrite_bytes_min;
            }
        }
    }
}
