//! The consumers of one queue: whose turn it is, how much each may still have, and what is on its way.
//!
//! **Invariants.** Those that can take a message stand in the ring of their priority (`rings`) and take turns. A
//! consumer without credit is in no list; one whose sink is full, or that finds no permit, waits for the shard to be woken. A cancelled one
//! stays, inactive, until nothing is unacked by it. What is gathered for a sink in a turn is sent at the turn's end
//! or earlier.
//!
//! Deliberately absent: who is the only one where there is one at a time (`single`); what has been unsettled for too
//! long (`overdue`).

mod overdue;
mod rings;
mod single;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use rings::Rings;
use single::Single;

use super::message::ShardWaker;
use super::queue::OffsetHasher;
use super::unsettled::{HOLDER, Unsettled, class_of, holder};
use crate::queues::permits::{Permit, Permits};
use crate::queues::sink::{DELIVERY_OVERHEAD, DeliverySink, Event};
use crate::queues::types::{Credit, Delivery, NewConsumer};

/// Deliveries are sent at the latest when this many bytes are gathered.
const SEND_BYTES: usize = 64 * 1024;

/// One consumer, or what a session got without being one.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) session: u64,
    pub(super) no_ack: bool,
    token: u64,
    exclusive: bool,
    priority: i64,
    /// Which one it is in the order of their coming.
    joined: u64,
    active: bool,
    sink: Option<DeliverySink>,
    /// `None`: no bound.
    credit: Option<u32>,
    /// Settling makes room.
    window: bool,
    /// What it shares with others.
    permits: Option<Arc<Permits>>,
    /// Taken for its next delivery, until the end of its queue's turn.
    reserved: Option<Permit>,
    in_ring: bool,
    blocked: bool,
    unacked: u64,
    gathered: Vec<Delivery>,
    gathered_bytes: usize,
    /// Deliveries sent before: as many are likely to be gathered next.
    sent: usize,
    /// Room in the sink, as of the last look, less what is gathered.
    room: usize,
    /// What it has, by age, if that may be too old.
    unsettled: Option<Box<Unsettled>>,
    /// Where it is told of that.
    told: Option<DeliverySink>,
}

/// The consumers of one queue.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    all: HashMap<u32, Consumer, BuildHasherDefault<OffsetHasher>>,
    rings: Rings,
    /// Who has the queue to himself, where one at a time does.
    single: Option<Single>,
    active: u32,
    blocked: u32,
    joined: u64,
    last: u32,
    /// Whether anything may be unsettled for too long.
    timed: bool,
    /// When the first delivery since the last look will be overdue.
    earliest_ms: Option<i64>,
}

impl Consumers {
    /// Nobody yet; `single`: deliver to one at a time, and whether a higher priority takes over from a lower one.
    pub(super) fn new(single: Option<bool>) -> Consumers {
        Consumers { single: single.map(Single::new), ..Consumers::default() }
    }

    /// How many consume.
    pub(super) fn active(&self) -> u32 {
        self.active
    }

    /// Whether any could take a message now.
    pub(super) fn any_ready(&self) -> bool {
        !self.rings.is_empty()
    }

    /// Whether another one, exclusive or not, may not join.
    pub(super) fn refuses(&self, exclusive: bool) -> bool {
        if self.single.is_some() {
            return exclusive;
        }
        self.active > 0
            && (exclusive || self.all.values().any(|consumer| consumer.active && consumer.exclusive))
    }

    /// Adds a consumer; `timeout_ms`: how long it may have a delivery unsettled.
    pub(super) fn add(
        &mut self,
        session: u64,
        new: NewConsumer,
        timeout_ms: Option<u64>,
        sink: DeliverySink,
    ) -> u32 {
        let (credit, window) = match new.credit {
            _ if new.no_ack && !matches!(new.credit, Credit::Granted(_)) => (None, false),
            Credit::Unlimited => (None, false),
            Credit::Window(size) => (Some(size), true),
            Credit::Granted(count) => (Some(count), false),
        };
        let consumer = Consumer {
            session,
            no_ack: new.no_ack,
            token: new.token,
            exclusive: new.exclusive,
            priority: new.priority,
            joined: self.joined,
            active: true,
            told: Some(sink.clone()),
            sink: Some(sink),
            unsettled: timeout_ms.filter(|_| !new.no_ack).map(Unsettled::new).map(Box::new),
            credit,
            window,
            permits: new.permits,
            reserved: None,
            in_ring: false,
            blocked: false,
            unacked: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
            sent: 0,
            room: 0,
        };
        self.active += 1;
        self.joined += 1;
        let id = self.insert(consumer);
        self.enter(id);
        self.elect();
        id
    }

