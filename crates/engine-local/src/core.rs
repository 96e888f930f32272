//! The writer: takes work, writes one group, syncs it, publishes it. One step at a time, on any thread.
//!
//! ```text
//! work -> stage -> encode -> write -> publish what may be seen now -> sync -> publish the rest -> answer
//! ```
//! **Invariants.** Nothing is published or answered as done before it is durable for its class. The first
//! failed write or sync stops the writer for good; a full disk does not. What was staged and not written is
//! taken back.
//!
//! Deliberately absent: threads, queues and waiting, so that a simulated disk can drive every step.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use ferrymq_storage::validate::{check_claim, check_group};
use ferrymq_storage::{Action, Claim, ErrorKind, Group, Outcome, StorageError};
use ferrymq_types::{IdSet, LogId, OwnerId};

use crate::core::bodies::Bodies;
use crate::counters::Counters;
use crate::files::{DataFile, FileId};
use crate::format::{BLOCK_BYTES, FileKind, HEAD_BYTES, Record, encode_group};
use crate::options::SeededBug;
use crate::shared::Shared;
use crate::stage::{Accepted, Staging};

pub(crate) mod bodies;
pub(crate) mod maintain;
mod publish;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A group that is larger than one in so many of the zeros written ahead is not worth any.
const ZEROS_AHEAD_GROUPS: u64 = 8;

/// What to do.
#[derive(Debug)]
pub enum Work {
    /// One atomic group.
    Group(Group),
    /// A claim of many logs.
    Claim {
        /// Which logs.
        logs: Vec<LogId>,
        /// For whom.
        owner: OwnerId,
    },
}

impl Work {
    fn replaces(&self) -> bool {
        match self {
            Work::Group(group) => group.iter().any(|op| matches!(op.action, Action::Replace { .. })),
            Work::Claim { .. } => false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Done {
    /// A group's outcome.
    Group(Outcome),
    /// A claim's.
    Claim(Result<Vec<Claim>, StorageError>),
}

impl Done {
    fn failed(work_is_claim: bool, error: StorageError) -> Done {
        if work_is_claim { Done::Claim(Err(error)) } else { Done::Group(Err(error)) }
    }
}

/// Takes an answer. Called exactly once per piece of work.
pub type Reply = Box<dyn FnOnce(Done) + Send>;

/// A piece of work and whom to answer.
pub struct Submission {
    /// What to do.
    pub work: Work,
    /// Whom to answer.
    pub reply: Reply,
}

/// A data file being written.
pub(crate) struct ActiveFile {
    pub data: Arc<DataFile>,
    pub position: u64,
    pub length: u64,
    /// Up to where every block has been written, if only with zeros. Never counted on by anything but speed.
    pub written: u64,
    /// Bytes written since the last sync.
    pub unsynced: u64,
    /// Logs with batches in it.
    pub logs: IdSet<u64>,
}

/// The writer's own state.
pub struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) staging: Staging,
    pub(crate) wal: ActiveFile,
    /// What in it may be referred to.
    pub(crate) bodies: Bodies,
    /// What `FORMAT` says.
    pub(crate) format: u32,
    pub(crate) volatile: Option<ActiveFile>,
    pub(crate) next_file: u64,
    /// Number of the last group written.
    pub(crate) seq: u64,
    /// Number of the last group known to be synced.
    pub(crate) durable_seq: u64,
    pub(crate) checkpoint: u64,
    pub(crate) checkpoint_previous: u64,
    /// Batches in the tail cache, oldest first: log, base, bytes.
    pub(crate) tail_order: VecDeque<(u64, u64, usize)>,
    pub(crate) tail_bytes: usize,
    pub(crate) space_checked: Option<Duration>,
    pub(crate) full: bool,
    pub(crate) stopped: bool,
    pub(crate) _lock: Box<dyn Send + Sync>,
}

/// An answer to be given, and what it waits for.
struct Answer {
    reply: Reply,
    is_claim: bool,
    done: Done,
    /// Needs no sync, and nothing before it in its logs does.
    early: bool,
}

/// One write group being put together.
#[derive(Default)]
struct Round {
    /// By log; within a log in the order of effect.
    items: Vec<Item>,
    answers: Vec<Answer>,
}

/// One record of a round.
pub(crate) struct Item {
    pub record: Record,
    /// Where it is written.
    pub kind: FileKind,
    /// May be published before the sync.
    pub early: bool,
    /// Which of the round's groups or claims it belongs to: what one does to a log is seen at once.
    pub group: usize,
}

/// Whether the disk, or what the user may use of it, is full. What failed so may be tried again later.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a step failed.
pub(crate) enum Failure {
    /// No room; nothing was changed.
    Full(io::Error),
    /// The writer must stop. `wrote`: the group may be on the disk.
    Fatal { error: io::Error, wrote: bool },
}

impl Failure {
    fn before(error: io::Error) -> Failure {
        if is_no_room(&error) {
            return Failure::Full(error);
        }
        Failure::Fatal { error, wrote: false }
    }

