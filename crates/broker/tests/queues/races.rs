//! What happens in between: callers that go away, handles of queues that are gone, starts that fail, failures half done.

use std::sync::Arc;
use std::time::Duration;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::queues::{
    Credit, DeleteIf, NewConsumer, Publish, QueueError, QueueOptions, QueueSpec, Queues, Settle, deliveries,
};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::{ErrorKind, LogStore as _, MetaStore, Put, Revision};
use ferrymq_types::{LogId, Offset};
use futures_util::FutureExt as _;

use crate::rig::{Rig, VHOST, bodies, durable, message, open, quiet, take};
use crate::staged::{Fate, StagedLogs, StagedMeta};

const MIB: usize = 1024 * 1024;

/// A rig whose metadata waits for a word.
async fn staged_meta() -> (Rig, Arc<StagedMeta>) {
    let meta = Arc::new(StagedMeta::default());
    let rig = Rig::with(Default::default(), meta.clone()).await;
    (rig, meta)
}

#[tokio::test(start_paused = true)]
async fn a_deletion_goes_on_without_its_caller() {
    let (rig, meta) = staged_meta().await;
    rig.queue("q").await;
    meta.stage.hold();
    let delete = rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default());
    {
        let mut delete = std::pin::pin!(delete);
        assert!(delete.as_mut().now_or_never().is_none());
        quiet().await;
        assert_eq!(meta.stage.waiting(), 1, "it is being written");
    }
    meta.stage.release();
    assert!(rig.declare(durable("q")).await.created, "it was deleted to its end");
}

#[tokio::test(start_paused = true)]
async fn a_declaration_goes_on_without_its_caller() {
    let (rig, meta) = staged_meta().await;
    rig.queue("first takes a block of logs").await;
    meta.stage.hold();
    {
        let declare = rig.queues.declare_queue(&rig.session, VHOST, durable("q"));
        assert!(std::pin::pin!(declare).now_or_never().is_none());
        quiet().await;
        assert_eq!(meta.stage.waiting(), 1, "it is being written");
    }
    meta.stage.release();
    assert!(!rig.declare(durable("q")).await.created, "it was declared to its end");
}

/// The record of a queue and the claim of its log are written side by side. If the claim fails, there is no queue.
#[tokio::test(start_paused = true)]
async fn a_declaration_whose_claim_fails_leaves_nothing() {
    let logs = StagedLogs::default();
    let meta: Arc<dyn MetaStore> = Arc::new(ferrymq_storage::memory_meta::MemoryMeta::new());
    let stores = || Stores { logs: Arc::new(logs.clone()), meta: meta.clone(), state: meta.clone() };
    let queues = open(stores(), 1, &Tasks::new()).await;
    let session = queues.session();
    logs.claims.hold();
    {
        let mut declare = std::pin::pin!(queues.declare_queue(&session, VHOST, durable("q")));
        assert!(declare.as_mut().now_or_never().is_none());
        quiet().await;
        assert_eq!(
            meta.list("queues/", Revision(0)).await.unwrap().entries.len(),
            1,
            "it is written meanwhile"
        );
        logs.claims.decide(Fate::Fails(ErrorKind::Unavailable));
        let declared = declare.await;
        assert!(matches!(declared, Err(QueueError::Storage(_))), "{declared:?}");
    }
    logs.claims.release();
    let missing = queues.queue(&session, VHOST, "q").await;
    assert!(matches!(missing, Err(QueueError::NotFound { .. })), "{missing:?}");
    let queues = open(stores(), 2, &Tasks::new()).await;
    let session = queues.session();
    assert!(queues.queue(&session, VHOST, "q").await.is_err(), "not after a restart either");
    assert!(queues.declare_queue(&session, VHOST, durable("q")).await.unwrap().created);
}

