//! Power cuts, kills and clean stops under queues over a topic, on the local engine: what was confirmed to a Kafka client is
//! delivered or was acknowledged, what was durably acknowledged never comes back, nothing comes twice unmarked.
//!
//! What the test knew before the cut is held against what is there after it. Retention meanwhile takes what it takes. A topic
//! whose class does not survive a restart may lose its records then, and leaves a gap that nobody counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Credit, Deliveries, Delivery, DeliverySink, Event, NewConsumer, NoHeaders, Publish, QueueHandle,
    QueueSpec, Queues, Session, Settle, Value, deliveries,
};
use ferrymq_broker::{AppendItem, Broker, NewTopic};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::{LocalStore, Options};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::LogMeta;
use ferrymq_types::{BatchBuilder, BatchHeader, Compression, Offset, OwnerId};

use crate::over_rig::open_both;
use crate::rig::{VHOST, arguments, body, durable, message};

const PARTITIONS: u32 = 3;
const QUEUES: [&str; 2] = ["classic", "quorum"];

struct Life {
    tasks: Tasks,
    store: Arc<LocalStore>,
    broker: Arc<Broker>,
    queues: Arc<Queues>,
    session: Session,
}

impl Life {
    async fn begin(disk: &SimDisk, seed: u64) -> Life {
        let (clock, rng) = (Clock::system(), Rng::seeded(seed));
        let store = LocalStore::open(Arc::new(disk.clone()), Options::tiny(), clock.clone(), &rng).unwrap();
        let store = Arc::new(store);
        let meta = Arc::new(LogMeta::open(store.clone(), OwnerId(rng.next_u128())).await.unwrap());
        let tasks = Tasks::new();
        let stores = Stores { logs: store.clone(), meta: meta.clone(), state: meta };
        let (broker, queues) = open_both(&stores, &clock, rng.next_u64(), &tasks).await;
        Life { tasks, store, broker, session: queues.session(), queues }
    }

    async fn end(self, clean: bool) {
        let Life { tasks, store, broker, queues, session } = self;
        if clean {
            session.close().await;
        } else {
            drop(session);
        }
        drop((queues, broker));
        assert!(tasks.stop_and_wait(Duration::from_secs(60)).await);
        if clean {
            store.stop().await.unwrap();
        }
    }

    /// What is settled before is durable when this returns: a confirm of each shard says so.
    async fn fence(&self) {
        for name in ["fence-0", "fence-1", "fence-2", "fence-3"] {
            let to = self.queues.route(VHOST, "", name.as_bytes(), &NoHeaders).unwrap();
            let publish = Publish { message: message(name, "x", true), to };
            assert!(self.queues.publish(vec![publish]).await.await.failed.is_empty());
        }
    }
}

/// What is known of one queue's records, by their numbers.
#[derive(Default, Clone)]
struct Known {
    delivered: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    durably_acked: BTreeSet<u64>,
}

struct World {
    rng: Rng,
    /// The topic's class.
    class: &'static str,
    /// Confirmed, and where.
    confirmed: BTreeMap<u64, (u32, u64)>,
    known: [Known; 2],
    last: u64,
}

impl World {
    async fn produce(&mut self, life: &Life) {
        let index = i32::try_from(self.rng.below(u64::from(PARTITIONS))).unwrap();
        let partition = life.broker.topics().partition("t", index).unwrap();
        let mut builder = BatchBuilder::new(5);
        let first = self.last + 1;
        let count = 1 + self.rng.below(20);
        for _ in 0..count {
            self.last += 1;
            builder.push(5, None, Some(self.last.to_string().as_bytes()), &[]);
        }
        let bytes = match self.rng.below(2) {
            0 => builder.build(),
            _ => {
                let zstd = |raw: &[u8]| ferrymq_compress::compress(Compression::Zstd, raw);
                builder.build_compressed(Compression::Zstd, zstd).unwrap()
            }
        };
        let bytes = BytesMut::from(&bytes[..]);
        let header = BatchHeader::decode(&bytes).unwrap();
        let pending = life.broker.append(vec![AppendItem { partition, bytes, header }]).await;
        let appended = pending.wait().await.pop().unwrap().unwrap();
        let base = appended.base.0;
        for at in 0..count {
            self.confirmed.insert(first + at, (index.unsigned_abs(), base + at));
        }
    }

