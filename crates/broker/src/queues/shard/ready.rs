//! Messages of one queue that are in memory, ready to be delivered.
//!
//! ```text
//!   returned: single messages            fresh: whole batches, in order        covered            end
//!      3   17   18                    [100 .. 164)[164 .. 200)                    200 ........... 5000
//!      read back one by one           pushed when published, or read          only in the log from here
//! ```
//! **Invariants.** Fresh batches reach without a hole from the first fresh message to `covered`. Bytes are
//! bounded per queue and per shard; what does not fit is left in the log and read when its turn comes.
//! Messages are slices of the batch they lie in: nothing larger than it is kept alive.
//!
//! Deliberately absent: reading (the shard does), and who gets what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::queues::ack::AckState;
use crate::queues::envelope::{EnvelopeError, Messages, Stamp};
use crate::queues::streams::Window;
use crate::queues::types::Message;

/// Bytes one queue keeps ready while its shard has room.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes one queue keeps ready when its shard has little; nothing is kept ahead beyond twice the shard's bound.
const QUEUE_BYTES_CROWDED: usize = 64 * 1024;
/// Bytes of returned messages read back at a time.
pub(super) const RETURNED_BYTES: usize = 256 * 1024;
/// Bytes of fresh messages read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// What was read.
pub(super) enum Fill {
    /// Of a log of messages.
    Runs(Vec<Bytes>),
    /// Of a topic.
    Window(Window),
}

/// Messages that lie together.
#[derive(Debug)]
enum Batch {
    Stored(Messages),
    Window(Window),
}

impl Batch {
    #[inline]
    fn offset(&self) -> u64 {
        match self {
            Batch::Stored(messages) => messages.offset(),
            Batch::Window(window) => window.offset(),
        }
    }

    #[inline]
    fn next(&self) -> u64 {
        match self {
            Batch::Stored(messages) => messages.next(),
            Batch::Window(window) => window.next(),
        }
    }

    fn skip_to(&mut self, offset: u64) -> Result<(), EnvelopeError> {
        match self {
            Batch::Stored(messages) => messages.skip_to(offset),
            Batch::Window(window) => {
                window.skip_to(offset);
                Ok(())
            }
        }
    }

    #[inline]
    fn take(&mut self) -> Result<Message, EnvelopeError> {
        match self {
            Batch::Stored(messages) => messages.take(),
            Batch::Window(window) => Ok(window.take().unwrap_or_default()),
        }
    }

    fn stamp(&self) -> Result<Stamp, EnvelopeError> {
        match self {
            Batch::Stored(messages) => messages.stamp(),
            // In a topic nothing expires.
            Batch::Window(_) => Ok(Stamp::default()),
        }
    }
}

/// What one shard keeps ready, and may.
#[derive(Debug, Clone)]
pub(super) struct ReadyBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl ReadyBudget {
    pub(super) fn new(limit: usize) -> ReadyBudget {
        ReadyBudget(Arc::new(Budget { used: AtomicUsize::new(0), limit }))
    }

    fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    fn allowance(&self) -> usize {
        match self.used() {
            used if used < self.0.limit => QUEUE_BYTES,
            used if used < 2 * self.0.limit => QUEUE_BYTES_CROWDED,
            _ => 0,
        }
    }
}

/// Messages in memory.
#[derive(Debug)]
pub(super) struct Ready {
    budget: ReadyBudget,
    fresh: VecDeque<(Batch, usize)>,
    covered: u64,
    returned: BTreeMap<u64, (Message, Stamp)>,
    bytes: usize,
    returned_bytes: usize,
    /// What follows is damaged: nothing is read ahead.
    damaged: bool,
}

impl Ready {
    /// Nothing; everything from `covered` on is in the log only.
    pub(super) fn new(covered: u64, budget: ReadyBudget) -> Ready {
        Ready {
            budget,
            fresh: VecDeque::new(),
            covered,
            returned: BTreeMap::new(),
            bytes: 0,
            returned_bytes: 0,
            damaged: false,
        }
    }

    /// Takes a batch that has just become visible, if it follows what is here and there is room. `end` was the
    /// queue's end before it.
    pub(super) fn publish(&mut self, end: u64, next: u64, batch: Bytes) {
        if self.covered < end || !self.fresh.is_empty() && self.bytes + batch.len() > self.budget.allowance()
        {
            return;
        }
        // What cannot be decoded here is read from the log, and told then.
        if self.push(batch).is_ok() {
            self.covered = next;
        }
    }

    /// Takes what was read from `from` up to `until`.
    ///
    /// # Errors
    /// [`EnvelopeError`]; what came before it is kept.
    pub(super) fn fill(&mut self, from: u64, until: u64, read: Fill) -> Result<(), EnvelopeError> {
        if from != self.covered {
            // Purged meanwhile.
            return Ok(());
        }
        let runs = match read {
            Fill::Runs(runs) => runs,
            Fill::Window(window) => {
                let bytes = window.bytes();
                self.covered = self.covered.max(window.next());
                self.fresh.push_back((Batch::Window(window), bytes));
                self.grow(bytes);
                return Ok(());
            }
        };
        let nothing = runs.is_empty();
        for mut run in runs {
            while !run.is_empty() {
                self.push_first(&mut run)?;
            }
        }
        if nothing {
            self.covered = self.covered.max(until);
        }
        Ok(())
    }

    fn push(&mut self, mut batch: Bytes) -> Result<(), EnvelopeError> {
        self.push_first(&mut batch)
    }

