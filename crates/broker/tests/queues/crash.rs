//! Power cuts and kills under the local engine: nothing confirmed is lost, nothing comes twice unmarked.
//!
//! What the test knew before the cut is held against what is there after it. Persistent messages only: those
//! that are not must be gone, and leave the others in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Credit, Deliveries, Delivery, DeliverySink, Event, NewConsumer, NoHeaders, PendingPublish, Publish,
    QueueHandle, QueueSpec, Queues, Session, Settle, deliveries,
};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::{LocalStore, Options};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::LogMeta;
use ferrymq_types::{Offset, OwnerId};
use futures_util::FutureExt as _;

use crate::rig::{VHOST, arguments, body, durable, int, message, open, take};

const QUEUES: [&str; 3] = ["a", "b", "c"];

/// One life of a broker.
pub(crate) struct Life {
    tasks: Tasks,
    store: Arc<LocalStore>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) session: Session,
}

impl Life {
    pub(crate) async fn begin(disk: &SimDisk, seed: u64) -> Life {
        let (clock, rng) = (Clock::system(), Rng::seeded(seed));
        let store = LocalStore::open(Arc::new(disk.clone()), Options::tiny(), clock, &rng).unwrap();
        let store = Arc::new(store);
        let meta = Arc::new(LogMeta::open(store.clone(), OwnerId(rng.next_u128())).await.unwrap());
        let tasks = Tasks::new();
        let stores = Stores { logs: store.clone(), meta: meta.clone(), state: meta };
        let queues = open(stores, rng.next_u64(), &tasks).await;
        Life { tasks, store, session: queues.session(), queues }
    }

    pub(crate) async fn end(self, clean: bool) {
        if clean {
            self.session.close().await;
        } else {
            drop(self.session);
        }
        assert!(self.tasks.stop_and_wait(Duration::from_secs(60)).await);
        drop(self.queues);
        if clean {
            self.store.stop().await.unwrap();
        }
    }
}

/// What is known of one queue's persistent messages.
#[derive(Default)]
struct Known {
    published: BTreeSet<u64>,
    confirmed: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    /// Acknowledged; durably so once something published later is confirmed.
    acked: BTreeMap<u64, u64>,
}

/// What was sent and not yet answered.
struct Sent {
    queue: usize,
    numbers: Vec<u64>,
    /// How many rounds of acks came before it.
    round: u64,
    pending: PendingPublish,
}

struct World {
    rng: Rng,
    known: [Known; 3],
    confirmed_round: [u64; 3],
    sent: Vec<Sent>,
    last_number: u64,
    round: u64,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            rng: Rng::seeded(seed),
            known: Default::default(),
            confirmed_round: [0; 3],
            sent: Vec::new(),
            last_number: 0,
            round: 0,
        }
    }

    async fn publish(&mut self, life: &Life) {
        let queue = usize::try_from(self.rng.below(3)).unwrap();
        let to = life.queues.route(VHOST, "", QUEUES[queue].as_bytes(), &NoHeaders).unwrap();
        let (mut batch, mut numbers) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.rng.below(12) {
            self.last_number += 1;
            let persistent = self.rng.below(4) > 0;
            let text = format!("{} {}", self.last_number, if persistent { "keep" } else { "lose" });
            batch.push(Publish { message: message(QUEUES[queue], &text, persistent), to: to.clone() });
            if persistent {
                numbers.push(self.last_number);
            }
        }
        self.known[queue].published.extend(&numbers);
        let pending = life.queues.publish(batch).await;
        self.sent.push(Sent { queue, numbers, round: self.round, pending });
    }

    fn note_confirmed(&mut self, queue: usize, numbers: Vec<u64>, round: u64) {
        if !numbers.is_empty() {
            self.confirmed_round[queue] = self.confirmed_round[queue].max(round);
        }
        self.known[queue].confirmed.extend(numbers);
    }

    /// Takes what is answered by now, or waits for all of it.
    async fn collect(&mut self, wait: bool) {
        for mut sent in std::mem::take(&mut self.sent) {
            let answer =
                if wait { Some((&mut sent.pending).await) } else { (&mut sent.pending).now_or_never() };
            match answer {
                Some(published) => {
                    assert!(published.failed.is_empty(), "{published:?}");
                    self.note_confirmed(sent.queue, sent.numbers, sent.round);
                }
                None => self.sent.push(sent),
            }
        }
    }

    async fn settle(&mut self, life: &Life, queue: usize, handle: &QueueHandle, got: Vec<Delivery>) {
        let mut what: Vec<(Offset, Settle)> = Vec::new();
        self.round += 1;
        for delivery in got {
            let (number, keep) = parse(&delivery);
            if keep {
                self.known[queue].delivered.insert(number);
            }
            match self.rng.below(10) {
                0..7 => {
                    what.push((delivery.offset, Settle::Ack));
                    if keep {
                        self.known[queue].acked.insert(number, self.round);
                    }
                }
                7 => what.push((delivery.offset, Settle::Requeue)),
                _ => {}
            }
        }
        life.queues.settle(&life.session, handle, what).await;
    }

    /// Reads everything that is there and holds it against what was known. From then on that is what is known:
    /// what is there stays, what is not never comes back.
    async fn check(&mut self, life: &Life, seed: u64) {
        for (index, known) in self.known.iter_mut().enumerate() {
            let name = QUEUES[index];
            let declared = life.queues.queue(&life.session, VHOST, name).await.unwrap();
            let mut found = Vec::new();
            while let Some(got) = life.queues.get(&life.session, VHOST, name, false).await.unwrap() {
                let (number, keep) = parse(&got.delivery);
                assert!(keep, "seed {seed}: {number} was not to survive");
                assert!(known.published.contains(&number), "seed {seed}: {number} was never published");
                let marked = got.delivery.redelivered || !known.delivered.contains(&number);
                assert!(marked, "seed {seed}: {number} was delivered before");
                found.push(number);
            }
            assert!(found.is_sorted_by(|a, b| a < b), "seed {seed}: out of order: {found:?}");
            assert_eq!(declared.stat.ready, found.len() as u64, "seed {seed}: counted wrongly");
            for number in &known.confirmed {
                let there = found.contains(number) || known.acked.contains_key(number);
                assert!(there, "seed {seed} queue {name}: {number} was confirmed and is lost: {found:?}");
            }
            for (number, round) in &known.acked {
                let durably = *round <= self.confirmed_round[index];
                assert!(!durably || !found.contains(number), "seed {seed} {name}: {number} came back");
            }
            let found: BTreeSet<u64> = found.into_iter().collect();
            *known = Known {
                published: found.clone(),
                confirmed: found.clone(),
                delivered: found,
                acked: BTreeMap::new(),
            };
        }
    }
}

