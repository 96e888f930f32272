//! Settings of the broker that keep Kafka's names: what groups, offsets and producers may do.
//!
//! **Invariant.** Every name in the table has an effect, and DescribeConfigs shows the value in force.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrymq_broker::BrokerOptions;
use ferrymq_broker::groups::GroupsConfig;
use ferrymq_types::limits::OFFSET_METADATA_BYTES_MAX;

/// The settings with nothing left open.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokerSettings {
    pub(crate) groups: GroupsConfig,
    producer_expiration: Option<Duration>,
}

/// One name, the values it takes, and what it does.
struct Row {
    name: &'static str,
    min: u64,
    max: u64,
    set: fn(&mut BrokerSettings, u64),
}

const INT_MAX: u64 = i32::MAX as u64;

const TABLE: &[Row] = &[
    Row {
        name: "group.initial.rebalance.delay.ms",
        min: 0,
        max: INT_MAX,
        set: |to, value| to.groups.initial_rebalance_delay_ms = value,
    },
    Row {
        name: "group.max.session.timeout.ms",
        min: 1,
        max: INT_MAX,
        set: |to, value| to.groups.session_timeout_ms_max = narrow(value),
    },
    Row {
        name: "group.max.size",
        min: 1,
        max: INT_MAX,
        set: |to, value| to.groups.group_size_max = usize::try_from(value).unwrap_or(usize::MAX),
    },
    Row {
        name: "group.min.session.timeout.ms",
        min: 1,
        max: INT_MAX,
        set: |to, value| to.groups.session_timeout_ms_min = narrow(value),
    },
    Row {
        name: "offset.metadata.max.bytes",
        min: 0,
        max: OFFSET_METADATA_BYTES_MAX as u64,
        set: |to, value| to.groups.offset_metadata_max = usize::try_from(value).unwrap_or(usize::MAX),
    },
    Row {
        name: "offsets.retention.check.interval.ms",
        min: 1,
        max: i64::MAX as u64,
        set: |to, value| to.groups.retention_check_interval_ms = value,
    },
    Row {
        name: "offsets.retention.minutes",
        min: 1,
        max: INT_MAX,
        set: |to, value| to.groups.offsets_retention_ms = value * 60_000,
    },
    Row {
        name: "producer.id.expiration.ms",
        min: 1,
        max: INT_MAX,
        set: |to, value| to.producer_expiration = Some(Duration::from_millis(value)),
    },
];

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A table of the file as pairs of texts.
pub(crate) fn of_file(table: BTreeMap<String, toml::Value>) -> impl Iterator<Item = (String, String)> {
    table.into_iter().map(|(name, value)| match value {
        toml::Value::String(text) => (name, text),
        other => (name, other.to_string()),
    })
}

impl BrokerSettings {
    /// Takes settings over, later ones over earlier ones; what is wrong goes to `problems`.
    pub(crate) fn check(
        said: impl Iterator<Item = (String, String)>,
        problems: &mut Vec<String>,
    ) -> BrokerSettings {
        let mut settings = BrokerSettings::default();
        for (name, value) in said {
            let Some(row) = TABLE.iter().find(|row| row.name == name) else {
                let known: Vec<_> = TABLE.iter().map(|row| row.name).collect();
                problems.push(format!("broker setting {name:?} is not one of {}", known.join(", ")));
                continue;
            };
            match value.parse() {
                Ok(value) if (row.min..=row.max).contains(&value) => (row.set)(&mut settings, value),
                _ => problems.push(format!(
                    "broker setting {name} {value:?} is not a number from {} to {}",
                    row.min, row.max
                )),
            }
        }
        let (min, max) = (settings.groups.session_timeout_ms_min, settings.groups.session_timeout_ms_max);
        if min > max {
            problems.push(format!(
                "broker setting group.min.session.timeout.ms {min} must not be above \
                group.max.session.timeout.ms {max}"
            ));
        }
        settings
    }

    /// The broker's options with what was set here.
    pub(crate) fn over(&self, options: BrokerOptions) -> BrokerOptions {
        BrokerOptions {
            producer_expiration: self.producer_expiration.unwrap_or(options.producer_expiration),
            ..options
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(said: &[(&str, &str)]) -> (BrokerSettings, Vec<String>) {
        let mut problems = Vec::new();
        let said = said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        (BrokerSettings::check(said, &mut problems), problems)
    }

    #[test]
    fn every_name_changes_something() {
        let nothing = format!("{:?}", BrokerSettings::default());
        for row in TABLE {
            let (settings, problems) = checked(&[(row.name, "1234")]);
            let relation = problems.iter().all(|problem| problem.contains("must not be above"));
            assert!(relation, "{problems:?}");
            assert_ne!(format!("{settings:?}"), nothing, "{}", row.name);
        }
    }

    #[test]
    fn unknown_names_and_values_out_of_range_are_said() {
        let (_, problems) = checked(&[
            ("group.max.sise", "1"),
            ("group.max.size", "0"),
            ("offsets.retention.minutes", "soon"),
            ("group.min.session.timeout.ms", "2000000"),
        ]);
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems[3].contains("1800000"), "{problems:?}");
    }

    #[test]
    fn the_last_one_counts() {
        let (settings, problems) = checked(&[("group.max.size", "5"), ("group.max.size", "7")]);
        assert_eq!((settings.groups.group_size_max, problems.len()), (7, 0));
    }
}
