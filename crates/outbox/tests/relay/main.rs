//! The relay between a real PostgreSQL, which the tests start themselves, and a broker on it.
//!
//! Deliberately absent: a broker that is killed (`crates/ferrymq/tests/outbox.rs`), real clients (`examples/postgres`).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

#[path = "../../../engine-postgres/tests/common/mod.rs"]
mod common;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use ferrymq_runtime::Rng;
use tokio::sync::oneshot::error::TryRecvError;
use world::{Application, World};

/// What a session of applications committed, by key.
type Committed = BTreeMap<String, Vec<u64>>;

/// Transactions of one session: its own key counts up, the key `all` counts up under a lock of all sessions.
async fn session(
    url: String,
    schema: String,
    number: u64,
    transactions: u64,
) -> (String, Vec<u64>, Vec<u64>) {
    let mut sql = Application::connect(&url, &schema).await;
    let (rng, key) = (Rng::seeded(number), format!("session-{number}"));
    let (mut mine, mut of_all, mut last) = (Vec::new(), Vec::new(), 0);
    for _ in 0..transactions {
        let transaction = sql.client.transaction().await.unwrap();
        let (mut added, mut for_all) = (Vec::new(), Vec::new());
        for _ in 0..rng.below(4) {
            last += 1;
            world::publish(&transaction, &schema, &key, last).await;
            added.push(last);
        }
        if rng.below(3) == 0 {
            transaction.batch_execute("SAVEPOINT part").await.unwrap();
            world::publish(&transaction, &schema, &key, 1_000_000 + last).await;
            transaction.batch_execute("ROLLBACK TO SAVEPOINT part").await.unwrap();
        }
        if rng.below(3) == 0 {
            let sql = format!("UPDATE {schema}.counter SET n = n + 1 RETURNING n");
            let n: i64 = transaction.query_one(&sql, &[]).await.unwrap().get(0);
            world::publish(&transaction, &schema, "all", n.cast_unsigned()).await;
            for_all.push(n.cast_unsigned());
        } else if rng.below(4) == 0 {
            // Open for longer than others that begin later.
            transaction.batch_execute("SELECT pg_sleep(0.05)").await.unwrap();
        }
        if rng.below(4) == 0 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            mine.extend(added);
            of_all.extend(for_all);
        }
    }
    (key, mine, of_all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commits_is_relayed_once_and_in_order_and_nothing_else() {
    let Some(server) = common::shared() else { return };
    let schema = common::schema();
    let mut world = World::start(&server.url, &schema).await;
    world.declare().await;
    let admin = Application::connect(&server.url, &schema).await;
    let table = format!("CREATE TABLE {schema}.counter (n int8); INSERT INTO {schema}.counter VALUES (0)");
    admin.client.batch_execute(&table).await.unwrap();
    let sessions: Vec<_> =
        (1..=4).map(|number| world.spawn(session(server.url.clone(), schema.clone(), number, 60))).collect();
    let mut committed = Committed::new();
    let mut all = Vec::new();
    for mut session in sessions {
        // The relay begins anew again and again while they go on.
        let (key, mine, of_all) = loop {
            match session.try_recv() {
                Ok(done) => break done,
                Err(TryRecvError::Empty) => world = world.restart().await,
                Err(TryRecvError::Closed) => panic!("a session of applications failed"),
            }
        };
        committed.insert(key, mine);
        all.extend(of_all);
    }
    all.sort_unstable();
    committed.insert("all".to_owned(), all);
    assert!(committed.values().map(Vec::len).sum::<usize>() > 200, "too little was committed");
    world::publish(&admin.client, &schema, "end", 1).await;
    committed.insert("end".to_owned(), vec![1]);
    world.until("the last one is there", async |world| world.topic().await.contains_key("end")).await;
    assert_eq!(world.topic().await, committed, "the topic");
    assert_eq!(world.drain().await, committed, "the queue");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_relayed_is_kept_with_its_reason_and_can_go_again() {
    let Some(server) = common::shared() else { return };
    let schema = common::schema();
    let world = World::start(&server.url, &schema).await;
    world.declare().await;
    let sql = Application::connect(&server.url, &schema).await;
    let body = "x".repeat(2 << 20);
    sql.run("SELECT ferrymq.publish('t', $1)", &[&body]).await.unwrap();
    for (call, _) in UNDELIVERED {
        sql.run(call, &[]).await.unwrap();
    }
    // Behind and between them, what can be relayed is.
    world::publish(&sql.client, &schema, "end", 1).await;
    world.until("the last one is there", async |world| world.topic().await.contains_key("end")).await;
    let found: Vec<String> = sql.texts("SELECT reason FROM ferrymq.undelivered ORDER BY id").await;
    let expected = UNDELIVERED.iter().map(|(_, reason)| *reason);
    for (found, expected) in found.iter().zip(std::iter::once("the size of a record").chain(expected)) {
        assert!(found.contains(expected), "{found}: {expected}");
    }
    assert_eq!(found.len(), UNDELIVERED.len() + 1, "{found:?}");
    assert_eq!(world.counters.undelivered.load(Ordering::Relaxed), found.len() as u64);
    // Once there is such an exchange, and it leads somewhere.
    world.declare_exchange("later").await;
    let again = "SELECT ferrymq.publish_again(id) FROM ferrymq.undelivered WHERE exchange = 'later'";
    assert_eq!(sql.run(again, &[]).await.unwrap(), 1);
    world.until("it came", async |world| world.queue_length().await == 2).await;
    assert_eq!(sql.texts("SELECT exchange FROM ferrymq.undelivered WHERE exchange = 'later'").await.len(), 0);
    world.stop().await;
}

/// What lands in `undelivered`, and why.
const UNDELIVERED: &[(&str, &str)] = &[
    ("SELECT ferrymq.publish_to_exchange('later', 'k', 'x')", "no exchange 'later' in vhost '/'"),
    ("SELECT ferrymq.publish_to_exchange('e', 'k', 'x', vhost => 'elsewhere')", "vhost 'elsewhere'"),
    ("SELECT ferrymq.publish_to_exchange('', 'nobody', 'x', mandatory => true)", "NO_ROUTE"),
    ("SELECT ferrymq.publish_to_exchange('e', 'k', 'x', '{\"priority\": 300}')", "priority is out of range"),
    (
        "SELECT ferrymq.publish_to_exchange('e', 'k', 'x', '{\"expiration\": \"soon\"}')",
        "invalid expiration 'soon'",
    ),
    ("SELECT ferrymq.publish_to_exchange('', 'full', 'x')", "full"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_knows_to_be_wrong_is_refused_in_the_transaction() {
    let Some(server) = common::shared() else { return };
    let schema = common::schema();
    let world = World::start(&server.url, &schema).await;
    let sql = Application::connect(&server.url, &schema).await;
    for (call, why) in [
        ("SELECT ferrymq.publish('no such name', 'x')", "no topic can have this name: no such name"),
        ("SELECT ferrymq.publish(NULL, 'x')", "no topic can have this name"),
        ("SELECT ferrymq.publish('t', 'x', headers => '[]')", "headers are not a JSON object"),
        ("SELECT ferrymq.publish('t', repeat('x', 17000000))", "too large: 17000256 bytes, at most 16777216"),
        ("SELECT ferrymq.publish_to_exchange('e', NULL, 'x')", "may not be NULL"),
        ("SELECT ferrymq.publish_to_exchange('e', repeat('k', 256), 'x')", "at most 255 bytes"),
        ("SELECT ferrymq.publish_to_exchange('e', 'k', 'x', '{\"colour\": 1}')", "no such property: colour"),
        (
            "SELECT ferrymq.publish_to_exchange('e', 'k', 'x', '{\"type\": 1}')",
            "type is to be a JSON string: 1",
        ),
    ] {
        let error = sql.run(call, &[]).await.unwrap_err();
        let text = error.as_db_error().unwrap().message();
        assert!(text.contains(why), "{call}: {text}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_publish_may_do_nothing_else() {
    let Some(server) = common::shared() else { return };
    let schema = common::schema();
    let world = World::start(&server.url, &schema).await;
    world.declare().await;
    let sql = Application::connect(&server.url, &schema).await;
    let role = format!("app_{schema}");
    sql.run(&format!("CREATE ROLE {role}"), &[]).await.unwrap();
    let as_role = async |call: &str| {
        sql.run(&format!("SET ROLE {role}"), &[]).await.unwrap();
        let done =
            sql.run(call, &[]).await.map_err(|error| error.as_db_error().unwrap().message().to_owned());
        sql.run("RESET ROLE", &[]).await.unwrap();
        done
    };
    let publish = "SELECT ferrymq.publish('t', '1', key => 'mine')";
    assert!(as_role(publish).await.unwrap_err().contains("permission denied"));
    sql.run(&format!("SELECT ferrymq.grant_publish('{role}')"), &[]).await.unwrap();
    assert_eq!(as_role(publish).await, Ok(1));
    assert_eq!(as_role("SELECT ferrymq.publish_to_exchange('e', 'k', '1'::bytea)").await, Ok(1));
    for denied in [
        "SELECT ferrymq.outbox_put('t', NULL, NULL, NULL, NULL, NULL, false)",
        "SELECT ferrymq.publish_again(1)",
        "SELECT ferrymq.outbox_adopt()",
        "SELECT * FROM ferrymq.outbox_0",
        "INSERT INTO ferrymq.outbox_0 SELECT * FROM ferrymq.outbox_0",
        "SELECT * FROM ferrymq.undelivered",
        "UPDATE ferrymq.outbox SET current = 1",
    ] {
        assert!(as_role(denied).await.unwrap_err().contains("permission denied"), "{denied}");
    }
    world.until("it is there", async |world| world.topic().await.contains_key("mine")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_take_turns_and_are_emptied() {
    let Some(server) = common::shared() else { return };
    let schema = common::schema();
    let world = World::start(&server.url, &schema).await;
    world.declare().await;
    let sql = Application::connect(&server.url, &schema).await;
    let held = Application::connect(&server.url, &schema).await;
    // An old snapshot that writes late, to a table whose turn may be over by then.
    held.run("BEGIN ISOLATION LEVEL REPEATABLE READ", &[]).await.unwrap();
    held.run("SELECT 1 FROM ferrymq.outbox", &[]).await.unwrap();
    let mut expected = Vec::new();
    for round in 1..=12 {
        world::publish(&sql.client, &schema, "k", round).await;
        expected.push(round);
        let relayed = world.counters.relayed.load(Ordering::Relaxed);
        world
            .until("it is relayed", async |world| world.counters.relayed.load(Ordering::Relaxed) > relayed)
            .await;
    }
    held.run("SELECT ferrymq.publish('t', '77', key => 'late')", &[]).await.unwrap();
    held.run("COMMIT", &[]).await.unwrap();
    world.until("the late one is there", async |world| world.topic().await.contains_key("late")).await;
    let left = "SELECT id::text FROM ferrymq.outbox_0 UNION ALL SELECT id::text FROM ferrymq.outbox_1 \
                UNION ALL SELECT id::text FROM ferrymq.outbox_2";
    world.until("all are empty", async |_| sql.texts(left).await.is_empty()).await;
    let files = "SELECT pg_relation_filenode('ferrymq.outbox_0') <> 'ferrymq.outbox_0'::regclass::oid";
    assert_eq!(
        sql.texts(&format!("SELECT ({files})::text")).await,
        ["true"],
        "it was truncated, not deleted from"
    );
    assert_eq!(world.topic().await["k"], expected);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_on_another_server_waits_until_somebody_says_what_to_do() {
    let Some(server) = common::shared() else { return };
    let schema = common::schema();
    let world = World::start(&server.url, &schema).await;
    world.declare().await;
    let sql = Application::connect(&server.url, &schema).await;
    // As a dump has it that was made elsewhere, of an outbox of which nothing was relayed.
    sql.run("UPDATE ferrymq.outbox SET system_id = 1", &[]).await.unwrap();
    let world = world.restart().await;
    world::publish(&sql.client, &schema, "k", 1).await;
    world.until("it waits", async |world| world.counters.waits.load(Ordering::Relaxed) == 1).await;
    assert_eq!(world.topic().await, Committed::new());
    assert_eq!(
        sql.texts("SELECT ferrymq.outbox_adopt()::text").await,
        ["2"],
        "one for the topic, one for the queue"
    );
    world::publish(&sql.client, &schema, "k", 2).await;
    world.until("it goes on", async |world| world.topic().await.contains_key("k")).await;
    assert_eq!(world.topic().await["k"], [2]);
    let again = "SELECT ferrymq.publish_again(id) FROM ferrymq.undelivered WHERE topic = 't'";
    assert_eq!(sql.run(again, &[]).await.unwrap(), 1);
    world.until("the one before comes again", async |world| world.topic().await["k"] == [2, 1]).await;
    world.stop().await;
}
