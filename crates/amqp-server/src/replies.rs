//! Direct reply-to: replies go from the publisher's connection straight to the channel that asked.
//!
//! A channel that consumes [`PSEUDO_QUEUE`] gets a name of its own. What it publishes with the pseudo-queue as
//! `reply_to` carries that name, and what is published to that name through the default exchange lies in the inbox
//! of the channel's connection until its writer fetches it: no queue, nothing stored, delivered at most once.
//!
//! **Invariants.** A name is known for as long as its consumer is there. A name cannot be guessed. An inbox holds
//! [`FREE_BYTES`] at no cost; what goes beyond takes from the door's budget, up to [`INBOX_BYTES_MAX`]. A publisher
//! never waits for whoever asked: a reply without room is refused, and its confirm is a nack.
//!
//! Deliberately absent: an exchange whose alternate exchange is the default one does not reach replies.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ferrymq_broker::queues::Message;
use ferrymq_runtime::{ByteBudget, BytePermit, Rng};
use ferrymq_types::limits::CONNECTION_BYTES_IN_FLIGHT;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

/// What is consumed to be answered directly.
pub(crate) const PSEUDO_QUEUE: &str = "amq.rabbitmq.reply-to";
/// How the names begin that it stands for.
const PREFIX: &str = "amq.rabbitmq.reply-to.";
/// Bytes of replies that an inbox holds without asking the budget.
const FREE_BYTES: usize = 256 * 1024;
/// Bytes of replies that an inbox holds at most.
const INBOX_BYTES_MAX: usize = CONNECTION_BYTES_IN_FLIGHT;
/// Bytes a reply is counted as beside its message.
const REPLY_OVERHEAD: usize = 256;
/// A body up to this size is copied, so that it does not hold the memory that it was read into.
const COPIED_BYTES_MAX: usize = 64 * 1024;

/// Whether a queue of this name would be one of replies.
pub(crate) fn is_reply_name(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

/// All that wait for replies, by name.
#[derive(Debug, Default)]
pub(crate) struct ReplyTargets(RwLock<HashMap<Bytes, Arc<Target>>>);

/// Where the replies to one consumer go.
#[derive(Debug)]
pub(crate) struct Target {
    vhost: Arc<str>,
    channel: u16,
    /// The consumer, unique within its connection.
    token: u64,
    inbox: Arc<Inbox>,
}

/// A consumer of the pseudo-queue; dropping it makes its name unknown.
#[derive(Debug)]
pub(crate) struct ReplyConsumer {
    /// The consumer tag.
    pub(crate) tag: Bytes,
    /// What the pseudo-queue stands for.
    pub(crate) name: Bytes,
    /// Unique within the connection.
    pub(crate) token: u64,
    targets: Arc<ReplyTargets>,
}

/// A reply on its way.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The channel that asked.
    pub(crate) channel: u16,
    /// Its consumer.
    pub(crate) token: u64,
    /// What it is told.
    pub(crate) message: Message,
    bytes: usize,
    /// Beyond what costs nothing.
    _room: Option<BytePermit>,
}

/// Replies that wait to be written to one client.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<Waiting>,
    arrived: Notify,
    budget: ByteBudget,
}

#[derive(Debug, Default)]
struct Waiting {
    replies: VecDeque<Reply>,
    bytes: usize,
}

impl ReplyTargets {
    /// A consumer that can be replied to from now on.
    pub(crate) fn register(
        self: &Arc<ReplyTargets>,
        rng: &Rng,
        vhost: &Arc<str>,
        inbox: &Arc<Inbox>,
        (channel, token): (u16, u64),
        tag: Bytes,
    ) -> ReplyConsumer {
        let name = Bytes::from(format!("{PREFIX}{:032x}", rng.secret_u128()));
        let target = Target { vhost: vhost.clone(), channel, token, inbox: inbox.clone() };
        self.0.write().insert(name.clone(), Arc::new(target));
        ReplyConsumer { tag, name, token, targets: self.clone() }
    }

    /// Who replies to this name go to.
    pub(crate) fn find(&self, vhost: &str, name: &[u8]) -> Option<Arc<Target>> {
        if !is_reply_name(name) {
            return None;
        }
        self.0.read().get(name).filter(|target| &*target.vhost == vhost).cloned()
    }
}

impl Drop for ReplyConsumer {
    fn drop(&mut self) {
        self.targets.0.write().remove(&self.name);
    }
}

impl Target {
    /// Whether both lead to one consumer.
    pub(crate) fn is(&self, other: &Target) -> bool {
        self.token == other.token && Arc::ptr_eq(&self.inbox, &other.inbox)
    }

    /// Puts a reply into the inbox. False if there is no room for it.
    pub(crate) fn send(&self, message: &Message) -> bool {
        let bytes = message.bytes() + REPLY_OVERHEAD;
        let inbox = &self.inbox;
        let mut waiting = inbox.state.lock();
        let after = waiting.bytes + bytes;
        let room = if after <= FREE_BYTES {
            None
        } else if after > INBOX_BYTES_MAX {
            return false;
        } else {
            match inbox.budget.try_take(bytes) {
                None => return false,
                room => room,
            }
        };
        waiting.bytes = after;
        let (channel, token) = (self.channel, self.token);
        let reply = Reply { channel, token, message: detached(message), bytes, _room: room };
        waiting.replies.push_back(reply);
        drop(waiting);
        inbox.arrived.notify_one();
        true
    }
}

