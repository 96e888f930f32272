//! Messages published in transactions of a database, while the broker on it is killed again and again: each that was committed
//! is in its topic once, those of a key in order, and none of what was rolled back.
//!
//! Deliberately absent: queues, and what is refused (`crates/outbox/tests`).

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper that fails fails the test")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferrymq_runtime::{Clock, Rng, TaskKind, Tasks};
use support::{Ending, database, ferrymq};
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls};

const KILLS: usize = 8;
/// Transactions that a session makes at least, and before each kill.
const BEFORE_A_KILL: u64 = 40;

/// A broker, and where Kafka clients reach it.
fn start(url: &str) -> (Ending, String) {
    let arguments = [
        "serve",
        "--kafka-listen",
        "127.0.0.1:0",
        "--amqp-listen",
        "off",
        "--http-listen",
        "off",
        "--store",
        url,
    ];
    let mut process = ferrymq(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let kafka = loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
        if line.contains("clients connect here") {
            let at = line.find("127.0.0.1:").unwrap();
            break line[at..].split([' ', ',', '\n']).next().unwrap().to_owned();
        }
    };
    let rest = move || log.lines().map_while(Result::ok).for_each(|line| eprintln!("broker: {line}"));
    ferrymq_runtime::spawn_thread("stderr", rest).unwrap();
    (Ending(process), kafka)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    Tasks::new().spawn(TaskKind::Background, "application", async move {
        let _ended = connection.await.is_err();
    });
    client
}

async fn publish(client: &impl tokio_postgres::GenericClient, key: &str, number: u64) {
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&number.to_string(), &key];
    client.execute("SELECT ferrymq.publish('orders', $1::text, $2::text)", &values).await.unwrap();
}

/// Transactions until it is told to end; what of it committed.
async fn session(mut client: Client, number: u64, ending: Arc<AtomicU64>, done: Arc<AtomicU64>) -> Vec<u64> {
    let (rng, key) = (Rng::seeded(number), number.to_string());
    let (mut committed, mut last, mut transactions) = (Vec::new(), 0, 0);
    while ending.load(Ordering::Acquire) == 0 || transactions < BEFORE_A_KILL {
        let transaction = client.transaction().await.unwrap();
        let first = last + 1;
        for _ in 0..=rng.below(3) {
            last += 1;
            publish(&transaction, &key, last).await;
        }
        if rng.below(8) == 0 {
            transaction.batch_execute("SELECT pg_sleep(0.1)").await.unwrap();
        }
        if rng.below(4) == 0 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            committed.extend(first..=last);
        }
        transactions += 1;
        done.fetch_add(1, Ordering::AcqRel);
    }
    committed
}

/// What is in the topic, by key.
fn consumed(kafka: &str) -> BTreeMap<String, Vec<u64>> {
    let output =
        ferrymq(&["consume", "orders", "--bootstrap", kafka, "--format", "%k %v\\n"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeMap::<String, Vec<u64>>::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (key, value) = line.split_once(' ').unwrap();
        found.entry(key.to_owned()).or_default().push(value.parse().unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_published_once_however_often_the_broker_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = database(directory.path(), &[]) else { return };
    let clock = Clock::system();
    let (mut broker, mut kafka) = start(&url);
    let created =
        ferrymq(&["topic", "create", "orders", "--partitions", "3", "--bootstrap", &kafka]).output();
    assert!(created.unwrap().status.success());
    let admin = connect(&url).await;
    while admin.execute("SELECT 'ferrymq.publish(text, text, text, jsonb)'::regprocedure", &[]).await.is_err()
    {
        clock.sleep(Duration::from_millis(20)).await;
    }
    let (ending, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = Tasks::new();
    let mut sessions = Vec::new();
    for number in 1..=3 {
        let (client, (reply, answer)) = (connect(&url).await, oneshot::channel());
        let session = session(client, number, ending.clone(), done.clone());
        tasks.spawn(TaskKind::Background, "session", async move { reply.send(session.await).unwrap() });
        sessions.push((number, answer));
    }
    for _ in 0..KILLS {
        let until = done.load(Ordering::Acquire) + BEFORE_A_KILL;
        while done.load(Ordering::Acquire) < until {
            clock.sleep(Duration::from_millis(5)).await;
        }
        broker.kill();
        (broker, kafka) = start(&url);
    }
    ending.store(1, Ordering::Release);
    let mut committed = BTreeMap::new();
    for (number, answer) in sessions {
        committed.insert(number.to_string(), answer.await.unwrap());
    }
    publish(&admin, "end", 1).await;
    committed.insert("end".to_owned(), vec![1]);
    let all: usize = committed.values().map(Vec::len).sum();
    assert!(all > 300, "too little was committed: {all}");
    let since = clock.now();
    while !consumed(&kafka).contains_key("end") {
        assert!(since.elapsed() < Duration::from_secs(30), "the last one never came");
        clock.sleep(Duration::from_millis(100)).await;
    }
    assert!(consumed(&kafka) == committed, "{:?}\n{committed:?}", consumed(&kafka));
}
