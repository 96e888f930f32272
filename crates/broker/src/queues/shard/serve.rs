//! What a shard does with each message of its mailbox.
//!
//! **Invariant.** A message takes effect at once in memory, so that the next one sees it.

use ferrymq_runtime::BytePermit;
use ferrymq_types::{LogId, Offset};
use tokio::sync::oneshot;

use super::Owner;
use super::commit::refused;
use super::discard::{Discarded, Reason};
use super::follow::Followed;
use super::message::{Attached, Failed, Item, Refused, Released, ShardMessage};
use super::queue::{Debt, Getter, Queue};
use super::unsettled::{SURVIVES, holder};
use crate::queues::error::QueueError;
use crate::queues::sink::DeliverySink;
use crate::queues::types::{DeleteIf, NewConsumer, QueueHandle, QueueStat, Settle};

impl Owner {
    pub(super) fn on_message(&mut self, message: ShardMessage, permit: BytePermit) {
        match message {
            ShardMessage::Publish { items, reply } => self.publish(items, reply, permit),
            ShardMessage::Settle { queue, session, what } => self.settle(&queue, session, what),
            ShardMessage::Barrier { reply } => self.on_barrier(reply),
            ShardMessage::Attach(attached) => self.attach(*attached),
            ShardMessage::AttachLevel(attached) => self.attach_level(*attached),
            ShardMessage::Consume { queue, session, new, sink, reply } => {
                answer(reply, self.consume(&queue, session, new, sink));
            }
            // Streams have a desk of their own.
            ShardMessage::ConsumeStream { reply, .. } => answer(reply, Err(Refused::Gone)),
            ShardMessage::Cancel { queue, session, consumer, reply } => {
                let here =
                    self.here(&queue).filter(|(_, queue)| queue.consumers.is_active(consumer, session));
                let ended = here.map(|(log, queue)| (log, queue.consumers.cancel(consumer)));
                // Somebody may come after him.
                ended.iter().for_each(|(log, _)| self.run_soon(*log));
                let last = ended.is_some_and(|(_, last)| last);
                if last {
                    self.used(queue.log());
                }
                answer(reply, last);
            }
            ShardMessage::Credit { queue, consumer, more } => {
                if let Some((log, queue)) = self.here(&queue) {
                    queue.consumers.grant(consumer, more);
                    self.run_soon(log);
                }
            }
            ShardMessage::Get { queue, session, no_ack, told, reply } => match self.open_queue(&queue) {
                Ok((_, queue)) if queue.consuming.single == Some(true) => {
                    answer(reply, Err(Refused::SingleActive));
                }
                Ok((log, queue)) => {
                    queue.getters.push_back(Getter { session, no_ack, told, reply });
                    queue.sessions.insert(session);
                    self.sessions.entry(session).or_default().insert(log);
                    self.used(log);
                    self.run_soon(log);
                }
                Err(why) => answer(reply, Err(why)),
            },
            ShardMessage::Purge { queue, reply } => self.purge(&queue, reply),
            ShardMessage::Close { queue, only_if, idle, reply } => {
                answer(reply, self.close(&queue, only_if, idle));
            }
            ShardMessage::Reopen { queue } => {
                if let Some((log, queue)) = self.here(&queue) {
                    queue.gone = false;
                    self.run_soon(log);
                }
            }
            ShardMessage::Configure { queue, configured, reply } => {
                self.configure(&queue, *configured, reply);
            }
            ShardMessage::Detach { queue, reply } => self.detach(&queue, reply),
            ShardMessage::Stat { queue, declared, reply } => answer(reply, self.stat(&queue, declared)),
            ShardMessage::StatAll { reply } => {
                answer(reply, self.queues.whole().map(|(log, queue)| (log, queue.stat())).collect());
            }
            ShardMessage::Prepare(prepare) => self.on_prepare(*prepare, permit),
            ShardMessage::Again { queue, offsets } => self.due_again(&queue, &offsets),
            ShardMessage::EndSession { session, reply } => answer(reply, self.end_session(session)),
        }
    }

    fn attach(&mut self, attached: Attached) {
        let log = attached.handle.log();
        let source = attached.source.clone();
        self.follows |= source.is_some();
        let mut queue = Queue::new(attached, self.budget.clone(), self.timeout_ms, self.delays_max);
        queue.followed = source.map(|source| Followed::new(source, &self.watcher, log));
        queue.wait_anew(0);
        let lost_the_head = queue.owes_a_trim();
        let filled = queue.acks.ready() + queue.waiting() > 0;
        self.queues.insert(log, queue);
        self.used(log);
        if filled {
            // Its head may have expired meanwhile.
            self.run_soon(log);
        }
        if lost_the_head {
            self.owe(log, Debt::Lazy, 0);
        }
    }