    async fn settle(&mut self, life: &Life, queue: usize, handle: &QueueHandle, got: Vec<Delivery>) {
        let mut what: Vec<(Offset, Settle)> = Vec::new();
        for delivery in got {
            let number: u64 = body(&delivery).parse().unwrap();
            let known = &mut self.known[queue];
            let marked = delivery.redelivered || known.delivered.insert(number);
            assert!(marked, "{number} was delivered before");
            match self.rng.below(10) {
                0..6 => {
                    what.push((delivery.offset, Settle::Ack));
                    known.acked.insert(number);
                }
                6 => what.push((delivery.offset, Settle::Requeue)),
                _ => {}
            }
        }
        life.queues.settle(&life.session, handle, what).await;
    }

    async fn maybe(&mut self, life: &Life) {
        if self.rng.below(6) == 0 {
            let before = [self.known[0].acked.clone(), self.known[1].acked.clone()];
            life.fence().await;
            for (known, acked) in self.known.iter_mut().zip(before) {
                known.durably_acked.extend(acked);
            }
        }
        if self.rng.below(15) == 0 {
            let index = i32::try_from(self.rng.below(u64::from(PARTITIONS))).unwrap();
            let partition = life.broker.topics().partition("t", index).unwrap();
            let (start, end) = (partition.log_start().0, partition.high_watermark().0);
            let start = start + self.rng.below((end - start) / 3 + 1);
            life.broker.trim(&partition, Offset(start)).await.unwrap();
        }
    }

    /// Reads everything that is there and holds it against what was known.
    async fn check(&mut self, life: &Life, seed: u64, when: &str) {
        for (queue, name) in QUEUES.iter().enumerate() {
            let declared = life.queues.queue(&life.session, VHOST, name).await.unwrap();
            let mut found = BTreeMap::new();
            let mut last = [None; PARTITIONS as usize];
            while let Some(got) = life.queues.get(&life.session, VHOST, name, false).await.unwrap() {
                let number: u64 = body(&got.delivery).parse().unwrap();
                let known = &self.known[queue];
                let marked = got.delivery.redelivered || !known.delivered.contains(&number);
                assert!(marked, "seed {seed} {when} {name}: {number} was delivered before");
                let (partition, offset) = place(&got.delivery);
                assert!(last[partition] < Some(offset), "seed {seed} {when} {name}: out of order");
                last[partition] = Some(offset);
                assert!(found.insert(number, got.delivery.offset).is_none(), "twice");
            }
            assert_eq!(declared.stat.ready, found.len() as u64, "seed {seed} {when} {name}: counted wrongly");
            for (number, (partition, offset)) in &self.confirmed {
                let index = i32::try_from(*partition).unwrap();
                let trimmed = *offset < life.broker.topics().partition("t", index).unwrap().log_start().0;
                let known = &self.known[queue];
                let kept = self.class == "sync";
                let there = found.contains_key(number) || known.acked.contains(number) || trimmed || !kept;
                assert!(there, "seed {seed} {when} {name}: {number} was confirmed and is lost");
                let back = known.durably_acked.contains(number) && found.contains_key(number);
                assert!(!back, "seed {seed} {when} {name}: {number} came back");
            }
            let known = &mut self.known[queue];
            known.delivered.extend(found.keys());
            // What is not there any more never comes back.
            known.durably_acked.extend(known.acked.iter().filter(|number| !found.contains_key(number)));
            known.acked.retain(|number| !found.contains_key(number));
            let all = found.values().map(|offset| (*offset, Settle::Requeue)).collect();
            life.queues.settle(&life.session, &declared.queue, all).await;
        }
        if self.class != "sync" {
            // What is not there now never was, as far as the queues can say.
            self.confirmed.clear();
        }
    }
}

