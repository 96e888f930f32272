//! Transactions of a channel: what is held back until `tx.commit`.
//!
//! **Invariants.** Messages are routed and checked when they are published, and delivery tags when they are settled;
//! whatever goes wrong there ends the channel at once. Nothing else happens before the commit, which is one joint
//! commit of the queues: all of it is durable or nothing happened. What a transaction holds is counted, and bounded
//! for a channel and for the whole server.
//!
//! Deliberately absent: nothing is withdrawn by a rollback but what was held here; `basic.get` and deliveries are no
//! part of a transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ferrymq_amqp_codec::ReplyCode;
use ferrymq_amqp_codec::method::tx;
use ferrymq_broker::queues::{Message, Publish, QueueError, Settle};
use ferrymq_runtime::BytePermit;
use ferrymq_types::limits::AMQP_TX_BYTES_MAX;

use crate::channel::Channel;
use crate::content::Content;
use crate::failure::Failure;
use crate::publish::{answer, give_back};
use crate::reader::Reader;
use crate::replies::Target;
use crate::state::{Connection, Settlements};
use crate::unacked::Unacked;

/// Bytes a message or a settlement is counted as beside its content.
const OVERHEAD: usize = 256;

/// An open transaction.
#[derive(Debug, Default)]
pub(crate) struct Tx {
    publishes: Vec<Publish>,
    /// Direct replies, sent with the commit.
    replies: Vec<(Vec<Arc<Target>>, Message)>,
    /// Mandatory messages that go nowhere; the client is told with the commit.
    returns: Vec<Content>,
    /// By delivery tag.
    pub(crate) settled: Vec<(u64, Unacked, Settle)>,
    bytes: usize,
    room: Vec<BytePermit>,
}

impl Tx {
    /// Takes a message that was routed.
    pub(crate) fn publish(
        &mut self,
        connection: &Connection,
        mut publish: Publish,
        replies: Vec<Arc<Target>>,
    ) -> Result<(), Failure> {
        self.make_room(connection, publish.message.bytes())?;
        // What may wait long must not hold the memory that it was read into.
        own(&mut publish.message.properties);
        own(&mut publish.message.body);
        if !replies.is_empty() {
            self.replies.push((replies, publish.message.clone()));
        }
        if !publish.to.is_empty() {
            self.publishes.push(publish);
        }
        Ok(())
    }

    /// Takes a mandatory message that goes nowhere.
    pub(crate) fn unroutable(
        &mut self,
        connection: &Connection,
        mut content: Content,
    ) -> Result<(), Failure> {
        self.make_room(connection, content.properties.len() + content.body.len())?;
        content.room.clear();
        for bytes in [
            &mut content.head.exchange,
            &mut content.head.routing_key,
            &mut content.properties,
            &mut content.body,
        ] {
            own(bytes);
        }
        self.returns.push(content);
        Ok(())
    }

    fn make_room(&mut self, connection: &Connection, bytes: usize) -> Result<(), Failure> {
        let bytes = bytes + OVERHEAD;
        if self.bytes + bytes > AMQP_TX_BYTES_MAX {
            let text = format!("a transaction may not hold more than {AMQP_TX_BYTES_MAX} bytes of messages");
            return Err(Failure::new(ReplyCode::PreconditionFailed, text));
        }
        let Some(room) = connection.context.budget.try_take(bytes) else {
            let text = "open transactions hold all the memory there is for them";
            return Err(Failure::new(ReplyCode::PreconditionFailed, text));
        };
        self.bytes += bytes;
        match self.room.last_mut() {
            Some(all) => all.merge(room),
            None => self.room.push(room),
        }
        Ok(())
    }
}

fn own(bytes: &mut Bytes) {
    *bytes = Bytes::copy_from_slice(bytes);
}

