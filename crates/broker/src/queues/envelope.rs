//! A message as a record: value = body, and one header with everything else.
//!
//! ```text
//! header "mq":  version 1 | flags (1: persistent) | length, exchange | length, routing key | properties
//! ```
//! The lengths are varints; the properties reach to the end. Record key: null. The records of a batch lie
//! without gaps, so a record's offset is the batch's base plus its place.
//!
//! **Invariants.** What was published reads back byte for byte. Reading yields slices of the batch, allocates
//! nothing from a declared length and never panics. A newer version is refused and not skipped.
//!
//! Deliberately absent: compression, and what the properties mean.

use bytes::{BufMut, Bytes, BytesMut};
use ferrymq_types::{BatchBuilder, BatchView, Compression, Header, Record, Records};

use super::types::Message;
use super::varint;

/// The version written.
const VERSION: u8 = 1;
const PERSISTENT: u8 = 1;
/// The header that holds what is not the body.
const HEADER: Bytes = Bytes::from_static(b"mq");

/// Bytes that hold no messages of a version known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored message cannot be read: {0}")]
pub(super) struct EnvelopeError(String);

impl From<&str> for EnvelopeError {
    fn from(what: &str) -> Self {
        EnvelopeError(what.to_owned())
    }
}

/// Adds a message to a batch. `scratch` is where its envelope is put together.
pub(super) fn push(builder: &mut BatchBuilder, message: &Message, now_ms: i64, scratch: &mut BytesMut) {
    scratch.reserve(16 + message.exchange.len() + message.routing_key.len() + message.properties.len());
    scratch.put_slice(&[VERSION, u8::from(message.persistent) * PERSISTENT]);
    varint::put(scratch, message.exchange.len() as u64);
    scratch.put_slice(&message.exchange);
    varint::put(scratch, message.routing_key.len() as u64);
    scratch.put_slice(&message.routing_key);
    scratch.put_slice(&message.properties);
    let header = Header { key: HEADER, value: Some(scratch.split().freeze()) };
    builder.push(now_ms, None, Some(&message.body), std::slice::from_ref(&header));
}

/// Walks the messages of one batch.
#[derive(Debug)]
pub(super) struct Messages {
    offset: u64,
    records: Records,
    /// Behind the batch's last offset.
    next: u64,
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
        let base =
            u64::try_from(view.header.base_offset).map_err(|_| EnvelopeError::from("negative offset"))?;
        let next = base + u64::from(view.header.span());
        Ok(Messages { offset: base, records: Records::new(view.payload(), view.header.record_count), next })
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
        let envelope = record.headers.into_iter().find(|header| header.key == HEADER);
        let envelope = envelope.and_then(|header| header.value).ok_or("it has no envelope")?;
        let mut rest = &envelope[..];
        let [version, flags, after @ ..] = rest else { return Err("cut short".into()) };
        if *version != VERSION {
            return Err("it is of another version: a newer FerryMQ wrote it".into());
        }
        rest = after;
        let mut part = || {
            let length = varint::take(&mut rest).and_then(|length| usize::try_from(length).ok());
            let (part, behind) = rest.split_at_checked(length?)?;
            rest = behind;
            Some(envelope.slice_ref(part))
        };
        let (exchange, routing_key) = part().zip(part()).ok_or("cut short")?;
        Ok(Message {
            exchange,
            routing_key,
            properties: envelope.slice_ref(rest),
            body: record.value.unwrap_or_default(),
            persistent: flags & PERSISTENT != 0,
        })
    }

    fn record(&mut self) -> Result<Record, EnvelopeError> {
        let record = self.records.next().ok_or("fewer messages than offsets")?;
        self.offset += 1;
        record.map_err(|error| EnvelopeError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u8, persistent: bool) -> Message {
        Message {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::copy_from_slice(&vec![0xff; usize::from(index) * 50]),
            properties: Bytes::copy_from_slice(&vec![index; usize::from(index)]),
            body: Bytes::copy_from_slice(&vec![index; usize::from(index) * 3]),
            persistent,
        }
    }

    fn batch() -> Bytes {
        let mut builder = BatchBuilder::new(5);
        let mut scratch = BytesMut::new();
        for index in 0..4 {
            push(&mut builder, &message(index, index % 2 == 0), 5, &mut scratch);
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
            assert_eq!(messages.take().unwrap(), message(index, index % 2 == 0));
        }
        assert_eq!(messages.offset(), messages.next());
        assert!(messages.take().is_err());
    }

    /// Stored bytes: another layout is another version.
    #[test]
    fn the_envelope_is_pinned() {
        let mut builder = BatchBuilder::new(5);
        push(&mut builder, &message(1, true), 5, &mut BytesMut::new());
        let view = BatchView::split_from(&mut builder.build()).unwrap();
        let record = Records::new(view.payload(), 1).next().unwrap().unwrap();
        assert_eq!((record.key, record.value), (None, Some(Bytes::from_static(&[1, 1, 1]))));
        assert_eq!(record.headers[0].key, "mq");
        let envelope = [&[1, 1, 6][..], b"orders", &[50], &[0xff; 50], &[1]].concat();
        assert_eq!(record.headers[0].value.as_deref(), Some(&envelope[..]));
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
