//! Primitive fields of the groups' records: integers big-endian, lengths as varints.
//!
//! **Invariants.** Reading never panics and never allocates from a declared length: a length is covered by
//! bytes that are there, a count by at least one byte per element.
//!
//! Deliberately absent: what the fields mean; see `record`.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::record::RecordDecodeError;

pub(super) type Decoded<T> = Result<T, RecordDecodeError>;

const CUT_SHORT: RecordDecodeError = RecordDecodeError::Malformed("cut short");

pub(super) fn put_length(out: &mut BytesMut, length: usize) {
    let mut rest = length;
    while rest >= 0x80 {
        out.put_u8(u8::try_from(rest & 0x7f).expect("seven bits fit a byte") | 0x80);
        rest >>= 7;
    }
    out.put_u8(u8::try_from(rest).expect("seven bits fit a byte"));
}

pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.put_slice(bytes);
}

pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// A text or nothing: a presence byte, then the text.
pub(super) fn put_text_option(out: &mut BytesMut, text: Option<&str>) {
    match text {
        None => out.put_u8(0),
        Some(text) => {
            out.put_u8(1);
            put_text(out, text);
        }
    }
}

pub(super) fn get_u8(from: &mut Bytes) -> Decoded<u8> {
    from.try_get_u8().map_err(|_| CUT_SHORT)
}

pub(super) fn get_u32(from: &mut Bytes) -> Decoded<u32> {
    from.try_get_u32().map_err(|_| CUT_SHORT)
}

pub(super) fn get_i32(from: &mut Bytes) -> Decoded<i32> {
    from.try_get_i32().map_err(|_| CUT_SHORT)
}

pub(super) fn get_i64(from: &mut Bytes) -> Decoded<i64> {
    from.try_get_i64().map_err(|_| CUT_SHORT)
}

pub(super) fn get_length(from: &mut Bytes) -> Decoded<usize> {
    let mut value = 0usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = get_u8(from)?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // Each element and each byte that is counted takes at least one byte.
            return if value <= from.len() { Ok(value) } else { Err(CUT_SHORT) };
        }
    }
    Err(RecordDecodeError::Malformed("length too long"))
}

pub(super) fn get_bytes(from: &mut Bytes) -> Decoded<Bytes> {
    let length = get_length(from)?;
    Ok(from.split_to(length))
}

pub(super) fn get_text(from: &mut Bytes) -> Decoded<Arc<str>> {
    let bytes = get_bytes(from)?;
    std::str::from_utf8(&bytes).map(Arc::from).map_err(|_| RecordDecodeError::Malformed("text is not UTF-8"))
}

pub(super) fn get_text_option(from: &mut Bytes) -> Decoded<Option<Arc<str>>> {
    if get_presence(from)? { get_text(from).map(Some) } else { Ok(None) }
}

pub(super) fn get_presence(from: &mut Bytes) -> Decoded<bool> {
    match get_u8(from)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(RecordDecodeError::Malformed("presence is neither 0 nor 1")),
    }
}

pub(super) fn finish(from: &Bytes) -> Decoded<()> {
    if from.is_empty() { Ok(()) } else { Err(RecordDecodeError::Malformed("bytes left over")) }
}
