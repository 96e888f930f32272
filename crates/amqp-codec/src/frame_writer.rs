//! Appends frames to a buffer.
//!
//! Invariants:
//!
//! - One pass: nothing is built elsewhere and copied. Room for a message is reserved once.
//! - All or nothing: after an error the buffer is as before.
//! - A message is method, header and body frames one after the other; no body frame is empty, and a message
//!   without a body has none (RabbitMQ does the same).
//!
//! Deliberately absent: sockets, and batching; write many messages into one buffer, then send it.

use bytes::{BufMut as _, BytesMut};

use crate::encode::Encoder;
use crate::error::EncodeError;
use crate::frame::{FRAME_END, FRAME_HEAD_BYTES, FRAME_MAX_MIN, FRAME_OVERHEAD_BYTES, FrameKind, HEARTBEAT};
use crate::method::{Method, WireMethod, basic};
use crate::properties::{ContentHeader, Properties};

type Result<T> = std::result::Result<T, EncodeError>;

/// Room for the longest method that goes with content: its ids, fixed fields and three short strings.
const METHOD_BYTES_MAX: usize = 4 + 16 + 3 * 256;

/// The seven bytes before a payload of `size_bytes`, for a caller that sends the payload from elsewhere and
/// [`FRAME_END`] after it.
#[inline]
#[must_use]
pub const fn frame_head(kind: FrameKind, channel: u16, size_bytes: u32) -> [u8; FRAME_HEAD_BYTES] {
    let [c, d] = channel.to_be_bytes();
    let [e, f, g, h] = size_bytes.to_be_bytes();
    [kind as u8, c, d, e, f, g, h]
}

/// The largest payload in bytes of a frame of `frame_max` bytes; 0 is no limit, as in `connection.tune`.
#[inline]
#[must_use]
pub const fn payload_bytes_max(frame_max: u32) -> usize {
    let frame_max = match frame_max {
        0 => u32::MAX,
        1..FRAME_MAX_MIN => FRAME_MAX_MIN,
        _ => frame_max,
    };
    frame_max as usize - FRAME_OVERHEAD_BYTES
}

/// Appends a frame whose payload `write` appends.
#[inline(always)]
fn put_frame(
    out: &mut BytesMut,
    kind: FrameKind,
    channel: u16,
    write: impl FnOnce(&mut BytesMut) -> Result<()>,
) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&frame_head(kind, channel, 0));
    let written = write(out).and_then(|()| {
        let size_bytes = out.len() - start - FRAME_HEAD_BYTES;
        u32::try_from(size_bytes).map_err(|_| EncodeError::FieldTooLong { size_bytes })
    });
    match written {
        Ok(size_bytes) => {
            out[start + 3..start + FRAME_HEAD_BYTES].copy_from_slice(&size_bytes.to_be_bytes());
            out.put_u8(FRAME_END);
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

#[inline(always)]
fn put_fields<'a, M: WireMethod<'a>>(out: &mut BytesMut, method: &M) -> Result<()> {
    let mut e = Encoder::new(out);
    e.long(M::ID.key())?;
    method.write(&mut e)
}

/// Appends a method frame.
///
/// The frame may be longer than the peer takes if the method holds long strings or tables; only
/// `connection.start` and declarations with large tables get near the least size two peers can agree on.
///
/// # Errors
/// [`EncodeError`] for a field without an encoding.
#[inline]
pub fn put_method<'a, M: WireMethod<'a>>(out: &mut BytesMut, channel: u16, method: &M) -> Result<()> {
    put_frame(out, FrameKind::Method, channel, |out| put_fields(out, method))
}

/// As [`put_method`], for a method of any kind.
///
/// # Errors
/// As [`put_method`].
pub fn put_any_method(out: &mut BytesMut, channel: u16, method: &Method<'_>) -> Result<()> {
    put_frame(out, FrameKind::Method, channel, |out| {
        let mut e = Encoder::new(out);
        e.long(method.id().key())?;
        method.write(&mut e)
    })
}

/// Appends a content header frame.
///
/// # Errors
/// [`EncodeError::FrameTooLarge`] if the properties do not fit into a frame of `frame_max` bytes: content
/// headers cannot be split.
pub fn put_content_header(
    out: &mut BytesMut,
    channel: u16,
    body_size_bytes: u64,
    properties: Properties<'_>,
    frame_max: u32,
) -> Result<()> {
    let properties = properties.as_bytes();
    let size_bytes = ContentHeader::PREFIX_BYTES + properties.len();
    let size_bytes_max = payload_bytes_max(frame_max);
    if size_bytes > size_bytes_max {
        return Err(EncodeError::FrameTooLarge { size_bytes, size_bytes_max });
    }
    let mut head = [0; FRAME_HEAD_BYTES + ContentHeader::PREFIX_BYTES];
    let (frame, prefix) = head.split_at_mut(FRAME_HEAD_BYTES);
    let size = u32::try_from(size_bytes).unwrap_or(u32::MAX);
    frame.copy_from_slice(&frame_head(FrameKind::Header, channel, size));
    prefix[..2].copy_from_slice(&basic::CLASS.to_be_bytes());
    prefix[4..].copy_from_slice(&body_size_bytes.to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(properties);
    out.put_u8(FRAME_END);
    Ok(())
}

/// Appends `body` as frames of at most `frame_max` bytes; nothing for an empty body.
pub fn put_body(out: &mut BytesMut, channel: u16, body: &[u8], frame_max: u32) {
    for part in body.chunks(payload_bytes_max(frame_max)) {
        let size = u32::try_from(part.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&frame_head(FrameKind::Body, channel, size));
        out.extend_from_slice(part);
        out.put_u8(FRAME_END);
    }
}

/// Appends a whole message: `method` (deliver, get-ok, return, publish), content header and body frames.
///
/// # Errors
/// [`EncodeError::ShortStringTooLong`] for a name, [`EncodeError::FrameTooLarge`] for properties that do not
/// fit into a frame of `frame_max` bytes; `out` is then as before.
#[inline]
pub fn put_message<'a, M: WireMethod<'a>>(
    out: &mut BytesMut,
    channel: u16,
    method: &M,
    properties: Properties<'_>,
    body: &[u8],
    frame_max: u32,
) -> Result<()> {
    let start = out.len();
    let frames = body.len().div_ceil(payload_bytes_max(frame_max)) + 2;
    out.reserve(METHOD_BYTES_MAX + properties.as_bytes().len() + body.len() + frames * FRAME_OVERHEAD_BYTES);
    put_method(out, channel, method)?;
    let body_size_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    if let Err(error) = put_content_header(out, channel, body_size_bytes, properties, frame_max) {
        out.truncate(start);
        return Err(error);
    }
    put_body(out, channel, body, frame_max);
    Ok(())
}

/// Appends a heartbeat.
pub fn put_heartbeat(out: &mut BytesMut) {
    out.extend_from_slice(&HEARTBEAT);
}

#[cfg(test)]
mod tests;
