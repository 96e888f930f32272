//! Deliveries that the client has not settled for as long as it may: they go back to their queues.
//!
//! ```text
//!  queue ─▶ writer: told ─▶ reader: no consumer any more ─▶ given back ─▶ basic.cancel, or the channel ends
//! ```
//! **Invariants.** The reader gives them back, in turn with what the client settles: a settlement that came before counts,
//! one that comes later is for nothing and is no mistake. A consumer is ended before its deliveries are given back,
//! so that it does not get them again. What it has besides stays its own until that is overdue.
//!
//! Deliberately absent: when something is overdue (the queues know).

use std::collections::HashSet;

use bytes::Bytes;
use ferrymq_amqp_codec::ReplyCode;
use ferrymq_amqp_codec::method::basic;
use ferrymq_broker::queues::{Consumer, QueueHandle, Settle};
use ferrymq_types::Offset;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::reader::Reader;
use crate::state::{Connection, State};
use crate::unacked::Unacked;

/// Deliveries of one queue to one consumer.
#[derive(Debug)]
pub(crate) struct Overdue {
    pub(crate) token: u64,
    pub(crate) queue: QueueHandle,
    pub(crate) offsets: Vec<Offset>,
    pub(crate) timeout_ms: u64,
}

/// What the writer was told and the reader has not done yet.
#[derive(Debug, Default)]
pub(crate) struct OverdueList {
    told: Mutex<Vec<Overdue>>,
    arrived: Notify,
}

impl OverdueList {
    pub(crate) fn push(&self, overdue: Overdue) {
        self.told.lock().push(overdue);
        self.arrived.notify_one();
    }

    /// Waits until there is something. Cancel safe.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn take(&self) -> Vec<Overdue> {
        std::mem::take(&mut self.told.lock())
    }
}

/// What becomes of those who have something that is overdue.
enum End {
    /// The client hears that its consumer is cancelled.
    Consumer { number: u16, token: u64, tag: Bytes, inner: Consumer },
    /// There is nobody to be cancelled, or the client would not understand.
    Channel(u16),
    /// It was told before.
    Nothing,
}

impl Reader<'_> {
    /// Gives back what is overdue.
    pub(crate) async fn give_back_overdue(&mut self) -> Result<(), Failure> {
        for overdue in self.connection.overdue.take() {
            let Some((found, end)) = find(self.connection, &overdue) else { continue };
            if let End::Consumer { number, token, tag, inner } = &end {
                self.end_consumer(*number, *token, tag, inner).await?;
            }
            for offset in found {
                self.settlements.push(overdue.queue.clone(), offset, Settle::Requeue);
            }
            self.send().await;
            match end {
                End::Consumer { number, token, tag, .. } => {
                    tracing::warn!(
                        peer = %self.connection.peer, channel = number, consumer = %String::from_utf8_lossy(&tag),
                        queue = %overdue.queue.name(), timeout_ms = overdue.timeout_ms,
                        "an AMQP consumer is cancelled: it has not acknowledged in time"
                    );
                    if let Some(channel) = self.connection.state.lock().channels.get_mut(&number) {
                        channel.overdue.insert(token);
                    }
                    let cancel = basic::Cancel { consumer_tag: &tag, nowait: true };
                    self.connection.output.method(number, &cancel);
                }
                End::Channel(number) => {
                    let failure = too_late(number, overdue.timeout_ms);
                    self.fail_channel(number, &failure).await;
                }
                End::Nothing => {}
            }
        }
        self.connection.output.wake();
        Ok(())
    }
}

/// Which of them nobody has settled meanwhile, and what follows from it. From now on the client settles them for nothing.
fn find(connection: &Connection, overdue: &Overdue) -> Option<(Vec<Offset>, End)> {
    let mut guard = connection.state.lock();
    let State { channels, consumers, .. } = &mut *guard;
    let wanted: HashSet<Offset> = overdue.offsets.iter().copied().collect();
    let is_it = |unacked: &Unacked| unacked.queue == overdue.queue && wanted.contains(&unacked.offset);
    for (number, channel) in channels.iter_mut().filter(|(_, channel)| !channel.closing) {
        let mut found = Vec::new();
        let in_tx = channel.tx.iter_mut().flat_map(|tx| &mut tx.settled).map(|(_, unacked, _)| unacked);
        for unacked in channel.unacked.iter_mut().chain(in_tx).filter(|unacked| is_it(unacked)) {
            found.push(std::mem::replace(&mut unacked.offset, Unacked::GIVEN_BACK));
        }
        // Held here, they never went out; they go back all the same.
        channel.held.retain(|(token, delivery)| {
            let is_its = *token == overdue.token && wanted.contains(&delivery.offset);
            if is_its {
                found.push(delivery.offset);
                if let Some(consumer) = consumers.get_mut(token) {
                    consumer.held -= 1;
                }
            }
            !is_its
        });
        if found.is_empty() {
            continue;
        }
        found.sort_unstable();
        let number = *number;
        let consumer = consumers.get(&overdue.token).filter(|consumer| consumer.channel == number);
        let inner = consumer.and_then(|consumer| Some((consumer.tag.clone(), consumer.inner.clone()?)));
        let end = match inner {
            Some((tag, inner)) if connection.opened.cancel_notify => {
                End::Consumer { number, token: overdue.token, tag, inner }
            }
            None if channel.overdue.contains(&overdue.token) => End::Nothing,
            _ => End::Channel(number),
        };
        return Some((found, end));
    }
    None
}

/// RabbitMQ's words.
fn too_late(number: u16, timeout_ms: u64) -> Failure {
    let text = format!(
        "delivery acknowledgement on channel {number} timed out. Timeout value used: {timeout_ms} ms. This timeout value \
         can be configured, see consumers doc guide to learn more"
    );
    Failure::new(ReplyCode::PreconditionFailed, text)
}
