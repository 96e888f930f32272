//! Several stores on one schema: who has lost a log writes nothing to it, however late. And what a server must be.
//!
//! Deliberately absent: what one store shows; see `conformance.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use ferrymq_engine_postgres::{Options, PostgresStore, parse_url};
use ferrymq_runtime::Clock;
use ferrymq_storage::{Action, Append, Batch, Claim, ErrorKind, LogStore, Op, Space, StorageError};
use ferrymq_types::{CommitId, Durability, LogId, Offset, OwnerId};
use tokio_postgres::{Client, NoTls};

fn append(claim: &Claim, owner: u128, at: u64) -> Op {
    let batch = Batch::new(Offset(at), 1, 0, format!("{owner}@{at}").into());
    let action = Action::Append(Append {
        expect_next: Offset(at),
        commit_id: CommitId { writer: u64::try_from(owner).unwrap(), sequence: at },
        class: Durability::Sync,
        space: Space::Normal,
        batches: vec![batch],
    });
    op(claim, owner, action)
}

fn op(claim: &Claim, owner: u128, action: Action) -> Op {
    Op { log: claim.log, epoch: claim.epoch, owner: OwnerId(owner), action }
}

async fn claim(store: &PostgresStore, logs: &[u64], owner: u128) -> Vec<Claim> {
    store.claim(logs.iter().copied().map(LogId).collect(), OwnerId(owner)).await.unwrap()
}

async fn commit(store: &PostgresStore, group: Vec<Op>) -> Result<(), ErrorKind> {
    store.commit(vec![group]).await.remove(0).map_err(|error| error.kind())
}

async fn text(store: &PostgresStore, log: u64) -> String {
    let read = store.read(LogId(log), Offset::ZERO, Offset::MAX, usize::MAX).await.unwrap();
    let runs = read.runs.iter().map(|run| String::from_utf8(run.bytes.to_vec()).unwrap());
    runs.collect::<Vec<_>>().join(" ")
}

fn shared(schema: &str) -> Options {
    Options { exclusive: false, ..common::tiny(schema) }
}

/// A session of one's own.
async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    ferrymq_runtime::Tasks::new().spawn(ferrymq_runtime::TaskKind::Connection, "a session", async {
        let _ = connection.await;
    });
    client
}

#[test]
fn who_has_lost_a_log_writes_nothing() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let old = common::open(&server.url, shared(&schema)).await;
        let new = common::open(&server.url, shared(&schema)).await;
        let olds = claim(&old, &[1, 2, 3], 1).await;
        for at in 0..3 {
            commit(&old, vec![append(&olds[0], 1, at)]).await.unwrap();
        }
        let news = claim(&new, &[1], 2).await;
        assert_eq!((news[0].next, news[0].last_commit.unwrap().sequence), (Offset(3), 2));
        let zombie = |action| vec![op(&olds[0], 1, action)];
        let range = Offset(0)..Offset(3);
        let replacement = Batch::new(Offset(0), 3, 0, "gone".into());
        for group in [
            // The group dies as a whole, though the other log is still its owner's.
            vec![append(&olds[1], 1, 0), append(&olds[0], 1, 3)],
            zombie(Action::Trim(Offset(2))),
            zombie(Action::Discard(vec![range.clone()])),
            zombie(Action::Replace { range, batches: vec![replacement] }),
            zombie(Action::Delete),
        ] {
            // Again, so that the old store has to find out each time.
            assert_eq!(commit(&old, group.clone()).await, Err(ErrorKind::Fenced));
            assert_eq!(commit(&old, group).await, Err(ErrorKind::Fenced));
        }
        let groups = vec![vec![append(&olds[0], 1, 3)], vec![append(&olds[1], 1, 0)]];
        let outcomes = old.commit(groups).await;
        assert!(outcomes[0].is_err() && outcomes[1].is_ok(), "a fenced group fails no other: {outcomes:?}");
        commit(&new, vec![append(&news[0], 2, 3)]).await.unwrap();
        assert_eq!(text(&new, 1).await, "1@0 1@1 1@2 2@3");
        assert_eq!(text(&old, 1).await, "1@0 1@1 1@2 2@3", "who is fenced asks the database");
        // One that guesses the epoch still has another nonce.
        let forged = Op { epoch: news[0].epoch, ..append(&olds[0], 1, 4) };
        assert_eq!(commit(&old, vec![forged]).await, Err(ErrorKind::Fenced));
        assert_eq!(text(&new, 1).await, "1@0 1@1 1@2 2@3");
    }));
}

