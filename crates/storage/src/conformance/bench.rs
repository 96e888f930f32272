//! What the cases have in common: a store, an owner that writes to it, batches whose bytes tell where they
//! belong, and a look at everything a log says of itself.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};

use super::Opened;
use crate::{
    Action, Append, Batch, BatchHead, Claim, ErrorKind, LogStore, Op, Outcome, Pending, Read, Space, Stat,
};

/// Room for everything a case writes.
pub(super) const ALL: usize = usize::MAX;

/// A store under test.
pub(super) struct Bench {
    opened: Option<Opened>,
}

impl Bench {
    pub(super) fn new(opened: Opened) -> Bench {
        Bench { opened: Some(opened) }
    }

    pub(super) fn store(&self) -> &Arc<dyn LogStore> {
        &self.opened.as_ref().expect("the bench lost its store in a failed reopening").store
    }

    /// Opens the store anew, if it can be. Whoever holds the old one must have let go of it.
    pub(super) async fn reopen(&mut self) -> bool {
        let opened = self.opened.take().expect("the bench lost its store in a failed reopening");
        match opened.reopen {
            Some(reopen) => {
                drop(opened.store);
                self.opened = Some(reopen().await);
                true
            }
            None => {
                self.opened = Some(opened);
                false
            }
        }
    }

    /// An owner of these logs that draws this number.
    pub(super) async fn owner(&self, nonce: u128, logs: &[u64]) -> Owner {
        let mut owner = Owner::new(self.store(), nonce);
        owner.claim(logs).await;
        owner
    }

    pub(super) async fn stat(&self, log: u64) -> Stat {
        self.store().stat(LogId(log)).await.expect("stat of a log that exists")
    }

    pub(super) async fn heads(&self, log: u64) -> Vec<BatchHead> {
        let heads = self.store().headers(LogId(log), Offset::ZERO, usize::MAX, 0);
        heads.await.expect("headers of a log that exists")
    }

    /// Checks that a log holds these batches and nothing else, in every way it can be asked.
    pub(super) async fn holds(&self, log: u64, expected: &[Batch]) {
        let read = self.store().read(LogId(log), Offset::ZERO, Offset::MAX, ALL).await;
        same_read(&read.expect("a log that exists is read"), expected);
        let heads = self.heads(log).await;
        assert_eq!(heads.len(), expected.len(), "headers of log {log}: {heads:?}");
        for (head, batch) in heads.iter().zip(expected) {
            same_head(head, batch);
        }
        let bytes: usize = expected.iter().map(|batch| batch.bytes.len()).sum();
        assert_eq!(self.stat(log).await.bytes, bytes as u64, "bytes of log {log}");
    }
}

/// Checks that a read returned these batches, in whole runs.
pub(super) fn same_read(read: &Read, expected: &[Batch]) {
    let mut expected = expected.iter().peekable();
    for run in &read.runs {
        let mut bytes = run.bytes.clone();
        assert_eq!(expected.peek().map(|batch| batch.base), Some(run.base), "a run's base in {read:?}");
        let mut next = run.base;
        while !bytes.is_empty() {
            let batch = expected.next().expect("more bytes were read than expected");
            assert!(bytes.starts_with(&batch.bytes), "wrong bytes at offset {}", batch.base);
            bytes = bytes.slice(batch.bytes.len()..);
            next = batch.next();
        }
        assert_eq!(next, run.next, "a run's next in {read:?}");
    }
    assert_eq!(expected.next().map(|batch| batch.base), None, "batches are missing from a read");
}

pub(super) fn same_head(head: &BatchHead, batch: &Batch) {
    let size = u32::try_from(batch.bytes.len()).expect("batches of tests are small");
    let stated = (head.base, head.span, head.max_timestamp, head.size);
    assert_eq!(stated, (batch.base, batch.span, batch.max_timestamp, size), "{head:?}");
}

/// An owner of logs, as a broker is one. It keeps the store alive.
#[derive(Clone)]
pub(super) struct Owner {
    pub(super) store: Arc<dyn LogStore>,
    pub(super) id: OwnerId,
    pub(super) epochs: HashMap<LogId, Epoch>,
    pub(super) sequence: u64,
}

impl Owner {
    pub(super) fn new(store: &Arc<dyn LogStore>, nonce: u128) -> Owner {
        Owner { store: store.clone(), id: OwnerId(nonce), epochs: HashMap::new(), sequence: 0 }
    }

