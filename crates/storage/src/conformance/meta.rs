//! The contract of [`MetaStore`] as tests, in the manner of the cases for logs.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;

use super::Runner;
use super::bench::refused;
use crate::{Compare, ErrorKind, MetaStore, Pending, Put, Revision};

/// A store of metadata that is open, and the way to open it again.
pub struct OpenedMeta {
    /// The store.
    pub store: Arc<dyn MetaStore>,
    /// Ends the store and opens what it left. `None`: it leaves nothing.
    pub reopen: Option<ReopenMeta>,
}

/// See [`OpenedMeta::reopen`]. The store was dropped by the suite before.
pub type ReopenMeta = Box<dyn FnOnce() -> Pending<OpenedMeta> + Send + Sync>;

/// Makes an empty store of its own for each case.
pub type MetaFactory = dyn Fn() -> Pending<OpenedMeta> + Send + Sync;

/// Runs all tests of a store of metadata; panics at the first that fails.
pub fn run_all(factory: &MetaFactory, run: &Runner) {
    let tests: [fn(OpenedMeta) -> Pending<()>; 7] = [
        |opened| Box::pin(puts_and_deletes(opened)),
        |opened| Box::pin(compares(opened)),
        |opened| Box::pin(lists(opened)),
        |opened| Box::pin(increments_are_not_lost(opened)),
        |opened| Box::pin(heartbeats(opened)),
        |opened| Box::pin(limits(opened)),
        |opened| Box::pin(restarts(opened)),
    ];
    for test in tests {
        let opening = factory();
        run(Box::pin(async move { test(opening.await).await }));
    }
}

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

fn delete(key: &str) -> Put {
    Put { key: key.to_owned(), value: None }
}

fn at(key: &str, revision: Option<Revision>) -> Compare {
    Compare { key: key.to_owned(), revision }
}

async fn txn(store: &Arc<dyn MetaStore>, compares: Vec<Compare>, puts: Vec<Put>) -> Revision {
    store.txn(compares, puts).await.expect("a transaction whose compares hold")
}

async fn value(store: &Arc<dyn MetaStore>, key: &str) -> Option<(Bytes, Revision)> {
    let entry = store.get(key).await.expect("reading works");
    entry.map(|entry| {
        assert_eq!(entry.key, key);
        (entry.value, entry.revision)
    })
}

async fn puts_and_deletes(opened: OpenedMeta) {
    let store = opened.store;
    assert_eq!(value(&store, "a").await, None);
    let first = txn(&store, vec![], vec![put("a", "1"), put("b", "")]).await;
    assert!(first > Revision(0));
    assert_eq!(value(&store, "a").await, Some((Bytes::from("1"), first)));
    assert_eq!(value(&store, "b").await, Some((Bytes::new(), first)), "empty is not absent");
    let second = txn(&store, vec![], vec![put("a", "2"), delete("b"), delete("never")]).await;
    assert!(second > first);
    assert_eq!(value(&store, "a").await, Some((Bytes::from("2"), second)));
    assert_eq!(value(&store, "b").await, None);
}

async fn compares(opened: OpenedMeta) {
    let store = opened.store;
    let first = txn(&store, vec![at("a", None)], vec![put("a", "1")]).await;
    let stale = [
        at("a", None),
        at("a", Some(Revision(first.0 + 1))),
        at("a", Some(Revision(0))),
        at("b", Some(first)),
    ];
    for compare in stale {
        let compares = vec![at("a", Some(first)), compare];
        refused(store.txn(compares, vec![put("a", "2"), put("c", "2")]).await, ErrorKind::Conflict);
    }
    assert_eq!(value(&store, "a").await, Some((Bytes::from("1"), first)));
    assert_eq!(value(&store, "c").await, None);
    let second = txn(&store, vec![at("a", Some(first)), at("b", None)], vec![put("b", "2")]).await;
    assert_eq!(
        value(&store, "a").await.map(|(_, revision)| revision),
        Some(first),
        "comparing is not writing"
    );
    // Nothing to write: only the question whether the compares hold.
    assert!(txn(&store, vec![at("b", Some(second))], vec![]).await >= second);
    refused(store.txn(vec![at("b", None)], vec![]).await, ErrorKind::Conflict);
    txn(&store, vec![at("a", Some(first))], vec![delete("a")]).await;
    refused(store.txn(vec![at("a", Some(first))], vec![put("a", "3")]).await, ErrorKind::Conflict);
    txn(&store, vec![at("a", None)], vec![put("a", "3")]).await;
}

