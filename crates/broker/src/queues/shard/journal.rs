//! A shard's state log: ack records of all its durable queues, packed, rewritten when it has grown.
//!
//! ```text
//! key  'a' | log id (8 bytes)   value: an ack record of that queue
//! key  'c'                      the shard stopped cleanly: nothing was delivered after what stands before
//! key  'o'                      the shard began to serve again
//! ```
//! **Invariants.** The log replays to what is durable. A rewrite appends a snapshot of every queue and then trims
//! what lies before the first: a crash at any point leaves a log whose plain replay is right. Records that
//! could not be written are made up for by a rewrite, never forgotten.
//!
//! Deliberately absent: the queues (the shard walks them), and when to commit.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use ferrymq_storage::{Action, Append, Batch, Claim, ErrorKind, LogStore, Op, Space, StorageError};
use ferrymq_types::{
    BatchBuilder, BatchView, CommitId, Compression, Durability, Epoch, LogId, Offset, OwnerId, Records, batch,
};

use crate::queues::ack::{AckRecord, Replay};

/// A batch is closed when it has this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// The log is rewritten when it has this many bytes, or four times what a rewrite left.
const REWRITE_BYTES_MIN: u64 = 1024 * 1024;
const REWRITE_FACTOR: u64 = 4;
/// Bytes of snapshots that go along with one commit.
pub(super) const WALK_BYTES: usize = 256 * 1024;
const READ_BYTES: usize = 1024 * 1024;

const ACKS: u8 = b'a';
const CLEAN: u8 = b'c';
const OPENED: u8 = b'o';

/// A state log as its shard has it.
#[derive(Debug)]
pub(in crate::queues) struct Journal {
    log: LogId,
    epoch: Epoch,
    owner: OwnerId,
    writer: u64,
    sequence: u64,
    next: u64,
    /// Where it goes on if what is in flight fails.
    settled: u64,
    in_flight: usize,
    failing: bool,
    /// How often an append failed.
    failures: u64,
    /// How many rewrites were begun.
    rewrites: u64,
    /// What was sealed last is not with the store yet: nothing may be sealed behind it.
    held: bool,
    /// Records were lost: everything must be written again.
    incomplete: bool,
    pending: Vec<(Bytes, Bytes)>,
    pending_bytes: usize,
    bytes: u64,
    rewrite_at: u64,
    rewrite: Option<Rewrite>,
}

/// A walk over the queues.
#[derive(Debug)]
struct Rewrite {
    /// Which one it is.
    number: u64,
    from: u64,
    bytes_before: u64,
    left: VecDeque<LogId>,
    /// Makes up for records that were lost.
    repairs: bool,
    /// The last record is sealed or in flight.
    walked: bool,
}

/// Records on their way.
#[derive(Debug, Clone, Copy)]
pub(in crate::queues) struct Sealed {
    start: u64,
    end: u64,
    bytes: u64,
    /// Where to trim to once they are durable, and for which rewrite, if they end one.
    pub(super) then_trim: Option<(Offset, u64)>,
}

/// What a state log said.
#[derive(Debug, Default)]
pub(in crate::queues) struct Journaled {
    pub(in crate::queues) acks: HashMap<LogId, Replay>,
    pub(in crate::queues) clean: bool,
}

impl Journal {
    /// Reads a claimed state log.
    ///
    /// # Errors
    /// Whatever the store answers; `Internal` for what cannot be read.
    pub(in crate::queues) async fn load(
        store: &dyn LogStore,
        claim: Claim,
        owner: OwnerId,
        writer: u64,
    ) -> Result<(Journal, Journaled), StorageError> {
        let mut journaled = Journaled::default();
        let (mut at, mut bytes) = (claim.start, 0);
        while at < claim.next {
            let read = store.read(claim.log, at, claim.next, READ_BYTES).await?;
            let Some(next) = read.next() else { break };
            bytes += read.bytes() as u64;
            at = next;
            for run in read.runs {
                journaled.take(run.bytes).map_err(|what| {
                    let text = format!("a state log of queues cannot be read: {what}: log={}", claim.log);
                    StorageError::new(ErrorKind::Internal, text)
                })?;
            }
        }
        let mut journal = Journal {
            log: claim.log,
            epoch: claim.epoch,
            owner,
            writer,
            sequence: 0,
            next: claim.next.0,
            settled: claim.next.0,
            in_flight: 0,
            failing: false,
            failures: 0,
            rewrites: 0,
            held: false,
            incomplete: false,
            pending: Vec::new(),
            pending_bytes: 0,
            bytes,
            rewrite_at: REWRITE_BYTES_MIN,
            rewrite: None,
        };
        journal.push(Bytes::from_static(&[OPENED]), Bytes::new());
        Ok((journal, journaled))
    }

