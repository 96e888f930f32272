//! A message as a record: value = body, and one header with everything else.
//!
//! ```text
//! header "mq":  version 1 | flags | what the flags name, in their order
//!               | length, exchange | length, routing key | properties
//! flags:        1 persistent | 2 time to live, ms (varint) | 4 priority (byte)
//!               | 8 delay: ms, length, exchange, number of keys, each length, key | others: not known here
//! ```
//! The lengths are varints; the properties reach to the end. Record key: null; record timestamp: when the message
//! was enqueued, from which its time to live counts. The records of a batch lie without gaps, so a record's offset is
//! the batch's base plus its place.
//!
//! **Invariants.** What was published reads back byte for byte. Reading yields slices of the batch, allocates
//! nothing from a declared length and never panics. A newer version, or a flag that is not known, is refused and not
//! skipped.
//!
//! Deliberately absent: compression, and what the properties mean.

use std::ops::Range;

use bytes::Bytes;
use ferrymq_types::batch::HEADER_BYTES;
use ferrymq_types::{BatchBuilder, BatchView, Compression};

use super::types::{Delay, Message};
use super::varint;

/// The version written.
const VERSION: u8 = 1;
const PERSISTENT: u8 = 1;
const TTL: u8 = 2;
const PRIORITY: u8 = 4;
const DELAY: u8 = 8;
const KNOWN: u8 = PERSISTENT | TTL | PRIORITY | DELAY;
/// The header that holds what is not the body.
const HEADER: &[u8] = b"mq";

/// Bytes that hold no messages of a version known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored message cannot be read: {0}")]
pub(super) struct EnvelopeError(String);

impl From<&str> for EnvelopeError {
    fn from(what: &str) -> Self {
        EnvelopeError(what.to_owned())
    }
}

/// When a message was enqueued, and how long it may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    /// In the milliseconds of the shard that enqueued it.
    pub(super) enqueued_ms: i64,
    /// Its own time to live, in milliseconds.
    pub(super) ttl_ms: Option<u64>,
    /// For how long it is kept before it is routed, in milliseconds.
    pub(super) delay_ms: Option<u64>,
}

/// Adds a message to a batch; where in that its body begins. `scratch` is where its envelope is put together.
pub(super) fn push(
    builder: &mut BatchBuilder,
    message: &Message,
    now_ms: i64,
    scratch: &mut Vec<u8>,
) -> usize {
    scratch.clear();
    let flag = |on, flag| if on { flag } else { 0 };
    let flags = flag(message.persistent, PERSISTENT)
        | flag(message.ttl_ms.is_some(), TTL)
        | flag(message.priority.is_some(), PRIORITY)
        | flag(message.delay.is_some(), DELAY);
    scratch.extend_from_slice(&[VERSION, flags]);
    if let Some(ttl_ms) = message.ttl_ms {
        varint::put(scratch, ttl_ms);
    }
    scratch.extend(message.priority);
    if let Some(delay) = &message.delay {
        varint::put(scratch, delay.ms);
        put_part(scratch, &delay.exchange);
        varint::put(scratch, delay.keys.len() as u64);
        delay.keys.iter().for_each(|key| put_part(scratch, key));
    }
    put_part(scratch, &message.exchange);
    put_part(scratch, &message.routing_key);
    scratch.extend_from_slice(&message.properties);
    let header = std::iter::once((HEADER, Some(&scratch[..])));
    builder.push_with(now_ms, None, Some(&message.body), header)
}

fn put_part(scratch: &mut Vec<u8>, part: &[u8]) {
    varint::put(scratch, part.len() as u64);
    scratch.extend_from_slice(part);
}

/// Walks the messages of one batch.
#[derive(Debug)]
pub(super) struct Messages {
    batch: Bytes,
    /// Where the next record begins.
    at: usize,
    offset: u64,
    /// Behind the batch's last offset.
    next: u64,
    /// What the records' timestamps count from.
    base_ms: i64,
}

