//! An AMQP connection: blocking, one thread, one channel at a time, what is sent is gathered until it is flushed.
//!
//! It shares the codec with the broker and nothing else, so that a mistake of the product's client cannot hide
//! one of the broker.
//!
//! **Invariants.** After an error the connection is not used again. What comes when the power is already gone was
//! never heard. What comes on a channel that was closed is not told.
//!
//! Deliberately absent: heartbeats (none are agreed on) and what anything means; see [`session`](super::session).

use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::frame_writer::{put_message, put_method};
use ferrymq_amqp_codec::method::{basic, channel, connection};
use ferrymq_amqp_codec::{
    BasicProperties, ContentHeader, Frame, FrameKind, FrameReader, Method, PROTOCOL_HEADER, Properties,
    Table, TableBuilder, ValueRef, WireMethod,
};

/// The frames that are asked for, in bytes: small, so that bodies take several.
const FRAME_MAX: u32 = 32_768;
/// Bytes that are read at a time.
const READ_BYTES: usize = 64 * 1024;
/// The longest wait for the socket to take something.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// How a message is published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Posting<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) key: &'a str,
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    pub(crate) priority: u8,
    /// The header `x-delay`.
    pub(crate) delay_ms: Option<u32>,
}

/// Something the broker says.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message for a consumer, whose tag is the name of the queue; out of a stream, at which offset.
    Deliver { tag: u64, redelivered: bool, queue: String, offset: Option<i64>, body: Bytes },
    /// A message that was asked for.
    Got { tag: u64, redelivered: bool, body: Bytes },
    /// There is none.
    Empty,
    /// A message that comes back.
    Returned { body: Bytes },
    /// Publishings are confirmed or, if not `ok`, refused.
    Confirm { tag: u64, multiple: bool, ok: bool },
    /// A question is answered; two numbers, if the answer has any: messages and consumers.
    Answer { messages: u32, consumers: u32 },
    /// A consumer was ended by the broker.
    Cancelled { queue: String },
    /// The channel was closed by the broker.
    Closed { code: u16, text: String },
}

/// What a body is being gathered for.
struct Content {
    head: Event,
    missing: u64,
    body: BytesMut,
}

/// A connection.
pub(crate) struct Link {
    stream: TcpStream,
    input: BytesMut,
    out: BytesMut,
    frames: FrameReader,
    content: Option<Content>,
    /// The channel that is in use.
    number: u16,
    dark: Arc<AtomicBool>,
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_string())
}

/// Where a message lies in its stream, if it comes out of one.
fn offset_in(properties: Properties<'_>) -> Option<i64> {
    match properties.headers()?.get(b"x-stream-offset")? {
        ValueRef::I64(offset) => Some(offset),
        _ => None,
    }
}

