//! The queues of the null responder: a number, and what the newest message looks like.
//!
//! **Invariant.** As many messages are delivered as were given.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_message;
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{EncodeError, Properties};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::session::FRAME_MAX;

/// A message.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) exchange: Bytes,
    pub(super) routing_key: Bytes,
    pub(super) properties: Bytes,
    pub(super) body: Bytes,
}

#[derive(Default)]
struct State {
    waiting: u64,
    newest: Arc<Content>,
    /// Rises with `newest`.
    version: u64,
}

/// A queue.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    pub(super) given: Notify,
}

impl Queue {
    /// Gives it so many messages like this one.
    pub(super) fn give(&self, count: u64, content: &Arc<Content>) {
        let mut state = self.state.lock();
        state.waiting += count;
        state.newest = content.clone();
        state.version += 1;
        drop(state);
        self.given.notify_one();
    }

    pub(super) fn waiting(&self) -> u64 {
        self.state.lock().waiting
    }
}

/// All queues and exchanges.
#[derive(Default)]
pub(super) struct Queues {
    queues: Mutex<HashMap<Vec<u8>, Arc<Queue>>>,
    bindings: Mutex<HashMap<Vec<u8>, Vec<Arc<Queue>>>>,
}

impl Queues {
    /// The queue of that name, made if it is missing.
    pub(super) fn queue(&self, name: &[u8]) -> Arc<Queue> {
        self.queues.lock().entry(name.to_vec()).or_default().clone()
    }

    /// Forgets a queue; how many messages were in it.
    pub(super) fn delete(&self, name: &[u8]) -> u64 {
        self.queues.lock().remove(name).map_or(0, |queue| queue.waiting())
    }

    pub(super) fn bind(&self, exchange: &[u8], queue: &[u8]) {
        let queue = self.queue(queue);
        self.bindings.lock().entry(exchange.to_vec()).or_default().push(queue);
    }

    pub(super) fn delete_exchange(&self, exchange: &[u8]) {
        self.bindings.lock().remove(exchange);
    }

    /// The queues that a publishing goes to.
    pub(super) fn route(&self, exchange: &[u8], routing_key: &[u8]) -> Vec<Arc<Queue>> {
        if exchange.is_empty() {
            return self.queues.lock().get(routing_key).cloned().into_iter().collect();
        }
        self.bindings.lock().get(exchange).cloned().unwrap_or_default()
    }
}

/// A consumer.
pub(super) struct Subscription {
    queue: Arc<Queue>,
    channel: u16,
    consumer_tag: Bytes,
    delivered: u64,
    version: u64,
    /// A delivery as it goes over the wire, but for its number.
    wire: BytesMut,
}

impl Subscription {
    pub(super) fn new(queue: Arc<Queue>, channel: u16, consumer_tag: Bytes) -> Subscription {
        Subscription { queue, channel, consumer_tag, delivered: 0, version: 0, wire: BytesMut::new() }
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// Appends deliveries, about so many bytes of them.
    pub(super) fn deliver(&mut self, out: &mut BytesMut, room_bytes: usize) {
        let mut state = self.queue.state.lock();
        if state.waiting == 0 {
            return;
        }
        if state.version != self.version {
            self.version = state.version;
            self.wire = encode(&state.newest, self.channel, &self.consumer_tag)
                .expect("what was decoded has an encoding");
        }
        // Frame head, ids, and the consumer's tag with its length stand before the number.
        let number_at = 7 + 4 + 1 + self.consumer_tag.len();
        let count = state.waiting.min((room_bytes / self.wire.len()).max(1) as u64);
        state.waiting -= count;
        drop(state);
        for _ in 0..count {
            self.delivered += 1;
            let at = out.len() + number_at;
            out.extend_from_slice(&self.wire);
            out[at..at + 8].copy_from_slice(&self.delivered.to_be_bytes());
        }
    }
}

fn encode(content: &Content, channel: u16, consumer_tag: &[u8]) -> Result<BytesMut, EncodeError> {
    let mut wire = BytesMut::new();
    let head = basic::Deliver {
        consumer_tag,
        exchange: &content.exchange,
        routing_key: &content.routing_key,
        ..Default::default()
    };
    let properties = Properties::parse(&content.properties).unwrap_or(Properties::EMPTY);
    put_message(&mut wire, channel, &head, properties, &content.body, FRAME_MAX)?;
    Ok(wire)
}