async fn lists(opened: OpenedMeta) {
    let store = opened.store;
    let empty = store.list("", Revision(0)).await.expect("reading works");
    assert!(empty.entries.is_empty() && empty.complete);
    let first =
        txn(&store, vec![], vec![put("t/b", "1"), put("t/a", "1"), put("t", "1"), put("u/a", "1")]).await;
    let second = txn(&store, vec![], vec![put("t/b", "2"), delete("t/a"), put("t/c", "2")]).await;
    let third = txn(&store, vec![], vec![delete("u/a")]).await;
    let keys = |prefix: &'static str, since| {
        let listing = store.list(prefix, since);
        async move {
            let listing = listing.await.expect("reading works");
            assert!(listing.revision >= third && listing.complete, "few deletions are remembered");
            let entries = listing.entries.into_iter().map(|entry| entry.key);
            (entries.collect::<Vec<_>>(), listing.deleted)
        }
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(keys("t/", Revision(0)).await, (owned(&["t/b", "t/c"]), vec![]));
    assert_eq!(keys("", Revision(0)).await, (owned(&["t", "t/b", "t/c"]), vec![]));
    assert_eq!(keys("t/", first).await, (owned(&["t/b", "t/c"]), owned(&["t/a"])));
    assert_eq!(keys("", second).await, (vec![], owned(&["u/a"])));
    assert_eq!(keys("t/", third).await, (vec![], vec![]));
}

async fn increments_are_not_lost(opened: OpenedMeta) {
    let store = &opened.store;
    let increments = (0..40).map(|_| async move {
        loop {
            let now = value(store, "n").await;
            let count: u32 = now
                .as_ref()
                .map_or(0, |(value, _)| std::str::from_utf8(value).expect("text").parse().expect("a number"));
            let compare = at("n", now.map(|(_, revision)| revision));
            match store.txn(vec![compare], vec![put("n", &(count + 1).to_string())]).await {
                Ok(revision) => return revision,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
    });
    let revisions: BTreeSet<Revision> = future::join_all(increments).await.into_iter().collect();
    assert_eq!(revisions.len(), 40, "each transaction has a revision of its own");
    assert_eq!(value(store, "n").await.map(|(value, _)| value), Some(Bytes::from("40")));
}

async fn heartbeats(opened: OpenedMeta) {
    let store = opened.store;
    let before = txn(&store, vec![], vec![put("a", "1")]).await;
    let first = store.heartbeat(3, Bytes::from("well")).await.expect("a heartbeat is taken");
    let second = store.heartbeat(3, Bytes::from("better")).await.expect("a heartbeat is taken");
    assert!(before < first && first < second);
    let listing = store.list("brokers/", before).await.expect("reading works");
    assert_eq!(listing.entries.len(), 1);
    assert_eq!((&*listing.entries[0].key, listing.entries[0].revision), ("brokers/3", second));
    assert_eq!(listing.entries[0].value, "better");
    assert!(txn(&store, vec![], vec![put("a", "2")]).await > second);
}

async fn limits(opened: OpenedMeta) {
    let store = opened.store;
    let sized = |size| Put { key: "large".to_owned(), value: Some(vec![b'x'; size].into()) };
    txn(&store, vec![], vec![sized(1 << 20)]).await;
    assert_eq!(value(&store, "large").await.map(|(value, _)| value.len()), Some(1 << 20));
    refused(store.txn(vec![], vec![sized((1 << 20) + 1)]).await, ErrorKind::LimitExceeded);
    refused(store.txn(vec![], vec![put("k", "1"), put("k", "2")]).await, ErrorKind::InvalidArgument);
    refused(store.txn(vec![], vec![put("", "1")]).await, ErrorKind::InvalidArgument);
}

async fn restarts(mut opened: OpenedMeta) {
    let mut last = Revision(0);
    for turn in 0..3 {
        let store = opened.store;
        if turn > 0 {
            let kept = value(&store, "kept").await.expect("what was acknowledged is there");
            assert_eq!(kept, (Bytes::from(format!("{}", turn - 1)), last));
            assert_eq!(value(&store, "deleted").await, None);
        }
        let first = txn(&store, vec![], vec![put("deleted", "x")]).await;
        assert!(first > last, "a revision is not used twice, not even one that a heartbeat had");
        txn(&store, vec![], vec![delete("deleted")]).await;
        last = txn(&store, vec![], vec![put("kept", &turn.to_string())]).await;
        let heartbeat = store.heartbeat(1, Bytes::new()).await.expect("a heartbeat is taken");
        assert!(heartbeat > last);
        drop(store);
        match opened.reopen {
            Some(reopen) => opened = reopen().await,
            None => return,
        }
        assert!(txn(&opened.store, vec![], vec![put("other", "x")]).await > heartbeat);
    }
}
