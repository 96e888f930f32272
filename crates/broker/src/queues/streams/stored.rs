//! The record of a declared stream: `streams/<vhost>/<name>`, written as the records of queues are.
//!
//! **Invariants.** It is written before its topic is made and taken away after the topic has gone. So a crash in between
//! leaves a record without a topic, which the next start takes away, and never a topic that nobody deletes.

use serde::{Deserialize, Serialize};

use crate::queues::args::Arguments;
use crate::queues::types::QueueSpec;

/// Where they lie.
pub(super) const STREAMS: &str = "streams/";

/// The stored form of a stream.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StreamStored {
    pub(super) vhost: String,
    pub(super) name: String,
    pub(super) topic: String,
    /// Whether the declaration made the topic.
    pub(super) made: bool,
    pub(super) arguments: Arguments,
    pub(super) created_ms: i64,
}

impl StreamStored {
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
        let golden = r#"{"v":1,"vhost":"/","name":"s","topic":"t","made":true,"arguments":[["x-queue-type",{"text":"stream"}]],"created_ms":5}"#;
        let record = || StreamStored {
            vhost: "/".to_owned(),
            name: "s".to_owned(),
            topic: "t".to_owned(),
            made: true,
            arguments: Arguments(vec![("x-queue-type".to_owned(), Value::text("stream"))]),
            created_ms: 5,
        };
        let put = put(key(STREAMS, &["/", "s"]), record()).unwrap();
        assert_eq!(put.key, "streams/%2F/s");
        let value = put.value.unwrap();
        assert_eq!(std::str::from_utf8(&value).unwrap(), golden);
        let entry = Entry { key: put.key, value, revision: Revision(1) };
        assert_eq!(read::<StreamStored>(&entry).unwrap(), record());
    }
}
