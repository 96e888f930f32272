//! The pseudo-queue of direct replies and the names it stands for, where a method names a queue.
//!
//! **Invariants.** One consumer a channel, without acknowledgements. Replies that came before `basic.cancel`
//! precede `basic.cancel-ok`. Words and codes are RabbitMQ's: a name is told to be a queue with one consumer, which
//! can be declared, purged and deleted without effect, and neither bound nor read.
//!
//! Deliberately absent: where replies come from; see `publish` and `replies`.

use ferrymq_amqp_codec::ReplyCode;
use ferrymq_amqp_codec::method::{basic, queue};
use ferrymq_broker::queues::{Entity, QueueError};
use ferrymq_types::limits::AMQP_CONSUMERS_MAX;

use super::consume::{reused, too_many};
use crate::failure::Failure;
use crate::reader::Reader;
use crate::replies::{PSEUDO_QUEUE, Reply, is_reply_name};

impl Reader<'_> {
    /// Begins to consume replies, or the queue that a name of replies stands for.
    pub(crate) fn consume_replies(
        &mut self,
        number: u16,
        name: &str,
        consume: &basic::Consume<'_>,
    ) -> Result<(), Failure> {
        let connection = self.connection;
        if name != PSEUDO_QUEUE {
            return Err(self.not_its_consumer(number, name));
        }
        let precondition = |text| Failure::new(ReplyCode::PreconditionFailed, text);
        let mut state = connection.state.lock();
        if state.consumers.len() >= AMQP_CONSUMERS_MAX {
            return Err(too_many());
        }
        let token = state.next_token();
        let Some(channel) = state.channels.get_mut(&number) else { return Ok(()) };
        if channel.consumers.contains_key(consume.consumer_tag) {
            return Err(reused(consume.consumer_tag));
        }
        if !consume.no_ack {
            return Err(precondition("reply consumer cannot acknowledge"));
        }
        if channel.replies.is_some() {
            return Err(precondition("reply consumer already set"));
        }
        let context = &connection.context;
        let tag = super::consume::tag_of(context, consume.consumer_tag);
        if !consume.nowait {
            connection.output.method(number, &basic::ConsumeOk { consumer_tag: &tag });
        }
        let (vhost, inbox) = (&connection.opened.vhost, &connection.replies);
        channel.replies = Some(context.replies.register(&context.rng, vhost, inbox, (number, token), tag));
        Ok(())
    }

    /// Why nobody else consumes what is sent to a name of replies.
    fn not_its_consumer(&self, number: u16, name: &str) -> Failure {
        let connection = self.connection;
        if let Err(failure) = self.check_reply_name(name) {
            return failure;
        }
        let state = connection.state.lock();
        let own = state.channels.get(&number).and_then(|channel| channel.replies.as_ref());
        let vhost = &connection.opened.vhost;
        let text = if own.is_some_and(|own| own.name == name.as_bytes()) {
            format!("multiple consumers are unsupported for queue '{name}' in vhost '{vhost}'")
        } else {
            format!("only creator channel may consume from queue '{name}' in vhost '{vhost}'")
        };
        Failure::new(ReplyCode::PreconditionFailed, text)
    }

    /// Ends the consumer of replies, if that is what the tag names.
    pub(crate) fn cancel_replies(&mut self, number: u16, tag: &[u8]) -> Result<bool, Failure> {
        let connection = self.connection;
        let mut state = connection.state.lock();
        let Some(channel) = state.channels.get_mut(&number) else { return Ok(false) };
        let Some(consumer) = channel.replies.as_ref().filter(|consumer| consumer.tag == tag) else {
            return Ok(false);
        };
        let waiting: Vec<Reply> = connection.replies.take(consumer.token);
        for reply in waiting {
            let mut sent = Ok(());
            let written = connection.output.with(|out| {
                sent = connection.send_reply(channel, &reply, out);
                Ok(())
            });
            written.map_err(crate::deliver::undeliverable)?;
            sent?;
        }
        channel.replies = None;
        Ok(true)
    }

    /// Answers the declaration of a name of replies, or of the pseudo-queue; false if the name is no such.
    pub(crate) fn declare_replies(&mut self, number: u16, name: &str, nowait: bool) -> Result<bool, Failure> {
        if !name.starts_with(PSEUDO_QUEUE) {
            return Ok(false);
        }
        if name != PSEUDO_QUEUE {
            self.check_reply_name(name)?;
        }
        let connection = self.connection;
        if !nowait {
            let ok = queue::DeclareOk { queue: name.as_bytes(), message_count: 0, consumer_count: 1 };
            connection.output.method(number, &ok);
        }
        if let Some(channel) = connection.state.lock().channels.get_mut(&number) {
            channel.last_queue = Some(name.into());
        }
        Ok(true)
    }

    /// Whether this is a name of replies that somebody waits for. What is asked of its messages has no effect.
    ///
    /// # Errors
    /// 404 if it is a name of replies that nobody waits for.
    pub(crate) fn has_replies(&self, name: &str) -> Result<bool, Failure> {
        if !is_reply_name(name.as_bytes()) {
            return Ok(false);
        }
        self.check_reply_name(name)?;
        Ok(true)
    }

    fn check_reply_name(&self, name: &str) -> Result<(), Failure> {
        let connection = self.connection;
        let vhost = &connection.opened.vhost;
        match connection.context.replies.find(vhost, name.as_bytes()) {
            Some(_) => Ok(()),
            None => {
                let (vhost, name) = (vhost.clone(), name.into());
                Err(QueueError::NotFound { entity: Entity::Queue, vhost, name }.into())
            }
        }
    }
}

/// A name of replies cannot be bound.
pub(super) fn check_bindable(name: &str) -> Result<(), Failure> {
    if is_reply_name(name.as_bytes()) {
        let text = "cannot bind or unbind to a volatile (direct reply-to) queue";
        return Err(Failure::new(ReplyCode::AccessRefused, text));
    }
    Ok(())
}
