//! What a run says at its end, for people and as JSON.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::world::{Violation, World};

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Percentiles {
    #[serde(skip)]
    all: Vec<Duration>,
    pub(crate) samples: usize,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// Of both.
    fn and(&self, other: Percentiles) -> Percentiles {
        Percentiles::of(&[self.all.as_slice(), &other.all].concat())
    }

    /// Of these.
    pub(crate) fn of(samples: &[Duration]) -> Percentiles {
        let mut sorted: Vec<f64> = samples.iter().map(|sample| millis(*sample)).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(rank).copied().unwrap_or_default()
        };
        Percentiles {
            all: samples.to_vec(),
            samples: sorted.len(),
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// The result of a run.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) seed: u64,
    pub(crate) passed: bool,
    pub(crate) seconds: f64,
    /// How often each fault was done.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Records and operations.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// From the start of the process to its first right answer, in milliseconds.
    pub(crate) ready_ms: Percentiles,
    /// Other things measured, in milliseconds.
    pub(crate) measured_ms: BTreeMap<&'static str, Percentiles>,
    /// Errors that clients were given: not wrong by themselves.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) violations: Vec<Violation>,
}

impl Report {
    /// Takes over what the world knows and says whether the run passed.
    pub(crate) fn finish(&mut self, world: &World) {
        let counts = &world.counts;
        let each: [(&'static str, &AtomicU64); 17] = [
            ("records acknowledged", &counts.acked),
            ("batches acknowledged", &counts.acked_batches),
            ("bytes acknowledged", &counts.acked_bytes),
            ("records of unknown fate", &counts.info),
            ("records refused", &counts.failed),
            ("records read", &counts.read),
            ("batches sent again", &counts.resent),
            ("offsets committed", &counts.commits),
            ("topics made or deleted", &counts.topic_changes),
            ("beginnings deleted", &counts.trims),
            ("messages confirmed", &counts.confirmed),
            ("messages refused", &counts.refused),
            ("messages delivered", &counts.delivered),
            ("messages settled", &counts.settled),
            ("messages returned to their queue", &counts.returned),
            ("records confirmed over AMQP", &counts.streamed),
            ("records read as a stream", &counts.stream_read),
        ];
        for (name, count) in each {
            *self.counts.entry(name).or_default() += count.load(Ordering::Relaxed);
        }
        for (what, count) in world.errors() {
            *self.errors.entry(what).or_default() += count;
        }
        self.violations.extend(world.violations());
        self.passed = self.violations.is_empty();
    }

    /// This and then another, as one.
    pub(crate) fn and(mut self, other: Report) -> Report {
        self.passed &= other.passed;
        self.seconds += other.seconds;
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
        for (name, count) in other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        self.ready_ms = self.ready_ms.and(other.ready_ms);
        for (name, took) in other.measured_ms {
            let before = self.measured_ms.entry(name).or_default();
            *before = before.and(took);
        }
        self.violations.extend(other.violations);
        self
    }

    /// Whether of each group of rules one is broken, and those that are.
    pub(crate) fn breaks(&self, groups: &[&[&str]]) -> (bool, Vec<&'static str>) {
        let mut broken: Vec<&str> = self.violations.iter().map(|violation| violation.rule).collect();
        broken.sort_unstable();
        broken.dedup();
        let all = groups.iter().all(|group| broken.iter().any(|rule| group.contains(rule)));
        broken.retain(|rule| groups.iter().any(|group| group.contains(rule)));
        (all, broken)
    }

    /// A line for people.
    pub(crate) fn line(&self) -> String {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or_default();
        let ready = &self.ready_ms;
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let verdict = match self.violations.as_slice() {
            [] => "no rule is broken".to_owned(),
            broken => {
                let rules: Vec<String> =
                    broken.iter().map(|broken| format!("{} x{}", broken.rule, broken.count)).collect();
                format!("BROKEN: {}", rules.join(", "))
            }
        };
        format!(
            "{} (seed {}): {} | {} records acknowledged, {} unknown, {} read, {} offsets, {} topics, {} trims | \
             {} messages confirmed, {} delivered, {} settled | ready p50 {} ms p99 {} ms max {} ms | {:.0} s | {verdict}",
            self.scenario,
            self.seed,
            faults.join(", "),
            count("records acknowledged"),
            count("records of unknown fate"),
            count("records read"),
            count("offsets committed"),
            count("topics made or deleted"),
            count("beginnings deleted"),
            count("messages confirmed"),
            count("messages delivered"),
            count("messages settled"),
            ready.p50,
            ready.p99,
            ready.max,
            self.seconds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_group_one_is_broken() {
        let broken = |rule| Violation { rule, count: 1, details: Vec::new() };
        let violations = vec![broken("b"), broken("z"), broken("a"), broken("a")];
        let report = Report { violations, ..Report::default() };
        assert_eq!(report.breaks(&[&["a", "c"], &["b"]]), (true, vec!["a", "b"]));
        assert_eq!(report.breaks(&[&["a"], &["c"]]), (false, vec!["a"]));
    }

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let of = Percentiles::of(&samples);
        assert_eq!((of.p50, of.p90, of.p99, of.max), (100.0, 180.0, 198.0, 200.0));
        assert_eq!(Percentiles::of(&[]).samples, 0);
    }
}
