//! The content header and the basic properties (AMQP 0-9-1 section 4.2.6).
//!
//! ```text
//! content header = class:u16, weight:u16 (0), body size:u64, properties
//! properties     = flags:u16, then the value of each property whose flag is set, highest flag first
//! ```
//!
//! Invariants:
//!
//! - [`Properties`] are the publisher's bytes, checked whole when they were read; a server stores and
//!   delivers them unchanged. Looking for one walks over those before it, a few nanoseconds.
//! - What changes them ([`BasicProperties`]) writes new bytes and keeps the rest as it was, the header
//!   table's bytes included.
//!
//! Deliberately absent: content of other classes than basic, and flag words after the first; nobody has
//! either. The one flag that stands for nothing is ignored, as RabbitMQ does.

use std::fmt;

use bytes::BytesMut;

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::error::{DecodeError, EncodeError};
use crate::method::basic;
use crate::table::Table;

/// A content header: what stands between a method with content and the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// Bytes of the body, as the peer declares them: any number up to 2^64 - 1.
    pub body_size_bytes: u64,
    /// The properties.
    pub properties: Properties<'a>,
}

impl<'a> ContentHeader<'a> {
    /// Bytes of a content header before the properties.
    pub const PREFIX_BYTES: usize = 12;

    /// Reads the payload of a header frame.
    ///
    /// # Errors
    /// [`DecodeError::ContentClass`], [`DecodeError::ContentWeight`] and those of [`Properties::parse`].
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (prefix, properties) =
            payload.split_first_chunk::<{ ContentHeader::PREFIX_BYTES }>().ok_or(DecodeError::Truncated)?;
        let [class @ .., w0, w1, a0, a1, a2, a3, a4, a5, a6, a7] = *prefix;
        match (u16::from_be_bytes(class), u16::from_be_bytes([w0, w1])) {
            (basic::CLASS, 0) => {}
            (basic::CLASS, weight) => return Err(DecodeError::ContentWeight { weight }),
            (class, _) => return Err(DecodeError::ContentClass { class }),
        }
        let body_size_bytes = u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        Ok(Self { body_size_bytes, properties: Properties::parse(properties)? })
    }
}

/// The basic properties as the publisher wrote them: flags and values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

/// A property, numbered from the highest flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Property {
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
}

impl Property {
    const fn flag(self) -> u16 {
        0x8000 >> self as u8
    }
}

/// All flags that stand for a property.
const FLAGS: u16 = 0xfffc;
/// The flag that says that another word of flags follows.
const CONTINUED: u16 = 1;
/// Properties of one octet.
const OCTETS: u16 = Property::DeliveryMode.flag() | Property::Priority.flag();

/// Walks over one value, whose flag is `flag`; checks a table only if `CHECK`.
#[inline(always)]
fn skip<const CHECK: bool>(d: &mut Decoder<'_>, flag: u16) -> Result<(), DecodeError> {
    if flag == Property::Headers.flag() {
        let table = d.longstr()?;
        if CHECK { Table::parse(table).map(drop) } else { Ok(()) }
    } else if flag & OCTETS != 0 {
        d.octet().map(drop)
    } else if flag == Property::Timestamp.flag() {
        d.longlong().map(drop)
    } else {
        d.shortstr().map(drop)
    }
}

/// The highest flag of `flags`, which is not 0.
#[inline(always)]
const fn highest(flags: u16) -> u16 {
    0x8000 >> flags.leading_zeros()
}

impl<'a> Properties<'a> {
    /// No property at all.
    pub const EMPTY: Properties<'static> = Properties(&[0, 0]);

    /// Checks what follows the body size in a content header, or what was stored of it.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::TrailingBytes`], [`DecodeError::PropertyFlags`] and, for
    /// the headers, those of [`Table::parse`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut d = Decoder::new(bytes);
        let flags = d.short()?;
        if flags & CONTINUED != 0 {
            return Err(DecodeError::PropertyFlags { flags });
        }
        let mut left = flags & FLAGS;
        while left != 0 {
            let flag = highest(left);
            skip::<true>(&mut d, flag)?;
            left ^= flag;
        }
        d.finish()?;
        Ok(Self(bytes))
    }

    /// The publisher's bytes.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The flags word.
    pub fn flags(&self) -> u16 {
        self.0.first_chunk().map_or(0, |flags| u16::from_be_bytes(*flags))
    }

    /// A cursor that stands on the value of `property`, if it is present.
    #[inline]
    fn find(&self, property: Property) -> Option<Decoder<'a>> {
        let mut d = Decoder::new(self.0);
        let flags = d.short().ok()?;
        let wanted = property.flag();
        if flags & wanted == 0 {
            return None;
        }
        let mut before = flags & !(wanted | (wanted - 1));
        while before != 0 {
            let flag = highest(before);
            skip::<false>(&mut d, flag).ok()?;
            before ^= flag;
        }
        Some(d)
    }

    #[inline]
    fn shortstr(&self, property: Property) -> Option<&'a [u8]> {
        self.find(property)?.shortstr().ok()
    }

    /// MIME type of the body.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::ContentType)
    }

    /// MIME encoding of the body.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::ContentEncoding)
    }

    /// The headers.
    pub fn headers(&self) -> Option<Table<'a>> {
        self.find(Property::Headers)?.longstr().ok().map(Table::trusted)
    }

    /// 2 for persistent, 1 for transient; any other number is a publisher's own.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.find(Property::DeliveryMode)?.octet().ok()
    }

    /// The priority: 0 to 9 by the specification, any number in fact.
    pub fn priority(&self) -> Option<u8> {
        self.find(Property::Priority)?.octet().ok()
    }

    /// What the application correlates by.
    pub fn correlation_id(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::CorrelationId)
    }

    /// The queue to answer to.
    pub fn reply_to(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::ReplyTo)
    }

    /// How long the message lives: milliseconds in decimal digits, if the publisher is honest.
    pub fn expiration(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::Expiration)
    }

    /// The application's id of the message.
    pub fn message_id(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::MessageId)
    }

    /// Seconds since 1970, if the publisher is honest.
    pub fn timestamp(&self) -> Option<u64> {
        self.find(Property::Timestamp)?.longlong().ok()
    }

    /// The application's type of the message.
    pub fn kind(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::Type)
    }

    /// The user who publishes; a server checks it.
    pub fn user_id(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::UserId)
    }

    /// The application that publishes.
    pub fn app_id(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::AppId)
    }

    /// Reserved by the specification; called `cluster-id` by clients.
    pub fn cluster_id(&self) -> Option<&'a [u8]> {
        self.shortstr(Property::ClusterId)
    }

    /// All of them, to change some and write them again.
    pub fn decode(&self) -> BasicProperties<'a> {
        BasicProperties {
            content_type: self.content_type(),
            content_encoding: self.content_encoding(),
            headers: self.headers(),
            delivery_mode: self.delivery_mode(),
            priority: self.priority(),
            correlation_id: self.correlation_id(),
            reply_to: self.reply_to(),
            expiration: self.expiration(),
            message_id: self.message_id(),
            timestamp: self.timestamp(),
            kind: self.kind(),
            user_id: self.user_id(),
            app_id: self.app_id(),
            cluster_id: self.cluster_id(),
        }
    }
}

