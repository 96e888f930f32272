//! Metadata in a log: batching, dropped futures, failures, snapshots, restarts.

use std::sync::Arc;
use std::task::{Context, Waker};

use futures_util::{FutureExt as _, future};

use ferrymq_types::CommitId;

use super::writer::{SNAPSHOT_BYTES_MIN, SNAPSHOT_FACTOR};
use super::*;
use crate::conformance::meta::{self, OpenedMeta};
use crate::{Action, Append, Batch, MemoryStore, Space};

fn open(store: &MemoryStore) -> LogMeta {
    let owner = OwnerId(1);
    LogMeta::open(Arc::new(store.clone()), owner).now_or_never().expect("memory answers at once").unwrap()
}

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

fn create(meta: &LogMeta, key: &str) -> Pending<Result<Revision, StorageError>> {
    meta.txn(vec![Compare { key: key.to_owned(), revision: None }], vec![put(key, "new")])
}

fn now<T>(pending: Pending<T>) -> T {
    pending.now_or_never().expect("memory answers at once")
}

fn has(meta: &LogMeta, key: &str) -> bool {
    now(meta.get(key)).unwrap().is_some()
}

fn all(meta: &LogMeta) -> Vec<Entry> {
    now(meta.list("", Revision(0))).unwrap().entries
}

fn kind<T: std::fmt::Debug>(result: Result<T, StorageError>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn poll<T>(pending: &mut Pending<T>) -> bool {
    pending.poll_unpin(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn reopened(store: MemoryStore) -> Pending<OpenedMeta> {
    Box::pin(async move {
        let meta = LogMeta::open(Arc::new(store.clone()), OwnerId(1)).await.unwrap();
        OpenedMeta { store: Arc::new(meta), reopen: Some(Box::new(move || reopened(store))) }
    })
}

#[test]
fn metadata_in_a_log_passes_the_suite() {
    meta::run_all(&|| reopened(MemoryStore::new()), &crate::conformance::block_on);
}

#[test]
fn nothing_is_visible_before_it_is_durable() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let hold = store.hold_commits();
    let mut waiting = create(&meta, "a");
    assert!(!poll(&mut waiting) && !has(&meta, "a"));
    assert_eq!(now(meta.list("", Revision(0))).unwrap().revision, Revision(0));
    drop(hold);
    assert!(!has(&meta, "a"), "nobody has looked at the outcome yet");
    assert_eq!(now(waiting).unwrap(), Revision(1));
    assert!(has(&meta, "a"));
}

#[test]
fn who_waits_writes_for_all() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let waiting = future::join_all((0..300).map(|i| create(&meta, &format!("k{i}"))));
    let revisions = waiting.now_or_never().unwrap();
    assert!(revisions.into_iter().enumerate().all(|(i, revision)| revision.unwrap().0 == i as u64 + 1));
    assert_eq!(store.commits(), 2);
    assert_eq!(all(&open(&store)), all(&meta));
}

#[test]
fn a_dropped_transaction_is_finished_by_the_next() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let hold = store.hold_commits();
    let mut begun = create(&meta, "begun");
    assert!(!poll(&mut begun));
    let mut queued = create(&meta, "queued");
    assert!(!poll(&mut queued));
    drop((begun, queued));
    drop(hold);
    assert_eq!(now(create(&meta, "next")).unwrap(), Revision(3));
    assert!(has(&meta, "begun") && has(&meta, "queued"));
    assert_eq!(all(&open(&store)), all(&meta));
}

#[test]
fn what_certainly_did_not_happen_fails_alone() {
    let store = MemoryStore::new();
    let meta = open(&store);
    store.fail_next(ErrorKind::Full, false);
    let waiting = ["a", "b", "a"].map(|key| create(&meta, key));
    let results = future::join_all(waiting).now_or_never().unwrap();
    let kinds: Vec<_> = results.into_iter().map(|result| result.map_err(|error| error.kind())).collect();
    // The third creates what the first could not.
    assert_eq!(kinds, [Err(ErrorKind::Full), Ok(Revision(1)), Ok(Revision(2))]);
    assert_eq!(kind(now(create(&meta, "a"))), ErrorKind::Conflict);
}

