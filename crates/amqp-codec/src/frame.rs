//! Frames: cutting what a peer sends into type, channel and payload (AMQP 0-9-1 section 4.2.3).
//!
//! ```text
//! frame = type:u8, channel:u16, size:u32, payload, 0xCE
//! ```
//!
//! Invariants:
//!
//! - A size above what was negotiated is refused when its seven bytes are there; nothing waits for the
//!   payload and nothing is allocated for it.
//! - The payload is a slice of the input, borrowed or shared, never a copy.
//!
//! Deliberately absent: which frame may come when (that is the state of a channel), sockets, timers.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::error::{DecodeError, Snippet};

/// Bytes of a frame before its payload.
pub const FRAME_HEAD_BYTES: usize = 7;
/// Bytes of a frame around its payload: head and end.
pub const FRAME_OVERHEAD_BYTES: usize = FRAME_HEAD_BYTES + 1;
/// The octet after each payload.
pub const FRAME_END: u8 = 0xce;
/// The least size in bytes that two peers may agree on (section 4.2.3's FRAME-MIN-SIZE).
pub const FRAME_MAX_MIN: u32 = 4096;

/// A heartbeat, ready to send.
pub const HEARTBEAT: [u8; FRAME_OVERHEAD_BYTES] = [8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A method: [`Method::parse`](crate::method::Method::parse).
    Method = 1,
    /// A content header: [`ContentHeader::parse`](crate::properties::ContentHeader::parse).
    Header = 2,
    /// A part of a body.
    Body = 3,
    /// A sign of life on channel 0, without a payload.
    Heartbeat = 8,
}

impl FrameKind {
    /// The kind with this type octet.
    #[inline]
    pub const fn from_octet(octet: u8) -> Option<Self> {
        Some(match octet {
            1 => Self::Method,
            2 => Self::Header,
            3 => Self::Body,
            8 => Self::Heartbeat,
            _ => return None,
        })
    }
}

/// A frame whose payload is borrowed from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// The payload.
    pub payload: &'a [u8],
}

impl FrameRef<'_> {
    /// Bytes of the whole frame: where the next one begins.
    #[inline]
    pub const fn wire_bytes(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD_BYTES
    }
}

/// A frame whose payload shares the memory of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// The payload.
    pub payload: Bytes,
}

/// Cuts a stream into frames. It holds the negotiated size and no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameReader {
    /// As [`frame_max`](Self::frame_max), less the overhead.
    payload_bytes_max: u32,
}

impl FrameReader {
    /// Bytes by which a frame may be larger than agreed: RabbitMQ takes frames whose payload alone has the
    /// agreed size, because there are clients that forget the overhead.
    pub const TOLERANCE_BYTES: u32 = 8;

    /// Takes frames of up to `frame_max` bytes, head and end included. 0 is no limit, as in `connection.tune`;
    /// less than [`FRAME_MAX_MIN`] counts as that, because no peer may ask for less.
    #[must_use]
    pub const fn new(frame_max: u32) -> Self {
        let frame_max = match frame_max {
            0 => u32::MAX,
            1..FRAME_MAX_MIN => FRAME_MAX_MIN,
            _ => frame_max,
        };
        Self { payload_bytes_max: frame_max - 8 }
    }

