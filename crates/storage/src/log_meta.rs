//! [`LogMeta`]: a [`MetaStore`] as the state of one log, so that an engine that keeps logs keeps this too.
//!
//! ```text
//!  txn ---> queue ---> one writer at a time: compare, encode, commit ---> durable ---> state ---> readers
//!                                                                  '-> snapshot and trim, now and then
//! ```
//! A transaction is one batch; its revision is its offset plus one, and so is never given out twice. Whoever
//! waits for its own transaction writes those of all who wait, one group each in one commit: a thousand
//! topics cost a few syncs.
//!
//! **Invariants.** Nothing is visible before it is durable. A transaction whose future was dropped is
//! finished by the next one, or by opening the log again. An outcome that is unknown, or another owner,
//! closes the store: it answers reads from what it has, and nothing else.
//!
//! Deliberately absent: tasks and timers. Heartbeats are batches of the class `Memory`: they cost no sync, a
//! restart forgets them, and still no revision is used twice.

mod record;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};
use parking_lot::{Mutex, RwLock};

use crate::{
    Action, Append, Batch, Compare, Entry, ErrorKind, Group, Listing, LogStore, MetaStore, Op, Outcome,
    Pending, Put, Revision, Space, StorageError,
};
use record::Record;
use state::State;

/// The log that metadata lives in.
pub const META_LOG: LogId = LogId(0);
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// Largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Largest transaction, in bytes of keys and values.
pub const TRANSACTION_BYTES_MAX: usize = 16 << 20;

/// Transactions written in one commit.
const TRANSACTIONS_PER_COMMIT: usize = 256;
/// A snapshot is due when the log holds so many times the bytes of the state, and at least so many bytes.
const SNAPSHOT_FACTOR: u64 = 4;
const SNAPSHOT_BYTES_MIN: u64 = 256 << 10;
/// Bytes of one part of a snapshot, about.
const SNAPSHOT_PART_BYTES: usize = 1 << 20;
/// Bytes read at a time when the log is opened.
const READ_BYTES: usize = 4 << 20;

/// Metadata kept in one log. Cheap to clone: clones are the same store.
#[derive(Clone)]
pub struct LogMeta {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for LogMeta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogMeta")
            .field("revision", &self.inner.state.read().revision())
            .finish_non_exhaustive()
    }
}

struct Inner {
    store: Arc<dyn LogStore>,
    owner: OwnerId,
    epoch: Epoch,
    state: RwLock<State>,
    queue: Mutex<VecDeque<Request>>,
    writer: futures_util::lock::Mutex<Writer>,
}

/// What only the one who writes may touch.
struct Writer {
    next: Offset,
    sequence: u64,
    log_bytes: u64,
    in_flight: Option<InFlight>,
    closed: Option<StorageError>,
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
struct Request {
    compares: Vec<Compare>,
    puts: Vec<Put>,
    class: Durability,
    reply: Reply,
}

type Reply = Arc<Mutex<Option<Result<Revision, StorageError>>>>;

impl LogMeta {
    /// Takes the log [`META_LOG`] of `store` over and reads it.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` for a log that is not one of metadata.
    pub async fn open(store: Arc<dyn LogStore>, owner: OwnerId) -> Result<LogMeta, StorageError> {
        let claim = store.claim(vec![META_LOG], owner).await?.remove(0);
        let mut state = State::default();
        let mut at = claim.start;
        while at < claim.next {
            let heads = store.headers(META_LOG, at, 4096, 0).await?;
            let Some(last) = heads.last() else { break };
            let until = last.base.plus(u64::from(last.span));
            load(&*store, &mut state, &heads, at, until).await?;
            at = until;
        }
        state.advance(Revision(claim.next.0));
        let log_bytes = store.stat(META_LOG).await?.bytes;
        let writer = Writer { next: claim.next, sequence: 0, log_bytes, in_flight: None, closed: None };
        let inner = Inner {
            store,
            owner,
            epoch: claim.epoch,
            state: RwLock::new(state),
            queue: Mutex::default(),
            writer: futures_util::lock::Mutex::new(writer),
        };
        Ok(LogMeta { inner: Arc::new(inner) })
    }

