//! AMQP's reply codes: numbers, names and how far each of them reaches.
//!
//! Invariant: complete for AMQP 0-9-1 (section 1.1 of its reference), one row per code, in rising order.
//!
//! Deliberately absent: which failure of the broker becomes which code; that map belongs to the server.

use std::fmt;

/// Longest reply text in bytes: it travels as a short string.
pub const REPLY_TEXT_BYTES_MAX: usize = 255;

/// Whom an error ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Nobody: a success, or something told by `basic.return`.
    Nothing,
    /// The channel: answered with `channel.close` (a soft error).
    Channel,
    /// The connection: answered with `connection.close` (a hard error).
    Connection,
}

/// Declares the enum and its facts from one table: variant, code, name, scope.
macro_rules! reply_codes {
    ($($variant:ident $code:literal $name:literal $scope:ident: $doc:literal;)*) => {
        /// A reply code of AMQP 0-9-1.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ReplyCode {
            $(#[doc = $doc] $variant = $code,)*
        }

        impl ReplyCode {
            /// Every code, in rising order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code with this number, if the protocol has it.
            pub const fn from_code(code: u16) -> Option<Self> {
                Some(match code {
                    $($code => Self::$variant,)*
                    _ => return None,
                })
            }

            /// The name that RabbitMQ puts in front of reply texts, such as `NOT_FOUND`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Whom it ends.
            pub const fn scope(self) -> Scope {
                match self {
                    $(Self::$variant => Scope::$scope,)*
                }
            }
        }
    };
}

reply_codes! {
    Success 200 "SUCCESS" Nothing: "All went well.";
    ContentTooLarge 311 "CONTENT_TOO_LARGE" Channel: "The content is larger than what is accepted now.";
    NoRoute 312 "NO_ROUTE" Nothing: "A mandatory message was routed to no queue; told by `basic.return`.";
    NoConsumers 313 "NO_CONSUMERS" Nothing: "An immediate message found no consumer; told by `basic.return`.";
    ConnectionForced 320 "CONNECTION_FORCED" Connection: "An operator closed the connection.";
    InvalidPath 402 "INVALID_PATH" Connection: "An unknown virtual host.";
    AccessRefused 403 "ACCESS_REFUSED" Channel: "The user may not do that.";
    NotFound 404 "NOT_FOUND" Channel: "There is no such queue or exchange.";
    ResourceLocked 405 "RESOURCE_LOCKED" Channel: "Somebody else has it exclusively.";
    PreconditionFailed 406 "PRECONDITION_FAILED" Channel: "It is not as the request supposes.";
    FrameError 501 "FRAME_ERROR" Connection: "A frame cannot be decoded.";
    SyntaxError 502 "SYNTAX_ERROR" Connection: "A field holds what it may not hold.";
    CommandInvalid 503 "COMMAND_INVALID" Connection: "A method at a time when it is not allowed.";
    ChannelError 504 "CHANNEL_ERROR" Connection: "A channel that is not open, or open already.";
    UnexpectedFrame 505 "UNEXPECTED_FRAME" Connection: "A frame that was not its turn.";
    ResourceError 506 "RESOURCE_ERROR" Connection: "The server is out of something.";
    NotAllowed 530 "NOT_ALLOWED" Connection: "Against the rules of the server.";
    NotImplemented 540 "NOT_IMPLEMENTED" Connection: "The server does not have that.";
    InternalError 541 "INTERNAL_ERROR" Connection: "A mistake of the server.";
}

impl ReplyCode {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reply text that RabbitMQ would send: `NAME - explanation`, cut to 252 bytes and `...` when it is
    /// longer than [`REPLY_TEXT_BYTES_MAX`], never inside a character.
    pub fn text(self, explanation: impl fmt::Display) -> String {
        let mut text = format!("{} - {explanation}", self.name());
        if text.len() > REPLY_TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(REPLY_TEXT_BYTES_MAX - 3));
            text.push_str("...");
        }
        text
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways_and_rise() {
        for code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_code(code.code()), Some(*code));
        }
        assert!(ReplyCode::ALL.is_sorted_by(|a, b| a.code() < b.code()));
        assert_eq!(ReplyCode::from_code(500), None);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(ReplyCode::NotFound.text("no queue 'q'"), "NOT_FOUND - no queue 'q'");
        let long = ReplyCode::NotFound.text("ä".repeat(200));
        assert!(long.len() <= REPLY_TEXT_BYTES_MAX && long.ends_with("ä..."));
        let fits = ReplyCode::NotFound.text("x".repeat(255 - "NOT_FOUND - ".len()));
        assert_eq!(fits.len(), 255);
        assert!(fits.ends_with('x'));
    }
}
