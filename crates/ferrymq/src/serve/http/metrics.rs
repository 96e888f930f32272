//! `/metrics`: what is counted, in Prometheus' text format, under our own names and under RabbitMQ's.
//!
//! **Invariant.** Every name is in `docs/metrics.md`. Values are of the whole broker; what RabbitMQ counts for each
//! connection, channel or queue is summed up here, as its own `/metrics` does unless told otherwise.
//!
//! Deliberately absent: labels of single queues; what only an Erlang machine has.

mod rabbitmq;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use ferrymq_engine_local::LocalStore;
use ferrymq_engine_postgres::PostgresStore;
use ferrymq_outbox::Counters;

use super::{Shared, amqp};
use crate::serve::store::Store;

pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::with_capacity(4096);
    let counters = &shared.context.counters;
    let door: [(&str, &str, &str, &AtomicU64); 8] = [
        ("kafka_connections_total", "counter", "Kafka connections accepted", &counters.connections_total),
        ("kafka_connections", "gauge", "Kafka connections open", &counters.connections_open),
        ("kafka_requests_total", "counter", "Kafka requests read", &counters.requests_total),
        ("kafka_bad_requests_total", "counter", "Kafka requests refused", &counters.bad_requests_total),
        ("kafka_received_bytes_total", "counter", "Bytes from Kafka clients", &counters.bytes_in_total),
        ("kafka_sent_bytes_total", "counter", "Bytes to Kafka clients", &counters.bytes_out_total),
        ("kafka_batches_total", "counter", "Record batches accepted", &counters.batches_in_total),
        ("kafka_records_total", "counter", "Records accepted", &counters.records_in_total),
    ];
    for (name, kind, help, value) in door {
        sample(&mut text, name, kind, help, value.load(Ordering::Relaxed));
    }
    for (name, kind, help, value) in shared.amqp.iter().flat_map(amqp::Door::samples) {
        sample(&mut text, name, kind, help, value);
    }
    if let Some(queues) = &shared.queues {
        rabbitmq::samples(&mut text, queues, shared.amqp.as_ref().as_ref()).await;
        let help = "Records trimmed before queues over topics were done with them";
        sample(&mut text, "queue_trimmed_total", "counter", help, queues.trimmed());
    }
    if let Some(outbox) = &shared.outbox {
        outbox_samples(&mut text, outbox);
    }
    if let Some(view) = shared.context.broker.cluster() {
        let help = "Brokers that live, of several on one store";
        sample(&mut text, "cluster_brokers", "gauge", help, view.brokers().len() as u64);
        let help = "Slots of logs, of 1024, that this broker owns";
        sample(&mut text, "cluster_slots_owned", "gauge", help, view.slots_owned() as u64);
        let help = "Whether this broker may answer for what it owns";
        sample(&mut text, "cluster_serving", "gauge", help, u64::from(view.is_serving()));
    }
    let (topics, partitions) =
        shared.context.broker.topics().with(|topics| (topics.len() as u64, topics.partitions() as u64));
    sample(&mut text, "topics", "gauge", "Topics", topics);
    sample(&mut text, "partitions", "gauge", "Partitions", partitions);
    sample(
        &mut text,
        "request_bytes_in_flight",
        "gauge",
        "Request bytes being worked on",
        shared.context.budget.in_use() as u64,
    );
    store_samples(&mut text, &shared.store);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn store_samples(text: &mut String, store: &Store) {
    match store {
        Store::Local(store) => local_samples(text, store),
        Store::Postgres(store) => postgres_samples(text, store),
    }
    let health = store.health();
    let stopped = health.stopped.is_some().into();
    sample(text, "store_stopped", "gauge", "1 if the store takes no writes any more", stopped);
    sample(text, "store_full", "gauge", "1 if appends are refused for want of space", health.full.into());
    sample(text, "store_damage", "gauge", "Reports of damage to acknowledged data", health.damage);
}