    fn submit(
        &self,
        compares: Vec<Compare>,
        puts: Vec<Put>,
        class: Durability,
    ) -> Pending<Result<Revision, StorageError>> {
        if let Err(error) = check(&compares, &puts) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let reply = Reply::default();
        let inner = self.inner.clone();
        inner.queue.lock().push_back(Request { compares, puts, class, reply: reply.clone() });
        Box::pin(async move {
            loop {
                let mut writer = inner.writer.lock().await;
                if let Some(result) = reply.lock().take() {
                    return result;
                }
                inner.write_some(&mut writer).await;
            }
        })
    }
}

/// Reads the batches that `heads` describe into the state.
async fn load(
    store: &dyn LogStore,
    state: &mut State,
    heads: &[crate::BatchHead],
    from: Offset,
    until: Offset,
) -> Result<(), StorageError> {
    let mut heads = heads.iter();
    let mut at = from;
    while at < until {
        let read = store.read(META_LOG, at, until, READ_BYTES).await?;
        let Some(next) = read.next() else { break };
        for mut run in read.runs {
            while !run.bytes.is_empty() {
                let head = heads.next().ok_or_else(|| unreadable(at, "more bytes than described"))?;
                let size = usize::try_from(head.size).unwrap_or(usize::MAX);
                if run.bytes.len() < size {
                    return Err(unreadable(head.base, "fewer bytes than described"));
                }
                let record = Record::decode(run.bytes.split_to(size));
                let revision = Revision(head.base.0 + 1);
                match record.map_err(|what| unreadable(head.base, what))? {
                    Record::Transaction(puts) => state.apply(revision, puts),
                    Record::Snapshot { part, entries, .. } => {
                        if part == 0 {
                            state.begin_snapshot();
                        }
                        state.load(revision, entries);
                    }
                }
            }
        }
        at = next;
    }
    Ok(())
}

fn unreadable(at: Offset, what: &str) -> StorageError {
    let kind = ErrorKind::Corrupt { resume: at.plus(1) };
    StorageError::new(kind, format!("metadata cannot be read: {what}: offset={at}"))
}

fn check(compares: &[Compare], puts: &[Put]) -> Result<(), StorageError> {
    let mut seen = std::collections::HashSet::new();
    let mut bytes = 0;
    for put in puts {
        if put.key.is_empty() || !seen.insert(&put.key) {
            return Err(StorageError::new(
                ErrorKind::InvalidArgument,
                format!("a key is empty or put twice: {}", put.key),
            ));
        }
        let value = put.value.as_ref().map_or(0, Bytes::len);
        bytes += put.key.len() + value;
        if put.key.len() > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(StorageError::new(ErrorKind::LimitExceeded, "a key or value is too long"));
        }
    }
    if bytes > TRANSACTION_BYTES_MAX || compares.len() > TRANSACTION_BYTES_MAX {
        return Err(StorageError::new(
            ErrorKind::LimitExceeded,
            format!("a transaction is too large: bytes={bytes}"),
        ));
    }
    Ok(())
}

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
    async fn write_some(&self, writer: &mut Writer) {
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
        let frees = request.class == Durability::Memory || request.puts.iter().any(|put| put.value.is_none());
        let space = if frees { Space::Reserve } else { Space::Normal };
        let bytes = Record::Transaction(request.puts.clone()).encode();
        vec![self.append(writer, next, vec![bytes], request.class, space)]
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
        let batches =
            bases.zip(records).map(|(base, bytes)| Batch { base, span: 1, max_timestamp: 0, bytes });
        let append = Append {
            expect_next: next,
            commit_id: CommitId { writer: u64::from(self.epoch.0), sequence: writer.sequence },
            class,
            space,
            batches: batches.collect(),
        };
        self.op(Action::Append(append))
    }

    fn op(&self, action: Action) -> Op {
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
            None => (state.get(&compare.key).map(|entry| entry.revision), true),
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
        chunks.last_mut().expect("never empty").push(entry.clone());
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

impl MetaStore for LogMeta {
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>> {
        let entry = self.inner.state.read().get(key).cloned();
        Box::pin(std::future::ready(Ok(entry)))
    }

    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>> {
        let listing = self.inner.state.read().list(prefix, since);
        Box::pin(std::future::ready(Ok(listing)))
    }

    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>> {
        self.submit(compares, puts, Durability::Sync)
    }

    fn heartbeat(&self, broker: u32, status: Bytes) -> Pending<Result<Revision, StorageError>> {
        let put = Put { key: format!("brokers/{broker}"), value: Some(status) };
        self.submit(Vec::new(), vec![put], Durability::Memory)
    }
}
