//! The oracle passes its own suite, and its extras for tests do what they say.

use std::sync::Arc;

use ferrymq_types::{CommitId, Durability, Epoch, LogId, Offset, OwnerId};
use futures_util::FutureExt as _;

use crate::conformance::{self, Opened};
use crate::*;

fn factory() -> Pending<Opened> {
    Box::pin(async { Opened { store: Arc::new(MemoryStore::new()), reopen: None } })
}

/// Opens the same memory again, which is as good as a restart that loses nothing.
fn reopened(store: MemoryStore) -> Opened {
    let reopen = store.clone();
    Opened {
        store: Arc::new(store),
        reopen: Some(Box::new(move || Box::pin(async move { reopened(reopen) }))),
    }
}

#[test]
fn memory_passes_the_suite() {
    conformance::run_all(&factory, &conformance::block_on);
}

#[test]
fn memory_that_is_opened_again_passes_the_suite() {
    let factory = || -> Pending<Opened> { Box::pin(async { reopened(MemoryStore::new()) }) };
    conformance::run_all(&factory, &conformance::block_on);
}

/// Memory with a defect: it does something else than it is asked.
struct Defective {
    store: MemoryStore,
    defect: fn(&mut Action),
}

impl LogStore for Defective {
    fn atomic_multi_log(&self) -> bool {
        true
    }

    fn claim(&self, logs: Vec<LogId>, owner: OwnerId) -> Pending<Result<Vec<Claim>, StorageError>> {
        self.store.claim(logs, owner)
    }

    fn commit(&self, mut groups: Vec<Group>) -> Pending<Vec<Outcome>> {
        groups.iter_mut().flatten().for_each(|op| (self.defect)(&mut op.action));
        self.store.commit(groups)
    }

    fn read(
        &self,
        log: LogId,
        from: Offset,
        until: Offset,
        max: usize,
    ) -> Pending<Result<Read, StorageError>> {
        self.store.read(log, from, until, max)
    }

    fn headers(
        &self,
        log: LogId,
        from: Offset,
        max: usize,
        prefix: usize,
    ) -> Pending<Result<Vec<BatchHead>, StorageError>> {
        self.store.headers(log, from, max, prefix)
    }

    fn find(&self, log: LogId, what: Find) -> Pending<Result<Option<BatchHead>, StorageError>> {
        self.store.find(log, what)
    }

    fn stat(&self, log: LogId) -> Pending<Result<Stat, StorageError>> {
        self.store.stat(log)
    }
}

#[test]
fn random_lives_tell_a_defective_store_from_the_oracle() {
    let defects: [fn(&mut Action); 4] = [
        |action| {
            if let Action::Trim(start) = action {
                *start = start.plus(1);
            }
        },
        |action| {
            if let Action::Discard(ranges) = action {
                ranges.truncate(1);
            }
        },
        |action| {
            if let Action::Replace { batches, .. } = action {
                batches.truncate(1);
            }
        },
        |action| {
            if let Action::Append(append) = action {
                append.batches.iter_mut().for_each(|batch| batch.max_timestamp = batch.max_timestamp.abs());
            }
        },
    ];
    for (number, defect) in defects.into_iter().enumerate() {
        let factory = move || -> Pending<Opened> {
            let store = Arc::new(Defective { store: MemoryStore::new(), defect });
            Box::pin(async { Opened { store, reopen: None } })
        };
        let lives = || conformance::random::run(&factory, &conformance::block_on, 200);
        assert!(std::panic::catch_unwind(lives).is_err(), "defect {number} was not noticed");
    }
}

fn append(epoch: Epoch, at: u64, size: usize, space: Space) -> Group {
    let bytes = vec![7; size].into();
    let batches = vec![Batch::new(Offset(at), 1, 0, bytes)];
    let commit_id = CommitId { writer: 1, sequence: at };
    let action = Action::Append(Append {
        expect_next: Offset(at),
        commit_id,
        class: Durability::Sync,
        space,
        batches,
    });
    vec![Op { log: LogId(1), epoch, owner: OwnerId(1), action }]
}

fn now<T>(pending: Pending<T>) -> T {
    pending.now_or_never().expect("memory answers at once")
}

fn claim(store: &MemoryStore) -> Epoch {
    now(store.claim(vec![LogId(1)], OwnerId(1))).unwrap()[0].epoch
}

fn kinds(outcomes: Vec<Outcome>) -> Vec<Option<ErrorKind>> {
    outcomes.into_iter().map(|outcome| outcome.err().map(|error| error.kind())).collect()
}

#[test]
fn the_reserve_is_for_those_who_may_use_it() {
    let store = MemoryStore::with_capacity(100, 30);
    let epoch = claim(&store);
    let outcomes = store.commit(vec![
        append(epoch, 0, 70, Space::Normal),
        append(epoch, 1, 1, Space::Normal),
        append(epoch, 1, 30, Space::Reserve),
        append(epoch, 2, 1, Space::Reserve),
    ]);
    assert_eq!(kinds(now(outcomes)), [None, Some(ErrorKind::Full), None, Some(ErrorKind::Full)]);
    let trim = vec![Op { log: LogId(1), epoch, owner: OwnerId(1), action: Action::Trim(Offset(1)) }];
    assert_eq!(kinds(now(store.commit(vec![trim, append(epoch, 2, 40, Space::Normal)]))), [None, None]);
}

#[test]
fn held_commits_take_effect_in_order_when_released_and_not_behind_a_claim() {
    let store = MemoryStore::new();
    let epoch = claim(&store);
    let hold = store.hold_commits();
    let mut first = store.commit(vec![append(epoch, 0, 1, Space::Normal)]);
    let second = store.commit(vec![append(epoch, 1, 1, Space::Normal)]);
    assert!((&mut first).now_or_never().is_none());
    assert_eq!(now(store.stat(LogId(1))).unwrap().next, Offset(0));
    drop(hold);
    assert_eq!(kinds(now(first)), [None]);
    assert_eq!(kinds(now(second)), [None]);
    let (hold, longer) = (store.hold_commits(), store.hold_commits());
    let mut late = store.commit(vec![append(epoch, 2, 1, Space::Normal)]);
    claim(&store);
    drop(hold);
    assert!((&mut late).now_or_never().is_none());
    drop(longer);
    assert_eq!(kinds(now(late)), [Some(ErrorKind::Fenced)]);
    assert_eq!(store.commits(), 3);
}

#[test]
fn ordered_failures_may_or_may_not_have_taken_effect() {
    let store = MemoryStore::new();
    let epoch = claim(&store);
    store.fail_next(ErrorKind::Unavailable, false);
    store.fail_next(ErrorKind::Unknown, true);
    let outcomes = store.commit(vec![
        append(epoch, 0, 1, Space::Normal),
        append(epoch, 0, 1, Space::Normal),
        append(epoch, 1, 1, Space::Normal),
    ]);
    assert_eq!(kinds(now(outcomes)), [Some(ErrorKind::Unavailable), Some(ErrorKind::Unknown), None]);
    assert_eq!(now(store.stat(LogId(1))).unwrap().next, Offset(2));
    store.close();
    assert_eq!(kinds(now(store.commit(vec![vec![]]))), [Some(ErrorKind::Closed)]);
    assert!(now(store.claim(vec![], OwnerId(1))).is_err());
    assert_eq!(now(store.read(LogId(1), Offset(0), Offset::MAX, 9)).unwrap().bytes(), 2);
}
