//! Links that the store loses and the server does not notice: their sessions are ended by the store, so that what they have locked
//! is free for those that follow.
//!
//! Deliberately absent: a server that is reached over a network and notices by itself after some seconds of silence.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use ferrymq_storage::LogStore as _;
use ferrymq_types::{LogId, OwnerId};
use tokio_postgres::{Client, NoTls};

use common::proxy::{Cuts, proxy};

async fn operator(url: &str, tasks: &Tasks) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tasks.spawn(TaskKind::Background, "operator", async move {
        let _ended = connection.await.is_err();
    });
    client
}

/// The session that keeps the schema for its store.
async fn keeper(operator: &Client, schema: &str) -> Option<i32> {
    let sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND \
               (classid::int8 << 32 | objid::int8) = hashtextextended($1::text, 0)";
    let rows = operator.query(sql, &[&format!("ferrymq:{schema}")]).await.unwrap();
    rows.first().map(|row| row.get(0))
}

#[test]
fn a_session_that_only_the_server_still_has_does_not_keep_the_schema_from_its_store() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async move {
        let (directory, schema) = (tempfile::tempdir().unwrap(), common::schema());
        let (tasks, clock) = (Tasks::new(), Clock::system());
        let (made, cut) = channel();
        let cuts = Arc::new(Cuts::none(made));
        proxy(server.directory.path(), directory.path(), cuts.clone(), Rng::seeded(1), tasks.clone());
        let url = format!("postgres:///postgres?user=ferrymq&host={}", directory.path().display());
        let store = common::open(&url, common::tiny(&schema)).await;
        let operator = operator(&server.url, &tasks).await;
        let before = keeper(&operator, &schema).await;
        assert!(before.is_some());
        cuts.unnoticed.store(true, Ordering::Relaxed);
        cuts.before.store(1, Ordering::Relaxed);
        // The first is housekeeping's: nobody else has anything to say.
        ferrymq_runtime::blocking(move || cut.recv().unwrap()).await;
        cuts.before.store(0, Ordering::Relaxed);
        loop {
            let health = store.health();
            assert!(health.stopped.is_none(), "{health:?}");
            if keeper(&operator, &schema).await.is_some_and(|now| Some(now) != before) {
                break;
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
        store.claim(vec![LogId(7)], OwnerId(1)).await.unwrap();
        store.stop(Duration::from_secs(10)).await.unwrap();
        tasks.stop();
    }));
}
