//! Metrics under RabbitMQ's names and with its words, where we have what they mean.
//!
//! **Invariants.** A name means what it means there. What RabbitMQ sums up over connections and channels that are open
//! falls when one is closed; ours only rises. There is no label `queue_type`.
//!
//! Deliberately absent: names of what nobody counts here (processes, Erlang, Raft), and metrics of single objects.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use ferrymq_amqp_server::Counters;
use ferrymq_broker::queues::{DeadLettering, DeathReason, QueueStat, QueueType, Queues, Tally};

use super::super::amqp::Door;

/// What tells protocols apart.
const PROTOCOL: &str = "{protocol=\"amqp091\"}";

/// A name without `rabbitmq_`, its help and its value.
type Sample = (&'static str, &'static str, u64);

pub(super) async fn samples(text: &mut String, queues: &Queues, door: Option<&Door>) {
    let (totals, (count, _)) = (queues.totals().await, queues.counts());
    let version = door.map_or("-", |door| door.context.config.version.as_str());
    let info = format!(
        "{{rabbitmq_version=\"{version}\",product_name=\"FerryMQ\",product_version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    put(text, "build_info", "untyped", "RabbitMQ & Erlang/OTP version info", &info, 1);
    let info =
        "{rabbitmq_node=\"ferrymq@localhost\",rabbitmq_cluster=\"ferrymq\",rabbitmq_endpoint=\"aggregated\"}";
    put(text, "identity_info", "untyped", "RabbitMQ node & cluster identity info", info, 1);
    for (name, help, value) in of_queues(totals, count as u64) {
        put(text, name, "gauge", help, "", value);
    }
    of_tally(text, queues.tally());
    let Some(door) = door else { return };
    let full = u64::from(door.context.holds_publishers());
    let help = "is 1 if free disk space watermark alarm is in effect";
    put(text, "alarms_free_disk_space_watermark", "untyped", help, "", full);
    let (connections, channels) = door.open_now();
    put(text, "connections", "gauge", "Connections currently open", "", connections);
    put(text, "channels", "gauge", "Channels currently open", "", channels);
    put(text, "global_consumers", "gauge", "Current number of consumers", PROTOCOL, totals.consumers);
    let counters = &door.context.counters;
    let publishers = read(&counters.publishers_open);
    put(text, "global_publishers", "gauge", "Current number of publishers", PROTOCOL, publishers);
    for (name, help, value) in of_connections(counters, connections, channels) {
        put(text, name, "counter", help, "", value);
    }
    for (name, help, value) in of_publishing(counters).into_iter().chain(of_consuming(counters)) {
        put(text, name, "counter", help, PROTOCOL, value);
    }
}

/// Queues made and deleted, and messages that left them unconsumed.
fn of_tally(text: &mut String, tally: &Tally) {
    for (name, help, counter) in [
        ("queues_declared_total", "Total number of queues declared", &tally.declared),
        ("queues_created_total", "Total number of queues created", &tally.created),
        ("queues_deleted_total", "Total number of queues deleted", &tally.deleted),
    ] {
        put(text, name, "counter", help, "", read(counter));
    }
    let deaths: Vec<_> = tally.deaths().collect();
    for (reason, name, help) in DEATHS {
        let of = deaths.iter().filter(|(kind, how, why, _)| *why == reason && can(*kind, *how, reason));
        let values = of.map(|(kind, how, _, count)| (labels(*kind, *how), *count));
        put_all(text, name, help, values);
    }
    // What is dead-lettered here is with its targets when it is counted.
    let confirmed = deaths.iter().filter(|(_, how, ..)| *how == DeadLettering::AtLeastOnce);
    let count = confirmed.map(|(.., count)| count).sum();
    let values = std::iter::once((labels(QueueType::Quorum, DeadLettering::AtLeastOnce), count));
    put_all(
        text,
        "global_messages_dead_lettered_confirmed_total",
        "Total number of messages dead-lettered and confirmed by target queues",
        values,
    );
}

const DEATHS: [(DeathReason, &str, &str); 4] = [
    (
        DeathReason::Rejected,
        "global_messages_dead_lettered_rejected_total",
        "Total number of messages dead-lettered due to basic.reject or basic.nack",
    ),
    (
        DeathReason::Expired,
        "global_messages_dead_lettered_expired_total",
        "Total number of messages dead-lettered due to message TTL exceeded",
    ),
    (
        DeathReason::MaxLength,
        "global_messages_dead_lettered_maxlen_total",
        "Total number of messages dead-lettered due to overflow drop-head or reject-publish-dlx",
    ),
    (
        DeathReason::DeliveryLimit,
        "global_messages_dead_lettered_delivery_limit_total",
        "Total number of messages dead-lettered due to delivery-limit exceeded",
    ),
];

/// Whether RabbitMQ has a line for these.
fn can(kind: QueueType, how: DeadLettering, reason: DeathReason) -> bool {
    match reason {
        DeathReason::DeliveryLimit => kind == QueueType::Quorum,
        // Such a queue refuses what is too much.
        DeathReason::MaxLength => how != DeadLettering::AtLeastOnce,
        DeathReason::Rejected | DeathReason::Expired => true,
    }
}

fn labels(kind: QueueType, how: DeadLettering) -> String {
    let how = match how {
        DeadLettering::Disabled => "disabled",
        DeadLettering::AtMostOnce => "at_most_once",
        DeadLettering::AtLeastOnce => "at_least_once",
    };
    format!("{{queue_type=\"rabbit_{}_queue\",dead_letter_strategy=\"{how}\"}}", kind.name())
}

fn of_queues(totals: QueueStat, queues: u64) -> [Sample; 6] {
    let QueueStat { ready, unacked, consumers } = totals;
    [
        ("queues", "Queues available", queues),
        ("consumers", "Consumers currently connected", consumers),
        ("queue_messages_ready", "Messages ready to be delivered to consumers", ready),
        ("queue_messages_unacked", "Messages delivered to consumers but not yet acknowledged", unacked),
        ("queue_messages", "Sum of ready and unacknowledged messages - total queue depth", ready + unacked),
        ("queue_consumers", "Consumers on a queue", consumers),
    ]
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn of_connections(of: &Counters, connections: u64, channels: u64) -> [Sample; 6] {
    let (opened, all_channels) = (read(&of.connections_total), read(&of.channels_total));
    [
        ("connections_opened_total", "Total number of connections opened", opened),
        (
            "connections_closed_total",
            "Total number of connections closed or terminated",
            opened.saturating_sub(connections),
        ),
        ("channels_opened_total", "Total number of channels opened", all_channels),
        ("channels_closed_total", "Total number of channels closed", all_channels.saturating_sub(channels)),
        (
            "connection_incoming_bytes_total",
            "Total number of bytes received on a connection",
            read(&of.bytes_in_total),
        ),
        (
            "connection_outgoing_bytes_total",
            "Total number of bytes sent on a connection",
            read(&of.bytes_out_total),
        ),
    ]
}

fn of_publishing(of: &Counters) -> [Sample; 6] {
    [
        (
            "global_messages_received_total",
            "Total number of messages received from publishers",
            read(&of.published_total),
        ),
        (
            "global_messages_received_confirm_total",
            "Total number of messages received from publishers expecting confirmations",
            read(&of.published_confirm_total),
        ),
        (
            "global_messages_confirmed_total",
            "Total number of messages confirmed to publishers",
            read(&of.confirmed_total),
        ),
        (
            "global_messages_routed_total",
            "Total number of messages routed to queues or streams",
            read(&of.routed_total),
        ),
        (
            "global_messages_unroutable_returned_total",
            "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable",
            read(&of.returned_total),
        ),
        (
            "global_messages_unroutable_dropped_total",
            "Total number of messages published as non-mandatory into an exchange and dropped as unroutable",
            read(&of.dropped_total),
        ),
    ]
}

fn of_consuming(of: &Counters) -> [Sample; 8] {
    [
        (
            "global_messages_delivered_total",
            "Total number of messages delivered to consumers",
            of.delivered(),
        ),
        (
            "global_messages_delivered_consume_manual_ack_total",
            "Total number of messages delivered to consumers using basic.consume with manual acknowledgment",
            read(&of.consumed_total),
        ),
        (
            "global_messages_delivered_consume_auto_ack_total",
            "Total number of messages delivered to consumers using basic.consume with automatic acknowledgment",
            read(&of.consumed_auto_total),
        ),
        (
            "global_messages_delivered_get_manual_ack_total",
            "Total number of messages delivered to consumers using basic.get with manual acknowledgment",
            read(&of.got_total),
        ),
        (
            "global_messages_delivered_get_auto_ack_total",
            "Total number of messages delivered to consumers using basic.get with automatic acknowledgment",
            read(&of.got_auto_total),
        ),
        (
            "global_messages_get_empty_total",
            "Total number of times basic.get operations fetched no message",
            read(&of.got_nothing_total),
        ),
        (
            "global_messages_redelivered_total",
            "Total number of messages redelivered to consumers",
            read(&of.redelivered_total),
        ),
        (
            "global_messages_acknowledged_total",
            "Total number of messages acknowledged by consumers",
            read(&of.acknowledged_total),
        ),
    ]
}

/// A counter with labels.
fn put_all(text: &mut String, name: &str, help: &str, values: impl Iterator<Item = (String, u64)>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP rabbitmq_{name} {help}\n# TYPE rabbitmq_{name} counter");
    for (labels, value) in values {
        let _ = writeln!(text, "rabbitmq_{name}{labels} {value}");
    }
}

fn put(text: &mut String, name: &str, kind: &str, help: &str, labels: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "# HELP rabbitmq_{name} {help}\n# TYPE rabbitmq_{name} {kind}\nrabbitmq_{name}{labels} {value}"
    );
}
