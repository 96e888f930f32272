//! What is known of a channel and of its consumers.
//!
//! **Invariants.** Delivery tags and publish numbers count from 1 within a channel. A channel that was told to
//! close hears nothing but the answer. A number that is opened again is another channel.
//!
//! Deliberately absent: what methods do; see `methods/`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_broker::queues::{Consumer as QueueConsumer, Delivery, Permit, Permits, QueueHandle};

use crate::content::Assembly;
use crate::replies::ReplyConsumer;
use crate::tx::Tx;
use crate::unacked::UnackedList;

/// One channel.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// Which opening of its number this is.
    pub(crate) incarnation: u64,
    /// We sent `channel.close`: everything but the answer is ignored.
    pub(crate) closing: bool,
    /// Whether something was published on it.
    pub(crate) publishes: bool,
    /// The message being published.
    pub(crate) assembly: Assembly,
    /// The queue that an empty name stands for.
    pub(crate) last_queue: Option<Arc<str>>,
    /// The last delivery tag.
    pub(crate) delivery_tag: u64,
    /// Deliveries not settled.
    pub(crate) unacked: UnackedList,
    /// How many of them the global prefetch counts: not what was got, nor what is not limited by it.
    pub(crate) consumed: u32,
    /// Prefetch of consumers to come; 0 is none.
    pub(crate) prefetch: u16,
    /// Prefetch of all consumers together; 0 is none.
    pub(crate) prefetch_global: u16,
    /// What keeps to it.
    pub(crate) permits: Option<Arc<Permits>>,
    /// The number of the last message published, if they are confirmed.
    pub(crate) confirms: Option<u64>,
    /// What waits for `tx.commit`, if the channel is transactional.
    pub(crate) tx: Option<Tx>,
    /// Consumers by tag.
    pub(crate) consumers: HashMap<Bytes, u64>,
    /// Its consumer of direct replies.
    pub(crate) replies: Option<ReplyConsumer>,
    /// Deliveries that may not be sent yet: their consumer is not announced, or they were under way when the global prefetch
    /// was set.
    pub(crate) held: VecDeque<(u64, Delivery)>,
    /// Tokens of consumers that were cancelled because they did not settle in time.
    pub(crate) overdue: HashSet<u64>,
}

impl Channel {
    pub(crate) fn new(incarnation: u64) -> Channel {
        Channel { incarnation, ..Channel::default() }
    }

    pub(crate) fn next_delivery_tag(&mut self) -> u64 {
        self.delivery_tag += 1;
        self.delivery_tag
    }

    /// Sets the prefetch of all consumers together; 0 is none.
    pub(crate) fn limit(&mut self, prefetch: u16) {
        if self.prefetch_global != prefetch || prefetch != 0 {
            self.prefetch_global = prefetch;
            let consumed = self.consumed;
            self.permits().limit(prefetch.into(), consumed);
        }
    }

    /// What its consumers share.
    pub(crate) fn permits(&mut self) -> &Arc<Permits> {
        self.permits.get_or_insert_default()
    }

    /// So many that the global prefetch counted were settled.
    pub(crate) fn settled(&mut self, count: u32) {
        self.consumed -= count;
        if let Some(permits) = &self.permits {
            permits.give(count);
        }
    }

    /// Whether the global prefetch has room for a delivery of a consumer that it limits.
    pub(crate) fn admits(&self, delivery: &Delivery) -> bool {
        self.permits.as_ref().is_none_or(|permits| permits.admit(delivery.permit))
    }

    /// A delivery will not go out.
    pub(crate) fn forgo(&self, permit: Permit) {
        if let Some(permits) = &self.permits {
            permits.give_back(permit);
        }
    }
}

/// One consumer, by its token.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Its channel's number.
    pub(crate) channel: u16,
    /// Its tag.
    pub(crate) tag: Bytes,
    /// Whether deliveries count as settled.
    pub(crate) no_ack: bool,
    /// Whether it reads a stream.
    pub(crate) stream: bool,
    /// Whether the global prefetch counts what it has: that of a classic queue, if it is to be settled.
    pub(crate) limited: bool,
    /// How much of its is held.
    pub(crate) held: usize,
    /// The queues' side of it; `None` until the queue knows it and the client was told.
    pub(crate) inner: Option<QueueConsumer>,
}

impl Consumer {
    /// Its queue, once it is known there.
    pub(crate) fn queue(&self) -> Option<&QueueHandle> {
        self.inner.as_ref().map(|inner| &inner.queue)
    }
}
