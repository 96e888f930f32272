//! Putting a published message together from its frames: method, header, bodies.
//!
//! **Invariants.** A body is exactly as long as its header says; its memory grows with what has arrived. A body
//! that came in one frame is not copied.
//!
//! Deliberately absent: where the message goes; budgets (the reader asks for room).

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::method::basic;
use ferrymq_amqp_codec::{ContentHeader, FrameKind, FrameRef, ReplyCode, WireMethod as _};
use ferrymq_runtime::BytePermit;

use crate::failure::Failure;

/// What `basic.publish` said.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) exchange: Bytes,
    pub(crate) routing_key: Bytes,
    pub(crate) mandatory: bool,
}

/// What of a message's properties matters to every publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Delivery mode 2.
    pub(crate) persistent: bool,
    /// Its priority.
    pub(crate) priority: Option<u8>,
    /// How long it may wait; known once its properties were looked at.
    pub(crate) ttl_ms: Option<u64>,
    /// There is a property that must be looked at: headers, reply-to, expiration or user id.
    pub(crate) special: bool,
}

/// Flags of headers, reply-to, expiration and user id.
const SPECIAL: u16 = 0x2000 | 0x0200 | 0x0100 | 0x0010;

/// A body that no setting allows, in bytes. RabbitMQ's.
const CONTENT_BYTES_MAX: u64 = 536_870_912;

/// A message that is there whole.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) head: Head,
    pub(crate) facts: Facts,
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
    /// The room it took while it came.
    pub(crate) room: Vec<BytePermit>,
}

/// What is there of the message of a channel.
#[derive(Debug, Default)]
pub(crate) enum Assembly {
    /// Nothing: a method comes next.
    #[default]
    Idle,
    /// The method.
    Method(Head),
    /// The method, the header and a part of the body.
    Body(Box<Partial>),
}

/// A body that is not there whole.
#[derive(Debug)]
pub(crate) struct Partial {
    head: Head,
    facts: Facts,
    properties: Bytes,
    size: u64,
    body: BytesMut,
    room: Vec<BytePermit>,
}

impl Assembly {
    /// Whether a method may come now.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self, Assembly::Idle)
    }

    /// The mistake of a method that came before the message was whole.
    pub(crate) fn interrupted(&self) -> Failure {
        let text = match self {
            Assembly::Body(_) => "expected content body, got non content body frame instead",
            _ => "expected content header for class 60, got non content header frame instead",
        };
        unexpected(text)
    }

    /// Bytes of a body frame that must be kept for want of the rest: the caller finds room for them first.
    pub(crate) fn must_keep(&self, frame: &FrameRef<'_>) -> usize {
        match self {
            Assembly::Body(partial) if (frame.payload.len() as u64) < partial.size => frame.payload.len(),
            _ => 0,
        }
    }

    /// Bytes kept so far.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Assembly::Body(partial) => partial.body.len(),
            _ => 0,
        }
    }

    /// Takes a header or body frame, which lies in `run`; the message, if it is whole now.
    ///
    /// # Errors
    /// 505 for a frame that is not its turn, 501 for a body that is too long, 406 for one that is too large.
    pub(crate) fn take(
        &mut self,
        frame: &FrameRef<'_>,
        run: &Bytes,
        room: Option<BytePermit>,
        bytes_max: u64,
    ) -> Result<Option<Content>, Failure> {
        match (std::mem::take(self), frame.kind) {
            (Assembly::Method(head), FrameKind::Header) => self.header(head, frame, run, bytes_max),
            (Assembly::Body(partial), FrameKind::Body) => self.body(partial, frame, run, room),
            (Assembly::Idle, _) => Err(Failure {
                method: ferrymq_amqp_codec::MethodId::NONE,
                ..unexpected("expected method frame, got non method frame instead")
            }),
            (state, _) => Err(state.interrupted()),
        }
    }

    fn header(
        &mut self,
        head: Head,
        frame: &FrameRef<'_>,
        run: &Bytes,
        bytes_max: u64,
    ) -> Result<Option<Content>, Failure> {
        let header = ContentHeader::parse(frame.payload).map_err(|error| of_publish(error.into()))?;
        let size = header.body_size_bytes;
        let facts = Facts {
            persistent: header.properties.delivery_mode() == Some(2),
            priority: header.properties.priority(),
            ttl_ms: None,
            special: header.properties.flags() & SPECIAL != 0,
        };
        let properties = run.slice_ref(header.properties.as_bytes());
        if size > CONTENT_BYTES_MAX {
            return Err(of_publish(Failure::hard(
                ReplyCode::FrameError,
                format_args!("content body size {size} exceeds maximum allowed size {CONTENT_BYTES_MAX}"),
            )));
        }
        if size > bytes_max {
            return Err(of_publish(Failure::new(
                ReplyCode::PreconditionFailed,
                format_args!("message size {size} is larger than configured max size {bytes_max}"),
            )));
        }
        if size == 0 {
            return Ok(Some(Content { head, facts, properties, body: Bytes::new(), room: Vec::new() }));
        }
        let (body, room) = (BytesMut::new(), Vec::new());
        *self = Assembly::Body(Box::new(Partial { head, facts, properties, size, body, room }));
        Ok(None)
    }

    fn body(
        &mut self,
        mut partial: Box<Partial>,
        frame: &FrameRef<'_>,
        run: &Bytes,
        room: Option<BytePermit>,
    ) -> Result<Option<Content>, Failure> {
        let left = partial.size - partial.body.len() as u64;
        let here = frame.payload.len() as u64;
        if here > left {
            return Err(of_publish(Failure::hard(
                ReplyCode::FrameError,
                "content body frame exceeds remaining content size",
            )));
        }
        let whole = here == left;
        if whole && partial.body.is_empty() {
            let Partial { head, facts, properties, room, .. } = *partial;
            return Ok(Some(Content { head, facts, properties, body: run.slice_ref(frame.payload), room }));
        }
        partial.room.extend(room);
        if partial.body.is_empty() {
            // What waits long must not hold the memory that it was read into.
            partial.properties = Bytes::copy_from_slice(&partial.properties);
            partial.head.exchange = Bytes::copy_from_slice(&partial.head.exchange);
            partial.head.routing_key = Bytes::copy_from_slice(&partial.head.routing_key);
        }
        partial.body.extend_from_slice(frame.payload);
        if whole {
            let Partial { head, facts, properties, body, room, .. } = *partial;
            return Ok(Some(Content { head, facts, properties, body: body.freeze(), room }));
        }
        *self = Assembly::Body(partial);
        Ok(None)
    }
}

fn unexpected(text: &str) -> Failure {
    of_publish(Failure::hard(ReplyCode::UnexpectedFrame, text))
}

fn of_publish(failure: Failure) -> Failure {
    failure.of(basic::Publish::ID)
}
