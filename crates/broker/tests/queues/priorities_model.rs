//! Random lives of a queue with priorities beside a naive one that is a list: which message goes next, to whom, and what
//! becomes of those that go otherwise.
//!
//! Classic and quorum queues; messages of all priorities, of none, and above the highest; returns, rejects, times to live,
//! limits, purges, transactions, clean stops and crashes. After each step both have delivered the same messages in the
//! same order; at the end of each life the dead letters are the same, in the same order.

use std::collections::BTreeMap;

use ferrymq_broker::queues::{
    Consumer, Credit, Deliveries, Event, Message, Publish, QueueHandle, Settle, Value, deliveries,
};
use ferrymq_runtime::Rng;
use ferrymq_types::Offset;

use crate::rig::{Rig, VHOST, body, int, message, pass, quiet};

const WINDOW: u32 = 3;

#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    priority: u8,
    bytes: u64,
    at_ms: u64,
    ttl_ms: Option<u64>,
}

#[derive(Default)]
struct Naive {
    quorum: bool,
    max: u8,
    ttl_ms: Option<u64>,
    length_max: Option<u64>,
    bytes_max: Option<u64>,
    refuses: bool,
    now_ms: u64,
    ready: Vec<Entry>,
    held: Vec<Entry>,
    room: Option<u32>,
    /// Below, a message of a priority was taken before.
    taken: BTreeMap<u8, u64>,
    /// Below, one was settled or given back: all that a restart knows.
    told: BTreeMap<u8, u64>,
    delivered: Vec<u64>,
    dead: Vec<u64>,
    /// The priority of each message.
    priorities: BTreeMap<u64, u8>,
}

impl Naive {
    fn priority(&self, given: Option<u8>) -> u8 {
        given.unwrap_or(if self.quorum { 4 } else { 0 }).min(self.max)
    }

    /// Which one goes next: highest priority first, in the order of coming; in quorum queues what came back goes first.
    fn front(&self) -> Option<usize> {
        let back = |entry: &Entry| {
            self.quorum && entry.number < self.taken.get(&entry.priority).copied().unwrap_or(0)
        };
        let all = self.ready.iter().enumerate();
        let first = all.min_by_key(|(_, entry)| (!back(entry), u8::MAX - entry.priority, entry.number));
        first.map(|(at, _)| at)
    }

    /// The first of a priority.
    fn head(&self, priority: u8) -> Option<usize> {
        let all = self.ready.iter().enumerate().filter(|(_, entry)| entry.priority == priority);
        all.min_by_key(|(_, entry)| entry.number).map(|(at, _)| at)
    }

    fn is_over(&self, entry: &Entry) -> bool {
        let ttl_ms = self.ttl_ms.into_iter().chain(entry.ttl_ms).min();
        ttl_ms.is_some_and(|ttl_ms| ttl_ms == 0 || entry.at_ms + ttl_ms < self.now_ms)
    }

    fn passes(&self, more: u64, bytes: u64) -> bool {
        let ready: u64 = self.ready.iter().map(|entry| entry.bytes).sum();
        self.length_max.is_some_and(|max| self.ready.len() as u64 + more > max)
            || self.bytes_max.is_some_and(|max| ready + bytes > max)
    }

    fn take(&mut self, at: usize) -> Entry {
        let entry = self.ready.remove(at);
        let taken = self.taken.entry(entry.priority).or_default();
        *taken = (*taken).max(entry.number + 1);
        entry
    }

    fn tell(&mut self, entry: &Entry) {
        let told = self.told.entry(entry.priority).or_default();
        *told = (*told).max(entry.number + 1);
    }

    fn discard(&mut self, at: usize) {
        let entry = self.take(at);
        self.tell(&entry);
        self.dead.push(entry.number);
    }

    /// Delivers, expires and drops whatever has to be; from number `new` on they may be delivered though their time is
    /// over.
    fn settle(&mut self, new: u64) {
        while let Some(front) = self.front() {
            let consumer = self.room.is_some_and(|room| room > 0);
            let head = &self.ready[front];
            if self.is_over(head) && !(consumer && head.number >= new) {
                self.discard(front);
                continue;
            }
            if !consumer {
                break;
            }
            let entry = self.take(front);
            self.delivered.push(entry.number);
            self.held.push(entry);
            self.room = self.room.map(|room| room - 1);
        }
        let levels = if self.quorum { self.max + 1 } else { 0 };
        for priority in (0..levels).rev() {
            while let Some(head) = self.head(priority).filter(|at| self.is_over(&self.ready[*at])) {
                self.discard(head);
            }
        }
        while !self.refuses && self.passes(0, 0) {
            let Some(front) = self.front() else { return };
            self.discard(front);
        }
    }

    /// Which of these are taken.
    fn publish(&mut self, entries: Vec<Entry>) -> Vec<bool> {
        let new = entries[0].number;
        let taken = entries.into_iter().map(|entry| {
            let is_taken = !self.refuses || !self.passes(1, entry.bytes);
            if is_taken {
                self.ready.push(entry);
            }
            is_taken
        });
        let taken = taken.collect();
        self.settle(new);
        taken
    }

