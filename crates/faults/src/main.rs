//! `ferrymq-faults`: black-box fault tests of a broker process.
//!
//! It starts a server, lets Kafka and AMQP clients work on it, breaks things (kills, power cuts, failing syncs, full
//! disks, pauses, a database and the links to it), and holds what the clients were told against what is there at the end.
//!
//! In reading order: [`value`] and [`batch`] (what is written), [`client`] and [`ops`] (how), [`history`],
//! [`rules`] (what must hold), [`world`] (what threads share), [`producer`], [`reader`], [`churn`], [`commits`],
//! [`amqp`] and [`workload`] (who does what), [`server`], [`image`] and [`postgres`] (what is broken), [`stage`], [`scenario`] and [`bugs`] (when).
//!
//! Deliberately absent: the product's own client and engine; this must not share their mistakes.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

mod amqp;
mod batch;
mod bugs;
mod campaign;
mod churn;
mod cli;
mod client;
mod commits;
mod history;
mod image;
mod ops;
mod postgres;
mod producer;
mod reader;
mod report;
mod rules;
mod scenario;
mod server;
mod stage;
mod value;
mod workload;
mod world;

/// Says something to whoever runs this.
pub(crate) fn say(what: &str) {
    // Nobody to tell if telling fails.
    let _ = writeln!(std::io::stderr().lock(), "{what}");
}

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}
