//! A session that reads a stream: what it is given is a reading of the topic, held to the same rules as that of Kafka's
//! readers.
//!
//! **Invariant.** A span holds everything that came between its two offsets, in the order in which it came.

use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{TableBuilder, ValueRef};

use super::{Error, How, Named, Queue, Session};
use crate::history::Span;
use crate::value::Value;
use crate::world::Log;

/// Deliveries ahead of what is settled.
const PREFETCH: u16 = 500;
/// Deliveries that are settled together.
const SETTLED: u64 = 100;
/// Records in one span.
const SPAN: i64 = 1_000;

/// A stream that is read.
#[derive(Debug)]
pub(super) struct Reading {
    log: Arc<Log>,
    span: Span,
    unsettled: u64,
}

impl Session {
    /// Begins to read a topic as a stream: from an offset or from `first`, as `reader`.
    pub(in crate::amqp) fn follow(&mut self, log: &Arc<Log>, from: Option<i64>, reader: u32) -> Result<()> {
        self.prefetch(PREFETCH)?;
        let start = from.map_or(ValueRef::LongString(b"first"), ValueRef::I64);
        let mut arguments = TableBuilder::new();
        arguments.push(b"x-stream-offset", start).map_err(Error::other)?;
        let span = Span::starting_at(reader, log.index, from.unwrap_or(0), self.world.now());
        self.reading = Some(Reading { log: log.clone(), span, unsettled: 0 });
        let (queue, arguments) = (log.topic.as_bytes(), arguments.as_table());
        self.ask(&basic::Consume { queue, arguments, ..Default::default() }).map(drop)
    }

    /// Reads a stream from its beginning until what was published last comes, as deliveries, one at a time.
    pub(in crate::amqp) fn read_to(&mut self, queue: &Queue, last: &Named, patience: Duration) -> Result<()> {
        self.prefetch(1)?;
        let mut arguments = TableBuilder::new();
        arguments.push(b"x-stream-offset", ValueRef::LongString(b"first")).map_err(Error::other)?;
        let (queue, consumer_tag, arguments) =
            (queue.name.as_bytes(), queue.label.as_bytes(), arguments.as_table());
        self.ask(&basic::Consume { queue, consumer_tag, arguments, ..Default::default() })?;
        while self.last_value() != Some(last) {
            if !self.hear(patience)? {
                return Err(ErrorKind::TimedOut.into());
            }
            if let Some((tag, _)) = self.held.last_key_value() {
                self.settle(*tag, How::Done)?;
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Takes a record; whatever it is, it is the next.
    pub(super) fn read(&mut self, tag: u64, offset: Option<i64>, body: &[u8]) -> Result<()> {
        let now = self.world.now();
        let Some(Reading { log, span, unsettled }) = &mut self.reading else { return Ok(()) };
        let (Some(offset), Ok(value)) = (offset, Value::read(body)) else {
            self.world.violation("damaged-message", || format!("{log}: {offset:?}, {:?}", Value::read(body)));
            return Ok(());
        };
        if offset < span.to {
            let to = span.to;
            self.world
                .violation("stream-went-back", || format!("{log}: {value} at {offset} came after {to}"));
            return Ok(());
        }
        span.push(offset, value);
        (span.to, span.during.ended) = (offset + 1, now);
        log.streamed.store(span.to, Ordering::Relaxed);
        self.world.counts.stream_read.fetch_add(1, Ordering::Relaxed);
        *unsettled += 1;
        let settle = *unsettled == SETTLED;
        if settle {
            *unsettled = 0;
        }
        if span.to - span.from >= SPAN {
            let next = Span::starting_at(span.reader, span.log, span.to, now);
            let whole = std::mem::replace(span, next);
            self.world.history.lock().spans.push(whole);
        }
        if settle {
            self.link.put(&basic::Ack { delivery_tag: tag, multiple: true })?;
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn hand_over_reading(&mut self) {
        let Some(Reading { span, .. }) = self.reading.take() else { return };
        if !span.runs.is_empty() {
            self.world.history.lock().spans.push(span);
        }
    }
}
