//! What consumers have had unsettled for too long, as far as they may not.
//!
//! **Invariant.** Only consumers with a timeout are looked at by age, cancelled ones and getters included.
//!
//! Deliberately absent: the entries of the unacked (`unsettled`).

use ferrymq_types::Offset;

use super::Consumers;
use crate::queues::sink::{DELIVERY_OVERHEAD, Event};
use crate::queues::types::QueueHandle;

impl Consumers {
    /// Whether anything may be unsettled for too long.
    pub(in crate::queues::shard) fn is_timed(&self) -> bool {
        self.timed
    }

    /// Notes that a consumer is given something at `now_ms`; the class of age that is remembered with it.
    pub(in crate::queues::shard) fn note(&mut self, id: u32, now_ms: Option<i64>) -> u32 {
        let Some(now_ms) = now_ms else { return 0 };
        let unsettled = self.all.get_mut(&id).and_then(|consumer| consumer.unsettled.as_mut());
        let Some((class, at_ms)) = unsettled.map(|unsettled| unsettled.deliver(now_ms)) else { return 0 };
        self.earliest_ms = Some(self.earliest_ms.map_or(at_ms, |earliest| earliest.min(at_ms)));
        class
    }

    /// When the first of those noted since the last call will be overdue.
    pub(in crate::queues::shard) fn take_earliest(&mut self) -> Option<i64> {
        self.earliest_ms.take()
    }

    /// Who has something that is overdue, and of which classes.
    pub(in crate::queues::shard) fn overdue(&self, now_ms: i64) -> impl Iterator<Item = (u32, u64)> {
        let timed = self.all.iter().filter_map(|(id, consumer)| Some((*id, consumer.unsettled.as_ref()?)));
        timed.map(move |(id, unsettled)| (id, unsettled.overdue(now_ms))).filter(|(_, classes)| *classes != 0)
    }

    /// When anything will be.
    pub(in crate::queues::shard) fn next_overdue(&self) -> Option<i64> {
        self.all.values().filter_map(|consumer| consumer.unsettled.as_ref()?.next()).min()
    }

    /// Something is told of and not watched any more.
    pub(in crate::queues::shard) fn unwatch(&mut self, id: u32, class: u32) {
        if let Some(unsettled) = self.all.get_mut(&id).and_then(|consumer| consumer.unsettled.as_mut()) {
            unsettled.settle(class);
        }
    }

    /// Tells a consumer what is overdue. What else there is of these classes is looked at again later.
    pub(in crate::queues::shard) fn tell_overdue(
        &mut self,
        id: u32,
        classes: u64,
        now_ms: i64,
        queue: &QueueHandle,
        offsets: Vec<Offset>,
    ) {
        let Some(consumer) = self.all.get_mut(&id) else { return };
        consumer.send();
        let Some(unsettled) = &mut consumer.unsettled else { return };
        unsettled.put_off(classes, now_ms);
        if let Some(told) = consumer.told.as_ref().filter(|_| !offsets.is_empty()) {
            let bytes = DELIVERY_OVERHEAD + size_of_val(&offsets[..]);
            let (token, timeout_ms) = (consumer.token, unsettled.timeout_ms());
            told.send(Event::Overdue { token, queue: queue.clone(), offsets, timeout_ms }, bytes);
        }
    }
}