impl Link {
    /// Connects as guest; no channel is open. Answers are not heard while `dark`.
    pub(crate) fn connect(address: SocketAddr, patience: Duration, dark: &Arc<AtomicBool>) -> Result<Link> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        let frames = FrameReader::new(FRAME_MAX);
        let (input, out) = (BytesMut::new(), BytesMut::new());
        let mut link = Link { stream, input, out, frames, content: None, number: 0, dark: dark.clone() };
        link.out.extend_from_slice(&PROTOCOL_HEADER);
        link.flush()?;
        link.must_hear(patience)?;
        let login = connection::StartOk {
            client_properties: Table::EMPTY,
            mechanism: b"PLAIN",
            response: b"\0guest\0guest",
            locale: b"en_US",
        };
        link.put(&login)?;
        link.flush()?;
        link.must_hear(patience)?;
        link.put(&connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 })?;
        link.put(&connection::Open { virtual_host: b"/", ..Default::default() })?;
        link.flush()?;
        link.must_hear(patience)?;
        Ok(link)
    }

    /// Opens the next channel; what still comes on the one before is not told any more.
    pub(crate) fn open_channel(&mut self, patience: Duration) -> Result<()> {
        self.number += 1;
        self.content = None;
        self.put(&channel::Open::default())?;
        self.flush()?;
        self.must_hear(patience)
    }

    /// Waits for an answer during the beginning of a connection or channel.
    fn must_hear(&mut self, patience: Duration) -> Result<()> {
        match self.next(patience)? {
            Some(Event::Answer { .. }) => Ok(()),
            Some(other) => Err(wrong(format!("{other:?} instead of a welcome"))),
            None => Err(Error::new(ErrorKind::TimedOut, "no welcome")),
        }
    }

    /// Adds a method to what is sent next.
    pub(crate) fn put<'a, M: WireMethod<'a>>(&mut self, method: &M) -> Result<()> {
        put_method(&mut self.out, self.number, method).map_err(wrong)
    }

    /// Adds a message to what is sent next.
    pub(crate) fn put_publish(&mut self, posting: &Posting<'_>, body: &[u8]) -> Result<()> {
        let mut bytes = BytesMut::new();
        let mode = if posting.persistent { 2 } else { 1 };
        let mut headers = TableBuilder::new();
        if let Some(ms) = posting.delay_ms {
            headers.push(b"x-delay", ValueRef::I64(ms.into())).map_err(wrong)?;
        }
        BasicProperties {
            delivery_mode: Some(mode),
            priority: Some(posting.priority),
            headers: posting.delay_ms.map(|_| headers.as_table()),
            ..Default::default()
        }
        .encode(&mut bytes)
        .map_err(wrong)?;
        let properties = Properties::parse(&bytes).map_err(wrong)?;
        let publish = basic::Publish {
            exchange: posting.exchange.as_bytes(),
            routing_key: posting.key.as_bytes(),
            mandatory: posting.mandatory,
            ..Default::default()
        };
        put_message(&mut self.out, self.number, &publish, properties, body, FRAME_MAX).map_err(wrong)
    }

    /// Bytes that are not sent yet.
    pub(crate) fn gathered(&self) -> usize {
        self.out.len()
    }

    /// Sends what was gathered.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let out = self.out.split();
        self.stream.write_all(&out)
    }

    /// What the broker says next; `None` if it says nothing for so long.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<Option<Event>> {
        loop {
            while let Some(frame) = self.frames.next(&mut self.input).map_err(wrong)? {
                if self.dark.load(Ordering::SeqCst) {
                    return Err(Error::new(ErrorKind::ConnectionAborted, "the power is gone"));
                }
                if let Some(event) = self.on_frame(&frame)? {
                    return Ok(Some(event));
                }
            }
            // A wait of nothing would be without end.
            self.stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
            let (mut buffer, before) = ([0; READ_BYTES], self.input.len());
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            debug_assert!(self.input.len() >= before, "reading adds");
        }
    }

    fn on_frame(&mut self, frame: &Frame) -> Result<Option<Event>> {
        let of_connection = frame.channel == 0 && frame.kind == FrameKind::Method;
        if frame.channel != self.number && !of_connection {
            return Ok(None);
        }
        match frame.kind {
            FrameKind::Heartbeat => Ok(None),
            FrameKind::Method => self.on_method(&Method::parse(&frame.payload).map_err(wrong)?),
            FrameKind::Header => {
                let header = ContentHeader::parse(&frame.payload).map_err(wrong)?;
                let content = self.content.as_mut().ok_or_else(|| wrong("a header of nothing"))?;
                content.missing = header.body_size_bytes;
                if let Event::Deliver { offset, .. } = &mut content.head {
                    *offset = offset_in(header.properties);
                }
                Ok(self.whole())
            }
            FrameKind::Body => {
                let content = self.content.as_mut().ok_or_else(|| wrong("a body of nothing"))?;
                content.body.extend_from_slice(&frame.payload);
                let size = frame.payload.len() as u64;
                content.missing = content
                    .missing
                    .checked_sub(size)
                    .ok_or_else(|| wrong("a body is longer than was said"))?;
                Ok(self.whole())
            }
        }
    }

    /// The message, if all of it is here.
    fn whole(&mut self) -> Option<Event> {
        let Content { mut head, body: all, .. } = self.content.take_if(|content| content.missing == 0)?;
        if let Event::Deliver { body, .. } | Event::Got { body, .. } | Event::Returned { body } = &mut head {
            *body = all.freeze();
        }
        Some(head)
    }

    fn on_method(&mut self, method: &Method<'_>) -> Result<Option<Event>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let body = Bytes::new();
        let head = match *method {
            Method::BasicDeliver(deliver) => Event::Deliver {
                tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
                queue: text(deliver.consumer_tag),
                offset: None,
                body,
            },
            Method::BasicGetOk(got) => {
                Event::Got { tag: got.delivery_tag, redelivered: got.redelivered, body }
            }
            Method::BasicReturn(_) => Event::Returned { body },
            _ => return self.on_plain(method),
        };
        if self.content.is_some() {
            return Err(wrong("a message inside of another"));
        }
        self.content = Some(Content { head, missing: u64::MAX, body: BytesMut::new() });
        Ok(None)
    }

    fn on_plain(&mut self, method: &Method<'_>) -> Result<Option<Event>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Some(match *method {
            Method::BasicAck(ack) => {
                Event::Confirm { tag: ack.delivery_tag, multiple: ack.multiple, ok: true }
            }
            Method::BasicNack(nack) => {
                Event::Confirm { tag: nack.delivery_tag, multiple: nack.multiple, ok: false }
            }
            Method::BasicGetEmpty(_) => Event::Empty,
            Method::BasicCancel(cancel) => Event::Cancelled { queue: text(cancel.consumer_tag) },
            Method::ChannelClose(close) => {
                self.put(&channel::CloseOk::default())?;
                self.flush()?;
                Event::Closed { code: close.reply_code, text: text(close.reply_text) }
            }
            Method::ConnectionClose(close) => {
                let what = format!("{} {}", close.reply_code, text(close.reply_text));
                return Err(Error::new(ErrorKind::ConnectionAborted, what));
            }
            Method::QueueDeclareOk(ok) => {
                Event::Answer { messages: ok.message_count, consumers: ok.consumer_count }
            }
            Method::QueuePurgeOk(ok) => Event::Answer { messages: ok.message_count, consumers: 0 },
            Method::QueueDeleteOk(ok) => Event::Answer { messages: ok.message_count, consumers: 0 },
            _ => Event::Answer { messages: 0, consumers: 0 },
        }))
    }
}
