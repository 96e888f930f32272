//! Frames to methods: what may come when, and what a mistake ends.
//!
//! **Invariants.** Methods take effect in the order in which they came. Publishes and settlements of one read
//! are gathered and handed over before anything else is done, and at the end of the read. Nothing is answered before
//! acknowledgements that came earlier are durable. What comes on a channel that we closed is not looked at until the client has said that it heard.
//!
//! Deliberately absent: what methods mean; see `methods/`.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ferrymq_amqp_codec::method::{basic, channel};
use ferrymq_amqp_codec::{FrameKind, FrameRef, Method, MethodId, ReplyCode, Scope, WireMethod as _};
use ferrymq_broker::queues::Settle;
use ferrymq_runtime::BytePermit;
use ferrymq_types::limits::CONNECTION_BYTES_IN_FLIGHT;
use tokio::net::tcp::ReadHalf;

use crate::connection::Ended;
use crate::content::{Assembly, Head};
use crate::failure::Failure;
use crate::input::Input;
use crate::publish::Gather;
use crate::state::{Connection, Settlements};

/// The reading side of an open connection.
pub(crate) struct Reader<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) gather: Gather,
    pub(crate) settlements: Settlements,
    pub(crate) from: &'c ReadHalf<'c>,
    /// Bytes of unfinished messages.
    kept: usize,
}

/// Why reading goes no further.
pub(crate) enum Halt {
    /// A mistake.
    Failed(Failure),
    /// The client closes the connection.
    Closed,
    /// The client hung up.
    Gone,
}

impl<F: Into<Failure>> From<F> for Halt {
    fn from(failure: F) -> Halt {
        Halt::Failed(failure.into())
    }
}

/// Reads until the connection ends.
pub(crate) async fn read_loop(connection: &Connection, input: &mut Input, from: &ReadHalf<'_>) -> Ended {
    let gather = Gather::default();
    let mut reader = Reader { connection, gather, settlements: Settlements::default(), from, kept: 0 };
    loop {
        let run = tokio::select! {
            () = connection.overdue.arrived() => {
                if let Err(failure) = reader.give_back_overdue().await {
                    return Ended::Failed(failure);
                }
                continue;
            }
            run = input.run(from) => match run {
                Ok(run) => run,
                Err(stop) => return stop.into(),
            },
        };
        connection.context.counters.bytes_in_total.fetch_add(run.len() as u64, Ordering::Relaxed);
        let mut rest = &run[..];
        while let Some(frame) = input.next_of(rest) {
            rest = rest.get(frame.wire_bytes()..).unwrap_or_default();
            if let Err(halt) = reader.frame(&frame, &run).await {
                if matches!(halt, Halt::Closed) {
                    // Its answer is the last that vouches for anything.
                    return reader.send_durably().await.map_or_else(Ended::Failed, |()| Ended::Closed);
                }
                reader.send().await;
                match halt {
                    Halt::Closed => return Ended::Closed,
                    Halt::Gone => return Ended::Gone,
                    Halt::Failed(failure) if failure.scope == Scope::Channel && frame.channel != 0 => {
                        reader.fail_channel(frame.channel, &failure).await;
                    }
                    Halt::Failed(failure) => return Ended::Failed(failure),
                }
            }
        }
        reader.send().await;
        connection.output.wake();
        connection.output.room().await;
    }
}