    fn after(error: io::Error) -> Failure {
        Failure::Fatal { error, wrote: true }
    }
}

impl Core {
    /// Does all of `work`, in one write group if it can. Every piece is answered before this returns.
    pub fn execute(&mut self, work: Vec<Submission>) {
        let mut together = Vec::with_capacity(work.len());
        for submission in work {
            // A replacement looks at what is published: what comes before it must be.
            if submission.work.replaces() && !together.is_empty() {
                self.execute_round(std::mem::take(&mut together));
            }
            together.push(submission);
        }
        if !together.is_empty() {
            self.execute_round(together);
        }
    }

    fn execute_round(&mut self, work: Vec<Submission>) {
        if !self.stopped {
            self.check_space();
        }
        if self.stopped {
            for submission in work {
                let is_claim = matches!(submission.work, Work::Claim { .. });
                (submission.reply)(Done::failed(is_claim, closed()));
            }
            return;
        }
        let mut round = self.stage(work);
        match self.write_round(&mut round) {
            Ok(()) => {
                self.staging.keep();
                self.finish_round(round);
            }
            Err(Failure::Full(error)) => {
                self.staging.take_back();
                Counters::add(&self.shared.counters.refused_full, 1);
                let error = StorageError::new(ErrorKind::Full, "no space left").caused_by(error);
                round.fail(&error);
            }
            Err(Failure::Fatal { error, wrote }) => {
                self.stop_for_good(&error);
                let error = if wrote { unknown(error) } else { closed() };
                round.fail(&error);
            }
        }
        self.retire_files();
    }

    /// A reader of what is published.
    #[must_use]
    pub fn reader(&self) -> crate::read::Reader {
        crate::read::Reader { shared: self.shared.clone() }
    }

    /// Whether the writer has stopped for good.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn stage(&mut self, work: Vec<Submission>) -> Round {
        self.staging.begin();
        let mut round = Round::default();
        let mut waiting_logs = IdSet::default();
        // Most work is one batch: lists that grow are copied again and again.
        round.items.reserve(work.len());
        round.answers.reserve(work.len());
        waiting_logs.reserve(work.len());
        for Submission { work, reply } in work {
            let is_claim = matches!(work, Work::Claim { .. });
            let (accepted, done) = match self.stage_one(work) {
                Ok(staged) => staged,
                Err(error) => {
                    reply(Done::failed(is_claim, error));
                    continue;
                }
            };
            let logs = || accepted.records.iter().map(|(record, _)| record.header.log);
            let early = !accepted.needs_sync && !logs().any(|log| waiting_logs.contains(&log));
            if !early {
                waiting_logs.extend(logs());
            }
            let group = round.answers.len();
            let items = accepted.records.into_iter();
            round.items.extend(items.map(|(record, kind)| Item { record, kind, early, group }));
            round.answers.push(Answer { reply, is_claim, done, early });
        }
        // A stable sort: order within a log stays, and a log's batches lie together.
        round.items.sort_by_key(|item| item.record.header.log);
        round
    }