impl Inbox {
    /// An empty one.
    pub(crate) fn new(budget: ByteBudget) -> Arc<Inbox> {
        Arc::new(Inbox { state: Mutex::default(), arrived: Notify::new(), budget })
    }

    /// The next reply, if there is one.
    pub(crate) fn pop(&self) -> Option<Reply> {
        let mut waiting = self.state.lock();
        let reply = waiting.replies.pop_front()?;
        waiting.bytes -= reply.bytes;
        Some(reply)
    }

    /// Takes out what waits for one consumer, in order.
    pub(crate) fn take(&self, token: u64) -> Vec<Reply> {
        let mut waiting = self.state.lock();
        let (its, others) =
            std::mem::take(&mut waiting.replies).into_iter().partition(|reply| reply.token == token);
        waiting.replies = others;
        let its: Vec<Reply> = its.into();
        waiting.bytes -= its.iter().map(|reply| reply.bytes).sum::<usize>();
        its
    }

    /// Waits for a reply. Cancel safe: an arrival that nobody waited for is kept.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// The message without the memory that it was read into.
fn detached(message: &Message) -> Message {
    let copied = |bytes: &Bytes| match bytes.len() {
        0 => Bytes::new(),
        length if length <= COPIED_BYTES_MAX => Bytes::copy_from_slice(bytes),
        _ => bytes.clone(),
    };
    Message {
        exchange: copied(&message.exchange),
        routing_key: copied(&message.routing_key),
        properties: copied(&message.properties),
        body: copied(&message.body),
        persistent: message.persistent,
        ttl_ms: message.ttl_ms,
        priority: message.priority,
        delay: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        Message { body: Bytes::from(vec![7; bytes]), ..Message::default() }
    }

    fn target(budget: usize) -> (Arc<ReplyTargets>, Arc<Inbox>, ReplyConsumer, Arc<Target>) {
        let (targets, inbox) = (Arc::new(ReplyTargets::default()), Inbox::new(ByteBudget::new(budget)));
        let consumer =
            targets.register(&Rng::seeded(1), &Arc::from("/"), &inbox, (1, 1), Bytes::from_static(b"t"));
        let target = targets.find("/", &consumer.name).unwrap();
        (targets, inbox, consumer, target)
    }

    #[test]
    fn a_name_is_known_while_its_consumer_is_there() {
        let (targets, inbox, consumer, _target) = target(0);
        assert!(is_reply_name(&consumer.name) && !is_reply_name(PSEUDO_QUEUE.as_bytes()));
        assert!(targets.find("other", &consumer.name).is_none(), "of another virtual host");
        let other = targets.register(&Rng::seeded(2), &Arc::from("/"), &inbox, (1, 2), Bytes::new());
        let name = consumer.name.clone();
        drop(consumer);
        assert!(targets.find("/", &name).is_none());
        assert!(targets.find("/", &other.name).is_some());
    }

    #[test]
    fn an_inbox_is_bounded_and_gives_back_what_it_took() {
        let (_targets, inbox, _consumer, target) = target(1024 * 1024);
        assert!(target.send(&message(FREE_BYTES - REPLY_OVERHEAD)), "at no cost");
        assert_eq!(inbox.budget.in_use(), 0);
        assert!(target.send(&message(1024 * 1024 - REPLY_OVERHEAD)), "the whole budget");
        assert!(!target.send(&message(1)), "nothing is left");
        assert_eq!(inbox.pop().unwrap().message.body.len(), FREE_BYTES - REPLY_OVERHEAD);
        assert!(!target.send(&message(1)), "what waits is still beyond what costs nothing");
        drop(inbox.pop());
        assert_eq!((inbox.budget.in_use(), inbox.state.lock().bytes), (0, 0));
        assert!(target.send(&message(1)) && inbox.pop().is_some() && inbox.pop().is_none());
    }

    #[test]
    fn no_inbox_is_beyond_its_own_limit() {
        let (_targets, _inbox, _consumer, target) = target(4 * INBOX_BYTES_MAX);
        assert!(target.send(&message(INBOX_BYTES_MAX - REPLY_OVERHEAD)));
        assert!(!target.send(&message(1)));
    }

    #[test]
    fn what_waits_for_one_consumer_can_be_taken_out() {
        let (targets, inbox, _consumer, first) = target(0);
        let other = targets.register(&Rng::seeded(2), &Arc::from("/"), &inbox, (1, 2), Bytes::new());
        let second = targets.find("/", &other.name).unwrap();
        assert!(first.is(&first) && !first.is(&second));
        for (target, bytes) in [(&first, 1), (&second, 2), (&first, 3)] {
            assert!(target.send(&message(bytes)));
        }
        let lengths: Vec<usize> = inbox.take(1).iter().map(|reply| reply.message.body.len()).collect();
        assert_eq!(lengths, [1, 3]);
        assert_eq!(inbox.pop().unwrap().message.body.len(), 2);
        assert_eq!(inbox.state.lock().bytes, 0);
    }
}
