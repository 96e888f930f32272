//! The options of `ferrymq bench amqp`, and which of them go together.
//!
//! **Invariants.** An option that a mode does not use is refused, not ignored. Every setting that makes a figure
//! is in the report.

use ferrymq_amqp_codec::{TableBuilder, ValueRef};
use serde_json::{Value, json};

use super::super::super::units::{parse_bytes, parse_pair};
use super::super::super::usage;

/// Messages of a run that names neither messages nor seconds.
const MESSAGES_DEFAULT: u64 = 500_000;
/// Bytes of the time that paced messages carry.
pub(super) const STAMP_BYTES: usize = 8;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// Publish only; the messages stay in the queues
    Publish,
    /// Consume what is in the queues
    Consume,
    /// Publish and consume at the same time
    Both,
    /// Publish everything, then consume it
    Backlog,
    /// Declare queues that nobody uses
    IdleQueues,
    /// Open connections that do nothing, and hold them until stdin ends
    IdleConnections,
}

impl Mode {
    /// As it is typed.
    pub(super) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("no mode is hidden");
        value.get_name().to_owned()
    }
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --rate, publish-to-deliver latency is counted from the time at which a message was due, not from \
    when it was sent. The client runs on one thread; compare with `ferrymq bench amqp-null-responder` to see its own \
    ceiling.\n\n\
    Examples:\n  \
    ferrymq bench amqp --messages 1000000 --window 20000 --ack-every 100\n  \
    ferrymq bench amqp --rate 5000 --seconds 10\n  \
    ferrymq bench amqp --queues 10 --fan-out --messages 100000\n  \
    ferrymq bench amqp --mode backlog --messages 5000000\n  \
    ferrymq bench amqp --transient --no-ack --no-confirm --message-bytes 16"
)]
pub(crate) struct AmqpArgs {
    #[arg(long, value_enum, default_value = "both")]
    pub(super) mode: Mode,
    /// The broker
    #[arg(long, default_value = "127.0.0.1:5672", value_name = "HOST:PORT")]
    pub(super) address: String,
    /// The queue, made anew unless it is only consumed; several are NAME-0, NAME-1 and so on
    #[arg(long, default_value = "bench", value_name = "NAME")]
    pub(super) queue: String,
    /// Queues, each with publishers and consumers of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) queues: u32,
    /// Publishers of each queue, each on a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) publishers: u32,
    /// Consumers of each queue, each on a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) consumers: u32,
    /// Publish to one fanout exchange that all queues are bound to: each gets every message
    #[arg(long)]
    pub(super) fan_out: bool,
    /// `x-queue-type` of the queues; unset: the broker's default
    #[arg(long, value_name = "TYPE")]
    pub(super) queue_type: Option<String>,
    /// An argument of the queues: a number, true, false or text; may be repeated
    #[arg(long = "queue-argument", value_parser = parse_pair, value_name = "NAME=VALUE")]
    pub(super) queue_arguments: Vec<(String, String)>,
    /// Messages to publish in all (500,000 by default, without --seconds), or to consume (by default what is there)
    #[arg(long)]
    pub(super) messages: Option<u64>,
    /// Stop publishing after so many seconds; what was published is still consumed
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) seconds: Option<u64>,
    /// Messages per second in all, whatever the broker keeps up with; 0 is as fast as possible
    #[arg(long, default_value_t = 0)]
    pub(super) rate: u64,
    /// Seconds at the beginning that latency is not counted in
    #[arg(long, default_value_t = 1)]
    pub(super) warmup_seconds: u64,
    /// Bytes of each message's body
    #[arg(long, default_value = "100", value_parser = parse_bytes, value_name = "BYTES")]
    pub(super) message_bytes: usize,
    /// Messages that may be unconfirmed, per publisher
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) window: u64,
    /// Acknowledge so many messages at a time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) ack_every: u64,
    /// Refuse each delivery once, one by one, before it is acknowledged
    #[arg(long, conflicts_with = "no_ack")]
    pub(super) nack: bool,
    /// Prefetch of each consumer; 0 is none
    #[arg(long, default_value_t = 0)]
    pub(super) prefetch: u16,
    /// Give the messages the priorities 0 to N-1 in turn
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8), value_name = "N")]
    pub(super) priorities: u8,
    /// Milliseconds after which each message expires
    #[arg(long, value_name = "MILLISECONDS")]
    pub(super) expiration: Option<u32>,
    /// After publishing, wait until the queues are empty and tell how long that took
    #[arg(long)]
    pub(super) until_empty: bool,
    /// Do not ask for confirms
    #[arg(long)]
    pub(super) no_confirm: bool,
    /// Let deliveries count as acknowledged when they are sent
    #[arg(long)]
    pub(super) no_ack: bool,
    /// Transient queues and transient messages instead of durable ones
    #[arg(long)]
    pub(super) transient: bool,
    /// Only ask whether the idle queues are there
    #[arg(long)]
    pub(super) passive: bool,
    /// Connections: those that idle, or those that declare idle queues
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) connections: u32,
    /// Channels of each idle connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=2047))]
    pub(super) channels: u16,
    /// Give up after so long without progress
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(super) patience_seconds: u64,
}