fn postgres_samples(text: &mut String, store: &PostgresStore) {
    let counters = store.counters();
    let samples: [(&str, &str, &AtomicU64); 7] = [
        ("store_groups_total", "Write groups written", &counters.groups),
        ("store_appended_bytes_total", "Bytes of batches accepted", &counters.bytes_appended),
        ("store_reads_from_memory_total", "Batches served from memory", &counters.reads_from_tail),
        ("store_rounds_total", "Statements that committed groups", &counters.rounds),
        ("store_stale_rounds_total", "Rounds that found a row changed", &counters.stale_rounds),
        ("store_lost_replies_total", "Rounds whose reply was lost", &counters.lost_replies),
        ("store_reads_from_tables_total", "Reads served by the database", &counters.reads_from_tables),
    ];
    for (name, help, value) in samples {
        sample(text, name, "counter", help, value.load(Ordering::Relaxed));
    }
    let away = store.health().away.is_some().into();
    sample(text, "store_away", "gauge", "1 if the database cannot be used now", away);
}

fn outbox_samples(text: &mut String, outbox: &Counters) {
    let samples: [(&str, &str, &str, &AtomicU64); 6] = [
        ("outbox_relayed_total", "counter", "Messages relayed from the outbox", &outbox.relayed),
        ("outbox_dropped_total", "counter", "Messages of the outbox that no queue got", &outbox.dropped),
        (
            "outbox_undelivered_total",
            "counter",
            "Messages of the outbox kept in the table undelivered",
            &outbox.undelivered,
        ),
        ("outbox_commits_total", "counter", "Commits that relayed messages", &outbox.pages),
        (
            "outbox_lag_milliseconds",
            "gauge",
            "How long the last relayed message had waited since it was published",
            &outbox.lag_ms,
        ),
        ("outbox_waits", "gauge", "1 while nothing is relayed because something failed", &outbox.waits),
    ];
    for (name, kind, help, value) in samples {
        sample(text, name, kind, help, value.load(Ordering::Relaxed));
    }
}

fn local_samples(text: &mut String, store: &LocalStore) {
    let counters = store.counters();
    let samples: [(&str, &str, &str, &AtomicU64); 14] = [
        ("store_groups_total", "counter", "Write groups written", &counters.groups),
        ("store_appended_bytes_total", "counter", "Bytes of batches accepted", &counters.bytes_appended),
        ("store_written_bytes_total", "counter", "Bytes given to the disk", &counters.bytes_written),
        (
            "store_shared_bytes_total",
            "counter",
            "Bytes not written because another copy of the message is there",
            &counters.bytes_shared,
        ),
        ("store_moved_bytes_total", "counter", "Bytes written by the mover", &counters.bytes_moved),
        ("store_syncs_total", "counter", "Syncs of the write-ahead log", &counters.syncs),
        ("store_sync_microseconds_total", "counter", "Time spent in them", &counters.sync_time_us),
        ("store_reads_from_memory_total", "counter", "Batches served from memory", &counters.reads_from_tail),
        ("store_reads_from_files_total", "counter", "Reads served from files", &counters.reads_from_files),
        (
            "store_reads_blocking_total",
            "counter",
            "Reads that waited for the device",
            &counters.reads_blocking,
        ),
        (
            "store_index_rebuilds_total",
            "counter",
            "Indexes rebuilt from their data",
            &counters.index_rebuilds,
        ),
        ("store_corrupt_reads_total", "counter", "Batches that did not verify", &counters.corrupt_reads),
        ("store_refused_full_total", "counter", "Appends refused for want of space", &counters.refused_full),
        ("store_queue_bytes", "gauge", "Bytes waiting for the writer", &counters.queue_bytes),
    ];
    for (name, kind, help, value) in samples {
        sample(text, name, kind, help, value.load(Ordering::Relaxed));
    }
}

fn sample(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ =
        writeln!(text, "# HELP ferrymq_{name} {help}.\n# TYPE ferrymq_{name} {kind}\nferrymq_{name} {value}");
}