    fn stage_one(&mut self, work: Work) -> Result<(Accepted, Done), StorageError> {
        match work {
            Work::Claim { logs, owner } => {
                check_claim(&logs)?;
                let (accepted, claims) = self.staging.claim(&logs, owner)?;
                Ok((accepted, Done::Claim(Ok(claims))))
            }
            Work::Group(group) => {
                check_group(&group, true)?;
                let mut accepted = self.staging.group(group, self.full, &self.shared)?;
                if self.shared.options.has(SeededBug::AckGroupPartially) && accepted.records.len() > 1 {
                    accepted.records.truncate(accepted.records.len() / 2);
                }
                Ok((accepted, Done::Group(Ok(()))))
            }
        }
    }

    fn write_round(&mut self, round: &mut Round) -> Result<(), Failure> {
        let mut volatile = records(&round.items, FileKind::Volatile);
        if !volatile.is_empty() {
            self.make_room_volatile(group_bytes(&volatile))?;
            self.write_group(FileKind::Volatile, &mut volatile, &mut round.items)?;
        }
        let mut wal = records(&round.items, FileKind::Wal);
        if !wal.is_empty() {
            let bodies = self.share(&mut wal)?;
            self.write_group(FileKind::Wal, &mut wal, &mut round.items)?;
            self.bodies.keep(bodies, &wal);
            let saved =
                wal.iter().map(|record| record.frame.as_ref().map_or(0, |frame| frame.elsewhere_bytes()));
            Counters::add(&self.shared.counters.bytes_shared, saved.sum::<usize>() as u64);
        }
        Ok(())
    }

    /// Writes one group into the active file of `kind`, which must have room.
    fn write_group(
        &mut self,
        kind: FileKind,
        plain: &mut [Record],
        items: &mut [Item],
    ) -> Result<(), Failure> {
        let shared = self.shared.clone();
        let seq = if kind == FileKind::Wal { self.seq + 1 } else { 0 };
        let durable_seq = self.durable_seq;
        let Some(active) = self.active(kind) else {
            return Err(Failure::before(io::Error::other("no active file")));
        };
        let identity = shared.identity(active.data.id);
        let Some(table) = encode_group(identity, active.position, seq, durable_seq, plain) else {
            return Err(Failure::before(io::Error::other("a write group exceeds a file")));
        };
        let mut chunks = Vec::with_capacity(plain.len() + 2);
        chunks.push(IoSlice::new(&table));
        let mut length = table.len();
        for record in &*plain {
            record.chunks(&mut chunks);
            length += record.slot_bytes();
        }
        let padded = (length as u64).next_multiple_of(BLOCK_BYTES);
        let ahead = match kind {
            FileKind::Wal => active.zeros_ahead(padded, shared.options.zeros_ahead_bytes),
            _ => 0,
        };
        push_zeros(&mut chunks, padded - length as u64 + ahead);
        if let Err(error) = active.data.file.write_at(&chunks, active.position) {
            return Err(undo_write(active, error));
        }
        active.position += padded;
        active.written = active.written.max(active.position + ahead);
        active.unsynced += padded;
        active.logs.extend(plain.iter().filter(|it| it.header.is_batch()).map(|it| it.header.log));
        Counters::add(&shared.counters.records, plain.len() as u64);
        for (item, written) in items.iter_mut().filter(|item| item.kind == kind).zip(plain) {
            item.record.header = written.header;
        }
        if kind == FileKind::Wal {
            self.seq = seq;
        }
        Counters::add(&shared.counters.groups, 1);
        Counters::add(&shared.counters.bytes_written, padded + ahead);
        Ok(())
    }

    fn active(&mut self, kind: FileKind) -> Option<&mut ActiveFile> {
        match kind {
            FileKind::Volatile => self.volatile.as_mut(),
            _ => Some(&mut self.wal),
        }
    }