impl AmqpArgs {
    pub(super) fn publishes(&self) -> bool {
        matches!(self.mode, Mode::Publish | Mode::Both | Mode::Backlog)
    }

    pub(super) fn consumes(&self) -> bool {
        matches!(self.mode, Mode::Consume | Mode::Both | Mode::Backlog)
    }

    /// Messages that are published at most.
    pub(super) fn messages_to_publish(&self) -> u64 {
        self.messages.unwrap_or(if self.seconds.is_some() { u64::MAX } else { MESSAGES_DEFAULT })
    }

    /// Publishers in all: with a fan-out they belong to the exchange.
    pub(super) fn publishers_in_all(&self) -> u32 {
        if self.fan_out { self.publishers } else { self.queues.saturating_mul(self.publishers) }
    }

    /// The name of a queue.
    pub(super) fn queue_name(&self, index: u32) -> String {
        if self.queues == 1 { self.queue.clone() } else { format!("{}-{index}", self.queue) }
    }

    /// Refuses what makes no sense together.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let idles = matches!(self.mode, Mode::IdleQueues | Mode::IdleConnections);
        let paced = self.rate > 0;
        let publishing = [
            (self.seconds.is_some(), "--seconds"),
            (paced, "--rate"),
            (self.fan_out, "--fan-out"),
            (self.priorities > 0, "--priorities"),
            (self.expiration.is_some(), "--expiration"),
            (self.no_confirm, "--no-confirm"),
            (self.publishers > 1, "--publishers"),
        ];
        let consuming = [
            (self.consumers > 1, "--consumers"),
            (self.nack, "--nack"),
            (self.no_ack, "--no-ack"),
            (self.prefetch > 0, "--prefetch"),
        ];
        let queues = [
            (self.queue_type.is_some(), "--queue-type"),
            (!self.queue_arguments.is_empty(), "--queue-argument"),
            (self.transient && self.mode != Mode::Consume, "--transient"),
        ];
        let unused = |unless: bool, what: &[(bool, &'static str)]| {
            let found = what.iter().find(|(is_set, _)| *is_set && !unless);
            found.map_or(Ok(()), |(_, name)| Err(usage(format!("{name} has no use in this mode"))))
        };
        unused(self.publishes(), &publishing)?;
        unused(self.consumes(), &consuming)?;
        unused(self.publishes() || self.mode == Mode::IdleQueues, &queues)?;
        unused(!idles, &[(self.messages.is_some(), "--messages")])?;
        unused(self.mode == Mode::Publish, &[(self.until_empty, "--until-empty")])?;
        unused(self.mode == Mode::IdleQueues, &[(self.passive, "--passive")])?;
        unused(self.mode == Mode::IdleConnections, &[(self.channels > 1, "--channels")])?;
        unused(self.mode != Mode::IdleConnections, &[(self.queues > 1, "--queues")])?;
        if paced && self.message_bytes < STAMP_BYTES {
            return Err(usage("with a rate, messages need at least 8 bytes: each carries its time"));
        }
        if paced && self.rate < u64::from(self.publishers_in_all()) {
            return Err(usage("the rate is less than one message per publisher and second"));
        }
        if self.prefetch > 0 && !self.no_ack && u64::from(self.prefetch) < self.ack_every {
            return Err(usage("the prefetch is used up before --ack-every deliveries are acknowledged"));
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> Value {
        json!({
            "address": self.address, "queues": self.queues, "publishers": self.publishers,
            "consumers": self.consumers, "fan_out": self.fan_out, "queue_type": self.queue_type,
            "queue_arguments": self.queue_arguments, "messages": self.messages, "seconds": self.seconds,
            "rate": self.rate, "warmup_seconds": self.warmup_seconds, "message_bytes": self.message_bytes,
            "window": self.window, "ack_every": self.ack_every, "nack": self.nack,
            "prefetch": self.prefetch, "priorities": self.priorities, "expiration_ms": self.expiration,
            "until_empty": self.until_empty, "confirms": !self.no_confirm, "no_ack": self.no_ack,
            "durable": !self.transient, "passive": self.passive, "connections": self.connections,
            "channels": self.channels,
        })
    }

    /// The arguments that the queues are declared with.
    pub(super) fn queue_table(&self) -> anyhow::Result<TableBuilder> {
        let mut table = TableBuilder::new();
        if let Some(kind) = &self.queue_type {
            table.push(b"x-queue-type", ValueRef::LongString(kind.as_bytes()))?;
        }
        for (name, value) in &self.queue_arguments {
            table.push(name.as_bytes(), typed(value))?;
        }
        Ok(table)
    }
}

/// A value as people mean it.
fn typed(text: &str) -> ValueRef<'_> {
    match (text, text.parse::<i64>()) {
        ("true", _) => ValueRef::Bool(true),
        ("false", _) => ValueRef::Bool(false),
        (_, Ok(number)) => ValueRef::I64(number),
        (text, Err(_)) => ValueRef::LongString(text.as_bytes()),
    }
}

/// The part of `total` that falls to one of several.
pub(super) fn share(total: u64, one: u32, of: u32) -> u64 {
    let of = u64::from(of.max(1));
    total / of + u64::from(u64::from(one) < total % of)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        amqp: AmqpArgs,
    }

