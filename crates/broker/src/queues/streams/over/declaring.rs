//! Declaring and deleting queues over topics, and finding them again at the start.
//!
//! **Invariants.** The topic is there before the queue, and stays when the queue goes. A queue whose topic has gone goes
//! too, with its bindings; whoever consumes is told. Where each partition begins is found once and stored with the
//! declaration; the numbers of its partitions are never those of another queue's acks. Changes are made in turn, as all of
//! the topology.

use std::sync::Arc;

use ferrymq_storage::StorageError;
use ferrymq_types::{Epoch, LogId};

use super::stored::{OVER_TOPICS, OverStored};
use super::{Declaration, PARTITIONS_MAX, Source, is_over_topic, start};
use crate::partition::Partition;
use crate::queues::ack::{AckState, Replay};
use crate::queues::args::Value;
use crate::queues::consuming::Consuming;
use crate::queues::dead_letters::DeadLetterTo;
use crate::queues::error::{Entity, QueueError};
use crate::queues::handle::{Queues, refused};
use crate::queues::logs::Admin;
use crate::queues::open::load_records;
use crate::queues::records::{gone, key, put};
use crate::queues::settings::QueueSettings;
use crate::queues::shard::journal::Journaled;
use crate::queues::shard::message::{Attached, AttachedLevel, Refused, ShardMessage};
use crate::queues::streams::config::TOPIC;
use crate::queues::streams::declaring::bad_topic;
use crate::queues::streams::{StreamOf, Streams};
use crate::queues::topology::QueueEntry;
use crate::queues::types::{Declared, DeleteIf, QueueHandle, QueueIdentity, QueueSpec};
use crate::topics::Topic;

/// A partition as a queue is to have it.
struct Part {
    number: LogId,
    /// Where the queue began.
    begin: u64,
    source: Arc<Source>,
    acks: AckState,
}

impl Streams {
    async fn source(&self, partition: &Arc<Partition>) -> Result<Arc<Source>, StorageError> {
        let (opening, trimmed) = (self.over.opening.clone(), self.over.trimmed.clone());
        Source::of(self.topics.clone(), partition.clone(), opening, trimmed).await
    }

    /// Records that topics trimmed before the queues over them were done with them, since the start.
    pub(in crate::queues) fn trimmed(&self) -> u64 {
        self.over.trimmed.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A queue over a topic: what it is asked by, and in it what is published to it goes by.
    fn over_handle(
        &self,
        first: LogId,
        shard: usize,
        (vhost, name): (Arc<str>, Arc<str>),
        vhost_number: u64,
        topic: StreamOf,
    ) -> QueueHandle {
        let identity = |log, shard, stream, over| QueueIdentity {
            log,
            shard,
            vhost: vhost.clone(),
            vhost_number,
            name: name.clone(),
            priorities: None,
            stream,
            over,
        };
        let publishing = QueueHandle(Arc::new(identity(LogId(u64::MAX), self.shard, Some(topic), None)));
        QueueHandle(Arc::new(identity(first, shard, None, Some(publishing))))
    }
}

impl Queues {
    /// Makes a queue over a topic. Its declaration was checked.
    pub(in crate::queues) async fn declare_over_topic(
        &self,
        admin: &mut Admin,
        vhost: Arc<str>,
        spec: QueueSpec,
    ) -> Result<Declared, QueueError> {
        let name = spec.arguments.get(TOPIC).and_then(Value::as_text).unwrap_or_default();
        let topic = self.streams.as_ref().and_then(|streams| streams.topics.broker.topics().get(name));
        let (Some(streams), Some(topic)) = (&self.streams, topic) else {
            let (entity, name) = (Entity::Topic, name.into());
            return Err(QueueError::NotFound { entity, vhost, name });
        };
        if topic.partitions.len() > PARTITIONS_MAX {
            return Err(bad_topic(name, "the topic has more than 256 partitions"));
        }
        let from = start(&spec.arguments, self.clock.wall_ms());
        let mut parts = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let (number, source) = (self.durable_id(admin).await?, streams.source(partition).await?);
            let begin = source.begin(from).await?;
            let mut acks = AckState::new(begin);
            source.tell(&mut acks, source.end());
            parts.push(Part { number, begin, source, acks });
        }
        let Some(first) = parts.first().map(|part| part.number) else { return Err(QueueError::Retry) };
        let record = OverStored {
            vhost: vhost.to_string(),
            name: spec.name.to_string(),
            topic: topic.name.to_string(),
            topic_id: topic.id,
            partitions: parts.iter().map(|part| (part.number.0, part.begin)).collect(),
            arguments: spec.arguments.clone(),
            created_ms: self.clock.wall_ms(),
        };
        self.write(vec![put(key(OVER_TOPICS, &[&vhost, &spec.name]), record)?]).await?;
        let place = (vhost, spec.name.clone());
        let number = self.topology.read().number_of(&place.0);
        let queue = streams.over_handle(first, self.shard_of(first), place, number, stream_of(&topic));
        self.attach_over_topic(&queue, &spec, parts).await?;
        streams.remember(&queue, topic.partitions.len());
        self.topology.write().add_queue(QueueEntry { handle: queue.clone(), spec, owner: None });
        self.changed();
        let stat = self.stat(&queue).await?;
        Ok(Declared { queue, created: true, stat })
    }

