//! Changes whose caller went away: a client that closes must not leave half of one behind.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::{Broker, BrokerOptions, NewTopic, TopicError};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;
use ferrymq_storage::{LogMeta, MetaStore as _, Revision};
use ferrymq_types::OwnerId;

/// A broker whose metadata is in a log of the same store, as with the local engine.
async fn broker() -> (MemoryStore, LogMeta, Arc<Broker>) {
    let store = MemoryStore::new();
    let meta = LogMeta::open(Arc::new(store.clone()), OwnerId(1)).await.expect("an empty store opens");
    let stores = Stores {
        logs: Arc::new(store.clone()),
        meta: Arc::new(meta.clone()),
        state: Arc::new(MemoryMeta::new()),
    };
    let (clock, rng) = (Clock::starting_at(1_000_000), Rng::seeded(1));
    let opening = Broker::open(stores, BrokerOptions::default(), clock, rng, Tasks::new());
    (store, meta, opening.await.expect("a broker opens on an empty store"))
}

fn new(name: &str) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: 1, config: BTreeMap::new() }
}

/// Begins something while the store takes its time, and goes away.
async fn begin_and_leave(store: &MemoryStore, change: impl Future) {
    let _slow = store.hold_commits();
    let mut change = pin!(change);
    for _ in 0..10 {
        assert!(futures_util::poll!(&mut change).is_pending(), "the store answers nothing");
        tokio::task::yield_now().await;
    }
}

/// Waits until what was begun before has ended: changes have their turns.
async fn all_ended(broker: &Arc<Broker>) {
    let nothing = broker.delete_topic("never-created").await;
    assert!(matches!(nothing, Err(TopicError::NotFound)), "{nothing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_does_not_spoil_the_next_ones_topic() {
    let (store, _, broker) = broker().await;
    begin_and_leave(&store, broker.create_topic(new("left"))).await;
    broker.create_topic(new("next")).await.expect("nobody else uses this name");
    let again = broker.create_topic(new("left")).await;
    assert!(matches!(again, Err(TopicError::Exists(_))), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_is_stored_and_seen() {
    let (store, meta, broker) = broker().await;
    broker.create_topic(new("grows")).await.expect("nobody else uses this name");
    broker.create_topic(new("goes")).await.expect("nobody else uses this name");
    begin_and_leave(&store, broker.create_partitions("grows", 3)).await;
    all_ended(&broker).await;
    let config = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
    begin_and_leave(&store, broker.set_config("grows", config)).await;
    all_ended(&broker).await;
    begin_and_leave(&store, broker.delete_topic("goes")).await;
    all_ended(&broker).await;
    let topic = broker.topics().get("grows").expect("nobody deleted it");
    assert_eq!((topic.partitions.len(), topic.config.get().retention_ms), (3, Some(5)));
    assert!(broker.topics().get("goes").is_none());
    let deleting = meta.list("deleting/", Revision(0)).await.expect("a store in memory lists");
    assert_eq!(deleting.entries, [], "the deletion is finished, not left for the next start");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_does_not_spoil_the_next_ones_producer_id() {
    let (store, _, broker) = broker().await;
    begin_and_leave(&store, broker.new_producer_id()).await;
    broker.new_producer_id().await.expect("ids are not used up");
}