impl Messages {
    /// The messages of the batch at the front of `run`, which is taken off.
    ///
    /// # Errors
    /// [`EnvelopeError`] if it is not a batch of messages.
    pub(super) fn split_from(run: &mut Bytes) -> Result<Messages, EnvelopeError> {
        let invalid = |error: ferrymq_types::BatchError| EnvelopeError(error.to_string());
        let view = BatchView::split_from(run).map_err(invalid)?;
        view.verify_header().map_err(invalid)?;
        if view.header.compression() != Some(Compression::None) {
            return Err("it is compressed".into());
        }
        let offset =
            u64::try_from(view.header.base_offset).map_err(|_| EnvelopeError::from("negative offset"))?;
        let next = offset + u64::from(view.header.span());
        let base_ms = view.header.base_timestamp;
        Ok(Messages { batch: view.bytes, at: HEADER_BYTES, offset, next, base_ms })
    }

    /// The offset of the next message; [`Messages::next`] once there is none.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Behind the last offset.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Passes over messages below `offset`.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub(super) fn skip_to(&mut self, offset: u64) -> Result<(), EnvelopeError> {
        while self.offset < offset.min(self.next) {
            self.record()?;
        }
        Ok(())
    }

    /// The next message.
    ///
    /// # Errors
    /// [`EnvelopeError`], also behind the last one.
    pub(super) fn take(&mut self) -> Result<Message, EnvelopeError> {
        let record = self.record()?;
        let fields = Fields::of(&self.batch, record).ok_or("cut short")?;
        let envelope = fields.envelope.ok_or("it has no envelope")?;
        let (facts, mut rest) = Facts::of(&self.batch[envelope.clone()])?;
        let mut part = || {
            let length = varint::take(&mut rest).and_then(|length| usize::try_from(length).ok())?;
            let start = envelope.end - rest.len();
            rest = rest.get(length..)?;
            Some(start..start + length)
        };
        let (exchange, routing_key) = part().zip(part()).ok_or("cut short")?;
        let properties = envelope.end - rest.len()..envelope.end;
        Ok(Message {
            exchange: self.batch.slice(exchange),
            routing_key: self.batch.slice(routing_key),
            properties: self.batch.slice(properties),
            body: self.batch.slice(fields.body),
            persistent: facts.persistent,
            ttl_ms: facts.ttl_ms,
            priority: facts.priority,
            delay: facts.delay,
        })
    }

    /// When the next message was enqueued and how long it may stay; it stays the next.
    ///
    /// # Errors
    /// [`EnvelopeError`], also behind the last one.
    pub(super) fn stamp(&self) -> Result<Stamp, EnvelopeError> {
        let fields = Fields::of(&self.batch, self.next_record()?).ok_or("cut short")?;
        let envelope = fields.envelope.ok_or("it has no envelope")?;
        let (facts, _) = Facts::of(&self.batch[envelope])?;
        let enqueued_ms = self.base_ms.saturating_add(fields.delta_ms);
        let delay_ms = facts.delay.map(|delay| delay.ms);
        Ok(Stamp { enqueued_ms, ttl_ms: facts.ttl_ms, delay_ms })
    }

    /// Where the next record's content lies; it is passed over.
    fn record(&mut self) -> Result<Range<usize>, EnvelopeError> {
        let record = self.next_record()?;
        self.at = record.end;
        self.offset += 1;
        Ok(record)
    }

    fn next_record(&self) -> Result<Range<usize>, EnvelopeError> {
        if self.offset >= self.next {
            return Err("fewer messages than asked for".into());
        }
        let mut cursor = Cursor { batch: &self.batch, at: self.at, end: self.batch.len() };
        Ok(cursor.field().flatten().ok_or("cut short")?)
    }
}

/// What an envelope begins with.
struct Facts {
    persistent: bool,
    ttl_ms: Option<u64>,
    priority: Option<u8>,
    delay: Option<Box<Delay>>,
}

