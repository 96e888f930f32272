//! Which streams there are: those that were declared, and any topic that somebody names.
//!
//! **Invariants.** Of a topic there is at most one declaration. A queue of the same name hides a topic that nobody
//! declared. A stream that is looked up twice is the same handle, for as long as its topic lives.
//!
//! Deliberately absent: bindings to topics that nobody declared; declaring them costs nothing.

use std::collections::HashMap;
use std::sync::Arc;

use ferrymq_runtime::MailboxSender;
use ferrymq_types::LogId;
use parking_lot::RwLock;
use uuid::Uuid;

use super::names::topic_of;
use super::over::Over;
use super::{StreamOf, Topics};
use crate::queues::error::QueueError;
use crate::queues::handle::Queues;
use crate::queues::shard::message::ShardMessage;
use crate::queues::types::{QueueHandle, QueueIdentity, Routed};
use crate::topics::Topic;

/// Topics named by somebody that are remembered; beyond it they are forgotten, and found anew.
const NAMED_MAX: usize = 65_536;

/// A virtual host and the name of a stream in it.
type Place = (Arc<str>, Arc<str>);

/// The streams of all virtual hosts.
pub(in crate::queues) struct Streams {
    pub(in crate::queues) topics: Topics,
    /// The desk's place among the shards.
    pub(in crate::queues) shard: usize,
    known: RwLock<Known>,
    pub(super) over: Over,
}

#[derive(Default)]
struct Known {
    /// By topic.
    declared: HashMap<Arc<str>, QueueHandle>,
    named: HashMap<Place, QueueHandle>,
}

impl Streams {
    /// No stream yet; the desk's mailbox is the last of `shards`.
    pub(in crate::queues) fn new(topics: Topics, shards: &[MailboxSender<ShardMessage>]) -> Streams {
        Streams { topics, shard: shards.len() - 1, known: RwLock::default(), over: Over::default() }
    }

    /// Rises when topics change.
    pub(in crate::queues) fn generation(&self) -> u64 {
        self.topics.broker.topics().generation()
    }

    /// The stream that a topic is under this name. Whoever looked it up before has the same.
    pub(super) fn handle(
        &self,
        place: Place,
        topic: Option<&Topic>,
        name: &Arc<str>,
        made: bool,
    ) -> QueueHandle {
        let id = topic.map_or(Uuid::nil(), |topic| topic.id);
        let mut known = self.known.write();
        let same = |handle: &&QueueHandle| {
            handle.stream().is_some_and(|stream| stream.id == id && stream.made == made)
        };
        if let Some(handle) = known.named.get(&place).filter(same) {
            return handle.clone();
        }
        if known.named.len() >= NAMED_MAX {
            known.named.clear();
        }
        // Logs of topics are of no queue.
        let log = topic.and_then(|topic| topic.partitions.first()).map_or(LogId(u64::MAX), |first| first.log);
        let (vhost, queue) = place.clone();
        let stream = Some(StreamOf { topic: name.clone(), id, made });
        let (shard, name) = (self.shard, queue);
        // Nothing leaves a stream for elsewhere, so which virtual host of that name it is is never asked.
        let vhost_number = 0;
        let identity =
            QueueIdentity { log, shard, vhost, vhost_number, name, priorities: None, stream, over: None };
        let handle = QueueHandle(Arc::new(identity));
        known.named.insert(place, handle.clone());
        handle
    }

    /// The declaration that a topic belongs to.
    pub(super) fn declared(&self, topic: &str) -> Option<QueueHandle> {
        self.known.read().declared.get(topic).cloned()
    }

    pub(super) fn declare(&self, topic: Arc<str>, handle: QueueHandle) {
        self.known.write().declared.insert(topic, handle);
    }

    pub(super) fn forget(&self, handle: &QueueHandle) {
        let Some(stream) = handle.stream() else { return };
        let mut known = self.known.write();
        if known.declared.get(&stream.topic) == Some(handle) {
            known.declared.remove(&stream.topic);
        }
        known.named.remove(&(handle.vhost().clone(), handle.name().clone()));
    }

    /// Declared streams whose topic is not there any more.
    pub(super) fn without_topic(&self) -> Vec<QueueHandle> {
        let is_gone = |handle: &&QueueHandle| self.topic(handle).is_none();
        self.known.read().declared.values().filter(is_gone).cloned().collect()
    }

    /// The topic of a stream, while it is there.
    pub(in crate::queues) fn topic(&self, handle: &QueueHandle) -> Option<Arc<Topic>> {
        self.topics.topic(handle)
    }
}

impl Topics {
    /// The topic of a stream, while it is there.
    pub(super) fn topic(&self, handle: &QueueHandle) -> Option<Arc<Topic>> {
        let stream = handle.stream()?;
        self.broker.topics().get(&stream.topic).filter(|topic| topic.id == stream.id)
    }
}

impl Queues {
    /// A topic that nobody declared as a stream, by the name that it would have as one.
    pub(in crate::queues) fn topic_as_stream(&self, vhost: &str, name: &str) -> Option<QueueHandle> {
        let streams = self.streams.as_ref()?;
        let topic_name = topic_of(vhost, name).ok()?;
        let topic = streams.topics.broker.topics().get(&topic_name)?;
        self.has_vhost(vhost)
            .then(|| streams.handle((Arc::from(vhost), Arc::from(name)), Some(&topic), &topic.name, false))
    }

    /// The same where no queue was found.
    pub(in crate::queues) fn or_topic(
        &self,
        vhost: &str,
        name: &str,
        found: Result<QueueHandle, QueueError>,
    ) -> Result<QueueHandle, QueueError> {
        match found {
            Err(QueueError::NotFound { .. }) => match self.topic_as_stream(vhost, name) {
                Some(stream) => Ok(stream),
                None => found,
            },
            found => found,
        }
    }

    /// Where the default exchange leads besides queues: to topics that the routing keys name.
    pub(in crate::queues) fn with_topics(&self, vhost: &str, keys: &[&[u8]], routed: Routed) -> Routed {
        if self.streams.is_none() || routed.queues().len() == keys.len() {
            return routed;
        }
        let mut all = routed.queues().to_vec();
        for key in keys {
            let Ok(name) = std::str::from_utf8(key) else { continue };
            if all.iter().all(|queue| &**queue.name() != name)
                && let Some(stream) = self.topic_as_stream(vhost, name)
            {
                all.push(stream);
            }
        }
        if all.len() == routed.queues().len() { routed } else { Routed::to(all) }
    }
}
