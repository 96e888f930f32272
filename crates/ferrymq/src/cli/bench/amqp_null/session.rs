//! One connection of the null responder: bytes in, answers out.
//!
//! **Invariants.** Every answer that a client waits for is given, in order. A message counts when its body is
//! whole. What is not served ends the connection and is named.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::{basic, channel, confirm, connection, exchange, queue};
use ferrymq_amqp_codec::{ContentHeader, FrameKind, FrameReader, FrameRef, Method, TableBuilder, ValueRef};

use super::queues::{Content, Queue, Queues, Subscription};

/// The frames that are agreed to, in bytes.
pub(super) const FRAME_MAX: u32 = 131_072;
const CONSUMER_TAG: &[u8] = b"null";

/// A connection.
pub(super) struct Session {
    queues: Arc<Queues>,
    frames: FrameReader,
    /// Publishings so far, if they are confirmed.
    published: Option<u64>,
    subscription: Option<Subscription>,
    incoming: Incoming,
}

/// The messages that are being published.
#[derive(Default)]
struct Incoming {
    channel: u16,
    /// The payload of the last publish method: the next one is like it, mostly.
    method: Vec<u8>,
    exchange: Bytes,
    routing_key: Bytes,
    targets: Vec<Arc<Queue>>,
    properties: Vec<u8>,
    body: Vec<u8>,
    missing_bytes: u64,
    /// Whole messages that the targets were not given yet.
    whole: u64,
}

impl Session {
    pub(super) fn new(queues: Arc<Queues>) -> Session {
        let frames = FrameReader::new(FRAME_MAX);
        Session { queues, frames, published: None, subscription: None, incoming: Incoming::default() }
    }

    /// The first frame.
    pub(super) fn greet(&self, out: &mut BytesMut) -> anyhow::Result<()> {
        let mut properties = TableBuilder::new();
        properties.push(b"product", ValueRef::LongString(b"null-responder"))?;
        properties.push(b"version", ValueRef::LongString(env!("CARGO_PKG_VERSION").as_bytes()))?;
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties.as_table(),
            mechanisms: b"PLAIN",
            locales: b"en_US",
        };
        Ok(put_method(out, 0, &start)?)
    }

    /// The consumer that was asked for, once.
    pub(super) fn subscription(&mut self) -> Option<Subscription> {
        self.subscription.take()
    }

    /// Takes whole frames and appends the answers; how many bytes are done with.
    pub(super) fn take(&mut self, input: &[u8], out: &mut BytesMut) -> anyhow::Result<usize> {
        let mut done = 0;
        let mut confirmed = self.published;
        while let Some(frame) = self.frames.peek(&input[done..])? {
            done += frame.wire_bytes();
            match frame.kind {
                FrameKind::Method if frame.payload == self.incoming.method => {}
                FrameKind::Method => self.method(&frame, out)?,
                FrameKind::Header => {
                    let header = ContentHeader::parse(frame.payload)?;
                    self.incoming.properties.clear();
                    self.incoming.properties.extend_from_slice(header.properties.as_bytes());
                    self.incoming.body.clear();
                    self.incoming.missing_bytes = header.body_size_bytes;
                    self.message_part();
                }
                FrameKind::Body => {
                    self.incoming.body.extend_from_slice(frame.payload);
                    let missing = self.incoming.missing_bytes.checked_sub(frame.payload.len() as u64);
                    let missing = missing.ok_or_else(|| anyhow::anyhow!("a body longer than announced"))?;
                    self.incoming.missing_bytes = missing;
                    self.message_part();
                }
                FrameKind::Heartbeat => {}
            }
        }
        self.incoming.give();
        confirmed = confirmed.or(self.published.map(|_| 0));
        if let Some(delivery_tag) = self.published.filter(|now| confirmed.is_some_and(|before| *now > before))
        {
            put_method(out, self.incoming.channel, &basic::Ack { delivery_tag, multiple: true })?;
        }
        Ok(done)
    }

    /// Counts the message if it is whole.
    fn message_part(&mut self) {
        if self.incoming.missing_bytes == 0 {
            self.incoming.whole += 1;
            self.published = self.published.map(|count| count + 1);
        }
    }

    fn method(&mut self, frame: &FrameRef<'_>, out: &mut BytesMut) -> anyhow::Result<()> {
        let number = frame.channel;
        match Method::parse(frame.payload)? {
            Method::BasicPublish(publish) => {
                self.incoming.give();
                self.incoming.channel = number;
                self.incoming.method = frame.payload.to_vec();
                self.incoming.exchange = Bytes::copy_from_slice(publish.exchange);
                self.incoming.routing_key = Bytes::copy_from_slice(publish.routing_key);
                self.incoming.targets = self.queues.route(publish.exchange, publish.routing_key);
            }
            Method::BasicConsume(consume) => {
                let queue = self.queues.queue(consume.queue);
                let tag = if consume.consumer_tag.is_empty() { CONSUMER_TAG } else { consume.consumer_tag };
                put_method(out, number, &basic::ConsumeOk { consumer_tag: tag })?;
                self.subscription = Some(Subscription::new(queue, number, Bytes::copy_from_slice(tag)));
            }
            Method::BasicAck(_) | Method::ConnectionTuneOk(_) => {}
            Method::ConnectionStartOk(_) => {
                let tune = connection::Tune { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 };
                put_method(out, 0, &tune)?;
            }
            Method::ConnectionOpen(_) => put_method(out, 0, &connection::OpenOk::default())?,
            Method::ConnectionClose(_) => put_method(out, 0, &connection::CloseOk {})?,
            Method::ChannelOpen(_) => put_method(out, number, &channel::OpenOk::default())?,
            Method::ChannelClose(_) => put_method(out, number, &channel::CloseOk {})?,
            Method::ConfirmSelect(_) => {
                self.published = Some(0);
                put_method(out, number, &confirm::SelectOk {})?;
            }
            Method::BasicQos(_) => put_method(out, number, &basic::QosOk {})?,
            other => self.topology(other, number, out)?,
        }
        Ok(())
    }

    /// Queues, exchanges and bindings.
    fn topology(&mut self, method: Method<'_>, number: u16, out: &mut BytesMut) -> anyhow::Result<()> {
        // Where messages go may change.
        self.incoming.method.clear();
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        match method {
            Method::QueueDeclare(declare) => {
                let message_count = small(self.queues.queue(declare.queue).waiting());
                let answer = queue::DeclareOk { queue: declare.queue, message_count, consumer_count: 0 };
                put_method(out, number, &answer)?;
            }
            Method::QueueDelete(delete) => {
                let message_count = small(self.queues.delete(delete.queue));
                put_method(out, number, &queue::DeleteOk { message_count })?;
            }
            Method::QueueBind(bind) => {
                self.queues.bind(bind.exchange, bind.queue);
                put_method(out, number, &queue::BindOk {})?;
            }
            Method::ExchangeDeclare(_) => put_method(out, number, &exchange::DeclareOk {})?,
            Method::ExchangeDelete(delete) => {
                self.queues.delete_exchange(delete.exchange);
                put_method(out, number, &exchange::DeleteOk {})?;
            }
            other => anyhow::bail!("{} is not answered here", other.name()),
        }
        Ok(())
    }
}