impl Facts {
    /// Reads them off the front.
    #[inline]
    fn of(envelope: &[u8]) -> Result<(Facts, &[u8]), EnvelopeError> {
        let [version, flags, rest @ ..] = envelope else { return Err("cut short".into()) };
        if *version != VERSION || flags & !KNOWN != 0 {
            return Err("it is of another version: a newer FerryMQ wrote it".into());
        }
        let (mut rest, mut ttl_ms, mut priority) = (rest, None, None);
        if flags & TTL != 0 {
            ttl_ms = Some(varint::take(&mut rest).ok_or("cut short")?);
        }
        if flags & PRIORITY != 0 {
            let (first, after) = rest.split_first().ok_or("cut short")?;
            (priority, rest) = (Some(*first), after);
        }
        let delay = if flags & DELAY == 0 { None } else { Some(delay(&mut rest).ok_or("cut short")?) };
        Ok((Facts { persistent: flags & PERSISTENT != 0, ttl_ms, priority, delay }, rest))
    }
}

/// Reads a delay off the front.
fn delay(rest: &mut &[u8]) -> Option<Box<Delay>> {
    fn part(rest: &mut &[u8]) -> Option<Bytes> {
        let length = varint::take(rest).and_then(|length| usize::try_from(length).ok())?;
        let (part, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(Bytes::copy_from_slice(part))
    }
    let (ms, exchange) = (varint::take(rest)?, part(rest)?);
    let count = varint::take(rest)?;
    let keys = (0..count).map(|_| part(rest)).collect::<Option<Vec<Bytes>>>()?;
    Some(Box::new(Delay { ms, exchange, keys }))
}

/// Where the fields of a record that matter lie.
struct Fields {
    delta_ms: i64,
    body: Range<usize>,
    envelope: Option<Range<usize>>,
}

impl Fields {
    /// Reads attributes, timestamp, offset, key, value and headers (`ferrymq_types::record` has the layout).
    fn of(batch: &[u8], record: Range<usize>) -> Option<Fields> {
        // Without the attributes.
        let mut cursor = Cursor { batch, at: record.start + 1, end: record.end };
        let delta_ms = cursor.number()?;
        cursor.number()?;
        cursor.field()?;
        let body = cursor.field()?.unwrap_or(0..0);
        let headers = cursor.number()?;
        let mut envelope = None;
        for _ in 0..headers {
            let name = cursor.field()??;
            let value = cursor.field()?;
            if batch[name] == *HEADER {
                envelope = value;
            }
        }
        Some(Fields { delta_ms, body, envelope })
    }
}

/// A place in a batch; what it reads lies within `end`.
struct Cursor<'a> {
    batch: &'a [u8],
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    /// A zig-zag varint.
    fn number(&mut self) -> Option<i64> {
        let mut rest = self.batch.get(self.at..self.end)?;
        let value = varint::take(&mut rest)?;
        self.at = self.end - rest.len();
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Where a field with its length in front lies; within it, `None` for null.
    fn field(&mut self) -> Option<Option<Range<usize>>> {
        let length = self.number()?;
        if length == -1 {
            return Some(None);
        }
        let start = self.at;
        let end = start.checked_add(usize::try_from(length).ok()?).filter(|end| *end <= self.end)?;
        self.at = end;
        Some(Some(start..end))
    }
}

#[cfg(test)]
mod tests {
    use ferrymq_types::Records;

    use super::*;

    fn message(index: u8, persistent: bool) -> Message {
        Message {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::copy_from_slice(&vec![0xff; usize::from(index) * 50]),
            properties: Bytes::copy_from_slice(&vec![index; usize::from(index)]),
            body: Bytes::copy_from_slice(&vec![index; usize::from(index) * 3]),
            persistent,
            ttl_ms: (index > 1).then(|| u64::from(index) * 1000),
            priority: (index > 2).then_some(index),
            delay: (index > 2).then(Box::default),
        }
    }

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(5);
        let mut scratch = Vec::new();
        for index in 0..4 {
            push(&mut builder, &message(index, index % 2 == 0), 5 + i64::from(index), &mut scratch);
        }
        builder.build()
    }

    #[test]
    fn messages_read_back() {
        let mut run = batch();
        let mut messages = Messages::split_from(&mut run).unwrap();
        assert!(run.is_empty());
        messages.skip_to(1).unwrap();
        for index in 1..4 {
            assert_eq!(messages.offset(), u64::from(index));
            let ttl_ms = message(index, true).ttl_ms;
            let delay_ms = message(index, true).delay.map(|delay| delay.ms);
            let stamp = Stamp { enqueued_ms: 5 + i64::from(index), ttl_ms, delay_ms };
            assert_eq!(messages.stamp(), Ok(stamp));
            assert_eq!(messages.take().unwrap(), message(index, index % 2 == 0));
        }
        assert_eq!(messages.offset(), messages.next());
        assert!(messages.take().is_err() && messages.stamp().is_err());
    }

    /// Stored bytes: another layout is another version.
    #[test]
    fn the_envelope_is_pinned() {
        let mut builder = BatchBuilder::new(5);
        push(&mut builder, &message(1, true), 5, &mut Vec::new());
        let view = BatchView::split_from(&mut builder.build()).unwrap();
        let record = Records::new(view.payload(), 1).next().unwrap().unwrap();
        assert_eq!((record.key, record.value), (None, Some(Bytes::from_static(&[1, 1, 1]))));
        assert_eq!(record.headers[0].key, "mq");
        let envelope = [&[1, 1, 6][..], b"orders", &[50], &[0xff; 50], &[1]].concat();
        assert_eq!(record.headers[0].value.as_deref(), Some(&envelope[..]));
    }

    #[test]
    fn optional_fields_are_pinned() {
        let bytes = |ttl_ms, priority| {
            let mut builder = BatchBuilder::new(5);
            let message =
                Message { ttl_ms, priority, routing_key: Bytes::from_static(b"k"), ..Message::default() };
            push(&mut builder, &message, 5, &mut Vec::new());
            let view = BatchView::split_from(&mut builder.build()).unwrap();
            let record = Records::new(view.payload(), 1).next().unwrap().unwrap();
            record.headers[0].value.clone().unwrap()
        };
        assert_eq!(bytes(None, None), [&[1, 0, 0, 1][..], b"k"].concat());
        assert_eq!(bytes(Some(300), None), [&[1, 2, 0xac, 2, 0, 1][..], b"k"].concat());
        assert_eq!(bytes(None, Some(9)), [&[1, 4, 9, 0, 1][..], b"k"].concat());
        assert_eq!(bytes(Some(0), Some(0)), [&[1, 6, 0, 0, 0, 1][..], b"k"].concat());
        let mut builder = BatchBuilder::new(5);
        let keys = vec![Bytes::from_static(b"cc"), Bytes::new()];
        let delay = Some(Box::new(Delay { ms: 300, exchange: Bytes::from_static(b"later"), keys }));
        let message = Message { delay, routing_key: Bytes::from_static(b"k"), ..Message::default() };
        push(&mut builder, &message, 5, &mut Vec::new());
        let mut batch = builder.build();
        let view = BatchView::split_from(&mut batch.clone()).unwrap();
        let record = Records::new(view.payload(), 1).next().unwrap().unwrap();
        let expected = [&[1, 8, 0xac, 2, 5][..], b"later", &[2, 2], b"cc", &[0, 0, 1], b"k"].concat();
        assert_eq!(record.headers[0].value.as_deref(), Some(&expected[..]));
        assert_eq!(Messages::split_from(&mut batch).unwrap().take().unwrap(), message);
    }

    /// What an unknown flag says may be what must not be ignored.
    #[test]
    fn an_unknown_flag_is_another_version() {
        for flag in [16u8, 32, 64, 128] {
            assert!(Facts::of(&[VERSION, flag, 0, 0]).is_err());
        }
        assert!(Facts::of(&[VERSION, KNOWN, 0, 0, 0, 0, 0, 0, 0]).is_ok());
    }

    #[test]
    fn damaged_bytes_are_errors() {
        let whole = batch();
        for at in 0..whole.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] ^= flip;
                let Ok(mut messages) = Messages::split_from(&mut Bytes::from(bytes)) else { continue };
                while messages.take().is_ok() {}
            }
        }
    }
}
