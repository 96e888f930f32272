//! Deliveries, from the bytes of a consumer's connection.
//!
//! **Invariants.** A message is handed out when it is there whole, once, in the order of the wire. Nothing is
//! copied: bytes are looked at where they were read.

use ferrymq_amqp_codec::{ContentHeader, FrameKind, FrameReader, Method};

use super::args::STAMP_BYTES;
use super::link;

/// A message that is there whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    /// The number that the first eight bytes of the body make; 0 of a shorter body.
    pub(super) stamp: u64,
}

/// Where in a message the stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Between,
    Header(Delivery),
    /// So many bytes of the body are missing; whether some were there already.
    Body(Delivery, u64, bool),
}

/// The stream.
pub(super) struct Incoming {
    frames: FrameReader,
    at: At,
}

impl Incoming {
    pub(super) fn new(frames: FrameReader) -> Incoming {
        Incoming { frames, at: At::Between }
    }

    /// Hands out the messages that are whole in `input`; how many of its bytes are done with.
    pub(super) fn scan(
        &mut self,
        input: &[u8],
        mut take: impl FnMut(Delivery) -> anyhow::Result<()>,
    ) -> anyhow::Result<usize> {
        let mut done = 0;
        while let Some(frame) = self.frames.peek(&input[done..])? {
            done += frame.wire_bytes();
            self.at = match (frame.kind, self.at) {
                (FrameKind::Heartbeat, at) => at,
                (FrameKind::Method, At::Between) => match link::checked(frame.payload)? {
                    Method::BasicDeliver(head) => At::Header(Delivery {
                        tag: head.delivery_tag,
                        redelivered: head.redelivered,
                        stamp: 0,
                    }),
                    other => anyhow::bail!("the broker said {other:?}"),
                },
                (FrameKind::Header, At::Header(delivery)) => {
                    At::Body(delivery, ContentHeader::parse(frame.payload)?.body_size_bytes, false)
                }
                (FrameKind::Body, At::Body(mut delivery, left, begun)) => {
                    let stamp = frame.payload.first_chunk::<STAMP_BYTES>().filter(|_| !begun);
                    delivery.stamp = stamp.map_or(delivery.stamp, |stamp| u64::from_be_bytes(*stamp));
                    let size = frame.payload.len() as u64;
                    anyhow::ensure!(size <= left, "a body that is longer than its header said");
                    At::Body(delivery, left - size, true)
                }
                (kind, at) => anyhow::bail!("the broker sent a {kind:?} frame where {at:?} was"),
            };
            if let At::Body(delivery, 0, _) = self.at {
                self.at = At::Between;
                take(delivery)?;
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use ferrymq_amqp_codec::Properties;
    use ferrymq_amqp_codec::frame_writer::{put_message, put_method};
    use ferrymq_amqp_codec::method::{basic, channel};

    use super::*;

    const FRAME_MAX: u32 = 4096;

    fn message(out: &mut BytesMut, tag: u64, body: &[u8]) {
        let head = basic::Deliver { delivery_tag: tag, redelivered: tag == 2, ..Default::default() };
        put_message(out, 1, &head, Properties::EMPTY, body, FRAME_MAX).unwrap();
    }

    #[test]
    fn messages_come_whole_wherever_the_bytes_are_cut() {
        let mut wire = BytesMut::new();
        message(&mut wire, 1, &7u64.to_be_bytes());
        message(&mut wire, 2, b"");
        wire.extend_from_slice(&ferrymq_amqp_codec::frame::HEARTBEAT);
        message(&mut wire, 3, &[1; 10_000]);
        let expected = [(1, false, 7), (2, true, 0), (3, false, 0x0101_0101_0101_0101)];
        for cut in 0..wire.len() {
            let mut incoming = Incoming::new(FrameReader::new(FRAME_MAX));
            let mut found = Vec::new();
            let mut take = |one: Delivery| {
                found.push((one.tag, one.redelivered, one.stamp));
                Ok(())
            };
            let done = incoming.scan(&wire[..cut], &mut take).unwrap();
            let rest = incoming.scan(&wire[done..], &mut take).unwrap();
            assert_eq!((done + rest, &found[..]), (wire.len(), &expected[..]), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_delivery_ends_the_run() {
        let nothing = |_: Delivery| Ok(());
        let said = |wire: &[u8]| {
            let mut incoming = Incoming::new(FrameReader::new(FRAME_MAX));
            incoming.scan(wire, nothing).unwrap_err().to_string()
        };
        let mut wire = BytesMut::new();
        put_method(&mut wire, 1, &basic::Cancel { consumer_tag: b"c", nowait: true }).unwrap();
        assert!(said(&wire).contains("BasicCancel"));
        wire.clear();
        let close = channel::Close { reply_code: 404, reply_text: b"NOT_FOUND", ..Default::default() };
        put_method(&mut wire, 1, &close).unwrap();
        assert!(said(&wire).contains("NOT_FOUND"));
        wire.clear();
        message(&mut wire, 1, b"12345678");
        let body_begins = wire.len() - 8 - 8;
        assert!(said(&wire[body_begins..]).contains("Body"));
    }
}
