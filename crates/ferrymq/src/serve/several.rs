//! Being one of several brokers on a store.
//!
//! Deliberately absent: what that means; `ferrymq_broker::cluster` has it.

use std::sync::Arc;

use anyhow::Context as _;
use ferrymq_broker::Broker;
use ferrymq_broker::cluster::{self, Cluster, Endpoint, Joined};
use ferrymq_kafka_server::Context;
use ferrymq_runtime::{Clock, Rng};
use ferrymq_storage::MetaStore;

use super::settings::Settings;

/// Takes this broker's id, if it is one of several.
pub(super) async fn join(
    settings: &Settings,
    meta: &Arc<dyn MetaStore>,
    clock: &Clock,
    rng: &Rng,
) -> anyhow::Result<Option<Joined>> {
    if !settings.several_brokers {
        return Ok(None);
    }
    let joined = cluster::join(settings.node_id, env!("CARGO_PKG_VERSION"), meta.clone(), clock, rng).await;
    joined.map(Some).context("this broker cannot be one of several; each needs a --node-id of its own")
}

/// Begins to take part, once the doors are open.
pub(super) async fn start(joined: Option<Joined>, context: &Arc<Context>) -> anyhow::Result<Option<Cluster>> {
    let Some(joined) = joined else { return Ok(None) };
    let listeners = context.listeners.iter().map(|listener| Endpoint {
        listener: listener.name.clone(),
        host: listener.advertised.host.clone(),
        port: listener.advertised.port,
    });
    let start = cluster::Start {
        broker: context.broker.clone(),
        groups: context.groups.clone(),
        listeners: listeners.collect(),
    };
    let cluster = Cluster::start(joined, start).await;
    cluster.map(Some).context("this broker could not say that it serves")
}

/// Waits until another broker has this one's id; for ever if it is alone.
pub(super) async fn ended(broker: &Broker) {
    match broker.cluster() {
        Some(view) => view.ended().await,
        None => std::future::pending().await,
    }
}