fn parse(delivery: &Delivery) -> (u64, bool) {
    let body = body(delivery);
    let (number, keep) = body.split_once(' ').unwrap();
    (number.parse().unwrap(), keep == "keep")
}

async fn consumers(life: &Life) -> Vec<(QueueHandle, Deliveries, DeliverySink)> {
    let mut all = Vec::new();
    for name in QUEUES {
        let (sink, from) = deliveries(64 * 1024);
        let new = NewConsumer::new(1, Credit::Window(20));
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

/// Ends a life in one of the ways there are, one in five cleanly, and begins the next on what is left of the disk; how it
/// ended.
pub(crate) async fn another_life(
    (life, session): (Life, Session),
    disk: &mut SimDisk,
    rng: &Rng,
    (seed, round): (u64, u64),
) -> (Life, &'static str) {
    let (next, when) = match rng.below(5) {
        0 | 1 => (disk.crash(seed * 10 + round), "after a power cut"),
        2 => (disk.crash_to_synced(), "after a power cut that kept only what was synced"),
        3 => (disk.kill(), "after a kill"),
        _ => {
            session.close().await;
            life.end(true).await;
            return (Life::begin(disk, seed + 1000 * (round + 1)).await, "after a clean stop");
        }
    };
    drop(session);
    life.end(false).await;
    *disk = next;
    (Life::begin(disk, seed + 1000 * (round + 1)).await, when)
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Power,
    Synced,
    Kill,
    Clean,
}

async fn one_seed(seed: u64) {
    let mut disk = SimDisk::new(seed);
    let mut world = World::new(seed);
    let mut life = Life::begin(&disk, seed).await;
    for name in QUEUES {
        life.queues.declare_queue(&life.session, VHOST, durable(name)).await.unwrap();
    }
    for round in 0..3 {
        let mut all = consumers(&life).await;
        for _ in 0..20 + world.rng.below(20) {
            world.publish(&life).await;
            let wait = world.rng.below(3) == 0;
            world.collect(wait).await;
            for (queue, (handle, from, _)) in all.iter_mut().enumerate() {
                let got = now(from);
                world.settle(&life, queue, handle, got).await;
            }
        }
        let cut =
            [Cut::Power, Cut::Synced, Cut::Kill, Cut::Clean][usize::try_from(world.rng.below(4)).unwrap()];
        if cut == Cut::Clean {
            world.collect(true).await;
        }
        // Deliveries in the sinks may have been seen by a client.
        for (queue, (_, from, _)) in all.iter_mut().enumerate() {
            let seen = now(from)
                .iter()
                .map(parse)
                .filter(|(_, keep)| *keep)
                .map(|(number, _)| number)
                .collect::<Vec<_>>();
            world.known[queue].delivered.extend(seen);
        }
        let next = match cut {
            Cut::Power => disk.crash(seed * 10 + round),
            Cut::Synced => disk.crash_to_synced(),
            Cut::Kill => disk.kill(),
            Cut::Clean => disk.clone(),
        };
        life.end(cut == Cut::Clean).await;
        disk = next;
        world.sent.clear();
        life = Life::begin(&disk, seed + 1000 * (round + 1)).await;
        world.check(&life, seed).await;
        // What came back is what there is now; the check's gets go back with their session.
        let checked = std::mem::replace(&mut life.session, life.queues.session());
        checked.close().await;
    }
    life.end(true).await;
}

/// A crash takes the transient messages at a queue's head. Acks behind them are in the state log only, until a trim of
/// the queue's own log has made up for the loss; a rewrite of the state log in between must not forget them.
#[tokio::test]
async fn acks_behind_a_lost_head_outlive_another_crash() {
    let disk = SimDisk::new(1);
    let life = Life::begin(&disk, 1).await;
    let declare = async |life: &Life, name: String| {
        life.queues.declare_queue(&life.session, VHOST, durable(&name)).await.unwrap().queue
    };
    let publish = async |life: &Life, name: &str, persistent: bool, count: u64| {
        let to = life.queues.route(VHOST, "", name.as_bytes(), &NoHeaders).unwrap();
        let one = |number| Publish {
            message: message(name, &format!("{number} keep"), persistent),
            to: to.clone(),
        };
        let published = life.queues.publish((0..count).map(one).collect()).await.await;
        assert!(published.failed.is_empty(), "{published:?}");
    };
    let q = declare(&life, "q".to_owned()).await;
    let mut other = declare(&life, "other 0".to_owned()).await;
    for number in 1.. {
        if other.log().0 % 2 == q.log().0 % 2 {
            break;
        }
        // Of the same shard: what is confirmed there vouches for the acks here.
        other = declare(&life, format!("other {number}")).await;
    }
    publish(&life, "q", false, 5).await;
    publish(&life, "q", true, 5).await;
    for _ in 0..10 {
        life.queues.get(&life.session, VHOST, "q", false).await.unwrap().unwrap();
    }
    let acks = (5..10).map(|offset| (Offset(offset), Settle::Ack)).collect();
    life.queues.settle(&life.session, &q, acks).await;
    publish(&life, other.name(), true, 1200).await;
    let disk = {
        let next = disk.kill();
        life.end(false).await;
        next
    };

    let life = Life::begin(&disk, 2).await;
    let none = life.queues.get(&life.session, VHOST, "q", false).await.unwrap();
    assert!(none.is_none(), "transient messages are lost, the others were acknowledged: {none:?}");
    let name = other.name().clone();
    let (sink, mut events) = deliveries(8 * 1024 * 1024);
    let new = NewConsumer::new(1, Credit::Unlimited);
    let other = life.queues.consume(&life.session, VHOST, &name, new, &sink).await.unwrap().queue;
    let odd: Vec<(Offset, Settle)> =
        (0..1200).filter(|offset| offset % 2 == 1).map(|offset| (Offset(offset), Settle::Requeue)).collect();
    take(&mut events, 1200).await;
    // The state log grows until it is rewritten.
    for _ in 0..900 {
        life.queues.settle(&life.session, &other, odd.clone()).await;
        take(&mut events, odd.len()).await;
    }
    let disk = {
        let next = disk.kill();
        life.end(false).await;
        next
    };

    let life = Life::begin(&disk, 3).await;
    let back = life.queues.get(&life.session, VHOST, "q", false).await.unwrap();
    assert!(back.is_none(), "an acknowledged message came back: {back:?}");
    life.end(true).await;
}

#[tokio::test]
async fn nothing_confirmed_is_lost() {
    for seed in 0..40 {
        one_seed(seed).await;
    }
}

/// What had to go and was not durably gone goes again: the newest stay, and nobody is given what is too old.
#[tokio::test]
async fn what_had_to_go_goes_again_after_a_kill() {
    for seed in 0..8 {
        let disk = SimDisk::new(seed);
        let life = Life::begin(&disk, seed).await;
        let bounded = [("x-max-length", int(5)), ("x-max-length-bytes", int(100))];
        for (name, list) in [("limited", &bounded[..]), ("old", &[("x-message-ttl", int(0))])] {
            let spec = QueueSpec { arguments: arguments(list), ..durable(name) };
            life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
        }
        for number in 0..20 {
            for name in ["limited", "old"] {
                let to = life.queues.route(VHOST, "", name.as_bytes(), &NoHeaders).unwrap();
                let message = message(name, &format!("{number} keep"), true);
                let published = life.queues.publish(vec![Publish { message, to }]).await.await;
                assert!(published.failed.is_empty(), "{published:?}");
            }
        }
        let next = if seed % 2 == 0 { disk.kill() } else { disk.crash(seed) };
        life.end(false).await;
        let life = Life::begin(&next, seed + 100).await;
        let mut left = Vec::new();
        while let Some(got) = life.queues.get(&life.session, VHOST, "limited", true).await.unwrap() {
            left.push(parse(&got.delivery).0);
        }
        assert_eq!(left, [15, 16, 17, 18, 19], "seed {seed}");
        let old = life.queues.get(&life.session, VHOST, "old", true).await.unwrap();
        assert!(old.is_none(), "seed {seed}: {old:?}");
        life.end(true).await;
    }
}
