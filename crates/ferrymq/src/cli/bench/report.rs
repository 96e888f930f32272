//! What the benchmarks report: percentiles, and the processor time they took themselves.
//!
//! **Invariant.** Histograms keep three significant digits from a nanosecond to ten minutes; what is longer counts
//! as that.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

const LONGEST_NS: u64 = 600_000_000_000;

/// Durations, recorded in nanoseconds.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are sound"))
    }

    pub(super) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.clamp(1, LONGEST_NS));
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Percentiles in microseconds; null if nothing was recorded.
    pub(super) fn json(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let micros = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e6;
        let at = |quantile: f64| micros(self.0.value_at_quantile(quantile));
        json!({
            "count": self.0.len(), "mean": self.0.mean() / 1e3, "min": micros(self.0.min()),
            "p50": at(0.5), "p75": at(0.75), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99),
            "p99.9": at(0.999), "p99.99": at(0.9999), "max": micros(self.0.max()),
        })
    }
}

/// Records and bytes over a time.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) records: u64,
    pub(super) payload_bytes: u64,
    pub(super) seconds: f64,
    pub(super) records_per_second: f64,
    /// Millions of bytes of payload per second.
    pub(super) mb_per_second: f64,
    /// Processor time this process took, all threads.
    pub(super) client_cpu_seconds: f64,
}

impl Throughput {
    pub(super) fn new(records: u64, message_bytes: usize, took: Duration, cpu: f64) -> Throughput {
        let payload_bytes = records * message_bytes as u64;
        let seconds = took.as_secs_f64();
        let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Throughput {
            records,
            payload_bytes,
            seconds,
            records_per_second: per_second(records),
            mb_per_second: per_second(payload_bytes) / 1e6,
            client_cpu_seconds: cpu,
        }
    }
}

/// Processor seconds this process has taken so far; 0 where the system does not tell.
pub(super) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the command in parentheses, which may hold anything.
    let behind_command = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |field: usize| behind_command.split_whitespace().nth(field - 3)?.parse::<u64>().ok();
    let total = ticks(14).unwrap_or(0) + ticks(15).unwrap_or(0);
    total as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.json(), Value::Null);
        for millis in 1..=100 {
            latencies.record(millis * 1_000_000);
        }
        latencies.record(u64::MAX);
        let json = latencies.json();
        assert_eq!(json["count"], 101);
        let p50 = json["p50"].as_f64().unwrap();
        assert!((50_900.0..51_100.0).contains(&p50), "{p50}");
    }

    #[test]
    fn processor_time_is_read() {
        assert!(cpu_seconds() >= 0.0);
    }
}
