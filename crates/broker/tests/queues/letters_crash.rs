//! Power cuts and kills under dead-lettering: messages go round between queues of different shards, rejected again and
//! again. However a life ends, each of them is there exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrymq_broker::queues::{Message, NoHeaders, Publish, Queues, Session, Settle};
use ferrymq_disk::SimDisk;
use ferrymq_runtime::Rng;

use crate::crash::{Life, another_life};
use crate::letters::dead_lettering;
use crate::rig::{VHOST, body, int, message, quiet};

const QUEUES: [&str; 4] = ["a", "b", "c", "d"];
const MESSAGES: u64 = 40;

async fn publish(queues: &Arc<Queues>, rng: &Rng) {
    let one = |number: u64| {
        let queue = QUEUES[usize::try_from(rng.below(4)).unwrap()];
        let to = queues.route(VHOST, "", queue.as_bytes(), &NoHeaders).unwrap();
        let priority = u8::try_from(number % 4).ok();
        let message = Message { priority, ..message(queue, &number.to_string(), true) };
        Publish { message, to }
    };
    let published = queues.publish((0..MESSAGES).map(one).collect()).await.await;
    assert!(published.failed.is_empty(), "{published:?}");
}

/// Rejects some of what a queue has, keeps some, gives some back.
async fn churn(queues: &Arc<Queues>, session: &Session, rng: &Rng) {
    let queue = QUEUES[usize::try_from(rng.below(4)).unwrap()];
    let mut what = Vec::new();
    let mut from = None;
    for _ in 0..rng.below(12) {
        let Some(got) = queues.get(session, VHOST, queue, false).await.unwrap() else { break };
        match rng.below(8) {
            0 => {}
            1 => what.push((got.delivery.offset, Settle::Requeue)),
            _ => what.push((got.delivery.offset, Settle::Reject)),
        }
        from = Some(got.queue);
    }
    if let Some(from) = from {
        queues.settle(session, &from, what).await;
    }
}

/// Finds each message once.
async fn check(queues: &Arc<Queues>, seed: u64, when: &str) {
    let session = queues.session();
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for queue in QUEUES {
        while let Some(got) = queues.get(&session, VHOST, queue, false).await.unwrap() {
            *found.entry(body(&got.delivery).parse().unwrap()).or_default() += 1;
        }
    }
    let once: BTreeMap<u64, u64> = (0..MESSAGES).map(|number| (number, 1)).collect();
    assert_eq!(found, once, "seed {seed} {when}");
    session.close().await;
}

async fn one_seed(seed: u64) {
    let mut disk = SimDisk::new(seed);
    let rng = Rng::seeded(seed);
    let mut life = Life::begin(&disk, seed).await;
    for (index, name) in QUEUES.into_iter().enumerate() {
        let mut spec = dead_lettering(name, "", QUEUES[(index + 1) % 4]);
        if seed % 2 == 1 {
            spec.arguments.0.push(("x-max-priority".to_owned(), int(3)));
        }
        life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
    }
    publish(&life.queues, &rng).await;
    for round in 0..4 {
        let session = life.queues.session();
        for _ in 0..20 + rng.below(30) {
            churn(&life.queues, &session, &rng).await;
            if rng.below(6) == 0 {
                quiet().await;
            }
        }
        let (next, when) = another_life((life, session), &mut disk, &rng, (seed, round)).await;
        life = next;
        check(&life.queues, seed, when).await;
    }
    life.end(true).await;
}

#[tokio::test]
async fn each_message_is_there_once() {
    for seed in 0..40 {
        one_seed(seed).await;
    }
}
