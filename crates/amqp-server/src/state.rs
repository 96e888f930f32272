//! What the reader and the writer of a connection share.
//!
//! **Invariants.** Both run in one task, so the lock is never waited for; it is not held across an await.
//! Tokens name consumers of all channels and are never used twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ferrymq_broker::queues::{AckedAt, DeliverySink, QueueError, QueueHandle, Session, Settle, VhostEnd};
use ferrymq_types::Offset;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::channel::{Channel, Consumer};
use crate::confirms::Confirms;
use crate::context::Context;
use crate::input::Life;
use crate::numbers::Numbered;
use crate::output::Output;
use crate::overdue::OverdueList;
use crate::replies::Inbox;
use crate::unacked::Unacked;

/// What was agreed on while the connection was opened.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) vhost: Arc<str>,
    /// Says when that is deleted.
    pub(crate) vhost_end: VhostEnd,
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat: u16,
    /// The client understands `basic.cancel` from the server.
    pub(crate) cancel_notify: bool,
    /// The client understands `connection.blocked`.
    pub(crate) blocked_notify: bool,
}

/// A connection that is open.
pub(crate) struct Connection {
    pub(crate) context: Arc<Context>,
    pub(crate) peer: SocketAddr,
    pub(crate) opened: Opened,
    pub(crate) session: Session,
    pub(crate) sink: DeliverySink,
    pub(crate) life: Arc<Life>,
    pub(crate) output: Output,
    pub(crate) confirms: Confirms,
    /// Direct replies to this client.
    pub(crate) replies: Arc<Inbox>,
    pub(crate) state: Mutex<State>,
    /// What the client has had for too long.
    pub(crate) overdue: OverdueList,
    drain_wanted: AtomicBool,
    drained: Notify,
}

/// Channels and consumers.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) channels: Numbered<u16, Channel>,
    pub(crate) consumers: Numbered<u64, Consumer>,
    /// Channels and tags of consumers whose queue is gone, kept back while this connection deletes a queue: it
    /// hears `queue.delete-ok` first.
    pub(crate) cancels: Option<Vec<(u16, Bytes)>>,
    last_token: u64,
    last_incarnation: u64,
}

impl State {
    pub(crate) fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    pub(crate) fn open(&mut self, number: u16) {
        self.last_incarnation += 1;
        self.channels.insert(number, Channel::new(self.last_incarnation));
    }
}

impl Connection {
    pub(crate) fn new(
        context: Arc<Context>,
        peer: SocketAddr,
        opened: Opened,
        sink: DeliverySink,
        life: Arc<Life>,
    ) -> Connection {
        let session = context.queues.session();
        session.tell(&sink);
        let replies = Inbox::new(context.budget.clone());
        Connection {
            context,
            peer,
            opened,
            session,
            sink,
            life,
            output: Output::default(),
            confirms: Confirms::default(),
            replies,
            state: Mutex::default(),
            overdue: OverdueList::default(),
            drain_wanted: AtomicBool::new(false),
            drained: Notify::new(),
        }
    }

    /// A channel is closed on both sides.
    pub(crate) fn forget_channel(&self, number: u16) {
        let closed = self.state.lock().channels.remove(&number);
        self.count_closed(closed.iter());
    }

    /// All channels are closed.
    pub(crate) fn forget_channels(&self) {
        let channels = std::mem::take(&mut self.state.lock().channels);
        self.count_closed(channels.values());
    }

    fn count_closed<'a>(&self, channels: impl Iterator<Item = &'a Channel>) {
        let counters = &self.context.counters;
        for channel in channels {
            counters.channels_open.fetch_sub(1, Ordering::Relaxed);
            counters.publishers_open.fetch_sub(u64::from(channel.publishes), Ordering::Relaxed);
        }
    }

    /// Waits until the writer has taken everything that is in the sink now.
    pub(crate) async fn drain(&self) {
        self.drain_wanted.store(true, Ordering::Relaxed);
        self.output.wake();
        self.drained.notified().await;
    }

    /// Whether the reader waits for [`Connection::drain`].
    pub(crate) fn is_drain_wanted(&self) -> bool {
        self.drain_wanted.load(Ordering::Relaxed)
    }

    /// The writer has taken everything.
    pub(crate) fn say_drained(&self) {
        if self.drain_wanted.swap(false, Ordering::Relaxed) {
            self.drained.notify_one();
        }
    }
}

/// Settlements by queue.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    gathered: Vec<(QueueHandle, Vec<(Offset, Settle)>)>,
    /// Who was told of settlements that are not known to be durable.
    acked: AckedAt,
}

impl Settlements {
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    pub(crate) fn push(&mut self, queue: QueueHandle, offset: Offset, how: Settle) {
        if offset == Unacked::GIVEN_BACK {
            return;
        }
        let at = self.gathered.iter().rposition(|(known, _)| *known == queue);
        match at.and_then(|at| self.gathered.get_mut(at)) {
            Some((_, settlements)) => settlements.push((offset, how)),
            None => self.gathered.push((queue, vec![(offset, how)])),
        }
    }

    /// Waits until what was handed over is durable. What fails is asked about again the next time.
    pub(crate) async fn durable(&mut self, connection: &Connection) -> Result<(), QueueError> {
        if !self.acked.is_empty() {
            connection.context.queues.acked(self.acked).await?;
            self.acked = AckedAt::default();
        }
        Ok(())
    }

    /// The settlements, by queue.
    pub(crate) fn into_parts(self) -> Vec<(QueueHandle, Vec<(Offset, Settle)>)> {
        self.gathered
    }

    /// Hands them to the queues; a later request to a queue finds them done.
    pub(crate) async fn send(&mut self, connection: &Connection) {
        for (queue, what) in self.gathered.drain(..) {
            // What is given back is written as well where that must be known after a restart.
            self.acked.note(&queue);
            connection.context.queues.settle(&connection.session, &queue, what).await;
        }
    }
}