    /// Publishes and answers: what needs no sync first.
    fn finish_round(&mut self, mut round: Round) {
        let ack_before_sync = self.shared.options.has(SeededBug::AckBeforeSync);
        for answer in &mut round.answers {
            answer.early |= ack_before_sync;
        }
        for item in &mut round.items {
            item.early |= ack_before_sync;
        }
        let (early, late) = match round.answers.iter().any(|answer| answer.early) {
            true => round.answers.into_iter().partition(|answer| answer.early),
            false => (Vec::new(), round.answers),
        };
        self.publish(&round.items, true);
        for answer in early {
            (answer.reply)(answer.done);
        }
        if late.is_empty() && self.wal.unsynced < self.shared.options.unsynced_bytes_max {
            return;
        }
        if let Err(error) = self.sync_wal() {
            self.stop_for_good(&error);
            let error = unknown(error);
            for answer in late {
                (answer.reply)(Done::failed(answer.is_claim, error.clone()));
            }
            return;
        }
        self.publish(&round.items, false);
        for answer in late {
            (answer.reply)(answer.done);
        }
    }

    /// Makes everything written to the WAL durable.
    pub(crate) fn sync_wal(&mut self) -> io::Result<()> {
        if self.wal.unsynced > 0 {
            let began = self.shared.clock.uptime();
            let mut result = self.wal.data.file.sync_data();
            if result.is_err() && self.shared.options.has(SeededBug::RetrySync) {
                result = self.wal.data.file.sync_data();
            }
            if !self.shared.options.has(SeededBug::IgnoreSyncError) {
                result?;
            }
            self.shared.counters.synced(self.shared.clock.uptime().saturating_sub(began));
            self.wal.unsynced = 0;
        }
        self.durable_seq = self.seq;
        Ok(())
    }

    pub(crate) fn stop_for_good(&mut self, error: &io::Error) {
        tracing::error!(%error, "a write or sync failed; no more writes are taken until a restart");
        self.stopped = true;
        self.shared.health.lock().stopped.get_or_insert_with(|| format!("write failed: {error}"));
    }

    pub(crate) fn new_file_id(&mut self) -> FileId {
        let id = FileId(self.next_file);
        self.next_file += 1;
        id
    }
}

impl Round {
    fn fail(self, error: &StorageError) {
        for answer in self.answers {
            (answer.reply)(Done::failed(answer.is_claim, error.clone()));
        }
    }
}

impl ActiveFile {
    /// Zeros to be written behind a group of so many bytes, at most `most`.
    fn zeros_ahead(&self, group: u64, most: u64) -> u64 {
        let end = self.position + group;
        if end <= self.written || group > most / ZEROS_AHEAD_GROUPS {
            return 0;
        }
        most.min(self.length.saturating_sub(end))
    }
}

fn push_zeros(chunks: &mut Vec<IoSlice<'_>>, mut count: u64) {
    while count > 0 {
        let some = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
        chunks.push(IoSlice::new(&ZEROS[..some]));
        count -= some as u64;
    }
}

/// After a write failed for want of space: makes sure that nothing of the group can come back.
fn undo_write(active: &ActiveFile, error: io::Error) -> Failure {
    let error = match Failure::before(error) {
        Failure::Full(error) => error,
        Failure::Fatal { error, .. } => return Failure::after(error),
    };
    let mut block = Vec::new();
    push_zeros(&mut block, BLOCK_BYTES);
    let file = &active.data.file;
    let undone = file.write_at(&block, active.position).and_then(|()| file.sync_data());
    match undone {
        Ok(()) => Failure::Full(error),
        Err(error) => Failure::after(error),
    }
}

/// The records of one kind, to be written.
fn records(items: &[Item], kind: FileKind) -> Vec<Record> {
    items.iter().filter(|item| item.kind == kind).map(|item| item.record.clone()).collect()
}

/// Bytes of the group that these records make.
fn group_bytes(records: &[Record]) -> u64 {
    let bytes = records.iter().fold(HEAD_BYTES, |bytes, record| bytes + HEAD_BYTES + record.slot_bytes());
    (bytes as u64).next_multiple_of(BLOCK_BYTES)
}

pub(crate) fn closed() -> StorageError {
    StorageError::new(ErrorKind::Closed, "the store has stopped")
}

fn unknown(error: io::Error) -> StorageError {
    StorageError::new(ErrorKind::Unknown, "the store failed while this was written").caused_by(error)
}
