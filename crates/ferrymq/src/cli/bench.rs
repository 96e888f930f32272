//! `ferrymq bench`: measures a Kafka or AMQP broker, this client's own ceiling, or a disk.
//!
//! **Invariant.** Results are JSON on stdout, with every setting that made them.

mod amqp;
mod amqp_null;
mod disk;
mod kafka;
mod latency;
mod load;
mod null;
mod pacer;
mod report;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure throughput and latency of a Kafka broker
    Kafka(Box<kafka::KafkaArgs>),
    /// Measure throughput and latency of an AMQP 0-9-1 broker
    Amqp(Box<amqp::AmqpArgs>),
    /// Confirm and deliver over AMQP 0-9-1 without storing anything: the ceiling of whatever client talks to it
    AmqpNullResponder(amqp_null::AmqpNullArgs),
    /// Answer Produce and Fetch without storing anything: the ceiling of whatever client talks to it
    NullResponder(null::NullArgs),
    /// Measure a bare write and fdatasync loop on a disk
    Disk(disk::DiskArgs),
}

pub(crate) fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Kafka(args) => super::on_one_thread(kafka::run(*args)),
        BenchCommand::Amqp(args) => super::on_one_thread(amqp::run(*args)),
        BenchCommand::AmqpNullResponder(args) => super::on_one_thread(amqp_null::run(args)),
        BenchCommand::NullResponder(args) => super::on_one_thread(null::run(args)),
        BenchCommand::Disk(args) => super::on_one_thread(disk::run(args)),
    }
}
