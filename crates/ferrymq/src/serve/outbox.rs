//! Messages that applications publish in transactions of their own, where the store is their database.
//!
//! **Invariant.** It is there exactly where the store can hold messages and what was relayed in one commit.
//!
//! Deliberately absent: several brokers; of those nobody has all logs.

use std::sync::Arc;

use ferrymq_broker::queues::Queues;
use ferrymq_kafka_server::Context;
use ferrymq_outbox::message::Targets;
use ferrymq_outbox::{Counters, Options, Relay};
use ferrymq_runtime::Tasks;

use super::settings::Settings;
use super::store::Store;

/// Starts the relay, if there is something to relay.
pub(crate) fn start(
    settings: &Settings,
    store: &Store,
    context: &Arc<Context>,
    queues: Option<&Arc<Queues>>,
    tasks: &Tasks,
) -> Option<Arc<Counters>> {
    let (Store::Postgres(store), Some(queues)) = (store, queues) else { return None };
    let config = settings.kafka_config();
    let targets = Targets {
        broker: context.broker.clone(),
        queues: queues.clone(),
        create_topics: config.auto_create_topics.then_some(config.default_partitions),
    };
    let clock = context.broker.clock().clone();
    Some(Relay::start(store.clone(), targets, Options::default(), clock, tasks))
}
