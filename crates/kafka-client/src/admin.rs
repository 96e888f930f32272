//! Making, describing and deleting topics.
//!
//! Deliberately absent: explicit replica assignments, altering configs, adding partitions.

use ferrymq_kafka_codec::messages::create_topics::{CreatableTopic, CreatableTopicConfig};
use ferrymq_kafka_codec::messages::describe_configs::DescribeConfigsResource;
use ferrymq_kafka_codec::messages::{CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest};
use ferrymq_kafka_codec::{ErrorCode, StrBytes};

use crate::{Client, ClientError};

const TIMEOUT_MS: i32 = 30_000;
const NEW_TOPIC_RETRIES: u32 = 50;
const RESOURCE_TOPIC: i8 = 2;
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;

/// A topic to make.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; the broker's default if `None`.
    pub partitions: Option<u32>,
    /// Copies of each partition; the broker's default if `None`.
    pub replication_factor: Option<i16>,
    /// Configs other than the default.
    pub configs: Vec<(String, String)>,
}

/// One config of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` if it has none or it is secret.
    pub value: Option<String>,
    /// Where the value comes from: `topic`, `default` or `broker`.
    pub source: &'static str,
    /// What it means, if the broker says.
    pub documentation: Option<String>,
}

impl Client {
    /// Makes a topic. Whether it was made: an existing one is an error unless `exists_is_fine`.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn create_topic(&self, topic: &NewTopic, exists_is_fine: bool) -> Result<bool, ClientError> {
        let invalid = |_| ClientError::Invalid("too many partitions".to_owned());
        let config = |(name, value): &(String, String)| CreatableTopicConfig {
            name: StrBytes::from(name.clone()),
            value: Some(StrBytes::from(value.clone())),
        };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: StrBytes::from(topic.name.clone()),
                num_partitions: topic.partitions.map_or(Ok(-1), i32::try_from).map_err(invalid)?,
                replication_factor: topic.replication_factor.unwrap_or(-1),
                assignments: Vec::new(),
                configs: topic.configs.iter().map(config).collect(),
            }],
            timeout_ms: TIMEOUT_MS,
            validate_only: false,
        };
        let response = self.ask(&request).await?;
        for result in &response.topics {
            if exists_is_fine && result.error_code == ErrorCode::TopicAlreadyExists.code() {
                return Ok(false);
            }
            let what = || format!("create topic {}", topic.name);
            ClientError::check(what, result.error_code, result.error_message.as_ref())?;
        }
        self.wait_for_topic(&topic.name).await?;
        Ok(true)
    }

    /// Waits a little until a new topic can be used: brokers may answer before they all know it.
    async fn wait_for_topic(&self, name: &str) -> Result<(), ClientError> {
        let mut left = NEW_TOPIC_RETRIES;
        loop {
            match self.topic(name, false).await {
                Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) && left > 0 => {
                    left -= 1
                }
                found => return found.map(|_| ()),
            }
            self.pause().await;
        }
    }

    /// Deletes a topic. Whether it was there: a missing one is an error unless `missing_is_fine`.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn delete_topic(&self, name: &str, missing_is_fine: bool) -> Result<bool, ClientError> {
        let request = DeleteTopicsRequest {
            topic_names: vec![StrBytes::from(name.to_owned())],
            timeout_ms: TIMEOUT_MS,
            ..DeleteTopicsRequest::default()
        };
        let response = self.ask(&request).await?;
        for result in &response.responses {
            if missing_is_fine && result.error_code == ErrorCode::UnknownTopicOrPartition.code() {
                return Ok(false);
            }
            let what = || format!("delete topic {name}");
            ClientError::check(what, result.error_code, result.error_message.as_ref())?;
        }
        Ok(true)
    }

    /// Every config of a topic.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn topic_configs(&self, name: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: RESOURCE_TOPIC,
                resource_name: StrBytes::from(name.to_owned()),
                configuration_keys: None,
            }],
            include_synonyms: false,
            include_documentation: false,
        };
        let response = self.ask(&request).await?;
        let mut entries = Vec::new();
        for result in response.results {
            let what = || format!("describe the configs of {name}");
            ClientError::check(what, result.error_code, result.error_message.as_ref())?;
            entries.extend(result.configs.iter().map(|config| ConfigEntry {
                name: config.name.to_owned_str(),
                value: config.value.as_ref().map(StrBytes::to_owned_str),
                source: match config.config_source {
                    SOURCE_TOPIC => "topic",
                    SOURCE_DEFAULT => "default",
                    _ => "broker",
                },
                documentation: config.documentation.as_ref().map(StrBytes::to_owned_str),
            }));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}