#[test]
fn a_takeover_waits_for_a_round_in_flight_and_fences_the_next() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let old = common::open(&server.url, shared(&schema)).await;
        let new = common::open(&server.url, shared(&schema)).await;
        let olds = claim(&old, &[1], 1).await;
        // A round that has written its row and not yet committed, as one that waits for its sync.
        let paused = session(&server.url).await;
        let sql = format!("BEGIN; UPDATE {schema}.log SET turn = turn + 1, next = 7 WHERE id = 1");
        paused.batch_execute(&sql).await.unwrap();
        let taking = new.claim(vec![LogId(1)], OwnerId(2));
        let writing = old.commit(vec![vec![append(&olds[0], 1, 0)]]);
        let watch = session(&server.url).await;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ferrymq' AND wait_event_type = 'Lock' \
                       AND query LIKE $1";
        let pattern = format!("%{schema}.log%");
        while watch.query_one(waiting, &[&pattern]).await.unwrap().get::<_, i64>(0) < 2 {}
        paused.batch_execute("COMMIT").await.unwrap();
        let (taken, written) = futures_util::future::join(taking, writing).await;
        assert_eq!(taken.unwrap()[0].next, Offset(7), "the claim saw what was in flight");
        let error = written[0].clone().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Conflict), "{error}");
        assert_eq!(text(&new, 1).await, "");
    }));
}

#[test]
fn a_database_that_forgets_stops_the_store() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let store = common::open(&server.url, shared(&schema)).await;
        let claims = claim(&store, &[1], 1).await;
        for at in 0..3 {
            commit(&store, vec![append(&claims[0], 1, at)]).await.unwrap();
        }
        let operator = session(&server.url).await;
        let rewind = format!("UPDATE {schema}.log SET turn = 1, next = 1 WHERE id = 1");
        operator.batch_execute(&rewind).await.unwrap();
        assert_eq!(commit(&store, vec![append(&claims[0], 1, 3)]).await, Err(ErrorKind::Closed));
        assert!(store.health().stopped.unwrap().contains("restored or promoted"));
        assert_eq!(commit(&store, vec![append(&claims[0], 1, 3)]).await, Err(ErrorKind::Closed));
    }));
}

#[test]
fn tables_go_when_nothing_in_them_is_alive() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let store = common::open(&server.url, common::tiny(&schema)).await;
        let claims = claim(&store, &[1, 2], 1).await;
        commit(&store, vec![append(&claims[1], 1, 0)]).await.unwrap();
        for at in 0..400 {
            commit(&store, vec![append(&claims[0], 1, at)]).await.unwrap();
        }
        commit(&store, vec![op(&claims[0], 1, Action::Trim(Offset(400)))]).await.unwrap();
        let watch = session(&server.url).await;
        let tables = format!("SELECT min(id), count(*) FROM {schema}.segment");
        // The first table holds a batch of the other log, so it stays; the active one and the next are there.
        loop {
            let row = watch.query_one(&tables, &[]).await.unwrap();
            if row.get::<_, i64>(1) <= 3 {
                assert_eq!(row.get::<_, i64>(0), 1);
                break;
            }
        }
        assert_eq!(text(&store, 2).await, "1@0");
        commit(&store, vec![op(&claims[1], 1, Action::Discard(vec![Offset(0)..Offset(1)]))]).await.unwrap();
        commit(&store, vec![op(&claims[1], 1, Action::Trim(Offset(1)))]).await.unwrap();
        while watch.query_one(&tables, &[]).await.unwrap().get::<_, i64>(0) == 1 {}
        let deleted = format!(
            "SELECT n_dead_tup + n_tup_del FROM pg_stat_user_tables WHERE schemaname = '{schema}' \
                               AND relname LIKE 'b\\_%'"
        );
        let deleted = watch.query(&deleted, &[]).await.unwrap();
        assert!(deleted.iter().all(|row| row.get::<_, i64>(0) == 0), "batches are never deleted one by one");
    }));
}

async fn refusal(server: &common::Server) -> StorageError {
    let config = parse_url(&server.url).unwrap();
    match PostgresStore::open(config, Options::default(), Clock::system()).await {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => error,
    }
}

#[test]
fn unsafe_settings_are_refused_with_what_mends_them() {
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let Some(server) = common::Server::start(&[&format!("{setting}=off")]) else { return };
        common::on_tokio(Box::pin(async move {
            let error = refusal(&server).await;
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("put \"{setting} = on\" into")), "{error}");
        }));
    }
}

#[test]
fn one_broker_at_a_time_and_no_newer_format() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let store = common::open(&server.url, common::tiny(&schema)).await;
        let config = parse_url(&server.url).unwrap();
        let second = PostgresStore::open(config.clone(), common::tiny(&schema), Clock::system()).await;
        assert!(second.err().unwrap().to_string().contains("another broker uses this database"));
        store.stop(Duration::from_secs(10)).await.unwrap();
        drop(store);
        let operator = session(&server.url).await;
        operator.batch_execute(&format!("UPDATE {schema}.store SET format = 3")).await.unwrap();
        let newer = PostgresStore::open(config, common::tiny(&schema), Clock::system()).await;
        assert!(newer.err().unwrap().to_string().contains("has format 3, this program reads 1"));
    }));
}
