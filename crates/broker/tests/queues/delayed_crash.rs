//! Power cuts and kills while messages are kept back: each goes round from its queue to an exchange that keeps it back
//! and comes again when it is due. However a life ends, each of them comes exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_broker::queues::{
    ExchangeKind, ExchangeSpec, Message, Publish, QueueHandle, Queues, Session, Settle, Value,
};
use ferrymq_disk::SimDisk;
use ferrymq_runtime::{Clock, Rng};
use ferrymq_types::Offset;

use crate::crash::{Life, another_life};
use crate::rig::{VHOST, arguments, binding, body, durable, exchange, int, message, quiet};

const QUEUES: [&str; 3] = ["a", "b", "c"];
const MESSAGES: u64 = 40;
const LONGEST_MS: u64 = 40;

fn delayed(queues: &Arc<Queues>, number: &str, rng: &Rng) -> Publish {
    let key = QUEUES[usize::try_from(rng.below(3)).unwrap()];
    let headers = arguments(&[("x-delay", int(1 + rng.below(LONGEST_MS).cast_signed()))]);
    let to = queues.route(VHOST, "later", key.as_bytes(), &headers).unwrap();
    let exchange = Bytes::from_static(b"later");
    Publish { message: Message { exchange, ..message(key, number, rng.below(2) == 0) }, to }
}

/// Gets some of what has come, and keeps it, gives it back, or sends it round again.
async fn churn(queues: &Arc<Queues>, session: &Session, rng: &Rng) {
    let (mut settles, mut publishes) = (Vec::<(QueueHandle, Vec<(Offset, Settle)>)>::new(), Vec::new());
    for _ in 0..rng.below(8) {
        let queue = QUEUES[usize::try_from(rng.below(3)).unwrap()];
        let Some(got) = queues.get(session, VHOST, queue, false).await.unwrap() else { continue };
        let how = match rng.below(8) {
            0 => continue,
            1 => Settle::Requeue,
            _ => {
                publishes.push(delayed(queues, &body(&got.delivery), rng));
                Settle::Ack
            }
        };
        settles.push((got.queue, vec![(got.delivery.offset, how)]));
    }
    queues.commit(session, publishes, settles).await.unwrap();
}

/// Finds each message once, after the longest delay.
async fn check(queues: &Arc<Queues>, seed: u64, when: &str) {
    let session = queues.session();
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let (clock, longest) = (Clock::system(), Duration::from_millis(LONGEST_MS + 20));
    let mut is_over = false;
    // To the end, for one that comes a second time; and longer, should the machine be slow.
    while !is_over {
        is_over = clock.uptime() > longest * 50 || clock.uptime() > longest && found.len() as u64 == MESSAGES;
        quiet().await;
        for queue in QUEUES {
            while let Some(got) = queues.get(&session, VHOST, queue, false).await.unwrap() {
                *found.entry(body(&got.delivery).parse().unwrap()).or_default() += 1;
            }
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
    let kind = arguments(&[("x-delayed-type", Value::text("direct"))]);
    let later = ExchangeSpec { arguments: kind, ..exchange("later", ExchangeKind::Delayed) };
    life.queues.declare_exchange(&life.session, VHOST, later).await.unwrap();
    for name in QUEUES {
        // What is kept back is durable; only what has come may be transient, and is not here.
        let quorum = arguments(&[("x-queue-type", Value::text("quorum")), ("x-delivery-limit", int(-1))]);
        let spec = ferrymq_broker::queues::QueueSpec { arguments: quorum, ..durable(name) };
        life.queues.declare_queue(&life.session, VHOST, spec).await.unwrap();
        life.queues.bind(&life.session, VHOST, binding("later", name, name)).await.unwrap();
    }
    let all = (0..MESSAGES).map(|number| delayed(&life.queues, &number.to_string(), &rng)).collect();
    assert!(life.queues.publish(all).await.await.failed.is_empty());
    for round in 0..3 {
        let session = life.queues.session();
        for _ in 0..20 + rng.below(20) {
            churn(&life.queues, &session, &rng).await;
            if rng.below(4) == 0 {
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
async fn each_message_comes_once() {
    for seed in 0..30 {
        one_seed(seed).await;
    }
}
