//! What is there after a restart: exactly what was not settled, in order.

use ferrymq_broker::queues::{
    Credit, DeleteIf, ExchangeKind, ExchangeSpec, QueueSpec, QueueStat, Settle, Value, Width, deliveries,
};
use ferrymq_storage::{ErrorKind, LogStore as _};
use ferrymq_types::LogId;

use crate::rig::{Rig, VHOST, arguments, bodies, durable, exchange, offsets, quiet, take};

const MIB: usize = 1024 * 1024;
const ROUNDS: u16 = 800;

fn names(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn publish(rig: &Rig, range: std::ops::Range<u64>) {
    let names = names(range);
    rig.publish("q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn exactly_the_unacked_come_back_in_order() {
    for clean in [true, false] {
        let mut rig = Rig::new().await;
        let queue = rig.queue("q").await;
        let (sink, mut all) = deliveries(MIB);
        rig.consume("q", Credit::Window(60), &sink).await;
        for start in [0, 25, 50, 75] {
            publish(&rig, start..start + 25).await;
        }
        let got = offsets(&take(&mut all, 60).await);
        let acked: Vec<u64> = got.iter().copied().filter(|offset| offset % 3 == 1 || *offset < 10).collect();
        rig.settle(&queue, &acked, Settle::Ack).await;
        // Two of them were given back once before.
        rig.settle(&queue, &[12, 14], Settle::Requeue).await;
        let more = take(&mut all, acked.len() + 2).await;
        assert_eq!(offsets(&more)[..2], [12, 14]);
        quiet().await;
        if clean {
            rig.restart().await
        } else {
            rig.start().await
        }
        let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
        let left: Vec<u64> = (0..100).filter(|offset| !acked.contains(offset)).collect();
        assert_eq!(queue.stat, QueueStat { ready: left.len() as u64, unacked: 0, consumers: 0 });
        let mut delivered = Vec::new();
        while let Some(got) = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap() {
            delivered.push(got.delivery);
        }
        assert_eq!(offsets(&delivered), left, "clean {clean}");
        assert_eq!(bodies(&delivered), left.iter().map(ToString::to_string).collect::<Vec<_>>());
        let reached = 60 + acked.len() as u64;
        for delivery in &delivered {
            let expected = !clean || delivery.offset.0 < reached;
            assert_eq!(delivery.redelivered, expected, "clean {clean} {}", delivery.offset);
            assert_eq!(delivery.returned, u16::from([12, 14].contains(&delivery.offset.0)));
        }
    }
}

/// Restart after restart, with a few more acks each time: nothing is forgotten and nothing comes back.
#[tokio::test(start_paused = true)]
async fn many_lives() {
    let mut rig = Rig::new().await;
    rig.queue("q").await;
    let mut left: Vec<u64> = Vec::new();
    for life in 0..12u64 {
        publish(&rig, life * 10..life * 10 + 10).await;
        left.extend(life * 10..life * 10 + 10);
        let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
        assert_eq!(queue.stat.ready, left.len() as u64);
        let mut got = Vec::new();
        while let Some(next) = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap() {
            got.push(next.delivery.offset.0);
        }
        assert_eq!(got, left, "life {life}");
        let acked: Vec<u64> = left.iter().copied().filter(|offset| (offset * 7 + life) % 4 == 0).collect();
        rig.settle(&queue.queue, &acked, Settle::Ack).await;
        left.retain(|offset| !acked.contains(offset));
        quiet().await;
        if life % 3 == 0 { rig.start().await } else { rig.restart().await }
    }
}

/// Acks whose record the store refused are made up for: with the next one, everything is recorded anew.
#[tokio::test(start_paused = true)]
async fn a_refused_record_of_acks_is_not_forgotten() {
    let mut rig = Rig::new().await;
    let queue = rig.queue("q").await;
    publish(&rig, 0..10).await;
    assert_eq!(rig.get_all("q").await.len(), 10);
    for (acked, fails) in [(3, false), (5, true), (6, true), (8, false)] {
        if fails {
            rig.store.fail_next(ErrorKind::Unavailable, false);
        }
        rig.settle(&queue, &[acked], Settle::Ack).await;
        quiet().await;
    }
    rig.start().await;
    let left: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(left, ["0", "1", "2", "4", "7", "9"]);
}

/// A queue with one stuck message: its state stays small, and the log behind it is freed.
#[tokio::test(start_paused = true)]
async fn one_stuck_message_pins_little() {
    let mut rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut all) = deliveries(MIB);
    rig.consume("q", Credit::Window(500), &sink).await;
    publish(&rig, 0..1).await;
    take(&mut all, 1).await;
    for round in 0..200 {
        publish(&rig, 1 + round * 400..1 + (round + 1) * 400).await;
        let got = offsets(&take(&mut all, 400).await);
        rig.settle(&queue, &got, Settle::Ack).await;
    }
    quiet().await;
    let stat = rig.store.stat(queue.log()).await.unwrap();
    assert_eq!(stat.start.0, 0);
    assert!(stat.bytes < 1_000_000, "most of it is freed: {}", stat.bytes);
    let journals = [32, 33].map(|log| rig.store.stat(LogId(log)));
    for journal in journals {
        assert!(journal.await.unwrap().bytes < 100_000);
    }
    rig.start().await;
    let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
    assert_eq!(queue.stat.ready, 1);
    assert_eq!(rig.get_all("q").await, [("0".to_owned(), true)]);
    rig.settle(&queue.queue, &[0], Settle::Ack).await;
    quiet().await;
    rig.start().await;
    assert!(rig.get_all("q").await.is_empty());
    publish(&rig, 80_001..80_002).await;
    assert_eq!(rig.get_all("q").await, [("80001".to_owned(), false)]);
}

/// The state log of a shard is rewritten: its size follows what is live, and nothing is lost on the way.
#[tokio::test(start_paused = true)]
async fn the_state_log_stays_short() {
    let mut rig = Rig::new().await;
    let queue = rig.queue("q").await;
    publish(&rig, 0..2000).await;
    let (sink, mut all) = deliveries(8 * MIB);
    rig.consume("q", Credit::Unlimited, &sink).await;
    take(&mut all, 2000).await;
    // Each round is a record of a thousand ranges, some three KiB.
    let odd: Vec<u64> = (0..2000).filter(|offset| offset % 2 == 1).collect();
    for _ in 0..ROUNDS {
        rig.settle(&queue, &odd, Settle::Requeue).await;
        take(&mut all, odd.len()).await;
    }
    quiet().await;
    let bytes =
        rig.store.stat(LogId(32)).await.unwrap().bytes + rig.store.stat(LogId(33)).await.unwrap().bytes;
    assert!(bytes < 1_300_000, "{bytes}");
    rig.start().await;
    let queue = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap();
    assert_eq!(queue.stat.ready, 2000);
    let first = rig.queues.get(&rig.session, VHOST, "q", true).await.unwrap().unwrap();
    assert_eq!(first.delivery.returned, 0);
    let second = rig.queues.get(&rig.session, VHOST, "q", true).await.unwrap().unwrap();
    assert_eq!(second.delivery.returned, ROUNDS);
}

#[tokio::test(start_paused = true)]
async fn the_topology_survives_where_it_is_durable() {
    let mut rig = Rig::new().await;
    rig.queues.create_vhost("other").await.unwrap();
    let kept = QueueSpec {
        arguments: arguments(&[("x-queue-mode", Value::text("lazy")), ("n", Value::Int(1, Width::U8))]),
        ..durable("kept")
    };
    rig.declare(kept.clone()).await;
    rig.declare(QueueSpec { durable: false, ..durable("transient") }).await;
    rig.declare(QueueSpec { exclusive: true, ..durable("exclusive") }).await;
    rig.queue("deleted").await;
    rig.exchange("e", ExchangeKind::Topic).await;
    let passing = ExchangeSpec { durable: false, ..exchange("passing", ExchangeKind::Fanout) };
    rig.queues.declare_exchange(&rig.session, VHOST, passing).await.unwrap();
    for queue in ["kept", "transient", "exclusive", "deleted"] {
        for source in ["e", "passing", "amq.fanout"] {
            rig.bind(source, queue, "k").await;
        }
    }
    rig.publish("deleted", &["x"]).await;
    rig.queues.delete_queue(&rig.session, VHOST, "deleted", DeleteIf::default()).await.unwrap();
    assert_eq!(rig.routed("e", "k"), ["exclusive", "kept", "transient"]);
    for _ in 0..2 {
        rig.start().await;
        assert!(rig.queues.has_vhost("other"));
        assert_eq!(rig.routed("e", "k"), ["kept"]);
        assert_eq!(rig.routed("amq.fanout", ""), ["kept"]);
        assert!(rig.queues.exchange(VHOST, "passing").is_err());
        assert!(!rig.declare(kept.clone()).await.created);
        let spec = QueueSpec { durable: false, ..durable("transient") };
        let again = rig.declare(spec).await;
        assert!(again.created);
        assert_eq!(again.stat.ready, 0);
        rig.publish_as("transient", &["gone with the process"], false).await;
    }
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "transient").await.unwrap(), 1);
}
