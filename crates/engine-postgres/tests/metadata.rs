//! Metadata in a table, changed by several stores at a time whose connections are cut: each change happens once, and who
//! polls misses none.
//!
//! Deliberately absent: what the contract says of one store; see `conformance.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_engine_postgres::{Options, PostgresMeta};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::{Compare, ErrorKind, MetaStore as _, Put, Revision};

use common::proxy::{Cuts, proxy};

fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned(), value: Some(Bytes::copy_from_slice(value.as_bytes())) }
}

/// Raises a counter by one, as often as it takes; notes it under a key of its own and takes the note before away.
async fn raise(meta: &PostgresMeta, name: &str, times: u32) {
    let mut note = None;
    for turn in 0..times {
        loop {
            let entry = match meta.get("counter").await {
                Ok(entry) => entry,
                // The connection was cut twice; reading may be repeated.
                Err(error) if error.kind() == ErrorKind::Unavailable => continue,
                Err(error) => panic!("{error}"),
            };
            let count: u32 =
                entry.as_ref().map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
            let compare = Compare { key: "counter".to_owned(), revision: entry.map(|entry| entry.revision) };
            let next = format!("notes/{name}/{turn}");
            let mut puts = vec![put("counter", &(count + 1).to_string()), put(&next, "x")];
            puts.extend(note.clone().map(|key| Put { key, value: None }));
            match meta.txn(vec![compare], puts).await {
                Ok(_) => {
                    note = Some(next);
                    break;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
    }
}

/// Follows all keys by polling, until told to end; what it then has.
async fn follow(meta: &PostgresMeta, until: &AtomicBool) -> BTreeMap<String, Revision> {
    let mut known = BTreeMap::new();
    let mut since = Revision(0);
    loop {
        let last = until.load(Ordering::SeqCst);
        match meta.list("", since).await {
            Ok(listing) => {
                assert!(listing.complete && listing.revision >= since);
                since = listing.revision;
                for entry in listing.entries {
                    known.insert(entry.key, entry.revision);
                }
                for key in listing.deleted {
                    known.remove(&key);
                }
                if last {
                    return known;
                }
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
}

/// Three stores on one schema, each through a proxy of its own.
fn under(before: u32, after: u32) {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async move {
        let (schema, tasks, until) = (common::schema(), Tasks::new(), AtomicBool::new(false));
        let (made, cut) = channel();
        let cuts = Arc::new(Cuts::none(made));
        let (mut stores, mut metas, mut directories) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 0..3 {
            let directory = tempfile::tempdir().unwrap();
            let rng = Rng::seeded(u64::from(before * 100 + after) + seed);
            proxy(server.directory.path(), directory.path(), cuts.clone(), rng.clone(), tasks.clone());
            let url = format!("postgres:///postgres?user=ferrymq&host={}", directory.path().display());
            let store = common::open(&url, Options { exclusive: false, ..common::tiny(&schema) }).await;
            metas.push(store.metadata(&rng).await.unwrap());
            stores.push(store);
            directories.push(directory);
        }
        cuts.before.store(before, Ordering::Relaxed);
        cuts.after.store(after, Ordering::Relaxed);
        let raising = async {
            tokio::join!(raise(&metas[0], "a", 60), raise(&metas[1], "b", 60), raise(&metas[2], "c", 60));
            until.store(true, Ordering::SeqCst);
        };
        let ((), followed) = tokio::join!(raising, follow(&metas[0], &until));
        cuts.before.store(0, Ordering::Relaxed);
        cuts.after.store(0, Ordering::Relaxed);
        let cut = cut.try_iter().count();
        assert!(cut >= 10, "only {cut} connections were cut: nothing was tried");
        let all = metas[1].list("", Revision(0)).await.unwrap();
        let there: BTreeMap<_, _> = all.entries.iter().map(|e| (e.key.clone(), e.revision)).collect();
        assert_eq!(followed, there, "who polls saw something else");
        let notes = ["notes/a/59", "notes/b/59", "notes/c/59"].map(str::to_owned);
        assert_eq!(there.keys().filter(|key| key.starts_with("notes/")).cloned().collect::<Vec<_>>(), notes);
        assert_eq!(
            metas[2].get("counter").await.unwrap().unwrap().value,
            "180",
            "a change happened twice, or not"
        );
        for store in stores {
            store.stop(Duration::from_secs(10)).await.unwrap();
        }
        tasks.stop();
    }));
}

#[test]
fn cut_before_a_statement_arrives() {
    under(25, 0);
}

#[test]
fn cut_before_a_reply() {
    under(0, 25);
}

#[test]
fn deletions_are_forgotten_at_last_and_said_to_be() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let store = common::open(&server.url, common::tiny(&common::schema())).await;
        let meta = store.metadata(&Rng::from_os()).await.unwrap();
        let begin = meta.txn(vec![], vec![put("kept", "1")]).await.unwrap();
        for turn in 0..12 {
            let gone = |n| Put { key: format!("gone/{turn}/{n}"), value: None };
            meta.txn(vec![], (0..1000).map(gone).collect()).await.unwrap();
        }
        // It is forgotten behind the answer.
        let recent = meta.txn(vec![], vec![put("kept", "2")]).await.unwrap();
        let clock = Clock::system();
        let mut old = meta.list("", begin).await.unwrap();
        while old.complete {
            clock.sleep(Duration::from_millis(10)).await;
            old = meta.list("", begin).await.unwrap();
        }
        assert!(meta.list("", recent).await.unwrap().complete);
        let anew = meta.list("", Revision(0)).await.unwrap();
        assert!(anew.complete && anew.entries.len() == 1 && anew.deleted.is_empty());
        store.stop(Duration::from_secs(10)).await.unwrap();
    }));
}