#[test]
fn of_those_that_wait_together_one_wins() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let first = future::join_all([create(&meta, "a"), create(&meta, "a")]).now_or_never().unwrap();
    assert_eq!(*first[0].as_ref().unwrap(), Revision(1));
    assert_eq!(first[1].as_ref().unwrap_err().kind(), ErrorKind::Conflict);
    // A question about what is not durable yet is answered when it is, or when it has failed.
    for failure in [None, Some(ErrorKind::Full)] {
        failure.into_iter().for_each(|kind| store.fail_next(kind, false));
        let next = Revision(now(store.stat(META_LOG)).unwrap().next.0 + 1);
        let key = format!("b{}", next.0);
        let question = Compare { key: key.clone(), revision: Some(next) };
        let pair = [create(&meta, &key), meta.txn(vec![question], vec![])];
        let answers = future::join_all(pair).now_or_never().unwrap();
        match failure {
            None => assert_eq!(*answers[1].as_ref().unwrap(), next),
            Some(_) => assert_eq!(answers[1].as_ref().unwrap_err().kind(), ErrorKind::Conflict),
        }
    }
}

#[test]
fn the_revision_does_not_fall_when_heartbeats_are_lost() {
    let store = MemoryStore::new();
    let meta = open(&store);
    now(create(&meta, "a")).unwrap();
    let heartbeat = now(meta.heartbeat(1, Bytes::new())).unwrap();
    // What a restart does to a batch of the class `Memory`.
    let lost = Action::Discard(vec![Offset(heartbeat.0 - 1)..Offset(heartbeat.0)]);
    now(store.commit(vec![vec![meta.inner.op(lost)]])).remove(0).unwrap();
    let again = open(&store);
    let listing = now(again.list("", Revision(0))).unwrap();
    assert_eq!((listing.entries.len(), listing.revision), (1, heartbeat));
    assert!(now(create(&again, "b")).unwrap() > heartbeat);
}

#[test]
fn an_unknown_outcome_closes_the_store_and_opening_tells() {
    for applied in [false, true] {
        let store = MemoryStore::new();
        let meta = open(&store);
        now(create(&meta, "old")).unwrap();
        store.fail_next(ErrorKind::Unknown, applied);
        let results = future::join_all(["a", "b"].map(|key| create(&meta, key))).now_or_never().unwrap();
        let kinds: Vec<_> = results.into_iter().map(kind).collect();
        // The second was or was not written behind it; nobody may rely on that now.
        let second = if applied { ErrorKind::Unknown } else { ErrorKind::Closed };
        assert_eq!(kinds, [ErrorKind::Unknown, second]);
        assert!(!has(&meta, "b"));
        assert_eq!(kind(now(create(&meta, "c"))), ErrorKind::Closed);
        assert_eq!(kind(now(meta.heartbeat(1, Bytes::new()))), ErrorKind::Closed);
        assert!(has(&meta, "old") && !has(&meta, "a"));
        let again = open(&store);
        assert_eq!(has(&again, "a"), applied);
        assert!(has(&again, "old"));
    }
}

#[test]
fn another_owner_closes_the_store() {
    let store = MemoryStore::new();
    let old = open(&store);
    let new = LogMeta::open(Arc::new(store), OwnerId(2)).now_or_never().unwrap().unwrap();
    assert_eq!(kind(now(create(&old, "a"))), ErrorKind::Fenced);
    assert_eq!(kind(now(create(&old, "a"))), ErrorKind::Closed);
    now(create(&new, "a")).unwrap();
}

