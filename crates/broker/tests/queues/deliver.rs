//! Messages on their way: order, credit, turns, settling, sessions that end.

use ferrymq_broker::queues::{
    Credit, DeleteIf, Entity, Event, NewConsumer, QueueError, QueueStat, Settle, Value, deliveries,
};
use ferrymq_storage::{ErrorKind, LogStore as _};
use ferrymq_types::Offset;

use crate::rig::{Rig, VHOST, arguments, bodies, body, durable, message, offsets, quiet, take};

const MIB: usize = 1024 * 1024;

fn consumer(token: u64, credit: Credit) -> NewConsumer {
    NewConsumer::new(token, credit)
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_as_it_was_published() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut deliveries) = deliveries(MIB);
    rig.consume("q", Credit::Window(10), &sink).await;
    rig.publish("q", &["a", "", "c"]).await;
    let got = take(&mut deliveries, 3).await;
    assert_eq!(bodies(&got), ["a", "", "c"]);
    assert_eq!(offsets(&got), [0, 1, 2]);
    assert_eq!(got[0].message, message("q", "a", true));
    assert!(
        got.iter().all(|delivery| !delivery.redelivered && delivery.returned == 0 && delivery.token == 7)
    );
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 0, unacked: 3, consumers: 1 });
    rig.settle(&queue, &[0, 1, 2], Settle::Ack).await;
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 0, unacked: 0, consumers: 1 });
    quiet().await;
    assert_eq!(rig.store.stat(queue.log()).await.unwrap().start, Offset(3), "an ack in order is a trim");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_or_delivered_before_it_is_durable() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut deliveries) = deliveries(MIB);
    rig.consume("q", Credit::Unlimited, &sink).await;
    let hold = rig.store.hold_commits();
    let mut pending = Box::pin(rig.queues.publish(rig.messages("q", &["a"], true)).await);
    quiet().await;
    assert!(futures_util::poll!(&mut pending).is_pending());
    assert!(deliveries.try_recv().is_none());
    assert_eq!(rig.queues.get(&rig.session, VHOST, "q", true).await.unwrap(), None);
    assert_eq!(rig.stat(&queue).await.ready, 0);
    drop(hold);
    assert!(pending.await.failed.is_empty());
    assert_eq!(bodies(&take(&mut deliveries, 1).await), ["a"]);
}

/// What waits while commits are in flight becomes one batch per queue.
#[tokio::test(start_paused = true)]
async fn many_publishes_become_few_commits() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let hold = rig.store.hold_commits();
    let before = rig.store.commits();
    let mut pending = Vec::new();
    for index in 0..100 {
        pending.push(rig.queues.publish(rig.messages("q", &[&index.to_string()], true)).await);
        quiet().await;
    }
    drop(hold);
    for pending in pending {
        assert!(pending.await.failed.is_empty());
    }
    assert!(rig.store.commits() - before <= 5, "{}", rig.store.commits() - before);
    let got: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(got, (0..100).map(|index| index.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_window_is_kept_and_settling_opens_it() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut deliveries) = deliveries(MIB);
    let consumer = rig.consume("q", Credit::Window(2), &sink).await;
    rig.publish("q", &["a", "b", "c", "d", "e"]).await;
    assert_eq!(bodies(&take(&mut deliveries, 2).await), ["a", "b"]);
    quiet().await;
    assert!(deliveries.try_recv().is_none());
    rig.settle(&queue, &[1], Settle::Ack).await;
    assert_eq!(bodies(&take(&mut deliveries, 1).await), ["c"]);
    rig.queues.credit(&consumer, 1).await;
    assert_eq!(bodies(&take(&mut deliveries, 1).await), ["d"]);
    rig.settle(&queue, &[1, 1, 99], Settle::Ack).await;
    quiet().await;
    assert!(deliveries.try_recv().is_none(), "what is not held settles nothing");
}

