//! Random lives of queues on a simulated disk, held to the checker's rules of queues.
//!
//! Transient messages at queues' heads, purges, queues that are deleted and made again, pooled logs that go from one
//! queue to the next, sessions that end in the middle, requests nobody waits for, crashes while a broker starts.

mod clients;

use std::sync::Arc;
use std::time::Duration;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{Deliveries, DeliverySink, PendingPublish, QueueHandle, Queues, Session};
use ferrymq_checker::queues::{
    Count, Delivery, Holder, Publishing, QueueExpectations, QueueHistory, Removed, Stop, check,
};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::{LocalStore, Options};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::LogMeta;
use ferrymq_types::{Offset, OwnerId};

use crate::rig::{VHOST, open};

/// 3,000 take a minute.
const SEEDS: u64 = 200;

/// What lives in one process.
struct Life {
    number: u32,
    tasks: Tasks,
    store: Arc<LocalStore>,
    queues: Arc<Queues>,
}

async fn begin(disk: &SimDisk, seed: u64, number: u32, tasks: Tasks) -> Life {
    let (clock, rng) = (Clock::system(), Rng::seeded(seed));
    let store = LocalStore::open(Arc::new(disk.clone()), Options::tiny(), clock, &rng).unwrap();
    let store = Arc::new(store);
    let meta = Arc::new(LogMeta::open(store.clone(), OwnerId(rng.next_u128())).await.unwrap());
    let stores = Stores { logs: store.clone(), meta: meta.clone(), state: meta };
    let queues = open(stores, rng.next_u64(), &tasks).await;
    Life { number, tasks, store, queues }
}

/// A queue as the test knows it.
struct Known {
    name: &'static str,
    label: String,
    style: Style,
    there: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Durable,
    Quorum,
    Transient,
    Exclusive,
}

struct Client {
    session: Session,
    channel: u64,
    /// Of which queue, by its label.
    consumers: Vec<(String, QueueHandle, Deliveries, DeliverySink)>,
    /// Where in `deliveries`, and how it is settled.
    held: Vec<(usize, QueueHandle, Offset)>,
    deliveries: Vec<Delivery>,
    holders: Vec<Holder>,
}

struct Sent {
    publishings: Vec<Publishing>,
    pending: PendingPublish,
}

struct World {
    rng: Rng,
    now: u64,
    history: QueueHistory,
    queues: Vec<Known>,
    sent: Vec<Sent>,
    number: u64,
    channels: u64,
    trace: Vec<String>,
}

impl World {
    fn new(seed: u64) -> World {
        let known = |name: &'static str, style| Known { name, label: name.to_owned(), style, there: false };
        World {
            rng: Rng::seeded(seed),
            now: 0,
            history: QueueHistory::default(),
            queues: vec![
                known("a", Style::Durable),
                known("b", Style::Durable),
                known("c", Style::Durable),
                known("q", Style::Quorum),
                known("t", Style::Transient),
                known("x", Style::Exclusive),
            ],
            sent: Vec::new(),
            number: 0,
            channels: 0,
            trace: Vec::new(),
        }
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap()
    }

    fn say(&mut self, what: String) {
        let now = self.now;
        self.trace.push(format!("{now}: {what}"));
    }

    fn client(&mut self, life: &Life) -> Client {
        self.channels += 1;
        Client {
            session: life.queues.session(),
            channel: self.channels,
            consumers: Vec::new(),
            held: Vec::new(),
            deliveries: Vec::new(),
            holders: Vec::new(),
        }
    }

    async fn end(&mut self, client: Client, how: u64) {
        let let_go = self.tick();
        let Client { session, channel, deliveries, mut holders, consumers, .. } = client;
        self.say(format!("end of {channel} {how}"));
        match how {
            0 => {
                session.close().await;
                let now = self.tick();
                holders.iter_mut().for_each(|holder| holder.ended = Some(now));
            }
            1 => drop(session),
            // The process is gone: what is done with it now nobody sees.
            _ => std::mem::forget(session),
        }
        drop(consumers);
        let deliveries = deliveries.into_iter().map(|it| Delivery { let_go: Some(let_go), ..it });
        self.history.deliveries.extend(deliveries);
        self.history.holders.extend(holders);
    }

    async fn step(&mut self, life: &Life, clients: &mut [Client]) {
        let (at, queue) = (self.below(clients.len()), self.below(self.queues.len()));
        for client in clients.iter_mut() {
            self.take(life, client);
        }
        match self.rng.below(20) {
            0..=5 => {
                if self.queues[queue].style != Style::Exclusive || at == 0 {
                    self.declare(life, &clients[at], queue).await;
                }
                self.publish(life, queue).await;
            }
            6 | 7 => {
                let wait = self.rng.below(2) == 0;
                self.collect(wait).await;
            }
            8..=11 => self.settle(life, &mut clients[at]).await,
            12 => self.consume(life, &mut clients[at], queue).await,
            13..=15 => {
                for _ in 0..self.rng.below(8) {
                    self.get(life, &mut clients[at], queue).await;
                }
            }
            16 => self.remove(life, &clients[at], queue, Removed::Ready).await,
            17 => self.remove(life, &clients[at], queue, Removed::Queue).await,
            18 => {
                let client = std::mem::replace(&mut clients[at], self.client(life));
                let how = self.rng.below(2);
                self.end(client, how).await;
                if at == 0 {
                    self.queues[5].there = false;
                }
            }
            _ => tokio::task::yield_now().await,
        }
    }