#[test]
fn snapshots_keep_the_log_small_and_lose_nothing() {
    let store = MemoryStore::new();
    let mut meta = open(&store);
    let value = "v".repeat(1_000);
    for turn in 0..6_000u32 {
        let puts = vec![put(&format!("k{}", turn % 50), &value), put(&format!("tmp{turn}"), "")];
        now(meta.txn(vec![], puts)).unwrap();
        let gone = Put { key: format!("tmp{turn}"), value: None };
        let last = now(meta.txn(vec![], vec![gone])).unwrap();
        if turn % 500 == 499 {
            let before = all(&meta);
            assert_eq!(before.len(), 50);
            meta = open(&store);
            assert_eq!(all(&meta), before);
            assert!(now(meta.list("", Revision(0))).unwrap().revision >= last);
        }
    }
    let stat = now(store.stat(META_LOG)).unwrap();
    assert!(stat.bytes < SNAPSHOT_BYTES_MIN + 50 * 1_100 * SNAPSHOT_FACTOR, "{stat:?}");
    assert!(stat.start.0 > 10_000);
    let since = now(meta.list("", Revision(5))).unwrap();
    assert!(!since.complete, "a snapshot does not tell what was deleted before");
}

#[test]
fn a_log_that_is_often_opened_stays_small_too() {
    let store = MemoryStore::new();
    for _ in 0..100 {
        let meta = open(&store);
        for turn in 0..30 {
            now(meta.txn(vec![], vec![put(&format!("k{turn}"), &"v".repeat(300))])).unwrap();
        }
    }
    assert!(now(store.stat(META_LOG)).unwrap().bytes < 2 * SNAPSHOT_BYTES_MIN);
}

#[test]
fn a_snapshot_of_several_parts_is_read_as_one() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let value = "v".repeat(crate::validate::VALUE_BYTES_MAX);
    for key in ["a", "b", "z"] {
        now(meta.txn(vec![], vec![put(key, &value)])).unwrap();
    }
    for turn in 0..80 {
        now(meta.txn(vec![], vec![put(&format!("k{}", turn % 5), &value)])).unwrap();
    }
    let heads = now(store.headers(META_LOG, Offset(0), 100, 0)).unwrap();
    assert!(heads.len() < 45, "trimmed: {}", heads.len());
    assert!(heads.windows(5).any(|parts| parts.iter().all(|head| head.size > 1 << 20)));
    assert_eq!(all(&open(&store)), all(&meta));
}

#[test]
fn a_snapshot_that_fails_is_no_harm() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let value = "v".repeat(1_000);
    // Nothing else fails: transactions here are one group each, and so are snapshots.
    let mut failed = 0;
    for turn in 0..2_000 {
        if turn == 230 {
            store.fail_next(ErrorKind::Unavailable, false);
        }
        failed += usize::from(now(meta.txn(vec![], vec![put("k", &value)])).is_err());
    }
    assert!(failed <= 1);
    assert_eq!(all(&open(&store)), all(&meta));
    assert!(now(store.stat(META_LOG)).unwrap().bytes < 2 * SNAPSHOT_BYTES_MIN);
}

#[test]
fn bytes_that_are_no_metadata_are_corrupt_and_not_skipped() {
    let store = MemoryStore::new();
    let meta = open(&store);
    now(create(&meta, "a")).unwrap();
    let batch = Batch::new(Offset(1), 1, 0, Bytes::from("nonsense"));
    let append = Append {
        expect_next: Offset(1),
        commit_id: CommitId::default(),
        class: Durability::Sync,
        space: Space::Normal,
        batches: vec![batch],
    };
    now(store.commit(vec![vec![meta.inner.op(Action::Append(append))]])).remove(0).unwrap();
    let error = LogMeta::open(Arc::new(store), OwnerId(1)).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt { resume: Offset(2) });
}

#[test]
fn ten_thousand_entries_are_read_in_few_steps() {
    let store = MemoryStore::new();
    let meta = open(&store);
    let entries = (0..10_000).map(|i| create(&meta, &format!("topics/some-topic-name-{i}")));
    assert!(future::join_all(entries).now_or_never().unwrap().iter().all(Result::is_ok));
    assert_eq!(store.commits(), 40);
    assert_eq!(all(&open(&store)).len(), 10_000);
}
