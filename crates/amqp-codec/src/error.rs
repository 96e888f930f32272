//! Why bytes are not AMQP, and why something cannot become AMQP.
//!
//! Invariant: every [`DecodeError`] ends the connection, because after it nobody knows what the peer meant.
//! Errors are small, own nothing on the heap and carry at most sixteen bytes of what was received.
//!
//! Deliberately absent: errors of meaning (no such queue, not allowed); they belong to the server.

use std::fmt;

use crate::method::MethodId;
use crate::reply_code::ReplyCode;

/// Why bytes are not AMQP 0-9-1.
///
/// Codes and texts are RabbitMQ's where RabbitMQ answers at all; where it only drops the connection
/// (unknown methods, field tables that do not parse) they are the specification's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A frame announces more payload than the negotiated size allows.
    FrameTooLarge {
        /// The type octet of the frame.
        kind: u8,
        /// Bytes of payload announced.
        size_bytes: u32,
        /// Bytes of payload a frame should have at most: the negotiated size less 8.
        size_bytes_max: u32,
    },
    /// The octet after the payload is not the frame-end octet.
    FrameEnd {
        /// The type octet of the frame.
        kind: u8,
        /// What stands there.
        octet: u8,
        /// The payload before it.
        payload: Snippet,
    },
    /// A frame of unknown type, a heartbeat with a payload, or a method frame too short for its two ids.
    UnknownFrame {
        /// The type octet of the frame.
        kind: u8,
        /// Its payload.
        payload: Snippet,
    },
    /// A frame where it cannot be: a heartbeat on a channel.
    UnexpectedFrame {
        /// The type octet of the frame.
        kind: u8,
        /// Its payload.
        payload: Snippet,
    },
    /// A content header of another class than basic.
    ContentClass {
        /// The class.
        class: u16,
    },
    /// A content header with a weight, which has to be 0.
    ContentWeight {
        /// The weight.
        weight: u16,
    },
    /// A method that AMQP 0-9-1 with RabbitMQ's extensions does not have.
    UnknownMethod {
        /// Its ids.
        id: MethodId,
    },
    /// The payload ends inside a field.
    Truncated,
    /// Bytes are left after the last field.
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A field table or array holds a value of unknown type.
    UnknownFieldType {
        /// The type octet.
        tag: u8,
    },
    /// Inside a field table or array, something is longer than what holds it.
    FieldLength,
    /// Field tables or arrays are nested deeper than [`NESTING_MAX`](crate::table::NESTING_MAX).
    NestingTooDeep,
    /// The property flags go on in a second word, but no property is there.
    PropertyFlags {
        /// The first word.
        flags: u16,
    },
}

impl DecodeError {
    /// The reply code for `connection.close`.
    pub const fn reply_code(&self) -> ReplyCode {
        match self {
            Self::FrameTooLarge { .. }
            | Self::FrameEnd { .. }
            | Self::UnknownFrame { .. }
            | Self::Truncated
            | Self::TrailingBytes { .. } => ReplyCode::FrameError,
            Self::UnexpectedFrame { .. } | Self::ContentClass { .. } | Self::ContentWeight { .. } => {
                ReplyCode::UnexpectedFrame
            }
            Self::UnknownMethod { .. } => ReplyCode::NotImplemented,
            Self::UnknownFieldType { .. }
            | Self::FieldLength
            | Self::NestingTooDeep
            | Self::PropertyFlags { .. } => ReplyCode::SyntaxError,
        }
    }