impl Reader<'_> {
    /// Hands over what was gathered.
    pub(crate) async fn send(&mut self) {
        if !self.settlements.is_empty() {
            self.settlements.send(self.connection).await;
        }
        self.gather.send(self.connection).await;
    }

    /// Hands over what was gathered and waits until what was acknowledged is durable: before anything is answered.
    pub(crate) async fn send_durably(&mut self) -> Result<(), Failure> {
        self.send().await;
        Ok(self.settlements.durable(self.connection).await?)
    }

    /// Hands over what was gathered and waits until all that was published is in its queues: for methods that
    /// look at what is in a queue.
    pub(crate) async fn settle_all(&mut self) {
        self.send().await;
        self.connection.confirms.none().await;
    }

    async fn frame(&mut self, frame: &FrameRef<'_>, run: &Bytes) -> Result<(), Halt> {
        match (frame.kind, frame.channel) {
            (FrameKind::Heartbeat, 0) => Ok(()),
            (FrameKind::Method, 0) => {
                let method = parse(frame.payload)?;
                self.connection_method(&method).await
            }
            (kind @ FrameKind::Heartbeat, _) | (kind, 0) => {
                let error = ferrymq_amqp_codec::DecodeError::UnexpectedFrame {
                    kind: kind as u8,
                    payload: ferrymq_amqp_codec::error::Snippet::of(frame.payload),
                };
                Err(error.into())
            }
            (FrameKind::Method, number) => self.channel_frame(number, frame.payload, run).await,
            (FrameKind::Header | FrameKind::Body, number) => self.content_frame(number, frame, run).await,
        }
    }

    /// A method on a channel.
    async fn channel_frame(&mut self, number: u16, payload: &[u8], run: &Bytes) -> Result<(), Halt> {
        let id = MethodId::peek(payload).unwrap_or(MethodId::NONE);
        let is_closing = {
            let state = self.connection.state.lock();
            match state.channels.get(&number) {
                None => None,
                Some(channel) if !channel.closing && !channel.assembly.is_idle() => {
                    return Err(channel.assembly.interrupted().into());
                }
                Some(channel) => Some(channel.closing),
            }
        };
        match is_closing {
            Some(true) => {
                if id == channel::Close::ID {
                    self.send_durably().await?;
                }
                self.closing_method(number, id);
                Ok(())
            }
            Some(false) => {
                let method = parse(payload)?;
                if let Method::BasicPublish(publish) = method {
                    return self.begin_publish(number, &publish, run).map_err(Halt::Failed);
                }
                self.method(number, &method).await.map_err(|failure| Halt::Failed(failure.of(id)))
            }
            None => match parse(payload)? {
                Method::ChannelOpen(_) => {
                    self.send_durably().await?;
                    self.open_channel(number).map_err(Halt::Failed)
                }
                _ => Err(Failure::hard(ReplyCode::ChannelError, "expected 'channel.open'").of(id).into()),
            },
        }
    }

    fn begin_publish(
        &mut self,
        number: u16,
        publish: &basic::Publish<'_>,
        run: &Bytes,
    ) -> Result<(), Failure> {
        if publish.immediate {
            return Err(Failure::new(ReplyCode::NotImplemented, "immediate=true").of(basic::Publish::ID));
        }
        let head = Head {
            exchange: run.slice_ref(publish.exchange),
            routing_key: run.slice_ref(publish.routing_key),
            mandatory: publish.mandatory,
        };
        if let Some(channel) = self.connection.state.lock().channels.get_mut(&number) {
            channel.assembly = Assembly::Method(head);
        }
        Ok(())
    }

    /// A content header or a part of a body.
    async fn content_frame(&mut self, number: u16, frame: &FrameRef<'_>, run: &Bytes) -> Result<(), Halt> {
        let must_keep = match self.connection.state.lock().channels.get(&number) {
            Some(channel) if channel.closing => return Ok(()),
            Some(channel) => channel.assembly.must_keep(frame),
            None => 0,
        };
        let room = if must_keep > 0 { Some(self.room_for(must_keep).await?) } else { None };
        let bytes_max = self.connection.context.config.message_bytes_max;
        let taken = {
            let mut state = self.connection.state.lock();
            // A number that nobody opened expects a method like any other.
            let mut nobody = Assembly::Idle;
            let assembly = match state.channels.get_mut(&number) {
                Some(channel) => &mut channel.assembly,
                None => &mut nobody,
            };
            let before = assembly.kept();
            let taken = assembly.take(frame, run, room, bytes_max);
            self.kept = (self.kept + assembly.kept()).saturating_sub(before);
            taken
        };
        match taken? {
            None => Ok(()),
            Some(content) => {
                self.hold_back().await?;
                self.gather.add(self.connection, number, content).map_err(Halt::Failed)
            }
        }
    }

    /// Room for a part of a body. Waiting for it does not last: whoever holds it may wait for us.
    async fn room_for(&mut self, bytes: usize) -> Result<BytePermit, Failure> {
        let context = &self.connection.context;
        if self.kept + bytes > CONNECTION_BYTES_IN_FLIGHT {
            let text = format!(
                "unfinished messages of a connection hold more than {CONNECTION_BYTES_IN_FLIGHT} bytes"
            );
            return Err(Failure::hard(ReplyCode::ResourceError, text));
        }
        if let Some(room) = context.budget.try_take(bytes) {
            return Ok(room);
        }
        self.send().await;
        tokio::select! {
            room = context.budget.take(bytes) => Ok(room),
            () = context.clock.sleep(context.config.patience) => {
                Err(Failure::hard(ReplyCode::ResourceError, "the server is too busy for a message of that size"))
            }
        }
    }

    /// On a channel that we closed only its end counts.
    fn closing_method(&mut self, number: u16, id: MethodId) {
        if id == channel::CloseOk::ID {
            self.connection.forget_channel(number);
        } else if id == channel::Close::ID {
            self.connection.output.method(number, &channel::CloseOk {});
        }
    }

    /// Ends a channel for a mistake, and tells the client.
    pub(crate) async fn fail_channel(&mut self, number: u16, failure: &Failure) {
        let connection = self.connection;
        connection.context.counters.channel_errors_total.fetch_add(1, Ordering::Relaxed);
        tracing::info!(peer = %connection.peer, channel = number, why = failure.text, "AMQP channel closed");
        self.clear_channel(number).await;
        let MethodId { class, method } = failure.method;
        let close = channel::Close {
            reply_code: failure.code.code(),
            reply_text: failure.text.as_bytes(),
            class_id: class,
            method_id: method,
        };
        connection.output.method(number, &close);
        connection.output.wake();
    }

    /// Takes everything off a channel, which hears nothing more from now on: consumers, unfinished messages,
    /// and what was not settled, which is available again when this returns.
    pub(crate) async fn clear_channel(&mut self, number: u16) {
        self.send().await;
        let connection = self.connection;
        let consumers: Vec<u64> = {
            let mut state = connection.state.lock();
            let Some(channel) = state.channels.get_mut(&number) else { return };
            channel.closing = true;
            self.kept = self.kept.saturating_sub(channel.assembly.kept());
            channel.assembly = Assembly::Idle;
            channel.replies = None;
            channel.consumers.drain().map(|(_, token)| token).collect()
        };
        for token in &consumers {
            let inner =
                connection.state.lock().consumers.get(token).and_then(|consumer| consumer.inner.clone());
            let Some(inner) = inner else { continue };
            if let Err(error) = connection.context.queues.cancel(&connection.session, &inner).await {
                tracing::warn!(error = %error, queue = ?inner.queue, "a consumer did not end cleanly");
            }
        }
        if !consumers.is_empty() {
            connection.drain().await;
        }
        // Not another's: it knows what the connection acknowledged and nobody has vouched for yet.
        let settlements = &mut self.settlements;
        {
            let mut guard = connection.state.lock();
            let state = &mut *guard;
            let Some(channel) = state.channels.get_mut(&number) else { return };
            let held = channel.tx.take().into_iter().flat_map(|tx| tx.settled);
            for (_, unacked, _) in held {
                settlements.push(unacked.queue, unacked.offset, Settle::Fail);
            }
            for unacked in channel.unacked.take_all() {
                settlements.push(unacked.queue, unacked.offset, Settle::Fail);
            }
            for (token, delivery) in channel.held.drain(..) {
                if let Some(consumer) = state.consumers.get(&token).filter(|consumer| !consumer.no_ack)
                    && let Some(queue) = consumer.queue()
                {
                    // It never went out: nobody failed on it.
                    settlements.push(queue.clone(), delivery.offset, Settle::Requeue);
                }
            }
            for token in &consumers {
                state.consumers.remove(token);
            }
        }
        settlements.send(connection).await;
    }
}

/// A method; what cannot be read tells which it was to be.
fn parse(payload: &[u8]) -> Result<Method<'_>, Failure> {
    Method::parse(payload)
        .map_err(|error| Failure::from(error).of(MethodId::peek(payload).unwrap_or(MethodId::NONE)))
}
