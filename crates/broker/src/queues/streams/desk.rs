//! The desk: what is asked of streams, in the words in which shards of queues are asked.
//!
//! **Invariants.** Messages are handed to their topics in the order in which they came, and answered when they are durable.
//! What a consumer was sent is in its sink when the answer to its end is given. A delivery is named by its consumer and a
//! number; settling it, however that is done, makes room for another.
//!
//! Deliberately absent: reading (`reader`); dead letters, returns and limits of length, which streams do not have.

use std::collections::HashMap;
use std::sync::Arc;

use ferrymq_runtime::{BytePermit, Clock, Mailbox, MailboxSender, TaskKind, Tasks, mailbox};
use ferrymq_types::{LogId, Offset, RecordKey};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::appending::{Appending, Pending};
use super::reader::{self, Order, Room, Shared};
use super::{StreamFrom, StreamRecord, Topics};
use crate::queues::shard::message::{Failed, Item, Refused, ShardMessage};
use crate::queues::sink::DeliverySink;
use crate::queues::types::{Credit, DeleteIf, NewConsumer, QueueHandle, QueueStat, Settle};
use crate::topics::Topic;

/// Opens the desk.
pub(in crate::queues) fn start(
    topics: Topics,
    mailbox_bytes: usize,
    clock: Clock,
    tasks: &Tasks,
) -> MailboxSender<ShardMessage> {
    let (sender, receiver) = mailbox(mailbox_bytes);
    let desk = Desk {
        topics,
        clock,
        tasks: tasks.clone(),
        room: Room::default(),
        consumers: HashMap::new(),
        sessions: HashMap::new(),
        closed: Vec::new(),
        last: 0,
        turn: 0,
        done: FuturesUnordered::new(),
    };
    tasks.spawn(TaskKind::Owner, "streams", desk.run(receiver));
    sender
}

struct Consumer {
    queue: QueueHandle,
    session: u64,
    shared: Arc<Shared>,
}

