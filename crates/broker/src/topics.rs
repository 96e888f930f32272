//! Which topics there are: the records in the meta store, and the picture of them that everyone reads.
//!
//! A topic is one entry `topics/<name>`; a deleted topic's logs stand in `deleting/<topic id>` until they are
//! gone, so that a crash in between leaks nothing.
//!
//! **Invariants.** The entry is durable before a topic is seen. Log ids come from a counter in the same store
//! and are never reused. Readers take a snapshot and hold no lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferrymq_storage::{Revision, StorageError};
use ferrymq_types::LogId;
use ferrymq_types::limits::TOPIC_NAME_BYTES_MAX;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::partition::Partition;
use crate::settings::{ConfigCell, SettingError};

/// The version of the stored record; a newer one is refused.
pub const RECORD_VERSION: u32 = 1;

/// The stored form of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The topic's id, never reused.
    pub id: Uuid,
    /// One log per partition.
    pub logs: Vec<u64>,
    /// What was set on the topic.
    pub config: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
}

/// The stored form of a topic on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletingRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The logs to delete.
    pub logs: Vec<u64>,
}

/// A topic.
#[derive(Debug)]
pub struct Topic {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions, by index.
    pub partitions: Vec<Arc<Partition>>,
    /// Its settings.
    pub config: Arc<ConfigCell>,
    /// The stored record it was made from.
    pub record: TopicRecord,
    /// The revision of that.
    pub revision: Revision,
}

impl Topic {
    /// The same with other partitions.
    pub(crate) fn with_partitions(&self, partitions: Vec<Arc<Partition>>) -> Topic {
        let (id, name, config) = (self.id, self.name.clone(), self.config.clone());
        Topic { id, name, partitions, config, record: self.record.clone(), revision: self.revision }
    }
}

/// What a caller asks to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; at least one.
    pub partitions: u32,
    /// Settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
}

/// Why a change of topics failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopicError {
    /// It is there already.
    #[error("Topic '{0}' already exists.")]
    Exists(String),
    /// It is not there.
    #[error("This server does not host this topic-partition.")]
    NotFound,
    /// The name is not legal.
    #[error("{0}")]
    Name(String),
    /// The number of partitions is not legal.
    #[error("{0}")]
    Partitions(String),
    /// A setting was refused.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The store failed.
    #[error("the topic could not be stored: {0}")]
    Storage(#[from] StorageError),
}

/// Checks a topic's name by Kafka's rules (`Topic.validate`).
///
/// # Errors
/// [`TopicError::Name`] with Kafka's text.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    let legal = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    let why = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > TOPIC_NAME_BYTES_MAX {
        format!("the length of '{name}' is longer than the max allowed length {TOPIC_NAME_BYTES_MAX}")
    } else if !name.chars().all(legal) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(TopicError::Name(format!("Topic name is invalid: {why}")))
}

/// Whether two names become one where dots are written as underscores, as Kafka's metrics do.
#[must_use]
pub fn collide(one: &str, other: &str) -> bool {
    let like = |(a, b): (u8, u8)| a == b || (matches!(a, b'.' | b'_') && matches!(b, b'.' | b'_'));
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(like)
}

/// All topics at one moment.
#[derive(Debug, Default)]
pub struct TopicMap {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: HashMap<Uuid, Arc<Topic>>,
    partitions: usize,
}

impl TopicMap {
    /// The topic called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic with this id.
    #[must_use]
    pub fn by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All topics, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// Topics with a name at or behind `name`, by name.
    pub fn from_name(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        let bounds = (std::ops::Bound::Included(name), std::ops::Bound::Unbounded);
        self.by_name.range::<str, _>(bounds).map(|(_, topic)| topic)
    }

    /// How many topics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many partitions there are in all topics.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    fn insert(&mut self, topic: Arc<Topic>) {
        self.remove(&topic.name);
        self.partitions += topic.partitions.len();
        self.by_id.insert(topic.id, topic.clone());
        self.by_name.insert(topic.name.clone(), topic);
    }

    fn remove(&mut self, name: &str) {
        if let Some(old) = self.by_name.remove(name) {
            self.by_id.remove(&old.id);
            self.partitions -= old.partitions.len();
        }
    }
}

/// The topics, readable by all, changed by the broker only.
#[derive(Debug, Default)]
pub struct Registry {
    map: RwLock<TopicMap>,
    /// Rises with every change, behind it: read for every message, told to few.
    generation: AtomicU64,
    changes: watch::Sender<()>,
}

impl Registry {
    /// The topic called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.map.read().get(name).cloned()
    }

    /// The topic with this id.
    #[must_use]
    pub fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.map.read().by_id(id).cloned()
    }

    /// One partition of a topic.
    #[must_use]
    pub fn partition(&self, name: &str, index: i32) -> Option<Arc<Partition>> {
        let index = usize::try_from(index).ok()?;
        self.map.read().get(name)?.partitions.get(index).cloned()
    }

    /// Looks at all topics at one moment. Keep it short: changes wait.
    pub fn with<T>(&self, look: impl FnOnce(&TopicMap) -> T) -> T {
        look(&self.map.read())
    }

    /// All topics, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.map.read().iter().cloned().collect()
    }

    /// How often topics have changed: one came, went, grew, or has other settings.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells of every change from now on.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.changes.send_modify(|()| ());
    }

    pub(crate) fn insert(&self, topic: Arc<Topic>) {
        self.map.write().insert(topic);
        self.changed();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.map.write().remove(name);
        self.changed();
    }
}

/// The logs of a record as ids.
#[must_use]
pub fn log_ids(logs: &[u64]) -> Vec<LogId> {
    logs.iter().copied().map(LogId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "A.b_c-9", &"x".repeat(249)] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        for (one, other) in [("a.b", "a_b"), ("a_b", "a.b"), ("._", "_.")] {
            assert!(collide(one, other), "{one} {other}");
        }
        for (one, other) in [("a.b", "a-b"), ("a.b", "a_bc"), ("ab", "ac")] {
            assert!(!collide(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_stored_topic_reads_back() {
        let text = r#"{"v":1,"id":"00000000-0000-0000-0000-00000000002a","logs":[64,65],"config":{"retention.ms":"1"},"created_ms":5}"#;
        let record: TopicRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.logs, vec![64, 65]);
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }
}