/// What was published while its queue was being deleted, in vain, is there.
#[tokio::test(start_paused = true)]
async fn a_failed_deletion_loses_nothing() {
    let (rig, meta) = staged_meta().await;
    let queue = rig.queue("q").await;
    meta.stage.hold();
    let deleted = {
        let mut delete =
            std::pin::pin!(rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf::default()));
        assert!(delete.as_mut().now_or_never().is_none());
        quiet().await;
        rig.publish("q", &["a"]).await;
        let stat = rig.queues.stat(&queue).await;
        assert!(matches!(stat, Err(QueueError::NotFound { .. })), "it is on its way out: {stat:?}");
        meta.stage.decide(Fate::Fails(ErrorKind::Unavailable));
        delete.await
    };
    assert!(matches!(deleted, Err(QueueError::Storage(_))), "{deleted:?}");
    meta.stage.release();
    assert_eq!(rig.get_all("q").await, [("a".to_owned(), false)]);
}

/// A log serves one queue after the other; whoever still means the former does not reach the latter.
#[tokio::test(start_paused = true)]
async fn a_queue_is_not_reached_by_its_logs_former_name() {
    let rig = Rig::new().await;
    let exclusive = |name: &str| QueueSpec { exclusive: true, ..durable(name) };
    let old = rig.declare(exclusive("a")).await.queue;
    let (sink, _events) = deliveries(MIB);
    let new = || NewConsumer::new(1, Credit::Window(1));
    let consumer = rig.consume_as("a", new(), &sink).await;
    let routed = rig.route("", "a");
    rig.queues.delete_queue(&rig.session, VHOST, "a", DeleteIf::default()).await.unwrap();
    let next = rig.declare(exclusive("b")).await.queue;
    assert_eq!(next.log(), old.log(), "the log is used again, or this tests nothing");

    let lost = Publish { message: message("a", "to the former", true), to: routed };
    let published = rig.queues.publish(vec![lost]).await.await;
    assert!(published.failed.is_empty(), "it went to a queue that is gone: {published:?}");
    assert!(matches!(rig.queues.stat(&old).await, Err(QueueError::NotFound { .. })));
    rig.publish("b", &["x", "y"]).await;
    let (sink, mut events) = deliveries(MIB);
    rig.consume_as("b", new(), &sink).await;
    let got = take(&mut events, 1).await;
    rig.queues.settle(&rig.session, &old, vec![(got[0].offset, Settle::Ack)]).await;
    rig.queues.credit(&consumer, 5).await;
    rig.queues.cancel(&rig.session, &consumer).await.unwrap();
    let stat = rig.stat(&next).await;
    assert_eq!(
        (stat.ready, stat.unacked, stat.consumers),
        (1, 1, 1),
        "the former's requests reached the latter"
    );
    rig.settle(&next, &[got[0].offset.0], Settle::Ack).await;
    assert_eq!(bodies(&take(&mut events, 1).await), ["y"]);
}

/// A virtual host's record goes missing, so that the first queue cannot be loaded, and comes back.
#[tokio::test(start_paused = true)]
async fn a_start_that_fails_halfway_changes_nothing() {
    let mut rig = Rig::new().await;
    rig.queues.create_vhost("!!").await.unwrap();
    let queue = rig.queue("q").await;
    rig.queues.declare_queue(&rig.session, "!!", durable("z")).await.unwrap();
    rig.publish("q", &["0", "1", "2", "3", "4", "5", "6", "7"]).await;
    assert_eq!(rig.get_all("q").await.len(), 8);
    rig.settle(&queue, &[1, 3], Settle::Ack).await;
    quiet().await;

    let stored = rig.meta.list("vhosts/", Revision(0)).await.unwrap().entries;
    let vhost = stored.into_iter().find(|entry| entry.value.windows(2).any(|two| two == b"!!")).unwrap();
    let put = |value| vec![Put { key: vhost.key.clone(), value }];
    rig.meta.txn(Vec::new(), put(None)).await.unwrap();
    let (tasks, options) = (Tasks::new(), QueueOptions::default());
    let (clock, rng) = (Clock::starting_at(1_000_000), Rng::seeded(77));
    let failed = Queues::open(rig.stores(), options, clock, rng, tasks.clone()).await;
    assert!(failed.is_err(), "a queue without a virtual host");
    assert!(tasks.stop_and_wait(Duration::from_secs(60)).await);
    rig.meta.txn(Vec::new(), put(Some(vhost.value))).await.unwrap();

    rig.start().await;
    let expected = ["0", "2", "4", "5", "6", "7"].map(|body| (body.to_owned(), true));
    assert_eq!(rig.get_all("q").await, expected, "all were delivered, and the stop was not clean");
}