impl Default for Properties<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decode().fmt(f)
    }
}

/// The basic properties one by one, to make or change them; `None` is absent.
///
/// Called a builder elsewhere: set fields, then [`encode`](Self::encode).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BasicProperties<'a> {
    /// MIME type of the body.
    pub content_type: Option<&'a [u8]>,
    /// MIME encoding of the body.
    pub content_encoding: Option<&'a [u8]>,
    /// The headers.
    pub headers: Option<Table<'a>>,
    /// 2 for persistent, 1 for transient.
    pub delivery_mode: Option<u8>,
    /// The priority.
    pub priority: Option<u8>,
    /// What the application correlates by.
    pub correlation_id: Option<&'a [u8]>,
    /// The queue to answer to.
    pub reply_to: Option<&'a [u8]>,
    /// How long the message lives: milliseconds in decimal digits.
    pub expiration: Option<&'a [u8]>,
    /// The application's id of the message.
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The application's type of the message: the property `type`.
    pub kind: Option<&'a [u8]>,
    /// The user who publishes.
    pub user_id: Option<&'a [u8]>,
    /// The application that publishes.
    pub app_id: Option<&'a [u8]>,
    /// Reserved by the specification.
    pub cluster_id: Option<&'a [u8]>,
}

impl BasicProperties<'_> {
    /// The flags word.
    pub const fn flags(&self) -> u16 {
        let mut flags = 0;
        let mut index = 0;
        let present = [
            self.content_type.is_some(),
            self.content_encoding.is_some(),
            self.headers.is_some(),
            self.delivery_mode.is_some(),
            self.priority.is_some(),
            self.correlation_id.is_some(),
            self.reply_to.is_some(),
            self.expiration.is_some(),
            self.message_id.is_some(),
            self.timestamp.is_some(),
            self.kind.is_some(),
            self.user_id.is_some(),
            self.app_id.is_some(),
            self.cluster_id.is_some(),
        ];
        while index < present.len() {
            if present[index] {
                flags |= 0x8000 >> index;
            }
            index += 1;
        }
        flags
    }

    /// Appends them to `out` as [`Properties::parse`] reads them.
    ///
    /// # Errors
    /// [`EncodeError`] for a string or table that is too long; `out` is then as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let before = out.len();
        self.write(&mut Encoder::new(out)).inspect_err(|_| out.truncate(before))
    }

    fn write(&self, e: &mut Encoder<'_>) -> Result<(), EncodeError> {
        e.short(self.flags())?;
        self.content_type.map_or(Ok(()), |value| e.shortstr(value))?;
        self.content_encoding.map_or(Ok(()), |value| e.shortstr(value))?;
        self.headers.map_or(Ok(()), |value| e.table(value))?;
        self.delivery_mode.map_or(Ok(()), |value| e.octet(value))?;
        self.priority.map_or(Ok(()), |value| e.octet(value))?;
        self.correlation_id.map_or(Ok(()), |value| e.shortstr(value))?;
        self.reply_to.map_or(Ok(()), |value| e.shortstr(value))?;
        self.expiration.map_or(Ok(()), |value| e.shortstr(value))?;
        self.message_id.map_or(Ok(()), |value| e.shortstr(value))?;
        self.timestamp.map_or(Ok(()), |value| e.longlong(value))?;
        self.kind.map_or(Ok(()), |value| e.shortstr(value))?;
        self.user_id.map_or(Ok(()), |value| e.shortstr(value))?;
        self.app_id.map_or(Ok(()), |value| e.shortstr(value))?;
        self.cluster_id.map_or(Ok(()), |value| e.shortstr(value))
    }
}

#[cfg(test)]
mod tests;