    fn get(&mut self) -> Option<u64> {
        self.settle(u64::MAX);
        let entry = self.front().map(|front| self.take(front))?;
        self.tell(&entry);
        self.settle(u64::MAX);
        Some(entry.number)
    }

    fn let_go(&mut self, number: u64, how: Settle) {
        let at = self.held.iter().position(|entry| entry.number == number).unwrap();
        let entry = self.held.remove(at);
        self.tell(&entry);
        match how {
            Settle::Ack => {}
            Settle::Reject => self.dead.push(number),
            Settle::Requeue | Settle::Fail => self.ready.push(entry),
        }
    }

    fn purge(&mut self) {
        while !self.ready.is_empty() {
            let entry = self.take(0);
            self.tell(&entry);
        }
    }

    fn restart(&mut self) {
        self.room = None;
        self.ready.append(&mut self.held);
        self.taken = self.told.clone();
        self.settle(u64::MAX);
    }
}

struct Life {
    rig: Rig,
    queue: QueueHandle,
    naive: Naive,
    consumer: Option<(Consumer, Deliveries)>,
    /// Offsets of what is held, by number.
    held: Vec<(u64, u64)>,
    last: u64,
}

impl Life {
    async fn begin(rng: &Rng) -> Life {
        let rig = if rng.below(2) == 0 { Rig::new().await } else { Rig::tight(1).await };
        let some = |below| (rng.below(4) == 0).then(|| rng.below(below));
        let (ttl_ms, length_max, bytes_max) = (some(40), some(10), some(80));
        let (refuses, quorum) = (rng.below(2) == 0, rng.below(2) == 0);
        let mut list = vec![
            ("x-dead-letter-exchange", Value::text("")),
            ("x-dead-letter-routing-key", Value::text("dead")),
        ];
        let named =
            [("x-message-ttl", ttl_ms), ("x-max-length", length_max), ("x-max-length-bytes", bytes_max)];
        for (name, value) in named {
            list.extend(value.map(|value| (name, int(value.cast_signed()))));
        }
        if refuses {
            list.push(("x-overflow", Value::text("reject-publish")));
        }
        let max = if quorum { 31 } else { [1, 3, 255][usize::try_from(rng.below(3)).unwrap()] };
        list.push(match quorum {
            true => ("x-queue-type", Value::text("quorum")),
            false => ("x-max-priority", int(i64::from(max))),
        });
        rig.queue("dead").await;
        let queue = rig.queue_with("q", &list).await;
        let naive = Naive { quorum, max, ttl_ms, length_max, bytes_max, refuses, ..Naive::default() };
        Life { rig, queue, naive, consumer: None, held: Vec::new(), last: 0 }
    }

    /// A message, as both see it.
    fn make(&mut self, rng: &Rng) -> (Publish, Entry) {
        self.last += 1;
        let ttl_ms = (rng.below(3) == 0).then(|| rng.below(30));
        let given = [None, Some(0), Some(1), Some(2), Some(5), Some(9), Some(40), Some(255)];
        let given = given[usize::try_from(rng.below(8)).unwrap()];
        let text = format!("{} {}", self.last, "x".repeat(usize::try_from(rng.below(15)).unwrap()));
        let (bytes, priority) = (text.len() as u64, self.naive.priority(given));
        self.naive.priorities.insert(self.last, priority);
        let message = Message { ttl_ms, priority: given, ..message("q", &text, true) };
        let entry = Entry { number: self.last, priority, bytes, at_ms: self.naive.now_ms, ttl_ms };
        (Publish { message, to: self.rig.route("", "q") }, entry)
    }

    async fn publish(&mut self, rng: &Rng) {
        // With a limit on length it shows when each message became visible: one at a time.
        let together = if self.naive.length_max.is_some() || self.naive.bytes_max.is_some() { 1 } else { 4 };
        let (publishes, entries): (Vec<_>, Vec<_>) =
            (0..1 + rng.below(together)).map(|_| self.make(rng)).unzip();
        // Those of several priorities become visible one after the other: nobody may be waiting for them.
        let waits = self.naive.room.is_some_and(|room| room > 0);
        let runs = if waits { 1 } else { publishes.len() };
        for (publishes, entries) in publishes.chunks(runs).zip(entries.chunks(runs)) {
            let published = self.rig.queues.publish(publishes.to_vec()).await.await;
            quiet().await;
            let taken = self.naive.publish(entries.to_vec());
            let failed: Vec<usize> = published.failed.iter().map(|(at, _)| *at).collect();
            let expected: Vec<usize> = (0..taken.len()).filter(|at| !taken[*at]).collect();
            assert_eq!(failed, expected);
        }
    }