fn place(delivery: &Delivery) -> (usize, u64) {
    let at = String::from_utf8(delivery.message.properties.to_vec()).unwrap();
    let (partition, offset) = at.split_once('/').unwrap();
    (partition.parse().unwrap(), offset.parse().unwrap())
}

async fn consumers(life: &Life) -> Vec<(QueueHandle, Deliveries, DeliverySink)> {
    let mut all = Vec::new();
    for name in QUEUES {
        let (sink, from) = deliveries(64 * 1024);
        let new = NewConsumer::new(1, Credit::Window(30));
        let consumer = life.queues.consume(&life.session, VHOST, name, new, &sink).await.unwrap();
        all.push((consumer.queue, from, sink));
    }
    all
}

fn now(from: &mut Deliveries) -> Vec<Delivery> {
    let mut all = Vec::new();
    while let Some(event) = from.try_recv() {
        if let Event::Deliver(more) = event {
            all.extend(more);
        }
    }
    all
}

async fn declare(life: &Life, class: &str) {
    let config = BTreeMap::from([("ferrymq.durability".to_owned(), class.to_owned())]);
    let new = NewTopic { name: "t".into(), partitions: PARTITIONS, config };
    life.broker.create_topic(new).await.unwrap();
    for name in QUEUES {
        let list = [("x-kafka-topic", Value::text("t")), ("x-queue-type", Value::text(name))];
        let spec = QueueSpec { arguments: arguments(&list), ..durable(name) };
        life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
    }
    for name in ["fence-0", "fence-1", "fence-2", "fence-3"] {
        life.queues.declare_queue(&life.session, VHOST, durable(name)).await.unwrap();
    }
}

async fn one_seed(seed: u64, class: &'static str) {
    let mut disk = SimDisk::new(seed);
    let (rng, known) = (Rng::seeded(seed), Default::default());
    let mut world = World { rng, class, confirmed: BTreeMap::new(), known, last: 0 };
    let mut life = Life::begin(&disk, seed).await;
    declare(&life, class).await;
    for round in 0..4 {
        let mut all = consumers(&life).await;
        for _ in 0..15 + world.rng.below(20) {
            world.produce(&life).await;
            for (queue, (handle, from, _)) in all.iter_mut().enumerate() {
                let got = now(from);
                world.settle(&life, queue, handle, got).await;
            }
            world.maybe(&life).await;
        }
        let cut = world.rng.below(4);
        // Deliveries in the sinks may have been seen by a client.
        for (queue, (_, from, _)) in all.iter_mut().enumerate() {
            let seen = now(from);
            world.known[queue].delivered.extend(seen.iter().map(|one| body(one).parse::<u64>().unwrap()));
        }
        let (next, when) = match cut {
            0 => (disk.crash(seed * 10 + round), "after a power cut"),
            1 => (disk.crash_to_synced(), "after a power cut that kept only what was synced"),
            2 => (disk.kill(), "after a kill"),
            _ => (disk.clone(), "after a clean stop"),
        };
        drop(all);
        life.end(cut == 3).await;
        disk = next;
        if cut == 3 {
            for known in &mut world.known {
                known.durably_acked.extend(known.acked.clone());
            }
        }
        life = Life::begin(&disk, seed + 1000 * (round + 1)).await;
        world.check(&life, seed, when).await;
        // And behind whatever gap there is by now.
        world.produce(&life).await;
        world.produce(&life).await;
        world.check(&life, seed, "some records later").await;
    }
    life.end(true).await;
}

#[tokio::test]
async fn no_record_is_lost_or_comes_back() {
    for seed in 0..60 {
        one_seed(seed, "sync").await;
    }
}

#[tokio::test]
async fn what_a_restart_loses_is_neither_counted_nor_waited_for() {
    for seed in 60..90 {
        one_seed(seed, ["os", "memory"][usize::try_from(seed % 2).unwrap()]).await;
    }
}