    async fn live(&mut self, life: &Life) -> Vec<Client> {
        let mut clients: Vec<Client> = (0..3).map(|_| self.client(life)).collect();
        for queue in 0..5 {
            self.declare(life, &clients[1], queue).await;
        }
        for _ in 0..30 + self.rng.below(120) {
            self.step(life, &mut clients).await;
        }
        clients
    }

    /// Ends a life in some way and gives back the disk.
    async fn crash(&mut self, disk: &SimDisk, life: Life, mut clients: Vec<Client>, seed: u64) -> SimDisk {
        let cut = self.rng.below(4);
        let clean = cut == 3;
        if clean {
            self.collect(true).await;
        }
        for client in &mut clients {
            self.take(&life, client);
        }
        if !clean {
            self.collect(false).await;
        }
        let began = self.tick();
        self.say(format!("life {} ends, {cut}", life.number));
        self.history.stops.push(Stop { life: life.number, began, clean });
        let next = match cut {
            0 => disk.crash(seed),
            1 => disk.crash_to_synced(),
            2 => disk.kill(),
            _ => disk.clone(),
        };
        for sent in std::mem::take(&mut self.sent) {
            self.history.publishings.extend(sent.publishings);
        }
        for client in clients {
            self.end(client, if clean { 0 } else { 1 }).await;
        }
        assert!(life.tasks.stop_and_wait(Duration::from_secs(60)).await);
        drop(life.queues);
        if clean {
            life.store.stop().await.unwrap();
        }
        for queue in &mut self.queues {
            queue.there &= matches!(queue.style, Style::Durable | Style::Quorum);
        }
        next
    }

    /// What is in the durable queues, in the end.
    async fn last(&mut self, life: &Life) {
        for queue in 0..4 {
            let name = self.queues[queue].name;
            let mut client = self.client(life);
            let began = self.tick();
            let found = life.queues.queue(&client.session, VHOST, name).await.ok();
            let found = found.map(|declared| (declared.stat.ready, declared.stat.consumers));
            let ended = self.tick();
            self.history.counts.push(Count { queue: name.to_owned(), began, ended, found, last: true });
            if found.is_none() {
                continue;
            }
            self.queues[queue].there = true;
            while self.get(life, &mut client, queue).await {}
            client.deliveries.iter_mut().for_each(|it| it.last = true);
            self.end(client, 0).await;
        }
    }
}

/// Starts a broker; now and then it is killed while it starts.
async fn start(world: &mut World, disk: &mut SimDisk, seed: u64, number: u32) -> Life {
    loop {
        let tasks = Tasks::new();
        if world.rng.below(3) > 0 {
            return begin(disk, seed, number, tasks).await;
        }
        let (turns, power) = (world.rng.below(200), world.rng.below(2) == 0);
        let before = disk.clone();
        // The disk as it is at that moment: what the dropped start still does is not on it.
        let cut = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            if power { before.crash(seed + turns) } else { before.kill() }
        };
        let next = tokio::select! {
            biased;
            life = begin(disk, seed, number, tasks.clone()) => return life,
            next = cut => next,
        };
        world.say(format!("life {number} is cut short after {turns}, power {power}"));
        assert!(tasks.stop_and_wait(Duration::from_secs(60)).await);
        *disk = next;
    }
}

async fn one_seed(seed: u64) {
    let mut disk = SimDisk::new(seed);
    let mut world = World::new(seed);
    let lives = 2 + u32::try_from(world.rng.below(4)).unwrap();
    for number in 0..lives {
        let life = start(&mut world, &mut disk, seed * 100 + u64::from(number), number).await;
        let clients = world.live(&life).await;
        disk = world.crash(&disk, life, clients, seed * 7 + u64::from(number)).await;
    }
    let life = begin(&disk, seed + 1, lives, Tasks::new()).await;
    world.last(&life).await;
    assert!(life.tasks.stop_and_wait(Duration::from_secs(60)).await);
    let expected =
        QueueExpectations { confirmed_min: 0, delivered_min: 0, done_min: 0, ..QueueExpectations::default() };
    let report = check(&world.history, &expected);
    if !report.violations.is_empty() {
        let tail = world.trace.join("\n");
        panic!("seed {seed}: {report}\n{tail}");
    }
}

#[tokio::test]
async fn random_lives_break_no_rule() {
    for seed in 0..SEEDS {
        one_seed(seed).await;
    }
}