    pub(super) async fn claim(&mut self, logs: &[u64]) -> Vec<Claim> {
        let logs: Vec<LogId> = logs.iter().copied().map(LogId).collect();
        let claims =
            self.store.claim(logs.clone(), self.id).await.expect("logs that exist or may exist are claimed");
        assert_eq!(
            claims.iter().map(|claim| claim.log).collect::<Vec<_>>(),
            logs,
            "one claim per log in order"
        );
        self.epochs.extend(claims.iter().map(|claim| (claim.log, claim.epoch)));
        claims
    }

    pub(super) fn op(&self, log: u64, action: Action) -> Op {
        let log = LogId(log);
        Op { log, epoch: self.epochs.get(&log).copied().unwrap_or_default(), owner: self.id, action }
    }

    /// An append of batches that begin at what is expected to be next.
    pub(super) fn append(&mut self, log: u64, batches: &[Batch]) -> Op {
        let expect = batches.first().map_or(Offset::ZERO, |batch| batch.base);
        self.append_at(log, expect.0, batches)
    }

    pub(super) fn append_at(&mut self, log: u64, expect_next: u64, batches: &[Batch]) -> Op {
        self.append_as(log, expect_next, batches, Durability::Sync)
    }

    pub(super) fn append_as(
        &mut self,
        log: u64,
        expect_next: u64,
        batches: &[Batch],
        class: Durability,
    ) -> Op {
        self.sequence += 1;
        let action = Action::Append(Append {
            expect_next: Offset(expect_next),
            commit_id: self.commit_id(),
            class,
            space: Space::Normal,
            batches: batches.to_vec(),
        });
        self.op(log, action)
    }

    /// The name of the last append made.
    pub(super) fn commit_id(&self) -> CommitId {
        CommitId {
            writer: u64::try_from(self.id.0).expect("nonces of tests are small"),
            sequence: self.sequence,
        }
    }

    pub(super) fn discard(&self, log: u64, ranges: &[(u64, u64)]) -> Op {
        self.op(log, Action::Discard(ranges.iter().map(|(from, to)| Offset(*from)..Offset(*to)).collect()))
    }

    pub(super) fn replace(&self, log: u64, from: u64, to: u64, batches: &[Batch]) -> Op {
        self.op(log, Action::Replace { range: Offset(from)..Offset(to), batches: batches.to_vec() })
    }

    pub(super) fn trim(&self, log: u64, start: u64) -> Op {
        self.op(log, Action::Trim(Offset(start)))
    }

    pub(super) fn delete(&self, log: u64) -> Op {
        self.op(log, Action::Delete)
    }

    /// Hands over one group and does not wait.
    pub(super) fn send(&self, group: Vec<Op>) -> Pending<Vec<Outcome>> {
        self.store.commit(vec![group])
    }

    /// Commits one group.
    pub(super) async fn commit(&self, group: Vec<Op>) -> Outcome {
        only(self.send(group).await)
    }

    /// Commits one group that must succeed.
    pub(super) async fn done(&self, group: Vec<Op>) {
        self.commit(group).await.expect("a group within the contract is committed");
    }

    /// Appends batches that must be accepted.
    pub(super) async fn fill(&mut self, log: u64, batches: &[Batch]) {
        let op = self.append(log, batches);
        self.done(vec![op]).await;
    }
}

/// The outcome of a commit of one group.
pub(super) fn only(mut outcomes: Vec<Outcome>) -> Outcome {
    assert_eq!(outcomes.len(), 1, "one outcome per group");
    outcomes.remove(0)
}

/// Checks that something was refused in this way.
pub(super) fn refused<T: std::fmt::Debug>(result: Result<T, crate::StorageError>, kind: ErrorKind) {
    match result {
        Ok(done) => panic!("{kind:?} was due, but it was done: {done:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

/// A batch whose timestamp is its base and whose bytes tell it from all others.
pub(super) fn batch(base: u64, span: u32) -> Batch {
    sized(base, span, i64::try_from(base).expect("offsets of tests are small"), 20)
}

/// The same with a timestamp and a size.
pub(super) fn sized(base: u64, span: u32, max_timestamp: i64, size: usize) -> Batch {
    let text = format!("<{base}+{span}@{max_timestamp}>");
    let bytes: Bytes = text.bytes().cycle().take(size).collect();
    Batch::new(Offset(base), span, max_timestamp, bytes)
}

/// Batches of these spans, back to back from `base` on.
pub(super) fn row(base: u64, spans: &[u32]) -> Vec<Batch> {
    let mut at = base;
    let next = |span: &u32| {
        let batch = batch(at, *span);
        at += u64::from(*span);
        batch
    };
    spans.iter().map(next).collect()
}
