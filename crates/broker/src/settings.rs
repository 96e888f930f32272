//! What a topic can be told: every setting with its type, default, range and meaning.
//!
//! **Invariant.** A value that was accepted is honoured. A setting whose only honest value is one (because
//! the feature is not there) refuses every other with an error that says so; a setting that needs no work
//! here because we always do more than it asks says that in its documentation.
//!
//! Deliberately absent: the numbers by which a protocol names types and sources (the door has them).

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrymq_types::limits::{BATCH_BYTES_MAX, BATCH_BYTES_MAX_DEFAULT};
use ferrymq_types::{Durability, RecordKey, TimestampType};
use parking_lot::RwLock;

mod relations;
mod table;

pub use table::{TOPIC_SETTINGS, topic_setting};

/// The type of a setting's value, with its range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int {
        /// Smallest accepted.
        min: i64,
        /// Largest accepted.
        max: i64,
    },
    /// A 64-bit integer.
    Long {
        /// Smallest accepted.
        min: i64,
        /// Largest accepted.
        max: i64,
    },
    /// A number between 0 and 1.
    Ratio,
    /// What of a message is the key of its record, as [`RecordKey`] says it.
    RecordKey,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these words.
    ListOf(&'static [&'static str]),
    /// Free text, comma-separated.
    List,
}

/// What setting a value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It changes what the broker does.
    Honoured,
    /// Nothing is left to do: we do at least what any value asks for.
    Inherent,
    /// Only the default is accepted; the text says why.
    DefaultOnly(&'static str),
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name, as users write it.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// The default, as text.
    pub default: &'static str,
    /// What setting it does.
    pub effect: Effect,
    /// The server's setting that supplies the default, if there is one.
    pub server_synonym: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// The value has the wrong type or lies out of range.
    #[error("Invalid value {value} for configuration {name}: {why}")]
    Invalid {
        /// Which setting.
        name: String,
        /// The value as sent.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Setting {
    /// Checks a value as text.
    ///
    /// # Errors
    /// [`SettingError::Invalid`].
    pub fn check(&self, value: &str) -> Result<(), SettingError> {
        let trimmed = value.trim();
        let why = match self.kind {
            Kind::Bool if !matches!(trimmed.to_ascii_lowercase().as_str(), "true" | "false") => {
                Some("Expected value to be either true or false".to_owned())
            }
            Kind::Int { min, max } => check_integer(trimmed, min, max, "INT"),
            Kind::Long { min, max } => check_integer(trimmed, min, max, "LONG"),
            Kind::Ratio => match trimmed.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => None,
                Ok(_) => Some("Value must be between 0 and 1".to_owned()),
                Err(_) => Some("Not a number of type DOUBLE".to_owned()),
            },
            Kind::RecordKey if RecordKey::parse(trimmed).is_none() => {
                Some("String must be routing_key, correlation_id, none or header:NAME".to_owned())
            }
            Kind::OneOf(words) if !words.contains(&trimmed) => {
                Some(format!("String must be one of: {}", words.join(", ")))
            }
            Kind::ListOf(words) => list(trimmed)
                .find(|word| !words.contains(word))
                .map(|_| format!("String must be one of: {}", words.join(", "))),
            _ => None,
        };
        let why = why.or_else(|| match self.effect {
            Effect::DefaultOnly(reason) if trimmed != self.default => Some(reason.to_owned()),
            _ => None,
        });
        match why {
            None => Ok(()),
            Some(why) => {
                Err(SettingError::Invalid { name: self.name.to_owned(), value: value.to_owned(), why })
            }
        }
    }
}

/// The words of a comma-separated list.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn check_integer(text: &str, min: i64, max: i64, name: &str) -> Option<String> {
    match text.parse::<i64>() {
        Err(_) => Some(format!("Not a number of type {name}")),
        Ok(number) if number < min => Some(format!("Value must be at least {min}")),
        Ok(number) if number > max => Some(format!("Value must be no more than {max}")),
        Ok(_) => None,
    }
}

/// What the server supplies where a topic says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicDefaults {
    /// Values by topic setting name.
    pub values: BTreeMap<&'static str, String>,
}

/// A topic's settings, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// What was set on the topic itself, by name.
    pub overrides: BTreeMap<String, String>,
    /// Longest a record is kept, in milliseconds; `None`: for ever.
    pub retention_ms: Option<i64>,
    /// Most bytes kept per partition; `None`: no bound.
    pub retention_bytes: Option<u64>,
    /// What one retention step frees at least, and the largest batch accepted, in bytes.
    pub segment_bytes: u64,
    /// Largest batch, in bytes.
    pub max_message_bytes: usize,
    /// Whose clock the timestamps are.
    pub timestamp_type: TimestampType,
    /// How far a timestamp may lie before the broker's clock, in milliseconds.
    pub timestamp_before_max_ms: i64,
    /// How far after it.
    pub timestamp_after_max_ms: i64,
    /// When an append counts as done.
    pub durability: Durability,
    /// What of a message that is published over AMQP is the key of its record.
    pub record_key: RecordKey,
}