    /// Adds a record of a queue.
    pub(super) fn record(&mut self, log: LogId, record: &AckRecord) {
        self.push(key_of(log), record.encode());
    }

    /// Adds the mark of a clean stop.
    pub(super) fn clean(&mut self) {
        self.push(Bytes::from_static(&[CLEAN]), Bytes::new());
    }

    /// Adds a mark that says nothing: a rewrite needs at least one record.
    pub(super) fn mark(&mut self) {
        self.push(Bytes::from_static(&[OPENED]), Bytes::new());
    }

    fn push(&mut self, key: Bytes, value: Bytes) {
        self.pending_bytes += key.len() + value.len() + 16;
        self.pending.push((key, value));
    }

    /// Bytes of records that wait.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether anything waits and could be sealed.
    pub(in crate::queues) fn can_seal(&self) -> bool {
        !self.failing && !self.held && !self.pending.is_empty()
    }

    /// Whether a joint commit must be handed to the store before anything is sealed.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// What a joint commit sealed is with the store, or given up.
    pub(super) fn release(&mut self) {
        self.held = false;
    }

    /// How often an append failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Whether an append failed and nothing can be sealed until what else is in flight is settled.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Whether everything that it was told is with the store: nothing waits, and nothing that was lost is still to be
    /// written again.
    pub(super) fn is_up_to_date(&self) -> bool {
        let repairs = self.rewrite.as_ref().is_some_and(|rewrite| rewrite.repairs && !rewrite.walked);
        self.pending.is_empty() && !self.failing && !self.incomplete && !self.held && !repairs
    }

    /// Whether a rewrite should begin.
    pub(super) fn wants_rewrite(&self) -> bool {
        self.rewrite.is_none() && !self.failing && (self.incomplete || self.bytes >= self.rewrite_at)
    }

    /// Begins a rewrite over these queues.
    pub(super) fn begin_rewrite(&mut self, queues: VecDeque<LogId>) {
        let repairs = std::mem::take(&mut self.incomplete);
        self.rewrites += 1;
        let (number, from, bytes_before) = (self.rewrites, self.next, self.bytes);
        self.rewrite = Some(Rewrite { number, from, bytes_before, left: queues, repairs, walked: false });
    }

    /// The next queue of the rewrite to be recorded.
    pub(super) fn next_to_rewrite(&mut self) -> Option<LogId> {
        self.rewrite.as_mut()?.left.pop_front()
    }