struct Desk {
    topics: Topics,
    clock: Clock,
    tasks: Tasks,
    room: Room,
    consumers: HashMap<u32, Consumer>,
    sessions: HashMap<u64, Vec<u32>>,
    /// Streams that are being deleted.
    closed: Vec<QueueHandle>,
    last: u32,
    turn: usize,
    done: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Desk {
    /// Runs until all senders are gone and everything in flight is answered.
    async fn run(mut self, mut mailbox: Mailbox<ShardMessage>) {
        let mut open = true;
        while open || !self.done.is_empty() {
            tokio::select! {
                biased;
                Some(()) = self.done.next() => {}
                message = mailbox.recv(), if open => match message {
                    Some((message, permit)) => self.on_message(message, permit).await,
                    None => {
                        open = false;
                        self.consumers.values().for_each(|consumer| consumer.shared.end());
                    }
                },
            }
        }
    }

    async fn on_message(&mut self, message: ShardMessage, permit: BytePermit) {
        match message {
            ShardMessage::Publish { items, reply } => self.publish(items, reply, permit).await,
            ShardMessage::Settle { session, what, .. } => self.settle(session, &what),
            ShardMessage::Consume { queue, session, new, sink, reply } => {
                self.consume(queue, session, new, StreamFrom::default(), sink, reply);
            }
            ShardMessage::ConsumeStream { queue, session, new, from, sink, reply } => {
                self.consume(queue, session, new, *from, sink, reply);
            }
            ShardMessage::Cancel { session, consumer, reply, .. } => {
                if self.consumers.get(&consumer).is_some_and(|known| known.session == session) {
                    self.end(consumer);
                }
                answer(reply, false);
            }
            ShardMessage::Credit { consumer, more, .. } => {
                if let Some(consumer) = self.consumers.get(&consumer) {
                    consumer.shared.grant(more);
                }
            }
            ShardMessage::Close { queue, only_if, reply, .. } => answer(reply, self.close(&queue, only_if)),
            ShardMessage::Reopen { queue } => self.closed.retain(|closed| *closed != queue),
            ShardMessage::Detach { queue, reply } => {
                self.closed.retain(|closed| *closed != queue);
                self.detach(&queue);
                answer(reply, Vec::new());
            }
            ShardMessage::Stat { queue, reply, .. } => {
                answer(reply, self.stat(&queue).ok_or(Refused::Gone));
            }
            // It keeps no acknowledgements.
            ShardMessage::Barrier { reply } => answer(reply, Ok(())),
            // Policies have no keys of streams.
            ShardMessage::Configure { reply, .. } => answer(reply, ()),
            ShardMessage::StatAll { reply } => answer(reply, self.stat_all()),
            ShardMessage::EndSession { session, reply } => {
                for id in self.sessions.remove(&session).unwrap_or_default() {
                    if let Some(consumer) = self.consumers.remove(&id) {
                        consumer.shared.end();
                    }
                }
                answer(reply, Vec::new());
            }
            // Refused before they get here.
            ShardMessage::Get { reply, .. } => answer(reply, Err(Refused::Gone)),
            ShardMessage::Purge { reply, .. } => answer(reply, Err(Refused::Gone)),
            ShardMessage::Attach(_)
            | ShardMessage::AttachLevel(_)
            | ShardMessage::Again { .. }
            | ShardMessage::Prepare(_) => {
                tracing::error!("a stream was asked for what only queues do");
            }
        }
    }

    async fn publish(&mut self, items: Vec<Item>, reply: oneshot::Sender<Failed>, permit: BytePermit) {
        self.turn = self.turn.wrapping_add(1);
        let mut appending = Appending::new(self.clock.wall_ms(), self.turn);
        for Item { index, message, to, .. } in &items {
            let (mut record, mut topics): (Option<(RecordKey, StreamRecord)>, _) = (None, Vec::new());
            for queue in to.queues().iter().filter(|queue| queue.stream().is_some()) {
                if self.closed.contains(queue) {
                    continue;
                }
                // What is for a topic that has gone goes nowhere, as with any queue.
                let Some(topic) = self.topics.topic(queue) else { continue };
                // Several queues over a topic, and its stream, are one place.
                if topics.contains(&topic.id) {
                    continue;
                }
                topics.push(topic.id);
                let config = topic.config.get();
                let rule = &config.record_key;
                let made = match record.take() {
                    Some((known, made)) if known == *rule => made,
                    _ => self.topics.translate.record(message, rule),
                };
                appending.add(*index, &topic, &made);
                record = Some((rule.clone(), made));
            }
        }
        drop(items);
        let (items, about, failed) = appending.finish();
        let appends = self.topics.broker.append(items).await;
        self.done.push(Box::pin(Pending::new(appends, about, failed, reply, permit).answer()));
    }

    fn consume(
        &mut self,
        queue: QueueHandle,
        session: u64,
        new: NewConsumer,
        from: StreamFrom,
        sink: DeliverySink,
        reply: oneshot::Sender<Result<u32, Refused>>,
    ) {
        let topic = if self.closed.contains(&queue) { None } else { self.topics.topic(&queue) };
        let Some(topic) = topic else { return answer(reply, Err(Refused::Gone)) };
        self.last = self.last.wrapping_add(1).max(1);
        let id = self.last;
        let (credit, window) = match new.credit {
            Credit::Unlimited => (None, false),
            Credit::Window(credit) => (Some(credit), true),
            Credit::Granted(credit) => (Some(credit), false),
        };
        let shared = Shared::new(credit, window, sink, new.token);
        let order = Order { id, from, queue: queue.clone() };
        let reader = reader::new(&order, &topic, self.topics.clone(), shared.clone(), self.room.clone());
        self.tasks.spawn(TaskKind::Background, "reader of a stream", reader.run(reply));
        self.consumers.insert(id, Consumer { queue, session, shared });
        self.sessions.entry(session).or_default().push(id);
    }

    fn settle(&mut self, session: u64, what: &[(Offset, Settle)]) {
        let mut at = 0;
        while let Some((first, _)) = what.get(at) {
            let consumer = reader::consumer_of(*first);
            let same =
                what[at..].iter().take_while(|(next, _)| reader::consumer_of(*next) == consumer).count();
            at += same;
            if let Some(known) = self.consumers.get(&consumer).filter(|known| known.session == session) {
                known.shared.settle(u32::try_from(same).unwrap_or(u32::MAX));
            }
        }
    }

    /// Ends a consumer: nothing more is sent to it from now on.
    fn end(&mut self, id: u32) {
        let Some(consumer) = self.consumers.remove(&id) else { return };
        consumer.shared.end();
        if let Some(all) = self.sessions.get_mut(&consumer.session) {
            all.retain(|known| *known != id);
            if all.is_empty() {
                self.sessions.remove(&consumer.session);
            }
        }
    }

    fn of<'a>(&'a self, queue: &'a QueueHandle) -> impl Iterator<Item = u32> + 'a {
        let its = |(_, consumer): &(&u32, &Consumer)| consumer.queue == *queue && !consumer.shared.is_over();
        self.consumers.iter().filter(its).map(|(id, _)| *id)
    }

    fn stat(&self, queue: &QueueHandle) -> Option<QueueStat> {
        if self.closed.contains(queue) {
            return None;
        }
        let topic = self.topics.topic(queue)?;
        let consumers = self.of(queue).count() as u64;
        Some(QueueStat { ready: records(&topic), unacked: 0, consumers })
    }

    /// What is in each topic, by the log of its first partition, as streams are known by.
    fn stat_all(&self) -> Vec<(LogId, QueueStat)> {
        let mut consumers: HashMap<LogId, u64> = HashMap::new();
        for consumer in self.consumers.values().filter(|consumer| !consumer.shared.is_over()) {
            *consumers.entry(consumer.queue.log()).or_default() += 1;
        }
        let each = self.topics.broker.topics().all().into_iter().filter_map(|topic| {
            let log = topic.partitions.first()?.log;
            let consumers = consumers.get(&log).copied().unwrap_or(0);
            Some((log, QueueStat { ready: records(&topic), unacked: 0, consumers }))
        });
        each.collect()
    }

    fn close(&mut self, queue: &QueueHandle, only_if: DeleteIf) -> Result<u64, Refused> {
        let stat = self.stat(queue).ok_or(Refused::Gone)?;
        if only_if.empty && stat.ready > 0 {
            return Err(Refused::NotEmpty);
        }
        if only_if.unused && stat.consumers > 0 {
            return Err(Refused::InUse);
        }
        self.closed.push(queue.clone());
        Ok(stat.ready)
    }

    fn detach(&mut self, queue: &QueueHandle) {
        let all: Vec<u32> = self.of(queue).collect();
        for id in all {
            if let Some(consumer) = self.consumers.get(&id) {
                consumer.shared.cancel();
            }
            self.end(id);
        }
    }
}

/// How many records a topic has.
fn records(topic: &Topic) -> u64 {
    let each = topic.partitions.iter();
    each.map(|partition| partition.high_watermark().0.saturating_sub(partition.log_start().0)).sum()
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    // Whoever asked may have gone.
    let _nobody_waits = reply.send(value).is_err();
}
