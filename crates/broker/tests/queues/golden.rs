//! Queues that an earlier program left must say the same to every later one: topology, messages, what was acknowledged.
//!
//! `testdata/queues-1` and `queues-2` (priorities) were copied while their writer was running: what a kill leaves. To write
//! one anew after a deliberate change of what is stored (an ADR and a line in the CHANGELOG): delete it and run this once.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    BindingSpec, Delivery, ExchangeKind, ExchangeSpec, Message, NoHeaders, Publish, QueueSpec, Queues,
    Session, Settle, Value, Width,
};
use ferrymq_disk::RealDisk;
use ferrymq_engine_local::{LocalStore, Options};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::LogMeta;
use ferrymq_types::{Offset, OwnerId};

use crate::rig::{VHOST, arguments, binding, durable, exchange, open};

const QUEUES: [&str; 3] = ["plain", "quorum", "letters"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) struct Life {
    tasks: Tasks,
    store: Arc<LocalStore>,
    pub(crate) meta: Arc<LogMeta>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) session: Session,
}

impl Life {
    pub(crate) async fn begin(directory: &Path) -> Life {
        let (clock, rng) = (Clock::system(), Rng::seeded(7));
        let disk = Arc::new(RealDisk::open(directory).unwrap());
        let store = Arc::new(LocalStore::open(disk, Options::tiny(), clock, &rng).unwrap());
        let meta = Arc::new(LogMeta::open(store.clone(), OwnerId(rng.next_u128())).await.unwrap());
        let tasks = Tasks::new();
        let stores = Stores { logs: store.clone(), meta: meta.clone(), state: meta.clone() };
        let queues = open(stores, rng.next_u64(), &tasks).await;
        Life { tasks, store, meta, session: queues.session(), queues }
    }

    pub(crate) async fn end(self) {
        drop(self.session);
        assert!(self.tasks.stop_and_wait(Duration::from_secs(60)).await);
        drop((self.queues, self.meta));
        self.store.stop().await.unwrap();
    }

    async fn all(&self, queue: &str) -> Vec<Delivery> {
        let mut all = Vec::new();
        while let Some(got) = self.queues.get(&self.session, VHOST, queue, false).await.unwrap() {
            all.push(got.delivery);
        }
        all
    }
}

fn specs() -> [QueueSpec; 3] {
    let letters = [
        ("x-message-ttl", Value::Int(4_000_000_000, Width::I64)),
        ("x-max-length", Value::Int(100, Width::I16)),
        ("x-dead-letter-exchange", Value::text("")),
        ("x-dead-letter-routing-key", Value::text("plain")),
        ("anything", Value::List(vec![Value::Void, Value::F64(0.5), Value::Timestamp(7), Value::Bool(true)])),
    ];
    [
        durable("plain"),
        QueueSpec { arguments: arguments(&[("x-queue-type", Value::text("quorum"))]), ..durable("quorum") },
        QueueSpec { arguments: arguments(&letters), ..durable("letters") },
    ]
}

fn message(key: &str, number: u64) -> Message {
    Message {
        exchange: Bytes::from_static(b"e"),
        routing_key: Bytes::copy_from_slice(key.as_bytes()),
        properties: Bytes::from_static(b"\x00\x00 any bytes \xff"),
        body: Bytes::from(format!("{key} {number}")),
        persistent: number % 5 != 4,
        ttl_ms: (number % 3 == 1).then_some(4_000_000_000 + number),
        priority: (number % 4 == 2).then_some(9),
        delay: None,
    }
}

