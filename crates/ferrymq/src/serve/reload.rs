//! SIGHUP: what can change while running is taken over, what cannot is named.
//!
//! **Invariant.** Flags and environment stand over the file here as they do at start.

use super::logging::Reload;
use super::settings::{Said, Settings};

/// Reads the file again.
pub(crate) fn reload(now: &mut Settings, said: &Said, reload: &Reload) {
    if !said.has_file() {
        tracing::warn!("SIGHUP: there is no configuration file to read again");
        return;
    }
    let new = match said.resolve() {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "SIGHUP: the configuration file was not taken over");
            return;
        }
    };
    if new.log_level != now.log_level {
        if reload.level(&new.log_level) {
            tracing::info!(level = new.log_level, "SIGHUP: log-level taken over");
            now.log_level = new.log_level.clone();
        } else {
            tracing::error!(level = new.log_level, "SIGHUP: log-level is not a level or filter");
        }
    }
    match differing(now, &new) {
        names if names.is_empty() => tracing::info!("SIGHUP: the configuration file was read again"),
        names => tracing::warn!(settings = names.join(", "), "SIGHUP: these changed and need a restart"),
    }
}

/// The settings that differ, but for those that are taken over.
fn differing(now: &Settings, new: &Settings) -> Vec<&'static str> {
    let names = |settings| fields(settings).into_iter();
    names(now).zip(names(new)).filter(|(now, new)| now.1 != new.1).map(|(now, _)| now.0).collect()
}

/// Every setting as text, under the name the user knows it by.
fn fields(settings: &Settings) -> Vec<(&'static str, String)> {
    // No `..`: a setting that is added must be added here too.
    let Settings {
        data_dir,
        store,
        several_brokers,
        listeners,
        amqp,
        http_listen,
        allow_remote,
        node_id,
        auto_create_topics,
        num_partitions,
        strict_replication_factor,
        retention_check_interval_ms,
        request_bytes_max,
        fetch_bytes_max,
        bytes_in_flight_max,
        wal_file_bytes,
        postgres,
        disk_reserve_bytes,
        worker_threads,
        log_level: _,
        log_format,
        trust_clock,
        topic_defaults,
        broker,
    } = settings;
    vec![
        ("data-dir", format!("{data_dir:?}")),
        // A password that changes is not told apart: it is never printed.
        ("store", format!("{store:?}")),
        ("several-brokers", several_brokers.to_string()),
        ("kafka-listen and kafka-advertise", format!("{listeners:?}")),
        (
            "amqp-listen, amqp-product, amqp-version, amqp-consumer-timeout-ms and default-queue-type",
            format!("{amqp:?}"),
        ),
        ("http-listen", format!("{http_listen:?}")),
        ("allow-remote", allow_remote.to_string()),
        ("node-id", node_id.to_string()),
        ("auto-create-topics", auto_create_topics.to_string()),
        ("num-partitions", num_partitions.to_string()),
        ("strict-replication-factor", strict_replication_factor.to_string()),
        ("retention-check-interval-ms", retention_check_interval_ms.to_string()),
        ("request-bytes-max", request_bytes_max.to_string()),
        ("fetch-bytes-max", fetch_bytes_max.to_string()),
        ("bytes-in-flight-max", bytes_in_flight_max.to_string()),
        ("wal-file-bytes", wal_file_bytes.to_string()),
        ("postgres-table-bytes and postgres-housekeeping-ms", format!("{postgres:?}")),
        ("disk-reserve-bytes", disk_reserve_bytes.to_string()),
        ("worker-threads", worker_threads.to_string()),
        ("log-format", format!("{log_format:?}")),
        ("trust-clock", trust_clock.to_string()),
        ("durability and topic-defaults", format!("{topic_defaults:?}")),
        ("broker-settings", format!("{broker:?}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;

    #[test]
    fn what_differs_is_named_and_nothing_else() {
        let now = settings("");
        assert_eq!(differing(&now, &settings("")), Vec::<&str>::new());
        let new =
            settings("num-partitions = 3\nlog-level = \"debug\"\n[broker-settings]\n\"group.max.size\" = 3");
        assert_eq!(differing(&now, &new), ["num-partitions", "broker-settings"]);
    }
}