    /// The largest frame in bytes, head and end included.
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.payload_bytes_max + 8
    }

    /// The frame at the beginning of `input`, or `None` while it is not there whole.
    ///
    /// The caller goes on after [`FrameRef::wire_bytes`]. `input` may be a `Bytes`, of which
    /// `input.slice_ref(frame.payload)` is a shared slice.
    ///
    /// # Errors
    /// [`DecodeError::FrameTooLarge`], [`FrameEnd`](DecodeError::FrameEnd),
    /// [`UnknownFrame`](DecodeError::UnknownFrame) or, for a heartbeat on another channel than 0,
    /// [`UnexpectedFrame`](DecodeError::UnexpectedFrame). Nobody knows where the next frame begins then.
    #[inline]
    pub fn peek<'a>(&self, input: &'a [u8]) -> Result<Option<FrameRef<'a>>, DecodeError> {
        let Some((head, rest)) = input.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return self.peek_short(input);
        };
        let [octet, channel @ .., a, b, c, d] = *head;
        let size_bytes = u32::from_be_bytes([a, b, c, d]);
        let kind = match FrameKind::from_octet(octet) {
            Some(kind) if size_bytes <= self.payload_bytes_max.saturating_add(Self::TOLERANCE_BYTES) => kind,
            kind => return Err(self.wrong_head(kind, octet, size_bytes)),
        };
        let size = size_bytes as usize;
        let (Some(payload), Some(end)) = (rest.get(..size), rest.get(size)) else {
            return Ok(None);
        };
        if *end != FRAME_END {
            return Err(DecodeError::FrameEnd { kind: octet, octet: *end, payload: Snippet::of(payload) });
        }
        let channel = u16::from_be_bytes(channel);
        if kind == FrameKind::Heartbeat {
            check_heartbeat(channel, payload)?;
        }
        Ok(Some(FrameRef { kind, channel, payload }))
    }

    /// Takes the frame at the beginning of `input` out of it, or `None` while it is not there whole.
    ///
    /// The payload shares memory with `input`; each call costs a few atomic operations, which
    /// [`peek`](Self::peek) does not.
    ///
    /// # Errors
    /// As [`peek`](Self::peek); `input` is as before.
    pub fn next(&self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(FrameRef { kind, channel, payload }) = self.peek(input)? else {
            return Ok(None);
        };
        let size = payload.len();
        input.advance(FRAME_HEAD_BYTES);
        let payload = input.split_to(size).freeze();
        input.advance(1);
        Ok(Some(Frame { kind, channel, payload }))
    }

    /// How many bytes `input` lacks for the frame at its beginning, as far as that is known: 0 for a whole
    /// frame, at most a frame and its tolerance. For reserving room before the next read.
    pub fn missing_bytes(&self, input: &[u8]) -> usize {
        let Some(&[_, _, _, a, b, c, d]) = input.first_chunk::<FRAME_HEAD_BYTES>() else {
            return FRAME_OVERHEAD_BYTES - input.len();
        };
        let announced = u32::from_be_bytes([a, b, c, d]);
        let size = announced.min(self.payload_bytes_max.saturating_add(Self::TOLERANCE_BYTES)) as usize;
        (size + FRAME_OVERHEAD_BYTES).saturating_sub(input.len())
    }

    /// Fewer than seven bytes: only the type can be wrong.
    #[cold]
    fn peek_short<'a>(&self, input: &[u8]) -> Result<Option<FrameRef<'a>>, DecodeError> {
        match input {
            [octet, ..] if FrameKind::from_octet(*octet).is_none() => Err(self.wrong_head(None, *octet, 0)),
            _ => Ok(None),
        }
    }

    /// What is wrong about a head. Of an unknown frame nothing is shown: it is refused at its first byte.
    #[cold]
    fn wrong_head(&self, kind: Option<FrameKind>, octet: u8, size_bytes: u32) -> DecodeError {
        match kind {
            Some(_) => {
                DecodeError::FrameTooLarge { kind: octet, size_bytes, size_bytes_max: self.payload_bytes_max }
            }
            None => DecodeError::UnknownFrame { kind: octet, payload: Snippet::of(&[]) },
        }
    }
}

/// A heartbeat has no channel and no payload.
fn check_heartbeat(channel: u16, payload: &[u8]) -> Result<(), DecodeError> {
    let kind = FrameKind::Heartbeat as u8;
    if !payload.is_empty() {
        return Err(DecodeError::UnknownFrame { kind, payload: Snippet::of(payload) });
    }
    if channel != 0 {
        return Err(DecodeError::UnexpectedFrame { kind, payload: Snippet::of(payload) });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