/// Everything that is stored of queues, in each of its forms.
async fn fill(life: &Life) {
    let (queues, session) = (&life.queues, &life.session);
    queues.create_vhost("other / \u{e4}").await.unwrap();
    for spec in specs() {
        queues.declare_queue(session, VHOST, spec).await.unwrap();
    }
    for (name, kind) in
        [("e", ExchangeKind::Topic), ("h", ExchangeKind::Headers), ("c", ExchangeKind::ConsistentHash)]
    {
        let alternate = arguments(&[("alternate-exchange", Value::text("amq.fanout"))]);
        let spec = ExchangeSpec { arguments: alternate, ..exchange(name, kind) };
        queues.declare_exchange(session, VHOST, spec).await.unwrap();
    }
    for name in QUEUES {
        queues.bind(session, VHOST, binding("e", name, &format!("*.{name}.#"))).await.unwrap();
        queues.bind(session, VHOST, binding("c", name, "3")).await.unwrap();
    }
    let matched = arguments(&[("x-match", Value::text("any")), ("n", Value::Int(5, Width::U8))]);
    let spec = BindingSpec { arguments: matched, ..binding("h", "plain", "") };
    queues.bind(session, VHOST, spec).await.unwrap();
    queues.bind_exchange(session, VHOST, binding("e", "h", "to.h")).await.unwrap();
    for name in QUEUES {
        let handle = queues.queue(session, VHOST, name).await.unwrap().queue;
        for numbers in [0..10, 10..20] {
            let to = queues.route(VHOST, "e", format!("a.{name}").as_bytes(), &NoHeaders).unwrap();
            let all = numbers.map(|number| Publish { message: message(name, number), to: to.clone() });
            assert!(queues.publish(all.collect()).await.await.failed.is_empty());
        }
        life.all(name).await;
        let settle = async |offsets: &[u64], how| {
            let what = offsets.iter().map(|offset| (Offset(*offset), how)).collect();
            queues.settle(session, &handle, what).await;
        };
        settle(&[0, 1, 5, 7, 8], Settle::Ack).await;
        settle(&[2, 3, 10], Settle::Requeue).await;
        settle(&[6, 12, 13], Settle::Fail).await;
        settle(&[11], Settle::Reject).await;
        // A dead letter, and a transaction.
        let to = queues.route(VHOST, "", b"quorum", &NoHeaders).unwrap();
        let publish = Publish { message: message("in a transaction", 20), to };
        let settles = vec![(handle.clone(), vec![(Offset(15), Settle::Ack)])];
        queues.commit(session, vec![publish], settles).await.unwrap();
    }
    queues.declare_queue(session, VHOST, durable("deleted")).await.unwrap();
    queues.delete_queue(session, VHOST, "deleted", Default::default()).await.unwrap();
}

/// What a user can see of it after a kill.
async fn seen(life: &Life) -> String {
    let mut text = String::new();
    let queues = &life.queues;
    writeln!(text, "vhost there: {}", queues.has_vhost("other / \u{e4}")).unwrap();
    for name in ["e", "h", "c"] {
        let spec = queues.exchange(VHOST, name).unwrap();
        writeln!(text, "exchange {name} {:?} {:?}", spec.kind, spec.arguments).unwrap();
    }
    for (exchange, key) in
        [("e", "x.plain"), ("e", "x.quorum.y"), ("e", "to.h"), ("e", "nothing"), ("c", "key 1")]
    {
        let routed = queues.route(VHOST, exchange, key.as_bytes(), &NoHeaders).unwrap();
        let names: Vec<&str> = routed.queues().iter().map(|queue| &**queue.name()).collect();
        writeln!(text, "{exchange} {key} goes to {names:?}").unwrap();
    }
    for spec in specs() {
        let name = spec.name.clone();
        let declared = queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
        writeln!(text, "queue {name}: declared anew {}, ready {}", declared.created, declared.stat.ready)
            .unwrap();
        for got in life.all(&name).await {
            let Delivery { offset, redelivered, returned, failed, message, .. } = got;
            let Message { exchange, routing_key, properties, body, persistent, ttl_ms, priority, .. } =
                message;
            writeln!(
                text,
                "  {offset} redelivered {redelivered} returned {returned} failed {failed:?}: {exchange:?} {routing_key:?} {properties:?} \
                 {body:?} persistent {persistent} ttl {ttl_ms:?} priority {priority:?}"
            )
            .unwrap();
        }
    }
    text
}

