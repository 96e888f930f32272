//! The record of a declared queue over a topic: `queues-over-topics/<vhost>/<name>`, written as the records of queues are.
//!
//! **Invariants.** It is written before the queue is there and taken away with it. A number in it belongs to no other
//! queue, now or later.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::queues::args::Arguments;
use crate::queues::types::QueueSpec;

/// Where they lie.
pub(super) const OVER_TOPICS: &str = "queues-over-topics/";

/// The stored form of a queue over a topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct OverStored {
    pub(super) vhost: String,
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) topic_id: Uuid,
    /// Of each partition, the number that its acks stand under and the offset that it began at.
    pub(super) partitions: Vec<(u64, u64)>,
    pub(super) arguments: Arguments,
    pub(super) created_ms: i64,
}

impl OverStored {
    pub(super) fn spec(&self) -> QueueSpec {
        QueueSpec::kept(self.name.as_str(), self.arguments.clone())
    }
}

#[cfg(test)]
mod tests {
    use ferrymq_storage::{Entry, Revision};

    use super::*;
    use crate::queues::args::Value;
    use crate::queues::records::{key, put, read};

    /// The golden form: version 1 is read for as long as there are directories that hold it.
    #[test]
    fn the_record_is_pinned() {
        let golden = r#"{"v":1,"vhost":"/","name":"q","topic":"t","topic_id":"00000000-0000-0000-0000-000000000007","partitions":[[1099511627776,5],[1099511627777,0]],"arguments":[["x-kafka-topic",{"text":"t"}]],"created_ms":5}"#;
        let record = || OverStored {
            vhost: "/".to_owned(),
            name: "q".to_owned(),
            topic: "t".to_owned(),
            topic_id: Uuid::from_u128(7),
            partitions: vec![(1 << 40, 5), ((1 << 40) + 1, 0)],
            arguments: Arguments(vec![("x-kafka-topic".to_owned(), Value::text("t"))]),
            created_ms: 5,
        };
        let put = put(key(OVER_TOPICS, &["/", "q"]), record()).unwrap();
        assert_eq!(put.key, "queues-over-topics/%2F/q");
        let value = put.value.unwrap();
        assert_eq!(std::str::from_utf8(&value).unwrap(), golden);
        let entry = Entry { key: put.key, value, revision: Revision(1) };
        assert_eq!(read::<OverStored>(&entry).unwrap(), record());
    }
}