    fn stat(&mut self, queue: &QueueHandle, declared: bool) -> Result<QueueStat, Refused> {
        let (log, _) = self.open_queue(queue)?;
        if declared {
            self.used(log);
        }
        self.open_queue(queue).map(|(_, queue)| queue.stat())
    }

    /// A queue that is here: not whatever else has its log by now.
    pub(super) fn here(&mut self, queue: &QueueHandle) -> Option<(LogId, &mut Queue)> {
        let log = queue.log();
        self.queues.get_mut(&log).filter(|here| here.handle == *queue).map(|here| (log, here))
    }

    /// A queue that can be used, as somebody is to see it.
    fn open_queue(&mut self, queue: &QueueHandle) -> Result<(LogId, &mut Queue), Refused> {
        if let Some(error) = &self.stopped {
            return Err(refused(error));
        }
        // What a Kafka client was told is durable is there.
        self.follow(queue.log());
        if let Some((log, here)) = self.here(queue)
            && here.in_run_list
            && (here.is_watching() || here.is_over())
        {
            // What has to go is gone before it can be counted or taken.
            self.dispatch(log);
        }
        self.here(queue).filter(|(_, queue)| !queue.gone).ok_or(Refused::Gone)
    }

    fn publish(&mut self, items: Vec<Item>, reply: oneshot::Sender<Failed>, permit: BytePermit) {
        if let Some(error) = &self.stopped {
            let error = QueueError::Storage(error.clone());
            let failed = items.into_iter().map(|item| (item.index, error.clone())).collect();
            return answer(reply, failed);
        }
        let now_ms = self.ages.stamp();
        let request = self.requests.next();
        let (mut parts, mut refused, mut buried) = (0, Vec::new(), Vec::new());
        for item in items {
            for to in item.to.queues().iter().filter(|to| to.0.shard == self.index) {
                // What was routed to a queue that is gone meanwhile goes nowhere, as if it had come earlier; also
                // if another queue has its log now. One that is being deleted still takes messages: the deletion
                // may fail or be given up, and what was confirmed must be there then.
                let here = self.queues.get_mut(&to.0.log).filter(|here| here.handle == *to);
                let Some(queue) = here else { continue };
                if queue.is_full_for(&item.message) {
                    let (vhost, name) = (to.vhost().clone(), to.name().clone());
                    refused.push((item.index, QueueError::Full { vhost, name }));
                    buried.extend(queue.buries().map(|dlx| (to.clone(), dlx, item.message.clone())));
                    continue;
                }
                let queue = queue.level_for(&item.message);
                let log = queue.handle.log();
                let begun = queue.gather(request, &item, now_ms, &mut self.scratch);
                parts += usize::from(begun);
                if !std::mem::replace(&mut queue.in_gather_list, true) {
                    self.gathering.push(log);
                }
            }
        }
        parts += usize::from(!buried.is_empty());
        self.requests.add(parts, refused, reply, permit);
        if !buried.is_empty() {
            self.bury(request, &buried);
        }
    }

    fn consume(
        &mut self,
        queue: &QueueHandle,
        session: u64,
        new: NewConsumer,
        sink: DeliverySink,
    ) -> Result<u32, Refused> {
        let (log, queue) = self.open_queue(queue)?;
        if queue.consumers.refuses(new.exclusive) {
            return Err(Refused::Exclusive);
        }
        let timeout_ms = queue.timeout_ms(new.timeout_ms);
        let id = queue.consumers.add(session, new, timeout_ms, sink);
        queue.sessions.insert(session);
        self.sessions.entry(session).or_default().insert(log);
        self.run_soon(log);
        Ok(id)
    }

    fn settle(&mut self, queue: &QueueHandle, session: u64, what: Vec<(Offset, Settle)>) {
        let Some((log, queue)) = self.here(queue) else { return };
        let (mut done, mut debt) = (0, Debt::Lazy);
        let mut rejected = Vec::new();
        for (offset, how) in what {
            let Some(entry) = queue.unacked.get(&offset.0).copied() else { continue };
            if queue.consumers.get(holder(entry)).is_none_or(|consumer| consumer.session != session) {
                continue;
            }
            queue.unacked.remove(&offset.0);
            queue.consumers.settled(entry);
            if matches!(how, Settle::Ack | Settle::Reject) {
                queue.count_settled(offset.0, false);
            }
            match how {
                Settle::Ack => {
                    queue.finish(offset.0);
                    done += 1;
                }
                Settle::Reject => {
                    let (survives, reason) = (entry & SURVIVES != 0, Reason::Rejected);
                    rejected.push(Discarded { offset: offset.0, reason, survives });
                    continue;
                }
                Settle::Requeue | Settle::Fail => {
                    let gone = queue.give_back(offset.0, entry & SURVIVES != 0, how == Settle::Fail);
                    if gone.is_some() {
                        rejected.extend(gone);
                        continue;
                    }
                }
            }
            if entry & SURVIVES != 0 {
                debt = Debt::Must;
            }
        }
        self.owe(log, debt, done);
        self.run_soon(log);
        self.discard(log, rejected);
    }

