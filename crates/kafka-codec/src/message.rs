//! The traits all messages share.
//!
//! [`Wire`] is a struct or element in the middle of a message; [`Message`] is a whole request or response
//! with its API and versions; [`Request`] ties a request to its response.

use std::fmt::Debug;

use bytes::Bytes;

use crate::api::VersionRange;
use crate::api_key::ApiKey;
use crate::decode::{DecodeError, Decoder};
use crate::encode::{EncodeError, Encoder};
use crate::messages::{RequestKind, ResponseKind};
use crate::str_bytes::StrBytes;
use crate::uuid::Uuid;

/// A value with an encoding that depends on the message's version.
pub trait Wire: Sized {
    /// Least number of bytes a value takes, in any version of ours.
    const MIN_SIZE: usize;

    /// Reads one value.
    fn read(d: &mut Decoder<'_>, v: i16) -> Result<Self, DecodeError>;

    /// Writes one value.
    fn write(&self, e: &mut Encoder, v: i16) -> Result<(), EncodeError>;
}

/// A request or a response body.
///
/// One struct serves all versions. A field that a version does not have decodes to its default, and must
/// hold it when encoding unless Kafka's descriptor says that it may be dropped.
pub trait Message: Wire + Clone + Debug + Default + PartialEq {
    /// The API it belongs to.
    const API: ApiKey;
    /// The versions it can be read and written in.
    const VERSIONS: VersionRange;
    /// First version with compact lengths and tagged fields; `i16::MAX` when there is none.
    const FLEXIBLE_SINCE: i16;

    /// Reads the body. What is left in the decoder afterwards is the caller's to judge.
    fn decode(d: &mut Decoder<'_>, version: i16) -> Result<Self, DecodeError> {
        if !Self::VERSIONS.contains(version) {
            return Err(DecodeError::UnsupportedVersion { api: Self::API, version });
        }
        d.set_flexible(version >= Self::FLEXIBLE_SINCE);
        Self::read(d, version)
    }

    /// Writes the body.
    fn encode(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        if !Self::VERSIONS.contains(version) {
            return Err(EncodeError::UnsupportedVersion { api: Self::API, version });
        }
        e.set_flexible(version >= Self::FLEXIBLE_SINCE);
        self.write(e, version)
    }
}

/// A request, which knows its response.
pub trait Request: Message {
    /// What answers it.
    type Response: Message;
}

/// Anything that can be the body of a frame: a message, or one of the enums over them.
pub trait Body {
    /// The API it belongs to.
    fn api(&self) -> ApiKey;

    /// Writes the body.
    fn encode_body(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError>;
}

impl<M: Message> Body for M {
    fn api(&self) -> ApiKey {
        M::API
    }

    fn encode_body(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        self.encode(e, version)
    }
}

impl Body for RequestKind {
    fn api(&self) -> ApiKey {
        self.api()
    }

    fn encode_body(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        self.encode(e, version)
    }
}

impl Body for ResponseKind {
    fn api(&self) -> ApiKey {
        self.api()
    }

    fn encode_body(&self, e: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        self.encode(e, version)
    }
}

/// Elements of arrays that are not structs.
macro_rules! wire_element {
    ($($type:ty, $min:literal, $read:ident, |$e:ident, $value:ident| $write:expr;)*) => {$(
        impl Wire for $type {
            const MIN_SIZE: usize = $min;

            fn read(d: &mut Decoder<'_>, _v: i16) -> Result<Self, DecodeError> {
                d.$read()
            }

            fn write(&self, $e: &mut Encoder, _v: i16) -> Result<(), EncodeError> {
                let $value = self;
                $write
            }
        }
    )*};
}

wire_element! {
    i8, 1, i8, |e, value| { e.i8(*value); Ok(()) };
    i16, 2, i16, |e, value| { e.i16(*value); Ok(()) };
    i32, 4, i32, |e, value| { e.i32(*value); Ok(()) };
    i64, 8, i64, |e, value| { e.i64(*value); Ok(()) };
    Uuid, 16, uuid, |e, value| { e.uuid(*value); Ok(()) };
    StrBytes, 1, string, |e, value| e.string(value);
    Bytes, 1, bytes, |e, value| e.bytes(value);
}

/// Makes one of the enums over all messages from each of its messages.
macro_rules! from_messages {
    ($kind:ident, $($variant:ident($message:ident),)*) => {$(
        impl From<$message> for $kind {
            fn from(message: $message) -> Self {
                Self::$variant(message)
            }
        }
    )*};
}
pub(crate) use from_messages;

/// What every generated file uses.
pub(crate) mod prelude {
    pub(crate) use bytes::Bytes;

    pub(crate) use super::{Message, Request, Wire};
    pub(crate) use crate::api::VersionRange;
    pub(crate) use crate::api_key::ApiKey;
    pub(crate) use crate::decode::{DecodeError, Decoder, null_if};
    pub(crate) use crate::encode::{EncodeError, Encoder, in_version, non_null};
    pub(crate) use crate::records::Records;
    pub(crate) use crate::str_bytes::StrBytes;
    pub(crate) use crate::uuid::Uuid;
}
