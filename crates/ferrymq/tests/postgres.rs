//! `ferrymq serve --store postgres://..` as its users run it: Kafka and AMQP clients, kills of the broker and of the
//! database, and what is refused.
//!
//! Deliberately absent: load while the kills happen; `crates/engine-postgres/tests/faults.rs` has that.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a helper that fails fails the test")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};

use support::{Ending, database, ferrymq};

/// A broker with the addresses of its doors.
struct Broker {
    process: Ending,
    kafka: String,
    amqp: String,
}

impl Broker {
    fn start(url: &str) -> Broker {
        let free = ["--kafka-listen", "127.0.0.1:0", "--amqp-listen", "127.0.0.1:0", "--http-listen", "off"];
        let mut command = ferrymq(&["serve"]);
        command.args(free).env("FERRYMQ_STORE", url).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut addresses = Vec::new();
        let mut said = String::new();
        while addresses.len() < 2 {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended: {said}");
            if line.contains("clients connect here") {
                let at = line.find("127.0.0.1:").unwrap();
                addresses.push(line[at..].split([' ', ',', '\n']).next().unwrap().to_owned());
            }
            said.push_str(&line);
        }
        ferrymq_runtime::spawn_thread("stderr", move || {
            let _ = std::io::copy(&mut log, &mut std::io::sink());
        })
        .unwrap();
        let amqp = addresses.pop().unwrap();
        Broker { process: Ending(process), kafka: addresses.pop().unwrap(), amqp }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = ferrymq(arguments);
        command.env("FERRYMQ_BOOTSTRAP", &self.kafka);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output
    }

    fn produce(&self, from: u32) {
        let lines: String = (from..from + 1_000).map(|number| format!("line {number}\n")).collect();
        self.run(&["produce", "orders"], &lines);
    }

    fn holds(&self, count: u32) {
        let output = self.run(&["consume", "orders", "--exit-at-end"], "");
        let expected: String = (0..count).map(|number| format!("line {number}\n")).collect();
        assert!(String::from_utf8_lossy(&output.stdout) == expected, "{count} lines, in order, each once");
    }
}

#[test]
fn clients_lose_nothing_when_the_broker_or_the_database_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let Some((mut server, url)) = database(directory.path(), &[]) else { return };
    let mut broker = Broker::start(&url);
    broker.run(&["topic", "create", "orders", "--partitions", "1"], "");
    broker.produce(0);
    broker.process.kill();
    let broker = Broker::start(&url);
    broker.holds(1_000);
    broker.produce(1_000);
    // The database dies without a word, and comes back.
    let pid = std::fs::read_to_string(directory.path().join("data/postmaster.pid")).unwrap();
    let killed = Command::new("kill").args(["-KILL", pid.lines().next().unwrap().trim()]).status().unwrap();
    assert!(killed.success());
    server.0.wait().unwrap();
    let Some((_server, _)) = database(directory.path(), &[]) else { return };
    broker.produce(2_000);
    broker.holds(3_000);
    let line = ["bench", "amqp", "--address", &broker.amqp, "--messages", "2000", "--message-bytes", "100"];
    broker.run(&line, "");
}

#[test]
fn a_database_that_cannot_be_trusted_is_refused_with_what_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_server, url)) = database(directory.path(), &["-c", "fsync=off"]) else { return };
    let output = ferrymq(&["serve", "--store", &url, "--kafka-listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("put \"fsync = on\" into postgresql.conf"), "{said}");
}