    fn purge(&mut self, queue: &QueueHandle, reply: oneshot::Sender<Result<u64, Refused>>) {
        let (log, queue) = match self.open_queue(queue) {
            Ok(here) => here,
            Err(why) => return answer(reply, Err(why)),
        };
        let mut count = queue.purge_waiting();
        queue.for_each(&mut |level| {
            count += level.acks.finish_available();
            let end = level.acks.end();
            level.ready.clear(end);
            level.count_none();
        });
        if !queue.durable {
            self.owe(log, Debt::Lazy, count);
            return answer(reply, Ok(count));
        }
        // Also if nothing was left: what an earlier purge did may be on its way.
        self.owe(log, if count == 0 { Debt::Lazy } else { Debt::Must }, count);
        self.purges.push((reply, count));
    }

    fn close(&mut self, queue: &QueueHandle, only_if: DeleteIf, idle: bool) -> Result<u64, Refused> {
        let (log, _) = self.open_queue(queue)?;
        if idle && !self.queues.get(&log).is_some_and(|queue| self.is_unused(queue)) {
            return Err(Refused::InUse);
        }
        let (_, queue) = self.open_queue(queue)?;
        // RabbitMQ's order, of both.
        if only_if.empty && queue.ready_count() + queue.waiting() > 0 {
            return Err(Refused::NotEmpty);
        }
        if only_if.unused && queue.consumers.active() > 0 {
            return Err(Refused::InUse);
        }
        queue.gone = true;
        Ok(queue.ready_count())
    }

    fn detach(&mut self, queue: &QueueHandle, reply: oneshot::Sender<Vec<Released>>) {
        let Some((log, _)) = self.here(queue) else { return };
        let Some(mut queue) = self.queues.remove(&log) else { return };
        self.unwatch(log, &mut queue);
        queue.consumers.cancel_all();
        for session in queue.sessions.drain() {
            if let Some(logs) = self.sessions.get_mut(&session) {
                logs.remove(&log);
            }
        }
        for getter in queue.getters.drain(..) {
            answer(getter.reply, Err(Refused::Gone));
        }
        let (requests, gathering) = (&mut self.requests, &mut self.gathering);
        queue.for_each(&mut |level| {
            level.drop_gathered().into_iter().for_each(|part| requests.succeed(part));
            if level.in_gather_list {
                gathering.retain(|gathering| *gathering != level.handle.log());
            }
        });
        queue.releasing = Some(reply);
        self.leaving.insert(log, queue);
        self.release_if_settled(log);
    }

    fn end_session(&mut self, session: u64) -> Vec<QueueHandle> {
        let mut unused = Vec::new();
        for log in self.sessions.remove(&session).unwrap_or_default() {
            let Some(queue) = self.queues.get_mut(&log) else { continue };
            let ids = queue.consumers.of_session(session);
            queue.getters.retain(|getter| getter.session != session);
            // In the order of the queue, so that a test can tell.
            let mut held: Vec<(u64, u32)> =
                queue.unacked.iter().map(|(offset, entry)| (*offset, *entry)).collect();
            held.retain(|(_, entry)| ids.contains(&holder(*entry)));
            held.sort_unstable();
            let last = ids.into_iter().filter(|id| queue.consumers.cancel(*id)).count() > 0;
            if last {
                unused.push(queue.handle.clone());
            }
            let (mut debt, mut gone) = (Debt::Lazy, Vec::new());
            for (offset, entry) in held {
                queue.unacked.remove(&offset);
                gone.extend(queue.give_back(offset, entry & SURVIVES != 0, true));
                queue.consumers.settled(entry);
                if entry & SURVIVES != 0 {
                    debt = Debt::Must;
                }
            }
            queue.consumers.forget(session);
            queue.sessions.remove(&session);
            self.owe(log, debt, 0);
            if last {
                self.used(log);
            }
            self.run_soon(log);
            self.discard(log, gone);
        }
        unused
    }
}

/// Answers; a caller that went away needs no answer.
fn answer<T>(reply: oneshot::Sender<T>, with: T) {
    let _gone = reply.send(with).is_err();
}
