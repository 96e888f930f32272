//! Several stores that are each one of several on a schema: each writes to tables of its own, and what one leaves behind the
//! others seal and drop.
//!
//! Deliberately absent: fences; see `fence.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use ferrymq_engine_postgres::{Options, PostgresStore, parse_url};
use ferrymq_runtime::{Clock, TaskKind, Tasks};
use ferrymq_storage::{Action, Append, Batch, Claim, LogStore, Op, Space};
use ferrymq_types::{CommitId, Durability, LogId, Offset, OwnerId};
use tokio_postgres::{Client, NoTls};

fn several(schema: &str) -> Options {
    Options { exclusive: false, ..common::tiny(schema) }
}

async fn claim(store: &PostgresStore, log: u64, owner: u128) -> Claim {
    store.claim(vec![LogId(log)], OwnerId(owner)).await.unwrap()[0]
}

async fn act(store: &PostgresStore, claim: &Claim, owner: u128, action: Action) {
    let op = Op { log: claim.log, epoch: claim.epoch, owner: OwnerId(owner), action };
    store.commit(vec![vec![op]]).await.remove(0).unwrap();
}

async fn append(store: &PostgresStore, claim: &Claim, owner: u128, at: u64, class: Durability) {
    let action = Action::Append(Append {
        expect_next: Offset(at),
        commit_id: CommitId { writer: 1, sequence: at },
        class,
        space: Space::Normal,
        batches: vec![Batch::new(Offset(at), 1, 0, format!("{at} ").into())],
    });
    act(store, claim, owner, action).await;
}

async fn text(store: &PostgresStore, log: u64) -> String {
    let read = store.read(LogId(log), Offset::ZERO, Offset::MAX, usize::MAX).await.unwrap();
    read.runs.iter().map(|run| String::from_utf8(run.bytes.to_vec()).unwrap()).collect()
}

async fn operator(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    Tasks::new().spawn(TaskKind::Connection, "a session", async {
        let _ = connection.await;
    });
    client
}

/// The lives that segments belong to, and whether there is an open one of each.
async fn lives(operator: &Client, schema: &str) -> Vec<(String, bool)> {
    let sql =
        format!("SELECT life::text, bool_or(NOT sealed) FROM {schema}.segment GROUP BY life ORDER BY life");
    operator.query(&sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn what_one_leaves_behind_the_others_take_over_and_drop() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let one = common::open(&server.url, several(&schema)).await;
        let other = common::open(&server.url, several(&schema)).await;
        let (first, second) = (claim(&one, 1, 1).await, claim(&other, 2, 2).await);
        for at in 0..100 {
            append(&one, &first, 1, at, Durability::Sync).await;
            append(&other, &second, 2, at, Durability::Sync).await;
        }
        let watch = operator(&server.url).await;
        assert_eq!(lives(&watch, &schema).await.len(), 2, "each has tables of its own");
        one.stop(Duration::from_secs(10)).await.unwrap();
        drop(one);
        let taken = claim(&other, 1, 2).await;
        append(&other, &taken, 2, 100, Durability::Sync).await;
        let epochs = other.epochs(vec![LogId(2), LogId(99), LogId(1)]).await.unwrap();
        assert_eq!(epochs, [Some(second.epoch), None, Some(taken.epoch)]);
        let all: String = (0..=100).map(|at| format!("{at} ")).collect();
        assert_eq!(text(&other, 1).await, all, "what the one wrote is read by the other");
        act(&other, &taken, 2, Action::Trim(Offset(101))).await;
        let clock = Clock::system();
        while lives(&watch, &schema).await.len() > 1 {
            clock.sleep(Duration::from_millis(10)).await;
        }
        assert!(lives(&watch, &schema).await[0].1, "who lives is not sealed");
        assert_eq!(text(&other, 2).await, all.trim_end_matches("100 "));
        other.stop(Duration::from_secs(10)).await.unwrap();
    }));
}

#[test]
fn who_was_taken_for_dead_goes_on_in_another_table() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let store = common::open(&server.url, several(&schema)).await;
        let claim = claim(&store, 1, 1).await;
        append(&store, &claim, 1, 0, Durability::Sync).await;
        act(&store, &claim, 1, Action::Trim(Offset(1))).await;
        // As if another had found its session gone, sealed its tables and dropped them as empty.
        let operator = operator(&server.url).await;
        let sql = format!("SELECT id FROM {schema}.segment ORDER BY id");
        for row in operator.query(&sql, &[]).await.unwrap() {
            let id: i64 = row.get(0);
            let sql = format!(
                "BEGIN; DROP TABLE {schema}.b_{id}, {schema}.v_{id}; DELETE FROM {schema}.extent WHERE segment = {id}; \
                 DELETE FROM {schema}.segment WHERE id = {id}; COMMIT"
            );
            operator.batch_execute(&sql).await.unwrap();
        }
        for at in 1..100 {
            append(&store, &claim, 1, at, Durability::Sync).await;
        }
        let all: String = (1..100).map(|at| format!("{at} ")).collect();
        assert_eq!(text(&store, 1).await, all);
        let reader = common::open(&server.url, several(&schema)).await;
        assert_eq!(text(&reader, 1).await, all, "and it is where others look for it");
    }));
}

#[test]
fn what_is_in_memory_is_the_owners_own() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let one = common::open(&server.url, several(&schema)).await;
        let other = common::open(&server.url, several(&schema)).await;
        let first = claim(&one, 1, 1).await;
        append(&one, &first, 1, 0, Durability::Sync).await;
        append(&one, &first, 1, 1, Durability::Memory).await;
        assert_eq!(text(&one, 1).await, "0 1 ");
        let second = claim(&other, 1, 2).await;
        assert_eq!((second.next, &*text(&other, 1).await), (Offset(2), "0 "));
        append(&other, &second, 2, 2, Durability::Memory).await;
        assert_eq!(text(&other, 1).await, "0 2 ", "what was gone does not come back");
    }));
}

#[test]
fn many_begin_at_once_and_nobody_who_would_be_alone() {
    let Some(server) = common::shared() else { return };
    common::on_tokio(Box::pin(async {
        let schema = common::schema();
        let open = || common::open(&server.url, several(&schema));
        let (a, b, c, d) = tokio::join!(open(), open(), open(), open());
        let config = parse_url(&server.url).unwrap();
        let alone = PostgresStore::open(config.clone(), common::tiny(&schema), Clock::system()).await;
        assert!(alone.err().unwrap().to_string().contains("another broker uses this database"));
        for store in [a, b, c, d] {
            store.stop(Duration::from_secs(10)).await.unwrap();
        }
        let alone = PostgresStore::open(config.clone(), common::tiny(&schema), Clock::system()).await;
        assert!(alone.err().unwrap().to_string().contains("is that of several brokers"));
        let schema = common::schema();
        let alone = common::open(&server.url, common::tiny(&schema)).await;
        alone.claim(vec![LogId(0)], OwnerId(1)).await.unwrap();
        let one_more = PostgresStore::open(config, several(&schema), Clock::system()).await;
        assert!(one_more.err().unwrap().to_string().contains("that is to be alone"));
        alone.stop(Duration::from_secs(10)).await.unwrap();
        let config = parse_url(&server.url).unwrap();
        let one_more = PostgresStore::open(config, several(&schema), Clock::system()).await;
        assert!(one_more.err().unwrap().to_string().contains("is that of one broker alone"));
    }));
}
