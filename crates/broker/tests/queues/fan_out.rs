//! A message that goes to many queues is written once to the local engine, and each queue has all of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{Message, NoHeaders, Publish, QueueOptions, Queues, Session};
use ferrymq_disk::SimDisk;
use ferrymq_engine_local::{Counters, LocalStore, Options};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::LogMeta;
use ferrymq_types::OwnerId;

use crate::rig::{VHOST, binding, durable, message};

const QUEUES: u64 = 16;
const BODY_BYTES: usize = 64 << 10;

struct Life {
    tasks: Tasks,
    store: Arc<LocalStore>,
    queues: Arc<Queues>,
    session: Session,
}

impl Life {
    /// As a server has it, but for the disk, and for zeros that would be counted.
    async fn begin(disk: &SimDisk) -> Life {
        let options = Options { zeros_ahead_bytes: 0, ..Options::default() };
        let (clock, rng) = (Clock::system(), Rng::seeded(7));
        let store = LocalStore::open(Arc::new(disk.clone()), options, clock.clone(), &rng).unwrap();
        let store = Arc::new(store);
        let meta = Arc::new(LogMeta::open(store.clone(), OwnerId(rng.next_u128())).await.unwrap());
        let tasks = Tasks::new();
        let stores = Stores { logs: store.clone(), meta: meta.clone(), state: meta };
        let queues = Queues::open(stores, QueueOptions::default(), clock, rng, tasks.clone()).await.unwrap();
        Life { tasks, store, session: queues.session(), queues }
    }

    async fn end(self) {
        drop(self.session);
        assert!(self.tasks.stop_and_wait(Duration::from_secs(60)).await);
        drop(self.queues);
    }

    fn written(&self) -> u64 {
        Counters::get(&self.store.counters().bytes_written)
    }

    /// Publishes to all queues; bytes written when it is confirmed.
    async fn publish(&self, exchange: &str, key: &str, messages: Vec<Message>) -> u64 {
        let to = self.queues.route(VHOST, exchange, key.as_bytes(), &NoHeaders).unwrap();
        let before = self.written();
        let all = messages.into_iter().map(|message| Publish { message, to: to.clone() });
        let published = self.queues.publish(all.collect()).await.await;
        assert!(published.failed.is_empty(), "{published:?}");
        self.written() - before
    }
}

fn large(number: u64, persistent: bool) -> Message {
    let words = (number..).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Message { body: words.take(BODY_BYTES).collect(), ..message("k", "", persistent) }
}

#[tokio::test]
async fn sixteen_persistent_copies_write_one_body() {
    let disk = SimDisk::new(1);
    let life = Life::begin(&disk).await;
    for number in 0..QUEUES {
        let name = format!("q{number}");
        life.queues.declare_queue(&life.session, VHOST, durable(&name)).await.unwrap();
        life.queues.bind(&life.session, VHOST, binding("amq.fanout", &name, "")).await.unwrap();
    }
    let bodies: Vec<Bytes> = (0..10).map(|number| large(number * 10_000, true).body).collect();
    for number in 0..5 {
        let wrote = life.publish("amq.fanout", "", vec![large(number * 10_000, true)]).await;
        // A tenth, and a block for each write group that the shards make of it.
        let most = BODY_BYTES as u64 * 11 / 10 + 3 * 4096;
        assert!(wrote <= most, "message {number}: {wrote} bytes");
    }
    let many = (5..10).map(|number| large(number * 10_000, true)).collect();
    let wrote = life.publish("amq.fanout", "", many).await;
    assert!(wrote <= 5 * BODY_BYTES as u64 * 11 / 10 + 3 * 4096, "five at a time: {wrote} bytes");
    // To one queue there is nothing to share, and it says nothing of it.
    let wrote = life.publish("", "q3", vec![large(99, true)]).await;
    assert!((BODY_BYTES as u64..BODY_BYTES as u64 * 12 / 10).contains(&wrote), "{wrote}");
    let wrote = life.publish("amq.fanout", "", vec![large(100, false)]).await;
    assert!(wrote >= QUEUES * BODY_BYTES as u64, "transient copies are each written: {wrote}");
    life.end().await;
    let life = Life::begin(&disk.kill()).await;
    for number in 0..QUEUES {
        let name = format!("q{number}");
        for body in &bodies {
            let got = life.queues.get(&life.session, VHOST, &name, true).await.unwrap().unwrap();
            assert!(got.delivery.message.body == *body, "queue {number}");
        }
        let rest = life.queues.get(&life.session, VHOST, &name, true).await.unwrap();
        assert_eq!(rest.is_some(), number == 3);
    }
    life.end().await;
}
