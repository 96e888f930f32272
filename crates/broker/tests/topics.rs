//! Topics: which may be created, which settings may be set together, and what an old directory may hold.

#![allow(clippy::unwrap_used, reason = "a test's helpers may unwrap")]

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrymq_broker::broker::Stores;
use ferrymq_broker::{Broker, BrokerOptions, NewTopic, SettingError, TopicError};
use ferrymq_runtime::{Clock, Rng, Tasks};
use ferrymq_storage::Put;
use ferrymq_storage::memory::MemoryStore;
use ferrymq_storage::memory_meta::MemoryMeta;

fn stores() -> Stores {
    Stores {
        logs: Arc::new(MemoryStore::new()),
        meta: Arc::new(MemoryMeta::new()),
        state: Arc::new(MemoryMeta::new()),
    }
}

async fn open(stores: &Stores, options: BrokerOptions) -> Arc<Broker> {
    let clock = Clock::starting_at(1_000_000);
    Broker::open(stores.clone(), options, clock, Rng::seeded(1), Tasks::new()).await.unwrap()
}

fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn topic(name: &str, pairs: &[(&str, &str)]) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: 1, config: config(pairs) }
}

/// Settings that cannot be honoured together are refused however they come together.
#[tokio::test(start_paused = true)]
async fn settings_that_contradict_are_refused_at_creation_and_later() {
    let broker = open(&stores(), BrokerOptions { strict_copies: true, ..Default::default() }).await;
    let (os, flush) = (("ferrymq.durability", "os"), ("flush.ms", "1000"));
    let two = ("min.insync.replicas", "2");
    let invalid = |result: Result<(), TopicError>| {
        let refused = matches!(result, Err(TopicError::Setting(SettingError::Invalid { .. })));
        assert!(refused, "{result:?}");
    };
    invalid(broker.create_topic(topic("t", &[os, flush])).await.map(drop));
    invalid(broker.create_topic(topic("t", &[two])).await.map(drop));
    broker.create_topic(topic("os", &[os])).await.unwrap();
    broker.create_topic(topic("sync", &[flush])).await.unwrap();
    invalid(broker.set_config("os", config(&[os, flush])).await);
    invalid(broker.set_config("sync", config(&[os, flush])).await);
    invalid(broker.set_config("sync", config(&[flush, two])).await);
    broker.set_config("os", config(&[flush])).await.unwrap();
}

/// A directory that was fine yesterday starts today.
#[tokio::test(start_paused = true)]
async fn stored_topics_are_not_refused_for_a_new_rule() {
    let stores = stores();
    let lenient = open(&stores, BrokerOptions::default()).await;
    lenient.create_topic(topic("two", &[("min.insync.replicas", "2")])).await.unwrap();
    drop(lenient);
    let strict = open(&stores, BrokerOptions { strict_copies: true, ..Default::default() }).await;
    assert!(strict.topics().get("two").is_some());
    // `segment.bytes` was accepted from 1024 on.
    let entry = stores.meta.get("topics/two").await.unwrap().unwrap();
    let text = String::from_utf8(entry.value.to_vec()).unwrap();
    let smaller = text.replacen("\"min.insync.replicas\":\"2\"", "\"segment.bytes\":\"1024\"", 1);
    assert_ne!(text, smaller);
    let put = Put { key: entry.key, value: Some(smaller.into()) };
    stores.meta.txn(Vec::new(), vec![put]).await.unwrap();
    drop(strict);
    let again = open(&stores, BrokerOptions::default()).await;
    assert_eq!(again.topics().get("two").unwrap().config.get().segment_bytes, 1024);
}

/// Kafka's rule: a name may not differ from another by dots and underscores only.
#[tokio::test(start_paused = true)]
async fn colliding_names_are_refused() {
    let broker = open(&stores(), BrokerOptions::default()).await;
    broker.create_topic(topic("a.b", &[])).await.unwrap();
    for name in ["a_b", "a.b"] {
        let error = broker.create_topic(topic(name, &[])).await.unwrap_err();
        match name {
            "a.b" => assert!(matches!(error, TopicError::Exists(_)), "{error}"),
            _ => assert_eq!(error.to_string(), "Topic 'a_b' collides with existing topic: a.b"),
        }
    }
    for fine in ["a-b", "a.b.", "ab"] {
        broker.create_topic(topic(fine, &[])).await.unwrap();
    }
    broker.delete_topic("a.b").await.unwrap();
    broker.create_topic(topic("a_b", &[])).await.unwrap();
}
