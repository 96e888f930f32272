//! Random lives of consumers beside a naive queue that decides, message by message, who gets what.
//!
//! Exactly what each consumer is sent, in which order and with which marks and counts, must be what the naive one
//! says: turns among equals, priorities, one at a time with and without preemption, windows, returns, failures and
//! their limit, cancelled consumers and sessions that end.

use std::collections::{BTreeMap, BTreeSet};

use ferrymq_broker::queues::{
    Consumer, Credit, Deliveries, Event, NewConsumer, QueueHandle, QueueSpec, Session, Settle, Value, Width,
    deliveries,
};
use ferrymq_runtime::Rng;
use ferrymq_types::Offset;

use crate::rig::{Rig, VHOST, arguments, durable, quiet};

/// What a delivery tells: offset, redelivered, returned, failed.
type Told = (u64, bool, u16, Option<u16>);

#[derive(Clone)]
struct Taker {
    priority: i64,
    window: usize,
    has: BTreeSet<u64>,
    active: bool,
}

#[derive(Default)]
struct Message {
    returned: u16,
    failed: u16,
    delivered: bool,
}

/// The naive queue. Tokens rise in the order in which consumers come.
struct Naive {
    single: bool,
    quorum: bool,
    limit: u16,
    ready: BTreeSet<u64>,
    messages: BTreeMap<u64, Message>,
    takers: BTreeMap<u64, Taker>,
    /// Who can take something, in the order of their turns.
    line: Vec<u64>,
    holder: Option<u64>,
    sent: BTreeMap<u64, Vec<Told>>,
}

impl Naive {
    fn active(&self, token: u64) -> bool {
        self.takers.get(&token).is_some_and(|taker| taker.active)
    }

    /// Whoever may not take anything leaves the line; whoever may and is not in it stands at its end.
    fn stand(&mut self, token: u64) {
        let may = self.takers.get(&token).is_some_and(|taker| taker.active && taker.has.len() < taker.window);
        let waited_for = self.quorum
            && self
                .takers
                .values()
                .any(|other| other.active && other.priority > self.takers[&token].priority);
        let may = may && (!self.single || self.holder == Some(token) && !waited_for);
        match self.line.iter().position(|other| *other == token) {
            Some(at) if !may => drop(self.line.remove(at)),
            None if may => self.line.push(token),
            _ => {}
        }
    }

    fn elect(&mut self) {
        if !self.single {
            return;
        }
        let before = self.holder.filter(|holder| self.active(*holder));
        let best = self.takers.iter().filter(|(_, taker)| taker.active);
        let best =
            best.max_by_key(|(token, taker)| (taker.priority, u64::MAX - **token)).map(|(token, _)| *token);
        self.holder = match (before, best) {
            (Some(now), Some(best))
                if self.quorum
                    && self.takers[&best].priority > self.takers[&now].priority
                    && self.takers[&now].has.is_empty() =>
            {
                Some(best)
            }
            (Some(now), _) => Some(now),
            (None, best) => best,
        };
        let tokens: Vec<u64> = self.takers.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.stand(token));
    }

    fn give_back(&mut self, offset: u64, failed: bool) {
        let message = self.messages.get_mut(&offset).unwrap();
        if failed && self.quorum && message.failed >= self.limit {
            self.messages.remove(&offset);
            return;
        }
        message.returned += 1;
        message.failed += u16::from(failed && self.quorum);
        self.ready.insert(offset);
    }

    fn settle(&mut self, token: u64, offset: u64, how: Settle) {
        assert!(self.takers.get_mut(&token).unwrap().has.remove(&offset));
        match how {
            Settle::Ack | Settle::Reject => drop(self.messages.remove(&offset)),
            Settle::Requeue | Settle::Fail => self.give_back(offset, how == Settle::Fail),
        }
        self.stand(token);
        self.elect();
    }

    fn dispatch(&mut self) {
        while let Some(offset) = self.ready.first().copied() {
            let highest = self.line.iter().map(|token| self.takers[token].priority).max();
            let next = self.line.iter().position(|token| Some(self.takers[token].priority) == highest);
            let Some(next) = next else { return };
            let token = self.line.remove(next);
            self.ready.remove(&offset);
            let message = self.messages.get_mut(&offset).unwrap();
            let failed = self.quorum.then_some(message.failed);
            let told = (offset, std::mem::replace(&mut message.delivered, true), message.returned, failed);
            self.sent.entry(token).or_default().push(told);
            self.takers.get_mut(&token).unwrap().has.insert(offset);
            self.stand(token);
        }
    }
}

struct World {
    rng: Rng,
    rig: Rig,
    queue: QueueHandle,
    naive: Naive,
    /// Each consumer has a session of its own.
    real: BTreeMap<u64, (Session, Consumer)>,
    sink: ferrymq_broker::queues::DeliverySink,
    all: Deliveries,
    last_token: u64,
    next: u64,
}

