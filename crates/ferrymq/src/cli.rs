//! The command line: its shape, and what an error looks like.
//!
//! **Invariants.** Data goes to stdout, everything else to stderr. A closed pipe on stdout is a clean end. Exit
//! codes are 0 done, 1 failed, 2 wrong usage. The client's commands run on one thread.
//!
//! Deliberately absent: contexts and profiles; `--bootstrap` and `FERRYMQ_BOOTSTRAP` say where the broker is.

mod bench;
mod connect;
mod consume;
mod format;
mod group;
mod input;
mod manage;
mod out;
mod produce;
mod topic;
mod units;

use std::future::Future;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use ferrymq_kafka_client::ClientError;

use crate::serve;

/// One message broker for Kafka, RabbitMQ and HTTP clients.
#[derive(Debug, Parser)]
#[command(
    name = "ferrymq",
    version,
    after_help = "A first conversation with a broker:\n  \
        ferrymq serve --data-dir data\n  \
        ferrymq topic create orders --partitions 4\n  \
        echo hello | ferrymq produce orders\n  \
        ferrymq consume orders\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker
    Serve(Box<serve::ServeArgs>),
    /// Create, list, describe and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Send records: lines of stdin, or whole files
    Produce(produce::ProduceArgs),
    /// Read records and print them
    Consume(consume::ConsumeArgs),
    /// List, describe and move consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// List, create, delete and purge queues
    #[command(subcommand)]
    Queue(manage::QueueCommand),
    /// List, create and delete exchanges
    #[command(subcommand)]
    Exchange(manage::ExchangeCommand),
    /// List, create and delete bindings
    #[command(subcommand)]
    Binding(manage::BindingCommand),
    /// List, set and clear policies
    #[command(subcommand)]
    Policy(manage::PolicyCommand),
    /// List, create and delete virtual hosts
    #[command(subcommand)]
    Vhost(manage::VhostCommand),
    /// Measure a broker, this client, or a disk
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example: ferrymq completions bash > ~/.local/share/bash-completion/completions/ferrymq"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The user asked for something that makes no sense: exit code 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error of usage, for `?`.
fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// Parses the command line, does what it says, tells what went wrong.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args),
        Command::Topic(command) => on_one_thread(topic::run(command)),
        Command::Produce(args) => on_one_thread(produce::run(args)),
        Command::Consume(args) => on_one_thread(consume::run(args)),
        Command::Group(command) => on_one_thread(group::run(command)),
        Command::Queue(command) => on_one_thread(manage::queue(command)),
        Command::Exchange(command) => on_one_thread(manage::exchange(command)),
        Command::Binding(command) => on_one_thread(manage::binding(command)),
        Command::Policy(command) => on_one_thread(manage::policy(command)),
        Command::Vhost(command) => on_one_thread(manage::vhost(command)),
        Command::Bench(command) => bench::run(command),
        Command::Completions { shell } => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if out::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            out::note(format_args!("error: {error:#}"));
            let advice = error.downcast_ref::<ClientError>().and_then(ClientError::advice);
            if let Some(advice) = advice.map(|text| text.to_string()).or_else(|| manage::advice(&error)) {
                out::note(format_args!("help: {advice}"));
            }
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// Runs a client's command to its end.
fn on_one_thread(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ferrymq", &mut script);
    let mut out = out::Out::new();
    out.bytes(&script)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_readme_shows_parses() {
        for line in [
            "ferrymq topic create orders --partitions 4 --config retention.ms=1000 --if-not-exists",
            "ferrymq topic list --output json",
            "ferrymq produce orders --key-separator : --compression zstd --acks all --header a=b",
            "ferrymq consume orders --exit-at-end",
            "ferrymq consume orders --from @2026-01-01 --follow --count 3 --format %k=%v\\n",
            "ferrymq consume orders --from -5 --partition 1",
            "ferrymq group seek readers --topic orders --to beginning --bootstrap a:1,b:2",
            "ferrymq bench kafka --mode latency --rate 10000 --linger-ms 0 --seconds 5 --in-flight 5",
            "ferrymq bench amqp --messages 1000000 --window 20000 --ack-every 100",
            "ferrymq bench amqp --mode backlog --queue-argument x-max-priority=5 --priorities 5 --consumers 10",
            "ferrymq bench amqp-null-responder --listen 127.0.0.1:0",
            "ferrymq bench null-responder --listen 127.0.0.1:0",
            "ferrymq bench disk --dir data --rate 10000 --write-bytes 1k",
            "ferrymq queue create orders --type quorum --argument x-message-ttl=60000",
            "ferrymq queue list --vhost team --json",
            "ferrymq exchange create events --type topic",
            "ferrymq binding create events orders --routing-key order.#",
            "ferrymq policy set limits ^orders max-length=1000 overflow=reject-publish --priority -1",
            "ferrymq policy set limits ^orders --definition {} --operator",
            "ferrymq vhost create team --tag a --tag b",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
        assert!(Cli::try_parse_from(["ferrymq", "consume", "t", "--follow", "--exit-at-end"]).is_err());
    }
}