impl TopicConfig {
    /// Parses overrides on top of the server's defaults.
    ///
    /// # Errors
    /// The first name or value that is refused.
    pub fn new(
        overrides: BTreeMap<String, String>,
        defaults: &TopicDefaults,
    ) -> Result<TopicConfig, SettingError> {
        for (name, value) in &overrides {
            topic_setting(name).ok_or_else(|| SettingError::Unknown(name.clone()))?.check(value)?;
        }
        TopicConfig::stored(overrides, defaults)
    }

    /// Parses what was checked when it was set: a range that has become narrower since does not refuse it.
    ///
    /// # Errors
    /// A name that there is no setting for: a newer FerryMQ may have known it.
    pub fn stored(
        overrides: BTreeMap<String, String>,
        defaults: &TopicDefaults,
    ) -> Result<TopicConfig, SettingError> {
        if let Some(name) = overrides.keys().find(|name| topic_setting(name).is_none()) {
            return Err(SettingError::Unknown(name.clone()));
        }
        let text = |name: &'static str| effective(name, &overrides, defaults);
        let long = |name: &'static str| text(name).trim().parse::<i64>().unwrap_or(i64::MAX);
        let timestamp_type = match text("message.timestamp.type").trim() {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        };
        let durability = Durability::parse(text("ferrymq.durability").trim()).unwrap_or_default();
        let record_key = RecordKey::parse(text("ferrymq.record.key").trim()).unwrap_or_default();
        let (retention_ms, retention_bytes) = (long("retention.ms"), long("retention.bytes"));
        Ok(TopicConfig {
            retention_ms: (retention_ms >= 0).then_some(retention_ms),
            retention_bytes: u64::try_from(retention_bytes).ok(),
            segment_bytes: u64::try_from(long("segment.bytes")).unwrap_or(u64::MAX),
            max_message_bytes: usize::try_from(long("max.message.bytes")).unwrap_or(BATCH_BYTES_MAX_DEFAULT),
            timestamp_type,
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            durability,
            record_key,
            overrides,
        })
    }

    /// The value in force for `name`, as text.
    #[must_use]
    pub fn value(&self, name: &'static str, defaults: &TopicDefaults) -> String {
        effective(name, &self.overrides, defaults)
    }
}

fn effective(name: &'static str, overrides: &BTreeMap<String, String>, defaults: &TopicDefaults) -> String {
    let own = overrides.get(name).or_else(|| defaults.values.get(name)).cloned();
    own.unwrap_or_else(|| topic_setting(name).map_or_else(String::new, |setting| setting.default.to_owned()))
}

/// A topic's configuration that can be replaced while others read it.
#[derive(Debug)]
pub struct ConfigCell(RwLock<Arc<TopicConfig>>);

impl ConfigCell {
    /// A cell that holds `config`.
    #[must_use]
    pub fn new(config: TopicConfig) -> ConfigCell {
        ConfigCell(RwLock::new(Arc::new(config)))
    }

    /// The configuration now.
    #[must_use]
    pub fn get(&self) -> Arc<TopicConfig> {
        self.0.read().clone()
    }

    /// Replaces it.
    pub fn set(&self, config: TopicConfig) {
        *self.0.write() = Arc::new(config);
    }
}

/// The smallest value `segment.bytes` takes (KIP-1030).
pub const SEGMENT_BYTES_MIN: i64 = 1024 * 1024;

/// The largest value `max.message.bytes` takes, as the table needs it.
const BATCH_BYTES_MAX_AS_LONG: i64 = BATCH_BYTES_MAX as i64;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<TopicConfig, SettingError> {
        let overrides = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        TopicConfig::new(overrides, &TopicDefaults::default())
    }

    #[test]
    fn defaults_are_kafkas() {
        let config = config(&[]).unwrap();
        assert_eq!(config.retention_ms, Some(604_800_000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.durability, Durability::Sync);
        assert_eq!(config.timestamp_type, TimestampType::CreateTime);
    }

    #[test]
    fn every_default_passes_its_own_check() {
        for setting in TOPIC_SETTINGS {
            setting.check(setting.default).unwrap();
        }
        let mut names: Vec<_> = TOPIC_SETTINGS.iter().map(|setting| setting.name).collect();
        let sorted = names.clone();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, sorted, "the table is sorted and has no name twice");
    }

    #[test]
    fn values_are_honoured_or_refused() {
        assert_eq!(config(&[("retention.ms", "-1")]).unwrap().retention_ms, None);
        assert_eq!(config(&[("ferrymq.durability", "os")]).unwrap().durability, Durability::Os);
        for (name, value) in [
            ("retention.ms", "soon"),
            ("retention.ms", "-2"),
            ("segment.bytes", "1048575"),
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "shred"),
            ("compression.type", "gzip"),
            ("message.timestamp.type", "Now"),
            ("preallocate", "perhaps"),
            ("max.message.bytes", "99999999999"),
            ("remote.storage.enable", "true"),
        ] {
            assert!(matches!(config(&[(name, value)]), Err(SettingError::Invalid { .. })), "{name}={value}");
        }
        let unknown = config(&[("retention.parsecs", "1")]);
        assert_eq!(unknown, Err(SettingError::Unknown("retention.parsecs".to_owned())));
    }
}
