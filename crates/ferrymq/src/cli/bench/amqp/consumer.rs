//! One consumer.
//!
//! **Invariants.** A message counts when it is there whole. Everything that counted is acknowledged in
//! the end, and the broker has seen that before the consumer is done. When each is refused once, it counts when it comes again.

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use ferrymq_amqp_codec::frame_writer::put_method;
use ferrymq_amqp_codec::method::basic;
use tokio::io::AsyncWriteExt as _;

use super::super::pacer::now_ns;
use super::args::AmqpArgs;
use super::incoming::{Delivery, Incoming};
use super::link::{self, Link};
use super::tally::{Shared, Tally};

/// A consumer that is connected.
pub(super) struct Consumer(Link);

impl Consumer {
    pub(super) async fn connect(args: &AmqpArgs) -> anyhow::Result<Consumer> {
        let mut link = Link::connect(&args.address).await?;
        if args.prefetch > 0 {
            link.ask(&basic::Qos { prefetch_count: args.prefetch, ..Default::default() }).await?;
        }
        Ok(Consumer(link))
    }

    /// Consumes until the queue is done; how many deliveries it refused.
    pub(super) async fn run(
        mut self,
        args: &AmqpArgs,
        queue: &str,
        tally: &Tally,
        shared: &Shared,
    ) -> anyhow::Result<u64> {
        let consume = basic::Consume { queue: queue.as_bytes(), no_ack: args.no_ack, ..Default::default() };
        self.0.ask(&consume).await.context("consuming")?;
        let mut incoming = Incoming::new(self.0.frames);
        let mut answers = Answers::new(args);
        let mut out = BytesMut::new();
        let mut done = tally.done();
        let (mut read, mut write) = self.0.stream.split();
        let input = &mut self.0.input;
        loop {
            let before = answers.counted;
            let wanted = tally.wanted();
            let (now, is_paced) = (now_ns(&shared.clock), args.rate > 0);
            let used = incoming.scan(input, |delivery| {
                // Sent ahead of what was asked for: it goes back to the queue unanswered.
                if answers.counted - before >= wanted {
                    return Ok(());
                }
                if is_paced && delivery.stamp > 0 && answers.counts(&delivery) {
                    shared.delivered.borrow_mut().record(now.saturating_sub(delivery.stamp));
                }
                answers.answer(&delivery, &mut out)
            })?;
            input.advance(used);
            shared.deliver(answers.counted - before);
            tally.consumed(answers.counted - before);
            let is_done = *done.borrow_and_update();
            if is_done {
                answers.flush(&mut out)?;
            }
            // Acks are small: the broker always takes them in the end.
            write.write_all_buf(&mut out).await?;
            if is_done {
                break;
            }
            tokio::select! {
                more = link::more(&mut read, input) => more.context("consuming")?,
                _ = done.changed() => {}
            }
        }
        let refused = answers.refused;
        self.0.close().await.context("consuming")?;
        Ok(refused)
    }
}

/// What a consumer says to deliveries.
struct Answers {
    no_ack: bool,
    refuses_once: bool,
    every: u64,
    counted: u64,
    refused: u64,
    /// The newest delivery, and how many up to it were not acknowledged.
    tag: u64,
    owed: u64,
}

impl Answers {
    fn new(args: &AmqpArgs) -> Answers {
        let (no_ack, refuses_once, every) = (args.no_ack, args.nack, args.ack_every);
        Answers { no_ack, refuses_once, every, counted: 0, refused: 0, tag: 0, owed: 0 }
    }

    /// Whether a delivery is one that counts.
    fn counts(&self, delivery: &Delivery) -> bool {
        !self.refuses_once || delivery.redelivered
    }

    fn answer(&mut self, delivery: &Delivery, out: &mut BytesMut) -> anyhow::Result<()> {
        let delivery_tag = delivery.tag;
        if !self.counts(delivery) {
            self.refused += 1;
            put_method(out, 1, &basic::Nack { delivery_tag, multiple: false, requeue: true })?;
            return Ok(());
        }
        self.counted += 1;
        if self.refuses_once {
            // One by one: an ack of several would take along what is refused.
            put_method(out, 1, &basic::Ack { delivery_tag, multiple: false })?;
        } else if !self.no_ack {
            self.tag = delivery_tag;
            self.owed += 1;
            if self.owed >= self.every {
                self.flush(out)?;
            }
        }
        Ok(())
    }

    /// Acknowledges what is owed.
    fn flush(&mut self, out: &mut BytesMut) -> anyhow::Result<()> {
        if self.owed > 0 {
            put_method(out, 1, &basic::Ack { delivery_tag: self.tag, multiple: true })?;
            self.owed = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ferrymq_amqp_codec::{FrameReader, Method};

    use super::*;

    fn said(refuses_once: bool, every: u64, deliveries: &[(u64, bool)]) -> Vec<String> {
        let mut answers =
            Answers { no_ack: false, refuses_once, every, counted: 0, refused: 0, tag: 0, owed: 0 };
        let mut out = BytesMut::new();
        for &(tag, redelivered) in deliveries {
            answers.answer(&Delivery { tag, redelivered, stamp: 0 }, &mut out).unwrap();
        }
        answers.flush(&mut out).unwrap();
        answers.flush(&mut out).unwrap();
        let frames = FrameReader::new(0);
        let mut found = Vec::new();
        while let Some(frame) = frames.next(&mut out).unwrap() {
            found.push(match Method::parse(&frame.payload).unwrap() {
                Method::BasicAck(ack) => {
                    format!("ack {}{}", ack.delivery_tag, if ack.multiple { "*" } else { "" })
                }
                Method::BasicNack(nack) => format!("nack {} {}", nack.delivery_tag, nack.requeue),
                other => panic!("{other:?}"),
            });
        }
        found
    }

    #[test]
    fn acks_cover_everything() {
        let five: Vec<_> = (1..=5).map(|tag| (tag, false)).collect();
        assert_eq!(said(false, 2, &five), ["ack 2*", "ack 4*", "ack 5*"]);
        assert_eq!(said(false, 5, &five), ["ack 5*"]);
    }

    #[test]
    fn each_is_refused_once() {
        assert_eq!(
            said(true, 2, &[(1, false), (2, false), (3, true)]),
            ["nack 1 true", "nack 2 true", "ack 3"]
        );
    }
}