    fn push_first(&mut self, run: &mut Bytes) -> Result<(), EnvelopeError> {
        let before = run.len();
        let messages = Messages::split_from(run)?;
        let bytes = before - run.len();
        self.covered = self.covered.max(messages.next());
        self.fresh.push_back((Batch::Stored(messages), bytes));
        self.grow(bytes);
        Ok(())
    }

    fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Where reading should go on and how many bytes, if fresh messages are missing. `wanted`: somebody can take
    /// one now; else it is read ahead, where there is room for that.
    pub(super) fn missing(&self, end: u64, wanted: bool) -> Option<(u64, usize)> {
        let allowance = self.budget.allowance();
        let ahead = self.bytes <= allowance / 2 && allowance > 0 && !self.damaged;
        let now = wanted && self.fresh.is_empty();
        let bytes = READ_BYTES.min(allowance.max(QUEUE_BYTES_CROWDED));
        (self.covered < end && (ahead || now)).then_some((self.covered, bytes))
    }

    /// Whether everything below `end` is here or was.
    pub(super) fn covers(&self, end: u64) -> bool {
        self.covered >= end
    }

    /// What follows cannot be read. Whether anything that can lies before it.
    pub(super) fn expect_damage(&mut self) -> bool {
        self.damaged = !self.fresh.is_empty();
        self.damaged
    }

    /// The offset of the first message at or above `fresh` that is here.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub(super) fn first_fresh(&mut self, fresh: u64) -> Result<Option<u64>, EnvelopeError> {
        while let Some((messages, bytes)) = self.fresh.front_mut() {
            if messages.offset() < fresh {
                messages.skip_to(fresh)?;
            }
            if messages.offset() < messages.next() {
                return Ok(Some(messages.offset()));
            }
            let bytes = *bytes;
            self.fresh.pop_front();
            self.shrink(bytes);
        }
        Ok(None)
    }

    /// Takes the message that [`Ready::first_fresh`] told.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub(super) fn take_fresh(&mut self) -> Result<Message, EnvelopeError> {
        match self.fresh.front_mut() {
            Some((messages, _)) => messages.take(),
            None => Ok(Message::default()),
        }
    }

    /// When the message that [`Ready::first_fresh`] would tell was enqueued.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub(super) fn fresh_stamp(&mut self, fresh: u64) -> Result<Option<(u64, Stamp)>, EnvelopeError> {
        let Some(offset) = self.first_fresh(fresh)? else { return Ok(None) };
        self.fresh.front().map(|(messages, _)| Ok((offset, messages.stamp()?))).transpose()
    }

    /// When a returned message was enqueued, if it is here.
    pub(super) fn returned_stamp(&self, offset: u64) -> Option<Stamp> {
        self.returned.get(&offset).map(|(_, stamp)| *stamp)
    }

    /// Leaves everything from `fresh` on, and what was returned, to the log if the shard has much in memory.
    pub(super) fn unload_if_crowded(&mut self, fresh: u64) {
        if self.budget.used() >= self.budget.0.limit {
            self.unload(fresh);
        }
    }

    /// Leaves everything from `fresh` on, and what was returned, to the log.
    pub(super) fn unload(&mut self, fresh: u64) {
        self.clear(fresh);
        self.covered = fresh;
    }

    /// Whether a returned message is here.
    pub(super) fn has_returned(&self, offset: u64) -> bool {
        self.returned.contains_key(&offset)
    }

    /// Takes a returned message.
    pub(super) fn take_returned(&mut self, offset: u64) -> Option<Message> {
        let (message, _) = self.returned.remove(&offset)?;
        self.returned_bytes -= message.bytes();
        Some(message)
    }

    /// Takes what was read from `from` on of the messages that were returned. The first offset read, if any.
    ///
    /// # Errors
    /// [`EnvelopeError`]; what came before it is kept.
    pub(super) fn fill_returned(
        &mut self,
        from: u64,
        read: Fill,
        acks: &AckState,
    ) -> Result<Option<u64>, EnvelopeError> {
        let mut first = None;
        // What is here already was passed over by the lowest; it would only be in the way.
        self.returned.clear();
        self.returned_bytes = 0;
        match read {
            Fill::Window(window) => self.keep_returned(Batch::Window(window), &mut first, acks)?,
            Fill::Runs(runs) => {
                for mut run in runs {
                    while !run.is_empty() {
                        let mut batch = Batch::Stored(Messages::split_from(&mut run)?);
                        batch.skip_to(from)?;
                        self.keep_returned(batch, &mut first, acks)?;
                    }
                }
            }
        }
        Ok(first)
    }

    /// Keeps those of a batch that were returned; the first of all that were there goes into `first`.
    fn keep_returned(
        &mut self,
        mut batch: Batch,
        first: &mut Option<u64>,
        acks: &AckState,
    ) -> Result<(), EnvelopeError> {
        while batch.offset() < batch.next() {
            let offset = batch.offset();
            *first = first.or(Some(offset));
            let (stamp, message) = (batch.stamp()?, batch.take()?);
            let fits = self.returned.is_empty() || self.returned_bytes < RETURNED_BYTES;
            if fits && acks.is_returned(offset) {
                self.returned_bytes += message.bytes();
                self.returned.insert(offset, (message, stamp));
            }
        }
        Ok(())
    }

    /// Forgets what lies below `start`.
    pub(super) fn forget_below(&mut self, start: u64) {
        if self.covered < start {
            self.clear(start);
        }
    }

    /// Forgets everything; from `covered` on the log has it.
    pub(super) fn clear(&mut self, covered: u64) {
        self.shrink(self.bytes);
        self.fresh.clear();
        self.returned.clear();
        self.returned_bytes = 0;
        self.damaged = false;
        self.covered = self.covered.max(covered);
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
