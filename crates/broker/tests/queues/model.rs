//! Random lives of one queue beside a naive one: times to live, a limit, consumers, gets, restarts, and time that passes.
//!
//! The naive queue is a list in which everything is done at once. After each step both must have the same messages
//! ready, in the same order, and have delivered the same ones.

use ferrymq_broker::queues::{
    Consumer, Credit, Deliveries, Event, Message, Publish, QueueHandle, Settle, Value, deliveries,
};
use ferrymq_runtime::Rng;

use crate::rig::{Rig, VHOST, body, int, message, pass, quiet};

const WINDOW: u32 = 3;

#[derive(Debug, Clone)]
struct Entry {
    number: u64,
    bytes: u64,
    at_ms: u64,
    ttl_ms: Option<u64>,
}

#[derive(Default)]
struct Naive {
    now_ms: u64,
    ttl_ms: Option<u64>,
    length_max: Option<u64>,
    bytes_max: Option<u64>,
    refuses: bool,
    ready: Vec<Entry>,
    held: Vec<(Entry, u64)>,
    room: Option<u32>,
    /// Which consumer that is the room of.
    consumer: u64,
}

impl Naive {
    fn is_over(&self, entry: &Entry) -> bool {
        let ttl_ms = self.ttl_ms.into_iter().chain(entry.ttl_ms).min();
        ttl_ms.is_some_and(|ttl_ms| ttl_ms == 0 || entry.at_ms + ttl_ms < self.now_ms)
    }

    fn bytes(&self) -> u64 {
        self.ready.iter().map(|entry| entry.bytes).sum()
    }

    fn passes(&self, more: u64, bytes: u64) -> bool {
        self.length_max.is_some_and(|max| self.ready.len() as u64 + more > max)
            || self.bytes_max.is_some_and(|max| self.bytes() + bytes > max)
    }

    /// Delivers, expires and drops whatever has to be; `new`: this one may be delivered though its time is over.
    fn settle(&mut self, new: Option<u64>) {
        loop {
            let Some(head) = self.ready.first() else { return };
            let consumer = self.room.is_some_and(|room| room > 0);
            if self.is_over(head) && !(consumer && new.is_some_and(|new| head.number >= new)) {
                self.ready.remove(0);
            } else if consumer {
                self.held.push((self.ready.remove(0), self.consumer));
                self.room = self.room.map(|room| room - 1);
            } else if !self.refuses && self.passes(0, 0) {
                self.ready.remove(0);
            } else {
                return;
            }
        }
    }

    /// Whether it is taken.
    fn publish(&mut self, entry: Entry) -> bool {
        if self.refuses && self.passes(1, entry.bytes) {
            return false;
        }
        let new = entry.number;
        self.ready.push(entry);
        self.settle(Some(new));
        true
    }

    fn get(&mut self) -> Option<u64> {
        self.settle(None);
        if self.ready.is_empty() {
            return None;
        }
        let number = self.ready.remove(0).number;
        self.settle(None);
        Some(number)
    }

    fn consume(&mut self) {
        self.consumer += 1;
        self.room = Some(WINDOW);
        self.settle(None);
    }

    fn acknowledge(&mut self, number: u64) -> Entry {
        let at = self.held.iter().position(|(entry, _)| entry.number == number).unwrap();
        let (entry, consumer) = self.held.remove(at);
        if consumer == self.consumer {
            self.room = self.room.map(|room| room + 1);
        }
        entry
    }

    fn give_back(&mut self, number: u64) {
        let entry = self.acknowledge(number);
        self.ready.push(entry);
        self.ready.sort_by_key(|entry| entry.number);
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
        let some = |below| (rng.below(3) == 0).then(|| rng.below(below));
        let (ttl_ms, length_max, bytes_max) = (some(40), some(8), some(60));
        let refuses = rng.below(2) == 0;
        let mut list = Vec::new();
        let named =
            [("x-message-ttl", ttl_ms), ("x-max-length", length_max), ("x-max-length-bytes", bytes_max)];
        for (name, value) in named {
            list.extend(value.map(|value| (name, int(value.cast_signed()))));
        }
        if refuses {
            list.push(("x-overflow", Value::text("reject-publish")));
        }
        let queue = rig.queue_with("q", &list).await;
        let naive = Naive { ttl_ms, length_max, bytes_max, refuses, ..Naive::default() };
        Life { rig, queue, naive, consumer: None, held: Vec::new(), last: 0 }
    }

