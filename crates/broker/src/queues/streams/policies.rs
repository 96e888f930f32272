//! What policies say of streams: settings of the topics that declarations made.
//!
//! RabbitMQ's keys for streams, which win over arguments: `max-age`, `max-length-bytes`,
//! `stream-max-segment-size-bytes`. A change sets what it changes and nothing else; cleared, what the declaration says
//! holds again. At the start what a policy says is set once more: a crash may have come between it and the topic.
//!
//! **Invariants.** A topic that was there before its declaration is Kafka's, and no policy changes it. What a Kafka client
//! sets on a topic holds until a policy says something else, or says it again at a start.
//!
//! Deliberately absent: which policy applies (`policy`), and which setting an argument is (`config`).

use std::collections::BTreeMap;

use super::config;
use crate::queues::error::QueueError;
use crate::queues::handle::Queues;
use crate::queues::policy::Policies;
use crate::queues::topology::QueueEntry;
use crate::queues::types::QueueHandle;
use crate::topics::TopicError;

/// Settings of a topic by their names.
type Settings = BTreeMap<String, String>;

/// What is to be set on the topic of a stream where other policies hold; nothing for what is no stream.
pub(in crate::queues) fn changed(entry: &QueueEntry, before: &Policies, after: &Policies) -> Settings {
    if !is_made(&entry.handle) {
        return Settings::new();
    }
    let of = |policies: &Policies| config::settings(&policies.effective(&entry.spec).arguments);
    let before = of(before);
    of(after).into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect()
}

/// Whether the topic of a stream was made by its declaration.
pub(in crate::queues) fn is_made(queue: &QueueHandle) -> bool {
    queue.stream().is_some_and(|stream| stream.made)
}

impl Queues {
    /// Sets what a policy changes on the topic of a stream.
    pub(in crate::queues) async fn set_on_stream(
        &self,
        queue: &QueueHandle,
        settings: Settings,
    ) -> Result<(), QueueError> {
        let Some(streams) = &self.streams else { return Ok(()) };
        let Some(topic) = streams.topic(queue) else { return Ok(()) };
        match streams.topics.broker.change_config(&topic.name, settings).await {
            // Without its topic the stream goes as well.
            Ok(()) | Err(TopicError::NotFound) => Ok(()),
            Err(TopicError::Storage(error)) => Err(QueueError::Storage(error)),
            Err(_) => Err(super::declaring::bad_topic(
                &topic.name,
                "the server's settings of topics do not allow it",
            )),
        }
    }

    /// Sets what policies say on the topics of all streams, where it is not so.
    pub(in crate::queues) async fn set_on_streams(&self) {
        let mut wanted = Vec::new();
        for vhost in self.topology.read().vhosts() {
            let policies = vhost.policies();
            let entries = vhost.queues.values().filter(|_| !policies.is_empty());
            for entry in entries {
                let settings = changed(entry, &Policies::default(), policies);
                if !settings.is_empty() {
                    wanted.push((entry.handle.clone(), settings));
                }
            }
        }
        for (queue, settings) in wanted {
            let topic = self.streams.as_ref().and_then(|streams| streams.topic(&queue));
            let config = topic.map(|topic| topic.config.get());
            let differs = |(name, value): (&String, &String)| {
                config.as_ref().is_none_or(|config| config.overrides.get(name) != Some(value))
            };
            if settings.iter().any(differs)
                && let Err(error) = self.set_on_stream(&queue, settings).await
            {
                tracing::warn!(stream = %queue.name(), %error, "a stream goes by its policy only after another restart");
            }
        }
    }
}
