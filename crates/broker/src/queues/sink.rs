//! The way of deliveries from a shard to a session: bounded in bytes, many messages at a time.
//!
//! **Invariants.** A shard never waits for a session: it looks for room first and, where there is none, is
//! woken when there is. What was sent before an answer was given is there when the answer arrives. A single
//! delivery larger than the whole bound goes through when nothing else waits.
//!
//! Deliberately absent: what is written to a socket and when (the door takes only what it has room for).

use std::collections::VecDeque;
use std::sync::Arc;

use ferrymq_types::Offset;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::types::{Delivery, QueueHandle};

/// Bytes a delivery is counted as beside its message.
pub(super) const DELIVERY_OVERHEAD: usize = 256;

/// What comes to a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Deliveries, in order.
    Deliver(Vec<Delivery>),
    /// The queue of this consumer was deleted, and the consumer with it.
    Cancelled {
        /// [`NewConsumer::token`](super::NewConsumer::token).
        token: u64,
    },
    /// Deliveries have been unsettled for longer than they may be. They still are whose they were: he is to end the
    /// consumer and to give them back. They are told of once.
    Overdue {
        /// [`NewConsumer::token`](super::NewConsumer::token); 0 for what was got.
        token: u64,
        /// Their queue.
        queue: QueueHandle,
        /// Which, ascending.
        offsets: Vec<Offset>,
        /// How long they may be.
        timeout_ms: u64,
    },
}

/// The sending side; cheap to clone, one for as many consumers as one likes.
#[derive(Debug, Clone)]
pub struct DeliverySink(Arc<Shared>);

/// The receiving side. Dropping it ends deliveries; the session's end gives them back.
#[derive(Debug)]
pub struct Deliveries(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<(Event, usize)>,
    bytes: usize,
    closed: bool,
    /// Shards that found no room.
    blocked: Vec<Arc<Notify>>,
}

/// A way for deliveries that holds `bytes` of them.
#[must_use]
pub fn deliveries(bytes: usize) -> (DeliverySink, Deliveries) {
    let shared = Arc::new(Shared { state: Mutex::default(), arrived: Notify::new(), limit: bytes.max(1) });
    (DeliverySink(shared.clone()), Deliveries(shared))
}

impl DeliverySink {
    /// How many more bytes may be sent; at least 1 if nothing waits, 0 once the receiver has gone.
    pub(super) fn room(&self) -> usize {
        let state = self.0.state.lock();
        if state.closed { 0 } else { self.0.limit.saturating_sub(state.bytes) }
    }

    /// Asks for `shard` to be woken when there is room. False if there is room already, or never will be.
    pub(super) fn wake_on_room(&self, shard: &Arc<Notify>) -> bool {
        let mut state = self.0.state.lock();
        if state.closed || state.bytes < self.0.limit {
            return false;
        }
        if !state.blocked.iter().any(|known| Arc::ptr_eq(known, shard)) {
            state.blocked.push(shard.clone());
        }
        true
    }

    /// Sends. Room is the caller's business.
    pub(super) fn send(&self, event: Event, bytes: usize) {
        let mut state = self.0.state.lock();
        if state.closed {
            return;
        }
        state.bytes += bytes;
        state.events.push_back((event, bytes));
        drop(state);
        self.0.arrived.notify_one();
    }
}

impl Deliveries {
    /// The next event. Never ends by itself. Cancel safety: a dropped wait loses nothing.
    pub async fn recv(&mut self) -> Event {
        loop {
            if let Some(event) = self.try_recv() {
                return event;
            }
            self.0.arrived.notified().await;
        }
    }

    /// The next event if there is one now.
    pub fn try_recv(&mut self) -> Option<Event> {
        let mut state = self.0.state.lock();
        let (event, bytes) = state.events.pop_front()?;
        state.bytes -= bytes;
        // At half, so that a shard is not woken for each message.
        let woken =
            if state.bytes <= self.0.limit / 2 { std::mem::take(&mut state.blocked) } else { Vec::new() };
        drop(state);
        woken.iter().for_each(|shard| shard.notify_one());
        Some(event)
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        state.blocked.clear();
        let events = std::mem::take(&mut state.events);
        drop(state);
        drop(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_way_wakes_the_shard_when_half_of_it_is_free() {
        let (sink, mut deliveries) = deliveries(100);
        let shard = Arc::new(Notify::new());
        assert!(!sink.wake_on_room(&shard), "there is room");
        for token in 0..4 {
            sink.send(Event::Cancelled { token }, 25);
        }
        assert_eq!(sink.room(), 0);
        assert!(sink.wake_on_room(&shard));
        assert_eq!(deliveries.recv().await, Event::Cancelled { token: 0 });
        let mut woken = std::pin::pin!(shard.notified());
        assert!(futures_util::poll!(woken.as_mut()).is_pending());
        assert_eq!(deliveries.recv().await, Event::Cancelled { token: 1 });
        woken.await;
        assert_eq!(sink.room(), 50);
        drop(deliveries);
        assert_eq!(sink.room(), 0);
        assert!(!sink.wake_on_room(&shard), "never again");
    }
}
