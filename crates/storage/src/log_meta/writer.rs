//! The one who writes: takes what is queued, commits it, shows what became durable.
//!
//! **Invariants.** What is in flight belongs to the writer, not to the future of whoever began it; the next to
//! write finishes it. A request is answered once what its compares saw is durable. After an outcome that is not
//! certain nothing more is shown or written.
//!
//! Deliberately absent: fairness between waiters; they are answered together.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{CommitId, Durability, Epoch, Offset, OwnerId};
use parking_lot::{Mutex, RwLock};

use super::META_LOG;
use super::record::Record;
use super::state::State;
use crate::{
    Action, Append, Batch, Compare, ErrorKind, Group, LogStore, Op, Outcome, Pending, Put, Revision, Space,
    StorageError,
};

/// Transactions written in one commit.
const TRANSACTIONS_PER_COMMIT: usize = 256;
/// A snapshot is due when the log holds so many times the bytes of the state, and at least so many bytes.
pub(super) const SNAPSHOT_FACTOR: u64 = 4;
pub(super) const SNAPSHOT_BYTES_MIN: u64 = 256 << 10;
/// Bytes of one part of a snapshot, about.
const SNAPSHOT_PART_BYTES: usize = 1 << 20;

pub(super) struct Inner {
    pub(super) store: Arc<dyn LogStore>,
    pub(super) owner: OwnerId,
    pub(super) epoch: Epoch,
    pub(super) state: RwLock<State>,
    pub(super) queue: Mutex<VecDeque<Request>>,
    pub(super) writer: futures_util::lock::Mutex<Writer>,
}

/// What only the one who writes may touch.
pub(super) struct Writer {
    next: Offset,
    sequence: u64,
    log_bytes: u64,
    in_flight: Option<InFlight>,
    closed: Option<StorageError>,
}

impl Writer {
    /// A writer that goes on at `next`, in a log of so many bytes.
    pub(super) fn new(next: Offset, log_bytes: u64) -> Writer {
        Writer { next, sequence: 0, log_bytes, in_flight: None, closed: None }
    }
}

/// A commit that was handed over and not yet answered. It is kept here, and not in the future of whoever
/// began it, because that may be dropped.
struct InFlight {
    outcomes: Pending<Vec<Outcome>>,
    what: Work,
}

enum Work {
    Transactions(Vec<(Request, Revision)>),
    /// The offset behind it, and its bytes.
    Snapshot(Offset, u64),
}

/// A transaction on its way.
pub(super) struct Request {
    pub(super) compares: Vec<Compare>,
    pub(super) puts: Vec<Put>,
    pub(super) class: Durability,
    pub(super) reply: Reply,
}

pub(super) type Reply = Arc<Mutex<Option<Result<Revision, StorageError>>>>;

/// What the queue tells about one request.
enum Checked {
    /// All its compares hold; it has something to write.
    Write,
    /// Answer it now.
    Answer(Result<Revision, StorageError>),
    /// It depends on what is not durable yet: ask again afterwards.
    Later,
}

impl Inner {
    /// Finishes what is in flight, or begins and finishes the next commit.
    pub(super) async fn write_some(&self, writer: &mut Writer) {
        if writer.in_flight.is_none() {
            writer.in_flight = self.begin(writer);
        }
        let Some(flight) = &mut writer.in_flight else { return };
        // Dropped here, the commit stays in flight for the next writer to finish.
        let outcomes = (&mut flight.outcomes).await;
        if let Some(flight) = writer.in_flight.take() {
            match flight.what {
                Work::Transactions(requests) => self.settle(writer, requests, outcomes),
                Work::Snapshot(next, bytes) => settle_snapshot(writer, next, bytes, outcomes),
            }
        }
        if writer.closed.is_none() && writer.log_bytes > SNAPSHOT_BYTES_MIN.max(self.snapshot_due()) {
            // Not waited for: whoever writes next does.
            writer.in_flight = Some(self.begin_snapshot(writer));
        }
    }

    fn snapshot_due(&self) -> u64 {
        self.state.read().bytes() * SNAPSHOT_FACTOR
    }

    /// Takes requests out of the queue and hands them over.
    fn begin(&self, writer: &mut Writer) -> Option<InFlight> {
        let mut queue = self.queue.lock();
        if let Some(why) = &writer.closed {
            for request in queue.drain(..) {
                let error = StorageError::new(ErrorKind::Closed, "the metadata store has closed");
                *request.reply.lock() = Some(Err(error.caused_by(why.clone())));
            }
            return None;
        }
        let state = self.state.read();
        let mut written: HashMap<String, Option<Revision>> = HashMap::new();
        let mut groups = Vec::new();
        let mut requests = Vec::new();
        let mut next = writer.next;
        while requests.len() < TRANSACTIONS_PER_COMMIT
            && let Some(request) = queue.pop_front()
        {
            match check_against(&state, &written, &request) {
                Checked::Answer(result) => *request.reply.lock() = Some(result),
                Checked::Later => {
                    queue.push_front(request);
                    break;
                }
                Checked::Write => {
                    let revision = Revision(next.0 + 1);
                    for put in &request.puts {
                        written.insert(put.key.clone(), put.value.as_ref().map(|_| revision));
                    }
                    groups.push(self.group(writer, next, &request));
                    next = next.plus(1);
                    requests.push((request, revision));
                }
            }
        }
        if groups.is_empty() {
            return None;
        }
        Some(InFlight { outcomes: self.store.commit(groups), what: Work::Transactions(requests) })
    }

