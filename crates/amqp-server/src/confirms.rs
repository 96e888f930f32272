//! Publishes that are on their way, and the confirms that follow.
//!
//! **Invariants.** Batches are confirmed in the order in which they were handed over. A message is confirmed
//! once, or not at all if its channel has gone. `multiple` never covers a message that is not decided.
//!
//! Deliberately absent: returns, which are sent when the message is routed, before its confirm.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::BytesMut;
use ferrymq_amqp_codec::EncodeError;
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::basic;
use ferrymq_broker::queues::{PendingPublish, Published};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::state::Connection;

/// Batches that may wait before the reader does.
const BATCHES_MAX: usize = 4096;

/// Numbers of messages of a channel, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) channel: u16,
    pub(crate) incarnation: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// Messages that were handed over together.
pub(crate) struct Batch {
    /// `None`: none of them goes anywhere.
    pub(crate) pending: Option<PendingPublish>,
    /// All that are to be confirmed, in order.
    pub(crate) spans: Vec<Span>,
    /// For each message handed over, the channel and number to confirm; `None` if nobody asked.
    pub(crate) numbers: Vec<Option<(u16, u64)>>,
    /// Channel and number of messages that were refused before that.
    pub(crate) refused: Vec<(u16, u64)>,
}

/// Batches that are not decided.
#[derive(Default)]
pub(crate) struct Confirms {
    waiting: Mutex<VecDeque<Waiting>>,
    fewer: Notify,
}

struct Waiting {
    pending: Option<Pin<Box<PendingPublish>>>,
    spans: Vec<Span>,
    numbers: Vec<Option<(u16, u64)>>,
    refused: Vec<(u16, u64)>,
}

/// A batch that is decided.
pub(crate) struct Decided {
    spans: Vec<Span>,
    numbers: Vec<Option<(u16, u64)>>,
    refused: Vec<(u16, u64)>,
    published: Published,
}

impl Confirms {
    /// Adds a batch; the caller wakes the writer.
    pub(crate) fn push(&self, batch: Batch) {
        let Batch { pending, spans, numbers, refused } = batch;
        self.waiting.lock().push_back(Waiting { pending: pending.map(Box::pin), spans, numbers, refused });
    }

    /// Waits until everything handed over so far is decided and its confirms are on their way.
    pub(crate) async fn none(&self) {
        while !self.waiting.lock().is_empty() {
            self.fewer.notified().await;
        }
    }

    /// Waits until few enough are waiting.
    pub(crate) async fn room(&self) {
        while self.waiting.lock().len() > BATCHES_MAX {
            self.fewer.notified().await;
        }
    }

    /// The next batch in order, once it is decided. Cancel safe.
    pub(crate) async fn next(&self) -> Decided {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next batch in order, if it is decided.
    pub(crate) fn try_next(&self) -> Option<Decided> {
        match self.poll_next(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(decided) => Some(decided),
            Poll::Pending => None,
        }
    }

    fn poll_next(&self, context: &mut TaskContext<'_>) -> Poll<Decided> {
        let mut waiting = self.waiting.lock();
        let Some(front) = waiting.front_mut() else { return Poll::Pending };
        let published = match &mut front.pending {
            None => Published::default(),
            Some(pending) => match pending.as_mut().poll(context) {
                Poll::Ready(published) => published,
                Poll::Pending => return Poll::Pending,
            },
        };
        let Some(Waiting { spans, numbers, refused, .. }) = waiting.pop_front() else { return Poll::Pending };
        drop(waiting);
        self.fewer.notify_one();
        Poll::Ready(Decided { spans, numbers, refused, published })
    }
}

/// Confirms that wait to be written, so that those of many batches become one.
#[derive(Debug, Default)]
pub(crate) struct Acks(Vec<Span>);

impl Acks {
    /// Takes what a batch became: acks wait for more, a nack is written after the acks before it.
    pub(crate) fn add(
        &mut self,
        connection: &Connection,
        decided: Decided,
        out: &mut BytesMut,
    ) -> Result<(), EncodeError> {
        let Decided { spans, numbers, refused, published } = decided;
        let mut failed = refused;
        for (index, error) in published.failed {
            tracing::debug!(peer = %connection.peer, error = %error, "a message was refused");
            if error.is_full() {
                connection.context.alarm.set(true);
            }
            failed.extend(numbers.get(index).copied().flatten());
        }
        failed.sort_unstable();
        failed.dedup();
        for span in spans {
            if !connection.is_open(span) {
                continue;
            }
            let mut first = span.first;
            for (_, number) in failed.iter().filter(|(channel, number)| {
                *channel == span.channel && (span.first..=span.last).contains(number)
            }) {
                self.push(Span { first, last: number - 1, ..span });
                self.write(connection, out)?;
                let nack = basic::Nack { delivery_tag: *number, multiple: false, requeue: false };
                put_method(out, span.channel, &nack)?;
                connection.context.counters.nacked_total.fetch_add(1, Ordering::Relaxed);
                first = number + 1;
            }
            self.push(Span { first, ..span });
        }
        Ok(())
    }

    fn push(&mut self, span: Span) {
        if span.first > span.last {
            return;
        }
        let known = self.0.iter_mut().rfind(|known| known.channel == span.channel);
        match known {
            Some(known) if known.incarnation == span.incarnation && known.last + 1 == span.first => {
                known.last = span.last;
            }
            _ => self.0.push(span),
        }
    }

    /// Writes all of them.
    pub(crate) fn write(&mut self, connection: &Connection, out: &mut BytesMut) -> Result<(), EncodeError> {
        for span in self.0.drain(..) {
            let count = span.last - span.first + 1;
            put_method(out, span.channel, &basic::Ack { delivery_tag: span.last, multiple: count > 1 })?;
            connection.context.counters.confirmed_total.fetch_add(count, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Connection {
    /// Whether the channel is still the one that these messages were published on.
    fn is_open(&self, span: Span) -> bool {
        let state = self.state.lock();
        let channel = state.channels.get(&span.channel);
        channel.is_some_and(|channel| channel.incarnation == span.incarnation && !channel.closing)
    }
}