    fn parse(line: &str) -> AmqpArgs {
        Line::try_parse_from(std::iter::once("amqp").chain(line.split_whitespace())).unwrap().amqp
    }

    #[test]
    fn what_a_mode_does_not_use_is_refused() {
        for line in [
            "",
            "--queues 10 --fan-out --rate 5000 --seconds 3",
            "--mode consume --messages 5 --consumers 3",
            "--mode publish --until-empty --expiration 100",
            "--mode backlog --consumers 10 --nack",
            "--mode idle-queues --queues 1000 --passive",
            "--mode idle-connections --connections 5000 --channels 2",
            "--prefetch 100",
        ] {
            parse(line).check().unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "--mode consume --rate 10",
            "--mode publish --no-ack",
            "--until-empty",
            "--mode idle-queues --messages 5",
            "--mode idle-queues --channels 2",
            "--mode idle-connections --queues 2",
            "--passive",
            "--rate 5 --queues 6",
            "--rate 5 --message-bytes 7",
            "--prefetch 99",
        ] {
            assert!(parse(line).check().is_err(), "{line}");
        }
    }

    #[test]
    fn arguments_have_the_type_that_people_mean() {
        let args =
            parse("--queue-type quorum --queue-argument a=5 --queue-argument b=true --queue-argument c=x");
        let table = args.queue_table().unwrap();
        let found: Vec<_> = table.as_table().iter().map(|entry| (entry.name(), entry.value())).collect();
        let expected: [(&[u8], ValueRef<'_>); 4] = [
            (b"x-queue-type", ValueRef::LongString(b"quorum")),
            (b"a", ValueRef::I64(5)),
            (b"b", ValueRef::Bool(true)),
            (b"c", ValueRef::LongString(b"x")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn shares_add_up() {
        assert_eq!((0..3).map(|one| share(10, one, 3)).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(parse("--queues 3 --publishers 2").publishers_in_all(), 6);
        assert_eq!(parse("--queues 3 --publishers 2 --fan-out").publishers_in_all(), 2);
    }
}