    fn group(&self, writer: &mut Writer, next: Offset, request: &Request) -> Group {
        let bytes = Record::Transaction(request.puts.clone()).encode();
        // Records are small, and what frees space (a deletion, what a trim must remember) is recorded here first.
        vec![self.append(writer, next, vec![bytes], request.class, Space::Reserve)]
    }

    fn append(
        &self,
        writer: &mut Writer,
        next: Offset,
        records: Vec<Bytes>,
        class: Durability,
        space: Space,
    ) -> Op {
        writer.sequence += 1;
        let bases = (0..).map(|place| next.plus(place));
        let batches = bases.zip(records).map(|(base, bytes)| Batch::new(base, 1, 0, bytes));
        let append = Append {
            expect_next: next,
            commit_id: CommitId { writer: u64::from(self.epoch.0), sequence: writer.sequence },
            class,
            space,
            batches: batches.collect(),
        };
        self.op(Action::Append(append))
    }

    pub(super) fn op(&self, action: Action) -> Op {
        Op { log: META_LOG, epoch: self.epoch, owner: self.owner, action }
    }

    /// Shows what is durable and tells those who asked for it; what failed only because something before it
    /// did goes back to the queue.
    fn settle(&self, writer: &mut Writer, requests: Vec<(Request, Revision)>, outcomes: Vec<Outcome>) {
        let mut failed = false;
        let mut again = Vec::new();
        for ((request, revision), outcome) in requests.into_iter().zip(outcomes) {
            match outcome {
                // Durable, but on top of something nobody knows: not shown, and not promised.
                Ok(()) if writer.closed.is_some() => {
                    let what = "a transaction before this one has an unknown outcome";
                    *request.reply.lock() = Some(Err(StorageError::new(ErrorKind::Unknown, what)));
                }
                Ok(()) => {
                    writer.next = Offset(revision.0);
                    writer.log_bytes += put_bytes(&request.puts);
                    self.state.write().apply(revision, request.puts);
                    *request.reply.lock() = Some(Ok(revision));
                }
                Err(error) if failed && error.kind() == ErrorKind::Conflict => again.push(request),
                Err(error) => {
                    failed = true;
                    close_if_fatal(writer, &error);
                    *request.reply.lock() = Some(Err(error));
                }
            }
        }
        let mut queue = self.queue.lock();
        again.into_iter().rev().for_each(|request| queue.push_front(request));
    }

    fn begin_snapshot(&self, writer: &mut Writer) -> InFlight {
        let records = snapshot(&self.state.read());
        let bytes = records.iter().map(|record| record.len() as u64).sum();
        let next = writer.next;
        let behind = next.plus(records.len() as u64);
        let append = self.append(writer, next, records, Durability::Sync, Space::Reserve);
        let group = vec![append, self.op(Action::Trim(next))];
        InFlight { outcomes: self.store.commit(vec![group]), what: Work::Snapshot(behind, bytes) }
    }
}

fn settle_snapshot(writer: &mut Writer, next: Offset, bytes: u64, mut outcomes: Vec<Outcome>) {
    match outcomes.pop() {
        Some(Err(error)) => {
            close_if_fatal(writer, &error);
            // Not at once again: the next one is due when as much has been written once more.
            writer.log_bytes = 0;
        }
        _ => {
            writer.next = next;
            writer.log_bytes = bytes;
        }
    }
}

fn check_against(state: &State, written: &HashMap<String, Option<Revision>>, request: &Request) -> Checked {
    for compare in &request.compares {
        let (revision, durable) = match written.get(&compare.key) {
            Some(revision) => (*revision, false),
            None => (state.revision_of(&compare.key), true),
        };
        if revision != compare.revision {
            let what = format!("an entry has another revision than expected: key={}", compare.key);
            return match durable {
                true => Checked::Answer(Err(StorageError::new(ErrorKind::Conflict, what))),
                // The change that contradicts it may still fail.
                false => Checked::Later,
            };
        }
    }
    match (request.puts.is_empty(), written.is_empty()) {
        (false, _) => Checked::Write,
        (true, true) => Checked::Answer(Ok(state.revision())),
        (true, false) => Checked::Later,
    }
}

/// Everything that is there, as the records of a snapshot.
fn snapshot(state: &State) -> Vec<Bytes> {
    let mut chunks = vec![Vec::new()];
    let mut size = 0;
    for entry in state.entries() {
        if size >= SNAPSHOT_PART_BYTES {
            chunks.push(Vec::new());
            size = 0;
        }
        size += entry.key.len() + entry.value.len();
        chunks.last_mut().expect("never empty").push(entry);
    }
    let parts = u32::try_from(chunks.len()).expect("a state of 4 billion megabytes does not fit in memory");
    let records = (0..parts).zip(chunks).map(|(part, entries)| Record::Snapshot { part, parts, entries });
    records.map(|record| record.encode()).collect()
}

fn put_bytes(puts: &[Put]) -> u64 {
    let bytes = |put: &Put| put.key.len() + put.value.as_ref().map_or(0, Bytes::len) + 7;
    puts.iter().map(bytes).sum::<usize>() as u64 + 10
}

/// What may have happened, or was done by somebody else, cannot be gone on from.
fn close_if_fatal(writer: &mut Writer, error: &StorageError) {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::LimitExceeded | ErrorKind::InvalidArgument => {}
        _ => writer.closed = Some(error.clone()),
    }
}