impl World {
    async fn new(seed: u64) -> World {
        let rng = Rng::seeded(seed);
        let rig = Rig::new().await;
        let (single, quorum, limit) = (rng.below(2) == 0, rng.below(2) == 0, rng.below(4));
        let mut list = vec![("x-single-active-consumer", Value::Bool(single))];
        if quorum {
            list.push(("x-queue-type", Value::text("quorum")));
            list.push(("x-delivery-limit", Value::Int(i64::try_from(limit).unwrap(), Width::I32)));
        }
        let queue = rig.declare(QueueSpec { arguments: arguments(&list), ..durable("q") }).await.queue;
        let (sink, all) = deliveries(16 * 1024 * 1024);
        let naive = Naive {
            single,
            quorum,
            limit: u16::try_from(limit).unwrap(),
            ready: BTreeSet::new(),
            messages: BTreeMap::new(),
            takers: BTreeMap::new(),
            line: Vec::new(),
            holder: None,
            sent: BTreeMap::new(),
        };
        World { rng, rig, queue, naive, real: BTreeMap::new(), sink, all, last_token: 0, next: 0 }
    }

    fn some_token(&self) -> Option<u64> {
        let tokens: Vec<u64> = self.real.keys().copied().collect();
        let at = self.rng.below(tokens.len().max(1) as u64);
        tokens.get(usize::try_from(at).unwrap()).copied()
    }

    async fn step(&mut self) {
        match self.rng.below(12) {
            0..4 => self.publish().await,
            4 | 5 => self.consume().await,
            6 => self.cancel().await,
            7 if self.rng.below(2) == 0 => self.end().await,
            _ => self.settle().await,
        }
        self.naive.dispatch();
        quiet().await;
        self.check().await;
    }

    async fn publish(&mut self) {
        let count = 1 + self.rng.below(6);
        let names: Vec<String> = (0..count).map(|at| (self.next + at).to_string()).collect();
        self.rig.publish("q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for offset in self.next..self.next + count {
            self.naive.ready.insert(offset);
            self.naive.messages.insert(offset, Message::default());
        }
        self.next += count;
    }

    async fn consume(&mut self) {
        if self.real.len() >= 5 {
            return;
        }
        self.last_token += 1;
        let (token, priority) = (self.last_token, i64::try_from(self.rng.below(3)).unwrap() - 1);
        let window = u32::try_from(1 + self.rng.below(4)).unwrap();
        let new = NewConsumer { priority, ..NewConsumer::new(token, Credit::Window(window)) };
        let session = self.rig.queues.session();
        let consumer = self.rig.queues.consume(&session, VHOST, "q", new, &self.sink).await.unwrap();
        self.real.insert(token, (session, consumer));
        let taker = Taker { priority, window: window as usize, has: BTreeSet::new(), active: true };
        self.naive.takers.insert(token, taker);
        self.naive.stand(token);
        self.naive.elect();
    }

    /// A cancelled consumer keeps what it has.
    async fn cancel(&mut self) {
        let Some(token) = self.some_token().filter(|token| self.naive.active(*token)) else { return };
        let (session, consumer) = &self.real[&token];
        self.rig.queues.cancel(session, consumer).await.unwrap();
        self.naive.takers.get_mut(&token).unwrap().active = false;
        self.naive.stand(token);
        self.naive.elect();
    }

    async fn end(&mut self) {
        let Some(token) = self.some_token() else { return };
        let (session, _) = self.real.remove(&token).unwrap();
        session.close().await;
        let taker = self.naive.takers.get_mut(&token).unwrap();
        taker.active = false;
        let had = std::mem::take(&mut taker.has);
        self.naive.stand(token);
        self.naive.takers.remove(&token);
        self.naive.elect();
        had.into_iter().for_each(|offset| self.naive.give_back(offset, true));
    }

    async fn settle(&mut self) {
        let Some(token) = self.some_token() else { return };
        let mut has: Vec<u64> = self.naive.takers[&token].has.iter().copied().collect();
        has.retain(|_| self.rng.below(2) == 0);
        let how = |_: &u64| match self.rng.below(5) {
            0 | 1 => Settle::Ack,
            2 => Settle::Requeue,
            3 => Settle::Fail,
            _ => Settle::Reject,
        };
        let what: Vec<(u64, Settle)> = has.iter().map(|offset| (*offset, how(offset))).collect();
        let all = what.iter().map(|(offset, how)| (Offset(*offset), *how)).collect();
        self.rig.queues.settle(&self.real[&token].0, &self.queue, all).await;
        what.into_iter().for_each(|(offset, how)| self.naive.settle(token, offset, how));
    }

    async fn check(&mut self) {
        let mut sent: BTreeMap<u64, Vec<Told>> = BTreeMap::new();
        while let Some(event) = self.all.try_recv() {
            let Event::Deliver(more) = event else { panic!("{event:?}") };
            for got in more {
                let told = (got.offset.0, got.redelivered, got.returned, got.failed);
                sent.entry(got.token).or_default().push(told);
            }
        }
        assert_eq!(sent, std::mem::take(&mut self.naive.sent));
        let stat = self.rig.stat(&self.queue).await;
        assert_eq!(stat.ready, self.naive.ready.len() as u64);
        let unacked: usize = self.naive.takers.values().map(|taker| taker.has.len()).sum();
        assert_eq!(stat.unacked, unacked as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gets_what_is_what_a_naive_queue_says() {
    for seed in 0..400 {
        println!("seed {seed}");
        let mut world = World::new(seed).await;
        for _ in 0..80 {
            world.step().await;
        }
    }
}
