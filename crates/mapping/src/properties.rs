//! The basic properties as headers of a record, and the bytes of tables.
//!
//! **Invariant.** A property is there as a header if and only if its flag is set.

use bytes::{Bytes, BytesMut};
use ferrymq_amqp_codec::{BasicProperties, Properties, Table};
use ferrymq_types::record::Header;

/// The flag that stands for nothing and is kept.
pub(crate) const UNUSED_FLAG: u16 = 0x0002;

/// Longest short string.
const SHORT_MAX: usize = 255;

/// The properties besides headers, in the order of their headers in a record.
pub(crate) const NAMES: [&str; 13] = [
    "amqp.content_type",
    "amqp.content_encoding",
    "amqp.delivery_mode",
    "amqp.priority",
    "amqp.correlation_id",
    "amqp.reply_to",
    "amqp.expiration",
    "amqp.message_id",
    "amqp.timestamp",
    "amqp.type",
    "amqp.user_id",
    "amqp.app_id",
    "amqp.cluster_id",
];

/// A header with a name of ours.
pub(crate) fn header(name: &'static str, value: Bytes) -> Header {
    Header { key: Bytes::from_static(name.as_bytes()), value: Some(value) }
}

/// A number in decimal digits.
pub(crate) fn digits(number: impl ToString) -> Bytes {
    Bytes::from(number.to_string().into_bytes())
}

/// A number of which these are the digits as [`digits`] writes them.
pub(crate) fn parse_digits<N: std::str::FromStr + ToString>(text: &[u8]) -> Option<N> {
    let number: N = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// Appends the properties that are there; strings are slices of `bytes`, which they were read from.
pub(crate) fn put(properties: Properties<'_>, bytes: &Bytes, headers: &mut Vec<Header>) {
    let all = properties.decode();
    let text = |value: Option<&[u8]>| value.map(|value| bytes.slice_ref(value));
    let values = [
        text(all.content_type),
        text(all.content_encoding),
        all.delivery_mode.map(digits),
        all.priority.map(digits),
        text(all.correlation_id),
        text(all.reply_to),
        text(all.expiration),
        text(all.message_id),
        all.timestamp.map(digits),
        text(all.kind),
        text(all.user_id),
        text(all.app_id),
        text(all.cluster_id),
    ];
    let there = NAMES.into_iter().zip(values).filter_map(|(name, value)| Some(header(name, value?)));
    headers.extend(there);
}

/// Takes a property from a header; `None` if it cannot have that value.
pub(crate) fn take<'a>(into: &mut BasicProperties<'a>, index: usize, value: &'a [u8]) -> Option<()> {
    match index {
        2 => into.delivery_mode = Some(parse_digits(value)?),
        3 => into.priority = Some(parse_digits(value)?),
        8 => into.timestamp = Some(parse_digits(value)?),
        _ if value.len() > SHORT_MAX => return None,
        0 => into.content_type = Some(value),
        1 => into.content_encoding = Some(value),
        4 => into.correlation_id = Some(value),
        5 => into.reply_to = Some(value),
        6 => into.expiration = Some(value),
        7 => into.message_id = Some(value),
        9 => into.kind = Some(value),
        10 => into.user_id = Some(value),
        11 => into.app_id = Some(value),
        12 => into.cluster_id = Some(value),
        _ => return None,
    }
    Some(())
}

/// The bytes of properties with these headers, if there are any; `None` if a table is not one.
pub(crate) fn encode<'a>(
    mut properties: BasicProperties<'a>,
    table: Option<&'a [u8]>,
    unused_flag: bool,
) -> Option<Bytes> {
    properties.headers = match table {
        Some(table) => Some(Table::parse(table).ok()?),
        None => None,
    };
    let mut out = BytesMut::new();
    properties.encode(&mut out).ok()?;
    if unused_flag && let Some(low) = out.get_mut(1) {
        *low |= UNUSED_FLAG.to_be_bytes()[1];
    }
    Some(out.freeze())
}

/// Appends an entry to a table. The name has at most 255 bytes, the body is what the tag says.
pub(crate) fn put_entry(table: &mut Vec<u8>, name: &[u8], tag: u8, body: &[u8]) {
    table.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    table.extend_from_slice(name);
    put_value(table, tag, body);
}

/// Appends a value to a table behind its name, or to an array.
pub(crate) fn put_value(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    if matches!(tag, b'S' | b'x' | b'F' | b'A') {
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    }
    out.extend_from_slice(body);
}