    /// Has a shard serve a queue over a topic.
    async fn attach_over_topic(
        &self,
        queue: &QueueHandle,
        spec: &QueueSpec,
        parts: Vec<Part>,
    ) -> Result<(), QueueError> {
        let effective = self.effective(queue.vhost(), spec);
        let mut parts = (0..=u8::MAX).zip(parts);
        let Some((_, Part { begin, source, acks, .. })) = parts.next() else { return Ok(()) };
        let attached = Attached {
            handle: queue.clone(),
            epoch: Epoch(0),
            start: begin,
            next: acks.end(),
            durable: true,
            always_durable: true,
            consuming: Consuming::of(&effective),
            acks,
            dead_letter: DeadLetterTo::of(&effective),
            settings: QueueSettings::of(&effective),
            ready_bytes: 0,
            lane: None,
            source: Some(source),
        };
        self.attach(attached).await?;
        for (index, part) in parts {
            self.attach_partition(queue, index, part).await?;
        }
        Ok(())
    }

    async fn attach_partition(&self, queue: &QueueHandle, index: u8, part: Part) -> Result<(), QueueError> {
        let Part { number, begin, source, acks } = part;
        let level = AttachedLevel {
            queue: queue.clone(),
            priority: index,
            handle: queue.of_level(number),
            epoch: Epoch(0),
            start: begin,
            next: acks.end(),
            acks,
            ready_bytes: 0,
            source: Some(source),
        };
        self.attach_level(level).await
    }

    /// Reads the declared queues over topics back; before bindings are. One without its topic is there by its name, and
    /// goes at once.
    pub(in crate::queues) async fn load_over_topics(
        &self,
        journaled: &[Journaled],
    ) -> Result<(), StorageError> {
        let records = load_records::<OverStored>(&*self.stores.meta, OVER_TOPICS).await?;
        let Some(streams) = &self.streams else {
            if !records.is_empty() {
                let queues = records.len();
                tracing::warn!(queues, "there are queues over topics, and no topics are served here");
            }
            return Ok(());
        };
        for (key, record) in records {
            let Some((first, _)) = record.partitions.first() else {
                let text = format!("a stored queue over a topic makes no sense: {key}");
                return Err(crate::queues::open::internal(text));
            };
            let (first, spec) = (LogId(*first), record.spec());
            let shard = self.shard_of(first);
            let place = (Arc::from(record.vhost.as_str()), spec.name.clone());
            let of = StreamOf { topic: record.topic.as_str().into(), id: record.topic_id, made: false };
            let number = self.topology.read().number_of(&place.0);
            let queue = streams.over_handle(first, shard, place, number, of);
            let found = streams.topics.broker.topics().get(&record.topic);
            if let Some(topic) = found.filter(|topic| topic.id == record.topic_id) {
                let mut parts = Vec::new();
                for (&(number, begin), partition) in record.partitions.iter().zip(&topic.partitions) {
                    let source = streams.source(partition).await?;
                    let said = &journaled[shard];
                    let acks = restore(&source, begin, said.acks.get(&LogId(number)), said.clean);
                    parts.push(Part { number: LogId(number), begin, source, acks });
                }
                let ended = |error| {
                    StorageError::new(ferrymq_storage::ErrorKind::Closed, "a shard has ended")
                        .caused_by(error)
                };
                self.attach_over_topic(&queue, &spec, parts).await.map_err(ended)?;
            }
            streams.remember(&queue, record.partitions.len());
            self.topology.write().add_queue(QueueEntry { handle: queue, spec, owner: None });
        }
        Ok(())
    }

    /// Deletes a queue over a topic; how many messages were ready. The topic stays.
    pub(in crate::queues) async fn delete_over_topic(
        &self,
        queue: &QueueHandle,
        only_if: DeleteIf,
    ) -> Result<u64, QueueError> {
        let close = |reply| ShardMessage::Close { queue: queue.clone(), only_if, idle: false, reply };
        let count = match self.ask(queue, close).await? {
            Ok(count) => count,
            // It was without its topic from the start.
            Err(Refused::Gone) => 0,
            Err(why) => return Err(refused(queue, why)),
        };
        if let Err(error) = self.forget_over_topic(queue).await {
            self.tell(queue, ShardMessage::Reopen { queue: queue.clone() }).await;
            return Err(error);
        }
        Ok(count)
    }

