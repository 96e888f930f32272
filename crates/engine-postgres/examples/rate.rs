//! How many batches a second the engine commits, beside a bare loop of the same statement on the same server.
//!
//! ```sh
//! scripts/postgres pg                      # in another terminal; prints the address
//! cargo run --release -p ferrymq-engine-postgres --example rate -- postgres://.. 16384
//! ```
//! 64 logs, one batch in flight for each. Bare: as many connections as the engine has, 16 logs to a statement.
//!
//! Deliberately absent: clients, networks, judgement.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program that measures, and says what it found"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrymq_engine_postgres::{Options, PostgresStore, parse_url};
use ferrymq_runtime::{Clock, TaskKind, Tasks};
use ferrymq_storage::{Action, Append, Batch, LogStore, Op, Space};
use ferrymq_types::{CommitId, Durability, LogId, Offset, OwnerId};
use tokio_postgres::NoTls;

const LOGS: u64 = 64;
const CONNECTIONS: u64 = 4;
const RUN: Duration = Duration::from_secs(8);

const TABLES: &str = "DROP SCHEMA IF EXISTS bare CASCADE; CREATE SCHEMA bare; \
    CREATE TABLE bare.log (id int8 PRIMARY KEY, epoch int8, owner int8, turn int8, next int8, bytes int8) \
    WITH (fillfactor = 50); INSERT INTO bare.log SELECT i, 1, 1, 0, 0, 0 FROM generate_series(0, 63) i; \
    CREATE TABLE bare.b (log int8, base int8, span int8, max_ts int8, epoch int8, size int4, data bytea, \
    PRIMARY KEY (log, base)); ALTER TABLE bare.b ALTER COLUMN data SET STORAGE EXTERNAL";
const STATEMENT: &str = "WITH r AS (SELECT * FROM unnest($1::int8[], $2::int8[]) AS r(id, next)), \
    f AS (UPDATE bare.log l SET next = r.next + 1, turn = l.turn + 1, bytes = l.bytes + 1 FROM r WHERE l.id = r.id \
    AND l.epoch = 1 AND l.owner = 1 AND l.turn = r.next AND l.next = r.next RETURNING 1), \
    b AS (INSERT INTO bare.b SELECT r.id, r.next, 1, 0, 1, octet_length(r.data), r.data \
    FROM unnest($1::int8[], $2::int8[], $3::bytea[]) AS r(id, next, data)) \
    SELECT 1 / (count(*) = 16)::int4 FROM f";

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, size] = &arguments[..] else { panic!("usage: rate URL BYTES") };
    let size: usize = size.parse().unwrap();
    for _ in 0..3 {
        let bare = bare(url, size).await;
        let engine = engine(url, size).await;
        println!("bare {bare}/s, engine {engine}/s: {} %", engine * 100 / bare.max(1));
    }
}

/// Counts until the time is over.
async fn counted(tasks: Tasks, count: Arc<AtomicU64>) -> u64 {
    Clock::system().sleep(RUN).await;
    let counted = count.load(Ordering::Relaxed);
    tasks.stop_and_wait(Duration::from_secs(30)).await;
    counted / RUN.as_secs()
}

async fn bare(url: &str, size: usize) -> u64 {
    let (tasks, count) = (Tasks::new(), Arc::new(AtomicU64::new(0)));
    let sessions = Tasks::new();
    for number in 0..CONNECTIONS {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        sessions.spawn(TaskKind::Connection, "session", async {
            let _ = connection.await;
        });
        if number == 0 {
            client.batch_execute(TABLES).await.unwrap();
        }
        let statement = client.prepare(STATEMENT).await.unwrap();
        let (stopping, count) = (tasks.clone(), count.clone());
        tasks.spawn(TaskKind::Background, "loop", async move {
            let logs: Vec<i64> = (0..16).map(|log| (number * 16 + log).cast_signed()).collect();
            let data = vec![vec![b'x'; size]; 16];
            let mut next = 0i64;
            while !stopping.is_stopping() {
                client.query(&statement, &[&logs, &vec![next; 16], &data]).await.unwrap();
                next += 1;
                count.fetch_add(16, Ordering::Relaxed);
            }
        });
    }
    counted(tasks, count).await
}

async fn engine(url: &str, size: usize) -> u64 {
    let options = Options { schema: "rate".to_owned(), ..Options::default() };
    let store = PostgresStore::open(parse_url(url).unwrap(), options, Clock::system()).await.unwrap();
    let store = Arc::new(store);
    let (tasks, count) = (Tasks::new(), Arc::new(AtomicU64::new(0)));
    let claims = store.claim((0..LOGS).map(LogId).collect(), OwnerId(1)).await.unwrap();
    for claim in claims {
        let (store, stopping, count) = (store.clone(), tasks.clone(), count.clone());
        tasks.spawn(TaskKind::Background, "writer", async move {
            let data = Bytes::from(vec![b'x'; size]);
            let mut next = claim.next;
            while !stopping.is_stopping() {
                let append = Append {
                    expect_next: next,
                    commit_id: CommitId { writer: 1, sequence: next.0 },
                    class: Durability::Sync,
                    space: Space::Normal,
                    batches: vec![Batch::new(next, 1, 0, data.clone())],
                };
                let (epoch, owner) = (claim.epoch, OwnerId(1));
                let op = Op { log: claim.log, epoch, owner, action: Action::Append(append) };
                store.commit(vec![vec![op]]).await.remove(0).unwrap();
                next = Offset(next.0 + 1);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let rate = counted(tasks, count).await;
    store.stop(Duration::from_secs(30)).await.unwrap();
    rate
}
