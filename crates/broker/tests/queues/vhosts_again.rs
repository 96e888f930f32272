//! A virtual host that is deleted and made again while something of the old one is on its way: the new one does not get it.

use std::sync::Arc;

use ferrymq_broker::queues::{ExchangeKind, ExchangeSpec, Message, Publish, QueueSpec, Settle, Value};

use crate::over_rig::OverRig;
use crate::rig::{arguments, binding, durable, exchange, int, message, pass};
use crate::staged::StagedLogs;

const V: &str = "v";

/// The stream that the old one's messages go to, and an exchange that keeps messages back for it.
async fn fill(rig: &OverRig) {
    assert!(rig.queues.create_vhost(V).await.unwrap());
    let stream =
        QueueSpec { arguments: arguments(&[("x-queue-type", Value::text("stream"))]), ..durable("s") };
    rig.queues.declare_queue(&rig.session, V, stream).await.unwrap();
    let list = arguments(&[("x-delayed-type", Value::text("fanout"))]);
    let later = ExchangeSpec { arguments: list, ..exchange("later", ExchangeKind::Delayed) };
    rig.queues.declare_exchange(&rig.session, V, later).await.unwrap();
    rig.queues.bind(&rig.session, V, binding("later", "s", "")).await.unwrap();
}

/// A queue whose dead letters go to the stream.
async fn declare_dying(rig: &OverRig) {
    let letters =
        [("x-dead-letter-exchange", Value::text("")), ("x-dead-letter-routing-key", Value::text("s"))];
    let dying = QueueSpec { arguments: arguments(&letters), ..durable("dying") };
    rig.queues.declare_queue(&rig.session, V, dying).await.unwrap();
}

async fn reject_one(rig: &OverRig) {
    let to = rig.queues.route(V, "", b"dying", &ferrymq_broker::queues::NoHeaders).unwrap();
    let publish = Publish { message: message("dying", "x", true), to };
    assert!(rig.queues.publish(vec![publish]).await.await.failed.is_empty());
    let got = rig.queues.get(&rig.session, V, "dying", false).await.unwrap().unwrap();
    rig.queues.settle(&rig.session, &got.queue, vec![(got.delivery.offset, Settle::Reject)]).await;
}

async fn keep_back_one(rig: &OverRig) {
    let to = rig.queues.route_all(V, "later", &[b""], &arguments(&[("x-delay", int(100))])).unwrap();
    let message = Message { exchange: "later".into(), ..message("", "x", true) };
    assert!(rig.queues.publish(vec![Publish { message, to }]).await.await.failed.is_empty());
}

/// What has come to the stream, once everything has had the time to.
async fn in_stream(rig: &OverRig) -> u64 {
    for _ in 0..20 {
        pass(100).await;
    }
    rig.partition("v.s", 0).high_watermark().0
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_does_not_come_to_another_of_that_name() {
    for delayed in [false, true] {
        for again in [false, true] {
            let logs = StagedLogs::default();
            let rig = OverRig::standing_on(Arc::new(logs.clone())).await;
            fill(&rig).await;
            declare_dying(&rig).await;
            if delayed {
                keep_back_one(&rig).await
            } else {
                reject_one(&rig).await
            }
            logs.reads.hold();
            pass(200).await;
            assert_eq!(logs.reads.waiting(), 1, "it is being read back, delayed {delayed}");
            if again {
                assert!(rig.queues.delete_vhost(V).await.unwrap());
                fill(&rig).await;
            }
            logs.reads.release();
            let expected = u64::from(!again);
            assert_eq!(in_stream(&rig).await, expected, "delayed {delayed}, made again {again}");
        }
    }
}
