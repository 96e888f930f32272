//! The storage contract, on a real PostgreSQL.
//!
//! Deliberately absent: several stores on one schema, lost replies, kills; see `fence.rs` and `faults.rs`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use ferrymq_engine_postgres::Options;
use ferrymq_runtime::Rng;
use ferrymq_storage::conformance::meta::OpenedMeta;
use ferrymq_storage::conformance::{self, Opened};
use ferrymq_storage::{LogMeta, LogStore, MetaStore, Pending};
use ferrymq_types::OwnerId;

/// Opens what is in a schema; opening again follows a stop.
fn opened(url: &'static str, options: Options) -> Pending<Opened> {
    Box::pin(async move {
        let store = Arc::new(common::open(url, options.clone()).await);
        let stopping = store.clone();
        let reopen = move || -> Pending<Opened> {
            Box::pin(async move {
                stopping.stop(Duration::from_secs(30)).await.unwrap();
                drop(stopping);
                opened(url, options).await
            })
        };
        Opened { store, reopen: Some(Box::new(reopen)) }
    })
}

fn factory(options: fn(&str) -> Options) -> Option<impl Fn() -> Pending<Opened> + Send + Sync> {
    let url: &'static str = &common::shared()?.url;
    Some(move || -> Pending<Opened> { opened(url, options(&common::schema())) })
}

#[test]
fn tiny_tables() {
    let Some(factory) = factory(common::tiny) else { return };
    conformance::run_all(&factory, &common::on_tokio);
}

#[test]
fn defaults() {
    let options = |schema: &str| Options { schema: schema.to_owned(), ..Options::default() };
    let Some(factory) = factory(options) else { return };
    conformance::run_all(&factory, &common::on_tokio);
}

#[test]
fn without_a_tail_in_memory() {
    let options = |schema: &str| Options { tail_bytes: 0, ..common::tiny(schema) };
    let Some(factory) = factory(options) else { return };
    conformance::random::run(&factory, &common::on_tokio, 40);
}

fn metadata(url: &'static str, schema: String) -> Pending<OpenedMeta> {
    Box::pin(async move {
        let store = Arc::new(common::open(url, common::tiny(&schema)).await);
        let logs: Arc<dyn LogStore> = store.clone();
        let meta: Arc<dyn MetaStore> = Arc::new(LogMeta::open(logs, OwnerId(1)).await.unwrap());
        let reopen = move || -> Pending<OpenedMeta> {
            Box::pin(async move {
                store.stop(Duration::from_secs(30)).await.unwrap();
                drop(store);
                metadata(url, schema).await
            })
        };
        OpenedMeta { store: meta, reopen: Some(Box::new(reopen)) }
    })
}

#[test]
fn metadata_in_a_log() {
    let Some(server) = common::shared() else { return };
    let factory = || metadata(&server.url, common::schema());
    conformance::meta::run_all(&factory, &common::on_tokio);
}

fn metadata_as_a_table(url: &'static str, schema: String) -> Pending<OpenedMeta> {
    Box::pin(async move {
        let store = Arc::new(common::open(url, common::tiny(&schema)).await);
        let meta: Arc<dyn MetaStore> = Arc::new(store.metadata(&Rng::from_os()).await.unwrap());
        let reopen = move || -> Pending<OpenedMeta> {
            Box::pin(async move {
                store.stop(Duration::from_secs(30)).await.unwrap();
                drop(store);
                metadata_as_a_table(url, schema).await
            })
        };
        OpenedMeta { store: meta, reopen: Some(Box::new(reopen)) }
    })
}

#[test]
fn metadata_in_a_table() {
    let Some(server) = common::shared() else { return };
    let factory = || metadata_as_a_table(&server.url, common::schema());
    conformance::meta::run_all(&factory, &common::on_tokio);
}