    /// What was delivered since the last look, in order.
    fn look(&mut self) {
        let mut delivered = Vec::new();
        while let Some(event) = self.consumer.as_mut().and_then(|(_, from)| from.try_recv()) {
            let Event::Deliver(more) = event else { panic!("{event:?}") };
            for delivery in more {
                let number = number(&body(&delivery));
                delivered.push(number);
                self.held.push((number, delivery.offset.0));
            }
        }
        assert_eq!(delivered, std::mem::take(&mut self.naive.delivered));
    }

    async fn step(&mut self, rng: &Rng) {
        match rng.below(14) {
            0..=4 => self.publish(rng).await,
            5 => {
                let ms = rng.below(20);
                pass(ms).await;
                self.naive.now_ms += ms;
            }
            6 => {
                let got = self.rig.get("q").await.map(|body| number(&body));
                quiet().await;
                assert_eq!(got, self.naive.get());
            }
            7 => self.consume_or_cancel().await,
            8 if rng.below(5) == 0 => {
                let ready = self.naive.ready.len() as u64;
                assert_eq!(self.rig.queues.purge(&self.rig.session, VHOST, "q").await.unwrap(), ready);
                self.naive.purge();
            }
            _ => self.let_go(rng).await,
        }
        quiet().await;
        self.naive.settle(u64::MAX);
        self.look();
    }

    async fn consume_or_cancel(&mut self) {
        match self.consumer.take() {
            Some((consumer, _)) => {
                self.rig.queues.cancel(&self.rig.session, &consumer).await.unwrap();
                self.naive.room = None;
            }
            // What a cancelled one holds makes no room for the next.
            None if self.held.is_empty() => {
                let (sink, from) = deliveries(1 << 20);
                let consumer = self.rig.consume("q", Credit::Window(WINDOW), &sink).await;
                self.consumer = Some((consumer, from));
                self.naive.room = Some(WINDOW);
            }
            None => {}
        }
    }

    /// Settles some of what is held, in any order, by itself or in a joint commit.
    async fn let_go(&mut self, rng: &Rng) {
        if self.held.is_empty() {
            return;
        }
        let at = usize::try_from(rng.below(self.held.len() as u64)).unwrap();
        let (number, offset) = self.held.remove(at);
        let how = [Settle::Ack, Settle::Requeue, Settle::Reject][usize::try_from(rng.below(3)).unwrap()];
        if rng.below(3) == 0 && how != Settle::Reject {
            let settles = vec![(self.queue.clone(), vec![(Offset(offset), how)])];
            self.rig.queues.commit(&self.rig.session, Vec::new(), settles).await.unwrap();
        } else {
            self.rig.settle(&self.queue, &[offset], how).await;
        }
        self.naive.let_go(number, how);
        self.naive.room = self.naive.room.map(|room| room + 1);
    }

    async fn check(&self, seed: u64) {
        let stat = self.rig.stat(&self.queue).await;
        assert_eq!(stat.ready, self.naive.ready.len() as u64, "seed {seed}: {:?}", self.naive.ready);
        assert_eq!(stat.unacked, self.naive.held.len() as u64, "seed {seed}");
    }

    async fn restart(&mut self, clean: bool) {
        if let Some((consumer, _)) = self.consumer.take() {
            self.rig.queues.cancel(&self.rig.session, &consumer).await.unwrap();
        }
        self.held.clear();
        // Dead letters have arrived.
        for _ in 0..20 {
            quiet().await;
        }
        if clean {
            self.rig.restart().await
        } else {
            self.rig.start().await
        }
        self.queue = self.rig.queues.queue(&self.rig.session, VHOST, "q").await.unwrap().queue;
        for _ in 0..20 {
            quiet().await;
        }
        self.naive.restart();
        let mut found = Vec::new();
        while let Some(body) = self.rig.get("dead").await {
            found.push(number(&body));
        }
        let mut expected = std::mem::take(&mut self.naive.dead);
        if self.naive.quorum {
            // Heads that have to be read go as they are read: in the order of each priority.
            let priorities = &self.naive.priorities;
            found.sort_by_key(|number| priorities.get(number));
            expected.sort_by_key(|number| priorities.get(number));
        }
        assert_eq!(found, expected);
    }
}

fn number(body: &str) -> u64 {
    body.split_once(' ').unwrap().0.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_queue_with_priorities_is_as_a_naive_one() {
    for seed in 0..200 {
        let rng = Rng::seeded(seed);
        let mut life = Life::begin(&rng).await;
        for _ in 0..3 {
            for _ in 0..40 {
                life.step(&rng).await;
                life.check(seed).await;
            }
            life.restart(rng.below(2) == 0).await;
            life.check(seed).await;
        }
        let ready: Vec<u64> = std::iter::from_fn(|| life.naive.get()).collect();
        let mut there = Vec::new();
        while let Some(body) = life.rig.get("q").await {
            there.push(number(&body));
        }
        assert_eq!(there, ready, "seed {seed}");
    }
}
