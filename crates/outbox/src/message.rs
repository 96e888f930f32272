//! A row of the outbox as what it becomes: a record of a topic, or a message that was routed.
//!
//! **Invariant.** What is wrong about a row is wrong about it alone: an error here says why it is kept apart, and only a store
//! that is away stops the others.
//!
//! Deliberately absent: what the database has checked already, in the transaction of who published.

use std::sync::Arc;

use bytes::Bytes;
use ferrymq_amqp_server::inside::{self, Inside};
use ferrymq_broker::Broker;
use ferrymq_broker::queues::{Queues, Relayed, StreamRecord};
use ferrymq_broker::topics::{NewTopic, Topic, TopicError};
use ferrymq_engine_postgres::outbox::Published;
use ferrymq_storage::StorageError;
use ferrymq_types::Header;
use serde_json::Value;

use crate::properties;

/// What a row becomes.
#[derive(Debug)]
pub enum Becomes {
    /// Something to be relayed.
    This(Relayed),
    /// A message that nobody is bound for, and need not be.
    Nothing,
    /// It can never be relayed as it is, for this reason.
    Unfit(String),
}

/// Where rows go.
#[derive(Clone)]
pub struct Targets {
    /// Who has the topics.
    pub broker: Arc<Broker>,
    /// Who has exchanges and queues.
    pub queues: Arc<Queues>,
    /// Whether a topic that is not there is made, with this many partitions.
    pub create_topics: Option<u32>,
}

impl Targets {
    /// What a row becomes.
    ///
    /// # Errors
    /// What the store says while a topic is made.
    pub async fn becomes(&self, row: Published) -> Result<Becomes, StorageError> {
        match row.topic.clone() {
            Some(topic) => self.record(&topic, row).await,
            None => Ok(self.message(row)),
        }
    }

    async fn record(&self, name: &str, row: Published) -> Result<Becomes, StorageError> {
        let headers = match row.properties.as_deref().map(headers).transpose() {
            Ok(headers) => headers.unwrap_or_default(),
            Err(why) => return Ok(Becomes::Unfit(why)),
        };
        let topic = match self.topic(name).await? {
            Ok(topic) => topic,
            Err(why) => return Ok(Becomes::Unfit(why)),
        };
        let record =
            StreamRecord { key: row.key.map(Bytes::from), value: row.body.map(Bytes::from), headers };
        Ok(Becomes::This(Relayed::Record(topic, record)))
    }

    async fn topic(&self, name: &str) -> Result<Result<Arc<Topic>, String>, StorageError> {
        if let Some(topic) = self.broker.topics().get(name) {
            return Ok(Ok(topic));
        }
        let Some(partitions) = self.create_topics else {
            return Ok(Err(format!("there is no topic {name}, and none is made: auto-create-topics=false")));
        };
        let new = NewTopic { name: name.to_owned(), partitions, config: std::collections::BTreeMap::new() };
        match self.broker.create_topic(new).await {
            Ok(topic) => Ok(Ok(topic)),
            // A client was faster.
            Err(error @ TopicError::Exists(_)) => {
                Ok(self.broker.topics().get(name).ok_or_else(|| error.to_string()))
            }
            Err(TopicError::Storage(error)) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn message(&self, row: Published) -> Becomes {
        let properties = match properties::encode(row.properties.as_deref()) {
            Ok(properties) => properties,
            Err(why) => return Becomes::Unfit(why),
        };
        let message = Inside {
            vhost: row.vhost,
            exchange: row.exchange,
            routing_key: row.key.map(Bytes::from).unwrap_or_default(),
            properties,
            body: row.body.map(Bytes::from).unwrap_or_default(),
        };
        match inside::route(&self.queues, message) {
            Err(why) => Becomes::Unfit(why),
            Ok(publish) if !publish.to.is_empty() => Becomes::This(Relayed::Message(publish)),
            Ok(_) if row.mandatory => Becomes::Unfit("NO_ROUTE".to_owned()),
            Ok(_) => Becomes::Nothing,
        }
    }
}

/// Headers of a record: an object whose values are text, null, or lists of those. Other values are taken as their JSON.
///
/// # Errors
/// What is wrong with them, for people.
fn headers(json: &str) -> Result<Vec<Header>, String> {
    let Value::Object(map) = serde_json::from_str(json).map_err(|error| format!("headers: {error}"))? else {
        return Err("headers are no JSON object".to_owned());
    };
    let mut out = Vec::new();
    for (name, value) in map {
        let key = Bytes::from(name);
        match value {
            Value::Array(values) => out.extend(values.into_iter().map(|value| header(key.clone(), value))),
            value => out.push(header(key, value)),
        }
    }
    Ok(out)
}

fn header(key: Bytes, value: Value) -> Header {
    let value = match value {
        Value::Null => None,
        Value::String(text) => Some(Bytes::from(text)),
        other => Some(Bytes::from(other.to_string())),
    };
    Header { key, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_records() {
        let json = r#"{"a": "你好", "b": null, "c": ["x", "y", null], "d": 3, "e": {"in": [true]}, "f": []}"#;
        let found: Vec<(String, Option<String>)> = headers(json)
            .unwrap()
            .into_iter()
            .map(|header| {
                let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                (text(header.key), header.value.map(text))
            })
            .collect();
        let expected = [
            ("a", Some("你好")),
            ("b", None),
            ("c", Some("x")),
            ("c", Some("y")),
            ("c", None),
            ("d", Some("3")),
            ("e", Some(r#"{"in":[true]}"#)),
        ];
        let expected: Vec<_> =
            expected.map(|(key, value)| (key.to_owned(), value.map(str::to_owned))).into_iter().collect();
        assert_eq!(found, expected);
        assert_eq!(headers("[]").unwrap_err(), "headers are no JSON object");
        assert!(headers("{").unwrap_err().starts_with("headers: "));
    }
}
