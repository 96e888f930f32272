//! Power cuts and kills under queues with priorities: what was confirmed is there, in the order of its priority, also if
//! the log of its level had just been made; what was durably acknowledged is not.

use std::collections::{BTreeMap, BTreeSet};

use ferrymq_broker::queues::{Message, NoHeaders, Publish, QueueSpec, Settle, Value};
use ferrymq_disk::SimDisk;
use ferrymq_runtime::Rng;
use ferrymq_types::Offset;
use futures_util::FutureExt as _;

use crate::crash::Life;
use crate::rig::{VHOST, arguments, body, durable, int, message, quiet};

const QUEUES: [&str; 2] = ["classic", "quorum"];

/// What is known of one queue's messages, by number.
#[derive(Default)]
struct Known {
    priorities: BTreeMap<u64, u8>,
    confirmed: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    /// Acknowledged; durably so once something published later is confirmed.
    acked: BTreeMap<u64, bool>,
}

struct World {
    rng: Rng,
    known: [Known; 2],
    last: u64,
}

fn specs() -> [QueueSpec; 2] {
    let of = |name: &str, argument: (&str, Value)| QueueSpec {
        arguments: arguments(&[argument]),
        ..durable(name)
    };
    [of("classic", ("x-max-priority", int(5))), of("quorum", ("x-queue-type", Value::text("quorum")))]
}

impl World {
    async fn publish(&mut self, life: &Life, at: usize) {
        let (name, known) = (QUEUES[at], &mut self.known[at]);
        let to = life.queues.route(VHOST, "", name.as_bytes(), &NoHeaders).unwrap();
        let (mut batch, mut numbers) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.rng.below(5) {
            self.last += 1;
            let given =
                [None, Some(0), Some(1), Some(3), Some(200)][usize::try_from(self.rng.below(5)).unwrap()];
            let (none, max) = [(0, 5), (4, 31)][at];
            known.priorities.insert(self.last, given.unwrap_or(none).min(max));
            let message = Message { priority: given, ..message(name, &self.last.to_string(), true) };
            batch.push(Publish { message, to: to.clone() });
            numbers.push(self.last);
        }
        let acked: Vec<u64> = known.acked.keys().copied().collect();
        let mut pending = life.queues.publish(batch).await;
        let answer = match self.rng.below(3) {
            0 => (&mut pending).now_or_never(),
            _ => Some(pending.await),
        };
        if let Some(published) = answer {
            assert!(published.failed.is_empty(), "{published:?}");
            known.confirmed.extend(numbers);
            known.acked.extend(acked.into_iter().map(|number| (number, true)));
        }
    }

    async fn consume(&mut self, life: &Life, at: usize) {
        let known = &mut self.known[at];
        let mut what = Vec::new();
        let mut from = None;
        for _ in 0..self.rng.below(6) {
            let Some(got) = life.queues.get(&life.session, VHOST, QUEUES[at], false).await.unwrap() else {
                break;
            };
            let number: u64 = body(&got.delivery).parse().unwrap();
            known.delivered.insert(number);
            match self.rng.below(4) {
                0 => {}
                1 => what.push((got.delivery.offset, Settle::Requeue)),
                _ => {
                    what.push((got.delivery.offset, Settle::Ack));
                    known.acked.insert(number, false);
                }
            }
            from = Some(got.queue);
        }
        if let Some(queue) = from {
            let what: Vec<(Offset, Settle)> = what;
            life.queues.settle(&life.session, &queue, what).await;
        }
    }

    /// Reads everything and holds it against what was known; from then on, that is what is known.
    async fn check(&mut self, life: &Life, seed: u64) {
        for (name, known) in QUEUES.into_iter().zip(&mut self.known) {
            let declared = life.queues.queue(&life.session, VHOST, name).await.unwrap();
            let mut found = Vec::new();
            while let Some(got) = life.queues.get(&life.session, VHOST, name, false).await.unwrap() {
                let number: u64 = body(&got.delivery).parse().unwrap();
                let marked = got.delivery.redelivered || !known.delivered.contains(&number);
                assert!(marked, "seed {seed} {name}: {number} was delivered before");
                found.push(number);
            }
            assert_eq!(declared.stat.ready, found.len() as u64, "seed {seed} {name}: counted wrongly");
            let of = |number: &u64| known.priorities[number];
            for pair in found.windows(2).filter(|pair| of(&pair[0]) == of(&pair[1])) {
                assert!(pair[0] < pair[1], "seed {seed} {name}: out of order: {found:?}");
            }
            if name == "classic" {
                let order: Vec<u8> = found.iter().map(of).collect();
                assert!(order.is_sorted_by(|a, b| a >= b), "seed {seed} {name}: {found:?}: {order:?}");
            }
            for number in &known.confirmed {
                let there = found.contains(number) || known.acked.contains_key(number);
                assert!(there, "seed {seed} {name}: {number} was confirmed and is lost: {found:?}");
            }
            for (number, durably) in &known.acked {
                assert!(!durably || !found.contains(number), "seed {seed} {name}: {number} came back");
            }
            let found: BTreeSet<u64> = found.into_iter().collect();
            known.confirmed.clone_from(&found);
            known.delivered = found;
            known.acked.clear();
        }
    }
}

async fn one_seed(seed: u64) {
    let mut disk = SimDisk::new(seed);
    let mut world = World { rng: Rng::seeded(seed), known: Default::default(), last: 0 };
    let mut life = Life::begin(&disk, seed).await;
    for spec in specs() {
        life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
    }
    for round in 0..4 {
        for _ in 0..3 + world.rng.below(12) {
            let at = usize::try_from(world.rng.below(2)).unwrap();
            world.publish(&life, at).await;
            world.consume(&life, at).await;
            if world.rng.below(4) == 0 {
                quiet().await;
            }
        }
        let (next, clean) = match world.rng.below(4) {
            0 => (disk.crash(seed * 10 + round), false),
            1 => (disk.crash_to_synced(), false),
            2 => (disk.kill(), false),
            _ => (disk.clone(), true),
        };
        life.end(clean).await;
        disk = next;
        life = Life::begin(&disk, seed + 1000 * (round + 1)).await;
        world.check(&life, seed).await;
        let checked = std::mem::replace(&mut life.session, life.queues.session());
        checked.close().await;
    }
    life.end(true).await;
}

#[tokio::test]
async fn nothing_confirmed_is_lost_on_any_level() {
    for seed in 0..40 {
        one_seed(seed).await;
    }
}
