//! Processes that tests on PostgreSQL start: a database, brokers.
//!
//! **Invariant.** They end with the test.
//!
//! Deliberately absent: anything that is shared between tests.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper that fails fails the test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that ends with the test.
pub(crate) struct Ending(pub(crate) Child);

impl Ending {
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // `scripts/postgres` stops its server when its input is closed; killing it would leave the server behind.
        if self.0.stdin.take().is_some() {
            let _ = self.0.wait();
        } else {
            self.kill();
        }
    }
}

/// A database; `None`: there is no PostgreSQL here, and the test is skipped.
pub(crate) fn database(directory: &Path, settings: &[&str]) -> Option<(Ending, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres");
    let mut command = Command::new(script);
    command.arg(directory).args(settings).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.trim().is_empty() {
        process.wait().unwrap();
        assert!(std::env::var("CI").as_deref() != Ok("true"), "PostgreSQL cannot be started");
        eprintln!("\n*** SKIPPED, NOTHING WAS TESTED: PostgreSQL cannot be started\n");
        return None;
    }
    Some((Ending(process), line.trim().to_owned()))
}

/// The program.
pub(crate) fn ferrymq(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrymq"));
    command.args(arguments);
    command
}