    /// The reply text for `connection.close`, of at most 255 bytes.
    pub fn reply_text(&self) -> String {
        self.reply_code().text(self)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameTooLarge { kind, size_bytes, size_bytes_max } => {
                write!(f, "type {kind}, all octets = <<>>: {{frame_too_large,{size_bytes},{size_bytes_max}}}")
            }
            Self::FrameEnd { kind, octet, payload } => {
                write!(f, "type {kind}, {payload}: {{invalid_frame_end_marker,{octet}}}")
            }
            Self::UnknownFrame { kind, payload } => write!(f, "type {kind}, {payload}: unknown_frame"),
            Self::UnexpectedFrame { kind, payload } => write!(f, "type {kind}, {payload}"),
            Self::ContentClass { class } => {
                write!(f, "expected content header for class 60, got one for class {class} instead")
            }
            Self::ContentWeight { weight } => {
                write!(f, "expected content header for class 60, got one of weight {weight} instead")
            }
            Self::UnknownMethod { id } => {
                write!(f, "unknown method: class {}, method {}", id.class, id.method)
            }
            Self::Truncated => f.write_str("cannot decode: the payload ends inside a field"),
            Self::TrailingBytes { count } => {
                write!(f, "cannot decode: bytes after the last field: {count}")
            }
            Self::UnknownFieldType { tag } => write!(f, "field table: unknown type of value: {tag}"),
            Self::FieldLength => f.write_str("field table: a value is longer than what holds it"),
            Self::NestingTooDeep => f.write_str("field table: nested too deeply"),
            Self::PropertyFlags { flags } => write!(f, "unknown property flags: {flags:#06x}"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why something cannot be put on the wire. What was written of it is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// A short string of more than 255 bytes.
    ShortStringTooLong {
        /// Its bytes.
        size_bytes: usize,
    },
    /// A long string, field table or array of 4 GiB or more.
    FieldTooLong {
        /// Its bytes.
        size_bytes: usize,
    },
    /// A method or content header does not fit into one frame.
    FrameTooLarge {
        /// Bytes of payload.
        size_bytes: usize,
        /// Bytes of payload a frame may have.
        size_bytes_max: usize,
    },
    /// Field tables or arrays would be nested deeper than [`NESTING_MAX`](crate::table::NESTING_MAX).
    NestingTooDeep,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortStringTooLong { size_bytes } => {
                write!(f, "a short string has more than 255 bytes: {size_bytes}")
            }
            Self::FieldTooLong { size_bytes } => write!(f, "a field has too many bytes: {size_bytes}"),
            Self::FrameTooLarge { size_bytes, size_bytes_max } => {
                write!(f, "a frame would have {size_bytes} bytes of payload of at most {size_bytes_max}")
            }
            Self::NestingTooDeep => f.write_str("field tables are nested too deeply"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// The first bytes of a payload, for the text of an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Snippet {
    bytes: [u8; Self::BYTES_MAX],
    len: u8,
    whole: bool,
}

impl Snippet {
    /// How many bytes of a payload are kept.
    pub const BYTES_MAX: usize = 16;

    /// Keeps the beginning of `payload`.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let mut bytes = [0; Self::BYTES_MAX];
        let mut len = 0;
        for (kept, byte) in bytes.iter_mut().zip(payload) {
            *kept = *byte;
            len += 1;
        }
        Self { bytes, len, whole: payload.len() <= Self::BYTES_MAX }
    }

    /// The bytes kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// As RabbitMQ prints it: `first 16 octets = <<"text">>`, or numbers when a byte is not printable.
impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.whole { "all octets = <<" } else { "first 16 octets = <<" })?;
        let bytes = self.as_bytes();
        if !bytes.is_empty() && bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            write!(f, "\"{}\"", bytes.escape_ascii())?;
        } else {
            for (index, byte) in bytes.iter().enumerate() {
                write!(f, "{}{byte}", if index == 0 { "" } else { "," })?;
            }
        }
        f.write_str(">>")
    }
}

impl fmt::Debug for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: DecodeError, code: u16, text: &str) {
        assert_eq!(error.reply_code().code(), code);
        assert_eq!(error.reply_text(), text);
    }

    #[test]
    fn texts_are_rabbitmqs() {
        check(
            DecodeError::FrameTooLarge { kind: 3, size_bytes: 131_073, size_bytes_max: 131_064 },
            501,
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}",
        );
        let payload = Snippet::of(b"GET / HTTP/1.1 and more");
        check(
            DecodeError::FrameEnd { kind: 1, octet: 0, payload },
            501,
            "FRAME_ERROR - type 1, first 16 octets = <<\"GET / HTTP/1.1 a\">>: {invalid_frame_end_marker,0}",
        );
        let payload = Snippet::of(&[0, 10, 255]);
        check(
            DecodeError::UnknownFrame { kind: 9, payload },
            501,
            "FRAME_ERROR - type 9, all octets = <<0,10,255>>: unknown_frame",
        );
        let payload = Snippet::of(&[]);
        check(
            DecodeError::UnexpectedFrame { kind: 8, payload },
            505,
            "UNEXPECTED_FRAME - type 8, all octets = <<>>",
        );
    }

    #[test]
    fn an_error_is_small() {
        assert!(size_of::<DecodeError>() <= 24);
    }
}
