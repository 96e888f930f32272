//! How many messages a second one core takes through publish, deliver and acknowledge, without a door or a disk.
//!
//! `cargo run --release -p ferrymq-broker --example queues [messages] [bytes]`: one queue, one publisher with a
//! window of confirms, one consumer, everything on one thread over the store in memory.
//!
//! Deliberately absent: statistics. It shows where the core stands, not what a broker does.

#![allow(clippy::print_stdout, reason = "a program that prints a figure")]
#![allow(clippy::unwrap_used, reason = "nothing to do about it here")]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Arguments, Credit, Deliveries, Event, Message, NewConsumer, NoHeaders, Publish, QueueHandle,
    QueueOptions, QueueSpec, Queues, Routed, Session, Settle, deliveries,
};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;

const VHOST: &str = "/";
/// Messages of one read of a socket.
const BATCH: usize = 200;
/// Batches that wait for their confirms.
const WINDOW: usize = 20;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let messages = arguments.next().unwrap_or(2_000_000);
    let bytes = arguments.next().unwrap_or(100);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for persistent in [true, false] {
            for no_ack in [false, true] {
                run(messages, bytes, persistent, no_ack).await;
            }
        }
    });
}

async fn run(messages: usize, bytes: usize, persistent: bool, no_ack: bool) {
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let meta = Arc::new(MemoryMeta::new());
    let stores = Stores { logs: Arc::new(MemoryStore::new()), meta: meta.clone(), state: meta };
    let options = QueueOptions { shards: 1, ..QueueOptions::default() };
    let queues = Queues::open(stores, options, clock.clone(), Rng::from_os(), tasks).await.unwrap();
    let session = queues.session();
    let spec = QueueSpec {
        name: Arc::from("q"),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: Arguments::default(),
    };
    let queue = queues.declare_queue(&session, VHOST, spec).await.unwrap().queue;
    let (sink, from) = deliveries(1 << 20);
    let new = NewConsumer { token: 1, credit: Credit::Window(5000), no_ack, exclusive: false, priority: 0 };
    queues.consume(&session, VHOST, "q", new, &sink).await.unwrap();
    let message = Message {
        routing_key: Bytes::from_static(b"q"),
        properties: Bytes::from_static(&[0x90, 0, 2]),
        body: vec![7; bytes].into(),
        persistent,
        ..Message::default()
    };
    let to = queues.route(VHOST, "", b"q", &NoHeaders).unwrap();
    let began = clock.uptime();
    tokio::join!(
        publish(&queues, &message, &to, messages),
        consume(&queues, &session, &queue, from, messages, no_ack)
    );
    let took = (clock.uptime() - began).as_secs_f64();
    let rate = messages as f64 / took / 1e6;
    println!("{messages} x {bytes} B persistent={persistent} no_ack={no_ack}: {rate:.2} M/s ({took:.2} s)");
}

async fn publish(queues: &Arc<Queues>, message: &Message, to: &Routed, messages: usize) {
    let mut window = VecDeque::new();
    for _ in 0..messages / BATCH {
        let publish = || Publish { message: message.clone(), to: to.clone() };
        window.push_back(queues.publish((0..BATCH).map(|_| publish()).collect()).await);
        if window.len() >= WINDOW {
            let confirmed = window.pop_front().unwrap().await;
            assert!(confirmed.failed.is_empty());
        }
    }
    for pending in window {
        assert!(pending.await.failed.is_empty());
    }
}

async fn consume(
    queues: &Queues,
    session: &Session,
    queue: &QueueHandle,
    mut from: Deliveries,
    messages: usize,
    no_ack: bool,
) {
    let mut seen = 0;
    while seen < messages / BATCH * BATCH {
        let Event::Deliver(more) = from.recv().await else { return };
        seen += more.len();
        if !no_ack {
            let acks = more.iter().map(|delivery| (delivery.offset, Settle::Ack)).collect();
            queues.settle(session, queue, acks).await;
        }
    }
}