/// Queues whose messages have logs by their priorities.
fn prioritized() -> [QueueSpec; 2] {
    let of = |name: &str, argument| QueueSpec { arguments: arguments(&[argument]), ..durable(name) };
    [
        of("classic with priorities", ("x-max-priority", Value::Int(5, Width::I32))),
        of("quorum with priorities", ("x-queue-type", Value::text("quorum"))),
    ]
}

async fn fill_prioritized(life: &Life) {
    let (queues, session) = (&life.queues, &life.session);
    for spec in prioritized() {
        let name = spec.name.clone();
        let handle = queues.declare_queue(session, VHOST, spec).await.unwrap().queue;
        let to = queues.route(VHOST, "", name.as_bytes(), &NoHeaders).unwrap();
        let priorities = [None, Some(0), Some(3), Some(5), Some(200), Some(3), None];
        for (number, priority) in (0..).zip(priorities) {
            let message = Message { priority, persistent: true, ..message(&name, number) };
            assert!(queues.publish(vec![Publish { message, to: to.clone() }]).await.await.failed.is_empty());
        }
        // Of each level something is done or was given back.
        let all = life.all(&name).await;
        for (at, how) in [(0, Settle::Requeue), (1, Settle::Ack), (2, Settle::Fail), (4, Settle::Ack)] {
            queues.settle(session, &handle, vec![(all[at].offset, how)]).await;
        }
        // What is confirmed later says that these are durable.
        let message = message(&name, 0);
        assert!(queues.publish(vec![Publish { message, to }]).await.await.failed.is_empty());
    }
}

/// What a queue gives, in its order.
async fn seen_in(life: &Life, specs: impl IntoIterator<Item = QueueSpec>) -> String {
    let mut text = String::new();
    for spec in specs {
        let name = spec.name.clone();
        let declared = life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
        writeln!(text, "queue {name}: declared anew {}, ready {}", declared.created, declared.stat.ready)
            .unwrap();
        for Delivery { redelivered, returned, failed, message, .. } in life.all(&name).await {
            let Message { body, priority, .. } = message;
            writeln!(
                text,
                "  {body:?} priority {priority:?} redelivered {redelivered} returned {returned} failed {failed:?}"
            )
            .unwrap();
        }
    }
    text
}

/// Begins a life on what an earlier program left; without it, `fill` writes it first.
pub(crate) async fn found(name: &str, fill: impl AsyncFnOnce(&Life)) -> (tempfile::TempDir, Life) {
    if !golden(name).join("expected.txt").exists() {
        let scratch = tempfile::tempdir().unwrap();
        let life = Life::begin(scratch.path()).await;
        fill(&life).await;
        copy(scratch.path(), &golden(name).join("data"));
        life.end().await;
    }
    let scratch = tempfile::tempdir().unwrap();
    copy(&golden(name).join("data"), scratch.path());
    let life = Life::begin(scratch.path()).await;
    (scratch, life)
}

/// Holds what is seen against what was.
pub(crate) async fn hold(name: &str, life: Life, text: String) {
    life.end().await;
    let expected = golden(name).join("expected.txt");
    if !expected.exists() {
        fs::write(&expected, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(expected).unwrap());
}

#[tokio::test]
async fn queues_of_version_1_say_what_they_said() {
    let (_scratch, life) = found("queues-1", fill).await;
    let text = seen(&life).await;
    hold("queues-1", life, text).await;
}

#[tokio::test]
async fn queues_with_priorities_say_what_they_said() {
    let (_scratch, life) = found("queues-2", fill_prioritized).await;
    let text = seen_in(&life, prioritized()).await;
    hold("queues-2", life, text).await;
}