impl Incoming {
    /// Gives whole messages to where they go.
    fn give(&mut self) {
        if self.whole == 0 {
            return;
        }
        let content = Arc::new(Content {
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            properties: Bytes::copy_from_slice(&self.properties),
            body: Bytes::copy_from_slice(&self.body),
        });
        for queue in &self.targets {
            queue.give(self.whole, &content);
        }
        self.whole = 0;
    }
}

#[cfg(test)]
mod tests {
    use ferrymq_amqp_codec::Properties;
    use ferrymq_amqp_codec::frame_writer::put_message;

    use super::*;

    fn answers(out: &mut BytesMut) -> Vec<String> {
        let frames = FrameReader::new(FRAME_MAX);
        let mut found = Vec::new();
        while let Some(frame) = frames.next(out).unwrap() {
            if frame.kind == FrameKind::Method {
                found.push(match Method::parse(&frame.payload).unwrap() {
                    Method::BasicAck(ack) => format!("ack {}", ack.delivery_tag),
                    Method::BasicDeliver(deliver) => format!("deliver {}", deliver.delivery_tag),
                    other => other.name().to_owned(),
                });
            }
        }
        found
    }

    #[test]
    fn what_is_published_is_confirmed_and_comes_out() {
        let queues = Arc::new(Queues::default());
        let mut session = Session::new(queues.clone());
        let (mut wire, mut out) = (BytesMut::new(), BytesMut::new());
        put_method(&mut wire, 1, &exchange::Declare { exchange: b"e", ..Default::default() }).unwrap();
        for name in [b"a", b"b"] {
            put_method(&mut wire, 1, &queue::Declare { queue: name, ..Default::default() }).unwrap();
            put_method(&mut wire, 1, &queue::Bind { queue: name, exchange: b"e", ..Default::default() })
                .unwrap();
        }
        put_method(&mut wire, 1, &confirm::Select::default()).unwrap();
        let mut publish = |exchange: &[u8], routing_key: &[u8], body: &[u8]| {
            let head = basic::Publish { exchange, routing_key, ..Default::default() };
            put_message(&mut wire, 1, &head, Properties::EMPTY, body, 4096).unwrap();
        };
        publish(b"", b"a", b"1");
        publish(b"", b"a", &[7; 9000]);
        publish(b"e", b"", b"");
        // Cut in the middle of a body: the message counts when the rest came.
        let cut = wire.len() - 2000;
        let used = session.take(&wire[..cut], &mut out).unwrap();
        session.take(&wire[used..], &mut out).unwrap();
        let said = answers(&mut out);
        assert_eq!(said[said.len() - 3..], ["confirm.select-ok", "ack 1", "ack 3"]);
        assert_eq!((queues.queue(b"a").waiting(), queues.queue(b"b").waiting()), (3, 1));

        wire.clear();
        put_method(&mut wire, 2, &basic::Consume { queue: b"a", ..Default::default() }).unwrap();
        session.take(&wire, &mut out).unwrap();
        let mut subscription = session.subscription().unwrap();
        subscription.deliver(&mut out, 1);
        subscription.deliver(&mut out, 1 << 20);
        subscription.deliver(&mut out, 1 << 20);
        assert_eq!(answers(&mut out), ["basic.consume-ok", "deliver 1", "deliver 2", "deliver 3"]);
    }

    #[test]
    fn what_is_not_served_is_named() {
        let mut session = Session::new(Arc::default());
        let mut wire = BytesMut::new();
        put_method(&mut wire, 1, &basic::Get::default()).unwrap();
        let error = session.take(&wire, &mut BytesMut::new()).unwrap_err();
        assert!(error.to_string().contains("basic.get"), "{error}");
    }
}