    /// The number under which a session holds what it got.
    pub(super) fn getter(
        &mut self,
        session: u64,
        timeout_ms: Option<u64>,
        told: Option<&DeliverySink>,
    ) -> u32 {
        let same = |consumer: &Consumer| consumer.sink.is_none() && consumer.session == session;
        if let Some(id) = self.all.iter().find(|(_, consumer)| same(consumer)).map(|(id, _)| *id) {
            return id;
        }
        self.insert(Consumer {
            session,
            no_ack: false,
            token: 0,
            exclusive: false,
            priority: 0,
            joined: 0,
            active: false,
            told: told.cloned(),
            sink: None,
            // Who cannot be told could not give it back.
            unsettled: timeout_ms.filter(|_| told.is_some()).map(Unsettled::new).map(Box::new),
            credit: Some(0),
            window: false,
            permits: None,
            reserved: None,
            in_ring: false,
            blocked: false,
            unacked: 0,
            gathered: Vec::new(),
            gathered_bytes: 0,
            sent: 0,
            room: 0,
        })
    }

    fn insert(&mut self, consumer: Consumer) -> u32 {
        self.timed |= consumer.unsettled.is_some();
        loop {
            // An entry of the unacked has no room for more.
            self.last = (self.last + 1) & HOLDER;
            if let std::collections::hash_map::Entry::Vacant(entry) = self.all.entry(self.last) {
                entry.insert(consumer);
                return self.last;
            }
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&Consumer> {
        self.all.get(&id)
    }

    /// Whether the consumer is there, active, and this session's.
    pub(super) fn is_active(&self, id: u32, session: u64) -> bool {
        self.all.get(&id).is_some_and(|consumer| consumer.active && consumer.session == session)
    }

    /// Puts a consumer into its ring if it can take something.
    fn enter(&mut self, id: u32) {
        let Some(consumer) = self.all.get_mut(&id) else { return };
        let is_admitted = self.single.as_ref().is_none_or(|single| single.admits(id));
        if is_admitted
            && consumer.active
            && !consumer.in_ring
            && !consumer.blocked
            && consumer.credit != Some(0)
        {
            consumer.in_ring = true;
            self.rings.push(consumer.priority, id);
        }
    }

    /// Takes a consumer out of its ring.
    fn leave(&mut self, id: u32) {
        let Some(consumer) = self.all.get_mut(&id) else { return };
        if std::mem::take(&mut consumer.in_ring) {
            self.rings.remove(id);
        }
    }

    pub(super) fn grant(&mut self, id: u32, more: u32) {
        if let Some(credit) = self.all.get_mut(&id).and_then(|consumer| consumer.credit.as_mut()) {
            *credit = credit.saturating_add(more);
        }
        self.enter(id);
    }

    /// Who takes the next message. Looks for room; a consumer without waits until its sink has some.
    pub(super) fn turn(&mut self, waker: &ShardWaker) -> Option<u32> {
        while let Some(id) = self.rings.first() {
            let Some(consumer) = self.all.get_mut(&id) else {
                self.rings.pop();
                continue;
            };
            if (consumer.room > 0 || consumer.look_for_room(waker)) && consumer.reserve(waker) {
                return Some(id);
            }
            consumer.in_ring = false;
            consumer.blocked = true;
            self.blocked += 1;
            self.rings.pop();
        }
        None
    }

    /// Hands a delivery to the consumer whose turn it is; the next one's turn comes.
    pub(super) fn deliver(&mut self, id: u32, mut delivery: Delivery) {
        let Some(consumer) = self.all.get_mut(&id) else { return };
        delivery.token = consumer.token;
        delivery.permit = consumer.reserved.take().unwrap_or_default();
        consumer.unacked += u64::from(!consumer.no_ack);
        let bytes = delivery.message.bytes() + DELIVERY_OVERHEAD;
        consumer.gathered_bytes += bytes;
        consumer.room = consumer.room.saturating_sub(bytes);
        if consumer.gathered.is_empty() {
            consumer.gathered.reserve_exact(consumer.sent);
        }
        consumer.gathered.push(delivery);
        if consumer.gathered_bytes >= SEND_BYTES {
            consumer.send();
        }
        let spent = consumer.credit.as_mut().is_some_and(|credit| {
            *credit -= 1;
            *credit == 0
        });
        if spent {
            consumer.in_ring = false;
            self.rings.pop();
        } else {
            self.rings.rotate();
        }
    }

    /// Notes a message that was got.
    pub(super) fn hold(&mut self, id: u32) {
        if let Some(consumer) = self.all.get_mut(&id) {
            consumer.unacked += 1;
        }
    }

    /// A delivery, by its entry among the unacked, was settled, or given back.
    pub(super) fn settled(&mut self, entry: u32) {
        let id = holder(entry);
        let Some(consumer) = self.all.get_mut(&id) else { return };
        if let Some(unsettled) = &mut consumer.unsettled {
            unsettled.settle(class_of(entry));
        }
        consumer.unacked = consumer.unacked.saturating_sub(1);
        if consumer.window
            && let Some(credit) = &mut consumer.credit
        {
            *credit = credit.saturating_add(1);
        }
        if consumer.active {
            self.enter(id);
        } else if consumer.unacked == 0 {
            self.all.remove(&id);
        }
        self.elect_if_done(id);
    }

    /// Sends everything gathered.
    pub(super) fn send(&mut self) {
        for consumer in self.all.values_mut().filter(|consumer| !consumer.gathered.is_empty()) {
            consumer.send();
        }
        // The next turn looks anew.
        for id in self.rings.iter() {
            if let Some(consumer) = self.all.get_mut(&id) {
                consumer.room = 0;
                consumer.give_back();
            }
        }
    }

    /// Lets those that waited for room try again.
    pub(super) fn unblock(&mut self) {
        if std::mem::take(&mut self.blocked) == 0 {
            return;
        }
        let blocked = self.all.iter_mut().filter(|(_, consumer)| consumer.blocked);
        let ids: Vec<u32> = blocked
            .map(|(id, consumer)| {
                consumer.blocked = false;
                *id
            })
            .collect();
        ids.iter().for_each(|id| self.enter(*id));
    }

    /// Whether any waits for room.
    pub(super) fn any_blocked(&self) -> bool {
        self.blocked > 0
    }

    /// Ends a consumer: it takes nothing more. Whether it was the last.
    pub(super) fn cancel(&mut self, id: u32) -> bool {
        let Some(consumer) = self.all.get_mut(&id) else { return false };
        if !consumer.active {
            return false;
        }
        consumer.send();
        consumer.active = false;
        self.blocked -= u32::from(std::mem::take(&mut consumer.blocked));
        self.active -= 1;
        let is_forgotten = consumer.unacked == 0;
        self.leave(id);
        self.rings.tidy();
        if is_forgotten {
            self.all.remove(&id);
        }
        self.elect();
        self.active == 0
    }

    /// The numbers of a session's consumers, cancelled ones and getters included.
    pub(super) fn of_session(&self, session: u64) -> Vec<u32> {
        self.all.iter().filter(|(_, consumer)| consumer.session == session).map(|(id, _)| *id).collect()
    }

    /// Tells all consumers that the queue is gone.
    pub(super) fn cancel_all(&mut self) {
        for (_, consumer) in self.all.drain() {
            if let (true, Some(sink)) = (consumer.active, &consumer.sink) {
                sink.send(Event::Cancelled { token: consumer.token }, DELIVERY_OVERHEAD);
            }
        }
        self.rings.clear();
        (self.active, self.blocked) = (0, 0);
    }

    /// Forgets those of a session that hold nothing any more.
    pub(super) fn forget(&mut self, session: u64) {
        self.all.retain(|_, consumer| consumer.session != session || consumer.active || consumer.unacked > 0);
    }
}

impl Consumer {
    fn look_for_room(&mut self, waker: &ShardWaker) -> bool {
        self.send();
        let Some(sink) = &self.sink else { return false };
        self.room = sink.room();
        if self.room == 0 && !sink.wake_on_room(waker) {
            // Room came meanwhile, or never will.
            self.room = sink.room();
        }
        self.room > 0
    }

    /// Takes a permit for the next delivery, unless it has one.
    fn reserve(&mut self, waker: &ShardWaker) -> bool {
        let Some(permits) = &self.permits else { return true };
        if self.no_ack {
            return permits.is_open(waker);
        }
        if self.reserved.is_none() {
            self.reserved = permits.take(waker);
        }
        self.reserved.is_some()
    }

    /// There was nothing to deliver.
    fn give_back(&mut self) {
        if let (Some(permits), Some(permit)) = (&self.permits, self.reserved.take()) {
            permits.give_back(permit);
        }
    }

    fn send(&mut self) {
        if let Some(sink) = self.sink.as_ref().filter(|_| !self.gathered.is_empty()) {
            self.sent = self.gathered.len();
            sink.send(Event::Deliver(std::mem::take(&mut self.gathered)), self.gathered_bytes);
            self.gathered_bytes = 0;
        }
    }
}
