//! One header's value: a type and bytes in AMQP, bytes that a reader understands in Kafka.
//!
//! **Invariant.** [`from_text`] takes exactly what [`to_text`] makes: a value has one form.

use std::fmt::Display;
use std::str::FromStr;

use bytes::Bytes;

use crate::properties::{digits, parse_digits};

/// The type that a value without a tag has.
pub(crate) fn implied(value: Option<&[u8]>) -> u8 {
    match value {
        None => b'V',
        Some(value) if std::str::from_utf8(value).is_ok() => b'S',
        Some(_) => b'x',
    }
}

/// The value of a header of this type and these bytes on the wire, slices of `from`; whether it is as on the wire
/// although its type has a text.
pub(crate) fn to_text(tag: u8, body: &[u8], from: &Bytes) -> (Option<Bytes>, bool) {
    let text = match (tag, body) {
        (b'V', _) => return (None, false),
        (b't', [0]) => Some(Bytes::from_static(b"false")),
        (b't', [1]) => Some(Bytes::from_static(b"true")),
        (b'b', [a]) => Some(digits(a.cast_signed())),
        (b'B', [a]) => Some(digits(a)),
        (b's', &[a, b]) => Some(digits(i16::from_be_bytes([a, b]))),
        (b'u', &[a, b]) => Some(digits(u16::from_be_bytes([a, b]))),
        (b'I', &[a, b, c, d]) => Some(digits(i32::from_be_bytes([a, b, c, d]))),
        (b'i', &[a, b, c, d]) => Some(digits(u32::from_be_bytes([a, b, c, d]))),
        (b'l' | b'L', &[a, b, c, d, e, f, g, h]) => {
            Some(digits(i64::from_be_bytes([a, b, c, d, e, f, g, h])))
        }
        (b'T', &[a, b, c, d, e, f, g, h]) => Some(digits(u64::from_be_bytes([a, b, c, d, e, f, g, h]))),
        (b'f', &[a, b, c, d]) => float(f32::from_be_bytes([a, b, c, d]), f32::to_bits),
        (b'd', &[a, b, c, d, e, f, g, h]) => {
            float(f64::from_be_bytes([a, b, c, d, e, f, g, h]), f64::to_bits)
        }
        _ => None,
    };
    let raw = text.is_none() && matches!(tag, b't' | b'f' | b'd');
    (Some(text.unwrap_or_else(|| from.slice_ref(body))), raw)
}

/// The shortest digits that stand for this very float; not every NaN has some.
fn float<F: FromStr + Display + std::fmt::Debug + Copy, B: PartialEq>(
    value: F,
    bits: fn(F) -> B,
) -> Option<Bytes> {
    let text = format!("{value:?}");
    let same = text.parse().is_ok_and(|again: F| bits(again) == bits(value));
    same.then(|| Bytes::from(text))
}

/// The bytes on the wire of a header of this type; `None` if it is not what [`to_text`] makes.
pub(crate) fn from_text(tag: u8, raw: bool, value: Option<&Bytes>) -> Option<Bytes> {
    let body = match (tag, value) {
        (b'V', None) => return (!raw).then(Bytes::new),
        (_, None) | (b'V', Some(_)) => return None,
        (b'S' | b'x' | b'A' | b'F' | b'D', Some(value)) => value.clone(),
        (b't' | b'f' | b'd', Some(value)) if raw => value.clone(),
        (b't', Some(value)) if value == "true" => Bytes::from_static(&[1]),
        (b't', Some(value)) if value == "false" => Bytes::from_static(&[0]),
        (b'b', Some(value)) => number(value, i8::to_be_bytes)?,
        (b'B', Some(value)) => number(value, u8::to_be_bytes)?,
        (b's', Some(value)) => number(value, i16::to_be_bytes)?,
        (b'u', Some(value)) => number(value, u16::to_be_bytes)?,
        (b'I', Some(value)) => number(value, i32::to_be_bytes)?,
        (b'i', Some(value)) => number(value, u32::to_be_bytes)?,
        (b'l' | b'L', Some(value)) => number(value, i64::to_be_bytes)?,
        (b'T', Some(value)) => number(value, u64::to_be_bytes)?,
        (b'f', Some(value)) => Bytes::copy_from_slice(&parse::<f32>(value)?.to_be_bytes()),
        (b'd', Some(value)) => Bytes::copy_from_slice(&parse::<f64>(value)?.to_be_bytes()),
        _ => return None,
    };
    // What has the wrong length for its type would end the table; what has another text is not of ours.
    let fits = match tag {
        b't' => body.len() == 1,
        b'f' => body.len() == 4,
        b'd' => body.len() == 8,
        b'D' => body.len() == 5,
        _ => true,
    };
    (fits && to_text(tag, &body, &body) == (value.cloned(), raw)).then_some(body)
}

fn parse<N: FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn number<N: FromStr + ToString, const BYTES: usize>(
    text: &[u8],
    to_bytes: fn(N) -> [u8; BYTES],
) -> Option<Bytes> {
    parse_digits(text).map(|number| Bytes::copy_from_slice(&to_bytes(number)))
}
