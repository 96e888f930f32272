//! Virtual hosts: made, isolated, deleted whole, also through a crash at any point of it.

use std::sync::Arc;

use ferrymq_broker::queues::{
    ApplyTo, ExchangeKind, NoHeaders, PolicySort, PolicySpec, QueueError, QueueSpec, VhostSpec,
};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{Compare, Entry, ErrorKind, Listing, MetaStore, Pending, Put, Revision, StorageError};
use futures_util::FutureExt as _;
use parking_lot::Mutex;

use crate::rig::{Rig, VHOST, arguments, binding, durable, exchange, int, quiet};

/// What is in the store, but for counters.
async fn keys(meta: &dyn MetaStore) -> Vec<String> {
    let listing = meta.list("", Revision(0)).await.unwrap();
    let mut keys: Vec<String> = listing.entries.into_iter().map(|entry| entry.key).collect();
    keys.retain(|key| !key.starts_with("counters/") && key != "queue-settings");
    keys
}

/// Fills a virtual host with everything there is.
async fn fill(rig: &Rig, vhost: &str) {
    let (queues, session) = (&rig.queues, &rig.session);
    for name in ["a", "b"] {
        queues.declare_queue(session, vhost, durable(name)).await.unwrap();
        queues.declare_exchange(session, vhost, exchange(name, ExchangeKind::Topic)).await.unwrap();
        queues.bind(session, vhost, binding(name, name, "#")).await.unwrap();
    }
    queues.bind_exchange(session, vhost, binding("a", "b", "#")).await.unwrap();
    let own = QueueSpec { durable: false, exclusive: true, ..durable("own") };
    queues.declare_queue(session, vhost, own).await.unwrap();
    for sort in [PolicySort::Policy, PolicySort::Operator] {
        let spec = PolicySpec {
            name: "p".into(),
            pattern: "a".to_owned(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: arguments(&[("max-length", int(5))]),
        };
        queues.set_policy(sort, vhost, spec).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_virtual_host_goes_with_everything_in_it() {
    let mut rig = Rig::new().await;
    fill(&rig, VHOST).await;
    let before = keys(&*rig.meta).await;
    assert!(rig.queues.create_vhost("v").await.unwrap());
    assert!(!rig.queues.create_vhost("v").await.unwrap());
    fill(&rig, "v").await;
    let mut end = rig.queues.enter("v").unwrap();
    assert!(end.ended().now_or_never().is_none());
    let generation = rig.queues.generation();
    assert!(rig.queues.delete_vhost("v").await.unwrap());
    end.ended().await;
    assert!(rig.queues.generation() > generation && rig.queues.enter("v").is_none());
    let gone = rig.queues.route("v", "", b"a", &NoHeaders).unwrap_err();
    assert!(matches!(gone, QueueError::NoVhost(_)), "{gone}");
    let gone = rig.queues.declare_queue(&rig.session, "v", durable("a")).await.unwrap_err();
    assert!(matches!(gone, QueueError::NoVhost(_)), "{gone}");
    quiet().await;
    assert_eq!(keys(&*rig.meta).await, before, "nothing of it is stored");
    assert!(!rig.queues.delete_vhost("v").await.unwrap());
    // The other one is as it was, also after a restart.
    rig.publish("a", &["1"]).await;
    rig.restart().await;
    assert_eq!(rig.routed("a", "k"), ["a", "b"]);
    assert_eq!(rig.get("a").await.as_deref(), Some("1"));
    assert!(rig.queues.enter("v").is_none());
    // Also the first one may go, and does not come back by itself.
    assert!(rig.queues.delete_vhost(VHOST).await.unwrap());
    rig.restart().await;
    assert!(rig.queues.vhosts().is_empty());
    assert!(rig.queues.create_vhost(VHOST).await.unwrap());
    assert_eq!(rig.queue("a").await.name().as_ref(), "a");
    assert_eq!(rig.get("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_one_can_change_and_names_are_checked() {
    let mut rig = Rig::new().await;
    let told =
        VhostSpec { description: "for us".to_owned(), tags: vec!["x".to_owned()], ..VhostSpec::named("v") };
    assert!(rig.queues.put_vhost(VhostSpec::named("v")).await.unwrap());
    assert!(!rig.queues.put_vhost(told.clone()).await.unwrap());
    rig.restart().await;
    assert_eq!(rig.queues.vhosts(), [VhostSpec::named(VHOST), told]);
    for bad in ["", "a\nb", &"v".repeat(256)] {
        let error = rig.queues.create_vhost(bad).await.unwrap_err();
        assert!(matches!(error, QueueError::BadName { .. }), "{error}");
    }
}

/// A metadata store that takes so many transactions more and then refuses them.
struct Limited {
    inner: MemoryMeta,
    left: Mutex<u64>,
}

impl MetaStore for Limited {
    fn get(&self, key: &str) -> Pending<Result<Option<Entry>, StorageError>> {
        self.inner.get(key)
    }

    fn list(&self, prefix: &str, since: Revision) -> Pending<Result<Listing, StorageError>> {
        self.inner.list(prefix, since)
    }

    fn txn(&self, compares: Vec<Compare>, puts: Vec<Put>) -> Pending<Result<Revision, StorageError>> {
        let mut left = self.left.lock();
        if *left == 0 {
            let error = StorageError::new(ErrorKind::Full, "no more transactions");
            return Box::pin(std::future::ready(Err(error)));
        }
        *left -= 1;
        self.inner.txn(compares, puts)
    }

    fn heartbeat(&self, broker: u32, status: bytes::Bytes) -> Pending<Result<Revision, StorageError>> {
        self.inner.heartbeat(broker, status)
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_cut_short_is_finished() {
    // After how many transactions the store refuses; then as after a crash, or in the same life.
    for (transactions, same_life) in [(0, true), (1, true), (1, false), (2, false)] {
        let meta = Arc::new(Limited { inner: MemoryMeta::new(), left: Mutex::new(u64::MAX) });
        let mut rig = Rig::with(MemoryStore::new(), meta.clone()).await;
        let before = keys(&*meta).await;
        rig.queues.create_vhost("v").await.unwrap();
        fill(&rig, "v").await;
        *meta.left.lock() = transactions;
        let deleted = rig.queues.delete_vhost("v").await;
        *meta.left.lock() = u64::MAX;
        assert_eq!(deleted.is_ok(), transactions > 0, "{deleted:?}");
        assert_eq!(rig.queues.enter("v").is_some(), transactions == 0);
        if transactions == 0 {
            // Nothing was decided: it is as it was.
            assert!(rig.queues.queue(&rig.session, "v", "a").await.is_ok());
            continue;
        }
        if same_life {
            assert!(rig.queues.create_vhost("v").await.unwrap());
            let error = rig.queues.queue(&rig.session, "v", "a").await.unwrap_err();
            assert!(matches!(error, QueueError::NotFound { .. }), "{error}");
            assert!(rig.queues.policies(PolicySort::Policy, "v").unwrap().is_empty());
            rig.queues.declare_queue(&rig.session, "v", durable("a")).await.unwrap();
            rig.restart().await;
            assert!(rig.queues.queue(&rig.session, "v", "a").await.is_ok());
            assert!(rig.queues.delete_vhost("v").await.unwrap());
        }
        rig.restart().await;
        quiet().await;
        assert_eq!(keys(&*meta).await, before, "after {transactions} transactions");
    }
}