    async fn publish(&mut self, rng: &Rng) {
        self.last += 1;
        let ttl_ms = (rng.below(2) == 0).then(|| rng.below(30));
        let text = format!("{} {}", self.last, "x".repeat(usize::try_from(rng.below(15)).unwrap()));
        let bytes = text.len() as u64;
        let message = Message { ttl_ms, ..message("q", &text, true) };
        let publish = vec![Publish { message, to: self.rig.route("", "q") }];
        let published = self.rig.queues.publish(publish).await.await;
        quiet().await;
        let entry = Entry { number: self.last, bytes, at_ms: self.naive.now_ms, ttl_ms };
        assert_eq!(published.failed.is_empty(), self.naive.publish(entry));
    }

    /// Numbers that were delivered since the last look.
    fn look(&mut self) {
        let Some((_, from)) = &mut self.consumer else { return };
        while let Some(event) = from.try_recv() {
            let Event::Deliver(more) = event else { panic!("{event:?}") };
            for delivery in more {
                let number = number(&body(&delivery));
                self.held.push((number, delivery.offset.0));
            }
        }
    }

    async fn step(&mut self, rng: &Rng) {
        match rng.below(10) {
            0..=3 => self.publish(rng).await,
            4 | 5 => {
                let ms = rng.below(20);
                pass(ms).await;
                self.naive.now_ms += ms;
                self.naive.settle(None);
            }
            6 => {
                let got = self.rig.get("q").await.map(|body| number(&body));
                quiet().await;
                assert_eq!(got, self.naive.get());
            }
            7 => match self.consumer.take() {
                Some((consumer, _)) => {
                    self.rig.queues.cancel(&self.rig.session, &consumer).await.unwrap();
                    self.naive.room = None;
                }
                None => {
                    let (sink, from) = deliveries(1 << 20);
                    let consumer = self.rig.consume("q", Credit::Window(WINDOW), &sink).await;
                    self.consumer = Some((consumer, from));
                    quiet().await;
                    self.naive.consume();
                }
            },
            _ if self.held.is_empty() => {}
            step => {
                let at = usize::try_from(rng.below(self.held.len() as u64)).unwrap();
                let (number, offset) = self.held.remove(at);
                let how = if step == 8 { Settle::Ack } else { Settle::Requeue };
                self.rig.settle(&self.queue, &[offset], how).await;
                quiet().await;
                match how {
                    Settle::Requeue => self.naive.give_back(number),
                    _ => drop(self.naive.acknowledge(number)),
                }
                self.naive.settle(None);
            }
        }
        quiet().await;
        self.look();
    }

    fn check(&self, stat: ferrymq_broker::queues::QueueStat, seed: u64) {
        let mut held: Vec<u64> = self.held.iter().map(|(number, _)| *number).collect();
        held.sort_unstable();
        let mut naive: Vec<u64> = self.naive.held.iter().map(|(entry, _)| entry.number).collect();
        naive.sort_unstable();
        assert_eq!(held, naive, "seed {seed}: delivered");
        assert_eq!(stat.ready, self.naive.ready.len() as u64, "seed {seed}: {:?}", self.naive.ready);
    }

    async fn restart(&mut self, clean: bool) {
        if let Some((consumer, _)) = self.consumer.take() {
            self.rig.queues.cancel(&self.rig.session, &consumer).await.unwrap();
        }
        self.naive.room = None;
        for (number, _) in std::mem::take(&mut self.held) {
            self.naive.give_back(number);
        }
        if clean {
            self.rig.restart().await
        } else {
            self.rig.start().await
        }
        self.queue = self.rig.queues.queue(&self.rig.session, VHOST, "q").await.unwrap().queue;
        quiet().await;
        self.naive.settle(None);
    }
}

fn number(body: &str) -> u64 {
    body.split_once(' ').unwrap().0.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_as_a_naive_one() {
    for seed in 0..150 {
        let rng = Rng::seeded(seed);
        let mut life = Life::begin(&rng).await;
        for _ in 0..3 {
            for _ in 0..40 {
                life.step(&rng).await;
                life.check(life.rig.stat(&life.queue).await, seed);
            }
            life.restart(rng.below(2) == 0).await;
            life.check(life.rig.stat(&life.queue).await, seed);
        }
        let ready: Vec<u64> = std::iter::from_fn(|| life.naive.get()).collect();
        let there: Vec<u64> = life.rig.get_all("q").await.iter().map(|(body, _)| number(body)).collect();
        assert_eq!(there, ready, "seed {seed}");
    }
}