    async fn forget_over_topic(&self, queue: &QueueHandle) -> Result<(), QueueError> {
        let removal = self.topology.read().vhost(queue.vhost())?.plan_queue(queue.name());
        let key = key(OVER_TOPICS, &[queue.vhost(), queue.name()]);
        self.remove(queue.vhost(), &removal, vec![gone(key)]).await?;
        if let Some(streams) = &self.streams {
            streams.over.queues.write().retain(|known| known.queue != *queue);
        }
        let detach = |reply| ShardMessage::Detach { queue: queue.clone(), reply };
        // A shard that has ended, or never had it, has no consumers.
        let _ended = self.ask(queue, detach).await.is_err();
        Ok(())
    }

    /// Takes queues away whose topic has gone, and has the others read partitions that were added.
    pub(in crate::queues) async fn follow_topics_now(&self, admin: &mut Admin) -> Result<(), QueueError> {
        let Some(streams) = &self.streams else { return Ok(()) };
        let known = streams.over.queues.read().clone();
        for Declaration { queue, partitions } in known {
            let topic = queue.over().and_then(|publishing| streams.topic(publishing));
            match topic {
                None => {
                    self.forget_over_topic(&queue).await?;
                    let queue = queue.name();
                    tracing::info!(%queue, "the topic of a queue was deleted, and the queue with it");
                }
                Some(topic) if topic.partitions.len() > partitions => {
                    self.widen(admin, &queue, partitions, &topic).await?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Has a queue read partitions that were added to its topic.
    async fn widen(
        &self,
        admin: &mut Admin,
        queue: &QueueHandle,
        known: usize,
        topic: &Topic,
    ) -> Result<(), QueueError> {
        let Some(streams) = &self.streams else { return Ok(()) };
        if topic.partitions.len() > PARTITIONS_MAX {
            let (queue, topic) = (queue.name(), &topic.name);
            tracing::error!(%queue, %topic, "a topic has more partitions than a queue over it reads: {PARTITIONS_MAX}");
        }
        let key = key(OVER_TOPICS, &[queue.vhost(), queue.name()]);
        let Some(entry) = self.stores.meta.get(&key).await? else { return Ok(()) };
        let mut record: OverStored = crate::queues::records::read(&entry)?;
        let mut parts = Vec::new();
        for partition in topic.partitions.iter().take(PARTITIONS_MAX).skip(known) {
            let (number, source) = (self.durable_id(admin).await?, streams.source(partition).await?);
            let begin = source.start();
            let mut acks = AckState::new(begin);
            source.tell(&mut acks, source.end());
            record.partitions.push((number.0, begin));
            parts.push(Part { number, begin, source, acks });
        }
        if !parts.is_empty() {
            self.write(vec![put(key, record)?]).await?;
        }
        for (index, part) in (known..).zip(parts) {
            let Ok(index) = u8::try_from(index) else { continue };
            self.attach_partition(queue, index, part).await?;
        }
        // Also where there are too many: it is said once.
        streams.remember(queue, topic.partitions.len());
        Ok(())
    }
}

impl Streams {
    fn remember(&self, queue: &QueueHandle, partitions: usize) {
        let mut known = self.over.queues.write();
        known.retain(|known| known.queue != *queue);
        known.push(Declaration { queue: queue.clone(), partitions });
    }
}

impl QueueHandle {
    /// Whether its messages are a topic's records.
    #[must_use]
    pub fn is_over_topic(&self) -> bool {
        self.over().is_some()
    }
}

impl QueueEntry {
    /// Whether its messages are a topic's records.
    pub(in crate::queues) fn is_over_topic(&self) -> bool {
        is_over_topic(&self.spec.arguments)
    }
}

fn stream_of(topic: &Topic) -> StreamOf {
    StreamOf { topic: topic.name.clone(), id: topic.id, made: false }
}

/// What is not done of a partition.
fn restore(source: &Source, begin: u64, said: Option<&Replay>, clean: bool) -> AckState {
    let nothing = Replay::default();
    let said = said.unwrap_or(&nothing);
    let (start, end) = (source.start(), source.end());
    let floor = said.floor(begin);
    // Of a class that does not survive a restart, nobody knows what was trimmed and what was lost.
    if start > floor && source.survives() {
        source.count_trimmed(said.left(floor..start));
    }
    let from = floor.max(start);
    said.restore(from, end.max(from), source.there(from, end), clean)
}