#[tokio::test(start_paused = true)]
async fn granted_credit_is_used_up() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut deliveries) = deliveries(MIB);
    let consumer = rig.consume("q", Credit::Granted(1), &sink).await;
    rig.publish("q", &["a", "b", "c"]).await;
    assert_eq!(bodies(&take(&mut deliveries, 1).await), ["a"]);
    rig.settle(&queue, &[0], Settle::Ack).await;
    quiet().await;
    assert!(deliveries.try_recv().is_none());
    rig.queues.credit(&consumer, 2).await;
    assert_eq!(bodies(&take(&mut deliveries, 2).await), ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn consumers_take_turns() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let (sink, mut all) = deliveries(MIB);
    for token in 0..3 {
        rig.consume_as("q", consumer(token, Credit::Unlimited), &sink).await;
    }
    let names: Vec<String> = (0..30).map(|index| index.to_string()).collect();
    rig.publish("q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let got = take(&mut all, 30).await;
    for token in 0..3 {
        let mine: Vec<u64> = got.iter().filter(|got| got.token == token).map(|got| got.offset.0).collect();
        assert_eq!(mine.len(), 10);
        assert!(mine.windows(2).all(|pair| pair[1] - pair[0] == 3), "{mine:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_returned_message_goes_back_to_its_place() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["a", "b", "c", "d", "e"]).await;
    for _ in 0..4 {
        rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap();
    }
    rig.settle(&queue, &[2], Settle::Requeue).await;
    rig.settle(&queue, &[0], Settle::Requeue).await;
    rig.settle(&queue, &[1], Settle::Reject).await;
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 3, unacked: 1, consumers: 0 });
    let got = |body: &str, redelivered| (body.to_owned(), redelivered);
    assert_eq!(rig.get_all("q").await, [got("a", true), got("c", true), got("e", false)]);
    rig.settle(&queue, &[2], Settle::Requeue).await;
    let again = rig.queues.get(&rig.session, VHOST, "q", true).await.unwrap().unwrap();
    assert_eq!((body(&again.delivery).as_str(), again.delivery.returned), ("c", 2));
}

#[tokio::test(start_paused = true)]
async fn what_a_session_did_not_settle_comes_back_when_it_ends() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let other = rig.queues.session();
    let (sink, mut all) = deliveries(MIB);
    let new = consumer(1, Credit::Window(3));
    let first = rig.queues.consume(&other, VHOST, "q", new, &sink).await.unwrap();
    rig.publish("q", &["a", "b", "c", "d"]).await;
    take(&mut all, 3).await;
    let got = rig.queues.get(&other, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!(body(&got.delivery), "d");
    rig.queues.settle(&other, &queue, vec![(Offset(1), Settle::Ack)]).await;
    // A cancelled consumer's deliveries stay with the session.
    rig.queues.cancel(&other, &first).await.unwrap();
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 0, unacked: 3, consumers: 0 });
    rig.settle(&queue, &[0, 2], Settle::Ack).await;
    assert_eq!(rig.stat(&queue).await.unacked, 3, "another session's are not mine to settle");
    other.close().await;
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 3, unacked: 0, consumers: 0 });
    let expected = ["a", "c", "d"].map(|body| (body.to_owned(), true));
    assert_eq!(rig.get_all("q").await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_session_ends_too() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["a"]).await;
    let other = rig.queues.session();
    rig.queues.get(&other, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!(rig.stat(&queue).await.unacked, 1);
    drop(other);
    while rig.stat(&queue).await.unacked > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.stat(&queue).await.ready, 1);
}

#[tokio::test(start_paused = true)]
async fn without_acks_a_message_is_done_when_it_is_sent() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut all) = deliveries(MIB);
    let new = NewConsumer { no_ack: true, ..consumer(1, Credit::Window(1)) };
    rig.consume_as("q", new, &sink).await;
    rig.publish("q", &["a", "b"]).await;
    rig.publish_as("q", &["c"], false).await;
    assert_eq!(bodies(&take(&mut all, 3).await), ["a", "b", "c"]);
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 0, unacked: 0, consumers: 1 });
}