    /// Whether a rewrite has queues left.
    pub(super) fn is_walking(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| !rewrite.walked)
    }

    /// Seals what waits.
    pub(in crate::queues) fn seal(&mut self, now_ms: i64) -> (Op, Sealed) {
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending);
        let (op, mut sealed) = self.seal_records(pending, now_ms);
        let rewrite = self.rewrite.as_mut().filter(|rewrite| rewrite.left.is_empty() && !rewrite.walked);
        sealed.then_trim = rewrite.map(|rewrite| {
            rewrite.walked = true;
            (Offset(rewrite.from), rewrite.number)
        });
        (op, sealed)
    }

    /// Seals a joint commit's own records, past what waits, and holds the log until [`Journal::release`].
    pub(super) fn seal_joint(&mut self, records: Vec<(LogId, AckRecord)>, now_ms: i64) -> (Op, Sealed) {
        self.held = true;
        let records = records.into_iter().map(|(log, record)| (key_of(log), record.encode()));
        self.seal_records(records.collect(), now_ms)
    }

    fn seal_records(&mut self, records: Vec<(Bytes, Bytes)>, now_ms: i64) -> (Op, Sealed) {
        let start = self.next;
        let expect_next = Offset(start);
        let mut batches = Vec::new();
        let mut builder = BatchBuilder::new(now_ms);
        for (key, value) in records {
            builder.push(now_ms, Some(&key), Some(&value), &[]);
            if builder.bytes() >= BATCH_BYTES {
                let full = std::mem::replace(&mut builder, BatchBuilder::new(now_ms));
                batches.push(finish(full, &mut self.next, self.epoch, now_ms));
            }
        }
        if builder.count() > 0 {
            batches.push(finish(builder, &mut self.next, self.epoch, now_ms));
        }
        let bytes = batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        self.bytes += bytes;
        self.sequence += 1;
        self.in_flight += 1;
        let append = Append {
            expect_next,
            commit_id: CommitId { writer: self.writer, sequence: self.sequence },
            class: Durability::Sync,
            // Acknowledging must go on when the store is full: only so is it emptied.
            space: Space::Reserve,
            batches,
        };
        (self.op(Action::Append(append)), Sealed { start, end: self.next, bytes, then_trim: None })
    }

    /// The operation that trims to `start`.
    pub(super) fn trim(&self, start: Offset) -> Op {
        self.op(Action::Trim(start))
    }

    fn op(&self, action: Action) -> Op {
        Op { log: self.log, epoch: self.epoch, owner: self.owner, action }
    }

    /// What was sealed is durable, or certainly did not happen.
    pub(in crate::queues) fn settled(&mut self, sealed: Sealed, happened: bool) {
        self.in_flight -= 1;
        if happened {
            self.settled = self.settled.max(sealed.end);
        } else {
            self.failing = true;
            self.failures += 1;
            self.incomplete = true;
            self.rewrite = None;
        }
        self.recover();
    }

    /// What a joint commit sealed was given up before the store saw it; nothing was sealed behind it. The log is as
    /// it was: this is no failure.
    pub(super) fn unseal(&mut self, sealed: Sealed) {
        self.in_flight -= 1;
        self.next = sealed.start;
        self.bytes -= sealed.bytes;
        self.recover();
    }

    fn recover(&mut self) {
        if self.in_flight == 0 && self.failing {
            self.next = self.settled;
            self.failing = false;
        }
    }

    /// The log was trimmed after a rewrite, or not: then the next rewrite trims further. If another rewrite has begun
    /// meanwhile, that one goes on.
    pub(super) fn trimmed(&mut self, number: u64, happened: bool) {
        let Some(rewrite) = self.rewrite.take_if(|rewrite| rewrite.number == number) else { return };
        if happened {
            self.bytes = self.bytes.saturating_sub(rewrite.bytes_before);
        }
        self.rewrite_at = (self.bytes * REWRITE_FACTOR).max(REWRITE_BYTES_MIN);
    }
}

impl Journaled {
    fn take(&mut self, mut run: Bytes) -> Result<(), String> {
        while !run.is_empty() {
            let view = BatchView::split_from(&mut run).map_err(|error| error.to_string())?;
            view.verify_crc().map_err(|error| error.to_string())?;
            view.verify_header().map_err(|error| error.to_string())?;
            if view.header.compression() != Some(Compression::None) {
                return Err("it is compressed".to_owned());
            }
            for record in Records::new(view.payload(), view.header.record_count) {
                let record = record.map_err(|error| error.to_string())?;
                self.take_record(&record.key.unwrap_or_default(), &record.value.unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn take_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.clean = false;
        match key {
            [CLEAN] => self.clean = true,
            [OPENED] => {}
            [ACKS, log @ ..] => {
                let log = log.try_into().map_err(|_| "a key of the wrong length".to_owned())?;
                let record = AckRecord::decode(value).map_err(|error| error.to_string())?;
                self.acks.entry(LogId(u64::from_be_bytes(log))).or_default().apply(record);
            }
            _ => return Err("a record of an unknown kind: a newer FerryMQ wrote it".to_owned()),
        }
        Ok(())
    }
}

/// The key of a queue's ack records.
fn key_of(log: LogId) -> Bytes {
    let mut key = vec![ACKS];
    key.extend_from_slice(&log.0.to_be_bytes());
    key.into()
}

fn finish(builder: BatchBuilder, next: &mut u64, epoch: Epoch, now_ms: i64) -> Batch {
    let base = Offset(*next);
    let span = builder.count().cast_unsigned();
    let mut bytes = batch::into_mut(builder.build());
    batch::set_position(&mut bytes, base, epoch);
    *next += u64::from(span);
    Batch::new(base, span, now_ms, bytes.freeze())
}
