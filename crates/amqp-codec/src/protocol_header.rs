//! The eight bytes before the first frame (AMQP 0-9-1 section 4.2.2).
//!
//! Deliberately absent: AMQP 1.0 and its SASL layer; they get the answer of any other wrong header.

/// What a client of AMQP 0-9-1 sends first, and what a server answers to anything else before it closes.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// The header of AMQP 0-9, which RabbitMQ takes for 0-9-1.
const PROTOCOL_HEADER_0_9: [u8; 8] = *b"AMQP\x01\x01\0\x09";

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolHeader {
    /// Our protocol. The first frame follows after [`PROTOCOL_HEADER`]`.len()` bytes.
    Accepted,
    /// Something else: answer [`PROTOCOL_HEADER`] and close.
    Wrong,
    /// Fewer than eight bytes, which may still become our header.
    Incomplete,
}

impl ProtocolHeader {
    /// Looks at what a connection begins with. A wrong byte is told at once, without waiting for eight.
    #[must_use]
    pub fn of(input: &[u8]) -> Self {
        let seen = input.get(..8).unwrap_or(input);
        if !(PROTOCOL_HEADER.starts_with(seen) || PROTOCOL_HEADER_0_9.starts_with(seen)) {
            Self::Wrong
        } else if seen.len() < 8 {
            Self::Incomplete
        } else {
            Self::Accepted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(ProtocolHeader::of(b"AMQP\0\0\x09\x01"), ProtocolHeader::Accepted);
        assert_eq!(ProtocolHeader::of(b"AMQP\0\0\x09\x01\x01\0\0"), ProtocolHeader::Accepted);
        assert_eq!(ProtocolHeader::of(b"AMQP\x01\x01\0\x09"), ProtocolHeader::Accepted);
        for len in 0..8 {
            assert_eq!(ProtocolHeader::of(&PROTOCOL_HEADER[..len]), ProtocolHeader::Incomplete);
        }
        for wrong in [b"AMQP\0\x01\0\0", b"AMQP\x03\x01\0\0", b"AMQP\x01\x01\x08\0", b"AMQP\0\0\x09\x00"] {
            assert_eq!(ProtocolHeader::of(wrong), ProtocolHeader::Wrong);
        }
        assert_eq!(ProtocolHeader::of(b"G"), ProtocolHeader::Wrong);
        assert_eq!(ProtocolHeader::of(&[0x16, 3, 1]), ProtocolHeader::Wrong);
    }
}