/// A session that does not read gets what its channel holds and no more; the rest goes on when it reads.
#[tokio::test(start_paused = true)]
async fn a_full_sink_holds_only_its_own_consumer_back() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (slow_sink, mut slow) = deliveries(2000);
    let (fast_sink, mut fast) = deliveries(MIB);
    rig.consume_as("q", consumer(1, Credit::Unlimited), &slow_sink).await;
    rig.consume_as("q", consumer(2, Credit::Unlimited), &fast_sink).await;
    let names: Vec<String> = (0..100).map(|index| index.to_string()).collect();
    rig.publish("q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    quiet().await;
    let mut got = offsets(&drain(&mut fast));
    assert!(got.len() > 80, "{}", got.len());
    assert_eq!(rig.stat(&queue).await.ready, 0);
    rig.publish("q", &["x"]).await;
    got.extend(offsets(&drain(&mut fast)));
    got.extend(offsets(&drain(&mut slow)));
    got.sort_unstable();
    assert_eq!(got, (0..101).collect::<Vec<u64>>());
    // Reading made room: both take turns again.
    rig.publish("q", &["y", "z"]).await;
    quiet().await;
    assert_eq!((drain(&mut slow).len(), drain(&mut fast).len()), (1, 1));
}

fn drain(from: &mut ferrymq_broker::queues::Deliveries) -> Vec<ferrymq_broker::queues::Delivery> {
    let mut all = Vec::new();
    while let Some(event) = from.try_recv() {
        match event {
            Event::Deliver(more) => all.extend(more),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// Far more than is kept in memory, then all of it in order; returned ones in between.
#[tokio::test(start_paused = true)]
async fn a_long_queue_is_read_back_from_its_log() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let big = "x".repeat(20_000);
    for round in 0..100 {
        let names: Vec<String> = (0..10).map(|index| format!("{} {big}", round * 10 + index)).collect();
        rig.publish("q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    assert_eq!(rig.stat(&queue).await.ready, 1000);
    let (sink, mut all) = deliveries(MIB);
    rig.consume("q", Credit::Window(50), &sink).await;
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        let Event::Deliver(more) = all.recv().await else { panic!("cancelled") };
        for delivery in more {
            let number: u64 = body(&delivery).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(number, delivery.offset.0);
            // Every seventh comes twice.
            let how =
                if number.is_multiple_of(7) && !delivery.redelivered { Settle::Requeue } else { Settle::Ack };
            rig.settle(&queue, &[number], how).await;
            if how == Settle::Ack {
                seen.push(number);
            }
        }
    }
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 0, unacked: 0, consumers: 1 });
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn gets_and_purges() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    assert_eq!(rig.queues.get(&rig.session, VHOST, "q", true).await.unwrap(), None);
    rig.publish("q", &["a", "b", "c"]).await;
    let got = rig.queues.get(&rig.session, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!((body(&got.delivery).as_str(), got.ready), ("a", 2));
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 2);
    assert_eq!(rig.queues.purge(&rig.session, VHOST, "q").await.unwrap(), 0);
    assert_eq!(rig.stat(&queue).await, QueueStat { ready: 0, unacked: 1, consumers: 0 });
    rig.publish("q", &["d"]).await;
    rig.settle(&queue, &[0], Settle::Requeue).await;
    let all: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(all, ["a", "d"]);
}

/// Classes mix in one queue without changing places.
#[tokio::test(start_paused = true)]
async fn transient_messages_keep_their_place() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let mut batch = Vec::new();
    for index in 0..20 {
        batch.extend(rig.messages("q", &[&index.to_string()], index % 3 == 0));
    }
    assert!(rig.queues.publish(batch).await.await.failed.is_empty());
    let all: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(all, (0..20).map(|index| index.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_consumer_is_alone() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let (sink, _all) = deliveries(MIB);
    let exclusive = NewConsumer { exclusive: true, ..consumer(1, Credit::Unlimited) };
    let first = rig.consume_as("q", exclusive.clone(), &sink).await;
    for new in [exclusive.clone(), consumer(2, Credit::Unlimited)] {
        let refused = rig.queues.consume(&rig.session, VHOST, "q", new, &sink).await.unwrap_err();
        assert!(matches!(refused, QueueError::ExclusiveConsumer { .. }), "{refused}");
    }
    rig.queues.cancel(&rig.session, &first).await.unwrap();
    rig.consume("q", Credit::Unlimited, &sink).await;
    let refused = rig.queues.consume(&rig.session, VHOST, "q", exclusive, &sink).await.unwrap_err();
    assert!(matches!(refused, QueueError::ExclusiveConsumer { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_queue_tells_its_consumers() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    let (sink, mut all) = deliveries(MIB);
    rig.consume("q", Credit::Window(1), &sink).await;
    rig.publish("q", &["a", "b", "c"]).await;
    take(&mut all, 1).await;
    let to = rig.route("", "q");
    let deleted = rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()).await.unwrap();
    assert_eq!(deleted, 2);
    assert_eq!(all.recv().await, Event::Cancelled { token: 7 });
    let gone = rig.queues.stat(&queue).await.unwrap_err();
    assert!(matches!(gone, QueueError::NotFound { entity: Entity::Queue, .. }), "{gone}");
    // Routed before, published after: it goes nowhere and nobody is told a lie about a queue that is gone.
    let late = vec![ferrymq_broker::queues::Publish { message: message("q", "d", true), to }];
    assert!(rig.queues.publish(late).await.await.failed.is_empty());
    let again = rig.queue("q").await;
    assert_ne!(again.log(), queue.log());
    assert_eq!(rig.stat(&again).await, QueueStat::default());
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_fails_its_messages_and_those_behind_it() {
    let rig = Rig::new().await;
    let queue = rig.queue("q").await;
    rig.publish("q", &["a"]).await;
    for kind in [ErrorKind::Full, ErrorKind::Unavailable] {
        rig.store.fail_next(kind, false);
        let hold = rig.store.hold_commits();
        let first = rig.queues.publish(rig.messages("q", &["x"], true)).await;
        quiet().await;
        let second = rig.queues.publish(rig.messages("q", &["y", "z"], true)).await;
        quiet().await;
        drop(hold);
        let first = first.await;
        assert_eq!(first.failed.len(), 1);
        assert!(
            matches!(&first.failed[0], (0, QueueError::Storage(error)) if error.kind() == kind),
            "{first:?}"
        );
        let second = second.await;
        assert_eq!(second.failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
        assert!(matches!(second.failed[0].1, QueueError::Retry), "{second:?}");
    }
    rig.publish("q", &["b"]).await;
    assert_eq!(rig.stat(&queue).await.ready, 2);
    let all: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(all, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn after_an_unknown_outcome_nothing_is_promised() {
    let mut rig = Rig::new().await;
    rig.queue("q").await;
    rig.publish("q", &["a"]).await;
    rig.store.fail_next(ErrorKind::Unknown, true);
    let unknown = rig.publish_as("q", &["b"], true).await;
    assert!(matches!(&unknown.failed[..], [(0, QueueError::Storage(_))]), "{unknown:?}");
    let later = rig.publish_as("q", &["c"], true).await;
    assert!(matches!(&later.failed[..], [(0, QueueError::Storage(_))]), "{later:?}");
    assert!(rig.queues.get(&rig.session, VHOST, "q", true).await.is_err());
    rig.start().await;
    let all: Vec<String> = rig.get_all("q").await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(all, ["a", "b"], "what was written is there; nobody was told so");
}

/// Every message of a quorum queue is durable, whatever its publisher says.
#[tokio::test(start_paused = true)]
async fn a_quorum_queue_is_always_durable() {
    let rig = Rig::new().await;
    let spec = |kind: &str| ferrymq_broker::queues::QueueSpec {
        arguments: arguments(&[("x-queue-type", Value::text(kind))]),
        ..durable(kind)
    };
    rig.declare(spec("quorum")).await;
    rig.declare(spec("classic")).await;
    assert!(rig.publish_as("quorum", &["a"], false).await.failed.is_empty());
    assert!(rig.publish_as("classic", &["a"], false).await.failed.is_empty());
    assert_eq!(rig.get_all("quorum").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let mut batch = rig.messages("q", &["a", "b"], true);
    batch[0].message.body = vec![0; ferrymq_types::limits::QUEUE_MESSAGE_BYTES_MAX].into();
    let published = rig.queues.publish(batch).await.await;
    assert!(matches!(&published.failed[..], [(0, QueueError::Limit { .. })]), "{published:?}");
    assert_eq!(rig.get_all("q").await.len(), 1);
}
