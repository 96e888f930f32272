//! Declaring and deleting streams, and finding them again at the start.
//!
//! Over a topic that is there already a declaration only adds a name, arguments and bindings: to delete the stream
//! takes these away and leaves the topic. A topic that the declaration made goes with it.
//!
//! **Invariants.** A declaration whose topic has gone (a Kafka client deleted it) goes too, with its bindings; whoever
//! consumes is told. Changes are made in turn, as all of the topology.

use std::sync::Arc;

use ferrymq_runtime::TaskKind;
use ferrymq_storage::StorageError;

use super::config::{self, TOPIC};
use super::names::topic_of;
use super::stored::{STREAMS, StreamStored};
use crate::queues::args::Value;
use crate::queues::error::{Entity, QueueError};
use crate::queues::handle::{Queues, refused};
use crate::queues::open::load_records;
use crate::queues::records::{gone, key, put};
use crate::queues::settings::{QUEUE_TYPE, Wrong};
use crate::queues::shard::message::{Refused, ShardMessage};
use crate::queues::topology::QueueEntry;
use crate::queues::types::{Declared, DeleteIf, QueueHandle, QueueSpec};
use crate::topics::{NewTopic, Topic, TopicError, check_name};

/// Deletes declarations whose topic has gone, and has queues read partitions that are new, now and whenever topics change.
pub(in crate::queues) fn watch_topics(queues: &Arc<Queues>) {
    let Some(streams) = &queues.streams else { return };
    let mut changes = streams.topics.broker.topics().watch();
    let (tasks, queues) = (queues.tasks.clone(), Arc::downgrade(queues));
    let stopping = tasks.stopping();
    tasks.spawn(TaskKind::Background, "streams and queues whose topics change", async move {
        let mut stopping = std::pin::pin!(stopping);
        loop {
            changes.mark_unchanged();
            let Some(here) = queues.upgrade() else { return };
            if let Err(error) = here.follow_topics().await {
                tracing::warn!(%error, "a change of topics could not be followed");
            }
            drop(here);
            tokio::select! {
                biased;
                () = &mut stopping => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    });
}

impl Queues {
    /// Makes a stream that is not there. Its declaration was checked.
    pub(in crate::queues) async fn declare_stream(
        &self,
        vhost: Arc<str>,
        spec: QueueSpec,
    ) -> Result<Declared, QueueError> {
        let Some(streams) = &self.streams else {
            let (argument, value) = (QUEUE_TYPE.to_owned(), Value::text("stream"));
            return Err(QueueError::Unsupported { entity: Entity::Queue, argument, value });
        };
        let name = topic_name(&vhost, &spec)?;
        if streams.declared(&name).is_some() {
            return Err(bad_topic(&name, "the topic is another stream"));
        }
        let found = streams.topics.broker.topics().get(&name);
        if let Some(topic) = &found {
            same(&vhost, &spec, topic)?;
        }
        let key = key(STREAMS, &[&vhost, &spec.name]);
        let stored = |made| StreamStored {
            vhost: vhost.to_string(),
            name: spec.name.to_string(),
            topic: name.to_string(),
            made,
            arguments: spec.arguments.clone(),
            created_ms: self.clock.wall_ms(),
        };
        self.write(vec![put(key.clone(), stored(found.is_none()))?]).await?;
        let made = found.is_none();
        let topic = match found {
            Some(topic) => Ok(topic),
            None => self.make_topic(&vhost, &name, &spec).await,
        };
        let topic = match topic {
            Ok(topic) => topic,
            Err(error) => {
                // Nobody was told that there is such a stream.
                self.write(vec![gone(key)]).await?;
                return Err(error);
            }
        };
        let queue = streams.handle((vhost, spec.name.clone()), Some(&topic), &name, made);
        streams.declare(name, queue.clone());
        let entry = QueueEntry { handle: queue.clone(), spec, owner: None };
        self.topology.write().add_queue(entry);
        self.changed();
        let stat = self.stat(&queue).await?;
        Ok(Declared { queue, created: true, stat })
    }

    async fn make_topic(
        &self,
        vhost: &str,
        name: &Arc<str>,
        spec: &QueueSpec,
    ) -> Result<Arc<Topic>, QueueError> {
        let Some(streams) = &self.streams else { return Err(QueueError::Stopped) };
        let config = config::settings(&self.effective(vhost, spec).arguments);
        let new = NewTopic { name: name.to_string(), partitions: 1, config };
        streams.topics.broker.create_topic(new).await.map_err(|error| match error {
            // Somebody was faster; the next attempt finds it.
            TopicError::Exists(_) => QueueError::Retry,
            TopicError::Storage(error) => QueueError::Storage(error),
            TopicError::Name(_) | TopicError::NotFound => bad_topic(
                name,
                "a topic's name cannot be so, or another differs by dots and underscores only",
            ),
            TopicError::Partitions(_) => bad_topic(name, "there are as many partitions as there may be"),
            TopicError::Setting(_) => bad_topic(name, "the server's settings of topics do not allow it"),
        })
    }

    /// Deletes a stream, with its topic if its declaration made that; how many messages there were.
    pub(in crate::queues) async fn delete_stream(
        &self,
        entry: &QueueEntry,
        only_if: DeleteIf,
    ) -> Result<u64, QueueError> {
        let (Some(streams), Some(stream)) = (&self.streams, entry.handle.stream()) else {
            return Err(QueueError::Stopped);
        };
        let queue = &entry.handle;
        let close = |reply| ShardMessage::Close { queue: queue.clone(), only_if, idle: false, reply };
        let count = match self.ask(queue, close).await? {
            Ok(count) => count,
            // Its topic has gone already.
            Err(Refused::Gone) => 0,
            Err(why) => return Err(refused(queue, why)),
        };
        if stream.made && streams.topic(queue).is_some() {
            match streams.topics.broker.delete_topic(&stream.topic).await {
                Ok(_) | Err(TopicError::NotFound) => {}
                Err(error) => {
                    self.tell(queue, ShardMessage::Reopen { queue: queue.clone() }).await;
                    return Err(match error {
                        TopicError::Storage(error) => QueueError::Storage(error),
                        _ => QueueError::Retry,
                    });
                }
            }
        }
        if let Err(error) = self.forget_stream(queue).await {
            self.tell(queue, ShardMessage::Reopen { queue: queue.clone() }).await;
            return Err(error);
        }
        Ok(count)
    }

    /// Takes a declaration away, with its bindings and consumers.
    async fn forget_stream(&self, queue: &QueueHandle) -> Result<(), QueueError> {
        let removal = self.topology.read().vhost(queue.vhost())?.plan_queue(queue.name());
        let key = key(STREAMS, &[queue.vhost(), queue.name()]);
        self.remove(queue.vhost(), &removal, vec![gone(key)]).await?;
        if let Some(streams) = &self.streams {
            streams.forget(queue);
        }
        let detach = |reply| ShardMessage::Detach { queue: queue.clone(), reply };
        // A desk that has ended has no consumers.
        let _ended = self.ask(queue, detach).await.is_err();
        Ok(())
    }

    pub(in crate::queues) async fn forget_lost_streams_now(&self) -> Result<(), QueueError> {
        let lost = self.streams.as_ref().map(super::Streams::without_topic).unwrap_or_default();
        for queue in lost {
            self.forget_stream(&queue).await?;
            tracing::info!(stream = %queue.name(), "the topic of a stream was deleted, and the stream with it");
        }
        Ok(())
    }

    /// Reads the declared streams back; before bindings are.
    pub(in crate::queues) async fn load_streams(&self) -> Result<(), StorageError> {
        let records = load_records::<StreamStored>(&*self.stores.meta, STREAMS).await?;
        let Some(streams) = &self.streams else {
            if !records.is_empty() {
                tracing::warn!(streams = records.len(), "there are streams, and no topics are served here");
            }
            return Ok(());
        };
        for (_, record) in records {
            let place = (Arc::from(record.vhost.as_str()), Arc::from(record.name.as_str()));
            let name: Arc<str> = Arc::from(record.topic.as_str());
            // Without a topic it goes at once, and its bindings with it.
            let topic = streams.topics.broker.topics().get(&name);
            let queue = streams.handle(place, topic.as_deref(), &name, record.made);
            streams.declare(name, queue.clone());
            self.topology.write().add_queue(QueueEntry { handle: queue, spec: record.spec(), owner: None });
        }
        Ok(())
    }
}

/// The topic that a declaration is about.
fn topic_name(vhost: &Arc<str>, spec: &QueueSpec) -> Result<Arc<str>, QueueError> {
    let Some(value) = spec.arguments.get(TOPIC) else { return topic_of(vhost, &spec.name) };
    let wrong = || QueueError::WrongArgument {
        vhost: vhost.clone(),
        name: spec.name.clone(),
        argument: TOPIC,
        value: value.clone(),
        wrong: Wrong::Type,
    };
    let name = value.as_text().ok_or_else(wrong)?;
    check_name(name).map_err(|_| bad_topic(name, "that is no name of a topic"))?;
    Ok(name.into())
}

pub(super) fn bad_topic(name: &str, why: &'static str) -> QueueError {
    let (argument, value) = (TOPIC.to_owned(), Value::text(name));
    QueueError::InvalidArgument { entity: Entity::Queue, argument, value, why }
}

/// Whether a topic that is there is as asked.
fn same(vhost: &Arc<str>, spec: &QueueSpec, topic: &Topic) -> Result<(), QueueError> {
    let Some((argument, current)) = config::differs(&spec.arguments, &topic.config.get()) else {
        return Ok(());
    };
    Err(QueueError::Inequivalent {
        entity: Entity::Queue,
        vhost: vhost.clone(),
        name: spec.name.clone(),
        property: argument.to_owned(),
        current: Box::new(current),
        asked: Box::new(crate::queues::error::Property::Argument(spec.arguments.get(argument).cloned())),
    })
}