/// A purge that finds nothing waits for the one before it, whoever asked for that.
#[tokio::test(start_paused = true)]
async fn a_second_purge_waits_for_the_first() {
    let logs = StagedLogs::default();
    let meta: Arc<dyn MetaStore> = Arc::new(ferrymq_storage::memory_meta::MemoryMeta::new());
    let stores = Stores { logs: Arc::new(logs.clone()), meta: meta.clone(), state: meta.clone() };
    let queues = open(stores, 1, &Tasks::new()).await;
    let session = queues.session();
    queues.declare_queue(&session, VHOST, durable("q")).await.unwrap();
    let to = queues.route(VHOST, "", b"q", &ferrymq_broker::queues::NoHeaders).unwrap();
    let publish = Publish { message: message("q", "a", true), to };
    assert!(queues.publish(vec![publish]).await.await.failed.is_empty());
    logs.stage.hold();
    assert!(queues.purge(&session, VHOST, "q").now_or_never().is_none());
    quiet().await;
    assert_eq!(logs.stage.waiting(), 1, "it is on its way");
    let mut second = std::pin::pin!(queues.purge(&session, VHOST, "q"));
    assert!(second.as_mut().now_or_never().is_none());
    quiet().await;
    assert!(second.as_mut().now_or_never().is_none(), "a crash now would bring the message back");
    logs.stage.release();
    assert_eq!(second.await.unwrap(), 0);
}

/// A purge behind a stuck message must be recorded before it is answered, also when the record before it failed.
#[tokio::test(start_paused = true)]
async fn a_purge_is_answered_when_it_is_recorded() {
    let logs = StagedLogs::default();
    let meta: Arc<dyn MetaStore> = Arc::new(ferrymq_storage::memory_meta::MemoryMeta::new());
    let stores = || Stores { logs: Arc::new(logs.clone()), meta: meta.clone(), state: meta.clone() };
    let queues = open(stores(), 1, &Tasks::new()).await;
    let session = queues.session();
    let handle = queues.declare_queue(&session, VHOST, durable("q")).await.unwrap().queue;
    let to = queues.route(VHOST, "", b"q", &ferrymq_broker::queues::NoHeaders).unwrap();
    for body in ["stuck", "1", "2", "3", "4"] {
        let publish = Publish { message: message("q", body, true), to: to.clone() };
        assert!(queues.publish(vec![publish]).await.await.failed.is_empty());
    }
    for _ in 0..3 {
        queues.get(&session, VHOST, "q", false).await.unwrap().unwrap();
    }
    quiet().await;
    logs.stage.hold();
    // Two records on their way; the first fails, so the journal waits for the second.
    for offset in [1, 2] {
        queues.settle(&session, &handle, vec![(Offset(offset), Settle::Ack)]).await;
        quiet().await;
    }
    assert_eq!(logs.stage.waiting(), 2);
    logs.stage.decide(Fate::Fails(ErrorKind::Unavailable));
    quiet().await;
    let mut purge = std::pin::pin!(queues.purge(&session, VHOST, "q"));
    assert!(purge.as_mut().now_or_never().is_none());
    quiet().await;
    // Another one finds nothing left, which is not durable either; and wakes the shard in between.
    let mut again = std::pin::pin!(queues.purge(&session, VHOST, "q"));
    assert!(again.as_mut().now_or_never().is_none());
    quiet().await;
    assert!(purge.as_mut().now_or_never().is_none(), "nothing of it is durable yet");
    assert!(again.as_mut().now_or_never().is_none(), "nor is what it found");
    logs.stage.release();
    assert_eq!((purge.await.unwrap(), again.await.unwrap()), (2, 0));
    // A crash now: what was purged stays away.
    let queues = open(stores(), 2, &Tasks::new()).await;
    let session = queues.session();
    let left = queues.get(&session, VHOST, "q", false).await.unwrap().unwrap();
    assert_eq!(left.delivery.message.body, "stuck");
    assert!(queues.get(&session, VHOST, "q", false).await.unwrap().is_none());
    assert!(logs.stat(LogId(32)).await.unwrap().bytes > 0);
}