impl Channel {
    /// Takes deliveries out of the unacked and into the transaction; `None` if the tag is not there.
    pub(crate) fn settle_later(&mut self, tag: u64, multiple: bool, how: Settle) -> Option<u64> {
        let tx = self.tx.as_mut()?;
        let taken = self.unacked.take_tagged(tag, multiple)?;
        let count = taken.len() as u64;
        tx.settled.extend(taken.into_iter().map(|(tag, unacked)| (tag, unacked, how)));
        Some(count)
    }
}

impl Reader<'_> {
    pub(crate) fn tx_select(&mut self, number: u16) -> Result<(), Failure> {
        if let Some(channel) = self.connection.state.lock().channels.get_mut(&number) {
            if channel.confirms.is_some() {
                let text = "cannot switch from confirm to tx mode";
                return Err(Failure::new(ReplyCode::PreconditionFailed, text));
            }
            channel.tx.get_or_insert_default();
        }
        self.connection.output.method(number, &tx::SelectOk {});
        Ok(())
    }

    pub(crate) async fn tx_commit(&mut self, number: u16) -> Result<(), Failure> {
        let connection = self.connection;
        let tx = self.take_tx(number)?;
        let Tx { publishes, replies, returns, settled, room, .. } = tx;
        for content in &returns {
            give_back(connection, number, content)?;
        }
        let mut settlements = Settlements::default();
        for (_, Unacked { queue, offset, .. }, how) in &settled {
            settlements.push(queue.clone(), *offset, *how);
        }
        let settlements = settlements.into_parts();
        let targets = publishes.iter().map(|publish| publish.to.queues().len()).sum::<usize>()
            + replies.iter().map(|(replies, _)| replies.len()).sum::<usize>();
        if !publishes.is_empty() || !settlements.is_empty() {
            let queues = &connection.context.queues;
            if let Err(error) = queues.commit(&connection.session, publishes, settlements).await {
                if error.is_full() {
                    connection.context.alarm.set(true);
                }
                // They are held as before, and go back to their queues with the channel.
                self.put_back(number, settled);
                return Err(not_committed(error));
            }
        }
        connection.context.counters.routed_total.fetch_add(targets as u64, Ordering::Relaxed);
        for (replies, message) in &replies {
            answer(connection, replies, message);
        }
        drop(room);
        if let Some(channel) = connection.state.lock().channels.get_mut(&number) {
            channel.settled(settled.iter().map(|(_, unacked, _)| u32::from(unacked.consumed)).sum());
        }
        settled.iter().for_each(|(_, _, how)| connection.context.counters.count_settled(*how, 1));
        connection.output.method(number, &tx::CommitOk {});
        connection.release(&mut connection.state.lock(), number)
    }

    pub(crate) fn tx_rollback(&mut self, number: u16) -> Result<(), Failure> {
        let tx = self.take_tx(number)?;
        if let Some(channel) = self.connection.state.lock().channels.get_mut(&number) {
            channel
                .unacked
                .put_back(tx.settled.into_iter().map(|(tag, unacked, _)| (tag, unacked)).collect());
        }
        self.connection.output.method(number, &tx::RollbackOk {});
        Ok(())
    }

    /// The channel's transaction; a new one begins.
    fn take_tx(&mut self, number: u16) -> Result<Tx, Failure> {
        let mut state = self.connection.state.lock();
        let tx = state.channels.get_mut(&number).and_then(|channel| channel.tx.as_mut());
        let not = || Failure::new(ReplyCode::PreconditionFailed, "channel is not transactional");
        tx.map(std::mem::take).ok_or_else(not)
    }

    fn put_back(&mut self, number: u16, settled: Vec<(u64, Unacked, Settle)>) {
        let mut state = self.connection.state.lock();
        if let Some(tx) = state.channels.get_mut(&number).and_then(|channel| channel.tx.as_mut()) {
            tx.settled = settled;
        }
    }
}

/// A commit that certainly did not happen ends its channel only.
fn not_committed(error: QueueError) -> Failure {
    if matches!(error, QueueError::Stopped) || !error.is_certain() {
        return error.into();
    }
    Failure::new(ReplyCode::PreconditionFailed, format_args!("the transaction was not committed: {error}"))
}
